//! A folder in place of the EFI system partition: the same files, as durable.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use partition_layout::{BootEntry, TEMPORARY_NAME};
use rustix::fs::{Advice, fadvise, statvfs};
use updater::ports::Leftover;

pub(crate) struct EspFolder {
    folder: PathBuf,
}

impl EspFolder {
    pub(crate) const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(crate) fn entries(&self) -> io::Result<Vec<BootEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            // Other names are nobody's entries.
            entries.extend(
                name.to_str()
                    .and_then(|name| BootEntry::parse_file_name(name).ok()),
            );
        }
        Ok(entries)
    }

    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => self.sync(),
        }
    }

    pub(crate) fn leftover(&self) -> io::Result<Leftover> {
        let exists = self.folder.join(TEMPORARY_NAME).try_exists()?;
        Ok(Leftover::among(exists.then_some(TEMPORARY_NAME)))
    }

    pub(crate) fn room(&self) -> io::Result<u64> {
        let found = statvfs(&self.folder)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    pub(crate) fn begin_temporary(&self) -> io::Result<()> {
        File::create(self.folder.join(TEMPORARY_NAME)).map(drop)
    }

    fn temporary(&self) -> io::Result<File> {
        File::options()
            .read(true)
            .write(true)
            .open(self.folder.join(TEMPORARY_NAME))
    }

    pub(crate) fn write_temporary(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.temporary()?.write_all_at(bytes, offset)
    }

    pub(crate) fn flush_temporary(&self) -> io::Result<()> {
        let file = self.temporary()?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        self.sync()
    }

    pub(crate) fn read_temporary(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.temporary()?.read_exact_at(buffer, offset)
    }

    pub(crate) fn read_entry(
        &self,
        name: &str,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let file = File::open(self.folder.join(name))?;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_at(
                rest,
                offset + u64::try_from(done).map_err(io::Error::other)?,
            )? {
                0 => break,
                read => done += read,
            }
        }
        Ok(done)
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}
