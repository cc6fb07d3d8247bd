//! A new disk: the partition table of a node on a blank device or image file.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use gpt::disk::LogicalBlockSize;
use gpt::partition_types::{OperatingSystem, Type};
use gpt::{GptConfig, GptError};
use uuid::{Uuid, uuid};

use crate::architecture::{Architecture, ESP_TYPE, Role, VAR_TYPE};
use crate::device::{Device, SectorSize};
use crate::header::Geometry;
use crate::layout::{DiskLayout, ReadLayoutError, VAR_LABEL};
use crate::mbr;
use crate::root_hash::RootHash;
use crate::slot::{Slot, SlotLabel};
use crate::stream::Stream;
use crate::survey::{ReadTableError, Survey};
use crate::version::Version;

/// The label of the EFI system partition.
pub const ESP_LABEL: &str = "esp";
/// What every partition starts on a multiple of; also what is left free at both ends.
pub const ALIGNMENT: u64 = 1 << 20;
/// What every size is a multiple of, so that both sector sizes and every file system fit.
const GRAIN: u64 = 4096;

/// Bit 60 of the Discoverable Partitions Specification: the content is not to be written to.
///
/// Set on all partitions of a slot.
pub const ATTRIBUTE_READ_ONLY: u64 = 1 << 60;
/// Bit 63: tools that look for partitions on their own are to pass over this one.
///
/// Set on what would stop systemd-dissect (252 and 257 alike) from reading the disk:
/// a partition for a signature with none in it, as all are yet; and slot B, since to
/// systemd's version order the label `_empty` is newer than that of any release, so
/// that it would look into the empty slot. PID 1 finds partitions by their UUIDs.
pub const ATTRIBUTE_NO_AUTO: u64 = 1 << 63;
/// Bit 59: the file system is to grow with its partition. Set on `/var`.
pub const ATTRIBUTE_GROW_FILE_SYSTEM: u64 = 1 << 59;

/// The sizes of a disk's partitions, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sizes {
    /// The EFI system partition.
    pub esp: u64,
    /// The root partition of each slot.
    pub root: u64,
    /// The verity partition of each slot.
    pub verity: u64,
    /// The verity-sig partition of each slot.
    pub verity_sig: u64,
}

/// Every system outgrew its slots and its ESP, so there is room to grow in from the first day.
impl Default for Sizes {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            esp: 512 * MIB,
            root: 2048 * MIB,
            verity: 32 * MIB,
            verity_sig: MIB,
        }
    }
}

/// The UUIDs that nothing on the disk decides.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DiskUuids {
    /// Of the disk.
    pub disk: Uuid,
    /// Of the EFI system partition.
    pub esp: Uuid,
    /// Of the partition that holds `/var`.
    pub var: Uuid,
}

/// The product's own: all disks made of one image have them alike, and nothing looks for them.
impl Default for DiskUuids {
    fn default() -> Self {
        Self {
            disk: uuid!("0b37159b-acdc-4760-8e92-ffb4d136481d"),
            esp: uuid!("450c3283-c8ac-41d4-bc21-6329bb1d4143"),
            var: uuid!("612e360c-c9a1-43e3-ad07-b0d67212db7d"),
        }
    }
}

/// Which partitions a new disk has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// The ESP and slot A; the rest is made on the first boot.
    Shipped,
    /// Also slot B, empty, and `/var` on all that is left.
    Full,
}

/// A disk to be made. The same plan makes the same bytes.
#[derive(Clone, Debug)]
pub struct DiskPlan {
    /// The architecture that decides the types of the slots' partitions.
    pub architecture: Architecture,
    /// The sector size to count in; a device that has its own must agree.
    pub sector_size: SectorSize,
    /// Which partitions there are.
    pub form: Form,
    /// Their sizes.
    pub sizes: Sizes,
    /// The UUIDs that no root hash decides.
    pub uuids: DiskUuids,
    /// The release in slot A, if there is one.
    pub slot_a: Option<(Version, RootHash)>,
}

