//! The EFI system partition: mounted while it is used, in the daemon's own mount
//! namespace, so that nothing else on the node can touch it.
//!
//! FAT has no journal. What can be done against that is done: folders are
//! written through (`dirsync`), and every change ends in a sync of the file
//! system and a flush of the disk's cache. Files are written and removed through
//! the kernel's driver, but names are changed by ourselves while the partition is
//! not mounted, since no driver's rename survives a power cut: see
//! [`partition_layout::entry_names`]; nor does an unlink, so an entry loses its name
//! before it is removed. Before anything is removed or renamed, names
//! that share a file after such a cut are mended, so that no removal frees the
//! clusters of an image that boots.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use partition_layout::entry_names::EditNamesError;
use partition_layout::{
    BootEntry, ENTRY_FOLDER, REMOVED_NAME, RootHash, TEMPORARY_NAME, Version, is_temporary_name,
};
use rustix::fs::{Advice, fadvise, fstatvfs, syncfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::aligned::Direct;
use super::names::{Names, edit_names, images_of_others};
use crate::ports::Leftover;
use crate::scrub::kernel::KernelBlocks;

const OPTIONS: &CStr = c"umask=0077";
/// How much of the kernel image may be in the page cache at once.
const CACHED: u64 = 4 << 20;

/// The EFI system partition of the booted disk.
#[derive(Debug)]
pub(super) struct Esp {
    target: PathBuf,
    mounted: Mutex<Option<Mounted>>,
}

/// What the partition is mounted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Nothing but reading, which must work however the names are.
    Look,
    /// Names were mended before.
    Change,
}

#[derive(Debug)]
struct Mounted {
    purpose: Purpose,
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
    pub(super) const fn new(target: PathBuf) -> Self {
        Self {
            target,
            mounted: Mutex::new(None),
        }
    }

    /// Mounts the partition at `device`, unless it is.
    pub(super) fn mounted(
        &self,
        device: impl FnOnce() -> io::Result<PathBuf>,
        purpose: Purpose,
    ) -> io::Result<MountedEsp<'_>> {
        let mut mounted = self.lock();
        let serves = |now: &Mounted| now.purpose == purpose || purpose == Purpose::Look;
        if !mounted.as_ref().is_some_and(serves) {
            let device = device()?;
            if purpose == Purpose::Change {
                self.let_go(&mut mounted);
                edit_names(&device, |_: &mut Names<'_>| Ok(()))?;
            }
            fs::create_dir_all(&self.target)?;
            let mut flags = MountFlags::NOSUID
                | MountFlags::NODEV
                | MountFlags::NOEXEC
                | MountFlags::DIRSYNC
                | MountFlags::NOATIME;
            if purpose == Purpose::Look {
                // Else the driver writes to the first sector that the file system is in use, and that it
                // is not any more.
                flags |= MountFlags::RDONLY;
            }
            mount(&device, &self.target, c"vfat", flags, OPTIONS)?;
            *mounted = Some(Mounted {
                purpose,
                folder: self.target.join(ENTRY_FOLDER),
                temporary: None,
                reader: None,
                unsynced: 0,
            });
        }
        Ok(MountedEsp(mounted))
    }

    /// Takes away what a rename, cut short, has left.
    pub(super) fn mend_names(&self, device: impl Fn() -> io::Result<PathBuf>) -> io::Result<()> {
        self.let_go(&mut self.lock());
        edit_names(&device()?, |_: &mut Names<'_>| Ok(()))
    }

    /// Gives the file whose name is `from` the name of `to`, in place of what has that name.
    pub(super) fn rename(
        &self,
        device: impl Fn() -> io::Result<PathBuf>,
        from: impl Fn(&str) -> bool,
        to: &BootEntry,
    ) -> io::Result<()> {
        let to = to.file_name();
        let edit = || {
            self.let_go(&mut self.lock());
            edit_names(&device()?, |names| {
                let found = names.names().into_iter().find(|name| from(name));
                let found = found.ok_or_else(|| EditNamesError::NotFound { name: to.clone() })?;
                names.rename(&found, &to)
            })
        };
        match edit() {
            // A file of its own, since names that share one were mended just now.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(&device, |name| name.eq_ignore_ascii_case(&to))?;
                edit()
            }
            outcome => outcome,
        }
    }

    /// Removes every file whose name `is_meant`.
    ///
    /// Of an unlink that a power cut ends, the disk may have the clusters' part and not
    /// the name's: an entry without its content, which the boot loader may still start.
    /// So what goes is an entry no more before any of its clusters is free.
    pub(super) fn remove(
        &self,
        device: impl Fn() -> io::Result<PathBuf>,
        is_meant: impl Fn(&str) -> bool,
    ) -> io::Result<()> {
        loop {
            // Also what a cut has left.
            self.mounted(&device, Purpose::Change)?
                .remove_file(REMOVED_NAME)?;
            self.let_go(&mut self.lock());
            let mut found = None;
            edit_names(&device()?, |names| {
                found = names.names().into_iter().find(|name| is_meant(name));
                match &found {
                    Some(name) => names.rename(name, REMOVED_NAME),
                    None => Ok(()),
                }
            })?;
            if found.is_none() {
                return Ok(());
            }
        }
    }

