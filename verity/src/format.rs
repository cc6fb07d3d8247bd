//! Builds a hash area on all cores.

use std::io;
use std::num::NonZeroUsize;

use partition_layout::RootHash;

use crate::area::HashArea;
use crate::builder::{BuildError, TreeBuilder};
use crate::chunks::Chunks;
use crate::device::{ReadAt, WriteAt};
use crate::digest::BlockHasher;
use crate::pipeline;

/// The hash area could not be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum FormatError {
    #[error("cannot read {len} bytes of data at byte {offset}")]
    ReadData {
        offset: u64,
        len: usize,
        source: io::Error,
    },
    #[error("cannot build the hash tree")]
    Build(#[source] BuildError),
    #[error("cannot write the superblock at byte {offset}")]
    WriteSuperblock { offset: u64, source: io::Error },
}

/// Writes superblock (if `area` has one) and hash tree of `data` to `hash`, and
/// returns the root hash. Whatever it wrote may still be in a cache.
///
/// The bytes are those that `veritysetup format` writes to a new file. The
/// superblock goes last, so a tree cut short has none; the gap between it and
/// the tree is written as zeros, so that the area's bytes depend on nothing
/// else. Nothing outside the area is written. [`Discard`](crate::Discard) as
/// `hash` gives the root hash alone.
///
/// # Errors
/// `data` ends early or cannot be read, or `hash` cannot be written.
pub fn format(
    data: &impl ReadAt,
    area: &HashArea,
    hash: &mut impl WriteAt,
) -> Result<RootHash, FormatError> {
    format_on(pipeline::cores(), data, area, hash)
}

fn format_on(
    cores: NonZeroUsize,
    data: &impl ReadAt,
    area: &HashArea,
    hash: &mut impl WriteAt,
) -> Result<RootHash, FormatError> {
    let chunks = Chunks::of(area);
    let hasher = BlockHasher::new(area.params(), area.params().data_block_size as usize);
    let mut builder = TreeBuilder::new(area, &mut *hash);
    pipeline::in_order(
        cores,
        chunks.count(),
        || chunks.buffer(),
        |buffer, number| {
            let chunk = chunks.get(number);
            let blocks = chunk.read(data, buffer).map_err(|source| {
                let (offset, len) = (chunk.offset, chunk.len);
                FormatError::ReadData {
                    offset,
                    len,
                    source,
                }
            })?;
            let mut digests = Vec::with_capacity(chunks.digests_len());
            hasher.digest_blocks(blocks, &mut digests);
            Ok(digests)
        },
        |digests: Vec<u8>| builder.push_digests(&digests).map_err(FormatError::Build),
    )?;
    let root_hash = builder.finish().map_err(FormatError::Build)?;
    if let Some((superblock, offset)) = area.superblock() {
        let mut bytes = superblock.to_bytes().to_vec();
        let gap = usize::try_from(area.tree_start() - offset).unwrap_or(bytes.len());
        bytes.resize(gap, 0);
        hash.write_all_at(&bytes, offset)
            .map_err(|source| FormatError::WriteSuperblock { offset, source })?;
    }
    Ok(root_hash)
}