/// Why a disk was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A size in the plan cannot be.
    #[error(
        "a partition of {bytes} bytes cannot be made: sizes are multiples of {GRAIN}, and not 0"
    )]
    Size {
        /// The size.
        bytes: u64,
    },
    /// The disk is smaller than the plan.
    #[error("the disk has {found} bytes, the plan needs {needed}")]
    TooSmall {
        /// What the plan needs, in bytes.
        needed: u64,
        /// What the disk has, in bytes.
        found: u64,
    },
    /// The device counts in other sectors.
    #[error("the plan is for sectors of {} bytes, the device has {}", planned.bytes(), found.bytes())]
    SectorSize {
        /// What the plan says.
        planned: SectorSize,
        /// What the device says.
        found: SectorSize,
    },
    /// The disk has a partition table, which is never overwritten.
    #[error("the disk already has a partition table")]
    NotBlank,
    /// The medium failed.
    #[error("cannot write the new partition table")]
    Device {
        /// What the medium said.
        #[from]
        source: io::Error,
    },
    /// The table could not be made.
    #[error("cannot make the partition table")]
    Table {
        /// Why not.
        #[from]
        source: GptError,
    },
    /// The disk does not read back as planned.
    #[error("the new partition table does not read back")]
    ReadBack {
        /// What is wrong with it.
        #[from]
        source: ReadLayoutError,
    },
}

impl DiskPlan {
    /// Returns a plan with the sizes and UUIDs of the product, and 512-byte sectors.
    pub fn new(architecture: Architecture, form: Form) -> Self {
        Self {
            architecture,
            sector_size: SectorSize::default(),
            form,
            sizes: Sizes::default(),
            uuids: DiskUuids::default(),
            slot_a: None,
        }
    }

    /// Returns the size in bytes of the smallest disk for this plan.
    pub fn smallest_disk(&self) -> u64 {
        let end = self
            .fixed()
            .last()
            .map_or(ALIGNMENT, |planned| planned.range.end);
        let var = match self.form {
            Form::Shipped => 0,
            Form::Full => ALIGNMENT,
        };
        align_up(end).saturating_add(var).saturating_add(ALIGNMENT)
    }

    fn check(&self) -> Result<(), CreateError> {
        let Sizes {
            esp,
            root,
            verity,
            verity_sig,
        } = self.sizes;
        let bad = |bytes: &u64| *bytes == 0 || !bytes.is_multiple_of(GRAIN);
        match [esp, root, verity, verity_sig].into_iter().find(bad) {
            Some(bytes) => Err(CreateError::Size { bytes }),
            None => Ok(()),
        }
    }

    /// Returns the partitions whose size does not depend on the disk's.
    fn fixed(&self) -> Vec<Planned> {
        let mut planned = vec![Planned {
            type_guid: ESP_TYPE,
            uuid: self.uuids.esp,
            label: ESP_LABEL.to_owned(),
            attributes: 0,
            range: ALIGNMENT..ALIGNMENT.saturating_add(self.sizes.esp),
        }];
        let slots: &[Slot] = match self.form {
            Form::Shipped => &[Slot::A],
            Form::Full => &[Slot::A, Slot::B],
        };
        for &slot in slots {
            let label = match &self.slot_a {
                Some((version, root_hash)) if slot == Slot::A => {
                    SlotLabel::Holds { version, root_hash }
                }
                Some(_) | None => SlotLabel::Empty,
            };
            for role in Role::ALL {
                let size = match role {
                    Role::Root => self.sizes.root,
                    Role::Verity => self.sizes.verity,
                    Role::VeritySig => self.sizes.verity_sig,
                };
                let start = align_up(planned.last().map_or(0, |before| before.range.end));
                planned.push(Planned {
                    type_guid: self.architecture.partition_type(role),
                    uuid: label.uuid(slot, role),
                    label: label.text(),
                    attributes: attributes(slot, role),
                    range: start..start.saturating_add(size),
                });
            }
        }
        planned
    }

