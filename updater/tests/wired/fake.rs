//! A node that remembers. It has a disk, an EFI system partition, records and
//! firmware variables; writes that were not flushed are lost with the power; it
//! loses power after any operation, or fails one; and it boots as
//! systemd-boot and PID 1 would.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use partition_layout::{
    BootEntry, CountedName, LoaderEntry, REMOVED_NAME, RootHash, Slot, SlotContent, SortKey,
    TEMPORARY_NAME, Version, choose_entry,
};
use release::Digest;
use updater::ports::{
    BootControl, Clock, Console, DiskQueue, DiskView, KeptPieces, Leftover, Pace, Part, Power,
    Record, Records, Restart, SlotOnDisk, Slots, Stop, Stopped, Verdict,
};
use updater::pstore::DumpFile;
use updater::scrub::kernel::KernelBlocks;
use updater::scrub::proven::Proven;

use super::barrier::Barrier;
use super::esp::FakeEsp;

pub(crate) const ROOT_LEN: u64 = 4 << 20;
pub(crate) const VERITY_LEN: u64 = 1 << 20;

/// When the node breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// The power fails once so many operations were done; what was not flushed
    /// is lost.
    Cut(usize),
    /// The same, but every other write that was not flushed got through.
    CutAndReordered(usize),
    /// This operation fails, and only this one.
    Error(usize),
    /// This operation and all later ones of its kind fail.
    Broken(usize),
}

/// How far the firmware came with the rename that counts a try, when the power failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TornCount {
    Empty,
    Shared,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FakeSlot {
    content: SlotContent,
    root: Vec<u8>,
    verity: Vec<u8>,
}

impl FakeSlot {
    fn part(&mut self, part: Part) -> &mut Vec<u8> {
        match part {
            Part::Root => &mut self.root,
            Part::Verity => &mut self.verity,
        }
    }
}

#[derive(Debug, Clone)]
struct Write {
    slot: Slot,
    part: Part,
    offset: usize,
    bytes: Vec<u8>,
}

/// Where it goes in a blob, and its bytes.
type Piece = (u64, Vec<u8>);

#[derive(Debug)]
struct World {
    slots: [FakeSlot; 2],
    /// Written, not flushed.
    cached: Vec<Write>,
    esp: FakeEsp,
    esp_room: u64,
    records: BTreeMap<&'static str, Vec<u8>>,
    /// What kernels that panicked have left in the firmware.
    dumps: Vec<DumpFile>,
    records_full: bool,
    /// What has come of a kernel image.
    pieces: Option<(Digest, Vec<Piece>)>,
    one_shot: Option<String>,
    has_variables: bool,
    booted: Slot,
    booted_hash: RootHash,
    booted_version: Version,
    boot: usize,
    settled: bool,
    reboots: Vec<Restart>,
    said: Vec<String>,
    done: usize,
    kinds: Vec<&'static str>,
    trouble: Trouble,
    broken_kind: Option<&'static str>,
    torn_count: Option<TornCount>,
    /// PID 1 does not get at the names of boot entries.
    pid_1_is_hindered: bool,
    /// Kinds of operations, and records, that fail until told otherwise.
    refuses: Vec<&'static str>,
    dead: bool,
    /// Flips a bit of whatever is written at this offset of the root partition.
    pub(crate) bad_sector: Option<usize>,
}

/// A handle to the node; clones are the same node.
#[derive(Debug, Clone)]
pub(crate) struct FakeNode {
    world: Arc<Mutex<World>>,
    /// Before every write.
    pub(crate) barrier: Barrier,
    /// Before a record is removed.
    pub(crate) record_barrier: Barrier,
    /// Before this part of the spare slot is read.
    pub(crate) read_barrier: Option<(Part, Barrier)>,
}

fn index(slot: Slot) -> usize {
    match slot {
        Slot::A => 0,
        Slot::B => 1,
    }
}

fn record_name(record: Record) -> &'static str {
    match record {
        Record::Trial => "trial",
        Record::LastGood => "last-good",
        Record::LastRollback => "last-rollback",
        Record::Barred => "barred",
        Record::Floor => "floor",
        Record::History => "history",
        Record::Verdict => "verdict",
        Record::Totals => "totals",
        Record::Reading => "reading",
        Record::SpareReading => "spare-reading",
        Record::Checks => "checks",
        Record::Kernels => "kernels",
        Record::Boots => "boots",
    }
}

