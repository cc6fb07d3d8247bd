//! A recording: a disk, what was done to it, and what it was done for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::judge::Expected;

/// The disk before.
const IMAGE: &str = "before.raw";
/// What was done to it.
const LOG: &str = "writes.log";
const PHASES: &str = "phases.json";
/// The files of a recording that take room.
pub const LARGE: [&str; 2] = [IMAGE, LOG];

/// A recording in a folder.
#[derive(Clone, Debug)]
pub struct Recording {
    folder: PathBuf,
    /// What the node did, in its order.
    pub phases: Vec<Phase>,
}

/// A part of a recording.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Phase {
    /// What the node did, to be read behind "power cut while".
    pub name: String,
    /// The entry of the log that it began with.
    pub start: u64,
    /// What holds of the disk from then on.
    pub expected: Expected,
}

impl Recording {
    /// Begins a recording in `folder`.
    pub fn begin(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
            phases: Vec::new(),
        }
    }

    /// Opens the recording that was saved in `folder`.
    ///
    /// # Errors
    ///
    /// Fails when there is none.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(PHASES);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let phases = serde_json::from_slice(&text)
            .with_context(|| format!("cannot understand {}", path.display()))?;
        Ok(Self {
            folder: folder.into(),
            phases,
        })
    }

    /// Returns the file with the disk as it was before.
    pub fn image(&self) -> PathBuf {
        self.folder.join(IMAGE)
    }

    /// Returns the file with what was done to it.
    pub fn log(&self) -> PathBuf {
        self.folder.join(LOG)
    }

    /// Says that from now on, as far as the log tells when that is, the node does `name`.
    ///
    /// # Errors
    ///
    /// Fails when the log cannot be read.
    pub fn phase(&mut self, name: &str, expected: &Expected) -> Result<()> {
        let start = match self.phases.last() {
            None => 0,
            Some(_) => super::write_log::count(&self.log())?,
        };
        self.phases.push(Phase {
            name: name.into(),
            start,
            expected: expected.clone(),
        });
        Ok(())
    }

    /// Keeps what the disk and the log do not tell.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn save(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.phases)?;
        let path = self.folder.join(PHASES);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
