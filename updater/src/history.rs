//! What happened on this node: a line of JSON per event, in one file that only
//! grows at its end and loses its oldest lines.
//!
//! Each change replaces the whole file, so that a power cut leaves the old
//! history or the new one, and nothing has to be mended. Lines that this
//! version does not understand are another's (a newer release's, from which
//! the node came back): they are not shown, and not lost.

use std::collections::BTreeMap;

use jiff::Timestamp;
use partition_layout::{RootHash, Slot, Version};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::asker::Asker;
use crate::ports::{Record, Records};
use crate::records::{RecordError, cut};
use crate::tally::Tally;

/// How many lines are kept, and how many bytes: far more than a year of updates.
const LINES: usize = 256;
const BYTES: usize = 256 * 1024;
/// How long a message may be: what a person reads. The journal has all of it.
const MESSAGE_BYTES: usize = 1000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    pub when: Timestamp,
    pub event: Happened,
    pub version: Option<Version>,
    pub root_hash: Option<RootHash>,
    pub slot: Option<Slot>,
    #[serde(default)]
    pub message: String,
    /// `None` in lines of older versions.
    #[serde(default)]
    pub by: Option<Asker>,
    /// The name of the error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Cost::is_nothing")]
    pub cost: Cost,
}

impl HistoryLine {
    /// Returns whether the message may have been cut.
    pub(crate) const fn is_cut(&self) -> bool {
        // Whole characters of at most four bytes are left.
        self.message.len() + 3 >= MESSAGE_BYTES
    }

    /// Of what a node tries by itself each hour, and what fails each time in the same way, only the
    /// last is kept: in a week it would push out all that is worth keeping.
    fn repeats(&self, newest: &Self) -> bool {
        let about = |line: &Self| (line.version.clone(), line.root_hash, line.error.clone());
        let is_tried_again =
            |line: &Self| line.event == Happened::StageFailed && line.by == Some(Asker::Policy);
        is_tried_again(self) && is_tried_again(newest) && about(self) == about(newest)
    }
}

/// What a piece of work took, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    pub fetched: u64,
    pub copied: u64,
    pub kept: u64,
    pub zero: u64,
    pub written: u64,
    pub read_back: u64,
    /// Milliseconds, by phase.
    pub millis: BTreeMap<String, u64>,
}

impl From<&Tally> for Cost {
    fn from(tally: &Tally) -> Self {
        let millis = tally.phases.iter().map(|(phase, time)| {
            let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            ((*phase).to_owned(), millis)
        });
        Self {
            fetched: tally.fetched,
            copied: tally.copied,
            kept: tally.kept,
            zero: tally.zero,
            written: tally.written,
            read_back: tally.read_back,
            millis: millis.filter(|(_, millis)| *millis > 0).collect(),
        }
    }
}

impl Cost {
    /// Returns each kind of bytes with its word on the bus and in the metrics.
    pub const fn bytes(&self) -> [(&'static str, u64); 6] {
        [
            ("fetched", self.fetched),
            ("copied", self.copied),
            ("kept", self.kept),
            ("zero", self.zero),
            ("written", self.written),
            ("read_back", self.read_back),
        ]
    }

    /// Adds what another piece of work took.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.fetched, other.fetched),
            (&mut self.copied, other.copied),
            (&mut self.kept, other.kept),
            (&mut self.zero, other.zero),
            (&mut self.written, other.written),
            (&mut self.read_back, other.read_back),
        ] {
            *sum = sum.saturating_add(more);
        }
        for (phase, millis) in &other.millis {
            let sum = self.millis.entry(phase.clone()).or_default();
            *sum = sum.saturating_add(*millis);
        }
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What a history line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Happened {
    Staged,
    StageFailed,
    StageCancelled,
    RollbackRequested,
    Good,
    Bad,
    RolledBack,
    /// A good release boots no more, and the other one runs.
    GaveWay,
    Forgiven,
    Mended,
    Rotten,
    /// The first check of a run of failures, or the first by its error.
    CheckFailed,
    /// The check that ends such a run.
    CheckRecovered,
}

impl Happened {
    /// Everything that can happen.
    pub const ALL: [Self; 13] = [
        Self::Staged,
        Self::StageFailed,
        Self::StageCancelled,
        Self::RollbackRequested,
        Self::Good,
        Self::Bad,
        Self::RolledBack,
        Self::GaveWay,
        Self::Forgiven,
        Self::Mended,
        Self::Rotten,
        Self::CheckFailed,
        Self::CheckRecovered,
    ];

