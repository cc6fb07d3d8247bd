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
use std::ops::Range;

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

    /// Where the hash blocks of the lowest level lie, in bytes from the start of
    /// the hash device. They are the last of the area, and the largest part of
    /// it; empty when there is one data block.
    pub fn leaves(&self) -> Range<u64> {
        let start = self.levels.first().map_or(self.end, |level| level.start);
        start..self.end
    }

    /// How many data blocks a hash block of the lowest level is about.
    pub const fn blocks_per_leaf(&self) -> u64 {
        1 << self.params.fanout_bits()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HashType;

    fn params(data_block_size: u32, hash_block_size: u32) -> Params {
        Params {
            data_block_size,
            hash_block_size,
            salt: Vec::new(),
            hash_type: HashType::Normal,
        }
    }

    #[test]
    fn levels_lie_from_the_root_down_behind_the_superblock() {
        // data block, hash block, data blocks, offset; tree start, end, blocks per level
        type Row = (u32, u32, u64, u64, u64, u64, &'static [u64]);
        let table: [Row; 8] = [
            (4096, 4096, 1, 0, 4096, 4096, &[]),
            (4096, 4096, 2, 0, 4096, 8192, &[1]),
            (4096, 4096, 128, 0, 4096, 8192, &[1]),
            (4096, 4096, 129, 0, 4096, 16384, &[2, 1]),
            (4096, 512, 1, 0, 512, 512, &[]),
            (512, 65536, 2048, 0, 65536, 131_072, &[1]),
            (4096, 4096, 128, 3584, 4096, 8192, &[1]),
            (4096, 4096, 16385, 4096, 8192, 548_864, &[129, 2, 1]),
        ];
        for row in table {
            let (data, hash, blocks, offset, start, end, levels) = row;
            let superblock =
                Superblock::new(params(data, hash), blocks, Uuid::nil()).expect("good");
            let area = HashArea::with_superblock(&superblock, offset).expect("good");
            let found: Vec<u64> = area.levels().iter().map(|level| level.blocks).collect();
            assert_eq!(
                (area.tree_start(), area.end(), &found[..]),
                (start, end, levels),
                "{row:?}"
            );
            assert_eq!(area.superblock(), Some((superblock, offset)), "{row:?}");
            let leaves = levels.first().copied().unwrap_or_default() * u64::from(hash);
            assert_eq!(area.leaves(), end - leaves..end, "{row:?}");
        }
    }

    #[test]
    fn a_place_where_no_tree_can_lie_is_refused() {
        let bare = |blocks, offset| HashArea::bare(params(4096, 4096), blocks, offset).map(drop);
        let headed = |blocks, offset| {
            let superblock =
                Superblock::new(params(4096, 4096), blocks, Uuid::nil()).expect("good");
            HashArea::with_superblock(&superblock, offset).map(drop)
        };
        assert_eq!(bare(0, 0), Err(BadArea::NoData));
        assert_eq!(headed(0, 0), Err(BadArea::NoData));
        assert_eq!(
            bare(1, 512),
            Err(BadArea::Offset {
                offset: 512,
                unit: 4096
            })
        );
        assert_eq!(
            headed(1, 100),
            Err(BadArea::Offset {
                offset: 100,
                unit: 512
            })
        );
        let last = u64::MAX - 511;
        assert_eq!(headed(1, last), Err(BadArea::Overflow(1)));
        for blocks in [1 << 51, 1 << 52, u64::MAX] {
            assert_eq!(bare(blocks, 0), Err(BadArea::Overflow(blocks)));
        }
        let far = (1 << 63) - 4096;
        assert_eq!(bare(1, far), Ok(()));
        assert_eq!(bare(2, far), Err(BadArea::Overflow(2)));
        let bad = HashArea::bare(params(1000, 4096), 1, 0).map(drop);
        assert_eq!(bad, Err(BadArea::Params(BadParams::DataBlockSize(1000))));
    }
}
