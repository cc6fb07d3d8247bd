//! A tree that is believed only as far as it has been proved.

use std::io;
use std::sync::{Mutex, PoisonError};

use partition_layout::RootHash;

use crate::area::HashArea;
use crate::device::ReadAt;
use crate::digest::{BlockHasher, Digest};
use crate::params::DIGEST_SIZE;

/// A hash tree on a device, proved from the root hash down.
///
/// All levels above the leaves are checked when it is opened. Leaf hash blocks
/// are read and checked on demand, and upper blocks again on the way to them:
/// only one block per level is held, so memory does not grow with the image,
/// and a device that changes behind our back gains nothing.
#[derive(Debug)]
pub struct VerifiedTree<R> {
    device: R,
    area: HashArea,
    root_hash: Digest,
    data_hasher: BlockHasher,
    hash_hasher: BlockHasher,
    path: Mutex<Path>,
}

/// Whether a block is the one that the tree covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Its digest is the tree's.
    Same,
    /// It is another block.
    Different,
}

/// The tree cannot be read or is not the root hash's.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum TreeError {
    #[error("cannot read block {block} of tree level {level}, at byte {offset} of the hash device")]
    Read {
        level: usize,
        block: u64,
        offset: u64,
        source: io::Error,
    },
    #[error(
        "block {block} of tree level {level}, at byte {offset} of the hash device, is corrupted"
    )]
    Corrupted {
        level: usize,
        block: u64,
        offset: u64,
    },
    #[error(
        "block {block} of tree level {level} has data in its spare area, at byte {offset} of the hash device"
    )]
    SpareNotZero {
        level: usize,
        block: u64,
        offset: u64,
    },
    #[error("data block {block} is not in the tree, which covers {data_blocks} blocks")]
    NoSuchBlock { block: u64, data_blocks: u64 },
}

/// The proved blocks on the way from the root to one leaf, lowest level first.
#[derive(Debug, Clone)]
pub(crate) struct Path(Vec<Proved>);

#[derive(Debug, Clone)]
struct Proved {
    /// Which block of the level `bytes` is, when it has been proved.
    number: Option<u64>,
    bytes: Vec<u8>,
}

impl<R: ReadAt> VerifiedTree<R> {
    /// Opens the tree that lies in `area` of `device`, and checks every level
    /// above the leaves against `root_hash`.
    ///
    /// # Errors
    /// [`TreeError`], naming the first block, from the top, that is not right.
    pub fn open(device: R, area: HashArea, root_hash: &RootHash) -> Result<Self, TreeError> {
        let params = area.params();
        let data_hasher = BlockHasher::new(params, params.data_block_size as usize);
        let hash_hasher = BlockHasher::new(params, params.hash_block_size as usize);
        let mut path = Path::new(&area);
        let tree = Self {
            device,
            area,
            root_hash: *root_hash.as_bytes(),
            data_hasher,
            hash_hasher,
            path: Mutex::new(path.clone()),
        };
        for number in (1..tree.area.levels().len()).rev() {
            let blocks = tree.area.levels().get(number).map_or(0, |it| it.blocks);
            for block in 0..blocks {
                tree.prove(&mut path, number, block)?;
            }
        }
        Ok(tree)
    }

    /// Where the tree lies and what it covers.
    pub const fn area(&self) -> &HashArea {
        &self.area
    }

    /// The device that the tree lies on.
    pub const fn device(&self) -> &R {
        &self.device
    }

    /// Returns the digest of data block `block`.
    ///
    /// # Errors
    /// [`TreeError`]: its leaf cannot be read or proved, or there is no such block.
    pub fn leaf(&self, block: u64) -> Result<[u8; DIGEST_SIZE], TreeError> {
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        self.leaf_by(&mut path, block)
    }