    /// Returns the word on the bus and in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::StageFailed => "stage-failed",
            Self::StageCancelled => "stage-cancelled",
            Self::RollbackRequested => "rollback-requested",
            Self::Good => "good",
            Self::Bad => "bad",
            Self::RolledBack => "rolled-back",
            Self::GaveWay => "gave-way",
            Self::Forgiven => "forgiven",
            Self::Mended => "mended",
            Self::Rotten => "rotten",
            Self::CheckFailed => "check-failed",
            Self::CheckRecovered => "check-recovered",
        }
    }

    /// Returns the id of its entries in the journal.
    pub const fn message_id(self) -> &'static str {
        match self {
            Self::Staged => "2a641a756b5741d09d6bb75243c81d07",
            Self::StageFailed => "72d83df2c7d043dc9106434ef1e03a83",
            Self::StageCancelled => "e43a9b6250944e13b68cebb9e70735e9",
            Self::RollbackRequested => "f4761c8d4ec2417fad636c827b919120",
            Self::Good => "4aad3d02b275466bb132f6dc740846b4",
            Self::Bad => "93aa548ff9e6425eb64a2ddcaf06d1c7",
            Self::RolledBack => "a5af3c657e9d48f992b06f4d1136fbda",
            Self::GaveWay => "6b1f0c2ad97f4f0c8d0e5ac3417be92d",
            Self::Forgiven => "a8d0fd587b9544d69206e2206773d5bf",
            Self::Mended => "514e7c0ed6ec4200aeae66bb1df4d3c0",
            Self::Rotten => "157285a31bf4473b9873a760905142cb",
            Self::CheckFailed => "3aa59d4568744a30bdc8f3fe28c80ba7",
            Self::CheckRecovered => "000a3b69ef594f2cb4c648fccaa5b874",
        }
    }
}

