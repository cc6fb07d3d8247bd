//! Finding a program, also where only the administrator's search path leads.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages::Package;

/// Debian keeps these out of the search path of ordinary users, and file system and
/// partition tools in them.
const ADMINISTRATOR: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A program is not on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no program {program} here{}", advice(.program))]
pub struct Missing {
    /// The program.
    pub program: String,
}

fn advice(program: &str) -> String {
    Package::of(program).map_or_else(String::new, |package| {
        format!(
            ": install the Debian package {} ({} does)",
            package.name(),
            package.installer()
        )
    })
}

/// Returns the user's search path and, behind it, the administrator's.
pub fn search_path() -> OsString {
    widened(&env::var_os("PATH").unwrap_or_default())
}

fn widened(path: &OsStr) -> OsString {
    let mut folders: Vec<PathBuf> = env::split_paths(path).collect();
    for folder in ADMINISTRATOR.map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    // Fails only on a folder with a colon in its name, which no split gives.
    env::join_paths(folders).unwrap_or_else(|_| path.to_owned())
}

/// Returns where `program` is.
///
/// # Errors
/// When it is nowhere; says which package brings it.
pub fn find(program: &str) -> Result<PathBuf, Missing> {
    env::split_paths(&search_path())
        .map(|folder| folder.join(program))
        .find(|path| can_be_run(path))
        .ok_or_else(|| Missing {
            program: program.to_owned(),
        })
}

fn can_be_run(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Returns a command that runs `program`, and finds what that runs in turn.
///
/// # Errors
/// When it is nowhere; says which package brings it.
pub fn command(program: &str) -> Result<Command, Missing> {
    let mut command = Command::new(find(program)?);
    command.env("PATH", search_path());
    Ok(command)
}

/// Returns a command that runs `program`, for a test to hold our work against.
///
/// # Panics
/// When it is nowhere, saying which package brings it: a test that goes without its
/// oracle cannot fail, so it must not pass.
#[expect(clippy::panic, reason = "it is how a test ends that cannot be run")]
pub fn oracle(program: &str) -> Command {
    command(program).unwrap_or_else(|missing| panic!("{missing}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_administrators_programs_are_found_behind_the_users_own() {
        assert_eq!(
            widened("/home/x/bin:/usr/bin:/usr/sbin".as_ref()),
            "/home/x/bin:/usr/bin:/usr/sbin:/usr/local/sbin:/sbin"
        );
    }

    #[test]
    fn a_missing_program_is_named_with_its_package_and_the_way_to_get_it() {
        let missing = Missing {
            program: "sgdisk".into(),
        };
        assert_eq!(
            missing.to_string(),
            "there is no program sgdisk here: install the Debian package gdisk (`cargo xtask setup` does)"
        );
        let missing = Missing {
            program: "rauc".into(),
        };
        assert!(
            missing
                .to_string()
                .ends_with("rauc (`cargo xtask bench update` does)")
        );
        let unknown = find("no-such-program").unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "there is no program no-such-program here"
        );
    }

    #[test]
    #[should_panic(expected = "there is no program no-such-oracle here")]
    fn a_test_without_its_oracle_fails() {
        drop(oracle("no-such-oracle"));
    }
}
