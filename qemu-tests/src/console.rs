//! The serial console of a node: every line kept, every wait a level.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::sync::watch;

use crate::deadline::Deadline;

/// One line of the console.
#[derive(Clone, Debug)]
pub struct Line {
    /// When its end was read.
    pub at: Instant,
    /// Its text, without escape sequences.
    pub text: String,
}

/// A place in the console: what was written before it is history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(usize);

impl Mark {
    /// The moment of power-on.
    pub const START: Self = Self(0);
}

/// A node's serial console.
#[derive(Clone, Debug)]
pub struct Console {
    lines: Arc<Mutex<Vec<Line>>>,
    count: watch::Receiver<usize>,
    log: PathBuf,
}

impl Console {
    /// Starts reading `source` to its end, keeping every byte in the file `log`.
    ///
    /// The reader is a thread of its own: a story that is busy must never
    /// stop the node by not reading its console.
    ///
    /// # Errors
    ///
    /// Fails when the log cannot be opened or the thread cannot be started.
    pub fn read_from(source: impl Read + Send + 'static, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let shared = Arc::clone(&lines);
        thread::Builder::new()
            .name("console".into())
            .spawn(move || pump(source, file, &shared, &sender))
            .context("cannot start the console's reader")?;
        Ok(Self {
            lines,
            count,
            log: log.into(),
        })
    }

    /// Returns the place where the console stands now.
    pub fn mark(&self) -> Mark {
        Mark(self.lines().len())
    }

    /// Returns the first line after `mark` that contains `pattern`.
    pub fn find(&self, mark: Mark, pattern: &str) -> Option<Line> {
        self.lines()
            .iter()
            .skip(mark.0)
            .find(|line| line.text.contains(pattern))
            .cloned()
    }

    /// Returns how many lines after `mark` contain `pattern`.
    pub fn count(&self, mark: Mark, pattern: &str) -> usize {
        self.lines()
            .iter()
            .skip(mark.0)
            .filter(|line| line.text.contains(pattern))
            .count()
    }

    /// Waits until a line after `mark` contains `pattern`, and returns it.
    ///
    /// # Errors
    ///
    /// Fails when the deadline passes or the node is switched off first.
    pub async fn wait_for(&self, mark: Mark, pattern: &str, deadline: Deadline) -> Result<Line> {
        deadline
            .bound(
                format!("{pattern:?} on the console"),
                self.sought(|| self.find(mark, pattern)),
            )
            .await
            .flatten()
            .with_context(|| format!("no {pattern:?} in {}", self.log.display()))
    }

    /// Waits until a line ends after `moment`, whatever it says.
    ///
    /// # Errors
    ///
    /// As [`Self::wait_for`].
    pub(crate) async fn speaks_after(&self, moment: Instant, deadline: Deadline) -> Result<Line> {
        let last = || self.lines().last().filter(|line| line.at > moment).cloned();
        deadline
            .bound("a line on the console", self.sought(last))
            .await
            .flatten()
    }

    /// Looks again whenever a line was added, until `look` finds one.
    async fn sought(&self, look: impl Fn() -> Option<Line>) -> Result<Line> {
        let mut count = self.count.clone();
        loop {
            count.mark_unchanged();
            if let Some(line) = look() {
                return Ok(line);
            }
            if count.changed().await.is_err() {
                // The last lines may have come together with the end.
                return look().context("the console ended");
            }
        }
    }

    /// Returns the last `count` lines.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let lines = self.lines();
        lines
            .iter()
            .skip(lines.len().saturating_sub(count))
            .map(|line| line.text.clone())
            .collect()
    }

    /// Returns the file that holds every byte of the console.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads `source` to its end.
fn pump(
    mut source: impl Read,
    mut log: File,
    lines: &Mutex<Vec<Line>>,
    count: &watch::Sender<usize>,
) {
    let mut chunk = [0u8; 4096];
    let mut partial = Vec::new();
    loop {
        let got = match source.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(got) => got,
        };
        let bytes = chunk.get(..got).unwrap_or_default();
        // A log that cannot be kept must not stop the node; the lines are kept in memory as well.
        drop(log.write_all(bytes));
        for byte in bytes {
            if *byte == b'\n' {
                let line = Line {
                    at: Instant::now(),
                    text: plain(&String::from_utf8_lossy(&partial)),
                };
                partial.clear();
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.push(line);
                count.send_replace(lines.len());
            } else {
                partial.push(*byte);
            }
        }
    }
}

/// Returns `text` without escape sequences and control characters.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            match characters.next() {
                // CSI: parameters, then one letter.
                Some('[') => {
                    while characters
                        .next()
                        .is_some_and(|next| !('@'..='~').contains(&next))
                    {}
                }
                // OSC: up to BEL or the string terminator.
                Some(']') => {
                    while characters
                        .next()
                        .is_some_and(|next| next != '\u{7}' && next != '\\')
                    {}
                }
                Some(_) | None => {}
            }
        } else if !character.is_control() || character == '\t' {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn console(bytes: &'static [u8]) -> (Console, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let console =
            Console::read_from(Cursor::new(bytes), &folder.path().join("log")).expect("a console");
        (console, folder)
    }

    #[tokio::test]
    async fn a_line_that_was_written_before_the_wait_is_found() {
        let (console, _folder) = console(b"one\r\ntwo\r\n");
        console
            .wait_for(Mark::START, "two", Deadline::after(5))
            .await
            .expect("two");
        console
            .wait_for(Mark::START, "one", Deadline::after(5))
            .await
            .expect("one");
    }

    #[tokio::test]
    async fn what_was_written_before_the_mark_is_history() {
        let (console, _folder) = console(b"one\ntwo\n");
        console
            .wait_for(Mark::START, "two", Deadline::after(5))
            .await
            .expect("two");
        let mark = console.mark();
        let error = console
            .wait_for(mark, "one", Deadline::after(5))
            .await
            .expect_err("only history has one");
        assert!(
            format!("{error:#}").contains("the console ended"),
            "{error:#}"
        );
    }

    #[tokio::test]
    async fn what_was_said_before_a_moment_is_not_speech_after_it() {
        let before = Instant::now();
        let (console, _folder) = console(b"reboot: Restarting system\n");
        console
            .speaks_after(before, Deadline::after(5))
            .await
            .expect("a line");
        let later = Instant::now();
        console
            .speaks_after(later, Deadline::after(5))
            .await
            .expect_err("that line is older");
    }

    #[test]
    fn escape_sequences_do_not_hide_words() {
        assert_eq!(
            plain("[\u{1b}[0;32m  OK  \u{1b}[0m] Started \u{1b}[0;1;39mx\u{1b}[0m\r"),
            "[  OK  ] Started x"
        );
        assert_eq!(plain("\u{1b}]3008;start=1\u{1b}\\text"), "text");
    }
}
