//! Exactly which packages a tree is made of.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One package file of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// The source package, with its version in parentheses when that differs.
    pub source: String,
    pub uri: String,
    /// Of the `.deb` file, in hexadecimal.
    pub sha256: String,
    pub size: u64,
}

impl Package {
    /// The name of the package's file, as mirrors and apt spell it.
    pub fn file_name(&self) -> String {
        format!(
            "{}_{}_{}.deb",
            self.name,
            self.version.replace(':', "%3a"),
            self.architecture
        )
    }

    /// The name and version of the source package that this was built from.
    pub fn source(&self) -> (&str, &str) {
        match self.source.split_once(" (") {
            Some((name, version)) => (name, version.trim_end_matches(')')),
            None => (&self.source, &self.version),
        }
    }
}

/// The packages that a request came down to. The same lock gives the same tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    pub packages: Vec<Package>,
}

impl Lock {
    /// Returns a name for what the packages hold, whatever mirror they come from.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for package in &self.packages {
            digest.update(package.name.as_bytes());
            digest.update([0]);
            digest.update(package.sha256.as_bytes());
            digest.update([0]);
        }
        hex::encode(digest.finalize())
    }
}
