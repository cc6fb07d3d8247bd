//! Why a slot could not be filled, and the name of that on the bus.

use std::io;

use partition_layout::{RootHash, Slot, Version};
use release::Digest;
use verity::{BadArea, ReadAreaError, TreeError};

use crate::names::ErrorName;
use crate::ports::{FetchError, Part};
use crate::refusal::Failure;

/// The world said no while a slot was filled or checked.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error("asked to stop")]
    Stopped,
    #[error("cannot fetch the {what}")]
    Fetch {
        what: &'static str,
        source: FetchError,
    },
    #[error("the {what} that came has the digest {found}, the release says {expected}")]
    BlobDigest {
        what: &'static str,
        found: Digest,
        expected: Digest,
    },
    #[error("the hash tree that came has no usable superblock")]
    Superblock { source: ReadAreaError },
    #[error("the hash tree's superblock says {found}, the release says {expected}")]
    TreeShape { found: String, expected: String },
    #[error("the hash tree that came does not lead to root hash {root_hash}")]
    Tree {
        root_hash: RootHash,
        source: TreeError,
    },
    #[error("block {block} of the root image that came is not the one in the hash tree")]
    Block { block: u64 },
    #[error("the release's hash tree cannot lie anywhere")]
    Area { source: BadArea },
    #[error("no way is left by which the {what} could come")]
    NoWay { what: &'static str },
    #[error("cannot write the {part:?} partition of slot {slot}")]
    Write {
        slot: Slot,
        part: Part,
        /// It says where: what was handed over may be written a little later.
        source: io::Error,
    },
    #[error("cannot bring the {part:?} partition of slot {slot} to the medium")]
    Flush {
        slot: Slot,
        part: Part,
        source: io::Error,
    },
    #[error("cannot read the {part:?} partition of slot {slot} back at byte {offset}")]
    ReadBack {
        slot: Slot,
        part: Part,
        offset: u64,
        source: io::Error,
    },
    #[error("slot {slot} does not read back with root hash {root_hash}: block {block} is another")]
    ReadBackBlock {
        slot: Slot,
        root_hash: RootHash,
        block: u64,
    },
    #[error("the hash tree in slot {slot} does not read back with root hash {root_hash}")]
    ReadBackTree {
        slot: Slot,
        root_hash: RootHash,
        source: TreeError,
    },
    #[error("the verity partition of slot {slot} holds no hash tree")]
    NoTree { slot: Slot, source: ReadAreaError },
    #[error("the verity partition of slot {slot} reads back with digest {found}, not {expected}")]
    ReadBackDigest {
        slot: Slot,
        found: Digest,
        expected: Digest,
    },
    #[error("cannot label slot {slot}")]
    Label { slot: Slot, source: io::Error },
    #[error("the EFI system partition has room for {has} bytes, the kernel image needs {needed}")]
    EspFull { needed: u64, has: u64 },
    #[error("cannot {doing}")]
    Esp {
        doing: &'static str,
        source: io::Error,
    },
    #[error("cannot {doing}: the firmware refuses")]
    Wish {
        doing: &'static str,
        source: io::Error,
    },
    #[error("the kernel image reads back with digest {found}, not {expected}")]
    KernelReadBack { found: Digest, expected: Digest },
    #[error("the kernel image of {version} has rotten: it is not what it was")]
    KernelRotten { version: Version },
}

impl StageError {
    /// Returns its name on the bus.
    pub fn name(&self) -> ErrorName {
        match self {
            Self::Stopped => ErrorName::Internal,
            Self::Fetch { source, .. } => match source {
                FetchError::RepositoryUnreachable { .. } => ErrorName::RepositoryUnreachable,
                FetchError::BlobTruncated { .. } => ErrorName::BlobTruncated,
                FetchError::BlobCorrupt { .. } => ErrorName::BlobCorrupt,
                FetchError::Stopped => ErrorName::Internal,
            },
            Self::BlobDigest { .. }
            | Self::Superblock { .. }
            | Self::TreeShape { .. }
            | Self::Block { .. }
            | Self::Area { .. }
            | Self::NoWay { .. } => ErrorName::BlobCorrupt,
            // What was written was the blob, by its digest. So either the release
            // is at odds with itself, or the medium lost it.
            Self::Tree {
                source: TreeError::Read { .. },
                ..
            } => ErrorName::SlotWriteFailed,
            Self::Tree { .. } => ErrorName::BlobCorrupt,
            Self::Write { .. }
            | Self::Flush { .. }
            | Self::ReadBack { .. }
            | Self::Label { .. } => ErrorName::SlotWriteFailed,
            Self::ReadBackTree {
                source: TreeError::Read { .. },
                ..
            }
            | Self::NoTree {
                source: ReadAreaError::Read { .. },
                ..
            } => ErrorName::SlotWriteFailed,
            Self::ReadBackBlock { .. }
            | Self::ReadBackTree { .. }
            | Self::NoTree { .. }
            | Self::ReadBackDigest { .. }
            | Self::KernelReadBack { .. }
            | Self::KernelRotten { .. } => ErrorName::ReadBackMismatch,
            Self::EspFull { .. } => ErrorName::EspFull,
            Self::Esp { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                ErrorName::EspFull
            }
            Self::Esp { .. } => ErrorName::SlotWriteFailed,
            Self::Wish { .. } => ErrorName::NoFirmwareVariables,
        }
    }
}

impl From<&StageError> for Failure {
    fn from(error: &StageError) -> Self {
        Self::new(error.name(), error)
    }
}
