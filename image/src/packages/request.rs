//! Which packages are asked for, and where they may come from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A package mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub uri: String,
    pub suites: Vec<String>,
    pub components: Vec<String>,
    /// The keys that its index must be signed with.
    pub signed_by: PathBuf,
    /// How old the index may grow, in days, although it says that it expires sooner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_for_days: Option<u32>,
    /// Whether packages come from here only if they are pinned to it.
    #[serde(default)]
    pub only_pinned: bool,
}

/// Packages that come from one suite, whatever versions others have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    pub packages: Vec<String>,
    pub suite: String,
    /// Why; shown to whoever reads the build's log.
    pub reason: String,
}

/// A set of packages to find, with all that they depend on. Recommendations are not followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request<'a> {
    /// As Debian spells it: `amd64`.
    pub architecture: &'a str,
    pub sources: Vec<&'a Source>,
    pub pins: &'a [Pin],
    pub packages: &'a [String],
}

impl Request<'_> {
    /// Returns a name for the request: equal requests have equal names.
    pub fn digest(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        hex::encode(Sha256::digest(&text))
    }

    /// Returns the mirrors in the form of `sources.list(5)`, deb822 style.
    pub(super) fn sources_text(&self) -> String {
        let mut text = String::new();
        for source in &self.sources {
            text += &format!(
                "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\nArchitectures: {}\nSigned-By: {}\n",
                source.uri,
                source.suites.join(" "),
                source.components.join(" "),
                self.architecture,
                source.signed_by.display(),
            );
            if let Some(days) = source.valid_for_days {
                text += &format!("Valid-Until-Min: {}\n", u64::from(days) * 86_400);
            }
            text.push('\n');
        }
        text
    }

    /// Returns the pins in the form of `apt_preferences(5)`.
    pub(super) fn preferences_text(&self) -> String {
        let mut text = String::new();
        for suite in self
            .sources
            .iter()
            .filter(|source| source.only_pinned)
            .flat_map(|source| &source.suites)
        {
            // Never a candidate.
            text += &format!("Package: *\nPin: release a={suite}\nPin-Priority: -1\n\n");
        }
        for pin in self.pins {
            // Beats every other version, yet never downgrades by force.
            text += &format!(
                "Package: {}\nPin: release a={}\nPin-Priority: 990\n\n",
                pin.packages.join(" "),
                pin.suite
            );
        }
        text
    }
}