    fn partitions(&self, disk: u64) -> Vec<Planned> {
        let mut planned = self.fixed();
        if self.form == Form::Full {
            let start = align_up(planned.last().map_or(0, |before| before.range.end));
            let end = disk.saturating_sub(ALIGNMENT) / ALIGNMENT * ALIGNMENT;
            planned.push(Planned {
                type_guid: VAR_TYPE,
                uuid: self.uuids.var,
                label: VAR_LABEL.to_owned(),
                attributes: ATTRIBUTE_GROW_FILE_SYSTEM,
                range: start..end,
            });
        }
        planned
    }
}

/// Writes the partition table of `plan` to a blank `device`. On return it has reached the disk.
///
/// # Errors
/// When the plan does not fit, the device has a partition table, or it fails. What
/// is on a device after a failure is not to be used.
pub fn create(device: &mut impl Device, plan: &DiskPlan) -> Result<DiskLayout, CreateError> {
    plan.check()?;
    let found = device.size()?;
    let needed = plan.smallest_disk();
    if found < needed {
        return Err(CreateError::TooSmall { needed, found });
    }
    let planned = plan.sector_size;
    if let Some(found) = device.sector_size()?.filter(|&found| found != planned) {
        return Err(CreateError::SectorSize { planned, found });
    }
    match Survey::take(device) {
        Ok(_) => return Err(CreateError::NotBlank),
        Err(ReadTableError::NoTable { .. } | ReadTableError::TooSmall { .. }) => {}
        Err(ReadTableError::Size { source }) => return Err(source.into()),
    }
    write_table(device, plan, found)?;
    let (layout, _) = DiskLayout::read(device)?;
    Ok(layout)
}

fn write_table(device: &mut impl Device, plan: &DiskPlan, size: u64) -> Result<(), CreateError> {
    let sector_size = plan.sector_size;
    let geometry = Geometry {
        sector_size,
        last_lba: size / sector_size.bytes() - 1,
    };
    let mut before = [0; 512];
    device.read_at(0, &mut before)?;
    device.write_at(0, &mbr::protective(&before, geometry))?;

    let block_size = match sector_size {
        SectorSize::B512 => LogicalBlockSize::Lb512,
        SectorSize::B4096 => LogicalBlockSize::Lb4096,
    };
    let config = GptConfig::new()
        .writable(true)
        .logical_block_size(block_size);
    let mut table = config.create_from_device(Stream::whole(device)?, Some(plan.uuids.disk))?;
    let partitions = plan.partitions(size);
    let partitions = (1..).zip(partitions.iter().map(|planned| planned.entry(sector_size)));
    table.update_partitions(partitions.collect::<BTreeMap<_, _>>())?;
    table.write_inplace()?;
    device.sync()?;
    Ok(())
}

struct Planned {
    type_guid: Uuid,
    uuid: Uuid,
    label: String,
    attributes: u64,
    range: Range<u64>,
}

impl Planned {
    fn entry(&self, sector_size: SectorSize) -> gpt::partition::Partition {
        gpt::partition::Partition {
            part_type_guid: Type {
                guid: self.type_guid,
                os: OperatingSystem::Linux,
            },
            part_guid: self.uuid,
            first_lba: self.range.start / sector_size.bytes(),
            last_lba: (self.range.end / sector_size.bytes()).saturating_sub(1),
            flags: self.attributes,
            name: self.label.clone(),
        }
    }
}

fn attributes(slot: Slot, role: Role) -> u64 {
    match (slot, role) {
        (Slot::A, Role::Root | Role::Verity) => ATTRIBUTE_READ_ONLY,
        (Slot::A, Role::VeritySig) | (Slot::B, _) => ATTRIBUTE_READ_ONLY | ATTRIBUTE_NO_AUTO,
    }
}

fn align_up(bytes: u64) -> u64 {
    bytes.div_ceil(ALIGNMENT).saturating_mul(ALIGNMENT)
}
