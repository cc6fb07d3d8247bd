//! A device as the streams that other crates want to read and write.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use crate::device::Device;

/// A range of a device, with a position in it.
pub(crate) struct Stream<'d, D> {
    device: &'d mut D,
    range: Range<u64>,
    position: u64,
}

impl<'d, D: Device> Stream<'d, D> {
    pub(crate) fn whole(device: &'d mut D) -> io::Result<Self> {
        let range = 0..device.size()?;
        Ok(Self {
            device,
            range,
            position: 0,
        })
    }

    /// Returns how many of `wanted` bytes lie before the end, and the byte to begin at.
    fn span(&self, wanted: usize) -> (u64, usize) {
        let start = self.range.start.saturating_add(self.position);
        let left = self.range.end.saturating_sub(start);
        (
            start,
            wanted.min(usize::try_from(left).unwrap_or(usize::MAX)),
        )
    }

    fn advance(&mut self, bytes: usize) {
        self.position = self.position.saturating_add(bytes as u64);
    }
}

impl<D: Device> Read for Stream<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (start, length) = self.span(buffer.len());
        let (wanted, _) = buffer.split_at_mut(length);
        self.device.read_at(start, wanted)?;
        self.advance(length);
        Ok(length)
    }
}

impl<D: Device> Write for Stream<'_, D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (start, length) = self.span(bytes.len());
        let (wanted, _) = bytes.split_at(length);
        self.device.write_at(start, wanted)?;
        self.advance(length);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.device.sync()
    }
}

impl<D: Device> Seek for Stream<'_, D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let size = self.range.end.saturating_sub(self.range.start);
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => size.checked_add_signed(offset),
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
            range,
            position,
        } = self;
        f.debug_struct("Stream")
            .field("range", range)
            .field("position", position)
            .finish_non_exhaustive()
    }
}
