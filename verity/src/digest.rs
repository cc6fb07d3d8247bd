//! The salted digest of a block.

use sha2::{Digest as _, Sha256};

use crate::params::{DIGEST_SIZE, HashType, Params};

/// A sha256 digest.
pub(crate) type Digest = [u8; DIGEST_SIZE];

/// Hashes blocks of one size with one salt.
#[derive(Debug, Clone)]
pub(crate) struct BlockHasher {
    block_size: usize,
    /// The state after what goes before the block.
    before: Sha256,
    /// What goes after the block.
    after: Vec<u8>,
}

impl BlockHasher {
    pub(crate) fn new(params: &Params, block_size: usize) -> Self {
        let (before, after) = match params.hash_type {
            HashType::Normal => (params.salt.as_slice(), Vec::new()),
            HashType::ChromeOs => ([].as_slice(), params.salt.clone()),
        };
        Self {
            block_size,
            before: Sha256::new_with_prefix(before),
            after,
        }
    }

    pub(crate) fn digest(&self, block: &[u8]) -> Digest {
        let mut hasher = self.before.clone();
        hasher.update(block);
        hasher.update(&self.after);
        hasher.finalize().into()
    }

    /// Appends the digests of all whole blocks in `blocks`.
    pub(crate) fn digest_blocks(&self, blocks: &[u8], digests: &mut Vec<u8>) {
        for block in blocks.chunks_exact(self.block_size) {
            digests.extend_from_slice(&self.digest(block));
        }
    }
}
