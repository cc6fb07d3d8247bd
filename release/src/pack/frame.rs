use std::ops::Range;

use zstd::zstd_safe::{DCtx, get_error_name};

use super::BLOCK_SIZE;

/// Neighbouring blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// The number of the first.
    pub first: u32,
    /// How many there are, at least one.
    pub blocks: u32,
}

/// A frame of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it lies in the pack, in bytes.
    pub offset: u64,
    /// Its size, in bytes.
    pub len: u32,
    /// The blocks that it holds, in the order in which it unpacks to them.
    pub targets: Vec<Extent>,
    /// The blocks that it refers to, in their order in the prefix.
    pub bases: Vec<Extent>,
}

/// A frame does not unpack to the blocks that it is said to hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// It is no frame, or one that was altered, or one of another base.
    #[error("it is not a frame of zstd that this base unpacks: {0}")]
    Zstd(&'static str),
    /// It is a sound frame of something else.
    #[error("it unpacks to {found} bytes, and should to {expected}")]
    Size { found: usize, expected: u64 },
}

impl Extent {
    /// Returns the numbers of the blocks.
    pub fn numbers(self) -> Range<u64> {
        let first = u64::from(self.first);
        first..first.saturating_add(self.blocks.into())
    }

    /// Returns where the blocks lie in a file of `size` bytes.
    pub fn bytes(self, size: u64) -> Range<u64> {
        let numbers = self.numbers();
        let at = |block: u64| block.saturating_mul(BLOCK_SIZE).min(size);
        at(numbers.start)..at(numbers.end)
    }
}

impl Frame {
    /// Returns where the frame lies in the pack, in bytes.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.len.into())
    }

    /// Returns the numbers of the blocks that it holds, in its order.
    pub fn blocks(&self) -> impl Iterator<Item = u64> + '_ {
        self.targets.iter().flat_map(|extent| extent.numbers())
    }

    /// Returns how many bytes it unpacks to, for a target of `size` bytes.
    pub fn unpacked_bytes(&self, size: u64) -> u64 {
        let each = self.targets.iter().map(|extent| extent.bytes(size));
        each.fold(0, |sum, range| sum.saturating_add(range.end - range.start))
    }

    /// Unpacks the frame, whose bytes in the pack are `packed`. `base` is the
    /// content of its base extents, one after the other; `size` that of the
    /// whole target, in bytes.
    ///
    /// It uses no memory but that of `into`, which holds the frame's blocks on
    /// return, and some 200 KiB.
    ///
    /// # Errors
    /// [`BadFrame`]; what `into` holds then means nothing.
    pub fn unpack(
        &self,
        packed: &[u8],
        base: &[u8],
        size: u64,
        into: &mut Vec<u8>,
    ) -> Result<(), BadFrame> {
        unpack(packed, base, self.unpacked_bytes(size), into)
    }
}

pub(super) fn unpack(
    packed: &[u8],
    base: &[u8],
    expected: u64,
    into: &mut Vec<u8>,
) -> Result<(), BadFrame> {
    into.clear();
    // Far below what a usize holds: a frame and an index have limits.
    into.reserve_exact(usize::try_from(expected).unwrap_or(0));
    // Unpacked in one step, straight into its place: a window is then no memory
    // of its own, whatever size the frame asks for. The context is made anew
    // because it may not outlive the prefix.
    let mut context = DCtx::create();
    let failed = |code| BadFrame::Zstd(get_error_name(code));
    context.ref_prefix(base).map_err(failed)?;
    // The capacity of `into` is the bound, whatever the frame says.
    let found = context.decompress(into, packed).map_err(failed)?;
    if u64::try_from(found) == Ok(expected) {
        Ok(())
    } else {
        Err(BadFrame::Size { found, expected })
    }
}
