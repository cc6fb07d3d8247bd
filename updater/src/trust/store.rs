//! What the node remembers of metadata that it has trusted.
//!
//! `tough` writes its files in place, and takes a torn one for none: a power
//! cut would make it forget which versions it saw, and with them its defence
//! against replayed metadata. So it works on a copy, which is kept, file by
//! file and synced, when all of it was found sound.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tough::schema::{Root, Signed};

use crate::ports::ReleasesError;

const ROOT: &str = "root.json";
const TIME: &str = "latest_known_time.json";
/// Everything that is kept. A newer timestamp vouches for the others, so it
/// comes after them.
const FILES: [&str; 5] = [
    ROOT,
    "targets.json",
    "snapshot.json",
    "timestamp.json",
    TIME,
];
/// The digest of the root of trust under which [`ROOT`] was reached.
const ORIGIN: &str = "root-of-trust";
const SCRATCH: &str = "work";

#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

/// A copy of the store to work on; it is removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: PathBuf,
}

impl Store {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Returns a fresh copy of what is kept.
    pub(super) fn scratch(&self) -> Result<Scratch, ReleasesError> {
        let scratch = Scratch {
            folder: self.folder.join(SCRATCH),
        };
        let made = remove_tree(&scratch.folder).and_then(|()| {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&scratch.folder)?;
            for name in FILES {
                if let Some(bytes) = read(&self.folder.join(name))? {
                    fs::write(scratch.folder.join(name), bytes)?;
                }
            }
            Ok(())
        });
        made.map_err(|source| self.failed("copy the trusted metadata in", source))?;
        Ok(scratch)
    }

    /// Refuses a root that is older than one seen before, or another of the
    /// same version: somebody with keys that were given up since has made a
    /// branch of his own.
    ///
    /// `tough` starts at the image's root of trust each time, and so it should,
    /// as that one cannot be tampered with. What was seen counts only under the
    /// same root of trust: an image with another one has the last word.
    pub(super) fn check_root(
        &self,
        root_of_trust: &[u8],
        root: &Signed<Root>,
    ) -> Result<(), String> {
        let origin = read(&self.folder.join(ORIGIN)).ok().flatten();
        if origin.as_deref() != Some(digest(root_of_trust).as_bytes()) {
            return Ok(());
        }
        // A file that is damaged says nothing; it is written anew.
        let seen = read(&self.folder.join(ROOT)).ok().flatten();
        let Some(seen) = seen.and_then(|bytes| serde_json::from_slice::<Signed<Root>>(&bytes).ok())
        else {
            return Ok(());
        };
        let (seen, found) = (seen.signed, &root.signed);
        if found.version < seen.version {
            return Err(format!(
                "its newest root is version {}, but version {} was seen before",
                found.version, seen.version
            ));
        }
        if found.version == seen.version && *found != seen {
            return Err(format!(
                "it has another root of version {} than before",
                seen.version
            ));
        }
        Ok(())
    }

    /// Keeps what `scratch` holds. On return it has reached the disk.
    pub(super) fn keep(
        &self,
        scratch: &Scratch,
        root_of_trust: &[u8],
    ) -> Result<(), ReleasesError> {
        let kept = || {
            let mut changed = self.replace(ORIGIN, digest(root_of_trust).as_bytes())?;
            for name in FILES {
                if let Some(bytes) = read(&scratch.folder.join(name))? {
                    changed |= self.replace(name, &bytes)?;
                }
            }
            if changed {
                File::open(&self.folder)?.sync_all()
            } else {
                Ok(())
            }
        };
        kept().map_err(|source| self.failed("keep the trusted metadata in", source))
    }

    /// Replaces a file, and returns whether its content is new.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        let path = self.folder.join(name);
        if read(&path)?.as_deref() == Some(bytes) {
            return Ok(false);
        }
        let new = self.folder.join(format!("{name}.new"));
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        Ok(true)
    }

    fn failed(&self, doing: &str, source: io::Error) -> ReleasesError {
        let doing = format!("{doing} {}", self.folder.display());
        ReleasesError::Local {
            doing,
            source: source.into(),
        }
    }
}

impl Scratch {
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the latest time that `tough` has seen.
    pub(super) fn latest_known_time(&self) -> Option<Timestamp> {
        let bytes = read(&self.folder.join(TIME)).ok().flatten()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Makes `tough` take the time as it is.
    pub(super) fn forget_time(&self) -> io::Result<()> {
        fs::remove_file(self.folder.join(TIME))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is removed before the next one is made.
        drop(remove_tree(&self.folder));
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
