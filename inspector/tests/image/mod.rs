//! Small images with a hash tree, and where they lie on a disk.

use partition_layout::{RootHash, Slot};
use uuid::Uuid;
use verity::{HashArea, HashType, Params, Superblock, format};

use crate::common::Disk;

const BLOCK: u32 = 4096;
/// As many as need a tree of two levels.
const BLOCKS: u64 = 200;

/// A root image with its hash tree.
pub(crate) struct Image {
    pub(crate) root: Vec<u8>,
    pub(crate) verity: Vec<u8>,
    pub(crate) root_hash: RootHash,
}

impl Image {
    /// Returns an image that differs from those of other seeds in every block.
    pub(crate) fn of(seed: u8) -> Self {
        let root: Vec<u8> = (0..BLOCKS)
            .flat_map(|block| [seed ^ block.to_le_bytes()[0]; BLOCK as usize])
            .collect();
        let params = Params {
            data_block_size: BLOCK,
            hash_block_size: BLOCK,
            salt: vec![7; 32],
            hash_type: HashType::Normal,
        };
        let superblock = Superblock::new(params, BLOCKS, Uuid::nil()).expect("good parameters");
        let area = HashArea::with_superblock(&superblock, 0).expect("a tree that fits");
        let mut verity = Vec::new();
        let root_hash = format(&root, &area, &mut verity).expect("memory does not fail");
        Self {
            root,
            verity,
            root_hash,
        }
    }

    /// Puts the image into `slot` of `disk`, whatever its label says.
    pub(crate) fn write(&self, disk: &Disk, slot: Slot) {
        let layout = disk.layout();
        let partitions = layout.slot(slot).expect("the disk has both slots");
        disk.write(partitions.root.start, &self.root);
        disk.write(partitions.verity.start, &self.verity);
    }
}
