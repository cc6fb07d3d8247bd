//! A driver for FAT as a kernel has one: it works on pages, which reach the disk when it
//! likes, in any order, and all of them at a sync. Files are made, grown and removed by
//! another's code (`fatfs`), so that what a cut leaves is sectors and nobody's idea of them.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use partition_layout::ENTRY_FOLDER;

use super::dice::Dice;
use super::disk::{SECTOR, SECTOR_BYTES, Sector, SimDisk, View};

pub(crate) const CLUSTER: u64 = 512;

/// What the driver has changed, and the disk does not know yet; and where the file system lies.
#[derive(Debug, Clone)]
pub(crate) struct Vfat {
    start: u64,
    len: u64,
    dirty: BTreeMap<u64, Sector>,
}

type Mounted<'a> = FileSystem<Pages<'a>>;

impl Vfat {
    pub(crate) const fn at(start: u64, len: u64) -> Self {
        Self {
            start,
            len,
            dirty: BTreeMap::new(),
        }
    }

    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Makes the file system, with an empty folder of boot entries.
    pub(crate) fn format(&mut self, disk: &SimDisk) -> io::Result<()> {
        let options = FormatVolumeOptions::new()
            .fat_type(FatType::Fat16)
            .bytes_per_cluster(u32::try_from(CLUSTER).unwrap());
        fatfs::format_volume(self.pages(disk), options)?;
        self.on(disk, |mounted| {
            let mut folder = mounted.root_dir();
            for name in ENTRY_FOLDER.split('/') {
                folder = folder.create_dir(name)?;
            }
            Ok(())
        })
    }

    const fn pages<'a>(&'a mut self, disk: &'a SimDisk) -> Pages<'a> {
        Pages {
            disk,
            start: self.start,
            len: self.len,
            dirty: &mut self.dirty,
            at: 0,
        }
    }

    fn on<T>(
        &mut self,
        disk: &SimDisk,
        act: impl FnOnce(&Mounted<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mounted = FileSystem::new(self.pages(disk), FsOptions::new())?;
        act(&mounted)
    }

    /// Lists the files in the folder of boot entries, with their lengths.
    pub(crate) fn files(&mut self, disk: &SimDisk) -> io::Result<Vec<(String, u64)>> {
        self.on(disk, |mounted| {
            let mut found = Vec::new();
            for entry in mounted.root_dir().open_dir(ENTRY_FOLDER)?.iter() {
                let entry = entry?;
                if entry.is_file() {
                    found.push((entry.file_name(), entry.len()));
                }
            }
            Ok(found)
        })
    }

    pub(crate) fn room(&mut self, disk: &SimDisk) -> io::Result<u64> {
        self.on(disk, |mounted| {
            Ok(u64::from(mounted.stats()?.free_clusters()) * CLUSTER)
        })
    }

    pub(crate) fn create(&mut self, disk: &SimDisk, name: &str) -> io::Result<()> {
        self.on(disk, |mounted| {
            let folder = mounted.root_dir().open_dir(ENTRY_FOLDER)?;
            folder.create_file(name).map(drop)
        })
    }

    pub(crate) fn write(
        &mut self,
        disk: &SimDisk,
        name: &str,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.on(disk, |mounted| {
            let folder = mounted.root_dir().open_dir(ENTRY_FOLDER)?;
            let mut file = folder.open_file(name)?;
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(bytes)
        })
    }

    pub(crate) fn read(
        &mut self,
        disk: &SimDisk,
        name: &str,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        self.on(disk, |mounted| {
            let folder = mounted.root_dir().open_dir(ENTRY_FOLDER)?;
            let mut file = folder.open_file(name)?;
            file.seek(SeekFrom::Start(offset))?;
            file.read_exact(buffer)
        })
    }

    pub(crate) fn unlink(&mut self, disk: &SimDisk, name: &str) -> io::Result<()> {
        self.on(disk, |mounted| {
            mounted.root_dir().open_dir(ENTRY_FOLDER)?.remove(name)
        })
    }

    /// Gives the disk some of what was changed, as the kernel does when it likes.
    pub(crate) fn write_some(&mut self, disk: &mut SimDisk, dice: &mut Dice) -> io::Result<()> {
        let all: Vec<u64> = self.dirty.keys().copied().collect();
        let some = all.into_iter().filter(|_| dice.one_in(2)).collect();
        self.write_back(some, disk, dice)
    }

    /// Gives the disk all of it. It may still be in the disk's own cache.
    pub(crate) fn write_all(&mut self, disk: &mut SimDisk, dice: &mut Dice) -> io::Result<()> {
        let all = self.dirty.keys().copied().collect();
        self.write_back(all, disk, dice)
    }

    fn write_back(
        &mut self,
        mut numbers: Vec<u64>,
        disk: &mut SimDisk,
        dice: &mut Dice,
    ) -> io::Result<()> {
        dice.shuffle(&mut numbers);
        for number in numbers {
            let Some(sector) = self.dirty.remove(&number) else {
                continue;
            };
            disk.write(View::Esp, self.start + number * SECTOR_BYTES, &sector)?;
        }
        Ok(())
    }

    /// What was changed in memory goes with the power.
    pub(crate) fn lose_power(&mut self) {
        self.dirty.clear();
    }
}

/// The file system's bytes as the driver sees them.
struct Pages<'a> {
    disk: &'a SimDisk,
    start: u64,
    len: u64,
    dirty: &'a mut BTreeMap<u64, Sector>,
    at: u64,
}

impl Pages<'_> {
    /// Returns the sector at the place, where in it that is, and how many bytes of `wanted`
    /// are in it.
    fn here(&self, wanted: usize) -> io::Result<(u64, Sector, usize, usize)> {
        let number = self.at / SECTOR_BYTES;
        let skip = usize::try_from(self.at % SECTOR_BYTES).unwrap();
        let mut sector = [0; SECTOR];
        match self.dirty.get(&number) {
            Some(dirty) => sector = *dirty,
            None if self.at < self.len => {
                let place = self.start + number * SECTOR_BYTES;
                self.disk.read(place, &mut sector)?;
            }
            None => return Ok((number, sector, skip, 0)),
        }
        Ok((number, sector, skip, wanted.min(SECTOR - skip)))
    }
}

impl Read for Pages<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, sector, skip, count) = self.here(buffer.len())?;
        buffer[..count].copy_from_slice(&sector[skip..skip + count]);
        self.at += u64::try_from(count).unwrap();
        Ok(count)
    }
}

impl Write for Pages<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (number, mut sector, skip, count) = self.here(bytes.len())?;
        sector[skip..skip + count].copy_from_slice(&bytes[..count]);
        self.dirty.insert(number, sector);
        self.at += u64::try_from(count).unwrap();
        Ok(count)
    }

    /// The driver's own idea of when: there is [`Vfat::write_all`] for it.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Pages<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
