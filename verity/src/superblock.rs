//! The 512 bytes in front of a tree that say how it was made.
//!
//! Layout: cryptsetup's `struct verity_sb` (lib/verity/verity.c), documented at
//! <https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity>. Integers are
//! little-endian.

use uuid::Uuid;

use crate::params::{BadParams, HashType, MAX_SALT_SIZE, Params};

/// Bytes of a superblock on disk.
pub const SUPERBLOCK_SIZE: usize = 512;

const SIGNATURE: [u8; 8] = *b"verity\0\0";
const VERSION: u32 = 1;
const ALGORITHM: &[u8] = b"sha256";
const ALGORITHM_SIZE: usize = 32;

/// What a superblock says of its tree; always a tree that can exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    params: Params,
    data_blocks: u64,
    uuid: Uuid,
}

/// Bytes that are no superblock, or one that this crate does not support.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum BadSuperblock {
    #[error("superblock has {0} bytes, fewer than 512")]
    Short(usize),
    #[error("no verity signature")]
    Signature,
    #[error("superblock version {0} is not supported, only 1")]
    Version(u32),
    #[error("hash type {0} is not supported, only 0 and 1")]
    HashType(u32),
    #[error("hash algorithm {0:?} is not supported, only sha256")]
    Algorithm(String),
    #[error("superblock holds bad parameters")]
    Params(#[source] BadParams),
}

impl Superblock {
    /// Makes the superblock of a tree over `data_blocks` blocks.
    ///
    /// # Errors
    /// Parameters that no tree can have.
    pub fn new(params: Params, data_blocks: u64, uuid: Uuid) -> Result<Self, BadParams> {
        params.check()?;
        Ok(Self {
            params,
            data_blocks,
            uuid,
        })
    }

    /// Parses the first 512 bytes of `bytes`. Padding is not looked at, as
    /// `veritysetup` does not.
    ///
    /// # Errors
    /// The first field that is not a supported superblock's.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadSuperblock> {
        let mut fields = Fields(
            bytes
                .get(..SUPERBLOCK_SIZE)
                .ok_or(BadSuperblock::Short(bytes.len()))?,
        );
        if fields.take::<8>()? != SIGNATURE {
            return Err(BadSuperblock::Signature);
        }
        let version = u32::from_le_bytes(fields.take()?);
        if version != VERSION {
            return Err(BadSuperblock::Version(version));
        }
        let number = u32::from_le_bytes(fields.take()?);
        let hash_type = HashType::from_number(number).ok_or(BadSuperblock::HashType(number))?;
        let uuid = Uuid::from_bytes(fields.take()?);
        let name = fields.take::<ALGORITHM_SIZE>()?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        if name != ALGORITHM {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(BadSuperblock::Algorithm(name));
        }
        let data_block_size = u32::from_le_bytes(fields.take()?);
        let hash_block_size = u32::from_le_bytes(fields.take()?);
        let data_blocks = u64::from_le_bytes(fields.take()?);
        let salt_size = usize::from(u16::from_le_bytes(fields.take()?));
        fields.take::<6>()?;
        let salt = fields
            .take::<MAX_SALT_SIZE>()?
            .get(..salt_size)
            .ok_or(BadSuperblock::Params(BadParams::SaltSize(salt_size)))?
            .to_vec();
        let params = Params {
            data_block_size,
            hash_block_size,
            salt,
            hash_type,
        };
        Self::new(params, data_blocks, uuid).map_err(BadSuperblock::Params)
    }

    /// Returns the superblock as it lies on disk.
    pub fn to_bytes(&self) -> [u8; SUPERBLOCK_SIZE] {
        let mut algorithm = [0; ALGORITHM_SIZE];
        for (to, from) in algorithm.iter_mut().zip(ALGORITHM) {
            *to = *from;
        }
        let salt_size =
            u16::try_from(self.params.salt.len()).expect("`new` bounds the salt to 256 bytes");
        let mut bytes = [0; SUPERBLOCK_SIZE];
        let fields = SIGNATURE
            .into_iter()
            .chain(VERSION.to_le_bytes())
            .chain(self.params.hash_type.number().to_le_bytes())
            .chain(self.uuid.into_bytes())
            .chain(algorithm)
            .chain(self.params.data_block_size.to_le_bytes())
            .chain(self.params.hash_block_size.to_le_bytes())
            .chain(self.data_blocks.to_le_bytes())
            .chain(salt_size.to_le_bytes())
            .chain([0; 6])
            .chain(self.params.salt.iter().copied());
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        bytes
    }

    /// How the tree is hashed.
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// Data blocks that the tree covers.
    pub const fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// The name of the tree; nothing is derived from it.
    pub const fn uuid(&self) -> Uuid {
        self.uuid
    }
}

