//! A partition of a slot, read from the medium.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use partition_layout::Slot;
use verity::{AlignedBuffer, ReadAt};

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
        let mut buffer = AlignedBuffer::new(CHUNK);
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

/// How much of a hash tree is read at once: what 8 MiB of the image need. A
/// disk takes hardly longer for it than for a single block.
const STRETCH: usize = 64 * 1024;
const STRETCH_BYTES: u64 = STRETCH as u64;
/// Stretches that are kept: one for each connection, and one to spare.
const KEPT: usize = 9;

/// A hash tree on a medium, of which neighbours of what was asked for are kept
/// for a while. Whoever reads it holds each block against its parent, so what
/// is kept need not be believed either.
#[derive(Debug)]
pub(super) struct TreeMedium<'a, D> {
    medium: Medium<'a, D>,
    /// The offset of each, the last used first.
    kept: Mutex<VecDeque<(u64, Vec<u8>)>>,
}

impl<'a, D: Slots> TreeMedium<'a, D> {
    pub(super) const fn new(device: &'a D, slot: Slot) -> Self {
        Self {
            medium: Medium::new(device, slot, Part::Verity),
            kept: Mutex::new(VecDeque::new()),
        }
    }
}

impl<D: Slots> ReadAt for TreeMedium<'_, D> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let inside = offset % STRETCH_BYTES;
        let start = offset - inside;
        let wanted = memory(inside)..memory(inside).saturating_add(buf.len());
        if wanted.end > STRETCH {
            return self.medium.read_exact_at(buf, offset);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().position(|(at, _)| *at == start);
        let stretch = match known.and_then(|known| kept.remove(known)) {
            Some((_, stretch)) => stretch,
            None => {
                let mut stretch = vec![0; STRETCH];
                // The partition may end within, and a sector nearby may be bad.
                if self.medium.read_exact_at(&mut stretch, start).is_err() {
                    return self.medium.read_exact_at(buf, offset);
                }
                stretch
            }
        };
        let bytes = stretch.get(wanted).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        kept.push_front((start, stretch));
        kept.truncate(KEPT);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use partition_layout::{RootHash, Version};

    use super::*;
    use crate::ports::DiskView;
    use crate::scrub::proven::Proven;

    /// A partition that ends in the middle of a stretch.
    #[derive(Debug)]
    struct Partition {
        bytes: Vec<u8>,
        reads: AtomicUsize,
    }

    impl Slots for Partition {
        fn view(&self) -> io::Result<DiskView> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn write(&self, _: Slot, _: Part, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn flush(&self, _: Slot, _: Part) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn read_medium(&self, _: Slot, _: Part, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.bytes.read_exact_at(buf, offset)
        }

        fn relabel(&self, _: Slot, _: Option<(&Version, &RootHash)>) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn mend(&self, _: Slot, _: &Proven) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn several_readers_of_a_tree_go_to_the_disk_once_for_a_stretch() {
        const BLOCK: usize = 4096;
        let blocks = 8 * STRETCH / BLOCK + 3;
        let bytes: Vec<u8> = (0..blocks * BLOCK)
            .map(|at| (at / 7).to_le_bytes()[0])
            .collect();
        let partition = Partition {
            bytes,
            reads: AtomicUsize::new(0),
        };
        let tree = TreeMedium::new(&partition, Slot::B);
        let mut found = [0; BLOCK];
        // Four readers, each in a quarter of its own.
        for step in 0..blocks.div_ceil(4) {
            for block in (0..4).map(|reader| reader * (blocks / 4) + step) {
                let Some(expected) = partition.bytes.chunks(BLOCK).nth(block) else {
                    continue;
                };
                tree.read_exact_at(&mut found, (block * BLOCK) as u64)
                    .unwrap();
                assert!(found == expected, "block {block}");
            }
        }
        // The last three blocks, which no whole stretch holds, take two each; some are read twice.
        let reads = partition.reads.load(Ordering::Relaxed);
        assert!(reads <= 8 + 12, "{reads} reads");
        let beyond = tree.read_exact_at(&mut found, (blocks * BLOCK) as u64);
        assert!(beyond.is_err());
        let mut across = [0; 2 * BLOCK];
        let place = STRETCH - BLOCK;
        tree.read_exact_at(&mut across, place as u64).unwrap();
        assert!(across == partition.bytes[place..place + 2 * BLOCK]);
    }
}
