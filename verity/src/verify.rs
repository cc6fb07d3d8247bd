//! Checks data and tree against a root hash on all cores.

use std::io;
use std::num::NonZeroUsize;

use partition_layout::RootHash;

use crate::area::HashArea;
use crate::chunks::{Chunk, Chunks};
use crate::device::ReadAt;
use crate::params::DIGEST_SIZE;
use crate::pipeline;
use crate::tree::{Path, TreeError, VerifiedTree};

/// Data or tree are not those of the root hash, or cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum VerifyError {
    #[error("cannot read {len} bytes of data at byte {offset}")]
    ReadData {
        offset: u64,
        len: usize,
        source: io::Error,
    },
    #[error("data block {block}, at byte {offset}, is corrupted")]
    Data { block: u64, offset: u64 },
    #[error("hash tree is not that of the root hash")]
    Tree(#[source] TreeError),
}

/// Checks every block of data and tree against `root_hash`.
///
/// # Errors
/// [`VerifyError`], naming the first bad block: upper tree levels come first,
/// from the top; then data in order, each leaf hash block just before the data
/// that it covers. Which it is does not depend on the number of cores.
pub fn verify(
    data: &impl ReadAt,
    hash: &impl ReadAt,
    area: &HashArea,
    root_hash: &RootHash,
) -> Result<(), VerifyError> {
    verify_with_progress(data, hash, area, root_hash, |_| {})
}

/// Does what [`verify`] does, and calls `progress` with the bytes of data that
/// have been found good so far.
///
/// # Errors
/// As [`verify`].
pub fn verify_with_progress(
    data: &impl ReadAt,
    hash: &impl ReadAt,
    area: &HashArea,
    root_hash: &RootHash,
    progress: impl FnMut(u64) + Send,
) -> Result<(), VerifyError> {
    verify_on(pipeline::cores(), data, hash, area, root_hash, progress)
}

fn verify_on(
    cores: NonZeroUsize,
    data: &impl ReadAt,
    hash: &impl ReadAt,
    area: &HashArea,
    root_hash: &RootHash,
    mut progress: impl FnMut(u64) + Send,
) -> Result<(), VerifyError> {
    let tree = VerifiedTree::open(hash, area.clone(), root_hash).map_err(VerifyError::Tree)?;
    let chunks = Chunks::of(area);
    pipeline::in_order(
        cores,
        chunks.count(),
        || Worker {
            tree: &tree,
            path: tree.path(),
            buffer: chunks.buffer(),
            digests: Vec::with_capacity(chunks.digests_len()),
        },
        |worker, number| worker.check(data, chunks.get(number)),
        |good: u64| {
            progress(good);
            Ok(())
        },
    )
}

struct Worker<'a, H> {
    tree: &'a VerifiedTree<&'a H>,
    path: Path,
    buffer: Vec<u8>,
    digests: Vec<u8>,
}

impl<H: ReadAt> Worker<'_, H> {
    /// Returns where the chunk, now known to be good, ends in the data.
    fn check(&mut self, data: &impl ReadAt, chunk: Chunk) -> Result<u64, VerifyError> {
        let Chunk { offset, len, .. } = chunk;
        let blocks =
            chunk
                .read(data, &mut self.buffer)
                .map_err(|source| VerifyError::ReadData {
                    offset,
                    len,
                    source,
                })?;
        self.digests.clear();
        self.tree
            .data_hasher()
            .digest_blocks(blocks, &mut self.digests);
        let (digests, _) = self.digests.as_chunks::<DIGEST_SIZE>();
        for (block, digest) in (chunk.first_block..).zip(digests) {
            let expected = self
                .tree
                .leaf_by(&mut self.path, block)
                .map_err(VerifyError::Tree)?;
            if *digest != expected {
                let size = u64::from(self.tree.area().params().data_block_size);
                let offset = block * size;
                return Err(VerifyError::Data { block, offset });
            }
        }
        Ok(offset + len as u64)
    }
}
