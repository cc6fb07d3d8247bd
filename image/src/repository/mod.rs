//! The signed repository of static files that nodes update from.
//!
//! Owns the signing keys, the order in which a repository's files are put in
//! place, and the check of a repository as a node would do it. It does not
//! build images, and it serves nothing: any web server does.
//!
//! Invariants:
//! - whatever the moment a publisher stops, a node finds either the repository
//!   before or the one after, whole: a file is put before the file that names
//!   it, and `timestamp.json`, which names all, comes last;
//! - a file that metadata names by number or digest is never written again
//!   with other content;
//! - one publisher at a time changes a repository.
//!
//! Start at [`publish`]; [`KeySet`] is the trust, [`Store`] the disk.

mod channel_file;
pub mod cli;
mod examine;
mod expiry;
mod keys;
mod metadata;
mod packs;
mod publish;
mod refresh;
mod release_files;
mod rollout;
mod rotate;
mod share;
mod store;
mod target_list;
mod trusted;
mod verify;

pub use channel_file::ChannelError;
pub use examine::ExamineError;
pub use expiry::{BadExpiry, Expiries, Expiry};
pub use keys::{GenerateError, KeyPlan, KeySet, LoadKeysError, Quorum, SignError, generate};
pub use metadata::MetadataError;
pub(crate) use metadata::parse_root;
pub use packs::{BadContent, PackError, PackKind, PackOf, PackPlan};
pub use publish::{Outcome, PublishError, PublishRequest, Published, publish};
pub use refresh::{RefreshError, Refreshed, refresh};
pub use release_files::TakenError;
pub use rollout::{RolledOut, RolloutError, roll_out};
pub use rotate::{RotateError, rotate_root};
pub use share::{BadShare, Share};
pub use store::{Directory, LockError, Store};
pub use trusted::LoadError;
pub use verify::{Problem, Report, VerifyError, verify};
