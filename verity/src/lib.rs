//! dm-verity: superblock, hash tree, device-mapper table.
//!
//! A verity hash tree proves every block of a data device up to one root
//! hash. This crate owns its bytes on disk: it builds them as `veritysetup
//! format` does, checks them, and writes the table by which the kernel
//! enforces them. It does not own partitions (`partition-layout`), trust in a
//! root hash (the caller's), or what happens after a bad block.
//!
//! Invariants:
//! - a digest is believed only when its block was proved by the level above,
//!   up to the root hash; nothing read from a hash device is used before that;
//! - memory does not grow with the data: every function here works in a few
//!   chunks per core and one block per tree level;
//! - bytes from a device never make it panic.
//!
//! Start reading at [`HashArea`], which says where everything lies; then
//! [`format()`] and [`verify`]. sha256 is the only hash algorithm.
#![warn(missing_docs)]

mod aligned;
mod area;
mod builder;
mod chunks;
mod compare;
mod device;
mod digest;
mod dm;
mod format;
mod ioctl;
#[cfg(test)]
mod oracle;
mod params;
mod pipeline;
mod repair;
mod superblock;
mod table;
mod tree;
mod verify;

pub use aligned::AlignedBuffer;
pub use area::{BadArea, HashArea, ReadAreaError};
pub use builder::{BuildError, TreeBuilder};
pub use compare::{CompareError, Stretch, compare};
pub use device::{Discard, ReadAt, WriteAt};
pub use dm::{
    ActivateError, BadName, DeviceNumber, DeviceStatus, Dm, DmError, DmName, NotADevice, Operation,
    TargetStatus, activate,
};
pub use format::{FormatError, format};
pub use ioctl::KernelDm;
pub use params::{BadParams, DIGEST_SIZE, HashType, MAX_BLOCK_SIZE, MAX_SALT_SIZE, Params};
pub use pipeline::in_order;
pub use repair::{RottenBlock, repair};
pub use superblock::{BadSuperblock, SUPERBLOCK_SIZE, Superblock};
pub use table::{OnCorruption, VerityTable};
pub use tree::{Match, TreeError, VerifiedTree};
pub use verify::{VerifyError, verify, verify_with_progress};
