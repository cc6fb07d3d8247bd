use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use partition_layout::{
    DiskLayout, Partition, RootHash, Slot, SlotContent, SlotLabel, SlotPartitions, Version, relabel,
};

use super::Paths;
use super::aligned::Direct;
use super::queue::{Place, Queued};
use super::sysfs::{PartitionPath, RootDevice};
use super::write_behind::WriteBehind;
use crate::pace::Company;
use crate::ports::{DiskView, Part, SlotOnDisk};
use crate::scrub::proven::Proven;

/// The disk that the running root stands on.
#[derive(Debug)]
pub(super) struct Disk {
    device: RootDevice,
    partitions: PartitionPath,
    paths: Paths,
    open: Mutex<PartsAtWork>,
    place: Place,
    spare: Use,
}

/// Each behind a lock of its own: while one is written, others are read.
type PartsAtWork = HashMap<(Slot, Part), Arc<Mutex<Opened>>>;

/// A partition that is at work.
#[derive(Debug)]
enum Opened {
    /// The booted slot's, or of a disk that is only read.
    ToRead(Arc<Queued>),
    /// The spare slot's, held exclusively, and what writes it, if anything is written.
    ToWrite(Arc<Queued>, Option<WriteBehind>),
}

/// What is done with the spare slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Nobody else may have it.
    Writing,
    Reading,
}

impl Disk {
    /// Works beside `company`, if there is any.
    pub(super) fn new(device: RootDevice, paths: Paths, company: Company) -> Self {
        let partitions = device.partition_path(&paths);
        Self {
            device,
            partitions,
            paths,
            open: Mutex::new(HashMap::new()),
            place: Place::beside(company),
            spare: Use::Writing,
        }
    }

    /// Leaves the spare slot to who writes it.
    pub(super) fn only_reading(self) -> Self {
        let spare = Use::Reading;
        Self { spare, ..self }
    }

    fn layout(&self) -> io::Result<DiskLayout> {
        let disk = File::open(self.device.disk_path(&self.paths))?;
        let (layout, health) = DiskLayout::read(&disk).map_err(io::Error::other)?;
        tracing::trace!(?health, "partition table");
        Ok(layout)
    }

    /// Returns the device node of the EFI system partition.
    pub(super) fn esp_path(&self) -> io::Result<PathBuf> {
        self.path_of(&self.layout()?.esp)
    }

    pub(super) fn view(&self) -> io::Result<DiskView> {
        let layout = self.layout()?;
        let on_disk = |slot: &SlotPartitions| SlotOnDisk {
            content: slot.content(),
            root_len: slot.root.len,
            verity_len: slot.verity.len,
        };
        Ok(DiskView {
            booted: self.booted(&layout)?,
            booted_version: self.booted_version()?,
            booted_root_hash: self.booted_root_hash()?,
            a: on_disk(&layout.slot_a),
            b: layout.slot_b.as_ref().map(on_disk),
        })
    }

