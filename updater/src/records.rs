//! The daemon's memory across boots: small files under `/var/lib/bistable`.
//!
//! None of them says what a slot is: partition labels and boot entries do.
//! They say *why*, and which images failed. A file that cannot be read or
//! parsed is reported and taken for absent, so that a damaged one cannot stop
//! updates. Nothing is written over one that could not be *read*.

use std::fmt;
use std::io;

use jiff::Timestamp;
use partition_layout::{RootHash, Slot, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::history;
pub use crate::history::{Happened, HistoryLine};
use crate::node::Way;
use crate::ports::{Record, Records};
use crate::refusal::Chain;

/// How many failed images are remembered; the oldest is forgotten first.
const BARRED_IMAGES: usize = 64;
/// How many boots are kept of those that reached userspace; the trials of one
/// release are ten at most.
const BOOTS: usize = 32;
/// How many journal lines a rollback keeps, and how long each may be: what a
/// person reads, in a file that fits a page or two.
const ROLLBACK_LINES: usize = 20;
const ROLLBACK_LINE_BYTES: usize = 400;

/// A trial that was armed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The boot in which it was armed.
    pub boot_id: String,
    pub armed_at: Timestamp,
    pub slot: Slot,
    pub version: Version,
    pub root_hash: RootHash,
    pub tries: u32,
    pub way: Way,
    /// The boot of the gate's verdict that was lying there, so that an old
    /// verdict is not taken for this trial's.
    #[serde(default)]
    pub older_verdict: Option<String>,
    /// The dumps of panics that were lying there.
    #[serde(default)]
    pub older_dumps: Vec<String>,
}

/// The release that was good last, as it was when it had come up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastGood {
    /// The boot in which it had come up.
    pub boot_id: String,
    pub when: Timestamp,
    pub slot: Slot,
    pub version: Version,
    pub root_hash: RootHash,
    /// The dumps of panics that were lying there.
    #[serde(default)]
    pub older_dumps: Vec<String>,
}

/// How the node came to leave a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Departure {
    /// It failed its trial.
    #[default]
    Trial,
    /// It had been good, and does not boot any more.
    GaveWay,
}

impl Departure {
    /// Returns the word on the bus and in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::GaveWay => "gave-way",
        }
    }
}

/// Why the node left a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    #[serde(default)]
    pub kind: Departure,
    pub version: Version,
    pub root_hash: RootHash,
    /// The health check that failed; empty if none reported.
    #[serde(default)]
    pub check: String,
    /// The unit it was about.
    #[serde(default)]
    pub unit: String,
    pub reason: String,
    /// Why the kernel panicked, if it did, in its own words.
    #[serde(default)]
    pub panic: String,
    pub when: Timestamp,
    /// The last lines of the journal, or of the log of a kernel that panicked.
    #[serde(default)]
    pub lines: Vec<String>,
    /// How often the release was tried.
    #[serde(default)]
    pub tries: u32,
    /// When the trial was armed, to tell it from another trial of the same image.
    #[serde(default)]
    pub armed_at: Option<Timestamp>,
    /// The boot that wrote this.
    #[serde(default)]
    pub boot_id: String,
}

/// An image that failed on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barred {
    pub root_hash: RootHash,
    pub version: Version,
    pub reason: String,
    pub when: Timestamp,
}

/// A boot that has reached userspace, as systemd-tmpfiles wrote it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Without dashes, as systemd writes it.
    id: String,
    pub version: Version,
}

impl Boot {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (id, version) = line.split_once(' ')?;
        Some(Self {
            id: id.to_owned(),
            version: Version::parse(version).ok()?,
        })
    }

    /// Returns whether it is the boot with the id `id`, as the kernel writes it.
    pub fn is(&self, id: &str) -> bool {
        self.id == id.replace('-', "")
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.version)
    }
}

/// The health gate's word, as it left it for us.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GateVerdict {
    pub boot_id: String,
    pub root_hash: RootHash,
    pub verdict: Passed,
    #[serde(default)]
    pub check: String,
    #[serde(default)]
    pub unit: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub lines: Vec<String>,
}

/// Which way the gate decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Passed {
    Pass,
    Fail,
}

/// Why a record could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot read the record {record:?}")]
    Read { record: Record, source: io::Error },
    #[error("cannot write the record {record:?}")]
    Write { record: Record, source: io::Error },
    #[error("cannot remove the record {record:?}")]
    Remove { record: Record, source: io::Error },
    #[error("cannot leave word that the booted slot is good")]
    Settled { source: io::Error },
}

