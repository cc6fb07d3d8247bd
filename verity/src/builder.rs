//! Builds a tree from data that comes in order, in bounded memory.

use std::io;

use partition_layout::RootHash;

use crate::area::HashArea;
use crate::device::WriteAt;
use crate::digest::{BlockHasher, Digest};

/// A level is written in runs of about this many bytes: small hash blocks
/// would cost a system call each.
const RUN: usize = 64 * 1024;

/// Takes the data of a tree in order and writes the tree block by block; holds
/// one run of hash blocks per level.
///
/// With [`Discard`](crate::Discard) as its sink it only computes the root
/// hash, which is how a written partition is proved by reading it back.
///
/// It writes no superblock. A builder that is dropped unfinished leaves a
/// partial tree behind.
#[derive(Debug)]
pub struct TreeBuilder<W> {
    sink: W,
    data_hasher: BlockHasher,
    hash_block_size: usize,
    data_block_size: usize,
    data_blocks: u64,
    taken: u64,
    /// The start of a data block whose end has not come yet.
    partial: Vec<u8>,
    levels: Vec<LevelBuffer>,
    /// The digest of the only data block, or of the highest hash block.
    top: Option<Digest>,
}

#[derive(Debug)]
struct LevelBuffer {
    hasher: BlockHasher,
    /// Where `bytes` go on the hash device.
    position: u64,
    bytes: Vec<u8>,
}

/// The tree could not be built.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum BuildError {
    #[error("cannot write {len} bytes of the hash tree at byte {offset}")]
    Write {
        offset: u64,
        len: usize,
        source: io::Error,
    },
    #[error("more than {expected} data blocks were given")]
    TooMuchData { expected: u64 },
    #[error("{given} data blocks and {rest} bytes were given, the tree covers {expected} blocks")]
    TooLittleData {
        given: u64,
        rest: usize,
        expected: u64,
    },
}

impl<W: WriteAt> TreeBuilder<W> {
    /// Starts the tree of `area`; `sink` is the hash device.
    pub fn new(area: &HashArea, sink: W) -> Self {
        let params = area.params();
        let hash_block_size = params.hash_block_size as usize;
        let levels = area.levels().iter().map(|level| LevelBuffer {
            hasher: BlockHasher::new(params, hash_block_size),
            position: level.start,
            bytes: Vec::with_capacity(RUN.max(hash_block_size)),
        });
        let data_block_size = params.data_block_size as usize;
        Self {
            sink,
            data_hasher: BlockHasher::new(params, data_block_size),
            hash_block_size,
            data_block_size,
            data_blocks: area.data_blocks(),
            taken: 0,
            partial: Vec::with_capacity(data_block_size),
            levels: levels.collect(),
            top: None,
        }
    }

