//! Counts that go on from boot to boot: what a history that forgets its oldest
//! lines cannot tell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::history::{Cost, HistoryLine};
use crate::ports::{Record, Records};
use crate::records::{self, RecordError};

/// What has happened since this node was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// How often each thing has happened, by its word in the history.
    pub events: BTreeMap<String, u64>,
    /// What all of it took.
    pub cost: Cost,
}

/// Counts what `line` tells. On return it has reached the disk.
pub(crate) fn count(records: &impl Records, line: &HistoryLine) -> Result<(), RecordError> {
    let mut totals = records::read::<Totals>(records, Record::Totals)?.unwrap_or_default();
    let count = totals
        .events
        .entry(line.event.as_str().to_owned())
        .or_default();
    *count = count.saturating_add(1);
    totals.cost.add(&line.cost);
    records::write(records, Record::Totals, &totals)
}