/// An image that a slot can hold, as bytes.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) version: Version,
    pub(crate) root_hash: RootHash,
    pub(crate) root: Vec<u8>,
    pub(crate) verity: Vec<u8>,
    pub(crate) uki: Vec<u8>,
}

impl FakeNode {
    /// A node that runs `image` from slot A, good; slot B is empty.
    pub(crate) fn running(image: &Image) -> Self {
        let empty = || FakeSlot {
            content: SlotContent::Empty,
            root: vec![0xee; usize::try_from(ROOT_LEN).unwrap()],
            verity: vec![0xee; usize::try_from(VERITY_LEN).unwrap()],
        };
        let mut a = empty();
        a.content = SlotContent::Holds {
            version: image.version.clone(),
            root_hash: image.root_hash,
        };
        a.root[..image.root.len()].copy_from_slice(&image.root);
        a.verity[..image.verity.len()].copy_from_slice(&image.verity);
        let entry = BootEntry::good(image.version.clone());
        Self::of(World {
            slots: [a, empty()],
            cached: vec![],
            esp: FakeEsp::with(entry.file_name(), image.uki.clone()),
            esp_room: 1 << 20,
            records: BTreeMap::new(),
            dumps: vec![],
            records_full: false,
            pieces: None,
            one_shot: None,
            has_variables: true,
            booted: Slot::A,
            booted_hash: image.root_hash,
            booted_version: image.version.clone(),
            boot: 1,
            settled: false,
            reboots: vec![],
            said: vec![],
            done: 0,
            kinds: vec![],
            trouble: Trouble::None,
            broken_kind: None,
            torn_count: None,
            pid_1_is_hindered: false,
            refuses: vec![],
            dead: false,
            bad_sector: None,
        })
    }