    /// Tells whether `bytes` are the data block `block` of the tree.
    ///
    /// # Errors
    /// As [`leaf`](Self::leaf). Bytes that do not fill a block are [`Match::Different`].
    pub fn check_block(&self, block: u64, bytes: &[u8]) -> Result<Match, TreeError> {
        let digest = self.leaf(block)?;
        let whole = bytes.len() == self.area.params().data_block_size as usize;
        Ok(if whole && self.data_hasher.digest(bytes) == digest {
            Match::Same
        } else {
            Match::Different
        })
    }

    /// Tells, for data blocks from `first` on, one after the other in `blocks`,
    /// whether each is the one of the tree.
    ///
    /// # Errors
    /// As [`leaf`](Self::leaf). An incomplete last block is [`Match::Different`].
    pub fn check_blocks(&self, first: u64, blocks: &[u8]) -> Result<Vec<Match>, TreeError> {
        let size = self.area.params().data_block_size as usize;
        let mut digests = Vec::with_capacity(blocks.len() / size * DIGEST_SIZE);
        self.data_hasher.digest_blocks(blocks, &mut digests);
        let (digests, _) = digests.as_chunks::<DIGEST_SIZE>();
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        let mut matches = self.compare_by(&mut path, first, digests)?;
        if !blocks.len().is_multiple_of(size) {
            matches.push(Match::Different);
        }
        Ok(matches)
    }

    /// Returns the digest that the tree would have for `block`, wherever it lies.
    pub fn digest(&self, block: &[u8]) -> [u8; DIGEST_SIZE] {
        self.data_hasher.digest(block)
    }

    /// Returns the digest of hash block `number` of the lowest level, which is
    /// what proves it. Of the lowest level nothing is read.
    ///
    /// # Errors
    /// As [`leaf`](Self::leaf).
    pub fn leaf_block(&self, number: u64) -> Result<[u8; DIGEST_SIZE], TreeError> {
        let bits = self.area.params().fanout_bits();
        let blocks = self.area.levels().first().map_or(0, |level| level.blocks);
        if number >= blocks {
            return Err(TreeError::NoSuchBlock {
                block: number.saturating_mul(self.area.blocks_per_leaf()),
                data_blocks: self.area.data_blocks(),
            });
        }
        let mut path = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        if self.area.levels().len() > 1 {
            self.prove(&mut path, 1, number >> bits)?;
        }
        Ok(self.digest_at(&path, 1, number))
    }

    /// Tells whether `bytes` are the hash block `number` of the lowest level.
    ///
    /// # Errors
    /// As [`leaf_block`](Self::leaf_block).
    pub fn check_leaf_block(&self, number: u64, bytes: &[u8]) -> Result<Match, TreeError> {
        let digest = self.leaf_block(number)?;
        let whole = bytes.len() == self.area.params().hash_block_size as usize;
        let first = number.saturating_mul(self.area.blocks_per_leaf());
        let digests = self.area.data_blocks().saturating_sub(first);
        let same = whole && self.hash_hasher.digest(bytes) == digest;
        Ok(if same && spare_is_zero(bytes, digests) {
            Match::Same
        } else {
            Match::Different
        })
    }

    /// Returns the digest of a hash block, wherever it lies.
    pub fn hash_block_digest(&self, block: &[u8]) -> [u8; DIGEST_SIZE] {
        self.hash_hasher.digest(block)
    }

    pub(crate) fn compare_by(
        &self,
        path: &mut Path,
        first: u64,
        digests: &[Digest],
    ) -> Result<Vec<Match>, TreeError> {
        let compare = |(block, digest): (u64, &Digest)| {
            Ok(if *digest == self.leaf_by(path, block)? {
                Match::Same
            } else {
                Match::Different
            })
        };
        (first..).zip(digests).map(compare).collect()
    }

    pub(crate) const fn data_hasher(&self) -> &BlockHasher {
        &self.data_hasher
    }

    /// A path of a thread's own, so that threads do not wait for each other.
    pub(crate) fn path(&self) -> Path {
        Path::new(&self.area)
    }

