//! Holds data against a tree, block by block, on all cores.

use std::io;

use crate::chunks::{Chunks, Workers};
use crate::device::ReadAt;
use crate::params::DIGEST_SIZE;
use crate::pipeline;
use crate::tree::{Match, TreeError, VerifiedTree};

/// What was found in a stretch of the data.
#[derive(Debug)]
pub struct Stretch {
    /// The number of its first block.
    pub first: u64,
    /// How many blocks it has.
    pub blocks: u64,
    /// What each block is, or why the stretch could not be read.
    pub found: io::Result<Vec<Match>>,
}

/// The comparison did not come to its end.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum CompareError<E> {
    #[error("hash tree is not that of the root hash")]
    Tree(#[source] TreeError),
    #[error("the comparison was ended")]
    Ended(E),
}

/// Reads all the data that `tree` covers, and hands what each block is to
/// `take`, in order, in stretches of up to 1 MiB.
///
/// Unlike [`verify`](crate::verify()), it is for data that may well be
/// different: a block that is not the tree's, or cannot be read, ends nothing.
///
/// # Errors
/// The tree cannot be read or proved, or `take` ends it.
pub fn compare<E: Send>(
    data: &impl ReadAt,
    tree: &VerifiedTree<impl ReadAt>,
    take: impl FnMut(Stretch) -> Result<(), E> + Send,
) -> Result<(), CompareError<E>> {
    compare_on(Workers::all(), data, tree, take)
}

fn compare_on<E: Send>(
    workers: Workers,
    data: &impl ReadAt,
    tree: &VerifiedTree<impl ReadAt>,
    mut take: impl FnMut(Stretch) -> Result<(), E> + Send,
) -> Result<(), CompareError<E>> {
    let chunks = Chunks::of(tree.area(), workers);
    let block_size = tree.area().params().data_block_size as usize;
    pipeline::in_order(
        workers.cores,
        chunks.count(),
        || {
            let digests = Vec::with_capacity(chunks.digests_len());
            (tree.path(), chunks.buffer(), digests)
        },
        |(path, buffer, digests), number| {
            let chunk = chunks.get(number);
            let found = match chunk.read(data, buffer) {
                Err(error) => Err(error),
                Ok(bytes) => {
                    digests.clear();
                    tree.data_hasher().digest_blocks(bytes, digests);
                    let (digests, _) = digests.as_chunks::<DIGEST_SIZE>();
                    let found = tree.compare_by(path, chunk.first_block, digests);
                    Ok(found.map_err(CompareError::Tree)?)
                }
            };
            Ok(Stretch {
                first: chunk.first_block,
                blocks: (chunk.len / block_size) as u64,
                found,
            })
        },
        |stretch| take(stretch).map_err(CompareError::Ended),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::oracle::{self, Case};

    /// A device with a sector that cannot be read.
    struct Worn<'a> {
        bytes: &'a [u8],
        bad: u64,
    }

    impl ReadAt for Worn<'_> {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            if (offset..offset + buf.len() as u64).contains(&self.bad) {
                return Err(io::Error::other("a bad sector"));
            }
            self.bytes.read_exact_at(buf, offset)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_block_is_told_and_one_that_cannot_be_read_hides_only_its_stretch(
            Case { mut data, area } in oracle::cases(),
            workers in oracle::workers(),
            spoilt: Index,
            bad: Index,
        ) {
            let (hash, root_hash) = oracle::build(&data, &area);
            let size = area.params().data_block_size as usize;
            let spoilt = spoilt.index(data.len());
            data[spoilt] ^= 1;
            let bad = bad.index(data.len());
            let worn = Worn { bytes: &data, bad: bad as u64 };
            let tree = VerifiedTree::open(&hash, area.clone(), &root_hash).expect("the tree is good");
            let mut told = 0;
            let mut wrong = Vec::new();
            let outcome = compare_on::<()>(workers, &worn, &tree, |stretch| {
                let blocks = usize::try_from(stretch.blocks).unwrap();
                let bytes = told * size..(told + blocks) * size;
                if stretch.first != told as u64 || stretch.found.is_err() != bytes.contains(&bad) {
                    wrong.push(stretch.first);
                }
                if let Ok(found) = stretch.found {
                    let as_expected = found.len() == blocks && found.iter().zip(told..).all(|(found, block)| {
                        (*found == Match::Different) == (block == spoilt / size)
                    });
                    if !as_expected {
                        wrong.push(stretch.first);
                    }
                }
                told += blocks;
                Ok(())
            });
            prop_assert!(outcome.is_ok());
            prop_assert_eq!(told * size, data.len());
            prop_assert!(wrong.is_empty(), "{:?}", wrong);
        }

        #[test]
        fn it_ends_when_it_is_told_to(
            Case { data, area } in oracle::cases(),
            workers in oracle::workers(),
        ) {
            let (hash, root_hash) = oracle::build(&data, &area);
            let tree = VerifiedTree::open(&hash, area, &root_hash).expect("the tree is good");
            let mut taken = 0;
            let outcome = compare_on(workers, &data, &tree, |_| {
                taken += 1;
                Err("enough")
            });
            prop_assert!(matches!(outcome, Err(CompareError::Ended("enough"))));
            prop_assert_eq!(taken, 1);
        }
    }
}
