//! The dm-verity hash area beside the root image.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use partition_layout::RootHash;
use release::Salt;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use verity::{HashArea, HashType, Params, Superblock};

/// The size of a block of image and tree: the kernel's page, and EROFS's block.
pub const BLOCK_SIZE: u32 = 4096;

/// A finished hash area.
#[derive(Debug)]
pub struct HashTree {
    pub root_hash: RootHash,
    pub data_blocks: u64,
}

/// Why there is no hash area.
#[derive(Debug, thiserror::Error)]
pub enum HashTreeError {
    #[error("cannot use {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path} has {size} bytes, which are no whole blocks")]
    Size { path: PathBuf, size: u64 },
    #[error("the salt does not fit")]
    Params(#[from] verity::BadParams),
    #[error("the hash area does not fit")]
    Area(#[from] verity::BadArea),
    #[error("cannot hash {path}")]
    Format {
        path: PathBuf,
        source: verity::FormatError,
    },
}

/// Makes the hash area of `image` at `tree`, superblock and all.
///
/// # Errors
/// When a file cannot be read or written.
pub fn make(image: &Path, salt: &Salt, tree: &Path) -> Result<HashTree, HashTreeError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| HashTreeError::File { path, source }
    };
    let data = File::open(image).map_err(failed(image))?;
    let size = data.metadata().map_err(failed(image))?.len();
    if !size.is_multiple_of(u64::from(BLOCK_SIZE)) || size == 0 {
        return Err(HashTreeError::Size {
            path: image.to_owned(),
            size,
        });
    }
    let data_blocks = size / u64::from(BLOCK_SIZE);
    let params = Params {
        data_block_size: BLOCK_SIZE,
        hash_block_size: BLOCK_SIZE,
        salt: salt.as_bytes().to_vec(),
        hash_type: HashType::Normal,
    };
    let superblock = Superblock::new(params, data_blocks, uuid_of(image).map_err(failed(image))?)?;
    let area = HashArea::with_superblock(&superblock, 0)?;
    let mut hash = File::create(tree).map_err(failed(tree))?;
    let root_hash =
        verity::format(&data, &area, &mut hash).map_err(|source| HashTreeError::Format {
            path: image.to_owned(),
            source,
        })?;
    Ok(HashTree {
        root_hash,
        data_blocks,
    })
}

/// Returns a UUID for the superblock that depends on the image alone: the same
/// image has the same hash area.
fn uuid_of(image: &Path) -> io::Result<Uuid> {
    let mut digest = Sha256::new();
    let mut file = File::open(image)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => break,
            n => digest.update(buffer.get(..n).unwrap_or_default()),
        }
    }
    let mut bytes = [0; 16];
    for (byte, hashed) in bytes.iter_mut().zip(digest.finalize()) {
        *byte = hashed;
    }
    Ok(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}
