//! What QEMU's `blklogwrites` recorded of a disk: its writes and flushes, in order.
//!
//! The format is that of Linux' dm-log-writes (Documentation/admin-guide/device-mapper/
//! log-writes.rst): a sector that says how many entries there are, then for each a
//! sector that describes it, and behind that its data. QEMU leaves the field for the
//! data's length at 0: a write has as much as its sectors, a discard has none. Numbers are
//! little-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Bytes of a sector, of the log and of the disk.
pub const SECTOR: u64 = 512;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// Something that was done to the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Entry {
    /// Sectors were written.
    Write(Write),
    /// All that was written before has reached the disk.
    Flush,
}

/// Sectors that were written at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Write {
    /// The first sector of the disk.
    pub sector: u64,
    /// How many there are.
    pub sectors: u64,
    /// What is in them.
    pub content: Content,
}

/// What is in sectors that were written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// What is in the log from this sector of it on.
    Logged(u64),
    /// Nothing: they were given back. A disk reads them as zeros.
    Zeros,
}

/// A log, read.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads the log at `path`, as far as QEMU says that it is written.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read or is none.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let entries = read(&file).with_context(|| format!("{} is no log", path.display()))?;
        Ok(Self { file, entries })
    }

    /// Returns what was done, in its order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the file that holds what was written.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Returns how many entries the log at `path` had at the last flush.
///
/// # Errors
///
/// Fails when it cannot be read or is none.
pub fn count(path: &Path) -> Result<u64> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    read_count(&file).with_context(|| format!("{} is no log", path.display()))
}

fn read(file: &File) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut at: u64 = 1;
    for number in 0..read_count(file)? {
        let header =
            read_sector(file, at).with_context(|| format!("cannot read entry {number}"))?;
        let [sector, sectors, flags] = numbers(&header);
        at += 1;
        // Sectors that were being logged when QEMU was killed.
        if sectors == 0 && flags == 0 {
            break;
        }
        match flags {
            FLUSH if sectors == 0 => entries.push(Entry::Flush),
            MARK => {}
            0 => {
                let content = Content::Logged(at);
                entries.push(Entry::Write(Write {
                    sector,
                    sectors,
                    content,
                }));
                at += sectors;
            }
            DISCARD => entries.push(Entry::Write(Write {
                sector,
                sectors,
                content: Content::Zeros,
            })),
            other => bail!("entry {number} has flags {other:#x}, which QEMU does not write"),
        }
    }
    Ok(entries)
}

fn read_count(file: &File) -> Result<u64> {
    let start = read_sector(file, 0).context("cannot read its first sector")?;
    let [magic, version, entries] = numbers(&start);
    ensure!(magic == MAGIC, "it begins with {magic:#x}");
    ensure!(version == VERSION, "its version is {version}");
    let (_, rest) = start.split_at(24);
    let size = rest.first_chunk().copied().map(u32::from_le_bytes);
    ensure!(
        size.map(u64::from) == Some(SECTOR),
        "its sectors have {size:?} bytes, not {SECTOR}"
    );
    Ok(entries)
}

fn read_sector(file: &File, number: u64) -> io::Result<[u8; 512]> {
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, number.saturating_mul(SECTOR))?;
    Ok(sector)
}

fn numbers(sector: &[u8; 512]) -> [u64; 3] {
    let (words, _) = sector.as_chunks();
    let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
    [(); 3].map(|()| words.next().unwrap_or_default())
}

#[cfg(test)]
#[path = "../../tests/written/mod.rs"]
pub(crate) mod written;

#[cfg(test)]
mod tests {
    use super::written::Written;
    use super::*;

    fn open(written: &Written) -> Result<WriteLog> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        written.save(&path);
        assert_eq!(count(&path).expect("a log"), written.count());
        WriteLog::open(&path)
    }

    #[test]
    fn what_was_logged_is_read_in_its_order_and_with_its_place() {
        let log = Written::default()
            .write(7, &[1; 1024])
            .flush()
            .discard(100, 50)
            .write(9, &[2; 512])
            .flush();
        let write = |sector, sectors, content| {
            Entry::Write(Write {
                sector,
                sectors,
                content,
            })
        };
        let log = open(&log).expect("a log");
        assert_eq!(
            log.entries(),
            [
                write(7, 2, Content::Logged(2)),
                Entry::Flush,
                write(100, 50, Content::Zeros),
                write(9, 1, Content::Logged(7)),
                Entry::Flush,
            ]
        );
        let sector = read_sector(log.file(), 7).expect("it is there");
        assert_eq!(sector, [2; 512]);
    }

    #[test]
    fn an_entry_that_was_not_finished_ends_the_log() {
        let log = Written::default()
            .write(7, &[1; 512])
            .entry(0, 0, 0, &[])
            .flush();
        assert_eq!(open(&log).expect("a log").entries().len(), 1);
    }

    #[test]
    fn what_qemu_does_not_write_is_refused() {
        let fua = Written::default().entry(1, 1, 2, &[1; 512]);
        let error = format!("{:#}", open(&fua).expect_err("no log of QEMU's"));
        assert!(error.contains("entry 0 has flags 0x2"), "{error}");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        std::fs::write(&path, [7; 2048]).expect("written");
        let error = format!("{:#}", WriteLog::open(&path).expect_err("no log"));
        assert!(
            error.contains("it begins with 0x707070707070707"),
            "{error}"
        );
    }
}
