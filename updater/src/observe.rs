//! Reads the node: disk, boot entries and records, as they are now.

use std::io;

use crate::derive::Observed;
use crate::ports::{BootControl, Record, Records, Slots};
use crate::pstore;
use crate::records::{self, LastGood, Trial};

/// Why the node's state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("cannot read the slots")]
    Slots { source: io::Error },
    #[error("cannot read the boot entries")]
    Entries { source: io::Error },
    #[error("cannot tell which boot this is")]
    BootId { source: io::Error },
}

/// Reads everything that the daemon's decisions rest on.
pub fn observe(device: &(impl Slots + BootControl + Records)) -> Result<Observed, ObserveError> {
    let entries = |source| ObserveError::Entries { source };
    let disk = device
        .view()
        .map_err(|source| ObserveError::Slots { source })?;
    let trial: Option<Trial> = records::recall(device, Record::Trial);
    let last_good: Option<LastGood> = records::recall(device, Record::LastGood);
    let was_left = |good: &LastGood| good.root_hash != disk.booted_root_hash;
    // Only the end of a trial, or of a good release, asks for them.
    let dumps = match trial.is_some() || last_good.as_ref().is_some_and(was_left) {
        true => pstore::assemble(&device.dumps()),
        false => vec![],
    };
    Ok(Observed {
        disk,
        entries: device.entries().map_err(entries)?,
        leftover: device.leftover().map_err(entries)?,
        has_variables: device.has_variables(),
        boot_id: device
            .boot_id()
            .map_err(|source| ObserveError::BootId { source })?,
        settled: device.is_settled().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell whether this boot is decided");
            false
        }),
        trial,
        last_good,
        dumps,
        boots: records::recall_boots(device),
        verdict: records::recall(device, Record::Verdict),
        last_rollback: records::recall(device, Record::LastRollback),
        barred: records::recall(device, Record::Barred).unwrap_or_default(),
        floor: records::recall(device, Record::Floor),
        history: records::recall_history(device),
        totals: records::recall(device, Record::Totals).unwrap_or_default(),
    })
}
