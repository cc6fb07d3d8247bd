//! Why a request is refused, and why a job failed, each with its name on the bus.

use std::error::Error;
use std::fmt;

use partition_layout::{Architecture, RootHash, Version};

use crate::names::ErrorName;

/// The daemon will not do it; asking otherwise, or later, may help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the booted slot has not passed its health gate; nothing is written before it has")]
    BootedSlotNotGood,
    #[error("another job is at work")]
    Busy,
    #[error("release {version} (image {root_hash}) failed on this node: {reason}")]
    Barred {
        version: Version,
        root_hash: RootHash,
        reason: String,
    },
    #[error("release {version} is older than {floor}, the oldest that this node accepts")]
    BelowFloor { version: Version, floor: Version },
    #[error("release {version} is the one that runs")]
    AlreadyBooted { version: Version },
    #[error("the booted release has the version {version} too, and another image")]
    VersionInUse { version: Version },
    #[error("release {version} is for {found}, this node is {expected}")]
    WrongArchitecture {
        version: Version,
        found: Architecture,
        expected: Architecture,
    },
    #[error("release {version} is for nodes of kind {found:?}, this node is {expected:?}")]
    Incompatible {
        version: Version,
        found: String,
        expected: &'static str,
    },
    #[error("release {version} needs {needed} bytes for its {what}, the spare slot has {has}")]
    TooLarge {
        version: Version,
        what: &'static str,
        needed: u64,
        has: u64,
    },
    #[error("the spare slot holds no release that could run")]
    NothingToRollBackTo,
    #[error(
        "release {version} is older than the booted one, and the firmware keeps no variables to start it by"
    )]
    NoFirmwareVariables { version: Version },
    #[error("the booted slot is not on trial")]
    NotInTrial,
    #[error(
        "the booted release has failed, and no other one boots: the node stays up until another is staged"
    )]
    NothingElseBoots,
    #[error("no such job is at work")]
    NoSuchJob,
    #[error("what is at work is over in a moment, and cannot be paused")]
    NotPausable,
    #[error("the settings are wrong, and the old ones stay in force: {0}")]
    BadSettings(String),
    #[error("{0}")]
    BadArgument(String),
    #[error("the daemon is going down")]
    GoingDown,
}

impl Refused {
    /// Returns its name on the bus.
    pub const fn name(&self) -> ErrorName {
        match self {
            Self::BootedSlotNotGood => ErrorName::BootedSlotNotGood,
            Self::Busy | Self::GoingDown => ErrorName::Busy,
            Self::Barred { .. } => ErrorName::Barred,
            Self::BelowFloor { .. } => ErrorName::BelowFloor,
            Self::AlreadyBooted { .. } => ErrorName::AlreadyBooted,
            Self::VersionInUse { .. } => ErrorName::VersionInUse,
            Self::WrongArchitecture { .. } => ErrorName::WrongArchitecture,
            Self::Incompatible { .. } => ErrorName::Incompatible,
            Self::TooLarge { .. } => ErrorName::TooLarge,
            Self::NothingToRollBackTo => ErrorName::NothingToRollBackTo,
            Self::NoFirmwareVariables { .. } => ErrorName::NoFirmwareVariables,
            Self::NotInTrial => ErrorName::NotInTrial,
            Self::NothingElseBoots => ErrorName::NothingElseBoots,
            Self::NoSuchJob => ErrorName::NoSuchJob,
            Self::NotPausable => ErrorName::NotPausable,
            Self::BadSettings(_) => ErrorName::BadSettings,
            Self::BadArgument(_) => ErrorName::BadArgument,
        }
    }
}

/// The world said no: the name on the bus, and the whole chain of causes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub name: ErrorName,
    pub message: String,
}

impl Failure {
    /// Describes `error` and its causes.
    pub fn new(name: ErrorName, error: &(dyn Error + 'static)) -> Self {
        Self {
            name,
            message: Chain(error).to_string(),
        }
    }
}

impl From<&Refused> for Failure {
    fn from(refused: &Refused) -> Self {
        Self {
            name: refused.name(),
            message: refused.to_string(),
        }
    }
}

/// Shows an error with all its causes, each once.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
