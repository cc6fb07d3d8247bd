//! What the command takes: names and meanings are `veritysetup`'s.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use partition_layout::RootHash;
use uuid::Uuid;
use verity::{HashType, Params};

/// Makes, checks and shows dm-verity hash areas (sha256), as veritysetup does.
///
/// Exits with 0 only when all is well, 1 when content is bad or something
/// failed, 2 when it was asked for what cannot be.
#[derive(Debug, Parser)]
#[command(name = "bistable-verity", version, disable_help_flag = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) action: Action,
    /// Print help
    // `-h` is --hash, as in veritysetup.
    #[arg(long, short = '?', action = ArgAction::Help, global = true)]
    help: Option<bool>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Build the hash area of DATA in HASH and print its root hash
    Format {
        /// The data: a device or a file; never written to unless HASH is the same file
        data: PathBuf,
        /// Where the hash area goes: a device, or a file, made when there is none
        hash: PathBuf,
        #[command(flatten)]
        tree: Tree,
        /// UUID of the superblock; random when not given
        #[arg(long, conflicts_with = "no_superblock")]
        uuid: Option<Uuid>,
        /// Write the root hash to this file as well
        #[arg(long, value_name = "FILE")]
        root_hash_file: Option<PathBuf>,
    },
    /// Check every block of DATA and HASH against a root hash
    Verify {
        data: PathBuf,
        hash: PathBuf,
        /// 64 hexadecimal digits
        #[arg(required_unless_present = "root_hash_file")]
        root_hash: Option<RootHash>,
        #[command(flatten)]
        tree: Tree,
        /// Read the root hash from this file
        #[arg(long, value_name = "FILE", conflicts_with = "root_hash")]
        root_hash_file: Option<PathBuf>,
    },
    /// Show the superblock of HASH
    Dump {
        hash: PathBuf,
        /// Where the superblock is, in bytes
        #[arg(long, default_value_t = 0, value_name = "BYTES")]
        hash_offset: u64,
    },
}

/// How a tree is made. With a superblock, `verify` takes all but the offset from there.
#[derive(Debug, Args)]
pub(crate) struct Tree {
    /// Hash algorithm; sha256 is the only one
    #[arg(short = 'h', long = "hash", default_value = "sha256", value_parser = sha256)]
    algorithm: Sha256,
    /// 1 is the normal format, 0 the original Chrome OS format
    #[arg(long, default_value = "1", value_name = "NUMBER", value_parser = hash_type)]
    format: HashType,
    /// A power of two, 512 to 65536
    #[arg(long, default_value_t = 4096, value_name = "BYTES")]
    data_block_size: u32,
    /// A power of two, 512 to 65536
    #[arg(long, default_value_t = 4096, value_name = "BYTES")]
    hash_block_size: u32,
    /// Data blocks to cover; all whole blocks of DATA when not given
    #[arg(long, value_name = "BLOCKS")]
    pub(crate) data_blocks: Option<u64>,
    /// Where the hash area starts in HASH
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub(crate) hash_offset: u64,
    /// Up to 256 bytes, or - for none; `format` draws 32 random bytes when not given
    #[arg(short, long, value_name = "HEX|-", value_parser = salt, allow_hyphen_values = true)]
    salt: Option<Salt>,
    /// The hash area has no superblock
    #[arg(long)]
    pub(crate) no_superblock: bool,
}

impl Tree {
    /// Returns the parameters that were given; `draw_salt` makes a salt when
    /// none was.
    pub(crate) fn params<E>(
        &self,
        draw_salt: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Params, E> {
        let salt = match &self.salt {
            Some(Salt(salt)) => salt.clone(),
            None => draw_salt()?,
        };
        Ok(Params {
            data_block_size: self.data_block_size,
            hash_block_size: self.hash_block_size,
            salt,
            hash_type: self.format,
        })
    }
}

/// A salt of any length; [`Params::check`] bounds it.
#[derive(Debug, Clone)]
struct Salt(Vec<u8>);

fn salt(text: &str) -> Result<Salt, hex::FromHexError> {
    let digits = if text == "-" { "" } else { text };
    hex::decode(digits).map(Salt)
}

/// Stands for the one hash algorithm that may be asked for.
#[derive(Debug, Clone)]
struct Sha256;

fn sha256(name: &str) -> Result<Sha256, &'static str> {
    if name == "sha256" {
        Ok(Sha256)
    } else {
        Err("sha256 is the only hash algorithm that Bistable makes and trusts")
    }
}

fn hash_type(number: &str) -> Result<HashType, &'static str> {
    number
        .parse()
        .ok()
        .and_then(HashType::from_number)
        .ok_or("only 0 and 1 are hash types")
}
