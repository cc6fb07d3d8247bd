//! The releases that a repository has.

use partition_layout::Version;
use release::limits::MAX_RELEASE_BYTES;
use release::{BadDocument, Channel, Release, release_target, version_of_target};

use super::trusted::{LoadError, Trusted};

/// A version cannot be that of the release that is to be published.
#[derive(Debug, thiserror::Error)]
pub enum TakenError {
    /// The version has another content.
    #[error(
        "version {version} was published with other content; a version is published once, so give the image a new one"
    )]
    Other { version: Version },
    /// An equal version is there.
    #[error("version {version} is the same as {existing}, which was published already")]
    Equal { version: Version, existing: Version },
    /// Its release file is missing or altered.
    #[error("version {version} was published already, and its release file cannot be read")]
    Load { version: Version, source: LoadError },
    /// Its release file is broken.
    #[error("version {version} was published already, and its release file is broken")]
    Broken {
        version: Version,
        source: BadDocument,
    },
}

/// Returns the release as it was published before, if it was; refuses to give
/// a version another content. Packs are other ways to the same content.
pub(crate) fn published_before(
    current: Option<&Trusted>,
    release: &Release,
) -> Result<Option<Release>, TakenError> {
    let version = &release.version;
    let Some(current) = current else {
        return Ok(None);
    };
    let existing = current.target_names().into_iter();
    let mut existing = existing.filter_map(version_of_target);
    let Some(existing) = existing.find(|existing| existing == version) else {
        return Ok(None);
    };
    let version = version.clone();
    if existing.as_str() != version.as_str() {
        return Err(TakenError::Equal { version, existing });
    }
    let bytes = current.read_target(&release_target(&version), MAX_RELEASE_BYTES);
    let before = match bytes {
        Ok(bytes) => Release::parse(&bytes),
        Err(source) => return Err(TakenError::Load { version, source }),
    };
    match before {
        Ok(before) if without_packs(&before) == without_packs(release) => Ok(Some(before)),
        Ok(_) => Err(TakenError::Other { version }),
        Err(source) => Err(TakenError::Broken { version, source }),
    }
}

/// Returns the releases that a release gets patches from, the newest first: the
/// last `count` of the channel before it, and those that it had patches from.
pub(crate) fn bases(
    current: Option<&Trusted>,
    channel: &Channel,
    release: &Release,
    before: Option<&Release>,
    count: usize,
) -> Vec<Release> {
    let Some(current) = current else {
        return Vec::new();
    };
    let older = channel.releases.iter();
    let older = older
        .filter(|version| **version < release.version)
        .take(count);
    let mut bases: Vec<Release> = older.filter_map(|version| read(current, version)).collect();
    if let Some(before) = before
        && !(before.patches.is_empty() && before.uki_patches.is_empty())
    {
        let mut versions: Vec<Version> = current
            .target_names()
            .into_iter()
            .filter_map(version_of_target)
            .collect();
        versions.sort_by(|one, other| other.cmp(one));
        let others = versions.iter().filter_map(|version| read(current, version));
        bases.extend(others.filter(|base| {
            let root = before.patches.iter().any(|it| it.from == base.root_hash);
            let uki = base.blobs.uki.sha256;
            root || before.uki_patches.iter().any(|it| it.from == uki)
        }));
    }
    bases
}

/// Returns a release of the repository. A patch spares nodes some bytes; for
/// the lack of what it is made from no release stays unpublished.
fn read(current: &Trusted, version: &Version) -> Option<Release> {
    let bytes = current.read_target(&release_target(version), MAX_RELEASE_BYTES);
    let release = bytes.ok().and_then(|bytes| Release::parse(&bytes).ok());
    if release.is_none() {
        tracing::warn!(%version, "no patch from a release whose file is missing or broken");
    }
    release
}

fn without_packs(release: &Release) -> Release {
    let mut release = release.clone();
    release.blobs.packed = None;
    release.patches.clear();
    release.uki_patches.clear();
    release
}
