//! The disk of a node: which partition is what.

use uuid::Uuid;

use crate::architecture::{Architecture, ESP_TYPE, Role, VAR_TYPE};
use crate::device::{Device, SectorSize};
use crate::health::TableHealth;
use crate::slot::{Slot, SlotPartitions};
use crate::survey::{ReadTableError, Survey};
use crate::table::{Partition, Table};

/// The label of the partition that holds `/var`.
pub const VAR_LABEL: &str = "bistable-var";

/// The partitions of a node's disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiskLayout {
    /// The architecture whose types the slots' partitions have.
    pub architecture: Architecture,
    /// The sector size that the table counts in.
    pub sector_size: SectorSize,
    /// The UUID of the disk.
    pub disk_guid: Uuid,
    /// The EFI system partition.
    pub esp: Partition,
    /// The first slot.
    pub slot_a: SlotPartitions,
    /// The second slot, which a disk image is shipped without.
    pub slot_b: Option<SlotPartitions>,
    /// The partition that holds `/var`, which a disk image is shipped without.
    pub var: Option<Partition>,
    /// Partitions that are none of ours, in table order.
    pub foreign: Vec<Partition>,
}

/// Why a disk is not taken for one of a node.
#[derive(Debug, thiserror::Error)]
pub enum ReadLayoutError {
    /// It has no partition table that can be read.
    #[error("cannot read the partition table")]
    Table {
        /// Why not.
        #[from]
        source: ReadTableError,
    },
    /// It has no EFI system partition.
    #[error("this is no Bistable disk: it has no EFI system partition")]
    NoEsp,
    /// It has no root partition of an architecture that a node can have.
    #[error("this is no Bistable disk: it has no root partition")]
    NoSlot,
    /// It has root partitions of several architectures.
    #[error("this is no Bistable disk: it has root partitions of several architectures")]
    SeveralArchitectures,
    /// The partitions of the slots do not make one or two triples.
    #[error(
        "this is no Bistable disk: it has {root} root, {verity} verity and {verity_sig} verity-sig partitions, one or two of each are wanted"
    )]
    IncompleteSlot {
        /// The number of root partitions.
        root: usize,
        /// The number of verity partitions.
        verity: usize,
        /// The number of verity-sig partitions.
        verity_sig: usize,
    },
    /// A partition of ours shares sectors with another, or with the table.
    #[error("partition {number} overlaps another partition or the partition table")]
    Overlap {
        /// The number of the partition.
        number: u32,
    },
}

impl DiskLayout {
    /// Reads the layout of `device`, and the state of its partition table.
    ///
    /// A damaged table is read as the kernel reads it (see [`Table::read`]), and
    /// the damage told in the health.
    ///
    /// # Errors
    /// When the disk has no whole table, or is not one of ours.
    pub fn read(device: &impl Device) -> Result<(Self, TableHealth), ReadLayoutError> {
        let survey = Survey::take(device)?;
        let (table, health) = survey.into_table();
        Ok((Self::of_table(&table)?, health))
    }

    /// Finds the partitions of a node in `table`.
    ///
    /// # Errors
    /// When the table is not of one of our disks.
    pub fn of_table(table: &Table) -> Result<Self, ReadLayoutError> {
        let architecture = architecture_of(table)?;
        let has_type = |wanted: Uuid| {
            table
                .partitions
                .iter()
                .filter(move |p| p.type_guid == wanted)
        };
        let esp = has_type(ESP_TYPE)
            .next()
            .ok_or(ReadLayoutError::NoEsp)?
            .clone();
        let [roots, verities, signatures] = Role::ALL.map(|role| {
            has_type(architecture.partition_type(role))
                .cloned()
                .collect::<Vec<_>>()
        });
        let count = (roots.len(), verities.len(), signatures.len());
        if !matches!(count, (1, 1, 1) | (2, 2, 2)) {
            let (root, verity, verity_sig) = count;
            return Err(ReadLayoutError::IncompleteSlot {
                root,
                verity,
                verity_sig,
            });
        }
        let triples = roots.into_iter().zip(verities).zip(signatures);
        let mut slots = triples.map(|((root, verity), verity_sig)| SlotPartitions {
            root,
            verity,
            verity_sig,
        });
        let slot_a = slots.next().ok_or(ReadLayoutError::NoSlot)?;
        let mut layout = Self {
            architecture,
            sector_size: table.sector_size,
            disk_guid: table.disk_guid,
            esp,
            slot_a,
            slot_b: slots.next(),
            var: has_type(VAR_TYPE).find(|p| p.label == VAR_LABEL).cloned(),
            foreign: Vec::new(),
        };
        let is_ours = |number| layout.ours().iter().any(|p| p.number == number);
        layout.foreign = table
            .partitions
            .iter()
            .filter(|p| !is_ours(p.number))
            .cloned()
            .collect();
        layout.check_overlaps(table)?;
        Ok(layout)
    }

    /// Returns the partitions of `slot`, if the disk has them.
    pub fn slot(&self, slot: Slot) -> Option<&SlotPartitions> {
        match slot {
            Slot::A => Some(&self.slot_a),
            Slot::B => self.slot_b.as_ref(),
        }
    }

    /// Returns the slots that the disk has.
    pub fn slots(&self) -> impl Iterator<Item = (Slot, &SlotPartitions)> {
        Slot::ALL
            .into_iter()
            .filter_map(|slot| Some((slot, self.slot(slot)?)))
    }

    fn ours(&self) -> Vec<&Partition> {
        let of_slots = self
            .slots()
            .flat_map(|(_, slot)| Role::ALL.map(|role| slot.partition(role)));
        std::iter::once(&self.esp)
            .chain(of_slots)
            .chain(&self.var)
            .collect()
    }

    /// Sectors that two partitions share would be written through one and trusted through the other.
    fn check_overlaps(&self, table: &Table) -> Result<(), ReadLayoutError> {
        for own in self.ours() {
            let number = own.number;
            let leaves = own.start < table.usable.start || own.range().end > table.usable.end;
            let shares = |other: &Partition| other.number != number && other.overlaps(own);
            if leaves || table.partitions.iter().any(shares) {
                return Err(ReadLayoutError::Overlap { number });
            }
        }
        Ok(())
    }
}

fn architecture_of(table: &Table) -> Result<Architecture, ReadLayoutError> {
    let has_root = |architecture: &Architecture| {
        let root = architecture.partition_type(Role::Root);
        table.partitions.iter().any(|p| p.type_guid == root)
    };
    let mut found = Architecture::ALL.into_iter().filter(has_root);
    let architecture = found.next().ok_or(ReadLayoutError::NoSlot)?;
    match found.next() {
        Some(_) => Err(ReadLayoutError::SeveralArchitectures),
        None => Ok(architecture),
    }
}
