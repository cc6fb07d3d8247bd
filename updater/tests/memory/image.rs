//! Root images that need no room: each block follows from its number.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use partition_layout::{Architecture, RootHash, Uuid, Version};
use release::{Blob, Blobs, COMPATIBLE, Digest, Release, Salt, Verity};
use sha2::{Digest as _, Sha256};
use verity::{HashArea, HashType, Params, ReadAt, Superblock};

pub(crate) const BLOCK: u64 = 4096;
const SALT: [u8; 32] = [7; 32];
/// Blocks that are of one kind.
const STRETCH: u64 = 64;

/// A root image: of 41 stretches one is noise of its own, of 61 one is noise that all
/// images have, and the rest is zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Image {
    pub(crate) seed: u8,
    pub(crate) blocks: u64,
}

impl Image {
    /// Returns the seed of a block's noise, or `None` for zeros.
    const fn noise(self, block: u64) -> Option<u8> {
        match block / STRETCH {
            stretch if stretch % 61 == 7 => Some(0),
            stretch if stretch % 41 == 3 => Some(self.seed),
            _ => None,
        }
    }

    /// Returns how many bytes it has that nobody else has.
    pub(crate) fn own_bytes(self) -> u64 {
        let own = (0..self.blocks).filter(|block| self.noise(*block) == Some(self.seed));
        BLOCK * u64::try_from(own.count()).unwrap()
    }

    pub(crate) const fn len(self) -> u64 {
        self.blocks * BLOCK
    }
}

impl ReadAt for Image {
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let skip = usize::try_from(offset % BLOCK).unwrap();
            let rest = usize::try_from(BLOCK).unwrap() - skip;
            let (now, later) = buffer.split_at_mut(rest.min(buffer.len()));
            match self.noise(offset / BLOCK) {
                None => now.fill(0),
                Some(seed) => {
                    let number = (offset / BLOCK).to_le_bytes();
                    let digest = Sha256::digest([&[seed][..], &number].concat());
                    let noise = digest.iter().cycle().skip(skip % 32);
                    now.iter_mut().zip(noise).for_each(|(to, from)| *to = *from);
                }
            }
            offset += u64::try_from(now.len()).unwrap();
            buffer = later;
        }
        Ok(())
    }
}

/// Makes the release of an image, and writes its hash tree to `tree`.
pub(crate) fn release(name: &str, image: Image, tree: &Path, uki: &[u8]) -> Release {
    let params = Params {
        data_block_size: 4096,
        hash_block_size: 4096,
        salt: SALT.to_vec(),
        hash_type: HashType::Normal,
    };
    let uuid = Uuid::from_bytes([image.seed; 16]);
    let superblock = Superblock::new(params, image.blocks, uuid).unwrap();
    let area = HashArea::with_superblock(&superblock, 0).unwrap();
    let mut file = File::options();
    let file = file.read(true).write(true).create_new(true).open(tree);
    let mut file = file.unwrap();
    let root_hash: RootHash = verity::format(&image, &area, &mut file).unwrap();
    Release {
        version: Version::parse(name).unwrap(),
        architecture: Architecture::of_build(),
        compatible: COMPATIBLE.to_owned(),
        root_hash,
        verity: Verity {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: Salt::new(SALT).unwrap(),
            data_blocks: image.blocks,
        },
        blobs: Blobs {
            // Nobody asks for the whole: its blocks are held against the tree.
            root: Blob {
                sha256: Digest::new([image.seed; 32]),
                size: image.len(),
            },
            verity: Blob {
                sha256: digest(&file),
                size: file.metadata().unwrap().len(),
            },
            uki: Blob {
                sha256: Digest::new(Sha256::digest(uki).into()),
                size: u64::try_from(uki.len()).unwrap(),
            },
            sbom: None,
            packed: None,
        },
        patches: Vec::new(),
        uki_patches: Vec::new(),
        created: None,
        notes: None,
    }
}

fn digest(file: &File) -> Digest {
    let (mut hasher, mut at, mut chunk) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let count = file.read_at(&mut chunk, at).unwrap();
        if count == 0 {
            return Digest::new(hasher.finalize().into());
        }
        hasher.update(&chunk[..count]);
        at += u64::try_from(count).unwrap();
    }
}