/// Reads the history, oldest first.
pub(crate) fn read(records: &impl Records) -> Result<Vec<HistoryLine>, RecordError> {
    Ok(lines(&content(records)?)
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

/// Adds a line, or puts it in the place of the newest one, if that says the same. On return it has
/// reached the disk.
pub(crate) fn add(records: &impl Records, line: &HistoryLine) -> Result<(), RecordError> {
    let record = Record::History;
    let failed = |source| RecordError::Write { record, source };
    let line = HistoryLine {
        message: cut(&line.message, MESSAGE_BYTES).to_owned(),
        ..line.clone()
    };
    let mut content = content(records)?;
    if let Some(start) = newest(&content)
        && let Some(Ok(newest)) = content.get(start..).map(serde_json::from_slice)
        && line.repeats(&newest)
    {
        content.truncate(start);
    }
    let line = serde_json::to_vec(&line).map_err(|error| failed(error.into()))?;
    let longer = with_line(&content, &line);
    records.replace(record, &longer).map_err(failed)
}

fn content(records: &impl Records) -> Result<Vec<u8>, RecordError> {
    let record = Record::History;
    let bytes = records
        .read(record)
        .map_err(|source| RecordError::Read { record, source })?;
    Ok(bytes.unwrap_or_default())
}

fn lines(content: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    content.split(|byte| *byte == b'\n')
}

/// Returns where the last line begins that is not empty.
fn newest(content: &[u8]) -> Option<usize> {
    let end = content.iter().rposition(|byte| *byte != b'\n')?;
    let before = content.get(..end)?.iter();
    Some(
        before
            .rev()
            .position(|byte| *byte == b'\n')
            .map_or(0, |back| end - back),
    )
}

/// Returns the newest lines of `old` that there is room for, and `line`.
fn with_line(old: &[u8], line: &[u8]) -> Vec<u8> {
    let mut room = BYTES.saturating_sub(line.len() + 1);
    let mut kept: Vec<&[u8]> = lines(old)
        .rev()
        .filter(|line| serde_json::from_slice::<IgnoredAny>(line).is_ok())
        .take(LINES - 1)
        .take_while(|line| {
            let left = room.checked_sub(line.len() + 1);
            room = left.unwrap_or(0);
            left.is_some()
        })
        .collect();
    kept.reverse();
    kept.push(line);
    let mut content = kept.join(&b'\n');
    content.push(b'\n');
    content
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(content: &[u8]) -> Vec<&str> {
        std::str::from_utf8(content).unwrap().lines().collect()
    }

    #[test]
    fn the_newest_line_begins_behind_the_one_before_it() {
        let cases: [(&str, Option<usize>); 7] = [
            ("", None),
            ("\n", None),
            ("a", Some(0)),
            ("a\n", Some(0)),
            ("\na\n", Some(1)),
            ("one\ntwo\n", Some(4)),
            ("one\ntwo\n\n", Some(4)),
        ];
        for (content, start) in cases {
            assert_eq!(newest(content.as_bytes()), start, "{content:?}");
        }
    }

    #[test]
    fn the_oldest_lines_go_when_there_are_too_many() {
        let mut content = Vec::new();
        for number in 0..LINES + 10 {
            content = with_line(&content, format!("{{\"n\":{number}}}").as_bytes());
        }
        let kept = text(&content);
        assert_eq!(kept.len(), LINES);
        assert_eq!(kept.first(), Some(&"{\"n\":10}"));
        assert_eq!(kept.last(), Some(&"{\"n\":265}"));
    }

    #[test]
    fn the_oldest_lines_go_when_they_are_too_long_together() {
        let mut content = Vec::new();
        for number in 0..100 {
            let line = format!("{{\"n\":{number},\"text\":\"{}\"}}", "x".repeat(8000));
            content = with_line(&content, line.as_bytes());
            assert!(content.len() <= BYTES);
        }
        let kept = text(&content);
        assert!(kept.len() > 30, "only {} lines", kept.len());
        assert!(kept.last().unwrap().starts_with("{\"n\":99,"));
    }

    #[test]
    fn a_line_of_another_version_stays_and_one_that_is_damaged_goes() {
        let newer = "{\"when\":\"2027-01-01T00:00:00Z\",\"event\":\"teleported\"}";
        let old = format!("{newer}\n\u{0}\u{0}\u{0}\n{{\"event\":\n\n");
        let content = with_line(old.as_bytes(), b"{}");
        assert_eq!(text(&content), [newer, "{}"]);
    }

    #[test]
    fn a_line_of_an_older_version_is_read() {
        let line = r#"{"when":"2026-05-02T12:00:00Z","event":"good","version":"1.2","root_hash":null,"slot":"A","message":""}"#;
        let line: HistoryLine = serde_json::from_str(line).unwrap();
        assert_eq!((line.event, line.by), (Happened::Good, None));
        assert_eq!(line.cost, Cost::default());
    }

    #[test]
    fn what_two_pieces_of_work_took_is_added_up_by_source_and_by_phase() {
        let mut one = Tally {
            fetched: 1,
            written: u64::MAX,
            ..Tally::default()
        };
        one.spend("root", Duration::from_millis(1500));
        let mut two = Tally {
            fetched: 2,
            written: 1,
            ..Tally::default()
        };
        two.spend("root", Duration::from_secs(1));
        two.spend("tree", Duration::from_micros(7));
        let mut sum = Cost::from(&one);
        sum.add(&Cost::from(&two));
        assert_eq!((sum.fetched, sum.written), (3, u64::MAX));
        assert_eq!(sum.millis, BTreeMap::from([("root".to_owned(), 2500)]));
    }

    #[test]
    fn the_word_in_the_file_is_the_word_on_the_bus() {
        for event in Happened::ALL {
            let written = serde_json::to_string(&event).unwrap();
            assert_eq!(written, format!("\"{}\"", event.as_str()));
        }
    }
}
