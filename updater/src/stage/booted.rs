//! The booted slot, as a place where blocks may be had.

use std::ops::Range;

use partition_layout::{RootHash, Slot};
use release::Release;
use release::limits::BLOCK_SIZE;
use verity::{HashArea, HashType, Match, ReadAt, VerifiedTree};

use super::index::{BlockDigest, Index};
use super::medium::{Medium, TreeMedium};
use super::{block_size, len, memory};
use crate::ports::{Part, Slots};
use crate::refusal::Chain;

/// What is booted, with its hash tree. Nothing of it is believed that its tree
/// does not prove, and nothing is lost but bytes if it cannot be read.
#[derive(Debug)]
pub(super) struct Booted<'a, D> {
    root: Medium<'a, D>,
    tree: VerifiedTree<TreeMedium<'a, D>>,
    root_hash: RootHash,
}

impl<'a, D: Slots> Booted<'a, D> {
    /// Opens the slot beside `spare`, unless its blocks cannot be compared with those of
    /// `release`: another salt, or a tree that is no more.
    pub(super) fn open(device: &'a D, spare: Slot, release: &Release) -> Option<Self> {
        let slot = spare.other();
        let view = device.view();
        let view = view.inspect_err(|error| complain(error)).ok()?;
        let room = view.slot(slot)?.root_len;
        let medium = TreeMedium::new(device, slot);
        let area = HashArea::read(&medium, 0);
        let area = area.inspect_err(|error| complain(error)).ok()?;
        let (params, wanted) = (area.params(), &release.verity);
        let alike = params.salt == wanted.salt.as_bytes()
            && params.hash_type == HashType::Normal
            && u64::from(params.data_block_size) == wanted.data_block_size
            && u64::from(params.hash_block_size) == wanted.hash_block_size;
        if !alike || area.data_len() > room {
            return None;
        }
        let tree = VerifiedTree::open(medium, area, &view.booted_root_hash);
        let tree = tree.inspect_err(|error| complain(error)).ok()?;
        Some(Self {
            root: Medium::new(device, slot, Part::Root),
            tree,
            root_hash: view.booted_root_hash,
        })
    }

    pub(super) const fn root_hash(&self) -> RootHash {
        self.root_hash
    }

    /// How many blocks the image has.
    pub(super) fn blocks(&self) -> u64 {
        self.tree.area().data_blocks()
    }

    /// Indexes the image's blocks.
    pub(super) fn index_blocks(&self) -> Index {
        let digests = numbers(self.blocks());
        let digests = digests.filter_map(|block| Some((block, self.block_digest(block)?)));
        Index::new(memory(self.blocks()), digests)
    }

    /// Returns the digest of a block of the image.
    pub(super) fn block_digest(&self, block: u32) -> Option<BlockDigest> {
        self.tree.leaf(u64::from(block)).ok()
    }

    /// Reads blocks of the image from `first` on. They may have rotten.
    pub(super) fn read_blocks(&self, first: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        let offset = first.saturating_mul(BLOCK_SIZE);
        self.root.read_exact_at(bytes, offset)
    }

    /// Reads them, and says why where that fails.
    pub(super) fn read(&self, first: u64, bytes: &mut [u8]) -> Option<()> {
        let read = self.read_blocks(first, bytes);
        read.inspect_err(|error| complain(error)).ok()
    }

    /// Tells whether these are the blocks of the image from `first` on, as its tree says.
    pub(super) fn proves(&self, first: u64, bytes: &[u8]) -> bool {
        let found = self.tree.check_blocks(first, bytes);
        let Ok(found) = found.inspect_err(|error| complain(error)) else {
            return false;
        };
        let sound = found.iter().all(|found| *found == Match::Same);
        if !sound {
            tracing::warn!(first, "blocks of the booted image have rotten");
        }
        sound
    }

    /// Indexes the hash blocks of the lowest level of the tree.
    pub(super) fn index_leaves(&self) -> Index {
        let leaves = self.tree.area().leaves();
        let count = (leaves.end - leaves.start) / BLOCK_SIZE;
        let digests = numbers(count);
        let digests = digests.filter_map(|leaf| Some((leaf, self.leaf_digest(leaf)?)));
        Index::new(memory(count), digests)
    }

    /// Returns the digest of a hash block of the lowest level.
    pub(super) fn leaf_digest(&self, leaf: u32) -> Option<BlockDigest> {
        self.tree.leaf_block(u64::from(leaf)).ok()
    }

    /// Reads such a hash block; `None` if it has rotten.
    pub(super) fn read_leaf(&self, leaf: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; block_size()];
        let (leaf, start) = (u64::from(leaf), self.tree.area().leaves().start);
        let offset = start.saturating_add(leaf.saturating_mul(len(&bytes)));
        let read = self.tree.device().read_exact_at(&mut bytes, offset);
        read.inspect_err(|error| complain(error)).ok()?;
        let found = self.tree.check_leaf_block(leaf, &bytes).ok()?;
        (found == Match::Same).then_some(bytes)
    }
}

/// Numbers below `count`; an image has no more blocks than 32 bits count.
fn numbers(count: u64) -> Range<u32> {
    0..u32::try_from(count).unwrap_or(u32::MAX)
}

fn complain(error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(error = %Chain(error), "the booted slot cannot be read as it should be: what it has is fetched");
}
