//! The verdict as a file, so that its reason survives a daemon that is dead.
//!
//! The daemon reads it after the machine is back on the other slot.

use std::path::Path;

use serde::Serialize;

use super::durable::{self, ReplaceError};
use super::gate::Failure;
use super::this_boot::ThisBoot;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Passed {
    Pass,
    Fail,
}

/// The content of the file.
#[derive(Debug, Serialize)]
struct Content<'a> {
    boot_id: &'a str,
    root_hash: &'a str,
    verdict: Passed,
    version: &'a str,
    check: &'a str,
    unit: &'a str,
    reason: &'a str,
    lines: &'a [String],
}

/// Why a verdict was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteVerdictError {
    #[error("cannot spell out the verdict")]
    Spell { source: serde_json::Error },
    #[error("the verdict does not reach the disk")]
    Replace { source: ReplaceError },
}

/// Writes into `folder` that this boot passed. On return it has reached the disk.
pub(super) fn write_pass(folder: &Path, boot: &ThisBoot) -> Result<(), WriteVerdictError> {
    let content = Content {
        verdict: Passed::Pass,
        check: "",
        unit: "",
        reason: "",
        lines: &[],
        ..Content::about(boot)
    };
    write(folder, &content)
}

/// Writes into `folder` why this boot failed. On return it has reached the disk.
pub(super) fn write_fail(
    folder: &Path,
    boot: &ThisBoot,
    failure: &Failure,
) -> Result<(), WriteVerdictError> {
    let content = Content {
        verdict: Passed::Fail,
        check: &failure.check,
        unit: failure.unit.as_deref().unwrap_or_default(),
        reason: &failure.reason,
        lines: &failure.lines,
        ..Content::about(boot)
    };
    write(folder, &content)
}

impl<'a> Content<'a> {
    fn about(boot: &'a ThisBoot) -> Self {
        Self {
            boot_id: &boot.boot_id,
            root_hash: &boot.root_hash,
            verdict: Passed::Fail,
            version: &boot.version,
            check: "",
            unit: "",
            reason: "",
            lines: &[],
        }
    }
}

fn write(folder: &Path, content: &Content<'_>) -> Result<(), WriteVerdictError> {
    let mut bytes =
        serde_json::to_vec_pretty(content).map_err(|source| WriteVerdictError::Spell { source })?;
    bytes.push(b'\n');
    durable::replace(folder, "verdict.json", &bytes)
        .map_err(|source| WriteVerdictError::Replace { source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::report::Chain;

    fn boot() -> ThisBoot {
        ThisBoot {
            boot_id: "0a1b".to_owned(),
            root_hash: "abc".to_owned(),
            version: "2".to_owned(),
        }
    }

    fn read(folder: &Path) -> serde_json::Value {
        serde_json::from_slice(&fs::read(folder.join("verdict.json")).unwrap()).unwrap()
    }

    #[test]
    fn a_verdict_replaces_the_one_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("gate");
        let mut failure = Failure::new("web", "it is \"down\"");
        failure.unit = Some("web.service".to_owned());
        failure.lines = vec!["first".to_owned(), "last".to_owned()];
        write_fail(&folder, &boot(), &failure).unwrap();
        let expected = serde_json::json!({
            "boot_id": "0a1b", "root_hash": "abc", "verdict": "fail", "version": "2", "check": "web",
            "unit": "web.service", "reason": "it is \"down\"", "lines": ["first", "last"],
        });
        assert_eq!(read(&folder), expected);
        write_pass(&folder, &boot()).unwrap();
        assert_eq!(read(&folder)["verdict"], "pass");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = write_pass(&file.path().join("gate"), &boot()).unwrap_err();
        let told = Chain(&error).to_string();
        assert!(told.contains("gate"), "{told}");
    }
}
