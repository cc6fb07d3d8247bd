//! The bill of materials: SPDX 2.3, JSON.

use serde_json::{Value, json};

use crate::packages::Package;

/// Returns the bill of materials of an image: its packages, and where they come from.
/// `time` is when its content was made, in seconds since 1970.
pub fn spdx(name: &str, version: &str, commit: &str, time: u64, packages: &[Package]) -> Value {
    let created = i64::try_from(time)
        .ok()
        .and_then(|time| jiff::Timestamp::from_second(time).ok())
        .unwrap_or_default();
    let mut elements = vec![json!({
        "SPDXID": "SPDXRef-image",
        "name": name,
        "versionInfo": version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    })];
    elements.extend(packages.iter().map(describe));
    let relationships: Vec<Value> = std::iter::once(json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-image",
    }))
    .chain(packages.iter().map(|package| {
        json!({
            "spdxElementId": "SPDXRef-image",
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": id(package),
        })
    }))
    .collect();
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("{name}-{version}"),
        // Unique for the content, as the specification asks; nothing lies there.
        "documentNamespace": format!("https://bistable.invalid/spdx/{name}-{version}-{commit}"),
        "creationInfo": {
            "created": created.to_string(),
            "creators": [format!("Tool: bistable-image-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": elements,
        "relationships": relationships,
    })
}

fn describe(package: &Package) -> Value {
    let (source, source_version) = package.source();
    json!({
        "SPDXID": id(package),
        "name": package.name,
        "versionInfo": package.version,
        "supplier": "Organization: Debian",
        "downloadLocation": package.uri,
        "filesAnalyzed": false,
        "sourceInfo": format!("built from {source} {source_version}"),
        "checksums": [{ "algorithm": "SHA256", "checksumValue": package.sha256 }],
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": format!(
                "pkg:deb/debian/{}@{}?arch={}",
                package.name, percent(&package.version), package.architecture
            ),
        }],
    })
}

/// Returns an identifier of the alphabet that SPDX allows: letters, digits, dots and dashes.
fn id(package: &Package) -> String {
    let name: String = package
        .name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    format!("SPDXRef-package-{name}-{}", package.architecture)
}

/// Encodes what a package URL may not hold as it is.
fn percent(version: &str) -> String {
    version.replace('+', "%2B").replace(':', "%3A")
}
