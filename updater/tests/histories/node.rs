//! A node on such a disk. Below the ports it does what the daemon's own host does, in the
//! same order: names of entries and partition labels by the real code, files by a driver.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use partition_layout::entry_names::{EditNamesError, EntryNames};
use partition_layout::esp::{EntryImage, Esp};
use partition_layout::{
    BootEntry, DiskLayout, REMOVED_NAME, RootHash, Slot, SlotContent, SlotLabel, SlotPartitions,
    TEMPORARY_NAME, Version, is_temporary_name, relabel,
};
use release::Digest;
use tokio::sync::watch;
use updater::ports::{
    BootControl, Console, DiskQueue, DiskView, KeptPieces, Leftover, Pace, Part, Power, Record,
    Records, Restart, SlotOnDisk, Slots, Stop, Stopped, Verdict,
};
use updater::pstore::DumpFile;
use updater::scrub::kernel::KernelBlocks;
use updater::scrub::proven::Proven;

use super::dice::Dice;
use super::disk::{SECTOR_BYTES, SimDisk, Through, View, no_power};
use super::vfat::Vfat;
use crate::barrier::Barrier;

/// A mistake that somebody could make here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// The root image is not synced.
    RootStaysInTheCache,
    /// The kernel image is not synced.
    KernelStaysInTheCache,
    /// An entry that is removed keeps its name until its clusters are free.
    EntriesAreUnlinked,
    /// What is read back comes from memory.
    ReadBackFromMemory,
    /// The spare slot's entry stays while the slot is written.
    NothingIsDisarmed,
}

/// What a partition is mounted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Look,
    Change,
}

/// Where it goes in a blob, and its bytes.
type Piece = (u64, Vec<u8>);

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) vfat: Vfat,
    mounted: Option<Purpose>,
    pub(crate) records: HashMap<Record, Vec<u8>>,
    /// What has come of a kernel image.
    pieces: Option<(Digest, Vec<Piece>)>,
    pub(crate) dumps: Vec<DumpFile>,
    pub(crate) one_shot: Option<String>,
    pub(crate) has_variables: bool,
    pub(crate) booted: (Slot, Version, RootHash),
    pub(crate) boot: usize,
    pub(crate) settled: bool,
    pub(crate) reboots: bool,
    pub(crate) dice: Dice,
    pub(crate) flaw: Flaw,
    /// The write to a slot that the disk gets wrong, by its number.
    pub(crate) bad_write: Option<usize>,
    /// What it got wrong, and how it should be.
    wrong: Option<(u64, u8)>,
    /// The call at which the hands are held.
    hold: Option<usize>,
}

/// A handle to the node; clones are the same node.
#[derive(Debug, Clone)]
pub(crate) struct SimNode {
    world: Arc<Mutex<World>>,
    barrier: Barrier,
    held: watch::Sender<bool>,
}

impl World {
    pub(crate) fn layout(&self) -> io::Result<DiskLayout> {
        let (layout, _) = DiskLayout::read(&self.disk).map_err(io::Error::other)?;
        Ok(layout)
    }

