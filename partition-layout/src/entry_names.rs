//! The names in the folder of boot entries, edited where they lie.
//!
//! Arming, marking good and demoting are each a rename on a FAT file system, and no
//! driver for FAT has an atomic one (see `torn_names`). So the names are ours to write,
//! on a partition that is not mounted, and nothing but names: no cluster is taken or
//! given back, and no file's content is touched.
//!
//! ```text
//! the old name's records   the new name's are written            a cut leaves
//! in one sector            into that sector, and the old ones    the old name or
//!                          marked as deleted: one write          the new one
//! in two sectors, or no    long parts beside, then the sector    the same, and parts of
//! room for all in that     that holds both names' last records   long names, which
//! one                      (one write), then the rest            nobody reads
//! no room for the last     the whole new name elsewhere, then    the same, or both: one
//! record in that sector    the old one is marked as deleted      is forgotten later
//! ```
//! A name exists from the moment its last record does. Each line is a write and a sync;
//! a sector is written whole or not at all. [`EntryNames::mend`] removes what a cut, here or
//! in somebody else's rename, has left.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use crate::boot_entry::ENTRY_FOLDER;
use crate::device::{Device, SectorSize};
use crate::fat::{Fat, FolderMap, ReadFatError};
use crate::fat_folder::{DELETED, ENTRY_BYTES, NameSet, Records, records, short_name};
use crate::fat_name::{Record, fault_of, records_of, short_for};
use crate::torn_names::find_torn;
pub use crate::torn_names::{Torn, TornName, preferred};

/// Why a name could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditNamesError {
    /// The file system cannot be read.
    #[error("cannot read the folder {ENTRY_FOLDER}")]
    Read(#[from] ReadFatError),
    /// The medium does not say what it writes in one piece.
    #[error("cannot tell the sector size of the disk")]
    SectorSize {
        /// What the medium said.
        source: io::Error,
    },
    /// A sector of the file system is only a part of one of the disk.
    #[error("the file system has sectors of {found} bytes, the disk has {disk}")]
    SmallSectors {
        /// What the file system says.
        found: u64,
        /// What the disk says.
        disk: u64,
    },
    /// There is no such folder.
    #[error("there is no folder {ENTRY_FOLDER}")]
    NoFolder,
    /// There is no file of this name.
    #[error("there is no {ENTRY_FOLDER}/{name}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// Another file has the name.
    #[error("there is a {ENTRY_FOLDER}/{name} already")]
    Exists {
        /// The name.
        name: String,
    },
    /// No file can have this name.
    #[error("no file can be named {name:?}: {why}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// All records of the folder are in use.
    #[error("the folder {ENTRY_FOLDER} has no room for the name {name}")]
    NoRoom {
        /// The name.
        name: String,
    },
    /// The medium does not take it. What was renamed has its old name or its new one,
    /// or both.
    #[error("cannot write the folder {ENTRY_FOLDER}")]
    Write {
        /// What the medium said.
        source: io::Error,
    },
}

impl EditNamesError {
    /// Returns what kind of I/O error it is, for those who tell no more than that.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Read(ReadFatError::Read { source, .. })
            | Self::SectorSize { source }
            | Self::Write { source } => source.kind(),
            Self::Read(_) | Self::SmallSectors { .. } => io::ErrorKind::InvalidData,
            Self::NoFolder | Self::NotFound { .. } => io::ErrorKind::NotFound,
            Self::Exists { .. } => io::ErrorKind::AlreadyExists,
            Self::BadName { .. } => io::ErrorKind::InvalidInput,
            Self::NoRoom { .. } => io::ErrorKind::StorageFull,
        }
    }
}

/// Records that are written together, by their places.
type Change = BTreeMap<usize, Record>;

/// The folder of boot entries on a partition that nobody has mounted.
#[derive(Debug)]
pub struct EntryNames<'d, D> {
    device: &'d mut D,
    folder: FolderMap,
    /// What the disk writes whole or not at all.
    sector: usize,
}

impl<'d, D: Device> EntryNames<'d, D> {
    /// Reads the folder of boot entries off the file system in the bytes `place` of
    /// `device`.
    ///
    /// # Errors
    /// When there is no sound FAT16 or FAT32 file system with such a folder.
    pub fn read(device: &'d mut D, place: Range<u64>) -> Result<Self, EditNamesError> {
        let own = device.sector_size();
        let own = own.map_err(|source| EditNamesError::SectorSize { source })?;
        // A file says nothing of sectors; the smaller ones promise less.
        let disk = own.unwrap_or(SectorSize::B512).bytes();
        let len = place.end.saturating_sub(place.start);
        let fat = Fat::open_at(device, place.start, len)?;
        let folder = fat.map_folder(ENTRY_FOLDER)?;
        let folder = folder.ok_or(EditNamesError::NoFolder)?;
        let found = folder.sector_bytes;
        if found < disk {
            return Err(EditNamesError::SmallSectors { found, disk });
        }
        Ok(Self {
            device,
            folder,
            sector: usize::try_from(disk).expect("a sector fits memory"),
        })
    }