    /// Removes every kernel image of another root hash than `root_hash`, which is that of `booted`.
    pub(super) fn remove_others(
        &self,
        device: impl Fn() -> io::Result<PathBuf>,
        booted: &Version,
        root_hash: &RootHash,
    ) -> io::Result<()> {
        self.let_go(&mut self.lock());
        for other in images_of_others(&device()?, booted, root_hash)? {
            tracing::warn!(
                name = other,
                "a kernel image of another release has a name that is none of ours"
            );
            self.remove(&device, |name| *name == other)?;
        }
        Ok(())
    }

    /// Lets go of the partition.
    pub(super) fn unmount(&self) {
        self.let_go(&mut self.lock());
    }

    fn let_go(&self, mounted: &mut Option<Mounted>) {
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

    pub(super) fn leftover(&mut self) -> io::Result<Leftover> {
        let temporaries = self.get().temporaries()?;
        let names = temporaries
            .iter()
            .filter_map(|path| path.file_name()?.to_str());
        Ok(Leftover::among(names))
    }

    pub(super) fn remove_temporary(&mut self) -> io::Result<()> {
        let mounted = self.get();
        (mounted.temporary, mounted.reader) = (None, None);
        let temporaries = mounted.temporaries()?;
        if temporaries.is_empty() {
            return Ok(());
        }
        temporaries.iter().try_for_each(fs::remove_file)?;
        mounted.sync()
    }

    /// Removes a file that is no entry, if it is there.
    fn remove_file(&mut self, name: &str) -> io::Result<()> {
        let mounted = self.get();
        match fs::remove_file(mounted.folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| mounted.sync()),
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
}

impl MountedEsp<'_> {
    /// Through the driver, which writes to the clusters that the file has: what a power cut
    /// leaves of a sector is the old one or the new one.
    pub(super) fn mend_entry(&mut self, entry: &BootEntry, sound: &KernelBlocks) -> io::Result<()> {
        let mounted = self.get();
        let mut files = mounted.files()?.into_iter();
        let found = files.find(|(_, found)| found == entry);
        let (path, _) = found.ok_or(io::ErrorKind::NotFound)?;
        let file = OpenOptions::new().write(true).open(path)?;
        let end = file.metadata()?.len();
        for (offset, bytes) in sound.iter() {
            let len = u64::try_from(bytes.len()).map_err(io::Error::other)?;
            if offset.saturating_add(len) > end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        for (offset, bytes) in sound.iter() {
            file.write_all_at(bytes, offset)?;
        }
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        drop(file);
        mounted.sync()
    }

    pub(super) fn read_entry(
        &mut self,
        entry: &BootEntry,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        let mut files = self.get().files()?.into_iter();
        let found = files.find(|(_, found)| found == entry);
        let (path, _) = found.ok_or(io::ErrorKind::NotFound)?;
        let left = fs::metadata(&path)?.len().saturating_sub(offset);
        let count = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let buffer = buffer.get_mut(..count).unwrap_or_default();
        Direct::open_to_read(&path)?.read(offset, buffer)?;
        Ok(count)
    }
}

impl Mounted {
    fn temporary_path(&self) -> PathBuf {
        self.folder.join(TEMPORARY_NAME)
    }

    /// What an interrupted stage has left, also one of another release.
    fn temporaries(&self) -> io::Result<Vec<PathBuf>> {
        let is_temporary = |name: &str| is_temporary_name(name).then_some(());
        let found = self.find(is_temporary)?.into_iter();
        Ok(found.map(|(path, _, ())| path).collect())
    }

    /// Every entry, with the name under which it is there: `+09` is `+9` too.
    fn files(&self) -> io::Result<Vec<(PathBuf, BootEntry)>> {
        let found = self.find(|name| BootEntry::parse_file_name(name).ok())?;
        // One without content is the new name of a rename that was cut short.
        let with_content = found.into_iter().filter(|(_, len, _)| *len > 0);
        Ok(with_content.map(|(path, _, entry)| (path, entry)).collect())
    }

    /// Files whose names mean something to `parse`: path, length, and what they mean.
    fn find<T>(&self, parse: impl Fn(&str) -> Option<T>) -> io::Result<Vec<(PathBuf, u64, T)>> {
        let mut found = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            if let Some(meaning) = file.file_name().to_str().and_then(&parse) {
                found.push((file.path(), file.metadata()?.len(), meaning));
            }
        }
        Ok(found)
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
