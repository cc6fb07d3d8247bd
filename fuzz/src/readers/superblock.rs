//! The superblock in front of a hash tree, and the tree behind it.

use partition_layout::{RootHash, Uuid};
use sha2::{Digest as _, Sha256};
use verity::{
    HashArea, HashType, Match, Params, SUPERBLOCK_SIZE, Superblock, VerifiedTree, format,
};

use crate::Outcome;

pub(crate) fn read(input: &[u8]) -> Outcome {
    let Ok(superblock) = Superblock::parse(input) else {
        return Outcome::Refused;
    };
    let again = Superblock::parse(&superblock.to_bytes());
    assert_eq!(again.as_ref(), Ok(&superblock), "it survives the disk");
    let Ok(area) = HashArea::read(&input.to_vec(), 0) else {
        return Outcome::Refused;
    };
    let (told, offset) = area.superblock().expect("it was read");
    assert_eq!((&told, offset), (&superblock, 0));
    // The root hash that this tree has if it is whole: further in nobody would
    // get without it.
    let device = input.to_vec();
    let params = superblock.params();
    let top = usize::try_from(params.hash_block_size).unwrap_or(usize::MAX);
    let start = SUPERBLOCK_SIZE.max(top);
    let Some(block) = input.get(start..).and_then(|rest| rest.get(..top)) else {
        return Outcome::Refused;
    };
    let digest = match params.hash_type {
        HashType::Normal => Sha256::new().chain_update(&params.salt).chain_update(block),
        HashType::ChromeOs => Sha256::new().chain_update(block).chain_update(&params.salt),
    };
    let root_hash = RootHash::new(digest.finalize().into());
    let Ok(tree) = VerifiedTree::open(&device, area, &root_hash) else {
        return Outcome::Refused;
    };
    let last = superblock.data_blocks().saturating_sub(1);
    let zeros = vec![0; usize::try_from(params.data_block_size).unwrap_or(0)];
    for block in [0, 1, last / 2, last, last.saturating_add(1), u64::MAX] {
        let leaf = tree.leaf(block);
        assert!(
            block <= last || leaf.is_err(),
            "a block behind the last has no digest"
        );
        let checked = tree.check_block(block, &zeros);
        if let (Ok(leaf), Ok(checked)) = (leaf, checked) {
            let is_same = leaf == tree.digest(&zeros);
            assert_eq!(checked == Match::Same, is_same);
        }
    }
    Outcome::Accepted
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let seed = |hash_type, block_size: u32, blocks: u64| {
        let params = Params {
            hash_type,
            data_block_size: block_size,
            hash_block_size: block_size,
            salt: vec![0x5a; 32],
        };
        let uuid = Uuid::from_bytes([7; 16]);
        let superblock = Superblock::new(params, blocks, uuid).expect("a tree that can be");
        let area = HashArea::with_superblock(&superblock, 0).expect("it lies at the start");
        let block = usize::try_from(block_size).expect("a small number");
        let count = usize::try_from(blocks).expect("a small number");
        let data: Vec<u8> = (0..=255).cycle().take(count * block).collect();
        let mut device = Vec::new();
        format(&data, &area, &mut device).expect("memory does not fail");
        device
    };
    vec![
        seed(HashType::Normal, 4096, 2),
        seed(HashType::Normal, 512, 40),
        seed(HashType::ChromeOs, 1024, 33),
    ]
}