    /// Returns the names of all files in the folder, in the order in which they stand there.
    pub fn names(&self) -> Vec<String> {
        let files = self.records().names.into_iter().filter(NameSet::is_file);
        files.map(|file| file.node.name).collect()
    }

    /// Gives the file `from` the name `to`. On return the change has reached the disk.
    ///
    /// # Errors
    /// When there is no such file, another one has the name, the folder has no room for it,
    /// or the medium fails. After a failure the folder has to be read anew.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), EditNamesError> {
        if let Some(why) = fault_of(to) {
            let name = to.to_owned();
            return Err(EditNamesError::BadName { name, why });
        }
        let found = self.records();
        let old = find(&found, from)?;
        if old.node.name == to {
            return Ok(());
        }
        // As on FAT, case does not matter, and a name of old is a name too.
        let is_taken = |other: &NameSet| {
            other.slots != old.slots
                && (other.node.name.eq_ignore_ascii_case(to)
                    || short_name(&other.short, 0).eq_ignore_ascii_case(to))
        };
        if found.names.iter().any(is_taken) {
            let name = to.to_owned();
            return Err(EditNamesError::Exists { name });
        }
        let no_room = || EditNamesError::NoRoom {
            name: to.to_owned(),
        };
        // It must not be the old name's own: for a moment both may be there.
        let short = short_for(to, |short, text| {
            let clashes = |other: &NameSet| {
                other.short == *short || other.node.name.eq_ignore_ascii_case(text)
            };
            found.names.iter().any(clashes)
        });
        let last = self.record(old.short_slot()).ok_or_else(no_room)?;
        let new = records_of(to, &short.ok_or_else(no_room)?, &last);
        let place = self
            .choose_place(&found, old, new.len())
            .ok_or_else(no_room)?;
        let changes = self.plan_rename(&found, old, &place, new);
        self.perform(changes)
    }

    /// Takes the name away and keeps the clusters: for a name that is one of two on
    /// the same file. On return the change has reached the disk.
    ///
    /// # Errors
    /// When there is no such file, or the medium fails.
    pub fn forget(&mut self, name: &str) -> Result<(), EditNamesError> {
        let found = self.records();
        let slots = find(&found, name)?.slots.clone();
        self.forget_at(slots)
    }

    /// Forgets every name that a rename, cut short, has left; and parts of names
    /// that nobody reads. Returns the names. Gives no cluster back, so nothing that boots
    /// is touched.
    ///
    /// # Errors
    /// When the medium fails. It can be called again at any time.
    pub fn mend(&mut self) -> Result<Vec<TornName>, EditNamesError> {
        let found = self.records();
        let files: Vec<_> = found.names.iter().filter(|name| name.is_file()).collect();
        let nodes: Vec<_> = files.iter().map(|file| &file.node).collect();
        let torn = find_torn(&nodes);
        for (place, _) in &torn {
            let file = files.get(*place).expect("it was found among these");
            self.forget_at(file.slots.clone())?;
        }
        let strays = found.strays.iter();
        let strays = strays.map(|slot| (*slot, self.deleted(*slot))).collect();
        self.perform(vec![strays])?;
        Ok(torn.into_iter().map(|(_, torn)| torn).collect())
    }

    fn records(&self) -> Records {
        records(&self.folder.content)
    }

    fn record(&self, slot: usize) -> Option<Record> {
        let (records, _) = self.folder.content.as_chunks();
        records.get(slot).copied()
    }

    /// Returns a record as it is once it is free.
    fn deleted(&self, slot: usize) -> Record {
        let mut record = self.record(slot).unwrap_or([0; ENTRY_BYTES]);
        let [first, ..] = &mut record;
        *first = DELETED;
        record
    }

    fn slots(&self) -> usize {
        self.folder.content.len() / ENTRY_BYTES
    }

    fn sector_of(&self, slot: usize) -> usize {
        slot.saturating_mul(ENTRY_BYTES) / self.sector
    }

    /// Returns where `count` records of a new name go: the fewer sectors are written, and
    /// the fewer states a cut can leave, the better.
    fn choose_place(&self, found: &Records, old: &NameSet, count: usize) -> Option<Range<usize>> {
        let strays: BTreeSet<_> = found.strays.iter().copied().collect();
        let is_free = |slot: usize| {
            slot >= found.end
                || strays.contains(&slot)
                || self
                    .record(slot)
                    .is_some_and(|[first, ..]| first == DELETED)
        };
        // Nothing may stand behind the first record that was never used: it ends the folder.
        let last_start = found.end.min(self.slots().checked_sub(count)?);
        let rated = (0..=last_start).filter_map(|start| {
            let place = start..start.checked_add(count)?;
            let flip = self.sector_of(place.end.checked_sub(1)?);
            let flips_at_once = flip == self.sector_of(old.short_slot());
            let may_use = |slot: usize| {
                let replaces = flips_at_once && self.sector_of(slot) == flip;
                is_free(slot) || (replaces && old.slots.contains(&slot))
            };
            if !place.clone().all(may_use) {
                return None;
            }
            let sectors: BTreeSet<_> = place
                .clone()
                .chain(old.slots.clone())
                .map(|slot| self.sector_of(slot))
                .collect();
            Some(((!flips_at_once, sectors.len(), start), place))
        });
        let (_, place) = rated.min_by_key(|(cost, _)| *cost)?;
        Some(place)
    }

    /// Returns the changes of a rename, in the order of the table above.
    fn plan_rename(
        &self,
        found: &Records,
        old: &NameSet,
        place: &Range<usize>,
        new: Vec<Record>,
    ) -> Vec<Change> {
        let flip = place
            .end
            .checked_sub(1)
            .map_or(0, |last| self.sector_of(last));
        let (at_once, before): (Change, Change) = place
            .clone()
            .zip(new)
            .partition(|(slot, _)| self.sector_of(*slot) == flip);
        // A folder's end is the first record that begins with a zero. What stands behind
        // it was never read, and must not be once the end moves.
        let behind = found.end.saturating_add(1)..=place.end;
        let unread = behind
            .filter(|slot| self.record(*slot).is_some_and(|[first, ..]| first != 0))
            .map(|slot| (slot, [0; ENTRY_BYTES]));
        let [with_flip, short, rest] = self.removal(old.slots.clone(), flip);
        // Where the new records replace old ones, these need no deleting.
        let mut flipping = with_flip;
        flipping.extend(at_once);
        vec![unread.collect(), before, flipping, short, rest]
    }

    /// Returns how a name's records are deleted: those in sector `flip`, then the last
    /// one with its sector, then all others.
    fn removal(&self, slots: Range<usize>, flip: usize) -> [Change; 3] {
        let last = slots
            .end
            .checked_sub(1)
            .map_or(0, |last| self.sector_of(last));
        let mut changes = [Change::new(), Change::new(), Change::new()];
        let [with_flip, short, rest] = &mut changes;
        for slot in slots {
            let change = match self.sector_of(slot) {
                sector if sector == flip && flip == last => &mut *with_flip,
                sector if sector == last => &mut *short,
                _ => &mut *rest,
            };
            change.insert(slot, self.deleted(slot));
        }
        changes
    }

    fn forget_at(&mut self, slots: Range<usize>) -> Result<(), EditNamesError> {
        let last = slots
            .end
            .checked_sub(1)
            .map_or(0, |last| self.sector_of(last));
        let changes = self.removal(slots, last);
        self.perform(changes.into())
    }

    /// Makes the changes, one after the other. On return they have reached the disk.
    fn perform(&mut self, changes: Vec<Change>) -> Result<(), EditNamesError> {
        for change in changes.into_iter().filter(|change| !change.is_empty()) {
            let sectors: BTreeSet<_> = change.keys().map(|slot| self.sector_of(*slot)).collect();
            let (records, _) = self.folder.content.as_chunks_mut();
            for (slot, record) in change {
                if let Some(place) = records.get_mut(slot) {
                    *place = record;
                }
            }
            let written = sectors
                .into_iter()
                .try_for_each(|sector| self.write_sector(sector));
            written
                .and_then(|()| self.device.sync())
                .map_err(|source| EditNamesError::Write { source })?;
        }
        Ok(())
    }

    fn write_sector(&mut self, sector: usize) -> io::Result<()> {
        let start = sector.saturating_mul(self.sector);
        let content = self.folder.content.get(start..).unwrap_or_default();
        let bytes = content.get(..self.sector);
        let start = u64::try_from(start).map_err(io::Error::other)?;
        let cluster = usize::try_from(start / self.folder.cluster_bytes);
        let cluster = cluster.map_err(io::Error::other)?;
        let cluster = self.folder.clusters.get(cluster);
        let (Some(bytes), Some(cluster)) = (bytes, cluster) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let offset = cluster.saturating_add(start % self.folder.cluster_bytes);
        self.device.write_at(offset, bytes)
    }
}

fn find<'r>(found: &'r Records, name: &str) -> Result<&'r NameSet, EditNamesError> {
    let mut files = found.names.iter().filter(|file| file.is_file());
    files
        .find(|file| file.node.name.eq_ignore_ascii_case(name))
        .ok_or_else(|| EditNamesError::NotFound {
            name: name.to_owned(),
        })
}
