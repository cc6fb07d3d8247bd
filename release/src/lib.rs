//! The contract between publisher and node: the files of a repository, their
//! names, and their limits. Pure: it reads no file and opens no connection.
//!
//! A repository is a tree of static files:
//!
//! ```text
//! metadata/  N.root.json, N.targets.json, N.snapshot.json, timestamp.json   (The Update Framework)
//! targets/   <sha256>.<channel>.channel.json, <sha256>.<version>.release.json
//! blobs/     <sha256>                                                       (root image, hash tree, UKI, SBOM, packs)
//! ```
//!
//! The metadata vouches for the two kinds of target; a [`Release`] vouches for
//! its blobs. So whatever holds a checked [`Release`] may fetch its blobs from
//! any server.
//!
//! Invariants: a value that came out of [`Release::parse`] or
//! [`Channel::parse`] keeps every limit of [`limits`]; what goes out through
//! `to_bytes` is parsed back to an equal value. Fields that are not known are
//! ignored, so that a newer publisher can add some; a `format` that is not
//! known is refused.
//!
//! Start at [`Channel`] and [`Release`]; [`pack`] is the one compressed format,
//! [`rollout`] who takes a release when.

mod blob;
mod channel;
mod document;
pub mod limits;
pub mod pack;
mod release;
pub mod rollout;
mod salt;

pub use blob::{BadDigest, Blob, BlobPath, Digest};
pub use channel::{BadChannelName, Channel, ChannelName};
pub use document::{BadDocument, Problem};
pub use pack::{Pack, Patch, UkiPatch};
pub use release::{Blobs, COMPATIBLE, Release, Verity, release_target, version_of_target};
pub use rollout::Rollout;
pub use salt::{BadSalt, Salt};

/// The only value of `format` that this crate reads and writes.
pub const FORMAT: u64 = 1;