    /// The slot whose partitions dm-verity holds.
    fn booted(&self, layout: &DiskLayout) -> io::Result<Slot> {
        let stands_on = |slot: &SlotPartitions| {
            let own = [slot.root.number, slot.verity.number];
            self.device
                .partitions
                .iter()
                .all(|number| own.contains(number))
        };
        if stands_on(&layout.slot_a) {
            Ok(Slot::A)
        } else if layout.slot_b.as_ref().is_some_and(stands_on) {
            Ok(Slot::B)
        } else {
            let message = format!(
                "the root file system stands on partitions {:?}, which are no slot",
                self.device.partitions
            );
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
    }

    fn booted_version(&self) -> io::Result<Version> {
        let text = std::fs::read_to_string(&self.paths.os_release)?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix("IMAGE_VERSION="));
        let value = value.unwrap_or_default().trim_matches(['"', '\'']);
        Version::parse(value).map_err(|error| {
            let path = self.paths.os_release.display();
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("IMAGE_VERSION in {path}: {error}"),
            )
        })
    }

    /// PID 1 set dm-verity up with the root hash of the command line, or did not
    /// get here.
    fn booted_root_hash(&self) -> io::Result<RootHash> {
        let text = std::fs::read_to_string(&self.paths.kernel_command_line)?;
        let value = text
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix("roothash="));
        RootHash::parse(value.unwrap_or_default()).map_err(|error| {
            let message = format!("roothash= on the kernel's command line: {error}");
            io::Error::new(io::ErrorKind::InvalidData, message)
        })
    }

    pub(super) fn write(
        &self,
        slot: Slot,
        part: Part,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.opened(slot, part, |opened| match opened {
            Opened::ToRead(_) => Err(must_not_be_touched(slot)),
            Opened::ToWrite(_, Some(writer)) => writer.write(offset, bytes),
            Opened::ToWrite(device, none @ None) => {
                let writer = WriteBehind::start(Arc::clone(device))?;
                none.insert(writer).write(offset, bytes)
            }
        })
    }

    pub(super) fn flush(&self, slot: Slot, part: Part) -> io::Result<()> {
        self.opened(slot, part, |opened| match opened {
            Opened::ToRead(_) => Err(must_not_be_touched(slot)),
            Opened::ToWrite(_, Some(writer)) => writer.sync(),
            Opened::ToWrite(device, None) => device.sync(),
        })
    }

    /// Several may read at the same time.
    pub(super) fn read_medium(
        &self,
        slot: Slot,
        part: Part,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        let device = self.opened(slot, part, |opened| {
            if let Opened::ToWrite(_, Some(writer)) = opened {
                writer.drain()?;
            }
            let (Opened::ToRead(device) | Opened::ToWrite(device, _)) = opened;
            Ok(Arc::clone(device))
        })?;
        device.read(offset, buffer)
    }

    /// Of the booted slot the device-mapper holds the partition and asks it for a block whenever somebody
    /// reads one, past the partition's own page cache, which nobody fills; of a block that it refused, the
    /// file system above keeps nothing. So the next reader gets what is written here, or, after a power cut
    /// in the middle of it, a block that is rotten as before. Nothing but the bytes that the tree proves can
    /// be written, so that whoever reads meanwhile gets them or is refused, too; and so does, in the spare
    /// slot, who reads it in the background.
    pub(super) fn mend(&self, slot: Slot, proven: &Proven) -> io::Result<()> {
        let layout = self.layout()?;
        let partitions = layout.slot(slot).ok_or_else(|| refused(slot))?;
        let held = match partitions.content() {
            // Not what its labels say.
            _ if self.booted(&layout)? == slot => Some(self.booted_root_hash()?),
            SlotContent::Holds { root_hash, .. } => Some(root_hash),
            SlotContent::Empty | SlotContent::Unknown { .. } => None,
        };
        if held != Some(*proven.root_hash()) {
            return Err(refused(slot));
        }
        let partition = match proven.part() {
            Part::Root => &partitions.root,
            Part::Verity => &partitions.verity,
        };
        let device = Direct::open_beside(&self.path_of(partition)?)?;
        device.write(proven.offset(), proven.bytes())?;
        device.sync()
    }

    pub(super) fn relabel(
        &self,
        slot: Slot,
        held: Option<(&Version, &RootHash)>,
    ) -> io::Result<()> {
        self.refuse_booted(slot, &self.layout()?)?;
        let label = match held {
            Some((version, root_hash)) => SlotLabel::Holds { version, root_hash },
            None => SlotLabel::Empty,
        };
        let path = self.device.disk_path(&self.paths);
        let mut disk = OpenOptions::new().read(true).write(true).open(path)?;
        relabel(&mut disk, slot, &label).map_err(io::Error::other)
    }

    /// Lets go of the partitions.
    pub(super) fn release(&self) {
        self.open().clear();
    }

    fn open(&self) -> MutexGuard<'_, PartsAtWork> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened<T>(
        &self,
        slot: Slot,
        part: Part,
        act: impl FnOnce(&mut Opened) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut open = self.open();
        let opened = match open.get(&(slot, part)) {
            Some(opened) => Arc::clone(opened),
            None => {
                let opened = Arc::new(Mutex::new(self.open_partition(slot, part)?));
                open.insert((slot, part), Arc::clone(&opened));
                opened
            }
        };
        drop(open);
        let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut opened)
    }

    fn open_partition(&self, slot: Slot, part: Part) -> io::Result<Opened> {
        let layout = self.layout()?;
        let path = self.partition(&layout, slot, part)?;
        let queued = |device| Arc::new(Queued::new(device, self.place.clone()));
        Ok(
            if self.spare == Use::Reading || self.booted(&layout)? == slot {
                // Who holds it is the device-mapper, or who writes it; reading beside that does no harm.
                Opened::ToRead(queued(Direct::open_to_read(&path)?))
            } else {
                Opened::ToWrite(queued(Direct::open_exclusively(&path)?), None)
            },
        )
    }

    fn partition(&self, layout: &DiskLayout, slot: Slot, part: Part) -> io::Result<PathBuf> {
        let Some(partitions) = layout.slot(slot) else {
            let message = format!("the disk has no slot {slot}");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        };
        let wanted = match part {
            Part::Root => &partitions.root,
            Part::Verity => &partitions.verity,
        };
        self.path_of(wanted)
    }

    fn path_of(&self, wanted: &Partition) -> io::Result<PathBuf> {
        let found = self.partitions.find(wanted.number)?;
        if (found.start, found.len) != (wanted.start, wanted.len) {
            let message = format!(
                "partition {} lies elsewhere for the kernel than in the table on the disk",
                wanted.number
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(found.path)
    }

    fn refuse_booted(&self, slot: Slot, layout: &DiskLayout) -> io::Result<()> {
        if self.booted(layout)? == slot {
            return Err(must_not_be_touched(slot));
        }
        Ok(())
    }
}

fn must_not_be_touched(slot: Slot) -> io::Error {
    let message = format!("slot {slot} is booted and must not be touched");
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}

fn refused(slot: Slot) -> io::Error {
    let message = format!("slot {slot} does not hold the image that the block is of");
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}