    pub(crate) fn leaf_by(&self, path: &mut Path, block: u64) -> Result<Digest, TreeError> {
        let data_blocks = self.area.data_blocks();
        if block >= data_blocks {
            return Err(TreeError::NoSuchBlock { block, data_blocks });
        }
        let bits = self.area.params().fanout_bits();
        if !self.area.levels().is_empty() {
            self.prove(path, 0, block >> bits)?;
        }
        Ok(self.digest_at(path, 0, block))
    }

    /// Reads and proves block `block` of level `number`, unless `path` holds it.
    fn prove(&self, path: &mut Path, number: usize, block: u64) -> Result<(), TreeError> {
        let bits = self.area.params().fanout_bits();
        // The lowest level from `number` up whose block is already proved; its
        // own ancestors were when it was read.
        let levels = self.area.levels();
        let mut top = number;
        let mut wanted = block;
        while top < levels.len() && !path.holds(top, wanted) {
            top += 1;
            wanted >>= bits;
        }
        for level in (number..top).rev() {
            // `level - number` is below the number of levels, so this cannot overflow.
            let shift = bits * u32::try_from(level - number).unwrap_or(u32::MAX);
            self.prove_child(path, level, block >> shift)?;
        }
        Ok(())
    }

    /// Reads one block whose parent `path` holds, and compares it with the parent.
    fn prove_child(&self, path: &mut Path, level: usize, block: u64) -> Result<(), TreeError> {
        let size = u64::from(self.area.params().hash_block_size);
        let expected = self.digest_at(path, level + 1, block);
        let (Some(place), Some(proved)) = (self.area.levels().get(level), path.0.get_mut(level))
        else {
            return Ok(());
        };
        let offset = place.start + block * size;
        proved.number = None;
        self.device
            .read_exact_at(&mut proved.bytes, offset)
            .map_err(|source| TreeError::Read {
                level,
                block,
                offset,
                source,
            })?;
        if self.hash_hasher.digest(&proved.bytes) != expected {
            return Err(TreeError::Corrupted {
                level,
                block,
                offset,
            });
        }
        // Part of the hash, so never an accident; refused as `veritysetup`
        // does, lest two trees of the same data differ.
        let children = match level.checked_sub(1) {
            Some(below) => self.area.levels().get(below).map_or(0, |it| it.blocks),
            None => self.area.data_blocks(),
        };
        let first = block << self.area.params().fanout_bits();
        if !spare_is_zero(&proved.bytes, children - first) {
            return Err(TreeError::SpareNotZero {
                level,
                block,
                offset,
            });
        }
        proved.number = Some(block);
        Ok(())
    }

    /// The digest of child `child` that the proved block of `level` holds; above
    /// the highest level it is the root hash.
    fn digest_at(&self, path: &Path, level: usize, child: u64) -> Digest {
        let Some(proved) = path.0.get(level) else {
            return self.root_hash;
        };
        let mask = (1 << self.area.params().fanout_bits()) - 1;
        let (digests, _) = proved.bytes.as_chunks();
        let digest = usize::try_from(child & mask)
            .ok()
            .and_then(|index| digests.get(index));
        *digest.expect("a hash block holds as many digests as the mask counts")
    }
}

/// Tells whether a hash block holds nothing behind its `digests` digests.
pub(crate) fn spare_is_zero(block: &[u8], digests: u64) -> bool {
    let used =
        usize::try_from(digests).map_or(usize::MAX, |digests| digests.saturating_mul(DIGEST_SIZE));
    let spare = block.get(used..).unwrap_or_default();
    spare.iter().all(|&byte| byte == 0)
}

impl Path {
    fn new(area: &HashArea) -> Self {
        let size = area.params().hash_block_size as usize;
        let proved = Proved {
            number: None,
            bytes: vec![0; size],
        };
        Self(vec![proved; area.levels().len()])
    }

