//! Blocks that are what a root hash says.

use partition_layout::RootHash;
use release::limits::BLOCK_SIZE;
use verity::{HashArea, Match, ReadAreaError, ReadAt, TreeError, VerifiedTree};

/// A block of an image, proved by the image's hash tree: the only thing that is
/// ever written to the booted slot. It cannot be made in another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    root_hash: RootHash,
    block: u64,
    bytes: Vec<u8>,
}

impl Proven {
    /// Returns the root hash of its image.
    pub const fn root_hash(&self) -> &RootHash {
        &self.root_hash
    }

    /// Returns its number in the image.
    pub const fn block(&self) -> u64 {
        self.block
    }

    /// Returns its offset in the image.
    pub const fn offset(&self) -> u64 {
        self.block.saturating_mul(BLOCK_SIZE)
    }

    /// Returns what it is.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

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
                block,
                bytes: bytes.to_vec(),
            }),
        })
    }
}
