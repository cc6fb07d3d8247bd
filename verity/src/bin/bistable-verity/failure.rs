//! Why the command did not do what it was asked.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use partition_layout::BadRootHash;
use verity::{BadArea, FormatError, ReadAreaError, VerifyError};

/// Two families: refusals, where the arguments ask for what cannot be (exit
/// code 2), and failures, where content or the world is not right (1).
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cannot open {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path} is neither a file nor a block device")]
    Kind { path: PathBuf },
    #[error("cannot tell the size of {path}")]
    Size { path: PathBuf, source: io::Error },
    #[error("no such tree can be made of {path}")]
    Area { path: PathBuf, source: BadArea },
    #[error("{path} ends at byte {size}, the tree covers {needed} bytes")]
    Small {
        path: PathBuf,
        size: u64,
        needed: u64,
    },
    #[error(
        "{path} is both data and hash device, and its hash area at byte {offset} overlaps the {data_len} bytes of data: give --hash-offset, and --data-blocks if need be"
    )]
    Overlap {
        path: PathBuf,
        offset: u64,
        data_len: u64,
    },
    #[error("{path} holds no hash area")]
    Superblock {
        path: PathBuf,
        source: ReadAreaError,
    },
    #[error("cannot draw random bytes")]
    Random(#[source] io::Error),
    #[error("cannot write the hash area of {data} to {hash}")]
    Format {
        data: PathBuf,
        hash: PathBuf,
        source: FormatError,
    },
    #[error("cannot sync {path}")]
    Sync { path: PathBuf, source: io::Error },
    #[error("{data} is not proved by {hash}")]
    Verify {
        data: PathBuf,
        hash: PathBuf,
        source: VerifyError,
    },
    #[error("a root hash is needed to verify")]
    NoRootHash,
    #[error("{path} holds no root hash")]
    ReadRootHash { path: PathBuf, source: BadRootHash },
    #[error("cannot write the root hash to {path}")]
    WriteRootHash { path: PathBuf, source: io::Error },
    #[error("cannot print")]
    Print(#[source] io::Error),
}

impl Failure {
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Area { .. } | Self::Overlap { .. } | Self::NoRootHash => 2,
            Self::Open { .. }
            | Self::Kind { .. }
            | Self::Size { .. }
            | Self::Small { .. }
            | Self::Superblock { .. }
            | Self::Random(_)
            | Self::Format { .. }
            | Self::Sync { .. }
            | Self::Verify { .. }
            | Self::ReadRootHash { .. }
            | Self::WriteRootHash { .. }
            | Self::Print(_) => 1,
        }
    }
}

/// An error and all its causes, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