    /// Mends the names of entries, then lets `act` change them.
    fn edit_names<'a>(
        &'a mut self,
        act: impl FnOnce(&mut EntryNames<'_, Through<'a>>) -> Result<(), EditNamesError>,
    ) -> io::Result<()> {
        let (start, len) = (self.vfat.start(), self.vfat.len());
        let mut partition = Through {
            disk: &mut self.disk,
            view: View::Esp,
            start,
            len,
        };
        let edited = EntryNames::read(&mut partition, 0..len).and_then(|mut names| {
            names.mend()?;
            act(&mut names)
        });
        edited.map_err(|error| io::Error::new(error.kind(), error))
    }

    /// As PID 1 does, and the daemon when it starts.
    pub(crate) fn mend_names(&mut self) -> io::Result<()> {
        self.unmount()?;
        self.edit_names(|_| Ok(()))
    }

    fn mount(&mut self, purpose: Purpose) -> io::Result<()> {
        if self.mounted == Some(purpose) || (self.mounted.is_some() && purpose == Purpose::Look) {
            return Ok(());
        }
        if purpose == Purpose::Change {
            self.unmount()?;
            self.edit_names(|_| Ok(()))?;
        }
        self.mounted = Some(purpose);
        Ok(())
    }

    fn unmount(&mut self) -> io::Result<()> {
        self.mounted = None;
        self.vfat.write_all(&mut self.disk, &mut self.dice)
    }

    fn sync_files(&mut self) -> io::Result<()> {
        self.vfat.write_all(&mut self.disk, &mut self.dice)?;
        self.disk.sync(View::Esp)
    }

    fn some_goes_to_the_disk(&mut self) -> io::Result<()> {
        self.vfat.write_some(&mut self.disk, &mut self.dice)
    }

    fn remove_file(&mut self, name: &str) -> io::Result<()> {
        self.mount(Purpose::Change)?;
        match self.vfat.unlink(&self.disk, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => {
                removed?;
                self.some_goes_to_the_disk()?;
                self.sync_files()
            }
        }
    }

    fn remove_entries(&mut self, is_meant: impl Fn(&str) -> bool) -> io::Result<()> {
        loop {
            self.remove_file(REMOVED_NAME)?;
            self.unmount()?;
            let mut found = None;
            let renames = self.flaw != Flaw::EntriesAreUnlinked;
            self.edit_names(|names| {
                found = names.names().into_iter().find(|name| is_meant(name));
                match &found {
                    Some(name) if renames => names.rename(name, REMOVED_NAME),
                    _ => Ok(()),
                }
            })?;
            match found {
                None => return Ok(()),
                Some(name) if !renames => self.remove_file(&name)?,
                Some(_) => {}
            }
        }
    }

    fn rename(&mut self, is_from: impl Fn(&str) -> bool, to: &BootEntry) -> io::Result<()> {
        let to = to.file_name();
        let edit = |world: &mut Self| {
            world.unmount()?;
            world.edit_names(|names| {
                let found = names.names().into_iter().find(|name| is_from(name));
                let found = found.ok_or_else(|| EditNamesError::NotFound { name: to.clone() })?;
                names.rename(&found, &to)
            })
        };
        match edit(self) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove_entries(|name| name.eq_ignore_ascii_case(&to))?;
                edit(self)
            }
            outcome => outcome,
        }
    }

    /// What a rename of the firmware comes to, if nothing ends it.
    pub(crate) fn count_whole(&mut self, from: &str, to: &str) -> io::Result<()> {
        let (start, len) = (self.vfat.start(), self.vfat.len());
        let view = View::Esp;
        let disk = &mut self.disk;
        let mut partition = Through {
            disk,
            view,
            start,
            len,
        };
        let names = EntryNames::read(&mut partition, 0..len);
        let renamed = names.and_then(|mut names| names.rename(from, to));
        renamed.map_err(|error| io::Error::new(error.kind(), error))
    }

    /// Every entry, with the name under which it is there.
    fn files(&mut self) -> io::Result<Vec<(String, u64, BootEntry)>> {
        let files = self.vfat.files(&self.disk)?.into_iter();
        let parsed = files.filter(|(_, len)| *len > 0).filter_map(|(name, len)| {
            let entry = BootEntry::parse_file_name(&name).ok()?;
            Some((name, len, entry))
        });
        Ok(parsed.collect())
    }

    fn temporaries(&mut self) -> io::Result<Vec<String>> {
        let names = self.vfat.files(&self.disk)?.into_iter();
        let names = names.map(|(name, _)| name);
        Ok(names.filter(|name| is_temporary_name(name)).collect())
    }

    fn remove_temporaries(&mut self) -> io::Result<()> {
        self.mount(Purpose::Change)?;
        let temporaries = self.temporaries()?;
        if temporaries.is_empty() {
            return Ok(());
        }
        for name in temporaries {
            self.vfat.unlink(&self.disk, &name)?;
            self.some_goes_to_the_disk()?;
        }
        self.sync_files()
    }

    /// Where a part of a slot lies, which is none of the booted one.
    fn spare_place(&self, slot: Slot, part: Part) -> io::Result<u64> {
        if slot == self.booted.0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.place(slot, part)
    }

    pub(crate) fn place(&self, slot: Slot, part: Part) -> io::Result<u64> {
        let layout = self.layout()?;
        let partitions = layout.slot(slot).ok_or(io::ErrorKind::NotFound)?;
        Ok(match part {
            Part::Root => partitions.root.start,
            Part::Verity => partitions.verity.start,
        })
    }

    /// Lets the disk get a write wrong, if this is the one.
    fn err(&mut self, place: u64, bytes: &mut [u8]) {
        let end = place + u64::try_from(bytes.len()).unwrap();
        self.wrong = self.wrong.filter(|(at, _)| !(place..end).contains(at));
        match &mut self.bad_write {
            Some(0) => {
                self.bad_write = None;
                let at = self.dice.below(bytes.len());
                self.wrong = Some((place + u64::try_from(at).unwrap(), bytes[at]));
                bytes[at] ^= 4;
            }
            Some(before) => *before -= 1,
            None => {}
        }
    }
}

