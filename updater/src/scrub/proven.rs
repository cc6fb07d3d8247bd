//! Blocks that are what a root hash says.

use partition_layout::RootHash;
use release::Blob;
use release::limits::BLOCK_SIZE;
use sha2::{Digest, Sha256};
use verity::{HashArea, Match, ReadAreaError, ReadAt, RottenBlock, TreeError, VerifiedTree};

use crate::ports::Part;

/// A block of an image or of its hash tree, proved by the root hash: the only thing that is
/// ever written to the booted slot. It cannot be made in another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    root_hash: RootHash,
    part: Part,
    block: u64,
    bytes: Vec<u8>,
}

impl Proven {
    /// Returns the root hash of its image.
    pub const fn root_hash(&self) -> &RootHash {
        &self.root_hash
    }

    /// Returns the block `rotten` of a hash tree, if `bytes` are it.
    pub(super) fn of_tree(
        root_hash: RootHash,
        rotten: &RottenBlock<'_>,
        bytes: Vec<u8>,
    ) -> Option<Self> {
        rotten.is(&bytes).then_some(Self {
            root_hash,
            part: Part::Verity,
            block: rotten.offset() / BLOCK_SIZE,
            bytes,
        })
    }

    /// Returns the superblock, if with `bytes` in front the tree on `device` is the file
    /// that the release calls `blob`.
    pub(super) fn superblock(
        root_hash: RootHash,
        bytes: Vec<u8>,
        device: &impl ReadAt,
        blob: &Blob,
    ) -> Option<Self> {
        let mut digest = Sha256::new_with_prefix(&bytes);
        let mut buffer = vec![0; CHUNK];
        let mut offset = u64::try_from(bytes.len()).ok()?;
        while offset < blob.size {
            let left = usize::try_from(blob.size - offset).unwrap_or(CHUNK);
            let chunk = buffer.get_mut(..left.min(CHUNK))?;
            device.read_exact_at(chunk, offset).ok()?;
            digest.update(&*chunk);
            offset = offset.saturating_add(u64::try_from(chunk.len()).ok()?);
        }
        let is_whole = release::Digest::new(digest.finalize().into()) == blob.sha256;
        is_whole.then_some(Self {
            root_hash,
            part: Part::Verity,
            block: 0,
            bytes,
        })
    }

    /// Returns where it lies: in the image, or in its hash tree.
    pub const fn part(&self) -> Part {
        self.part
    }

    /// Returns its number there.
    pub const fn block(&self) -> u64 {
        self.block
    }

    /// Returns its offset there.
    pub const fn offset(&self) -> u64 {
        self.block.saturating_mul(BLOCK_SIZE)
    }

    /// Returns what it is.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// How much of a hash tree is read at once.
const CHUNK: usize = 64 << 10;

/// An image's hash tree, for proving.
#[derive(Debug)]
pub struct Prover<R> {
    tree: VerifiedTree<R>,
    root_hash: RootHash,
}

/// Why there is no hash tree to prove by.
#[derive(Debug, thiserror::Error)]
pub enum OpenProverError {
    #[error("there is no hash tree")]
    Area(#[source] ReadAreaError),
    #[error("the hash tree is for blocks of {0} bytes")]
    BlockSize(u32),
    #[error("the hash tree does not lead to the root hash")]
    Tree(#[source] TreeError),
}

impl<R: ReadAt> Prover<R> {
    /// Opens the hash tree on `device`, whose levels above the leaves, and first leaf, must lead
    /// to `root_hash`.
    ///
    /// # Errors
    /// There is none, or it is another image's.
    pub fn open(device: R, root_hash: RootHash) -> Result<Self, OpenProverError> {
        let area = HashArea::read(&device, 0).map_err(OpenProverError::Area)?;
        let size = area.params().data_block_size;
        if u64::from(size) != BLOCK_SIZE {
            return Err(OpenProverError::BlockSize(size));
        }
        let tree = VerifiedTree::open(device, area, &root_hash).map_err(OpenProverError::Tree)?;
        // A small tree has no levels above its leaves.
        tree.leaf(0).map_err(OpenProverError::Tree)?;
        Ok(Self { tree, root_hash })
    }

    /// Returns how many blocks the image has.
    pub const fn blocks(&self) -> u64 {
        self.tree.area().data_blocks()
    }

    /// Returns the digest of a block.
    ///
    /// # Errors
    /// The tree cannot be read or proved.
    pub fn digest(&self, block: u64) -> Result<[u8; 32], TreeError> {
        self.tree.leaf(block)
    }

    /// Returns the block, if `bytes` are it.
    ///
    /// # Errors
    /// The tree cannot be read or proved, or has no such block.
    pub fn prove(&self, block: u64, bytes: &[u8]) -> Result<Option<Proven>, TreeError> {
        Ok(match self.tree.check_block(block, bytes)? {
            Match::Different => None,
            Match::Same => Some(Proven {
                root_hash: self.root_hash,
                part: Part::Root,
                block,
                bytes: bytes.to_vec(),
            }),
        })
    }
}