/// The bytes not yet parsed.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadSuperblock> {
        let (field, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(BadSuperblock::Short(self.0.len()))?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::{HashArea, VerifiedTree};

    fn superblocks() -> impl Strategy<Value = Superblock> {
        (
            9_u32..=16,
            9_u32..=16,
            vec(any::<u8>(), 0..=256),
            any::<(bool, u64, u128)>(),
        )
            .prop_map(
                |(data_bits, hash_bits, salt, (normal, data_blocks, uuid))| {
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
                    Superblock::new(params, data_blocks, Uuid::from_u128(uuid)).expect("good")
                },
            )
    }

    proptest! {
        #[test]
        fn a_superblock_survives_the_disk(superblock in superblocks()) {
            prop_assert_eq!(Superblock::parse(&superblock.to_bytes()), Ok(superblock));
        }

        #[test]
        fn hostile_superblocks_never_panic_nor_take_memory(
            superblock in superblocks(),
            changes in vec((any::<Index>(), any::<u8>()), 0..8),
            cut in 0_usize..2000,
            root in any::<[u8; 32]>(),
        ) {
            let mut device = superblock.to_bytes().to_vec();
            for (at, byte) in changes {
                let at = at.index(device.len());
                device[at] = byte;
            }
            device.resize(cut, 0);
            if let Ok(area) = HashArea::read(&device, 0) {
                let root_hash = partition_layout::RootHash::new(root);
                // No tree of zeros has this root hash.
                let tree = VerifiedTree::open(&device, area.clone(), &root_hash);
                prop_assert!(area.hash_blocks() == 0 || tree.is_err() || area.levels().len() == 1);
            }
        }
    }

    #[test]
    fn every_field_that_is_not_ours_is_named() {
        let params = Params {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: vec![0xab; 256],
            hash_type: HashType::Normal,
        };
        let good = Superblock::new(params, 7, Uuid::max()).expect("good");
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = good.to_bytes();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            Superblock::parse(&changed)
        };
        use BadSuperblock as Bad;
        assert_eq!(
            with(511, &[1]).as_ref(),
            Ok(&good),
            "padding is not looked at"
        );
        let table: [(usize, &[u8], BadSuperblock); 11] = [
            (0, b"V", Bad::Signature),
            (7, b"x", Bad::Signature),
            (8, &[2], Bad::Version(2)),
            (12, &[2], Bad::HashType(2)),
            (32, b"sha512\0", Bad::Algorithm("sha512".into())),
            (32, b"sha256x\0", Bad::Algorithm("sha256x".into())),
            (32, &[b'a'; 32], Bad::Algorithm("a".repeat(32))),
            (
                64,
                &[0, 2, 1, 0],
                Bad::Params(BadParams::DataBlockSize(0x1_0200)),
            ),
            (
                68,
                &[0, 1, 0, 0],
                Bad::Params(BadParams::HashBlockSize(256)),
            ),
            (
                68,
                &[0, 0, 2, 0],
                Bad::Params(BadParams::HashBlockSize(131_072)),
            ),
            (80, &[1, 1], Bad::Params(BadParams::SaltSize(257))),
        ];
        for (at, bytes, expected) in table {
            assert_eq!(with(at, bytes), Err(expected), "byte {at}");
        }
        assert_eq!(Superblock::parse(&[0; 511]), Err(Bad::Short(511)));
    }
}
