//! `image.json`: what one build made. The builder writes it beside the image's
//! files; the publisher makes a release of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use partition_layout::{Architecture, BootEntry, RootHash, Version};
use release::Salt;
use serde::{Deserialize, Serialize};

/// The description of a built image, and the names of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// The version that the image says it is.
    pub version: Version,
    /// The architecture it runs on.
    pub architecture: Architecture,
    /// The dm-verity root hash of the root image.
    pub root_hash: RootHash,
    /// The shape of the hash tree.
    pub verity: VerityShape,
    /// The sizes of the files, in bytes.
    pub sizes: Sizes,
    /// The release of the kernel, as `uname -r` says it.
    pub kernel: String,
    /// The OSTree commit that the root tree was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ostree_commit: Option<String>,
    /// When the image's content was made, in seconds since 1970: the same for
    /// the same inputs, so no clock is read for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// What changed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
}

/// The shape of an image's hash tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerityShape {
    /// The size of a block of the root image, in bytes.
    pub data_block_size: u32,
    /// The size of a block of the tree, in bytes.
    pub hash_block_size: u32,
    /// The salt, in hexadecimal digits.
    pub salt: Salt,
    /// The number of blocks of the root image.
    pub data_blocks: u64,
}

/// The sizes of an image's files, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// The root image.
    pub root: u64,
    /// The hash area.
    pub verity: u64,
    /// The UKI.
    pub uki: u64,
}

/// `image.json` could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file could not be read.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    /// The file could not be written.
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    /// The file is not a manifest.
    #[error("{path} is not the description of an image")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl ImageManifest {
    /// The name of the manifest in the folder of an image.
    pub const FILE: &'static str = "image.json";
    /// The name of the root image in the folder of an image.
    pub const ROOT: &'static str = "root.img";
    /// The name of the hash area in the folder of an image.
    pub const VERITY: &'static str = "root.verity";
    /// The name of the bill of materials in the folder of an image.
    pub const SBOM: &'static str = "sbom.spdx.json";

    /// Reads the manifest in the folder of an image.
    pub fn read(image: &Path) -> Result<Self, ManifestError> {
        let path = image.join(Self::FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(ManifestError::Read { path, source }),
        };
        serde_json::from_slice(&bytes).map_err(|source| ManifestError::Parse { path, source })
    }

    /// Writes the manifest into the folder of an image.
    pub fn write(&self, image: &Path) -> Result<(), ManifestError> {
        let path = image.join(Self::FILE);
        let mut bytes = serde_json::to_vec_pretty(self)
            .expect("no map has keys other than texts, and writing to memory cannot fail");
        bytes.push(b'\n');
        fs::write(&path, bytes).map_err(|source| ManifestError::Write { path, source })
    }

    /// Returns the name of the UKI in the folder of an image:
    /// `bistable_<version>.efi`, as on the ESP of a node that found it good.
    pub fn uki(&self) -> String {
        BootEntry::good(self.version.clone()).file_name()
    }
}