const fn view(slot: Slot, part: Part) -> View {
    match part {
        Part::Root => View::Root(slot),
        Part::Verity => View::Verity(slot),
    }
}

impl SimNode {
    pub(crate) fn new(disk: SimDisk, vfat: Vfat, booted: (Slot, Version, RootHash)) -> Self {
        let world = World {
            disk,
            vfat,
            mounted: None,
            records: HashMap::new(),
            pieces: None,
            dumps: Vec::new(),
            one_shot: None,
            has_variables: true,
            booted,
            boot: 1,
            settled: false,
            reboots: false,
            dice: Dice::new(0),
            flaw: Flaw::None,
            bad_write: None,
            wrong: None,
            hold: None,
        };
        Self {
            world: Arc::new(Mutex::new(world)),
            barrier: Barrier::default(),
            held: watch::Sender::default(),
        }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Holds the hands at the barrier once they have called so often.
    pub(crate) fn hold_after(&self, calls: usize) {
        self.barrier.close();
        self.held.send_replace(false);
        self.world().hold = Some(calls);
    }

    /// Completes once the hands are held.
    pub(crate) async fn holds(&self) {
        let mut held = self.held.subscribe();
        let waited = held.wait_for(|held| *held).await;
        drop(waited.expect("this is a handle to the sender"));
    }

    pub(crate) fn hold_nobody(&self) {
        self.world().hold = None;
        self.barrier.open();
    }

    /// The world, for a call of the daemon's.
    fn called(&self) -> MutexGuard<'_, World> {
        let mut world = self.world();
        match &mut world.hold {
            Some(0) => {
                world.hold = None;
                drop(world);
                self.held.send_replace(true);
                self.barrier.pass();
                return self.world();
            }
            Some(calls) => *calls -= 1,
            None => {}
        }
        world
    }

    pub(crate) fn lose_power(&self) {
        let mut world = self.world();
        let world = &mut *world;
        world.vfat.lose_power();
        world.disk.lose_power(&mut world.dice);
        (world.mounted, world.settled, world.reboots) = (None, false, false);
        if let Some((_, pieces)) = &mut world.pieces {
            // What was in the cache is lost, and what was written last may be anything.
            pieces.truncate(world.dice.below(pieces.len() + 1));
            if let Some((_, last)) = pieces.last_mut().filter(|_| world.dice.one_in(4)) {
                last.fill(0);
            }
        }
        (world.bad_write, world.wrong, world.hold) = (None, None, None);
    }
}

impl Slots for SimNode {
    fn view(&self) -> io::Result<DiskView> {
        let world = self.called();
        let layout = world.layout()?;
        let on_disk = |slot: &SlotPartitions| SlotOnDisk {
            content: slot.content(),
            root_len: slot.root.len,
            verity_len: slot.verity.len,
        };
        let (booted, booted_version, booted_root_hash) = world.booted.clone();
        Ok(DiskView {
            booted,
            booted_version,
            booted_root_hash,
            a: on_disk(&layout.slot_a),
            b: layout.slot_b.as_ref().map(on_disk),
        })
    }

    fn write(&self, slot: Slot, part: Part, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.called();
        let len = u64::try_from(bytes.len()).unwrap();
        if !offset.is_multiple_of(SECTOR_BYTES) || !len.is_multiple_of(SECTOR_BYTES) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let place = world.spare_place(slot, part)? + offset;
        let mut bytes = bytes.to_vec();
        world.err(place, &mut bytes);
        world.disk.write(view(slot, part), place, &bytes)
    }

    fn flush(&self, slot: Slot, part: Part) -> io::Result<()> {
        let mut world = self.called();
        if world.flaw == Flaw::RootStaysInTheCache && part == Part::Root {
            return Ok(());
        }
        world.disk.sync(view(slot, part))
    }

    fn read_medium(
        &self,
        slot: Slot,
        part: Part,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        let world = self.called();
        let place = world.place(slot, part)? + offset;
        world.disk.read(place, buffer)?;
        if let (Flaw::ReadBackFromMemory, Some((at, byte))) = (world.flaw, world.wrong) {
            let within = at
                .checked_sub(place)
                .and_then(|at| usize::try_from(at).ok());
            if let Some(wrong) = within.and_then(|at| buffer.get_mut(at)) {
                *wrong = byte;
            }
        }
        Ok(())
    }

