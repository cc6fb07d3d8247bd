//! Checks data and tree against a root hash on all cores.

use std::io;

use partition_layout::RootHash;

use crate::aligned::AlignedBuffer;
use crate::area::HashArea;
use crate::chunks::{Chunk, Chunks, Workers};
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
    verify_on(Workers::all(), data, hash, area, root_hash, progress)
}

fn verify_on(
    workers: Workers,
    data: &impl ReadAt,
    hash: &impl ReadAt,
    area: &HashArea,
    root_hash: &RootHash,
    mut progress: impl FnMut(u64) + Send,
) -> Result<(), VerifyError> {
    let tree = VerifiedTree::open(hash, area.clone(), root_hash).map_err(VerifyError::Tree)?;
    let chunks = Chunks::of(area, workers);
    pipeline::in_order(
        workers.cores,
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
    buffer: AlignedBuffer,
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::oracle::{self, Case};

    /// The name that a bad byte of the tree must be given.
    fn tree_block(area: &HashArea, byte: u64) -> (usize, u64, u64) {
        let size = u64::from(area.params().hash_block_size);
        let (number, level) = area
            .levels()
            .iter()
            .enumerate()
            .find(|(_, level)| byte >= level.start && byte < level.start + level.blocks * size)
            .expect("the byte is in the tree");
        let block = (byte - level.start) / size;
        (number, block, level.start + block * size)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_whole_is_found_good_and_progress_ends_at_the_end(
            Case { data, area } in oracle::cases(),
            workers in oracle::workers(),
        ) {
            let (hash, root_hash) = oracle::build(&data, &area);
            let mut seen = vec![0];
            let outcome = verify_on(workers, &data, &hash, &area, &root_hash, |good| seen.push(good));
            prop_assert!(outcome.is_ok(), "{:?}", outcome);
            prop_assert!(seen.is_sorted());
            prop_assert_eq!(seen.last().copied(), Some(area.data_len()));
        }

        #[test]
        fn any_flipped_byte_of_the_data_is_found_and_named(
            Case { mut data, area } in oracle::cases(),
            workers in oracle::workers(),
            at: Index,
            flip in 1_u8..,
        ) {
            let (hash, root_hash) = oracle::build(&data, &area);
            let at = at.index(data.len());
            data[at] ^= flip;
            let outcome = verify_on(workers, &data, &hash, &area, &root_hash, |_| {});
            let size = u64::from(area.params().data_block_size);
            let expected = at as u64 / size;
            let named = matches!(
                outcome,
                Err(VerifyError::Data { block, offset }) if block == expected && offset == block * size
            );
            prop_assert!(named, "byte {}: {:?}", at, outcome);
        }

        #[test]
        fn any_flipped_byte_of_the_tree_is_found_and_named(
            Case { data, area } in oracle::cases(),
            workers in oracle::workers(),
            at: Index,
            flip in 1_u8..,
        ) {
            prop_assume!(area.hash_blocks() > 0);
            let (mut hash, root_hash) = oracle::build(&data, &area);
            let start = oracle::len(area.tree_start());
            let at = start + at.index(hash.len() - start);
            hash[at] ^= flip;
            let outcome = verify_on(workers, &data, &hash, &area, &root_hash, |_| {});
            let Err(VerifyError::Tree(TreeError::Corrupted { level, block, offset })) = outcome else {
                return Err(TestCaseError::fail(format!("byte {at}: {outcome:?}")));
            };
            prop_assert_eq!((level, block, offset), tree_block(&area, at as u64));
        }

        #[test]
        fn of_several_bad_blocks_the_first_is_named(
            Case { mut data, area } in oracle::cases(),
            workers in oracle::workers(),
            bad in vec(any::<Index>(), 1..5),
        ) {
            let (hash, root_hash) = oracle::build(&data, &area);
            let size = area.params().data_block_size as usize;
            let blocks = data.len() / size;
            for index in &bad {
                data[index.index(blocks) * size] ^= 1;
            }
            // The same block twice is good again.
            let first = (0..blocks).find(|block| {
                bad.iter().filter(|index| index.index(blocks) == *block).count() % 2 == 1
            });
            let outcome = verify_on(workers, &data, &hash, &area, &root_hash, |_| {});
            match (first, outcome) {
                (None, Ok(())) => {}
                (Some(first), Err(VerifyError::Data { block, .. })) => {
                    prop_assert_eq!(first as u64, block);
                }
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            }
        }

        #[test]
        fn another_root_hash_proves_nothing(
            Case { data, area } in oracle::cases(),
            at in 0_usize..32,
            flip in 1_u8..,
        ) {
            let (hash, root_hash) = oracle::build(&data, &area);
            let mut other = *root_hash.as_bytes();
            other[at] ^= flip;
            let outcome = verify(&data, &hash, &area, &RootHash::new(other));
            let top = area.levels().len().checked_sub(1);
            let named = match (&outcome, top) {
                (Err(VerifyError::Data { block: 0, .. }), None) => true,
                (Err(VerifyError::Tree(TreeError::Corrupted { level, block: 0, .. })), Some(top)) => {
                    *level == top
                }
                _ => false,
            };
            prop_assert!(named, "{:?}", outcome);
        }

        #[test]
        fn data_or_tree_that_end_early_are_errors(
            Case { data, area } in oracle::cases(),
            cut: Index,
        ) {
            let (hash, root_hash) = oracle::build(&data, &area);
            let short = &data[..cut.index(data.len())];
            let outcome = verify(&short, &hash, &area, &root_hash);
            let named = matches!(outcome, Err(VerifyError::ReadData { .. }));
            prop_assert!(named, "{:?}", outcome);
            prop_assume!(area.hash_blocks() > 0);
            let short = &hash[..cut.index(hash.len())];
            let outcome = verify(&data, &short, &area, &root_hash);
            let named = matches!(outcome, Err(VerifyError::Tree(TreeError::Read { .. })));
            prop_assert!(named, "{:?}", outcome);
        }
    }
}
