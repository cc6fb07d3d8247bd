//! Finds the two partitions of the image that the root hash names.
//!
//! Their partition UUIDs are the two halves of the root hash, so they are read
//! from the partition tables themselves: the kernel of Debian 13 does not tell
//! partition UUIDs in `/sys`, and udev's links do not exist yet. A disk is never
//! known by its name, since clouds attach the same one as SCSI here and as NVMe there.
//!
//! The UUIDs only say where to look. What is found there is proved by dm-verity.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use partition_layout::{DiskLayout, RootHash, Slot};

use crate::report::Chain;
use crate::uevents::{Changes, Woken};

/// Where the kernel shows its block devices.
#[derive(Debug, Clone)]
pub struct BlockDevices {
    /// `/sys/class/block`
    pub sys: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
}

/// The two partitions of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSlot {
    pub slot: Slot,
    /// The device of the root partition.
    pub root: PathBuf,
    /// The device of the partition with its hash tree.
    pub verity: PathBuf,
}

impl fmt::Display for FoundSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "slot {} ({} and {})",
            self.slot,
            self.root.display(),
            self.verity.display()
        )
    }
}

/// The slot to boot, and others that hold the same image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub slot: FoundSlot,
    pub also: Vec<FoundSlot>,
}

/// Why no slot was found.
#[derive(Debug, thiserror::Error)]
pub enum FindSlotError {
    #[error("cannot list the block devices")]
    List { source: io::Error },
    #[error("cannot wait for block devices")]
    Wait { source: io::Error },
    #[error("no disk has partitions for it; seen: {seen}")]
    NotFound { seen: Seen },
}

/// The disks that were looked at, and what came of each.
#[derive(Debug, Default)]
pub struct Seen(Vec<(String, String)>);

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "no disk at all");
        }
        for (index, (disk, outcome)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{disk} ({outcome})")?;
        }
        Ok(())
    }
}

/// Waits until a disk holds the image `root_hash`, at most for `patience`.
pub fn find_slot(
    devices: &BlockDevices,
    root_hash: &RootHash,
    patience: Duration,
    changes: &mut impl Changes,
) -> Result<Found, FindSlotError> {
    let deadline = Instant::now() + patience;
    loop {
        // After the deadline, look once more: the last change may have been the one.
        let woken = look(devices, root_hash).map_err(|source| FindSlotError::List { source })?;
        let seen = match woken {
            Look::Found(found) => return Ok(found),
            Look::Nothing(seen) => seen,
        };
        match changes
            .wait(deadline)
            .map_err(|source| FindSlotError::Wait { source })?
        {
            Woken::ByChange => {}
            Woken::ByDeadline => return Err(FindSlotError::NotFound { seen }),
        }
    }
}

enum Look {
    Found(Found),
    Nothing(Seen),
}

fn look(devices: &BlockDevices, root_hash: &RootHash) -> io::Result<Look> {
    let mut found = Vec::new();
    let mut seen = Seen::default();
    for disk in devices.disks()? {
        let outcome = match devices.slots_on(&disk, root_hash) {
            Ok(slots) if slots.is_empty() => "holds other images".to_owned(),
            Ok(slots) => {
                found.extend(slots);
                continue;
            }
            Err(error) => Chain(&error).to_string(),
        };
        seen.0.push((disk, outcome));
    }
    let mut found = found.into_iter();
    Ok(match found.next() {
        Some(slot) => Look::Found(Found {
            slot,
            also: found.collect(),
        }),
        None => Look::Nothing(seen),
    })
}

/// Why a disk was passed over.
#[derive(Debug, thiserror::Error)]
enum PassedOver {
    #[error("cannot be opened")]
    Open { source: io::Error },
    #[error("is none of ours")]
    Layout {
        source: partition_layout::ReadLayoutError,
    },
    #[error("cannot find its partition {number} in sysfs")]
    Partition { number: u32, source: io::Error },
    #[error("its partition {number} is not there yet")]
    NotYet { number: u32 },
}

impl BlockDevices {
    /// Returns the devices of the running kernel.
    pub fn of_kernel() -> Self {
        Self {
            sys: "/sys/class/block".into(),
            dev: "/dev".into(),
        }
    }

    /// Returns the names of the disks that have a medium, in the order of their names.
    fn disks(&self) -> io::Result<Vec<String>> {
        let mut disks = Vec::new();
        for entry in fs::read_dir(&self.sys)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let is_partition = entry.path().join("partition").exists();
            if !is_partition && !is_virtual(&name) && has_medium(&entry.path()) {
                disks.push(name);
            }
        }
        disks.sort();
        Ok(disks)
    }

    fn slots_on(&self, disk: &str, root_hash: &RootHash) -> Result<Vec<FoundSlot>, PassedOver> {
        let device =
            File::open(self.dev.join(disk)).map_err(|source| PassedOver::Open { source })?;
        let (layout, _) =
            DiskLayout::read(&device).map_err(|source| PassedOver::Layout { source })?;
        let mut found = Vec::new();
        for slot in [Slot::A, Slot::B] {
            let Some(partitions) = layout.slot(slot) else {
                continue;
            };
            let is_the_image = partitions.root.uuid == root_hash.root_uuid()
                && partitions.verity.uuid == root_hash.verity_uuid();
            if is_the_image {
                let root = self.partition(disk, partitions.root.number)?;
                let verity = self.partition(disk, partitions.verity.number)?;
                found.push(FoundSlot { slot, root, verity });
            }
        }
        Ok(found)
    }

    /// Returns the device of partition `number` of `disk`. Its name is what the
    /// kernel says, as the rule for it differs between drivers (`vda1`, `nvme0n1p1`).
    fn partition(&self, disk: &str, number: u32) -> Result<PathBuf, PassedOver> {
        let wrap = |source| PassedOver::Partition { number, source };
        for entry in fs::read_dir(self.sys.join(disk)).map_err(wrap)? {
            let entry = entry.map_err(wrap)?;
            let Ok(text) = fs::read_to_string(entry.path().join("partition")) else {
                continue;
            };
            if text.trim().parse() == Ok(number) {
                return Ok(self.dev.join(entry.file_name()));
            }
        }
        Err(PassedOver::NotYet { number })
    }
}

/// Devices that no image of ours can stand on, and that would only fill the report.
fn is_virtual(name: &str) -> bool {
    ["dm-", "loop", "ram", "zram", "md", "nbd", "fd", "sr"]
        .iter()
        .any(|prefix| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
}

/// Card readers and the like show up with a size of 0.
fn has_medium(device: &Path) -> bool {
    fs::read_to_string(device.join("size")).is_ok_and(|size| size.trim() != "0")
}
