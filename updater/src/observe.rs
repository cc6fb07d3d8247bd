//! Reads the node: disk, boot entries and records, as they are now.

use std::io;

use crate::derive::Observed;
use crate::ports::{BootControl, Record, Records, Slots};
use crate::records::{self, RecordError};

/// Why the node's state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("cannot read the slots")]
    Slots { source: io::Error },
    #[error("cannot read the boot entries")]
    Entries { source: io::Error },
    #[error("cannot read the daemon's records")]
    Records { source: RecordError },
    #[error("cannot tell which boot this is")]
    BootId { source: io::Error },
}

/// Reads everything that the daemon's decisions rest on.
pub fn observe(device: &(impl Slots + BootControl + Records)) -> Result<Observed, ObserveError> {
    let entries = |source| ObserveError::Entries { source };
    let records = |source| ObserveError::Records { source };
    Ok(Observed {
        disk: device
            .view()
            .map_err(|source| ObserveError::Slots { source })?,
        entries: device.entries().map_err(entries)?,
        temporary: device.has_temporary().map_err(entries)?,
        has_variables: device.has_variables(),
        boot_id: device
            .boot_id()
            .map_err(|source| ObserveError::BootId { source })?,
        trial: records::read(device, Record::Trial).map_err(records)?,
        verdict: records::read(device, Record::Verdict).map_err(records)?,
        last_rollback: records::read(device, Record::LastRollback).map_err(records)?,
        barred: records::read(device, Record::Barred)
            .map_err(records)?
            .unwrap_or_default(),
        floor: records::read(device, Record::Floor).map_err(records)?,
        history: records::read_history(device).map_err(records)?,
    })
}
