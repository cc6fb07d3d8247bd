//! A tree that rots, looked at from the root down and put right on the way.

use partition_layout::RootHash;

use crate::area::HashArea;
use crate::device::ReadAt;
use crate::digest::{BlockHasher, Digest};
use crate::tree::{TreeError, spare_is_zero};

/// A hash block that is not what the block above says.
#[derive(Debug)]
pub struct RottenBlock<'a> {
    area: &'a HashArea,
    data_hasher: &'a BlockHasher,
    hash_hasher: &'a BlockHasher,
    level: usize,
    number: u64,
    digest: Digest,
}

/// Looks at every hash block in `area` of `tree`, from the root down, and has `mend` put a
/// sound one in the place of each that is rotten. One block per level is held.
///
/// # Errors
/// `mend` fails, or a block is rotten after it: what lies below cannot be judged then.
pub fn repair<E: From<TreeError>>(
    tree: &impl ReadAt,
    area: &HashArea,
    root_hash: &RootHash,
    mend: &mut impl FnMut(&RottenBlock<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let params = area.params();
    let data_hasher = BlockHasher::new(params, params.data_block_size as usize);
    let hash_hasher = BlockHasher::new(params, params.hash_block_size as usize);
    let block = |level, number, digest| RottenBlock {
        area,
        data_hasher: &data_hasher,
        hash_hasher: &hash_hasher,
        level,
        number,
        digest,
    };
    let (bits, levels) = (params.fanout_bits(), area.levels());
    let mask = (1 << bits) - 1;
    for (level, place) in levels.iter().enumerate().rev() {
        let mut above: Option<(u64, Vec<u8>)> = None;
        for number in 0..place.blocks {
            let parent = number >> bits;
            let is_held = above.as_ref().is_some_and(|(held, _)| *held == parent);
            if level + 1 < levels.len() && !is_held {
                // It was looked at before its children are.
                let bytes = block(level + 1, parent, *root_hash.as_bytes()).read(tree)?;
                above = Some((parent, bytes));
            }
            let digest = match &above {
                None => *root_hash.as_bytes(),
                Some((_, bytes)) => digest_in(bytes, number & mask),
            };
            let block = block(level, number, digest);
            if block.read(tree).is_ok_and(|bytes| block.is(&bytes)) {
                continue;
            }
            mend(&block)?;
            if !block.is(&block.read(tree)?) {
                return Err(E::from(TreeError::Corrupted {
                    level,
                    block: number,
                    offset: block.offset(),
                }));
            }
        }
    }
    Ok(())
}

fn digest_in(block: &[u8], index: u64) -> Digest {
    let (digests, _) = block.as_chunks();
    let digest = usize::try_from(index)
        .ok()
        .and_then(|index| digests.get(index));
    *digest.expect("a hash block holds as many digests as the mask counts")
}

impl RottenBlock<'_> {
    /// Where it lies, in bytes from the start of the hash device.
    pub fn offset(&self) -> u64 {
        let size = u64::from(self.area.params().hash_block_size);
        let start = self.area.levels().get(self.level).map_or(0, |it| it.start);
        start.saturating_add(self.number.saturating_mul(size))
    }

    /// Tells whether `bytes` are what should be there.
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.area.params().hash_block_size as usize
            && self.hash_hasher.digest(bytes) == self.digest
            && spare_is_zero(bytes, self.children())
    }

    /// Makes the block from what it is about: blocks of `data`, or of the level below in
    /// `tree`. `None` if one of these is rotten itself.
    pub fn rebuild(&self, tree: &impl ReadAt, data: &impl ReadAt) -> Option<Vec<u8>> {
        let params = self.area.params();
        let mut bytes = Vec::with_capacity(params.hash_block_size as usize);
        let first = self.number << params.fanout_bits();
        let most = self.area.blocks_per_leaf();
        for child in first..first.saturating_add(self.children().min(most)) {
            let digest = match self.level.checked_sub(1) {
                None => {
                    let size = params.data_block_size;
                    let mut block = vec![0; size as usize];
                    let offset = child.checked_mul(u64::from(size))?;
                    data.read_exact_at(&mut block, offset).ok()?;
                    self.data_hasher.digest(&block)
                }
                Some(below) => {
                    let size = params.hash_block_size;
                    let mut block = vec![0; size as usize];
                    let start = self.area.levels().get(below)?.start;
                    let offset = child.checked_mul(u64::from(size))?.checked_add(start)?;
                    tree.read_exact_at(&mut block, offset).ok()?;
                    self.hash_hasher.digest(&block)
                }
            };
            bytes.extend_from_slice(&digest);
        }
        bytes.resize(params.hash_block_size as usize, 0);
        self.is(&bytes).then_some(bytes)
    }

    /// How many blocks of the level below, or of the data, there are from its first on.
    fn children(&self) -> u64 {
        let below = match self.level.checked_sub(1) {
            Some(below) => self.area.levels().get(below).map_or(0, |it| it.blocks),
            None => self.area.data_blocks(),
        };
        below.saturating_sub(self.number << self.area.params().fanout_bits())
    }

    fn read(&self, tree: &impl ReadAt) -> Result<Vec<u8>, TreeError> {
        let mut bytes = vec![0; self.area.params().hash_block_size as usize];
        let offset = self.offset();
        let read = tree.read_exact_at(&mut bytes, offset);
        read.map_err(|source| TreeError::Read {
            level: self.level,
            block: self.number,
            offset,
            source,
        })?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use uuid::Uuid;

    use super::*;
    use crate::{HashType, Params, Superblock, format};

    /// A device that is mended while it is read.
    struct Mended(Mutex<Vec<u8>>);

    impl ReadAt for Mended {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.0.lock().unwrap().read_exact_at(buf, offset)
        }
    }

    /// 20 000 blocks: three levels, of 157, 2 and 1 blocks.
    fn image() -> (Vec<u8>, Vec<u8>, HashArea, RootHash) {
        let data: Vec<u8> = (0..20_000_u32)
            .flat_map(|number| number.to_le_bytes().repeat(128))
            .collect();
        let params = Params {
            data_block_size: 512,
            hash_block_size: 4096,
            salt: vec![1; 32],
            hash_type: HashType::Normal,
        };
        let superblock = Superblock::new(params, 20_000, Uuid::nil()).unwrap();
        let area = HashArea::with_superblock(&superblock, 0).unwrap();
        let mut tree = Vec::new();
        let root_hash = format(&data, &area, &mut tree).unwrap();
        (data, tree, area, root_hash)
    }

    fn rebuilt(
        data: &Vec<u8>,
        tree: Vec<u8>,
        area: &HashArea,
        root: &RootHash,
    ) -> (Vec<u8>, usize) {
        let tree = Mended(Mutex::new(tree));
        let mut count = 0;
        let result = repair(&tree, area, root, &mut |block| {
            if let Some(bytes) = block.rebuild(&tree, data) {
                count += 1;
                let start = usize::try_from(block.offset()).unwrap();
                tree.0.lock().unwrap()[start..start + bytes.len()].copy_from_slice(&bytes);
            }
            Ok::<_, TreeError>(())
        });
        drop(result);
        (tree.0.into_inner().unwrap(), count)
    }

    #[test]
    fn a_rotten_block_of_any_level_is_made_again_from_what_it_is_about() {
        let (data, whole, area, root_hash) = image();
        let blocks = whole.len() / 4096;
        assert_eq!(area.levels().len(), 3);
        for rotten in [
            vec![1],
            vec![2],
            vec![3],
            vec![4],
            vec![blocks - 1],
            vec![1, 2],
            vec![4, 9],
        ] {
            let mut tree = whole.clone();
            for block in &rotten {
                tree[block * 4096 + 77] ^= 1;
            }
            let (mended, count) = rebuilt(&data, tree, &area, &root_hash);
            // The root of a rotten block cannot be made again from it: whoever is above
            // comes first.
            let expected = if rotten == [1, 2] { 0 } else { rotten.len() };
            assert_eq!(count, expected, "{rotten:?}");
            assert_eq!(mended == whole, expected > 0, "{rotten:?}");
        }
        assert_eq!(rebuilt(&data, whole.clone(), &area, &root_hash).1, 0);
    }

    #[test]
    fn a_block_about_rotten_data_is_not_made_up() {
        let (mut data, whole, area, root_hash) = image();
        let mut tree = whole.clone();
        tree[5 * 4096] ^= 1;
        data[128 * 512] ^= 1;
        let (left, count) = rebuilt(&data, tree.clone(), &area, &root_hash);
        assert_eq!((count, left == tree), (0, true));
    }
}
