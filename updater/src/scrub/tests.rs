use std::io;
use std::sync::Mutex;

use verity::{HashArea, Params, Superblock};

use super::*;

/// An image of `blocks` blocks, its hash tree with superblock, its root hash.
pub(crate) fn image(blocks: u8) -> (Vec<u8>, Vec<u8>, RootHash) {
    let data: Vec<u8> = (0..blocks).flat_map(|n| [n; 4096]).collect();
    let params = Params {
        hash_type: verity::HashType::Normal,
        data_block_size: 4096,
        hash_block_size: 4096,
        salt: vec![1; 32],
    };
    let superblock = Superblock::new(
        params,
        u64::from(blocks),
        partition_layout::Uuid::from_bytes([1; 16]),
    )
    .unwrap();
    let area = HashArea::with_superblock(&superblock, 0).unwrap();
    let mut tree = Vec::new();
    let root_hash = verity::format(&data, &area, &mut tree).unwrap();
    (data, tree, root_hash)
}

/// A medium with blocks that cannot be read, or not at the first time.
struct Worn {
    data: Vec<u8>,
    bad: Vec<u64>,
    flaky: Mutex<Vec<u64>>,
}

impl ReadAt for Worn {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        let mut flaky = self.flaky.lock().unwrap();
        let touches = |block: &u64| (offset..end).contains(&(block * BLOCK_SIZE));
        let now_and_then = flaky.iter().any(touches);
        flaky.retain(|block| !touches(block));
        if now_and_then || self.bad.iter().any(touches) {
            return Err(io::Error::other("a bad sector"));
        }
        self.data.read_exact_at(buf, offset)
    }
}

fn worn(data: &[u8]) -> Worn {
    Worn {
        data: data.to_vec(),
        bad: vec![],
        flaky: Mutex::new(vec![]),
    }
}

#[test]
fn rotten_and_unreadable_blocks_are_found_and_nothing_else_is() {
    let (data, tree, root_hash) = image(200);
    let prover = Prover::open(&tree, root_hash).unwrap();
    let mut worn = worn(&data);
    worn.data[7 * 4096 + 5] ^= 1;
    worn.data[199 * 4096] ^= 1;
    worn.bad = vec![50];
    worn.flaky = Mutex::new(vec![120]);
    let mut reading = Reading::anew(root_hash, None);
    read_through(&worn, &prover, &mut reading, &mut |_, _| Ok(())).unwrap();
    assert_eq!(reading.rotten, [7, 50, 199]);
    assert_eq!((reading.next, reading.blocks), (200, 200));
}

#[test]
fn a_reading_that_was_broken_off_goes_on_where_it_was() {
    let (mut data, tree, root_hash) = image(255);
    data.extend([0; 0]);
    let prover = Prover::open(&tree, root_hash).unwrap();
    data[254 * 4096] ^= 1;
    let mut reading = Reading {
        next: 200,
        rotten: vec![3],
        ..Reading::anew(root_hash, None)
    };
    let mut read = 0;
    let step = &mut |_: &Reading, bytes| {
        read += bytes;
        Ok(())
    };
    read_through(&data, &prover, &mut reading, step).unwrap();
    assert_eq!(read, 55 * BLOCK_SIZE);
    assert_eq!(reading.rotten, [3, 254]);
    // A stop leaves the place for the next one.
    let mut reading = Reading::anew(root_hash, None);
    let ended = read_through(&data, &prover, &mut reading, &mut |_, _| Err(Stopped));
    assert!(matches!(ended, Err(ScrubError::Stopped)));
    assert_eq!(reading.next, 255);
}

#[test]
fn only_what_the_tree_says_is_proven() {
    let (data, tree, root_hash) = image(3);
    let prover = Prover::open(&tree, root_hash).unwrap();
    let block = |number: usize| &data[number * 4096..(number + 1) * 4096];
    let proven = prover.prove(1, block(1)).unwrap().unwrap();
    assert_eq!((proven.offset(), proven.bytes()), (4096, block(1)));
    assert_eq!(prover.prove(1, block(2)).unwrap(), None);
    assert_eq!(prover.prove(1, &block(1)[..4095]).unwrap(), None);
    assert!(prover.prove(3, block(1)).is_err());
    assert!(Prover::open(&tree, RootHash::new([9; 32])).is_err());
}
