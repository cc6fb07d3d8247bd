//! The names of errors on the bus: one list, used by the daemon that sends
//! them and by the command that explains them.

use std::fmt;

/// Prefix of every error name on the bus.
pub const PREFIX: &str = "io.bistable.Error.";

macro_rules! error_names {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// A named reason why a request was refused or a job failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorName {
            $($(#[$doc])* $name,)+
        }

        impl ErrorName {
            /// Every name there is.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Returns the last part of the name, `Busy` for instance.
            pub const fn short(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// Returns the name as it stands on the bus.
            pub const fn on_bus(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("io.bistable.Error.", stringify!($name)),)+
                }
            }
        }
    };
}

error_names! {
    /// The booted slot has not passed its health gate.
    BootedSlotNotGood,
    /// Another job runs.
    Busy,
    /// The image failed on this node before.
    Barred,
    /// The release is older than the oldest this node accepts.
    BelowFloor,
    /// The image is the one that runs.
    AlreadyBooted,
    /// The booted release has this version and another root hash.
    VersionInUse,
    /// The repository has no such release.
    UnknownVersion,
    /// The release is for another architecture.
    WrongArchitecture,
    /// The release is for another disk layout or product.
    Incompatible,
    /// The release does not fit a partition.
    TooLarge,
    /// The spare slot holds no release that could run.
    NothingToRollBackTo,
    /// The firmware keeps no variables, so an older release cannot be tried.
    NoFirmwareVariables,
    /// The booted slot is not on trial.
    NotInTrial,
    /// The trial has failed, and the node stays up since nothing else boots.
    NothingElseBoots,
    /// There is no such job, or it has ended.
    NoSuchJob,
    /// The job at work is one that cannot be paused.
    NotPausable,
    /// The settings are wrong; those that were in force stay so.
    BadSettings,
    /// The repository's metadata is too old.
    MetadataExpired,
    /// The repository's metadata is not signed by those whom this node trusts.
    MetadataUntrusted,
    /// The repository does not answer, or not in the way it should.
    RepositoryUnreachable,
    /// A blob's content is not what the release says.
    BlobCorrupt,
    /// A blob is shorter than the release says.
    BlobTruncated,
    /// The spare slot could not be written.
    SlotWriteFailed,
    /// The medium does not hold what was written to it.
    ReadBackMismatch,
    /// The EFI system partition has no room for the kernel image.
    EspFull,
    /// What the updater keeps on this node cannot be read or written.
    RecordFailed,
    /// An argument makes no sense.
    BadArgument,
    /// Something that should not happen; the message and the journal say what.
    Internal,
}

impl ErrorName {
    /// Returns the name that stands on the bus as `name`.
    pub fn from_bus(name: &str) -> Option<Self> {
        let short = name.strip_prefix(PREFIX)?;
        Self::ALL.iter().copied().find(|each| each.short() == short)
    }
}

impl fmt::Display for ErrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.on_bus())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_again_from_the_bus() {
        for name in ErrorName::ALL {
            assert_eq!(ErrorName::from_bus(name.on_bus()), Some(*name));
        }
        assert_eq!(ErrorName::from_bus("io.bistable.Error.Nonsense"), None);
        assert_eq!(
            ErrorName::from_bus("org.freedesktop.DBus.Error.Failed"),
            None
        );
    }
}