    fn holds(&self, level: usize, block: u64) -> bool {
        self.0
            .get(level)
            .is_some_and(|proved| proved.number == Some(block))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::oracle::{self, Case};
    use crate::{HashType, Params};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_block_is_the_same_only_in_its_own_place(
            Case { data, area } in oracle::cases(),
            asked in vec((any::<Index>(), any::<Index>()), 1..30),
        ) {
            let (hash, root_hash) = oracle::build(&data, &area);
            let size = area.params().data_block_size as usize;
            let blocks: Vec<&[u8]> = data.chunks(size).collect();
            let tree = VerifiedTree::open(&hash, area, &root_hash).expect("the tree is good");
            for (place, other) in asked {
                let (place, other) = (place.index(blocks.len()), other.index(blocks.len()));
                let expected = if blocks[place] == blocks[other] { Match::Same } else { Match::Different };
                let found = tree.check_block(place as u64, blocks[other]).expect("the tree is good");
                prop_assert_eq!(found, expected);
                let short = tree.check_block(place as u64, &blocks[place][1..]).expect("the tree is good");
                prop_assert_eq!(short, Match::Different);
            }
            let beyond = tree.leaf(blocks.len() as u64);
            let named = matches!(beyond, Err(TreeError::NoSuchBlock { .. }));
            prop_assert!(named);
        }

        #[test]
        fn blocks_in_a_row_are_told_apart_as_one_by_one(
            Case { mut data, area } in oracle::cases(),
            spoilt: Index,
            first: Index,
        ) {
            let (hash, root_hash) = oracle::build(&data, &area);
            let at = spoilt.index(data.len());
            data[at] ^= 1;
            let size = area.params().data_block_size as usize;
            let first = first.index(data.len() / size);
            let tree = VerifiedTree::open(&hash, area, &root_hash).expect("the tree is good");
            let found = tree.check_blocks(first as u64, &data[first * size..]).expect("the tree is good");
            let expected: Vec<Match> = (first..data.len() / size)
                .map(|block| if block == at / size { Match::Different } else { Match::Same })
                .collect();
            prop_assert_eq!(found, expected);
            let short = tree.check_blocks(first as u64, &data[first * size..][..size - 1]);
            prop_assert_eq!(short.expect("the tree is good"), [Match::Different]);
        }

        #[test]
        fn from_the_upper_levels_alone_every_leaf_block_is_told_from_any_other(
            Case { data, area } in oracle::cases(),
            at: Index,
            flip in 1_u8..,
        ) {
            let (hash, root_hash) = oracle::build(&data, &area);
            let leaves = area.leaves();
            prop_assume!(!leaves.is_empty());
            let (upper, leaves) = hash.split_at(oracle::len(leaves.start));
            let size = area.params().hash_block_size as usize;
            let upper = upper.to_vec();
            let tree = VerifiedTree::open(&upper, area, &root_hash).expect("no leaf is read");
            for (number, block) in (0..).zip(leaves.chunks(size)) {
                prop_assert_eq!(tree.check_leaf_block(number, block).expect("the upper levels are there"), Match::Same);
                prop_assert_eq!(tree.leaf_block(number).expect("the upper levels are there"), tree.hash_block_digest(block));
                let mut other = block.to_vec();
                other[at.index(size)] ^= flip;
                for other in [&other[..], &block[1..]] {
                    prop_assert_eq!(tree.check_leaf_block(number, other).expect("the upper levels are there"), Match::Different);
                }
            }
            let beyond = tree.leaf_block((leaves.len() / size) as u64);
            let named = matches!(beyond, Err(TreeError::NoSuchBlock { .. }));
            prop_assert!(named);
        }

        #[test]
        fn a_tree_whose_upper_levels_are_bad_does_not_open(
            Case { data, area } in oracle::cases(),
            at: Index,
            flip in 1_u8..,
        ) {
            let (mut hash, root_hash) = oracle::build(&data, &area);
            prop_assume!(area.levels().len() > 1);
            let (start, end) = (oracle::len(area.tree_start()), oracle::len(area.levels()[0].start));
            hash[start + at.index(end - start)] ^= flip;
            let opened = VerifiedTree::open(&hash, area, &root_hash);
            let named = matches!(opened, Err(TreeError::Corrupted { level: 1.., .. }));
            prop_assert!(named);
        }
    }

