//! A disk for tests: it remembers, loses what was not synced, and fails on demand.

use std::io;

use crate::device::{Device, SectorSize};

/// A disk in memory.
#[derive(Clone, Debug)]
pub struct FakeDisk {
    /// What has reached the disk.
    durable: Vec<u8>,
    /// What was written since, in order, cut into sectors.
    pending: Vec<(u64, Vec<u8>)>,
    sector_size: Option<SectorSize>,
    operations: usize,
    fault: Option<(usize, Fault)>,
    unreadable: Vec<std::ops::Range<u64>>,
}

/// How a [`FakeDisk`] fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// From that operation on nothing works; what it wrote itself may be torn.
    PowerCut,
    /// Only that operation fails.
    Once,
}

const SECTOR: usize = 512;

impl FakeDisk {
    /// Returns a disk full of zeros that, like an image file, has no sector size of its own.
    pub fn blank(bytes: usize) -> Self {
        Self::holding(vec![0; bytes])
    }

    /// Returns a disk that holds `image`.
    pub fn holding(image: Vec<u8>) -> Self {
        Self {
            durable: image,
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
    pub fn make_unreadable(&mut self, bytes: std::ops::Range<u64>) {
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
        let mut disk = Self::holding(self.durable.clone());
        disk.sector_size = self.sector_size;
        for (_, (offset, bytes)) in self
            .pending
            .iter()
            .enumerate()
            .filter(|(at, _)| survived(*at))
        {
            put(&mut disk.durable, *offset, bytes);
        }
        disk
    }

    /// Returns all bytes as a reader sees them, synced or not.
    pub fn image(&self) -> Vec<u8> {
        self.after_power_cut(|_| true).durable
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

    fn bounds(&self, offset: u64, length: usize) -> io::Result<()> {
        let end = offset.checked_add(length as u64);
        let inside = end.is_some_and(|end| end <= self.durable.len() as u64);
        inside
            .then_some(())
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

fn put(image: &mut [u8], offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let target = image.iter_mut().skip(start);
    target.zip(bytes).for_each(|(old, new)| *old = *new);
}

impl Device for FakeDisk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.bounds(offset, buffer.len())?;
        let end = offset + buffer.len() as u64;
        if self
            .unreadable
            .iter()
            .any(|bad| bad.start < end && offset < bad.end)
        {
            return Err(io::Error::other("medium error"));
        }
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, stored) in buffer.iter_mut().zip(self.durable.iter().skip(start)) {
            *byte = *stored;
        }
        for (written, bytes) in &self.pending {
            for (address, byte) in (*written..).zip(bytes) {
                let place = address
                    .checked_sub(offset)
                    .and_then(|at| usize::try_from(at).ok());
                if let Some(seen) = place.and_then(|at| buffer.get_mut(at)) {
                    *seen = *byte;
                }
            }
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.bounds(offset, bytes.len())?;
        let dead = matches!(self.fault, Some((at, Fault::PowerCut)) if self.operations > at);
        let outcome = self.operate();
        // A write that fails may have reached the medium in part.
        if !dead {
            let sectors = bytes.chunks(SECTOR).zip((offset..).step_by(SECTOR));
            self.pending
                .extend(sectors.map(|(bytes, offset)| (offset, bytes.to_vec())));
        }
        outcome
    }

    fn sync(&mut self) -> io::Result<()> {
        self.operate()?;
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            put(&mut self.durable, offset, &bytes);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.durable.len() as u64)
    }

    fn sector_size(&self) -> io::Result<Option<SectorSize>> {
        Ok(self.sector_size)
    }
}
