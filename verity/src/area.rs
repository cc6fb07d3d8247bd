//! Where superblock and tree lie on the hash device.
//!
//! ```text
//! offset      tree start (next multiple of the hash block size)         end
//! | superblock | 0 … | root block | level n-2 | … | level 0 (leaves) |
//! ```
//! Levels are numbered from the leaves, whose digests are of data blocks; the
//! highest level is one block, and the root hash is its digest. One data
//! block needs no tree: its own digest is the root hash.

use std::io;

use uuid::Uuid;

use crate::device::ReadAt;
use crate::params::{BadParams, Params};
use crate::superblock::{BadSuperblock, SUPERBLOCK_SIZE, Superblock};

/// A hash tree's place: parameters, offsets, levels. Every sum has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashArea {
    params: Params,
    data_blocks: u64,
    header: Option<Header>,
    tree_start: u64,
    levels: Vec<Level>,
    end: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    offset: u64,
    uuid: Uuid,
}

/// One level of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Level {
    /// Bytes from the start of the hash device.
    pub(crate) start: u64,
    /// Hash blocks of the level.
    pub(crate) blocks: u64,
}

/// A tree that cannot lie there.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum BadArea {
    #[error("tree has bad parameters")]
    Params(#[source] BadParams),
    #[error("no data block: a tree needs at least one")]
    NoData,
    #[error("hash offset {offset} is not a multiple of {unit}")]
    Offset { offset: u64, unit: u32 },
    #[error("{0} data blocks need a tree beyond the largest file offset")]
    Overflow(u64),
}

/// A hash device without a usable superblock.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum ReadAreaError {
    #[error("cannot read a superblock at byte {offset} of the hash device")]
    Read { offset: u64, source: io::Error },
    #[error("no usable superblock at byte {offset} of the hash device")]
    Superblock { offset: u64, source: BadSuperblock },
    #[error("superblock at byte {offset} of the hash device describes no possible tree")]
    Area { offset: u64, source: BadArea },
}

impl HashArea {
    /// Places a tree without superblock at `offset` (bytes).
    ///
    /// `offset` must be a multiple of the hash block size. `veritysetup` rounds
    /// it down instead, and so overwrites what lies before it.
    ///
    /// # Errors
    /// [`BadArea`], for a tree that cannot lie there.
    pub fn bare(params: Params, data_blocks: u64, offset: u64) -> Result<Self, BadArea> {
        params.check().map_err(BadArea::Params)?;
        if !offset.is_multiple_of(u64::from(params.hash_block_size)) {
            let unit = params.hash_block_size;
            return Err(BadArea::Offset { offset, unit });
        }
        Self::place(params, data_blocks, offset, None)
    }

    /// Places a superblock at `offset` (bytes, a multiple of 512), and its tree
    /// behind it, on the next multiple of the hash block size.
    ///
    /// # Errors
    /// [`BadArea`], for a tree that cannot lie there.
    pub fn with_superblock(superblock: &Superblock, offset: u64) -> Result<Self, BadArea> {
        const UNIT: u32 = 512;
        if !offset.is_multiple_of(u64::from(UNIT)) {
            return Err(BadArea::Offset { offset, unit: UNIT });
        }
        let params = superblock.params().clone();
        let tree_start = offset
            .checked_add(SUPERBLOCK_SIZE as u64)
            .and_then(|end| end.checked_next_multiple_of(u64::from(params.hash_block_size)))
            .ok_or(BadArea::Overflow(superblock.data_blocks()))?;
        let header = Header {
            offset,
            uuid: superblock.uuid(),
        };
        Self::place(params, superblock.data_blocks(), tree_start, Some(header))
    }

    /// Reads the superblock at `offset` (bytes) of a hash device.
    ///
    /// # Errors
    /// [`ReadAreaError`]: it cannot be read, or is no usable superblock.
    pub fn read(device: &impl ReadAt, offset: u64) -> Result<Self, ReadAreaError> {
        let mut bytes = [0; SUPERBLOCK_SIZE];
        device
            .read_exact_at(&mut bytes, offset)
            .map_err(|source| ReadAreaError::Read { offset, source })?;
        let superblock = Superblock::parse(&bytes)
            .map_err(|source| ReadAreaError::Superblock { offset, source })?;
        Self::with_superblock(&superblock, offset)
            .map_err(|source| ReadAreaError::Area { offset, source })
    }

    fn place(
        params: Params,
        data_blocks: u64,
        tree_start: u64,
        header: Option<Header>,
    ) -> Result<Self, BadArea> {
        let overflow = BadArea::Overflow(data_blocks);
        let mut blocks = data_blocks.checked_sub(1).ok_or(BadArea::NoData)?;
        let data_len = data_blocks.checked_mul(u64::from(params.data_block_size));
        // File offsets are signed: what lies beyond could never be read.
        if data_len.is_none_or(|len| i64::try_from(len).is_err()) {
            return Err(overflow);
        }
        let mut sizes = Vec::new();
        while blocks > 0 {
            blocks >>= params.fanout_bits();
            sizes.push(blocks + 1);
        }
        let mut end = tree_start;
        let mut levels = Vec::with_capacity(sizes.len());
        for &blocks in sizes.iter().rev() {
            levels.push(Level { start: end, blocks });
            end = blocks
                .checked_mul(u64::from(params.hash_block_size))
                .and_then(|len| end.checked_add(len))
                .filter(|&end| i64::try_from(end).is_ok())
                .ok_or(BadArea::Overflow(data_blocks))?;
        }
        levels.reverse();
        Ok(Self {
            params,
            data_blocks,
            header,
            tree_start,
            levels,
            end,
        })
    }

    /// How the tree is hashed.
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// Data blocks that the tree covers; at least 1.
    pub const fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// Bytes of data that the tree covers.
    pub const fn data_len(&self) -> u64 {
        // Cannot overflow: `place` has checked it.
        self.data_blocks * self.params.data_block_size as u64
    }

    /// Where the tree begins, in bytes from the start of the hash device: a
    /// multiple of the hash block size.
    pub const fn tree_start(&self) -> u64 {
        self.tree_start
    }

    /// Hash blocks of all levels together; 0 when there is one data block.
    pub const fn hash_blocks(&self) -> u64 {
        (self.end - self.tree_start) / self.params.hash_block_size as u64
    }

    /// Where the area ends, in bytes from the start of the hash device.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The superblock that describes this area, and its offset in bytes.
    pub fn superblock(&self) -> Option<(Superblock, u64)> {
        let Header { offset, uuid } = self.header?;
        let superblock = Superblock::new(self.params.clone(), self.data_blocks, uuid)
            .expect("the parameters were checked when the area was placed");
        Some((superblock, offset))
    }

    /// The levels, leaves first.
    pub(crate) fn levels(&self) -> &[Level] {
        &self.levels
    }
}