    fn of(world: World) -> Self {
        Self {
            world: Arc::new(Mutex::new(world)),
            barrier: Barrier::default(),
            record_barrier: Barrier::default(),
            read_barrier: None,
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// A second node in the same state, which then goes its own way.
    pub(crate) fn twin(&self) -> Self {
        let world = self.world();
        Self::of(World {
            slots: world.slots.clone(),
            cached: world.cached.clone(),
            esp: world.esp.clone(),
            records: world.records.clone(),
            dumps: world.dumps.clone(),
            pieces: world.pieces.clone(),
            one_shot: world.one_shot.clone(),
            booted_version: world.booted_version.clone(),
            kinds: world.kinds.clone(),
            reboots: world.reboots.clone(),
            refuses: world.refuses.clone(),
            said: world.said.clone(),
            ..*world
        })
    }

    /// Sets what will go wrong, counted from now.
    pub(crate) fn expect(&self, trouble: Trouble) {
        let mut world = self.world();
        world.done = 0;
        world.kinds.clear();
        world.trouble = trouble;
        world.broken_kind = None;
    }

    /// Lets every operation of these kinds fail, and every reading of records
    /// of these names, until it is told otherwise.
    pub(crate) fn refuse(&self, kinds: &[&'static str]) {
        self.world().refuses = kinds.to_vec();
    }

    pub(crate) fn operations(&self) -> usize {
        self.world().done
    }

    pub(crate) fn operation_kinds(&self) -> Vec<&'static str> {
        self.world().kinds.clone()
    }

    pub(crate) fn set_bad_sector(&self, offset: Option<usize>) {
        self.world().bad_sector = offset;
    }

    pub(crate) fn set_esp_room(&self, room: u64) {
        self.world().esp_room = room;
    }

    pub(crate) fn fill_var(&self) {
        self.world().records_full = true;
    }

    pub(crate) fn lose_variables(&self) {
        let mut world = self.world();
        world.has_variables = false;
        world.one_shot = None;
    }

    pub(crate) fn forget_wishes(&self) {
        self.world().one_shot = None;
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.world().settled
    }

    /// What stands on its console.
    pub(crate) fn said(&self) -> Vec<String> {
        self.world().said.clone()
    }

    pub(crate) fn reboots(&self) -> Vec<Restart> {
        self.world().reboots.clone()
    }

    pub(crate) fn booted(&self) -> (Slot, Version) {
        let world = self.world();
        (world.booted, world.booted_version.clone())
    }

    pub(crate) fn entry_names(&self) -> Vec<String> {
        self.world()
            .esp
            .entries()
            .map(|(name, _)| name.clone())
            .collect()
    }

    pub(crate) fn content(&self, slot: Slot) -> SlotContent {
        self.world().slots[index(slot)].content.clone()
    }

    /// Everything of a slot: labels and bytes.
    pub(crate) fn slot_bytes(&self, slot: Slot) -> (SlotContent, Vec<u8>, Vec<u8>) {
        let slot = self.world().slots[index(slot)].clone();
        (slot.content, slot.root, slot.verity)
    }

    /// Changes bytes of a slot behind everybody's back.
    pub(crate) fn alter(&self, slot: Slot, part: Part, change: impl FnOnce(&mut [u8])) {
        change(self.world().slots[index(slot)].part(part));
    }

    pub(crate) fn put_record(&self, record: Record, content: &str) {
        self.world()
            .records
            .insert(record_name(record), content.as_bytes().to_vec());
    }

    /// Changes what is kept of a kernel image.
    pub(crate) fn spoil_pieces(&self, change: impl Fn(&mut u64, &mut Vec<u8>)) {
        let mut world = self.world();
        let kept = world.pieces.iter_mut().flat_map(|(_, pieces)| pieces);
        kept.for_each(|(offset, bytes)| change(offset, bytes));
    }

    pub(crate) fn kept_bytes(&self) -> u64 {
        let world = self.world();
        let kept = world.pieces.iter().flat_map(|(_, pieces)| pieces);
        kept.map(|(_, bytes)| bytes.len() as u64).sum()
    }

    pub(crate) fn record(&self, record: Record) -> Option<String> {
        let world = self.world();
        let bytes = world.records.get(record_name(record))?;
        Some(String::from_utf8(bytes.clone()).unwrap())
    }

    /// Leaves what a kernel that panics leaves in the firmware.
    pub(crate) fn leave_dump(&self, text: &str) {
        let mut world = self.world();
        let id = (1_800_000_000 + world.dumps.len()) * 100_000 + 1001;
        world.dumps.push(DumpFile {
            name: format!("dmesg-efi_pstore-{id}"),
            content: format!("Panic#1 Part1\n{text}").into_bytes(),
        });
    }

    pub(crate) fn boot_id_now(&self) -> String {
        format!("boot-{}", self.world().boot)
    }

    /// Names an entry that could boot, or that would be tried, and is not what
    /// one of `images` is: none, if all is well.
    pub(crate) fn armed_but_broken(&self, images: &[&Image]) -> Option<String> {
        let world = self.world();
        world.esp.entries().find_map(|(name, uki)| {
            let entry = BootEntry::parse_file_name(name).unwrap();
            if entry.is_bad() {
                return None;
            }
            let whole = images.iter().any(|image| {
                uki == Some(&image.uki)
                    && entry.version == image.version
                    && world.slot_of(image).is_some()
            });
            (!whole).then(|| name.clone())
        })
    }

    /// Names an entry on watch beside which no other boots whatever becomes of it: none, if all
    /// is well. The firmware may tear the name of what it counts.
    pub(crate) fn watched_alone(&self, images: &[&Image]) -> Option<String> {
        let world = self.world();
        let entries: Vec<_> = world.esp.entries().collect();
        let parse = |name: &str| BootEntry::parse_file_name(name).unwrap();
        let by_right = |name: &str, uki: Option<&[u8]>| {
            let counter = parse(name).counter;
            let image = images.iter().find(|image| uki == Some(&image.uki));
            counter.is_none_or(|counter| (counter.left, counter.done) == (0, 0))
                && image.is_some_and(|image| world.slot_of(image).is_some())
        };
        let mut watched = entries.iter().filter(|(name, _)| parse(name).is_watched());
        let alone = watched.find(|(name, _)| {
            let version = parse(name).version;
            !entries
                .iter()
                .any(|(other, uki)| parse(other).version != version && by_right(other, *uki))
        });
        alone.map(|(name, _)| (*name).clone())
    }

    /// Takes an entry and its kernel image away behind everybody's back.
    pub(crate) fn lose_entry(&self, name: &str) {
        self.world().esp.unlink(name);
    }

    /// Whether some entry that is no last resort leads to a whole image.
    pub(crate) fn boots_properly(&self, images: &[&Image]) -> bool {
        let world = self.world();
        world.esp.entries().any(|(name, uki)| {
            let entry = BootEntry::parse_file_name(name).unwrap();
            let image = images.iter().find(|image| uki == Some(&image.uki));
            !entry.is_bad() && image.is_some_and(|image| world.slot_of(image).is_some())
        })
    }

    /// Takes the power away and gives it back: the firmware, systemd-boot and
    /// PID 1 do their part. Tells what runs then.
    pub(crate) fn power_cycle(&self, images: &[&Image]) -> (Slot, Version) {
        let mut world = self.world();
        world.lose_power();
        // Each failed start costs a try; nothing here has more than a handful.
        for _ in 0..20 {
            world.boot += 1;
            if world.start(images) {
                return (world.booted, world.booted_version.clone());
            }
        }
        panic!("nothing boots: {:?}", world.esp);
    }

    /// The same, and the power fails while the boot loader counts a try.
    pub(crate) fn cut_the_count(&self, torn: TornCount, images: &[&Image]) {
        let mut world = self.world();
        world.lose_power();
        world.torn_count = Some(torn);
        world.boot += 1;
        assert!(!world.start(images), "no start was to be counted");
        world.dead = true;
    }

    /// PID 1 cannot change the names of boot entries from now on, or can again.
    pub(crate) fn hinder_pid_1(&self, is_hindered: bool) {
        self.world().pid_1_is_hindered = is_hindered;
    }

    /// The same, for a release that is started and then hangs: its try is spent.
    pub(crate) fn start_and_hang(&self, images: &[&Image]) -> (Slot, Version) {
        self.power_cycle(images)
    }
}

impl World {
    fn lose_power(&mut self) {
        let world = self;
        let reordered = matches!(world.trouble, Trouble::CutAndReordered(_));
        let cached = std::mem::take(&mut world.cached);
        for write in cached.into_iter().skip(1).step_by(2).filter(|_| reordered) {
            world.apply(&write);
        }
        world.esp.lose_power();
        world.dead = false;
        world.settled = false;
        world.trouble = Trouble::None;
        world.broken_kind = None;
    }

    fn apply(&mut self, write: &Write) {
        let place = self.slots[index(write.slot)].part(write.part);
        place[write.offset..write.offset + write.bytes.len()].copy_from_slice(&write.bytes);
    }

    /// The slot that holds the whole image, found as PID 1 finds it.
    fn slot_of(&self, image: &Image) -> Option<Slot> {
        [Slot::A, Slot::B].into_iter().find(|slot| {
            let slot = &self.slots[index(*slot)];
            let labelled = matches!(&slot.content, SlotContent::Holds { root_hash, .. } if *root_hash == image.root_hash);
            labelled && slot.root.starts_with(&image.root) && slot.verity.starts_with(&image.verity)
        })
    }

    /// Whether PID 1 finds partitions with the image's names, whatever is in them.
    fn has_slot_for(&self, image: &Image) -> bool {
        self.slots.iter().any(|slot| {
            matches!(&slot.content, SlotContent::Holds { root_hash, .. } if *root_hash == image.root_hash)
        })
    }

    fn start(&mut self, images: &[&Image]) -> bool {
        let wish = self.one_shot.take();
        let names: Vec<String> = self.esp.entries().map(|(name, _)| name.clone()).collect();
        let wished = wish.and_then(|wish| names.iter().find(|name| **name == wish).cloned());
        let loader: Vec<LoaderEntry> = names
            .iter()
            .map(|name| LoaderEntry {
                name: CountedName::parse(name),
                sort_key: Some(SortKey {
                    key: "bistable".to_owned(),
                    version: BootEntry::parse_file_name(name)
                        .unwrap()
                        .version
                        .to_string(),
                }),
            })
            .collect();
        let chosen = match wished {
            Some(name) => CountedName::parse(&name),
            None => choose_entry(&loader)
                .expect("an entry is there")
                .name
                .clone(),
        };
        let (chosen, spent) = (chosen.file_name(), chosen.spent().file_name());
        let mut entries = self.esp.entries();
        let uki = entries.find(|(name, _)| **name == chosen).unwrap().1;
        let image = images.iter().find(|image| uki == Some(&image.uki));
        drop(entries);
        // No firmware renames a file over another; then the try is not counted.
        if spent != chosen && !self.esp.has(&spent) {
            match self.torn_count.take() {
                Some(TornCount::Empty) => {
                    self.esp.begin_name(&spent);
                    return false;
                }
                Some(TornCount::Shared) => {
                    self.esp.begin_rename(&chosen, &spent);
                    return false;
                }
                None => {
                    self.esp.begin_rename(&chosen, &spent);
                    self.esp.forget(&chosen);
                }
            }
        }
        if image.is_some_and(|image| self.has_slot_for(image)) && !self.pid_1_is_hindered {
            self.esp.mend();
        }
        let found = image.and_then(|image| Some((self.slot_of(image)?, image)));
        let Some((slot, image)) = found else {
            return false;
        };
        self.booted = slot;
        self.booted_hash = image.root_hash;
        self.booted_version = image.version.clone();
        true
    }

    /// As in a folder where it takes two steps: the power fails between them too.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.operation("rename")?;
        self.esp.mend();
        if !self.esp.has(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.esp.unlink(to);
        self.esp.begin_rename(from, to);
        self.operation("end-rename")?;
        self.esp.forget(from);
        Ok(())
    }

    /// One thing that the node is asked to do.
    fn operation(&mut self, kind: &'static str) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("no power"));
        }
        let number = self.done;
        match self.trouble {
            Trouble::Cut(cut) | Trouble::CutAndReordered(cut) if number >= cut => {
                self.dead = true;
                return Err(io::Error::other("the power fails"));
            }
            Trouble::Error(at) if number == at => {
                self.done += 1;
                self.kinds.push(kind);
                return Err(io::Error::other(format!("{kind} fails")));
            }
            Trouble::Broken(at) if number == at => self.broken_kind = Some(kind),
            Trouble::None
            | Trouble::Cut(_)
            | Trouble::CutAndReordered(_)
            | Trouble::Error(_)
            | Trouble::Broken(_) => {}
        }
        self.done += 1;
        self.kinds.push(kind);
        if self.broken_kind == Some(kind) || self.refuses.contains(&kind) {
            return Err(io::Error::other(format!("{kind} fails")));
        }
        Ok(())
    }
}

impl Slots for FakeNode {
    fn view(&self) -> io::Result<DiskView> {
        let mut world = self.world();
        world.operation("view")?;
        let on_disk = |slot: &FakeSlot| SlotOnDisk {
            content: slot.content.clone(),
            root_len: ROOT_LEN,
            verity_len: VERITY_LEN,
        };
        Ok(DiskView {
            booted: world.booted,
            booted_version: world.booted_version.clone(),
            booted_root_hash: world.booted_hash,
            a: on_disk(&world.slots[0]),
            b: Some(on_disk(&world.slots[1])),
        })
    }

