//! How a tree is hashed: block sizes, salt, hash type.

/// Bytes of a digest: sha256 is the only algorithm.
pub const DIGEST_SIZE: usize = 32;
/// The smallest data or hash block, in bytes.
pub(crate) const MIN_BLOCK_SIZE: u32 = 512;
/// The largest data or hash block, in bytes.
///
/// The format allows 512 KiB, but no kernel maps blocks above its page size,
/// which is at most 64 KiB.
pub const MAX_BLOCK_SIZE: u32 = 65536;
/// The longest salt, in bytes: the superblock has no room for more.
pub const MAX_SALT_SIZE: usize = 256;

/// Where the salt goes, as the superblock numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashType {
    /// 0, the original Chrome OS format: the salt is hashed after the block.
    ChromeOs,
    /// 1, the normal format: the salt is hashed before the block.
    Normal,
}

impl HashType {
    /// Returns the type that the superblock and the kernel number so.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::ChromeOs),
            1 => Some(Self::Normal),
            _ => None,
        }
    }

    /// Returns the number in superblocks and device-mapper tables.
    pub const fn number(self) -> u32 {
        match self {
            Self::ChromeOs => 0,
            Self::Normal => 1,
        }
    }
}

/// What, beside the data, decides every byte of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Bytes of a data block: a power of two, 512 to 65536.
    pub data_block_size: u32,
    /// Bytes of a hash block: a power of two, 512 to 65536.
    pub hash_block_size: u32,
    /// 0 to 256 bytes, hashed with every block.
    pub salt: Vec<u8>,
    /// Where the salt goes.
    pub hash_type: HashType,
}

/// Parameters that no tree can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum BadParams {
    #[error("data block size {0} is not a power of two from 512 to 65536")]
    DataBlockSize(u32),
    #[error("hash block size {0} is not a power of two from 512 to 65536")]
    HashBlockSize(u32),
    #[error("salt has {0} bytes, more than 256")]
    SaltSize(usize),
}

impl Params {
    /// Returns what is wrong with the parameters, if anything.
    ///
    /// # Errors
    /// The first field that is out of its bounds.
    pub fn check(&self) -> Result<(), BadParams> {
        if !is_block_size(self.data_block_size) {
            return Err(BadParams::DataBlockSize(self.data_block_size));
        }
        if !is_block_size(self.hash_block_size) {
            return Err(BadParams::HashBlockSize(self.hash_block_size));
        }
        if self.salt.len() > MAX_SALT_SIZE {
            return Err(BadParams::SaltSize(self.salt.len()));
        }
        Ok(())
    }

    /// How many digests a hash block holds, as a power of two.
    ///
    /// A digest is 32 bytes, so a whole block has no spare room.
    pub(crate) const fn fanout_bits(&self) -> u32 {
        self.hash_block_size.ilog2() - DIGEST_SIZE.ilog2()
    }
}

const fn is_block_size(size: u32) -> bool {
    size.is_power_of_two() && size >= MIN_BLOCK_SIZE && size <= MAX_BLOCK_SIZE
}
