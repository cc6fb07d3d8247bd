use std::fs;
use std::io;
use std::path::PathBuf;

use super::{Paths, durable};
use crate::ports::Record;

/// Far above what the daemon keeps: 256 history lines of a kilobyte.
const LARGEST: u64 = 4 << 20;

/// The folder of the daemon's records.
#[derive(Debug)]
pub(super) struct RecordFolder {
    folder: PathBuf,
    settled: PathBuf,
    boot_id: PathBuf,
}

impl RecordFolder {
    pub(super) fn new(paths: &Paths) -> Self {
        Self {
            folder: paths.state.clone(),
            settled: paths.settled.clone(),
            boot_id: paths.boot_id.clone(),
        }
    }

    fn path(&self, record: Record) -> PathBuf {
        self.folder.join(match record {
            Record::Trial => "trial.json",
            Record::LastGood => "last-good.json",
            Record::LastRollback => "last-rollback.json",
            Record::Barred => "barred.json",
            Record::Floor => "floor",
            Record::History => "history.jsonl",
            Record::Verdict => "gate/verdict.json",
            Record::Reading => "reading.json",
            Record::SpareReading => "spare-reading.json",
            Record::Checks => "checks.json",
            Record::Kernels => "kernels.json",
            Record::Totals => "totals.json",
            Record::Boots => "boots",
        })
    }

    pub(super) fn read(&self, record: Record) -> io::Result<Option<Vec<u8>>> {
        durable::read(&self.path(record), LARGEST)
    }

    pub(super) fn replace(&self, record: Record, content: &[u8]) -> io::Result<()> {
        durable::replace(&self.path(record), content)
    }

    pub(super) fn remove(&self, record: Record) -> io::Result<()> {
        durable::remove(&self.path(record))
    }

    pub(super) fn mark_settled(&self) -> io::Result<()> {
        if let Some(folder) = self.settled.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&self.settled, "")
    }

    pub(super) fn is_settled(&self) -> io::Result<bool> {
        fs::exists(&self.settled)
    }

    pub(super) fn boot_id(&self) -> io::Result<String> {
        Ok(fs::read_to_string(&self.boot_id)?.trim().to_owned())
    }
}
