//! The EFI system partition: mounted while it is used, in the daemon's own mount
//! namespace, so that nothing else on the node can touch it.
//!
//! FAT has no journal. What can be done against that is done: folders are
//! written through (`dirsync`), and every change ends in a sync of the file
//! system and a flush of the disk's cache.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use partition_layout::{BootEntry, ENTRY_FOLDER};
use rustix::fs::{Advice, fadvise, fstatvfs, syncfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::aligned::Direct;
use super::sysfs::PartitionPath;

/// A name that ends in nothing that a boot loader starts.
const TEMPORARY: &str = "bistable.new";
const OPTIONS: &CStr = c"umask=0077";
/// How much of the kernel image may be in the page cache at once.
const CACHED: u64 = 4 << 20;

/// The EFI system partition of the booted disk.
#[derive(Debug)]
pub(super) struct Esp {
    partitions: PartitionPath,
    target: PathBuf,
    mounted: Mutex<Option<Mounted>>,
}

#[derive(Debug)]
struct Mounted {
    /// The folder of boot entries.
    folder: PathBuf,
    /// The kernel image that is being written.
    temporary: Option<File>,
    /// The same, to be read from the medium.
    reader: Option<Direct>,
    unsynced: u64,
}

/// The partition, while it is mounted.
#[derive(Debug)]
pub(super) struct MountedEsp<'a>(MutexGuard<'a, Option<Mounted>>);

impl Esp {
    pub(super) const fn new(partitions: PartitionPath, target: PathBuf) -> Self {
        Self {
            partitions,
            target,
            mounted: Mutex::new(None),
        }
    }

    /// Mounts the partition, unless it is.
    pub(super) fn mounted(
        &self,
        number: impl FnOnce() -> io::Result<u32>,
    ) -> io::Result<MountedEsp<'_>> {
        let mut mounted = self.lock();
        if mounted.is_none() {
            let device = self.partitions.find(number()?)?.path;
            fs::create_dir_all(&self.target)?;
            let flags = MountFlags::NOSUID
                | MountFlags::NODEV
                | MountFlags::NOEXEC
                | MountFlags::DIRSYNC
                | MountFlags::NOATIME;
            mount(&device, &self.target, c"vfat", flags, OPTIONS)?;
            *mounted = Some(Mounted {
                folder: self.target.join(ENTRY_FOLDER),
                temporary: None,
                reader: None,
                unsynced: 0,
            });
        }
        Ok(MountedEsp(mounted))
    }

    /// Lets go of the partition.
    pub(super) fn unmount(&self) {
        let mut mounted = self.lock();
        // Open files first: they would keep it busy.
        if mounted.take().is_some()
            && let Err(error) = unmount(&self.target, UnmountFlags::empty())
        {
            tracing::warn!(%error, target = %self.target.display(), "cannot unmount the EFI system partition");
            // Out of sight at least; it goes when its last user does.
            if let Err(error) = unmount(&self.target, UnmountFlags::DETACH) {
                tracing::warn!(%error, "nor detach it");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Mounted>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MountedEsp<'_> {
    fn get(&mut self) -> &mut Mounted {
        self.0.as_mut().expect("it was mounted when this was made")
    }

    pub(super) fn entries(&mut self) -> io::Result<Vec<BootEntry>> {
        Ok(self
            .get()
            .files()?
            .into_iter()
            .map(|(_, entry)| entry)
            .collect())
    }

    pub(super) fn remove(&mut self, entry: &BootEntry) -> io::Result<()> {
        let mounted = self.get();
        for (path, found) in mounted.files()? {
            if found == *entry {
                fs::remove_file(path)?;
            }
        }
        mounted.sync()
    }

    pub(super) fn has_temporary(&mut self) -> io::Result<bool> {
        fs::exists(self.get().temporary_path())
    }

    pub(super) fn remove_temporary(&mut self) -> io::Result<()> {
        let mounted = self.get();
        (mounted.temporary, mounted.reader) = (None, None);
        match fs::remove_file(mounted.temporary_path()) {
            Ok(()) => mounted.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn room(&mut self) -> io::Result<u64> {
        let space = fstatvfs(File::open(&self.get().folder)?)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    pub(super) fn begin_temporary(&mut self, size: u64) -> io::Result<()> {
        self.remove_temporary()?;
        if self.room()? < size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mounted = self.get();
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(mounted.temporary_path())?;
        mounted.temporary = Some(file);
        mounted.unsynced = 0;
        Ok(())
    }

    pub(super) fn write_temporary(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mounted = self.get();
        let file = mounted.temporary.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.write_all_at(bytes, offset)?;
        let written = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        mounted.unsynced = mounted.unsynced.saturating_add(written);
        if mounted.unsynced >= CACHED {
            file.sync_data()?;
            fadvise(file, 0, None, Advice::DontNeed)?;
            mounted.unsynced = 0;
        }
        Ok(())
    }

    pub(super) fn flush_temporary(&mut self) -> io::Result<()> {
        let mounted = self.get();
        let file = mounted.temporary.take().ok_or(io::ErrorKind::NotFound)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        drop(file);
        mounted.sync()
    }

    pub(super) fn read_temporary(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mounted = self.get();
        let path = mounted.temporary_path();
        let reader = match &mut mounted.reader {
            Some(reader) => reader,
            none @ None => none.insert(Direct::open_to_read(&path)?),
        };
        reader.read(offset, buffer)
    }

    pub(super) fn publish_temporary(&mut self, entry: &BootEntry) -> io::Result<()> {
        let mounted = self.get();
        (mounted.temporary, mounted.reader) = (None, None);
        fs::rename(
            mounted.temporary_path(),
            mounted.folder.join(entry.file_name()),
        )?;
        mounted.sync()
    }

    pub(super) fn rename(&mut self, from: &BootEntry, to: &BootEntry) -> io::Result<()> {
        let mounted = self.get();
        let files = mounted.files()?;
        let found = files.into_iter().find(|(_, entry)| entry == from);
        let (path, _) = found.ok_or(io::ErrorKind::NotFound)?;
        fs::rename(path, mounted.folder.join(to.file_name()))?;
        mounted.sync()
    }
}

impl Mounted {
    fn temporary_path(&self) -> PathBuf {
        self.folder.join(TEMPORARY)
    }

    /// Every entry, with the name under which it is there: `+09` is `+9` too.
    fn files(&self) -> io::Result<Vec<(PathBuf, BootEntry)>> {
        let mut files = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let name = file.file_name();
            if let Some(entry) = name
                .to_str()
                .and_then(|name| BootEntry::parse_file_name(name).ok())
            {
                files.push((file.path(), entry));
            }
        }
        Ok(files)
    }

    fn sync(&self) -> io::Result<()> {
        sync(&self.folder)
    }
}

/// `syncfs` writes everything back; the folder's own `fsync` is what makes vfat
/// flush the disk's cache.
fn sync(folder: &Path) -> io::Result<()> {
    let folder = File::open(folder)?;
    syncfs(folder.as_fd())?;
    folder.sync_all()
}