/// Reads a record that informs: one that cannot be read is reported, and taken
/// for one that is not there. A disk that loses a memory must not end updates.
pub fn recall<T: DeserializeOwned>(records: &impl Records, record: Record) -> Option<T> {
    read(records, record).unwrap_or_else(|error| {
        forgotten(&error);
        None
    })
}

/// Reads the history as [`recall`] does, oldest first.
pub fn recall_history(records: &impl Records) -> Vec<HistoryLine> {
    history::read(records).unwrap_or_else(|error| {
        forgotten(&error);
        vec![]
    })
}

fn forgotten(error: &RecordError) {
    tracing::error!(error = %Chain(error), "going on without it");
}

/// Reads a record that is to be changed; `None` when there is none, or none
/// that can be understood. One that cannot be read fails: what is written in
/// its place would lose what may be read again later.
pub(crate) fn read<T: DeserializeOwned>(
    records: &impl Records,
    record: Record,
) -> Result<Option<T>, RecordError> {
    let bytes = records
        .read(record)
        .map_err(|source| RecordError::Read { record, source })?;
    let Some(bytes) = bytes else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            tracing::error!(?record, %error, "a record is damaged; going on without it");
            Ok(None)
        }
    }
}

/// Writes a record. On return it has reached the disk.
pub fn write(
    records: &impl Records,
    record: Record,
    value: &impl Serialize,
) -> Result<(), RecordError> {
    let failed = |source| RecordError::Write { record, source };
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| failed(error.into()))?;
    bytes.push(b'\n');
    records.replace(record, &bytes).map_err(failed)
}

/// Removes a record. On return it has gone from the disk.
pub fn remove(records: &impl Records, record: Record) -> Result<(), RecordError> {
    records
        .remove(record)
        .map_err(|source| RecordError::Remove { record, source })
}

/// Reads which boots have reached userspace, oldest first.
pub fn recall_boots(records: &impl Records) -> Vec<Boot> {
    let record = Record::Boots;
    let bytes = records.read(record).unwrap_or_else(|source| {
        forgotten(&RecordError::Read { record, source });
        None
    });
    let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    text.lines().filter_map(Boot::parse).collect()
}

/// Forgets all but the last boots that have reached userspace.
pub fn trim_boots(records: &impl Records) -> Result<(), RecordError> {
    let boots = recall_boots(records);
    if boots.len() <= 2 * BOOTS {
        return Ok(());
    }
    let old = boots.len().saturating_sub(BOOTS);
    let text: String = boots
        .iter()
        .skip(old)
        .map(|boot| format!("{boot}\n"))
        .collect();
    let record = Record::Boots;
    records
        .replace(record, text.as_bytes())
        .map_err(|source| RecordError::Write { record, source })
}

/// Adds an image to those that failed here.
pub fn bar(records: &impl Records, barred: &Barred) -> Result<(), RecordError> {
    let mut list = read::<Vec<Barred>>(records, Record::Barred)?.unwrap_or_default();
    list.retain(|each| each.root_hash != barred.root_hash);
    list.push(barred.clone());
    let old = list.len().saturating_sub(BARRED_IMAGES);
    write(records, Record::Barred, &list.split_off(old))
}

/// Takes an image off that list.
pub fn forgive(records: &impl Records, root_hash: &RootHash) -> Result<(), RecordError> {
    let mut list = read::<Vec<Barred>>(records, Record::Barred)?.unwrap_or_default();
    list.retain(|each| each.root_hash != *root_hash);
    write(records, Record::Barred, &list)
}

/// Raises the floor to `version`; it never sinks.
pub fn raise_floor(records: &impl Records, version: &Version) -> Result<(), RecordError> {
    match read::<Version>(records, Record::Floor)? {
        Some(floor) if floor >= *version => Ok(()),
        Some(_) | None => write(records, Record::Floor, version),
    }
}

/// Shortens journal lines to what a rollback keeps: the last ones, each cut.
pub fn trim_lines(lines: &[String]) -> Vec<String> {
    let old = lines.len().saturating_sub(ROLLBACK_LINES);
    lines
        .iter()
        .skip(old)
        .map(|line| cut(line, ROLLBACK_LINE_BYTES).to_owned())
        .collect()
}

/// Returns the beginning of `text`: at most `bytes`, and whole characters.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_journal_is_cut_to_its_last_lines_at_character_borders() {
        let lines: Vec<String> = (0..50)
            .map(|n| format!("{n} {}", "é".repeat(400)))
            .collect();
        let kept = trim_lines(&lines);
        assert_eq!(kept.len(), ROLLBACK_LINES);
        assert!(kept.iter().all(|line| line.len() <= ROLLBACK_LINE_BYTES));
        assert!(kept[19].starts_with("49 "));
    }
}
