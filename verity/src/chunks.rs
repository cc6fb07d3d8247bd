//! The data in pieces that one core reads and hashes at a time.

use std::io;
use std::num::NonZeroUsize;
use std::thread;

use crate::aligned::AlignedBuffer;
use crate::area::HashArea;
use crate::device::ReadAt;
use crate::params::DIGEST_SIZE;

/// Who reads and hashes, and in what portions. No result depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workers {
    pub(crate) cores: NonZeroUsize,
    /// Bytes that a core reads at once; from 128 KiB to 2 MiB it made no
    /// difference to the throughput.
    pub(crate) portion: u64,
}

impl Workers {
    /// All cores that this process may use.
    pub(crate) fn all() -> Self {
        Self {
            cores: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            portion: 1024 * 1024,
        }
    }
}

/// How the data of a tree is divided: whole blocks, one portion each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunks {
    block_size: u64,
    data_blocks: u64,
    blocks_each: u64,
}

/// One piece.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk {
    /// The number of its first data block.
    pub(crate) first_block: u64,
    /// Bytes from the start of the data.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: usize,
}

impl Chunks {
    pub(crate) fn of(area: &HashArea, workers: Workers) -> Self {
        let block_size = u64::from(area.params().data_block_size);
        Self {
            block_size,
            data_blocks: area.data_blocks(),
            blocks_each: (workers.portion / block_size).max(1),
        }
    }

    pub(crate) const fn count(self) -> u64 {
        self.data_blocks.div_ceil(self.blocks_each)
    }

    /// The chunk `number`, which must be below `count`.
    pub(crate) fn get(self, number: u64) -> Chunk {
        let first_block = number * self.blocks_each;
        let blocks = self.blocks_each.min(self.data_blocks - first_block);
        Chunk {
            first_block,
            offset: first_block * self.block_size,
            len: usize::try_from(blocks * self.block_size).unwrap_or(usize::MAX),
        }
    }

    /// Room for any chunk's data.
    pub(crate) fn buffer(self) -> AlignedBuffer {
        let blocks = self.blocks_each.min(self.data_blocks);
        AlignedBuffer::new(usize::try_from(blocks * self.block_size).unwrap_or(usize::MAX))
    }

    /// Bytes of the digests of a chunk's blocks.
    pub(crate) fn digests_len(self) -> usize {
        usize::try_from(self.blocks_each).unwrap_or(usize::MAX) * DIGEST_SIZE
    }
}

impl Chunk {
    /// Reads the chunk's data into `buffer`.
    pub(crate) fn read<'a>(
        &self,
        data: &impl ReadAt,
        buffer: &'a mut [u8],
    ) -> io::Result<&'a [u8]> {
        let bytes = buffer
            .get_mut(..self.len)
            .ok_or(io::ErrorKind::InvalidInput)?;
        data.read_exact_at(bytes, self.offset)?;
        Ok(bytes)
    }
}