    fn relabel(&self, slot: Slot, held: Option<(&Version, &RootHash)>) -> io::Result<()> {
        let mut world = self.called();
        world.spare_place(slot, Part::Root)?;
        let label = match held {
            Some((version, root_hash)) => SlotLabel::Holds { version, root_hash },
            None => SlotLabel::Empty,
        };
        relabel(&mut world.disk, slot, &label).map_err(io::Error::other)
    }

    fn mend(&self, slot: Slot, proven: &Proven) -> io::Result<()> {
        let mut world = self.called();
        let held = match world.layout()?.slot(slot).map(SlotPartitions::content) {
            _ if slot == world.booted.0 => Some(world.booted.2),
            Some(SlotContent::Holds { root_hash, .. }) => Some(root_hash),
            Some(SlotContent::Empty | SlotContent::Unknown { .. }) | None => None,
        };
        if held != Some(*proven.root_hash()) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let place = world.place(slot, Part::Root)? + proven.offset();
        world.disk.write(View::Root(slot), place, proven.bytes())?;
        world.disk.sync(View::Root(slot))
    }
}

impl Pace for SimNode {
    fn step(&self, _bytes: u64, stop: &Stop) -> Result<(), Stopped> {
        stop.checkpoint()
    }

    fn stand(&self, _place: DiskQueue) -> io::Result<()> {
        Ok(())
    }
}

impl BootControl for SimNode {
    fn entries(&self) -> io::Result<Vec<BootEntry>> {
        let mut world = self.called();
        world.mount(Purpose::Look)?;
        let files = world.files()?.into_iter();
        Ok(files.map(|(_, _, entry)| entry).collect())
    }

    fn mend_names(&self) -> io::Result<()> {
        self.called().mend_names()
    }

    fn remove(&self, entry: &BootEntry) -> io::Result<()> {
        let mut world = self.called();
        if world.flaw == Flaw::NothingIsDisarmed {
            return Ok(());
        }
        world.remove_entries(|name| BootEntry::parse_file_name(name).as_ref() == Ok(entry))
    }

    fn remove_others(&self, _booted: &Version, root_hash: &RootHash) -> io::Result<()> {
        let mut world = self.called();
        world.unmount()?;
        let layout = world.layout()?;
        let esp = Esp::read(&world.disk, &layout.esp).map_err(io::Error::other)?;
        for file in esp.files {
            if let EntryImage::Uki(uki) = file.image
                && uki.root_hash.is_some_and(|it| it != *root_hash)
            {
                world.remove_entries(|name| name == file.file_name)?;
            }
        }
        Ok(())
    }

    fn leftover(&self) -> io::Result<Leftover> {
        let mut world = self.called();
        world.mount(Purpose::Look)?;
        let temporaries = world.temporaries()?;
        Ok(Leftover::among(temporaries.iter().map(String::as_str)))
    }

    fn remove_temporary(&self) -> io::Result<()> {
        self.called().remove_temporaries()
    }

    fn room(&self) -> io::Result<u64> {
        let mut world = self.called();
        let world = &mut *world;
        world.mount(Purpose::Look)?;
        world.vfat.room(&world.disk)
    }

    fn begin_temporary(&self, size: u64) -> io::Result<()> {
        let mut world = self.called();
        let world = &mut *world;
        world.remove_temporaries()?;
        if world.vfat.room(&world.disk)? < size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        world.vfat.create(&world.disk, TEMPORARY_NAME)?;
        world.some_goes_to_the_disk()
    }

    fn write_temporary(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.called();
        let world = &mut *world;
        world.mount(Purpose::Change)?;
        world
            .vfat
            .write(&world.disk, TEMPORARY_NAME, offset, bytes)?;
        world.some_goes_to_the_disk()
    }

    fn flush_temporary(&self) -> io::Result<()> {
        let mut world = self.called();
        if world.flaw == Flaw::KernelStaysInTheCache {
            return Ok(());
        }
        world.mount(Purpose::Change)?;
        world.sync_files()
    }

    fn read_temporary(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut world = self.called();
        let world = &mut *world;
        world.mount(Purpose::Look)?;
        world.vfat.read(&world.disk, TEMPORARY_NAME, offset, buffer)
    }

    fn read_entry(&self, entry: &BootEntry, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.called();
        let world = &mut *world;
        world.mount(Purpose::Look)?;
        let mut files = world.files()?.into_iter();
        let found = files.find(|(_, _, found)| found == entry);
        let (name, len, _) = found.ok_or(io::ErrorKind::NotFound)?;
        let left = usize::try_from(len.saturating_sub(offset)).unwrap();
        let count = left.min(buffer.len());
        world
            .vfat
            .read(&world.disk, &name, offset, &mut buffer[..count])?;
        Ok(count)
    }