    fn write(&self, slot: Slot, part: Part, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.barrier.pass();
        let mut world = self.world();
        assert_ne!(slot, world.booted, "the booted slot is written");
        world.operation("write")?;
        let offset = usize::try_from(offset).unwrap();
        let mut bytes = bytes.to_vec();
        if let Some(bad) = world.bad_sector
            && part == Part::Root
            && (offset..offset + bytes.len()).contains(&bad)
        {
            bytes[bad - offset] ^= 1;
        }
        world.cached.push(Write {
            slot,
            part,
            offset,
            bytes,
        });
        Ok(())
    }

    fn flush(&self, slot: Slot, part: Part) -> io::Result<()> {
        let mut world = self.world();
        world.operation("flush")?;
        let (flushed, kept) = std::mem::take(&mut world.cached)
            .into_iter()
            .partition(|write: &Write| write.slot == slot && write.part == part);
        world.cached = kept;
        let flushed: Vec<Write> = flushed;
        flushed.iter().for_each(|write| world.apply(write));
        Ok(())
    }

    fn read_medium(
        &self,
        slot: Slot,
        part: Part,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        if let Some((held, barrier)) = &self.read_barrier
            && *held == part
            && slot != self.world().booted
        {
            barrier.pass();
        }
        let mut world = self.world();
        world.operation("read-medium")?;
        let offset = usize::try_from(offset).unwrap();
        let part = world.slots[index(slot)].part(part);
        buffer.copy_from_slice(&part[offset..offset + buffer.len()]);
        Ok(())
    }

