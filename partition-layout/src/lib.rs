//! The disk of a Bistable node as types: bytes in, types out.
//!
//! This crate is the only one that knows how a node's disk is laid out, and is used by
//! PID 1, the daemon and the image builder alike.
//!
//! # What it owns
//! - the partition table: [`Table`], both copies of it ([`TableHealth`]), and which
//!   partition is what ([`DiskLayout`], [`Slot`], [`Architecture`]);
//! - what a slot holds, told by partition labels and UUIDs alone ([`SlotContent`],
//!   [`RootHash`]);
//! - the three writes to a table: [`create()`], [`relabel`], [`repair`];
//! - the names of boot entries where they lie on a FAT file system: renamed in one
//!   step, and mended when somebody else's rename was cut short (`entry_names`);
//! - version order ([`Version`]), the names of boot entries ([`BootEntry`]) and which of
//!   them boots next ([`choose_entry`]).
//!
//! # What it refuses to own
//! What is inside of partitions, but for the names of boot entries; when a slot may be
//! changed; and how files get onto the ESP.
//!
//! # Invariants
//! - Whatever fails, and whenever: one whole copy of the table stays on the disk, with
//!   the old content or the new one. See [`rewrite`] for the order and its reasons.
//! - A table is taken for whole exactly when Linux 6.12 with `gpt` on its command line
//!   does; a disk that is not ours is refused.
//! - No bytes make this crate panic.
//!
//! Start reading at [`layout`], then [`rewrite`].
#![warn(missing_docs)]

pub mod architecture;
pub mod boot_choice;
pub mod boot_entry;
pub mod create;
pub mod device;
#[cfg(feature = "esp")]
pub mod entry_names;
#[cfg(feature = "esp")]
pub mod esp;
#[cfg(feature = "esp")]
mod fat;
#[cfg(feature = "esp")]
mod fat_check;
#[cfg(feature = "esp")]
mod fat_folder;
#[cfg(feature = "esp")]
mod fat_name;
mod header;
pub mod health;
pub mod layout;
mod mbr;
pub mod rewrite;
pub mod root_hash;
pub mod slot;
mod stream;
mod survey;
pub mod table;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "esp")]
mod torn_names;
#[cfg(feature = "esp")]
mod uki;
pub mod version;

pub use architecture::{Architecture, Role};
pub use boot_choice::{LoaderEntry, SortKey, choose_entry};
pub use boot_entry::{
    BadBootEntry, BootEntry, CountedName, Counter, ENTRY_FOLDER, MAX_TRIES, REMOVED_NAME,
    TEMPORARY_NAME, WATCHED_STARTS, is_temporary_name,
};
pub use create::{CreateError, DiskPlan, DiskUuids, Form, Sizes, create};
pub use device::{Device, SectorSize};
pub use header::CopyFault;
pub use health::{MbrFault, TableCopy, TableFault, TableHealth};
pub use layout::{DiskLayout, ReadLayoutError, VAR_LABEL};
pub use rewrite::{RelabelError, RepairError, RepairStep, Repaired, RewriteError, relabel, repair};
pub use root_hash::{BadRootHash, RootHash};
pub use slot::{BadSlot, EMPTY_LABEL, Slot, SlotContent, SlotLabel, SlotPartitions};
pub use survey::ReadTableError;
pub use table::{Partition, Table};
pub use uuid::Uuid;
pub use version::{BadVersion, Version, compare_versions};
