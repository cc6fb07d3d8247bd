//! A partition of a slot, read from the medium.

use std::io;
use std::ops::Range;

use partition_layout::Slot;
use verity::ReadAt;

use super::{CHUNK, len, memory};
use crate::ports::{Part, Slots};
use crate::stage_error::StageError;

/// A partition, read past every cache, and in the case of the booted slot past
/// dm-verity too, which restarts the node over a block that is bad.
#[derive(Debug)]
pub(super) struct Medium<'a, D> {
    device: &'a D,
    slot: Slot,
    part: Part,
}

impl<'a, D: Slots> Medium<'a, D> {
    pub(super) const fn new(device: &'a D, slot: Slot, part: Part) -> Self {
        Self { device, slot, part }
    }

    /// Hands the bytes of `range` to `sink`, chunk by chunk.
    pub(super) fn read_through(
        &self,
        range: Range<u64>,
        mut sink: impl FnMut(&[u8]) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        let mut buffer = vec![0; CHUNK];
        let mut offset = range.start;
        while offset < range.end {
            let rest = memory((range.end - offset).min(len(&buffer)));
            let bytes = buffer
                .get_mut(..rest)
                .expect("no chunk is larger than the buffer");
            self.read_exact_at(bytes, offset)
                .map_err(|source| StageError::ReadBack {
                    slot: self.slot,
                    part: self.part,
                    offset,
                    source,
                })?;
            sink(bytes)?;
            offset = offset.saturating_add(len(bytes));
        }
        Ok(())
    }
}

impl<D: Slots> ReadAt for Medium<'_, D> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.device.read_medium(self.slot, self.part, offset, buf)
    }
}
