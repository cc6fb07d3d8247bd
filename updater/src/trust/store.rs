//! What is remembered of metadata that was trusted: a file per role.
//!
//! Each is kept as soon as its role is found sound, before the next is asked
//! for: a repository that then fails cannot bring an older one after all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use release::limits::MAX_TUF_TARGETS_BYTES;

use super::memory::LATEST_TIME;
use super::refresh::RefreshError;
use super::remote::encode;
use crate::host::durable;

/// The folder of the trusted metadata.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// The files that stay. All others that end in `.json` are delegated roles'.
const OURS: [&str; 5] = [
    "root.json",
    "timestamp.json",
    "snapshot.json",
    "targets.json",
    LATEST_TIME,
];

/// Returns the name of the file of a role, whatever is in the role's.
pub(super) fn file_of(role: &str) -> String {
    format!("{}.json", encode(role))
}

/// Returns whether a file is none of a delegated role's.
pub(super) fn is_ours(file: &str) -> bool {
    OURS.contains(&file)
}

impl Store {
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Makes `root` the newest root that is trusted.
    pub fn begin(&self, root: &[u8]) -> Result<(), RefreshError> {
        self.keep("root.json", root)
    }

    /// Returns a file, if there is one. Whether it is whole is for others to say.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, RefreshError> {
        match durable::read(&self.folder.join(name), MAX_TUF_TARGETS_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(None),
            result => result.map_err(|source| self.failed("read", name, source)),
        }
    }

    /// Keeps a file. On return it has reached the disk.
    pub(super) fn keep(&self, name: &str, bytes: &[u8]) -> Result<(), RefreshError> {
        durable::replace(&self.folder.join(name), bytes)
            .map_err(|source| self.failed("keep", name, source))
    }

    /// Forgets a file. On return it has gone from the disk.
    pub(super) fn forget(&self, name: &str) -> Result<(), RefreshError> {
        durable::remove(&self.folder.join(name))
            .map_err(|source| self.failed("remove", name, source))
    }

    /// Forgets every delegated role. They are kept from one question to the next
    /// only: over the years a publisher may have any number of them.
    pub(super) fn forget_delegated(&self) -> Result<(), RefreshError> {
        let listing = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            listing => listing.map_err(|source| self.failed("list", "", source))?,
        };
        for entry in listing {
            let name = entry
                .map_err(|source| self.failed("list", "", source))?
                .file_name();
            if let Some(name) = name.to_str()
                && name.ends_with(".json")
                && !is_ours(name)
            {
                self.forget(name)?;
            }
        }
        Ok(())
    }

    fn failed(&self, doing: &str, name: &str, source: io::Error) -> RefreshError {
        let doing = format!("{doing} {}", self.folder.join(name).display());
        RefreshError::Local { doing, source }
    }
}