    fn relabel(&self, slot: Slot, held: Option<(&Version, &RootHash)>) -> io::Result<()> {
        let mut world = self.world();
        assert_ne!(slot, world.booted, "the booted slot is relabelled");
        world.operation("relabel")?;
        world.slots[index(slot)].content = match held {
            Some((version, root_hash)) => SlotContent::Holds {
                version: version.clone(),
                root_hash: *root_hash,
            },
            None => SlotContent::Empty,
        };
        Ok(())
    }

    fn mend(&self, slot: Slot, proven: &Proven) -> io::Result<()> {
        let mut world = self.world();
        let held = match &world.slots[index(slot)].content {
            _ if slot == world.booted => Some(world.booted_hash),
            SlotContent::Holds { root_hash, .. } => Some(*root_hash),
            SlotContent::Empty | SlotContent::Unknown { .. } => None,
        };
        assert_eq!(Some(*proven.root_hash()), held);
        world.operation("mend")?;
        let offset = usize::try_from(proven.offset()).unwrap();
        let end = offset + proven.bytes().len();
        let slot = &mut world.slots[index(slot)];
        let part = match proven.part() {
            Part::Root => &mut slot.root,
            Part::Verity => &mut slot.verity,
        };
        part[offset..end].copy_from_slice(proven.bytes());
        Ok(())
    }
}

impl FakeNode {
    /// Puts an image into the spare slot, under another version.
    pub(crate) fn hold_in_spare(&self, image: &Image, version: &str) {
        let mut world = self.world();
        let spare = world.booted.other();
        let slot = &mut world.slots[index(spare)];
        slot.root[..image.root.len()].copy_from_slice(&image.root);
        slot.verity[..image.verity.len()].copy_from_slice(&image.verity);
        slot.content = SlotContent::Holds {
            version: Version::parse(version).unwrap(),
            root_hash: image.root_hash,
        };
        let entry = BootEntry::good(Version::parse(version).unwrap());
        world.esp.add(&entry.file_name(), image.uki.clone());
    }

