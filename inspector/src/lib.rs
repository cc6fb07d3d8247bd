//! A node's disk looked at from outside: what is on it, which slot boots, and whether
//! what could boot is whole.
//!
//! # What it owns
//! - [`Inspection`]: everything that a disk says of itself, and what is wrong with it;
//! - [`Verdict`]: of each boot entry that systemd-boot would offer, whether its kernel
//!   image can be read whole, and whether a slot holds the root that it names, by the
//!   root hash. `bistable-layout inspect` prints both.
//!
//! # What it refuses to own
//! Any writing. And trust: an image is held against the root hash of the kernel image
//! that would boot it, and nobody is asked whether that hash is a release's.
//!
//! # Invariants
//! - It reads through [`partition_layout::Device`], so a disk in use by nobody, an image
//!   file and the state of a disk at some moment in the past look the same to it.
//! - No bytes make it panic.
//!
//! Start reading at [`verdict`].
#![warn(missing_docs)]

pub mod inspection;
pub mod proof;
pub mod verdict;

pub use inspection::{Inspection, chain};
pub use proof::{DiskProofs, Proofs, SlotFault};
pub use verdict::{Bootable, Verdict};
