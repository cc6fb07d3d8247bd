//! A device as the streams that other crates want to read and write.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::device::Device;

/// A device, with a position in it.
pub(crate) struct Stream<'d, D> {
    device: &'d mut D,
    size: u64,
    position: u64,
}

impl<'d, D: Device> Stream<'d, D> {
    pub(crate) fn whole(device: &'d mut D) -> io::Result<Self> {
        let size = device.size()?;
        Ok(Self {
            device,
            size,
            position: 0,
        })
    }

    /// Returns how many of `wanted` bytes lie before the end.
    fn within(&self, wanted: usize) -> usize {
        let left = self.size.saturating_sub(self.position);
        wanted.min(usize::try_from(left).unwrap_or(usize::MAX))
    }

    fn advance(&mut self, bytes: usize) {
        self.position = self.position.saturating_add(bytes as u64);
    }
}

impl<D: Device> Read for Stream<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.within(buffer.len());
        let (wanted, _) = buffer.split_at_mut(length);
        self.device.read_at(self.position, wanted)?;
        self.advance(length);
        Ok(length)
    }
}

impl<D: Device> Write for Stream<'_, D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.within(bytes.len());
        let (wanted, _) = bytes.split_at(length);
        self.device.write_at(self.position, wanted)?;
        self.advance(length);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.device.sync()
    }
}

impl<D: Device> Seek for Stream<'_, D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl<D> fmt::Debug for Stream<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            device: _,
            size,
            position,
        } = self;
        f.debug_struct("Stream")
            .field("size", size)
            .field("position", position)
            .finish_non_exhaustive()
    }
}
