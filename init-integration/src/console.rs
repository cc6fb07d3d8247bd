//! What PID 1 has to say goes to the kernel's log, which is on every console
//! at once and which the journal keeps.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};

/// The kernel refuses longer records (`PRINTKRB_RECORD_MAX` is 1024, prefix included).
const RECORD_MAX: usize = 900;

/// Levels of linux/kern_levels.h. `quiet` hides what is not graver than a warning.
#[derive(Debug, Clone, Copy)]
enum Level {
    Critical = 2,
    Info = 6,
}

/// The way to the kernel's log.
#[derive(Debug, Default)]
pub struct Console {
    log: Option<File>,
}

impl Console {
    /// Opens the kernel's log; until then lines go to the console that PID 1 was started on.
    pub fn open(&mut self) {
        self.log = open_log().ok();
    }

    /// Tells how things go.
    pub fn say(&self, line: &str) {
        self.write(Level::Info, line);
    }

    /// Tells what went wrong, on a quiet console too.
    pub fn complain(&self, line: &str) {
        self.write(Level::Critical, line);
    }

    fn write(&self, level: Level, text: &str) {
        // Each open file may write ten records in five seconds before the kernel
        // drops them silently, so the log is opened anew; while /dev is being
        // moved that fails, and the old one has to do.
        let fresh = open_log();
        let log = fresh.as_ref().ok().or(self.log.as_ref());
        for record in records(level, text) {
            let outcome = log.map_or(Err(io::ErrorKind::NotConnected.into()), |mut log| {
                log.write_all(record.as_bytes())
            });
            if outcome.is_err() {
                // The last resort. If it fails as well, there is nobody to tell.
                drop(io::stderr().write_all(record.as_bytes()));
            }
        }
    }
}

fn open_log() -> io::Result<File> {
    OpenOptions::new().write(true).open("/dev/kmsg")
}

/// Cuts `text` into records for the kernel's log.
fn records(level: Level, text: &str) -> Vec<String> {
    let mut records = Vec::new();
    for line in text.lines() {
        let mut rest = line;
        while !rest.is_empty() {
            let (record, after) = rest.split_at(rest.floor_char_boundary(RECORD_MAX));
            records.push(format!("<{}>bistable-init: {record}\n", level as u8));
            rest = after;
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_a_record_with_its_level() {
        assert_eq!(
            records(Level::Critical, "no disk"),
            ["<2>bistable-init: no disk\n"]
        );
    }

    #[test]
    fn a_long_line_loses_nothing() {
        let line = "ä".repeat(1000);
        let records = records(Level::Info, &line);
        assert!(records.iter().all(|record| record.len() < 1000));
        let joined: String = records
            .iter()
            .map(|record| {
                record
                    .strip_prefix("<6>bistable-init: ")
                    .unwrap()
                    .trim_end()
            })
            .collect();
        assert_eq!(joined, line);
    }
}