    fn params() -> Params {
        Params {
            data_block_size: 512,
            hash_block_size: 512,
            salt: vec![1, 2, 3],
            hash_type: HashType::Normal,
        }
    }

    struct Counting<'a> {
        bytes: &'a [u8],
        reads: AtomicUsize,
    }

    impl ReadAt for Counting<'_> {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.bytes.read_exact_at(buf, offset)
        }
    }

    #[test]
    fn in_order_every_hash_block_is_read_once_and_only_one_per_level_is_held() {
        let area = HashArea::bare(params(), 4096, 0).expect("a possible tree");
        assert_eq!(
            area.levels()
                .iter()
                .map(|level| level.blocks)
                .collect::<Vec<_>>(),
            [256, 16, 1]
        );
        let (hash, root_hash) = oracle::build(&vec![0; 4096 * 512], &area);
        let device = Counting {
            bytes: &hash,
            reads: AtomicUsize::new(0),
        };
        let tree = VerifiedTree::open(device, area, &root_hash).expect("the tree is good");
        assert_eq!(tree.device.reads.swap(0, Ordering::Relaxed), 17);
        for block in 0..4096 {
            tree.leaf(block).expect("the tree is good");
        }
        assert_eq!(tree.device.reads.load(Ordering::Relaxed), 273);
        let path = tree.path.lock().expect("nothing has panicked");
        assert_eq!(path.0.len(), 3);
        assert!(path.0.iter().all(|proved| proved.bytes.capacity() == 512));
    }

    /// A disk that other hands write to while the tree is open.
    struct Changing(Mutex<Vec<u8>>);

    impl ReadAt for Changing {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.0
                .lock()
                .expect("nothing has panicked")
                .read_exact_at(buf, offset)
        }
    }

    #[test]
    fn a_block_that_changes_after_opening_is_not_believed() {
        let area = HashArea::bare(params(), 4096, 0).expect("a possible tree");
        let (hash, root_hash) = oracle::build(&vec![0; 4096 * 512], &area);
        let tree = VerifiedTree::open(Changing(Mutex::new(hash)), area.clone(), &root_hash)
            .expect("the tree is good");
        let change = |level: usize, block: usize| {
            let at = oracle::len(area.levels()[level].start) + block * 512;
            tree.device.0.lock().expect("nothing has panicked")[at] ^= 1;
        };
        let first = tree.leaf(0).expect("the tree is good");
        change(0, 100);
        let error = tree.leaf(1600);
        assert!(
            matches!(
                error,
                Err(TreeError::Corrupted {
                    level: 0,
                    block: 100,
                    ..
                })
            ),
            "{error:?}"
        );
        // A failure leaves nothing unproved behind.
        assert_eq!(tree.leaf(0).expect("its block is good"), first);
        let error = tree.leaf(1600);
        assert!(
            matches!(
                error,
                Err(TreeError::Corrupted {
                    level: 0,
                    block: 100,
                    ..
                })
            ),
            "{error:?}"
        );
        assert!(tree.leaf(1599).is_ok());
        change(0, 100);
        assert!(tree.leaf(1600).is_ok());
        change(1, 2);
        let error = tree.leaf(512);
        assert!(
            matches!(
                error,
                Err(TreeError::Corrupted {
                    level: 1,
                    block: 2,
                    ..
                })
            ),
            "{error:?}"
        );
    }

    #[test]
    fn data_in_the_spare_area_is_refused_even_when_the_root_hash_covers_it() {
        let area = HashArea::bare(params(), 3, 0).expect("a possible tree");
        let (mut hash, _) = oracle::build(&[0; 3 * 512], &area);
        hash[3 * 32] = 1;
        let root_hash = RootHash::new(Sha256::digest([&[1, 2, 3], &hash[..]].concat()).into());
        let tree = VerifiedTree::open(&hash, area, &root_hash).expect("leaves are not read yet");
        let error = tree.leaf(0);
        assert!(
            matches!(
                error,
                Err(TreeError::SpareNotZero {
                    level: 0,
                    block: 0,
                    offset: 0
                })
            ),
            "{error:?}"
        );
    }
}