    /// Changes a byte of a slot's root image, as time does.
    pub(crate) fn rot(&self, slot: Slot, offset: usize) {
        self.rot_part(slot, Part::Root, offset);
    }

    pub(crate) fn rot_part(&self, slot: Slot, part: Part, offset: usize) {
        self.world().slots[index(slot)].part(part)[offset] ^= 1;
    }
}

impl FakeNode {
    /// Changes a byte of a kernel image, as time does.
    pub(crate) fn rot_kernel(&self, entry: &str, offset: usize) {
        let rotten = self.kernel(entry)[offset] ^ 1;
        self.world().esp.put(entry, offset, &[rotten]);
    }

    /// Puts another kernel image in the place of one.
    pub(crate) fn put_kernel(&self, entry: &str, content: Vec<u8>) {
        self.world().esp.add(entry, content);
    }

    /// Returns a kernel image as it is on the medium.
    pub(crate) fn kernel(&self, entry: &str) -> Vec<u8> {
        let world = self.world();
        let mut entries = world.esp.entries();
        let found = entries.find(|(name, _)| *name == entry);
        found.and_then(|(_, content)| content).unwrap().to_vec()
    }
}

impl Pace for FakeNode {
    fn step(&self, _bytes: u64, stop: &Stop) -> Result<(), Stopped> {
        stop.checkpoint()
    }

    fn stand(&self, _place: DiskQueue) -> io::Result<()> {
        Ok(())
    }
}

impl BootControl for FakeNode {
    fn entries(&self) -> io::Result<Vec<BootEntry>> {
        let mut world = self.world();
        world.operation("entries")?;
        let entries = world.esp.entries();
        Ok(entries
            .map(|(name, _)| BootEntry::parse_file_name(name).unwrap())
            .collect())
    }

    fn mend_names(&self) -> io::Result<()> {
        let mut world = self.world();
        world.operation("mend-names")?;
        world.esp.mend();
        Ok(())
    }

    fn remove(&self, entry: &BootEntry) -> io::Result<()> {
        let mut world = self.world();
        world.operation("remove-entry")?;
        world.esp.mend();
        // It is an entry no more before any of its clusters is free.
        let name = entry.file_name();
        world.esp.unlink(REMOVED_NAME);
        if world.esp.has(&name) {
            world.esp.begin_rename(&name, REMOVED_NAME);
            world.esp.forget(&name);
        }
        world.operation("end-remove")?;
        world.esp.unlink(REMOVED_NAME);
        Ok(())
    }

