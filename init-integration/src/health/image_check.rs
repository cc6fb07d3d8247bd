//! A check that the whole booted image reads back clean.
//!
//! dm-verity checks a block when it is read, so an image whose rarely used parts are
//! rotten boots well and fails months later, when nothing is left to go back to. Each
//! block is therefore read once in each boot, past the page cache, so that it
//! comes from the medium and pushes nothing out of memory. A bad
//! block panics the kernel (`panic_on_corruption`); that too is an answer.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use rustix::fs::{Advice, OFlags, fadvise, major, minor};

use super::look::Look;

/// Read at a time: enough for the disk to stream, not enough to hold others up.
const CHUNK: usize = 1024 * 1024;

/// What `O_DIRECT` asks of addresses; no disk has larger sectors.
const ALIGNMENT: usize = 4096;

/// Returns the device that the file system of `root` is on, which has to be a mapped one.
/// `sys` is `/sys`, `dev` is `/dev`.
pub fn device_of(root: &Path, sys: &Path, dev: &Path) -> io::Result<PathBuf> {
    let number = fs::metadata(root)?.dev();
    let (major, minor) = (major(number), minor(number));
    if !sys
        .join(format!("dev/block/{major}:{minor}/dm/name"))
        .exists()
    {
        return Err(io::Error::other(format!(
            "{} is on device {major}:{minor}, which is not under dm-verity",
            root.display()
        )));
    }
    Ok(dev.join(format!("dm-{minor}")))
}

/// A reading of the whole image, which is begun with the first look.
#[derive(Debug)]
pub struct ImageReading {
    device: PathBuf,
    /// Made when it is done, so that a gate that is started again does not read again.
    mark: PathBuf,
    progress: Option<Arc<Progress>>,
}

#[derive(Debug, Default)]
struct Progress {
    bytes: AtomicU64,
    outcome: OnceLock<Result<u64, String>>,
}

impl ImageReading {
    /// Returns a reading that has not begun.
    pub const fn new(device: PathBuf, mark: PathBuf) -> Self {
        Self {
            device,
            mark,
            progress: None,
        }
    }

    /// Looks how far it is.
    pub fn look(&mut self) -> Look {
        if self.progress.is_none() {
            if self.mark.exists() {
                return Look::Well;
            }
            match self.begin() {
                Ok(progress) => self.progress = Some(progress),
                Err(error) => return Look::ill(format!("cannot begin to read the image: {error}")),
            }
        }
        let Some(progress) = &self.progress else {
            return Look::working("not begun");
        };
        match progress.outcome.get() {
            None => {
                let read = progress.bytes.load(Ordering::Relaxed) / 1_000_000;
                Look::working(format!("still reading the image, {read} MB so far"))
            }
            Some(Ok(_)) => Look::Well,
            Some(Err(why)) => Look::ill(format!(
                "{} does not read back: {why}",
                self.device.display()
            )),
        }
    }

    /// A thread of its own, not of the runtime: the runtime would wait for it when the gate is done.
    fn begin(&self) -> io::Result<Arc<Progress>> {
        let progress = Arc::new(Progress::default());
        let (device, mark, shared) = (
            self.device.clone(),
            self.mark.clone(),
            Arc::clone(&progress),
        );
        thread::Builder::new().name("image".to_owned()).spawn(move || {
            let outcome = read_through(&device, &shared.bytes).map_err(|error| error.to_string());
            if outcome.is_ok()
                && let Err(error) = fs::write(&mark, "")
            {
                tracing::warn!(mark = %mark.display(), %error, "a restart will read the image again");
            }
            // It is set nowhere else.
            drop(shared.outcome.set(outcome));
        })?;
        Ok(progress)
    }
}

/// Reads all of `device` and returns its length in bytes.
fn read_through(device: &Path, bytes: &AtomicU64) -> io::Result<u64> {
    let mut file = open_past_the_cache(device)?;
    let length = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut room = vec![0; CHUNK + ALIGNMENT];
    let start = room.as_ptr().align_offset(ALIGNMENT);
    let chunk = room
        .get_mut(start..start + CHUNK)
        .ok_or_else(|| io::Error::other("no aligned memory"))?;
    let mut position = 0;
    while position < length {
        let count = match file.read(chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            outcome => outcome.map_err(|error| {
                io::Error::new(error.kind(), format!("at byte {position}: {error}"))
            })?,
        };
        if count == 0 {
            return Err(io::Error::other(format!(
                "it ends at byte {position} of {length}"
            )));
        }
        // Only where O_DIRECT is not to be had is there anything to drop.
        fadvise(&file, position, None, Advice::DontNeed)?;
        position += u64::try_from(count).map_err(io::Error::other)?;
        bytes.store(position, Ordering::Relaxed);
    }
    Ok(length)
}

fn open_past_the_cache(device: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECT.bits().cast_signed();
    match OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(device)
    {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => File::open(device),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_until_done(reading: &mut ImageReading) -> Look {
        loop {
            match reading.look() {
                Look::Working { .. } => thread::yield_now(),
                done @ (Look::Well | Look::Ill(_)) => return done,
            }
        }
    }

    #[test]
    fn an_image_is_read_to_its_end_and_only_once_in_a_boot() {
        let folder = tempfile::tempdir().unwrap();
        let (device, mark) = (folder.path().join("device"), folder.path().join("mark"));
        fs::write(&device, vec![7; 3 * CHUNK + 8192]).unwrap();
        let mut reading = ImageReading::new(device.clone(), mark.clone());
        assert_eq!(look_until_done(&mut reading), Look::Well);
        let read = reading.progress.unwrap().bytes.load(Ordering::Relaxed);
        assert_eq!(read, fs::metadata(&device).unwrap().len());
        assert!(mark.exists());
        fs::remove_file(&device).unwrap();
        assert_eq!(ImageReading::new(device, mark).look(), Look::Well);
    }

    #[test]
    fn a_device_that_does_not_read_is_ill_and_leaves_no_mark() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        // A folder opens, and every read of it fails.
        let mut reading = ImageReading::new(folder.path().to_owned(), mark.clone());
        assert!(matches!(look_until_done(&mut reading), Look::Ill(_)));
        assert!(!mark.exists());
    }

    #[test]
    fn a_root_that_is_not_mapped_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = device_of(folder.path(), folder.path(), Path::new("/dev")).unwrap_err();
        assert!(error.to_string().contains("not under dm-verity"), "{error}");
    }

    #[test]
    fn a_mapped_root_is_found_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let number = fs::metadata(folder.path()).unwrap().dev();
        let name = format!("dev/block/{}:{}/dm", major(number), minor(number));
        fs::create_dir_all(folder.path().join(&name)).unwrap();
        fs::write(folder.path().join(name).join("name"), "root\n").unwrap();
        let device = device_of(folder.path(), folder.path(), Path::new("/dev")).unwrap();
        assert_eq!(
            device,
            Path::new("/dev").join(format!("dm-{}", minor(number)))
        );
    }
}
