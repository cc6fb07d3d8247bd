//! A disk for tests: it remembers, loses what was not synced, and fails on demand.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::device::{Device, SectorSize};

/// A disk in memory.
///
/// Copies of it share what was never written, so that a test can look at thousands.
#[derive(Clone, Debug)]
pub struct FakeDisk {
    /// What was on the disk in the beginning.
    first: Arc<Vec<u8>>,
    /// What has reached the disk since, by sector.
    durable: BTreeMap<u64, Sector>,
    /// What was written after the last sync, in order.
    pending: Vec<(u64, Sector)>,
    sector_size: Option<SectorSize>,
    operations: usize,
    fault: Option<(usize, Fault)>,
    unreadable: Vec<Range<u64>>,
}

/// How a [`FakeDisk`] fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// From that operation on nothing works; what it wrote itself may be torn.
    PowerCut,
    /// Only that operation fails.
    Once,
}

/// What a power cut leaves whole or not at all.
type Sector = [u8; SECTOR];
const SECTOR: usize = 512;
const SECTOR_BYTES: u64 = 512;

impl FakeDisk {
    /// Returns a disk full of zeros that, like an image file, has no sector size of its own.
    pub fn blank(bytes: usize) -> Self {
        Self::holding(vec![0; bytes])
    }

    /// Returns a disk that holds `image`, the end of which is cut to whole sectors.
    pub fn holding(mut image: Vec<u8>) -> Self {
        image.truncate(image.len() / SECTOR * SECTOR);
        Self {
            first: Arc::new(image),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            sector_size: None,
            operations: 0,
            fault: None,
            unreadable: Vec::new(),
        }
    }

    /// Returns the disk with a sector size of its own, as a block device has.
    #[must_use]
    pub fn with_sector_size(self, size: SectorSize) -> Self {
        Self {
            sector_size: Some(size),
            ..self
        }
    }

    /// Makes the write or sync that comes after `operations` more of them fail.
    pub fn fail_after(&mut self, operations: usize, fault: Fault) {
        self.fault = Some((self.operations + operations, fault));
    }

    /// Makes every read that touches `bytes` fail.
    pub fn make_unreadable(&mut self, bytes: Range<u64>) {
        self.unreadable.push(bytes);
    }

    /// Returns how many writes and syncs there were.
    pub fn operations(&self) -> usize {
        self.operations
    }

    /// Returns how many sectors were written and not synced.
    pub fn unsynced(&self) -> usize {
        self.pending.len()
    }

    /// Returns the disk as it is found after a power cut, when of the sectors written
    /// and not synced those `survived` which it is true for, by their place in the order.
    #[must_use]
    pub fn after_power_cut(&self, survived: impl Fn(usize) -> bool) -> Self {
        let survivors = self
            .pending
            .iter()
            .enumerate()
            .filter(|(at, _)| survived(*at));
        let mut durable = self.durable.clone();
        durable.extend(survivors.map(|(_, sector)| *sector));
        Self {
            first: Arc::clone(&self.first),
            durable,
            pending: Vec::new(),
            sector_size: self.sector_size,
            operations: 0,
            fault: None,
            unreadable: Vec::new(),
        }
    }

    /// Returns all bytes as a reader sees them, synced or not.
    pub fn image(&self) -> Vec<u8> {
        let mut image = self.first.as_ref().clone();
        let written = self
            .durable
            .iter()
            .map(|(number, sector)| (*number, sector));
        let written = written.chain(
            self.pending
                .iter()
                .map(|(number, sector)| (*number, sector)),
        );
        for (number, sector) in written {
            let start = usize::try_from(number * SECTOR_BYTES).unwrap_or(usize::MAX);
            if let Some(place) = image.get_mut(start..).and_then(<[u8]>::first_chunk_mut) {
                *place = *sector;
            }
        }
        image
    }

    /// Returns a sector as a reader sees it.
    fn sector(&self, number: u64) -> Sector {
        let pending = self.pending.iter().rev().find(|(at, _)| *at == number);
        if let Some(sector) = pending
            .map(|(_, sector)| sector)
            .or_else(|| self.durable.get(&number))
        {
            return *sector;
        }
        let start = usize::try_from(number.saturating_mul(SECTOR_BYTES)).unwrap_or(usize::MAX);
        let bytes = self.first.get(start..).and_then(<[u8]>::first_chunk);
        bytes.copied().unwrap_or([0; SECTOR])
    }

    fn operate(&mut self) -> io::Result<()> {
        let now = self.operations;
        self.operations += 1;
        match self.fault {
            Some((at, Fault::PowerCut)) if now >= at => Err(io::Error::other("the power is gone")),
            Some((at, Fault::Once)) if now == at => Err(io::Error::other("medium error")),
            Some(_) | None => Ok(()),
        }
    }

    fn check_bounds(&self, offset: u64, length: usize) -> io::Result<()> {
        let end = offset.checked_add(length as u64);
        let inside = end.is_some_and(|end| end <= self.first.len() as u64);
        inside
            .then_some(())
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Device for FakeDisk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.check_bounds(offset, buffer.len())?;
        let end = offset + buffer.len() as u64;
        if self
            .unreadable
            .iter()
            .any(|bad| bad.start < end && offset < bad.end)
        {
            return Err(io::Error::other("medium error"));
        }
        let mut filled = 0;
        for number in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let before = offset.saturating_sub(number * SECTOR_BYTES);
            let sector = self.sector(number);
            let (_, seen) = sector.split_at(usize::try_from(before).unwrap_or(SECTOR));
            let (_, rest) = buffer.split_at_mut(filled);
            let length = seen.len().min(rest.len());
            rest.split_at_mut(length)
                .0
                .copy_from_slice(seen.split_at(length).0);
            filled += length;
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_bounds(offset, bytes.len())?;
        let dead = matches!(self.fault, Some((at, Fault::PowerCut)) if self.operations > at);
        let outcome = self.operate();
        // A write that fails may have reached the medium in part.
        let end = offset + bytes.len() as u64;
        let touched = offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        for number in touched.filter(|_| !dead) {
            let mut sector = self.sector(number);
            for (address, byte) in (number * SECTOR_BYTES..).zip(&mut sector) {
                let written = address
                    .checked_sub(offset)
                    .and_then(|at| usize::try_from(at).ok());
                *byte = written
                    .and_then(|at| bytes.get(at))
                    .copied()
                    .unwrap_or(*byte);
            }
            self.pending.push((number, sector));
        }
        outcome
    }

    fn sync(&mut self) -> io::Result<()> {
        self.operate()?;
        self.durable.extend(self.pending.drain(..));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.first.len() as u64)
    }

    fn sector_size(&self) -> io::Result<Option<SectorSize>> {
        Ok(self.sector_size)
    }
}
