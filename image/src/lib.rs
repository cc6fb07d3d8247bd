//! Builds Bistable's images and publishes them as releases.
//!
//! An image goes through these hands, in this order:
//!
//! | module | makes |
//! |---|---|
//! | [`declaration`] | what the image shall be, read from TOML |
//! | [`packages`] | exactly which packages that is, and their files |
//! | [`toolbox`] | Debian 13's own programs to build with, whatever the host is |
//! | [`compose`] | the root tree: packages, what installing them would have done, our own parts |
//! | [`store`] | an OSTree commit of it |
//! | [`erofs`], [`hash_tree`] | the root image and its dm-verity tree |
//! | [`initrd`], [`uki`] | the one file that boots it |
//! | [`esp`], [`disk`] | a disk image |
//! | [`manifest`], [`sbom`] | what was made, and of what |
//! | [`repository`] | signing keys, and the repository that nodes update from |
//!
//! Invariants: no maintainer script runs, nothing is mounted, and no privilege is needed; the
//! same packages, declaration and programs give the same root hash and the same UKI, byte for byte. It does
//! not build the node's programs (they come as a folder) and knows nothing of a running node.
//! Start reading at [`build`].

pub mod build;
pub mod compose;
pub mod declaration;
pub mod disk;
pub mod erofs;
pub mod esp;
pub mod hash_tree;
pub mod initrd;
pub mod manifest;
pub mod modules;
pub mod packages;
pub mod pattern;
pub mod repository;
pub mod sbom;
pub mod store;
pub mod tool;
pub mod toolbox;
pub mod tree;
pub mod uki;
