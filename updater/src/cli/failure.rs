//! Why a command did not do what it was told, and what to do about it.

use std::process::ExitCode;

use serde_json::{Value, json};
use zbus::fdo;

use super::model::NamedError;
use crate::names::{ErrorName, PREFIX};

/// How the command ended, for scripts. See the text of `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Refused = 3,
    Unreachable = 4,
    Cancelled = 5,
    Left = 6,
    UpdateAvailable = 10,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        // The value is the contract, so each stands here.
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Refused => 3,
            Exit::Unreachable => 4,
            Exit::Cancelled => 5,
            Exit::Left => 6,
            Exit::UpdateAvailable => 10,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// The updater refused, or a job of its failed.
    #[error("{message}")]
    Named { name: ErrorName, message: String },
    /// It has an error that this command does not know yet.
    #[error("{message} ({name})")]
    Unknown { name: String, message: String },
    #[error("the bus does not let you speak to the updater")]
    Denied,
    #[error("the updater cannot be reached: {0}")]
    Unreachable(String),
    #[error("the updater went away while it worked")]
    Vanished,
    #[error("there is no job at work")]
    NoJob,
    #[error("cannot write the output")]
    Output(#[from] std::io::Error),
}

impl CommandError {
    /// Returns the error of a job or of `LastError`.
    pub(super) fn of(error: NamedError) -> Self {
        let NamedError { name, message } = error;
        match ErrorName::from_bus(&name) {
            Some(name) => Self::Named { name, message },
            None if name.starts_with(PREFIX) => Self::Unknown { name, message },
            // The bus or systemd answers in the updater's stead.
            None => Self::Unreachable(format!("{message} ({name})")),
        }
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Named { name, .. } => exit_of(*name),
            Self::Denied | Self::NoJob => Exit::Refused,
            Self::Unreachable(_) | Self::Vanished => Exit::Unreachable,
            Self::Unknown { .. } | Self::Output(_) => Exit::Failed,
        }
    }

    /// Returns what to do next, if anything helps.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Named { name, .. } => Some(hint_for(*name)),
            Self::Denied => Some("run it as root, or as a member of the group bistable-operators"),
            Self::Unreachable(_) => Some(
                "is this a Bistable node, and does bistable-updater.service run? The journal says why not",
            ),
            Self::Vanished => Some(
                "it is started again by itself, and undoes what was half done; look at `bistable status`",
            ),
            Self::NoJob => Some("look at `bistable status`"),
            Self::Unknown { .. } => Some("the journal of bistable-updater.service says more"),
            Self::Output(_) => None,
        }
    }

    pub(super) fn json(&self) -> Value {
        let name = match self {
            Self::Named { name, .. } => Some(name.on_bus().to_owned()),
            Self::Unknown { name, .. } => Some(name.clone()),
            Self::Denied
            | Self::Unreachable(_)
            | Self::Vanished
            | Self::NoJob
            | Self::Output(_) => None,
        };
        json!({ "error": { "name": name, "message": self.to_string(), "hint": self.hint() } })
    }
}

impl From<zbus::Error> for CommandError {
    fn from(error: zbus::Error) -> Self {
        if let zbus::Error::MethodError(name, message, _) = &error {
            return Self::of(NamedError {
                name: name.to_string(),
                message: message.clone().unwrap_or_default(),
            });
        }
        if let zbus::Error::FDO(error) = &error
            && let fdo::Error::AccessDenied(_) = **error
        {
            return Self::Denied;
        }
        Self::Unreachable(error.to_string())
    }
}

impl From<fdo::Error> for CommandError {
    fn from(error: fdo::Error) -> Self {
        if let fdo::Error::ZBus(error) = error {
            return error.into();
        }
        zbus::Error::FDO(Box::new(error)).into()
    }
}

/// A refusal is what asking otherwise, or at another time, can change.
fn exit_of(name: ErrorName) -> Exit {
    use ErrorName as E;
    match name {
        E::BootedSlotNotGood
        | E::Busy
        | E::Barred
        | E::BelowFloor
        | E::AlreadyBooted
        | E::VersionInUse
        | E::UnknownVersion
        | E::WrongArchitecture
        | E::Incompatible
        | E::TooLarge
        | E::NothingToRollBackTo
        | E::NoFirmwareVariables
        | E::NotInTrial
        | E::NothingElseBoots
        | E::NoSuchJob
        | E::NotPausable
        | E::BadSettings
        | E::BadArgument => Exit::Refused,
        E::MetadataExpired
        | E::MetadataUntrusted
        | E::RepositoryUnreachable
        | E::BlobCorrupt
        | E::BlobTruncated
        | E::SlotWriteFailed
        | E::ReadBackMismatch
        | E::EspFull
        | E::RecordFailed
        | E::Internal => Exit::Failed,
    }
}

