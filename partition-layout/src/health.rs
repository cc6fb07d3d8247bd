//! What is wrong with a partition table that can nevertheless be read.

use std::fmt;
use std::io;

use crate::device::SectorSize;
use crate::header::{CopyFault, REVISION};

/// One of the two copies of the partition table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TableCopy {
    /// The one at the start, which firmware and kernel prefer.
    Primary,
    /// The one at the end.
    Backup,
}

impl fmt::Display for TableCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        })
    }
}

/// The state of both copies of a partition table, and of what they say.
#[derive(Debug)]
pub struct TableHealth {
    /// The copy that the kernel uses, and that was read.
    pub in_use: TableCopy,
    /// The sector size the table counts in.
    pub sector_size: SectorSize,
    /// Everything that is wrong; empty on a sound disk.
    pub faults: Vec<TableFault>,
}

impl TableHealth {
    /// Tells whether nothing at all is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// Returns why `copy` is not whole, if it is not.
    pub fn copy_fault(&self, copy: TableCopy) -> Option<&CopyFault> {
        self.faults.iter().find_map(|fault| match fault {
            TableFault::Copy {
                copy: damaged,
                source,
            } if *damaged == copy => Some(source),
            TableFault::Copy { .. }
            | TableFault::Mbr { .. }
            | TableFault::Revision { .. }
            | TableFault::Disagree
            | TableFault::BackupMisplaced { .. }
            | TableFault::OffTheDisk { .. }
            | TableFault::OutsideUsable { .. }
            | TableFault::Overlap { .. }
            | TableFault::NilUuid { .. }
            | TableFault::SharedUuid { .. } => None,
        })
    }
}

/// Something wrong with a partition table.
#[derive(Debug, thiserror::Error)]
pub enum TableFault {
    /// A copy is not whole.
    #[error("the {copy} partition table is damaged")]
    Copy {
        /// The copy.
        copy: TableCopy,
        /// What is wrong with it.
        source: CopyFault,
    },
    /// The first sector does not announce the table.
    #[error("the protective MBR is wrong")]
    Mbr {
        /// What is wrong with it.
        source: MbrFault,
    },
    /// The table is of a revision that is not defined. Linux reads it, other tools do not.
    #[error("the partition table has revision {found:#010x}, only {REVISION:#010x} is defined")]
    Revision {
        /// The revision found.
        found: u32,
    },
    /// Both copies are whole and differ. The primary counts.
    #[error("the backup partition table says something else than the primary")]
    Disagree,
    /// The backup is not where it would be found when the primary is lost.
    #[error(
        "the backup partition table belongs in sector {end}, the end of the disk; the primary looks for it in sector {expected}"
    )]
    BackupMisplaced {
        /// The sector that the primary names.
        expected: u64,
        /// The last sector of the disk.
        end: u64,
    },
    /// An entry describes no sectors of this disk, so that it makes no partition.
    #[error("partition {number} does not lie on this disk")]
    OffTheDisk {
        /// The number of the partition.
        number: u32,
    },
    /// A partition takes sectors that belong to the table.
    #[error("partition {number} leaves the area for partitions")]
    OutsideUsable {
        /// The number of the partition.
        number: u32,
    },
    /// Two partitions share sectors.
    #[error("partitions {first} and {second} overlap")]
    Overlap {
        /// The number of one of them.
        first: u32,
        /// The number of the other.
        second: u32,
    },
    /// A partition has no UUID.
    #[error("partition {number} has no UUID")]
    NilUuid {
        /// The number of the partition.
        number: u32,
    },
    /// Two partitions that do not hold the same image have one UUID.
    #[error("partitions {first} and {second} have the same UUID")]
    SharedUuid {
        /// The number of one of them.
        first: u32,
        /// The number of the other.
        second: u32,
    },
}

/// What is wrong with the protective MBR.
///
/// Linux with `gpt` on its command line does not look at it; firmware does.
#[derive(Debug, thiserror::Error)]
pub enum MbrFault {
    /// The first sector cannot be read.
    #[error("it cannot be read")]
    Unreadable {
        /// What the medium said.
        source: io::Error,
    },
    /// Nothing there says that the disk has a GPT, nor anything else.
    #[error("it is missing")]
    Missing,
    /// It describes partitions of its own.
    #[error("it describes partitions of its own")]
    Foreign,
    /// It protects another number of sectors than the disk has.
    #[error("it protects {found} sectors instead of {wanted}")]
    Size {
        /// The number found.
        found: u32,
        /// The number for this disk.
        wanted: u32,
    },
}
