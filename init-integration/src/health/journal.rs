//! The last words of a unit.

use std::io;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// How many lines are kept.
const LINES: &str = "20";

/// The longest line that is kept, in characters.
const LINE_MAX: usize = 400;

/// The journal is a witness, not a judge: it gets a few seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Returns the last lines that `unit` logged in this boot, by the program `journalctl`.
/// When they cannot be had, the one line returned says why.
pub(super) async fn last_lines(journalctl: &Path, unit: &str) -> Vec<String> {
    match timeout(PATIENCE, ask(journalctl, unit)).await {
        Ok(Ok(output)) if output.status.success() => lines(&output.stdout),
        Ok(Ok(output)) => vec![format!("({}: {})", journalctl.display(), output.status)],
        Ok(Err(error)) => vec![format!("({}: {error})", journalctl.display())],
        Err(_) => vec![format!(
            "({} took longer than {} s)",
            journalctl.display(),
            PATIENCE.as_secs()
        )],
    }
}

async fn ask(journalctl: &Path, unit: &str) -> io::Result<Output> {
    Command::new(journalctl)
        .args([
            "--boot",
            "--no-pager",
            "--quiet",
            "--output=cat",
            "--lines",
            LINES,
            "--unit",
            unit,
        ])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
}

fn lines(output: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(output)
        .lines()
        .map(|line| line.chars().take(LINE_MAX).map(plain).collect())
        .collect()
}

/// A service may log what it likes, and a bus ends the connection of whoever sends a text
/// with a NUL in it: the verdict would not be heard.
fn plain(char: char) -> char {
    if char.is_control() { ' ' } else { char }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn program(folder: &Path, script: &str) -> std::path::PathBuf {
        let path = folder.join("journalctl");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn the_lines_are_those_of_the_unit() {
        let folder = tempfile::tempdir().unwrap();
        let journalctl = program(
            folder.path(),
            "echo starting; echo \"$@\" | tr ' ' '\\n' | tail -n 1",
        );
        assert_eq!(
            last_lines(&journalctl, "web.service").await,
            ["starting", "web.service"]
        );
    }

    #[test]
    fn a_line_that_no_bus_would_pass_on_is_made_fit_for_it() {
        let said = b"a\0b\x1b[2Jc\td\n\xff\n";
        assert_eq!(lines(said), ["a b [2Jc d", "\u{fffd}"]);
    }

    #[tokio::test]
    async fn a_journal_that_fails_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let journalctl = program(folder.path(), "exit 1");
        let said = last_lines(&journalctl, "web.service").await;
        assert!(said[0].contains("exit status: 1"), "{said:?}");
        let absent = last_lines(Path::new("/no/such/journalctl"), "web.service").await;
        assert!(absent[0].contains("/no/such/journalctl"), "{absent:?}");
    }
}
