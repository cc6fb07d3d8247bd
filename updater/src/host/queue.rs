//! The partitions of the slots, of which, while anybody else waits for the disk, never more than one
//! small request stands in its queue, or a sync: others wait for that, and not for all that staging has to do.
//!
//! Two requests of 1 MiB at once kept a sync waiting for 4 ms, one small one for 1 ms. A
//! quarter of the speed is what that costs, so a machine without company does not pay it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::aligned::{BUFFER, Direct};
use crate::pace::Company;

/// Bytes.
const SMALL: usize = 128 << 10;

/// The place in a disk's queue that those who share it take in turns while there is company.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    turn: Arc<Mutex<()>>,
    company: Company,
}

/// A device that is asked as the company wants it.
#[derive(Debug)]
pub(super) struct Queued {
    device: Direct,
    place: Place,
}

impl Place {
    pub(super) fn beside(company: Company) -> Self {
        let turn = Arc::default();
        Self { turn, company }
    }

    /// Returns how much to ask for at once, and what to hold meanwhile.
    fn take(&self) -> (usize, Option<MutexGuard<'_, ()>>) {
        if self.company.is_there() {
            let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            (SMALL, Some(turn))
        } else {
            (BUFFER, None)
        }
    }
}

impl Queued {
    pub(super) const fn new(device: Direct, place: Place) -> Self {
        Self { device, place }
    }

    /// Fills `out` from `offset`, from the medium.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (size, _turn) = self.place.take();
        for (offset, piece) in offsets(offset, size).zip(out.chunks_mut(size)) {
            self.device.read(offset, piece)?;
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`; both are whole blocks.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (size, _turn) = self.place.take();
        for (offset, piece) in offsets(offset, size).zip(bytes.chunks(size)) {
            self.device.write(offset, piece)?;
        }
        Ok(())
    }

    /// On return what was written has left the disk's own cache too.
    pub(super) fn sync(&self) -> io::Result<()> {
        let (_, _turn) = self.place.take();
        self.device.sync()
    }
}

/// Where each request begins.
fn offsets(first: u64, size: usize) -> impl Iterator<Item = u64> {
    let step = u64::try_from(size).expect("a small number");
    std::iter::successors(Some(first), move |offset| offset.checked_add(step))
}