    fn mend_entry(&self, entry: &BootEntry, sound: &KernelBlocks) -> io::Result<()> {
        let mut world = self.called();
        let world = &mut *world;
        world.mount(Purpose::Change)?;
        let mut files = world.files()?.into_iter();
        let found = files.find(|(_, _, found)| found == entry);
        let (name, _, _) = found.ok_or(io::ErrorKind::NotFound)?;
        for (offset, bytes) in sound.iter() {
            world.vfat.write(&world.disk, &name, offset, bytes)?;
        }
        world.sync_files()
    }

    fn publish_temporary(&self, entry: &BootEntry) -> io::Result<()> {
        let is_temporary = |name: &str| name.eq_ignore_ascii_case(TEMPORARY_NAME);
        self.called().rename(is_temporary, entry)
    }

    fn rename(&self, from: &BootEntry, to: &BootEntry) -> io::Result<()> {
        let is_from = |name: &str| BootEntry::parse_file_name(name).is_ok_and(|it| it == *from);
        self.called().rename(is_from, to)
    }

    fn has_variables(&self) -> bool {
        self.called().has_variables
    }

    fn set_one_shot(&self, entry: &BootEntry) -> io::Result<()> {
        let mut world = self.called();
        world.disk.operate()?;
        if !world.has_variables {
            return Err(io::ErrorKind::Unsupported.into());
        }
        world.one_shot = Some(entry.file_name());
        Ok(())
    }

    fn clear_one_shot(&self) -> io::Result<()> {
        let mut world = self.called();
        if world.one_shot.is_some() {
            world.disk.operate()?;
            world.one_shot = None;
        }
        Ok(())
    }

    fn release(&self) {
        let mut world = self.called();
        // Without power there is nothing to write it to.
        drop(world.unmount());
    }
}

/// A file system with a journal: each change is there or not, in their order.
impl Records for SimNode {
    fn read(&self, record: Record) -> io::Result<Option<Vec<u8>>> {
        let world = self.called();
        match world.disk.is_dead() {
            true => Err(no_power()),
            false => Ok(world.records.get(&record).cloned()),
        }
    }

    fn replace(&self, record: Record, content: &[u8]) -> io::Result<()> {
        let mut world = self.called();
        let was_dead = world.disk.is_dead();
        let outcome = world.disk.operate();
        // The one at which the power fails is there or not.
        if outcome.is_ok() || (!was_dead && world.dice.one_in(2)) {
            world.records.insert(record, content.to_vec());
        }
        outcome
    }

    fn remove(&self, record: Record) -> io::Result<()> {
        let mut world = self.called();
        world.disk.operate()?;
        world.records.remove(&record);
        Ok(())
    }

    fn mark_settled(&self) -> io::Result<()> {
        let mut world = self.called();
        world.settled = true;
        Ok(())
    }

    fn is_settled(&self) -> io::Result<bool> {
        Ok(self.called().settled)
    }

    fn boot_id(&self) -> io::Result<String> {
        Ok(format!("boot-{}", self.called().boot))
    }

    fn dumps(&self) -> Vec<DumpFile> {
        self.called().dumps.clone()
    }
}

impl KeptPieces for SimNode {
    fn replay(&self, blob: &Digest, sink: &mut dyn FnMut(u64, &[u8]) -> Verdict) -> io::Result<()> {
        let kept = self.called().pieces.clone().filter(|(of, _)| of == blob);
        for (offset, bytes) in kept.into_iter().flat_map(|(_, pieces)| pieces) {
            if sink(offset, &bytes) == Verdict::Stop {
                break;
            }
        }
        Ok(())
    }

    fn keep(&self, blob: &Digest, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.called();
        world.disk.operate()?;
        let kept = world.pieces.take().filter(|(of, _)| of == blob);
        let (of, mut pieces) = kept.unwrap_or((*blob, vec![]));
        pieces.push((offset, bytes.to_vec()));
        world.pieces = Some((of, pieces));
        Ok(())
    }

    fn forget_pieces(&self) -> io::Result<()> {
        let mut world = self.called();
        world.disk.operate()?;
        world.pieces = None;
        Ok(())
    }
}

impl Console for SimNode {
    fn say(&self, _line: &str) -> io::Result<()> {
        Ok(())
    }
}

impl Power for SimNode {
    fn reboot(&self, _restart: Restart) -> io::Result<()> {
        let mut world = self.called();
        world.disk.operate()?;
        world.reboots = true;
        Ok(())
    }
}
