//! A second, slow and plain way to a tree, and trees to try it on.

use std::num::NonZeroUsize;

use partition_layout::RootHash;
use proptest::collection::vec;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::chunks::Workers;
use crate::{HashArea, HashType, Params, Superblock};

/// The bytes of a hash area at offset 0, and the root hash.
pub(crate) fn build(data: &[u8], area: &HashArea) -> (Vec<u8>, RootHash) {
    let params = area.params();
    let digests = |bytes: &[u8], size: u32| -> Vec<u8> {
        bytes
            .chunks(size as usize)
            .flat_map(|block| match params.hash_type {
                HashType::Normal => Sha256::digest([&params.salt, block].concat()),
                HashType::ChromeOs => Sha256::digest([block, &params.salt].concat()),
            })
            .collect()
    };
    let mut tree = Vec::new();
    let mut level = digests(data, params.data_block_size);
    while level.len() > 32 {
        let blocks = level.len().div_ceil(params.hash_block_size as usize);
        level.resize(blocks * params.hash_block_size as usize, 0);
        tree.splice(0..0, level.iter().copied());
        level = digests(&level, params.hash_block_size);
    }
    let root_hash = RootHash::new(level.try_into().expect("one digest is left"));
    if let Some((superblock, _)) = area.superblock() {
        let mut header = superblock.to_bytes().to_vec();
        header.resize(
            header
                .len()
                .next_multiple_of(params.hash_block_size as usize),
            0,
        );
        tree.splice(0..0, header);
    }
    (tree, root_hash)
}

/// A length or offset in memory.
pub(crate) fn len(bytes: u64) -> usize {
    usize::try_from(bytes).expect("tests are small")
}

/// Few or many cores, small or large portions.
pub(crate) fn workers() -> impl Strategy<Value = Workers> {
    (1_usize..=4, 9_u32..=17).prop_map(|(cores, bits)| Workers {
        cores: NonZeroUsize::new(cores).expect("from one on"),
        portion: 1 << bits,
    })
}

/// Small data, and the area of a tree over it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) data: Vec<u8>,
    pub(crate) area: HashArea,
}

/// Cases of one to three levels.
pub(crate) fn cases() -> impl Strategy<Value = Case> {
    let salts = prop_oneof![
        Just(Vec::new()),
        vec(any::<u8>(), 32),
        vec(any::<u8>(), 0..=256)
    ];
    (
        9_u32..=13,
        9_u32..=11,
        1_u64..=300,
        salts,
        any::<(bool, bool, u64)>(),
    )
        .prop_map(
            |(data_bits, hash_bits, blocks, salt, (normal, superblock, seed))| {
                // Three levels with the smallest blocks, and at most 64 KiB with
                // larger ones: a debug build hashes slowly.
                let blocks = if data_bits == 9 {
                    blocks
                } else {
                    blocks.min(1 << (16 - data_bits))
                };
                let params = Params {
                    data_block_size: 1 << data_bits,
                    hash_block_size: 1 << hash_bits,
                    salt,
                    hash_type: if normal {
                        HashType::Normal
                    } else {
                        HashType::ChromeOs
                    },
                };
                let area = if superblock {
                    Superblock::new(params, blocks, Uuid::from_u64_pair(seed, seed))
                        .map(|superblock| HashArea::with_superblock(&superblock, 0))
                        .expect("these are parameters of a tree")
                } else {
                    HashArea::bare(params, blocks, 0)
                };
                let area = area.expect("a small tree can lie anywhere");
                let data = (0..area.data_len())
                    .map(|n| (n.wrapping_mul(seed | 1) >> 24).to_le_bytes()[0])
                    .collect();
                Case { data, area }
            },
        )
}