/// Returns what a person does next.
pub(super) fn hint_for(name: ErrorName) -> &'static str {
    use ErrorName as E;
    match name {
        E::BootedSlotNotGood => {
            "the running release is on trial; wait for its health gate (`bistable status`)"
        }
        E::Busy => {
            "another job is at work; watch it with `bistable status`, or `bistable cancel` it"
        }
        E::Barred => {
            "this image failed on this node; stage a newer one, or allow it again with `bistable forgive HASH` (see `bistable barred`)"
        }
        E::BelowFloor => {
            "older than this node accepts; name it and add --force to take it all the same"
        }
        E::AlreadyBooted => "nothing to do: this image is the one that runs",
        E::VersionInUse => {
            "the publisher changed a release without giving it a new version; publish it under another one"
        }
        E::UnknownVersion => "see what there is: `bistable check`, then `bistable releases`",
        E::WrongArchitecture | E::Incompatible => {
            "the release is for other nodes; check the channel in /etc/bistable/updater.toml"
        }
        E::TooLarge => {
            "the release does not fit this node's partitions; the publisher must make it smaller"
        }
        E::NothingToRollBackTo => {
            "the other slot holds no release that could run; stage one by its version instead"
        }
        E::NoFirmwareVariables => {
            "the firmware keeps no variables, or refuses one, so only a newer release can be tried; publish the old content under a newer version"
        }
        E::NothingElseBoots => "stage another release by its name, with --force, and reboot",
        E::NotInTrial => "nothing to decide: the running release is good already",
        E::NoSuchJob => "the job has ended; `bistable status` and `bistable history` say how",
        E::NotPausable => "wait a moment, or `bistable cancel` it",
        E::BadSettings => {
            "correct the line that is named, and `bistable reload`; until then the old settings hold"
        }
        E::MetadataExpired => {
            "is the node's clock right? If so, the publisher must renew the repository (`repository refresh`)"
        }
        E::MetadataUntrusted => {
            "do not force this: somebody else than the publisher may be speaking. Check the repository's address, and the publisher's keys"
        }
        E::RepositoryUnreachable => {
            "check the network and `repository` in /etc/bistable/updater.toml; nothing was changed, try again"
        }
        E::BlobCorrupt | E::BlobTruncated => {
            "the server holds a damaged copy; publish it again or use another mirror. The spare slot is empty"
        }
        E::SlotWriteFailed | E::ReadBackMismatch => {
            "the disk may be failing: look at the kernel's log. The spare slot is empty, the running one untouched"
        }
        E::EspFull => {
            "the EFI system partition has no room; see `bistable slots` and what else lies on it"
        }
        E::RecordFailed => {
            "/var is full, read-only or failing: make room, or restart the node, which has it checked"
        }
        E::BadArgument => "`bistable help COMMAND` says what a command takes",
        E::Internal => "this should not happen; the journal of bistable-updater.service says more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_the_updater_has_a_hint_and_an_exit_code() {
        for name in ErrorName::ALL {
            let error = CommandError::Named {
                name: *name,
                message: String::new(),
            };
            assert!(error.hint().is_some_and(|hint| hint.len() > 10), "{name}");
            assert!(
                matches!(error.exit(), Exit::Failed | Exit::Refused),
                "{name}"
            );
        }
    }

    /// The rows of the manual's table of errors: name, and the word of its kind.
    fn manual() -> Vec<(&'static str, &'static str)> {
        let manual = include_str!("../../../docs/dbus-api.md");
        let (_, table) = manual.split_once("## Errors").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap();
        table
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .map(|row| {
                let mut cells = row.split(" | ");
                let name = cells.next().unwrap().trim_end_matches('`');
                (name, cells.next().unwrap())
            })
            .collect()
    }

    #[test]
    fn the_manual_lists_the_errors_that_there_are_as_refused_or_failed() {
        let manual = manual();
        let mut names: Vec<_> = manual.iter().map(|(name, _)| *name).collect();
        let mut all: Vec<_> = ErrorName::ALL.iter().map(|name| name.short()).collect();
        names.sort_unstable();
        all.sort_unstable();
        assert_eq!(names, all);
        for (name, kind) in manual {
            let name = ErrorName::from_bus(&format!("{PREFIX}{name}")).unwrap();
            let expected = if exit_of(name) == Exit::Refused {
                "refused"
            } else {
                "failed"
            };
            assert_eq!(kind, expected, "{name}");
        }
    }

    #[test]
    fn an_answer_in_the_updaters_stead_means_that_it_cannot_be_reached() {
        let error = CommandError::of(NamedError {
            name: "org.freedesktop.systemd1.UnitMasked".to_owned(),
            message: "Unit bistable-updater.service is masked.".to_owned(),
        });
        assert_eq!(error.exit(), Exit::Unreachable);
        assert!(error.to_string().contains("is masked"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("journal")));
    }

    #[test]
    fn an_error_of_a_newer_updater_is_shown_by_its_name() {
        let error = CommandError::of(NamedError {
            name: "io.bistable.Error.Eclipsed".to_owned(),
            message: "the moon is in the way".to_owned(),
        });
        assert_eq!(
            error.to_string(),
            "the moon is in the way (io.bistable.Error.Eclipsed)"
        );
        assert_eq!(error.exit(), Exit::Failed);
    }
}