    fn remove_others(&self, _booted: &Version, _root_hash: &RootHash) -> io::Result<()> {
        self.world().operation("remove-others")
    }

    fn leftover(&self) -> io::Result<Leftover> {
        let mut world = self.world();
        world.operation("entries")?;
        Ok(world.esp.leftover())
    }

    fn remove_temporary(&self) -> io::Result<()> {
        let mut world = self.world();
        world.operation("remove-temporary")?;
        world.esp.mend();
        world.esp.remove_temporaries();
        Ok(())
    }

    fn room(&self) -> io::Result<u64> {
        let mut world = self.world();
        world.operation("room")?;
        Ok(world.esp_room)
    }

    fn begin_temporary(&self, _size: u64) -> io::Result<()> {
        let mut world = self.world();
        world.operation("begin-temporary")?;
        world.esp.mend();
        world.esp.remove_temporaries();
        world.esp.create(TEMPORARY_NAME);
        Ok(())
    }

    fn write_temporary(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.world();
        world.operation("write-temporary")?;
        let offset = usize::try_from(offset).unwrap();
        world.esp.write_temporary(offset, bytes);
        Ok(())
    }

    fn flush_temporary(&self) -> io::Result<()> {
        let mut world = self.world();
        world.operation("flush-temporary")?;
        world.esp.flush_temporary();
        Ok(())
    }

    fn read_temporary(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut world = self.world();
        world.operation("read-temporary")?;
        let offset = usize::try_from(offset).unwrap();
        world.esp.read_temporary(offset, buffer);
        Ok(())
    }

    fn read_entry(&self, entry: &BootEntry, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut world = self.world();
        world.operation("read-entry")?;
        let mut entries = world.esp.entries();
        let found =
            entries.find(|(name, _)| BootEntry::parse_file_name(name).as_ref() == Ok(entry));
        let Some((_, Some(content))) = found else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let offset = usize::try_from(offset).unwrap().min(content.len());
        let count = buffer.len().min(content.len() - offset);
        buffer[..count].copy_from_slice(&content[offset..offset + count]);
        Ok(count)
    }

    fn mend_entry(&self, entry: &BootEntry, sound: &KernelBlocks) -> io::Result<()> {
        let mut world = self.world();
        for (offset, bytes) in sound.iter() {
            world.operation("mend-entry")?;
            let offset = usize::try_from(offset).unwrap();
            world.esp.put(&entry.file_name(), offset, bytes);
        }
        Ok(())
    }

    fn publish_temporary(&self, entry: &BootEntry) -> io::Result<()> {
        self.world().rename(TEMPORARY_NAME, &entry.file_name())
    }

    fn rename(&self, from: &BootEntry, to: &BootEntry) -> io::Result<()> {
        self.world().rename(&from.file_name(), &to.file_name())
    }

    fn has_variables(&self) -> bool {
        self.world().has_variables
    }

    fn set_one_shot(&self, entry: &BootEntry) -> io::Result<()> {
        let mut world = self.world();
        world.operation("set-one-shot")?;
        world.one_shot = Some(entry.file_name());
        Ok(())
    }

    fn clear_one_shot(&self) -> io::Result<()> {
        let mut world = self.world();
        world.operation("clear-one-shot")?;
        world.one_shot = None;
        Ok(())
    }

    fn release(&self) {}
}

impl Records for FakeNode {
    fn read(&self, record: Record) -> io::Result<Option<Vec<u8>>> {
        let mut world = self.world();
        world.operation("read-record")?;
        if world.refuses.contains(&record_name(record)) {
            return Err(io::Error::other("the disk does not give it back"));
        }
        Ok(world.records.get(record_name(record)).cloned())
    }

    fn replace(&self, record: Record, content: &[u8]) -> io::Result<()> {
        let mut world = self.world();
        world.operation("write-record")?;
        if world.records_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        world.records.insert(record_name(record), content.to_vec());
        Ok(())
    }

    fn remove(&self, record: Record) -> io::Result<()> {
        self.record_barrier.pass();
        let mut world = self.world();
        world.operation("remove-record")?;
        world.records.remove(record_name(record));
        Ok(())
    }

