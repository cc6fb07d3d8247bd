//! The disks of the machine, and what is on them.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use partition_layout::{DiskLayout, RootHash, Slot};

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
    /// The device of the disk's EFI system partition. Nothing is booted from it any more, so
    /// that it is not there keeps no slot from being found.
    pub esp: Option<PathBuf>,
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

/// Why a disk was passed over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassedOver {
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
    pub(crate) fn disks(&self) -> io::Result<Vec<String>> {
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

    pub(crate) fn slots_on(
        &self,
        disk: &str,
        root_hash: &RootHash,
    ) -> Result<Vec<FoundSlot>, PassedOver> {
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
                let esp = self.partition(disk, layout.esp.number).ok();
                found.push(FoundSlot {
                    slot,
                    root,
                    verity,
                    esp,
                });
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
