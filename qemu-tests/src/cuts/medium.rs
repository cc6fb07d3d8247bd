//! A disk at some moment: an image, and over it what was written since.
//!
//! Nothing is copied. For each sector it is known where its content lies, in the image
//! or in the log, and what was written after the last flush can be taken back.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use partition_layout::{Device, SectorSize};

use super::dice::mix;
use super::write_log::{Content, SECTOR, Write};
use crate::machine::copy_sparse;

/// How many sectors are kept track of together.
const PAGE: u64 = 2048;
/// How many sectors share a fine print: what is asked for is a kernel image.
const FINE: u64 = 128;

/// Where the content of a sector lies: 0 in the image, 1 nowhere (zeros), others
/// in the log, two sectors before.
type Source = u64;
const IMAGE: Source = 0;
const ZEROS: Source = 1;
const LOG: Source = 2;

/// A disk at some moment.
#[derive(Debug)]
pub struct Medium<'a> {
    image: &'a File,
    log: &'a File,
    len: u64,
    pages: Vec<Option<Box<[Source]>>>,
    /// For each [`FINE`] and each [`PAGE`] sectors a number that changes with any of them.
    fine: Vec<u64>,
    coarse: Vec<u64>,
    /// Where the sectors lay that were written after the last flush.
    unsettled: Vec<(u64, Source)>,
}

impl<'a> Medium<'a> {
    /// Begins with the disk that `image` holds; what is written to it lies in `log`.
    ///
    /// # Errors
    ///
    /// Fails when the image does not say how large it is.
    pub fn new(image: &'a File, log: &'a File) -> Result<Self> {
        let len = image
            .metadata()
            .context("cannot tell the size of the disk")?
            .len();
        let count = |sectors| usize::try_from(len.div_ceil(SECTOR * sectors));
        let pages = count(PAGE)?;
        Ok(Self {
            image,
            log,
            len,
            pages: (0..pages).map(|_| None).collect(),
            fine: vec![0; count(FINE)?],
            coarse: vec![0; pages],
            unsettled: Vec::new(),
        })
    }

    /// Writes all of `write`.
    pub fn write(&mut self, write: &Write) {
        self.write_sectors(write, 0..write.sectors);
    }

    /// Writes some sectors of `write`, counted from its first one.
    pub fn write_sectors(&mut self, write: &Write, sectors: Range<u64>) {
        for number in sectors {
            let source = match write.content {
                Content::Logged(start) => start + number + LOG,
                Content::Zeros => ZEROS,
            };
            let sector = write.sector + number;
            if let Some(before) = self.put(sector, source) {
                self.unsettled.push((sector, before));
            }
        }
    }

    /// What was written cannot be taken back any more.
    pub fn settle(&mut self) {
        self.unsettled.clear();
    }

    /// Takes back what was written since the disk was settled.
    pub fn take_back(&mut self) {
        while let Some((sector, before)) = self.unsettled.pop() {
            self.put(sector, before);
        }
    }

    /// Returns a number that says what lies in `bytes` and around, up to whole MiB: it
    /// is another one when anything there is.
    pub fn print(&self, bytes: &Range<u64>) -> u64 {
        combined(&self.coarse, PAGE * SECTOR, bytes)
    }

    /// Does what [`Self::print`] does, up to whole 64 KiB.
    pub fn fine_print(&self, bytes: &Range<u64>) -> u64 {
        combined(&self.fine, FINE * SECTOR, bytes)
    }

    /// Makes an image of it in the new file `to`; `from` is the one that it began with.
    ///
    /// # Errors
    ///
    /// Fails when that cannot be read or this not written.
    pub fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        copy_sparse(from, to)?;
        let file = File::options().write(true).open(to);
        let file = file.with_context(|| format!("cannot open {}", to.display()))?;
        let mut content = vec![0; usize::try_from(PAGE * SECTOR)?];
        let written = (0..).zip(&self.pages).filter(|(_, page)| page.is_some());
        for (number, _) in written {
            let at = number * PAGE * SECTOR;
            let within = usize::try_from((self.len - at).min(PAGE * SECTOR))?;
            content.truncate(within);
            let copied = self
                .read_at(at, &mut content)
                .and_then(|()| file.write_all_at(&content, at));
            copied.with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(())
    }

    /// Says where a sector lies from now on, and returns where it lay. There is none
    /// beyond the end.
    fn put(&mut self, sector: u64, source: Source) -> Option<Source> {
        let place = |unit| usize::try_from(sector / unit).ok();
        let page = self.pages.get_mut(place(PAGE)?)?;
        let page = page.get_or_insert_with(|| (0..PAGE).map(|_| IMAGE).collect());
        let at = usize::try_from(sector % PAGE).ok()?;
        let before = std::mem::replace(page.get_mut(at)?, source);
        let change = mark(sector, before) ^ mark(sector, source);
        *self.fine.get_mut(place(FINE)?)? ^= change;
        *self.coarse.get_mut(place(PAGE)?)? ^= change;
        Some(before)
    }

    fn source(&self, sector: u64) -> Source {
        let page = usize::try_from(sector / PAGE).ok();
        let page = page.and_then(|page| self.pages.get(page)?.as_ref());
        let at = usize::try_from(sector % PAGE).unwrap_or_default();
        page.and_then(|page| page.get(at)).copied().unwrap_or(IMAGE)
    }

