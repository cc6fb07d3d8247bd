use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

use release::limits::{BLOCK_SIZE, PACK_FRAME_BLOCKS};
use release::pack::Extent;
use sha2::{Digest, Sha256};

/// Half of a block's SHA-256. It only says where to look: whoever unpacks a
/// patch checks every block by the whole hash.
pub(crate) type Key = [u8; 16];

/// A file, and a key for each block of it.
#[derive(Debug)]
pub(crate) struct Blocks {
    file: File,
    size: u64,
    keys: Vec<Key>,
}

impl Blocks {
    /// Reads a whole file.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut blocks = Self {
            file,
            size,
            keys: Vec::new(),
        };
        let count = size.div_ceil(BLOCK_SIZE);
        let mut keys = Vec::new();
        verity::in_order(
            cores(),
            count.div_ceil(PACK_FRAME_BLOCKS),
            || (),
            |(), chunk| {
                let bytes = blocks.gather(&[extent(chunk * PACK_FRAME_BLOCKS, count)?])?;
                let size = usize::try_from(BLOCK_SIZE).map_err(io::Error::other)?;
                Ok::<_, io::Error>(bytes.chunks(size).map(key).collect::<Vec<Key>>())
            },
            |some| {
                keys.extend(some);
                Ok(())
            },
        )?;
        blocks.keys = keys;
        Ok(blocks)
    }

    /// Returns the size of the file, in bytes.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Returns the content of these extents, one after the other.
    pub(crate) fn gather(&self, extents: &[Extent]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        for extent in extents {
            let range = extent.bytes(self.size);
            let bytes = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            let start = all.len();
            all.resize(start + bytes, 0);
            let place = all.get_mut(start..).unwrap_or_default();
            self.file.read_exact_at(place, range.start)?;
        }
        Ok(all)
    }
}

/// Returns the extent of a frame's size that starts at a block of a file of `count` blocks.
fn extent(first: u64, count: u64) -> io::Result<Extent> {
    let blocks = PACK_FRAME_BLOCKS.min(count - first);
    Ok(Extent {
        first: u32::try_from(first).map_err(io::Error::other)?,
        blocks: u32::try_from(blocks).map_err(io::Error::other)?,
    })
}

/// Returns the key of a block.
pub(crate) fn key(block: &[u8]) -> Key {
    let digest: [u8; 32] = Sha256::digest(block).into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// Returns how many threads there may be.
pub(crate) fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