    /// Takes the next bytes of the data; any number of them.
    ///
    /// # Errors
    /// The tree cannot be written, or there is more data than it covers.
    pub fn push(&mut self, mut data: &[u8]) -> Result<(), BuildError> {
        if !self.partial.is_empty() {
            let missing = self.data_block_size - self.partial.len();
            let (head, rest) = data.split_at(missing.min(data.len()));
            self.partial.extend_from_slice(head);
            data = rest;
            if self.partial.len() < self.data_block_size {
                return Ok(());
            }
            let digest = self.data_hasher.digest(&self.partial);
            self.partial.clear();
            self.push_digests(&digest)?;
        }
        let whole = data.len() - data.len() % self.data_block_size;
        let (blocks, rest) = data.split_at(whole);
        let mut digests = Vec::new();
        self.data_hasher.digest_blocks(blocks, &mut digests);
        self.push_digests(&digests)?;
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Takes the digests of the next data blocks, one after the other.
    pub(crate) fn push_digests(&mut self, digests: &[u8]) -> Result<(), BuildError> {
        let (digests, _) = digests.as_chunks();
        for digest in digests {
            if self.taken == self.data_blocks {
                let expected = self.data_blocks;
                return Err(BuildError::TooMuchData { expected });
            }
            self.taken += 1;
            self.append(0, *digest)?;
        }
        Ok(())
    }

    /// Ends the tree and returns its root hash. What it wrote may still be in a
    /// cache.
    ///
    /// # Errors
    /// The tree cannot be written, or it covers more data than was given.
    pub fn finish(mut self) -> Result<RootHash, BuildError> {
        if self.taken != self.data_blocks || !self.partial.is_empty() {
            return Err(BuildError::TooLittleData {
                given: self.taken,
                rest: self.partial.len(),
                expected: self.data_blocks,
            });
        }
        for number in 0..self.levels.len() {
            let Some(level) = self.levels.get_mut(number) else {
                break;
            };
            let filled = level.bytes.len() % self.hash_block_size;
            if filled > 0 {
                let padded = level.bytes.len() - filled + self.hash_block_size;
                level.bytes.resize(padded, 0);
                self.complete(number)?;
            }
            if let Some(level) = self.levels.get_mut(number) {
                level.flush(&mut self.sink)?;
            }
        }
        let top = self
            .top
            .expect("the highest level is one block, and all levels are complete");
        Ok(RootHash::new(top))
    }

    /// Adds a digest to a level; above the highest level there is the root hash.
    fn append(&mut self, number: usize, digest: Digest) -> Result<(), BuildError> {
        let Some(level) = self.levels.get_mut(number) else {
            self.top = Some(digest);
            return Ok(());
        };
        level.bytes.extend_from_slice(&digest);
        if level.bytes.len() % self.hash_block_size == 0 {
            self.complete(number)?;
        }
        Ok(())
    }

    /// Hashes the last block of a level, now whole, into the level above.
    fn complete(&mut self, number: usize) -> Result<(), BuildError> {
        let Some(level) = self.levels.get_mut(number) else {
            return Ok(());
        };
        let Some((_, block)) = level
            .bytes
            .len()
            .checked_sub(self.hash_block_size)
            .and_then(|start| level.bytes.split_at_checked(start))
        else {
            return Ok(());
        };
        let digest = level.hasher.digest(block);
        if level.bytes.len() >= RUN {
            level.flush(&mut self.sink)?;
        }
        self.append(number + 1, digest)
    }
}

impl LevelBuffer {
    fn flush(&mut self, sink: &mut impl WriteAt) -> Result<(), BuildError> {
        let len = self.bytes.len();
        sink.write_all_at(&self.bytes, self.position)
            .map_err(|source| BuildError::Write {
                offset: self.position,
                len,
                source,
            })?;
        self.position += len as u64;
        self.bytes.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::device::Discard;
    use crate::oracle::{self, Case};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_does_not_matter_how_the_data_is_cut(
            Case { data, area } in oracle::cases(),
            cuts in vec(any::<Index>(), 0..20),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
            cuts.sort_unstable();
            let mut hash = Vec::new();
            let mut builder = TreeBuilder::new(&area, &mut hash);
            let mut start = 0;
            for cut in cuts.into_iter().chain([data.len()]) {
                builder.push(&data[start..cut]).expect("memory does not fail");
                start = cut;
            }
            let root_hash = builder.finish().expect("all data was given");
            let (expected, expected_root) = oracle::build(&data, &area);
            prop_assert_eq!(root_hash, expected_root);
            // Where the superblock would be stays as it was.
            hash.resize(expected.len(), 0);
            let header = expected.len() - oracle::len(area.end() - area.tree_start());
            prop_assert!(hash[header..] == expected[header..]);
        }

        #[test]
        fn other_data_than_the_tree_covers_has_no_root_hash(
            Case { data, area } in oracle::cases(),
            less: Index,
        ) {
            let mut builder = TreeBuilder::new(&area, Discard);
            builder.push(&data[..less.index(data.len())]).expect("memory does not fail");
            let short = matches!(builder.finish(), Err(BuildError::TooLittleData { .. }));
            prop_assert!(short);

            let mut builder = TreeBuilder::new(&area, Discard);
            builder.push(&data).expect("memory does not fail");
            let block = &data[..area.params().data_block_size as usize];
            let long = matches!(builder.push(block), Err(BuildError::TooMuchData { .. }));
            prop_assert!(long);
        }
    }

    #[test]
    fn many_tiny_blocks_need_no_more_than_one_run_per_level() {
        let params = crate::Params {
            data_block_size: 512,
            hash_block_size: 512,
            salt: Vec::new(),
            hash_type: crate::HashType::Normal,
        };
        let area = HashArea::bare(params, 1 << 21, 0).expect("a possible tree");
        let mut builder = TreeBuilder::new(&area, Discard);
        for _ in 0..3000 {
            builder
                .push_digests(&[0; 32 * 64])
                .expect("nothing is written");
        }
        for level in &builder.levels {
            assert!(level.bytes.capacity() <= RUN, "{}", level.bytes.capacity());
        }
    }
}