    fn mark_settled(&self) -> io::Result<()> {
        let mut world = self.world();
        world.operation("mark-settled")?;
        world.settled = true;
        Ok(())
    }

    fn is_settled(&self) -> io::Result<bool> {
        Ok(self.world().settled)
    }

    fn boot_id(&self) -> io::Result<String> {
        let world = self.world();
        match world.dead {
            true => Err(io::Error::other("no power")),
            false => Ok(format!("boot-{}", world.boot)),
        }
    }

    fn dumps(&self) -> Vec<DumpFile> {
        self.world().dumps.clone()
    }
}

impl KeptPieces for FakeNode {
    fn replay(&self, blob: &Digest, sink: &mut dyn FnMut(u64, &[u8]) -> Verdict) -> io::Result<()> {
        let mut world = self.world();
        world.operation("replay-pieces")?;
        let kept = world.pieces.clone().filter(|(of, _)| of == blob);
        // The sink works on this node too.
        drop(world);
        let pieces = kept.into_iter().flat_map(|(_, pieces)| pieces);
        for (offset, bytes) in pieces {
            if sink(offset, &bytes) == Verdict::Stop {
                break;
            }
        }
        Ok(())
    }

    fn keep(&self, blob: &Digest, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.world();
        world.operation("keep-piece")?;
        if world.records_full {
            world.pieces = None;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let kept = world.pieces.take().filter(|(of, _)| of == blob);
        let (of, mut pieces) = kept.unwrap_or((*blob, vec![]));
        pieces.push((offset, bytes.to_vec()));
        world.pieces = Some((of, pieces));
        Ok(())
    }

    fn forget_pieces(&self) -> io::Result<()> {
        let mut world = self.world();
        world.operation("forget-pieces")?;
        world.pieces = None;
        Ok(())
    }
}

impl Console for FakeNode {
    fn say(&self, line: &str) -> io::Result<()> {
        let mut world = self.world();
        world.operation("say")?;
        world.said.push(line.to_owned());
        Ok(())
    }
}

impl Power for FakeNode {
    fn reboot(&self, restart: Restart) -> io::Result<()> {
        let mut world = self.world();
        world.operation("reboot")?;
        world.reboots.push(restart);
        Ok(())
    }
}

/// A clock that stands still.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FakeClock;

impl Clock for FakeClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn since_boot(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// The clock of a machine that has been up for so long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpFor(pub(crate) Duration);

impl Clock for UpFor {
    fn now(&self) -> jiff::Timestamp {
        FakeClock.now()
    }

    fn since_boot(&self) -> Duration {
        self.0
    }
}

/// A clock that is set by hand.
#[derive(Debug, Clone)]
pub(crate) struct HandClock(Arc<Mutex<jiff::Timestamp>>);

impl HandClock {
    pub(crate) fn at(time: &str) -> Self {
        Self(Arc::new(Mutex::new(time.parse().unwrap())))
    }

    pub(crate) fn set(&self, time: &str) {
        *self.0.lock().unwrap() = time.parse().unwrap();
    }
}

impl Clock for HandClock {
    fn now(&self) -> jiff::Timestamp {
        *self.0.lock().unwrap()
    }

    fn since_boot(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// A clock that goes on and back by so many years at most between any two looks; time
/// itself goes on.
#[derive(Debug, Clone)]
pub(crate) struct JumpingClock {
    base: jiff::Timestamp,
    years: i64,
    looks: Arc<Mutex<i64>>,
}

impl JumpingClock {
    pub(crate) fn around(time: &str, years: i64) -> Self {
        Self {
            base: time.parse().unwrap(),
            years,
            looks: Arc::default(),
        }
    }

    pub(crate) fn looks(&self) -> i64 {
        *self.looks.lock().unwrap()
    }

    fn look(&self) -> i64 {
        let mut looks = self.looks.lock().unwrap();
        *looks += 1;
        *looks
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> jiff::Timestamp {
        let look = self.look();
        // Each of them is met, in no order.
        let years = look * 37 % (self.years + 1) - self.years / 2;
        let jump = jiff::SignedDuration::from_hours(years * 8766);
        self.base + jump + jiff::SignedDuration::from_micros(look)
    }

    fn since_boot(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.look()).unwrap())
    }
}
