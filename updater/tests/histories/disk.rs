//! A disk whose cache forgets: of what was written and not synced, any part may be there
//! after a power cut, in any order, torn at sectors.
//!
//! A sync is for what was written through the same [`View`], which is less than a disk
//! promises, and all that the code may rely on.

use std::collections::BTreeMap;
use std::io;

use partition_layout::{Device, SectorSize, Slot};

use super::dice::Dice;

pub(crate) const SECTOR: usize = 512;
pub(crate) const SECTOR_BYTES: u64 = 512;
pub(crate) type Sector = [u8; SECTOR];

/// What somebody has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Table,
    Esp,
    Root(Slot),
    Verity(Slot),
}

#[derive(Debug, Clone)]
struct Write {
    view: View,
    first: u64,
    sectors: Vec<Sector>,
}

impl Write {
    fn numbered(&self) -> impl Iterator<Item = (u64, Sector)> {
        (self.first..).zip(self.sectors.iter().copied())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct SimDisk {
    sectors: u64,
    /// What no power cut takes away.
    kept: BTreeMap<u64, Sector>,
    unsynced: Vec<Write>,
    /// What a reader sees in place of what is kept.
    newest: BTreeMap<u64, Sector>,
    done: usize,
    /// The power fails at the write or sync that comes after so many.
    fuse: Option<usize>,
    dead: bool,
}

pub(crate) fn no_power() -> io::Error {
    io::Error::other("no power")
}

impl SimDisk {
    pub(crate) fn blank(bytes: u64) -> Self {
        Self {
            sectors: bytes / SECTOR_BYTES,
            kept: BTreeMap::new(),
            unsynced: Vec::new(),
            newest: BTreeMap::new(),
            done: 0,
            fuse: None,
            dead: false,
        }
    }

    /// Lets the power fail once so many more writes and syncs were done.
    pub(crate) fn light_fuse(&mut self, operations: usize) {
        self.fuse = Some(operations);
        self.done = 0;
    }

    pub(crate) fn cut_now(&mut self) {
        self.dead = true;
    }

    pub(crate) const fn is_dead(&self) -> bool {
        self.dead
    }

    pub(crate) const fn done(&self) -> usize {
        self.done
    }

    /// Counts a write or a sync, here or on something that has the same power.
    pub(crate) fn operate(&mut self) -> io::Result<()> {
        if self.dead {
            return Err(no_power());
        }
        if let Some(fuse) = &mut self.fuse {
            if *fuse == 0 {
                self.dead = true;
                return Err(no_power());
            }
            *fuse -= 1;
        }
        self.done += 1;
        Ok(())
    }

    pub(crate) fn sector(&self, number: u64) -> Sector {
        let newest = self.newest.get(&number);
        let found = newest.or_else(|| self.kept.get(&number));
        found.copied().unwrap_or([0; SECTOR])
    }

    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.dead {
            return Err(no_power());
        }
        self.look(offset, buffer)
    }

    /// Reads it as somebody does who has power of his own.
    fn look(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset + u64::try_from(buffer.len()).unwrap();
        if end > self.sectors * SECTOR_BYTES {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let skip = usize::try_from(at % SECTOR_BYTES).unwrap();
            let count = rest.len().min(SECTOR - skip);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&self.sector(at / SECTOR_BYTES)[skip..skip + count]);
            rest = later;
            at += u64::try_from(count).unwrap();
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, view: View, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.dead {
            return Err(no_power());
        }
        let end = offset + u64::try_from(bytes.len()).unwrap();
        if end > self.sectors * SECTOR_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let first = offset / SECTOR_BYTES;
        let mut sectors: Vec<Sector> = (first..end.div_ceil(SECTOR_BYTES))
            .map(|number| self.sector(number))
            .collect();
        let skip = usize::try_from(offset % SECTOR_BYTES).unwrap();
        sectors.as_flattened_mut()[skip..skip + bytes.len()].copy_from_slice(bytes);
        let write = Write {
            view,
            first,
            sectors,
        };
        // The one at which the power fails may get through, or a part of it.
        let outcome = self.operate();
        self.newest.extend(write.numbered());
        self.unsynced.push(write);
        outcome
    }

    pub(crate) fn sync(&mut self, view: View) -> io::Result<()> {
        self.operate()?;
        let writes = std::mem::take(&mut self.unsynced);
        let (synced, others): (Vec<_>, Vec<_>) =
            writes.into_iter().partition(|write| write.view == view);
        self.kept.extend(synced.iter().flat_map(Write::numbered));
        self.newest = others.iter().flat_map(Write::numbered).collect();
        self.unsynced = others;
        Ok(())
    }

    /// Takes the power away and gives it back.
    pub(crate) fn lose_power(&mut self, dice: &mut Dice) {
        let mut writes = std::mem::take(&mut self.unsynced);
        self.newest.clear();
        (self.fuse, self.dead) = (None, false);
        let (kind, place) = (dice.below(8), dice.below(writes.len() + 1));
        match kind {
            0 => writes.clear(),
            1 => writes.truncate(place),
            2 if place < writes.len() => drop(writes.remove(place)),
            3 => writes = writes.into_iter().skip(place).take(1).collect(),
            4.. => {
                let of_eight = 1 + dice.below(7);
                writes.retain(|_| dice.below(8) < of_eight);
            }
            _ => {}
        }
        if kind >= 6 {
            dice.shuffle(&mut writes);
        }
        for write in &writes {
            let border = dice.below(write.sectors.len() + 1);
            let side = dice.one_in(2);
            let torn = kind % 2 == 1 && kind > 4;
            let survives = |at: usize| !torn || (at < border) == side;
            let sectors = write.numbered().enumerate();
            let survivors = sectors.filter(|(at, _)| survives(*at));
            self.kept.extend(survivors.map(|(_, sector)| sector));
        }
    }

    /// Changes a byte behind everybody's back.
    pub(crate) fn rot(&mut self, offset: u64) {
        let number = offset / SECTOR_BYTES;
        let mut sector = self.sector(number);
        sector[usize::try_from(offset % SECTOR_BYTES).unwrap()] ^= 0x20;
        self.put(number, sector);
    }

    /// Puts bytes where they belong, behind everybody's back.
    pub(crate) fn put_right(&mut self, offset: u64, bytes: &[u8]) {
        let (whole, _) = bytes.as_chunks::<SECTOR>();
        for (number, sector) in (offset / SECTOR_BYTES..).zip(whole) {
            self.put(number, *sector);
        }
    }

    fn put(&mut self, number: u64, sector: Sector) {
        for write in &mut self.unsynced {
            let place = number.checked_sub(write.first);
            let place = place.and_then(|at| usize::try_from(at).ok());
            if let Some(it) = place.and_then(|at| write.sectors.get_mut(at)) {
                *it = sector;
            }
        }
        self.newest.remove(&number);
        self.kept.insert(number, sector);
    }
}

/// The whole disk, which only the partition table is written through.
impl Device for SimDisk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read(offset, buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(View::Table, offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        Self::sync(self, View::Table)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.sectors * SECTOR_BYTES)
    }

    fn sector_size(&self) -> io::Result<Option<SectorSize>> {
        Ok(Some(SectorSize::B512))
    }
}

/// A partition of it.
pub(crate) struct Through<'a> {
    pub(crate) disk: &'a mut SimDisk,
    pub(crate) view: View,
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Device for Through<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read(self.start + offset, buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(self.view, self.start + offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.sync(self.view)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn sector_size(&self) -> io::Result<Option<SectorSize>> {
        Ok(Some(SectorSize::B512))
    }
}