    /// Reads within sectors that lie one behind the other.
    fn read_run(&self, source: Source, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        match source {
            IMAGE => self.image.read_exact_at(buffer, at),
            ZEROS => {
                buffer.fill(0);
                Ok(())
            }
            logged => {
                let within = at % SECTOR;
                self.log
                    .read_exact_at(buffer, (logged - LOG) * SECTOR + within)
            }
        }
    }
}

/// What a sector that lies there adds to a print; none as long as it lies in the image.
fn mark(sector: u64, source: Source) -> u64 {
    match source {
        IMAGE => 0,
        source => mix(mix(sector) ^ source),
    }
}

fn combined(prints: &[u64], unit: u64, bytes: &Range<u64>) -> u64 {
    let place = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let end = place(bytes.end.div_ceil(unit)).min(prints.len());
    let prints = prints
        .get(place(bytes.start / unit)..end)
        .unwrap_or_default();
    prints.iter().fold(0, |sum, print| sum ^ print)
}

impl Device for Medium<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let mut sector = at / SECTOR;
            let source = self.source(sector);
            let mut length = SECTOR - at % SECTOR;
            while length < rest.len() as u64 {
                sector += 1;
                let follows = match source {
                    IMAGE | ZEROS => source,
                    logged => logged + (sector - at / SECTOR),
                };
                if self.source(sector) != follows {
                    break;
                }
                length += SECTOR;
            }
            let length = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (run, behind) = rest.split_at_mut(length);
            self.read_run(source, at, run)?;
            at += length as u64;
            rest = behind;
        }
        Ok(())
    }

    fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        let what = "a disk of the past is not written to";
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn sector_size(&self) -> io::Result<Option<SectorSize>> {
        Ok(Some(SectorSize::B512))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuts::write_log::written::Written;
    use crate::cuts::write_log::{Entry, WriteLog};

    const LEN: usize = 3 << 20;

    struct Stand {
        folder: tempfile::TempDir,
        image: File,
        log: WriteLog,
    }

    impl Stand {
        fn new(written: &Written) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let (image, log) = (folder.path().join("image"), folder.path().join("log"));
            std::fs::write(&image, vec![b'.'; LEN]).expect("written");
            written.save(&log);
            Self {
                image: File::open(image).expect("it is there"),
                log: WriteLog::open(&log).expect("a log"),
                folder,
            }
        }

        fn writes(&self) -> Vec<Write> {
            let writes = self.log.entries().iter().filter_map(|entry| match entry {
                Entry::Write(write) => Some(*write),
                Entry::Flush => None,
            });
            writes.collect()
        }
    }

    fn bytes(medium: &Medium<'_>) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        medium.read_at(0, &mut bytes).expect("it is there");
        bytes
    }

    #[test]
    fn what_is_written_is_read_wherever_a_read_begins_and_ends() {
        let log = Written::default()
            .write(2, &[[b'a'; 512], [b'b'; 512], [b'c'; 512]].concat())
            .discard(5, 1)
            .write(2047, &[[b'x'; 512], [b'y'; 512]].concat());
        let stand = Stand::new(&log);
        let mut medium = Medium::new(&stand.image, stand.log.file()).expect("a disk");
        let mut wanted = vec![b'.'; LEN];
        stand.writes().iter().for_each(|write| medium.write(write));
        wanted[1024..1536].fill(b'a');
        wanted[1536..2048].fill(b'b');
        wanted[2048..2560].fill(b'c');
        wanted[2560..3072].fill(0);
        wanted[2047 * 512..2048 * 512].fill(b'x');
        wanted[2048 * 512..2049 * 512].fill(b'y');
        assert!(bytes(&medium) == wanted);
        for range in [
            0..1,
            1000..1100,
            1535..1537,
            511..3100,
            2047 * 512 + 511..2048 * 512 + 1,
        ] {
            let mut part = vec![0; range.len()];
            medium
                .read_at(range.start as u64, &mut part)
                .expect("it is there");
            assert!(part == wanted[range.clone()], "{range:?}");
        }
        let copy = stand.folder.path().join("copy");
        medium
            .copy(&stand.folder.path().join("image"), &copy)
            .expect("copied");
        assert!(std::fs::read(copy).expect("it is there") == wanted);
        let beyond = medium.read_at(LEN as u64 - 1, &mut [0; 2]);
        assert!(beyond.is_err());
    }

    #[test]
    fn what_is_taken_back_leaves_no_trace_and_what_is_settled_stays() {
        let log = Written::default()
            .write(2, &[b'a'; 1024])
            .write(3, &[b'b'; 512]);
        let stand = Stand::new(&log);
        let mut medium = Medium::new(&stand.image, stand.log.file()).expect("a disk");
        let all = 0..LEN as u64;
        let blank = (medium.print(&all), medium.fine_print(&all), bytes(&medium));
        let [first, second] = stand.writes()[..] else {
            panic!("two writes");
        };
        medium.write(&first);
        medium.write(&second);
        assert_ne!(medium.print(&all), blank.0);
        assert_ne!(medium.fine_print(&(1024..1025)), 0);
        assert_eq!(
            medium.print(&(1 << 20..LEN as u64)),
            0,
            "nothing was written there"
        );
        medium.take_back();
        assert!((medium.print(&all), medium.fine_print(&all), bytes(&medium)) == blank);

        medium.write_sectors(&first, 1..2);
        medium.settle();
        let settled = bytes(&medium);
        assert!(settled[1024..1536] == [b'.'; 512] && settled[1536..2048] == [b'a'; 512]);
        medium.write(&second);
        medium.take_back();
        assert!(bytes(&medium) == settled);
    }
}
