//! A look at both copies of the partition table: which are whole, which one counts.

use std::io;

use crate::device::{Device, SectorSize};
use crate::header::{CopyFault, Geometry, Header, REVISION};
use crate::health::{MbrFault, TableCopy, TableFault, TableHealth};
use crate::mbr;
use crate::table::Table;

const PRIMARY_LBA: u64 = 1;
/// One sector each for the protective MBR, a header, its entries and the backup header.
const FEWEST_SECTORS: u64 = 4;

/// Why a disk's partition table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadTableError {
    /// The disk does not say how large it is.
    #[error("cannot tell the size of the disk")]
    Size {
        /// What the device said.
        source: io::Error,
    },
    /// The disk has no room for a table.
    #[error("a disk of {bytes} bytes has no room for a partition table")]
    TooSmall {
        /// The size of the disk.
        bytes: u64,
    },
    /// Neither copy is whole.
    #[error(
        "the disk has no whole GPT partition table: as to the primary, {primary}; as to the backup, {backup}"
    )]
    NoTable {
        /// What is wrong with the primary.
        primary: CopyFault,
        /// What is wrong with the backup.
        backup: CopyFault,
    },
}

/// A copy that passed every check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct WholeCopy {
    pub(crate) header: Header,
    pub(crate) entries: Vec<u8>,
}

impl WholeCopy {
    fn read(device: &impl Device, geometry: Geometry, lba: u64) -> Result<Self, CopyFault> {
        let unreadable = |source| CopyFault::Unreadable { source };
        let bytes = usize::try_from(geometry.sector_size.bytes()).unwrap_or(usize::MAX);
        let header = Header::parse(
            read(device, geometry, lba, bytes).map_err(unreadable)?,
            lba,
            geometry,
        )?;
        let entries = read(
            device,
            geometry,
            header.place.entries_lba,
            header.array_bytes(),
        );
        let entries = entries.map_err(unreadable)?;
        header.check_entries(&entries)?;
        Ok(Self { header, entries })
    }

    fn agrees_with(&self, backup: &Self) -> bool {
        let (a, b) = (&self.header, &backup.header);
        a.disk_guid == b.disk_guid
            && a.place.first_usable == b.place.first_usable
            && a.place.last_usable == b.place.last_usable
            && b.place.other_lba == PRIMARY_LBA
            && self.entries == backup.entries
    }
}

fn read(device: &impl Device, geometry: Geometry, lba: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let offset = geometry.offset(lba).ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut buffer = vec![0; bytes];
    device.read_at(offset, &mut buffer)?;
    Ok(buffer)
}

/// Both copies, at least one of them whole.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) geometry: Geometry,
    pub(crate) mbr: Option<MbrFault>,
    pub(crate) copies: Copies,
}

/// The copies that were found, so that there is always one to go by.
#[derive(Debug)]
pub(crate) enum Copies {
    Both(WholeCopy, WholeCopy),
    Primary(WholeCopy, CopyFault),
    Backup(CopyFault, WholeCopy),
}

impl Survey {
    /// Reads both copies, looking for them where Linux does.
    pub(crate) fn take(device: &impl Device) -> Result<Self, ReadTableError> {
        let size_of = |source| ReadTableError::Size { source };
        let bytes = device.size().map_err(size_of)?;
        // An image file does not tell for which sector size it was made, but a
        // header stands in the second sector (or, torn, in the last) only for one.
        let candidates = match device.sector_size().map_err(size_of)? {
            Some(size) => vec![size],
            None => vec![SectorSize::B512, SectorSize::B4096],
        };
        let mut verdict = ReadTableError::TooSmall { bytes };
        for sector_size in candidates {
            let sectors = bytes / sector_size.bytes();
            if sectors < FEWEST_SECTORS {
                continue;
            }
            let last_lba = sectors - 1;
            let geometry = Geometry {
                sector_size,
                last_lba,
            };
            match Copies::read(device, geometry) {
                Ok(copies) => {
                    let mbr = mbr::check(device, geometry);
                    return Ok(Self {
                        geometry,
                        mbr,
                        copies,
                    });
                }
                // The first size is the likelier one: its faults are told.
                Err((primary, backup)) if matches!(verdict, ReadTableError::TooSmall { .. }) => {
                    verdict = ReadTableError::NoTable { primary, backup };
                }
                Err(_) => {}
            }
        }
        Err(verdict)
    }

    /// Returns the copy that counts.
    pub(crate) fn in_use(&self) -> &WholeCopy {
        match &self.copies {
            Copies::Both(copy, _) | Copies::Primary(copy, _) | Copies::Backup(_, copy) => copy,
        }
    }

    /// Returns where the primary looks for the backup when that is not the end of the disk.
    pub(crate) fn misplaced_backup(&self) -> Option<u64> {
        match &self.copies {
            Copies::Both(primary, _) | Copies::Primary(primary, _) => {
                let expected = primary.header.place.other_lba;
                (expected != self.geometry.last_lba).then_some(expected)
            }
            Copies::Backup(..) => None,
        }
    }

    /// Tells whether both copies are whole and say different things.
    pub(crate) fn copies_disagree(&self) -> bool {
        match &self.copies {
            Copies::Both(primary, backup) => !primary.agrees_with(backup),
            Copies::Primary(..) | Copies::Backup(..) => false,
        }
    }

    /// Returns the table in use, without a judgement on its health.
    pub(crate) fn table(&self) -> (Table, Vec<TableFault>) {
        let WholeCopy { header, entries } = self.in_use();
        let usable = (header.place.first_usable, header.place.last_usable);
        Table::decode(self.geometry, header.disk_guid, usable, entries)
    }

    /// Returns the table in use, and everything that is wrong with the disk's tables.
    pub(crate) fn into_table(self) -> (Table, TableHealth) {
        let (table, of_partitions) = self.table();
        let end = self.geometry.last_lba;
        let misplaced = self.misplaced_backup();
        let disagree = self.copies_disagree();
        let found = self.in_use().header.revision;
        let mut faults = Vec::new();
        faults.extend(self.mbr.map(|source| TableFault::Mbr { source }));
        let damaged = |copy, source| TableFault::Copy { copy, source };
        let in_use = match self.copies {
            Copies::Both(..) => TableCopy::Primary,
            Copies::Primary(_, fault) => {
                faults.push(damaged(TableCopy::Backup, fault));
                TableCopy::Primary
            }
            Copies::Backup(fault, _) => {
                faults.push(damaged(TableCopy::Primary, fault));
                TableCopy::Backup
            }
        };
        faults.extend((found != REVISION).then_some(TableFault::Revision { found }));
        faults.extend(disagree.then_some(TableFault::Disagree));
        faults.extend(misplaced.map(|expected| TableFault::BackupMisplaced { expected, end }));
        faults.extend(of_partitions);
        let sector_size = self.geometry.sector_size;
        (
            table,
            TableHealth {
                in_use,
                sector_size,
                faults,
            },
        )
    }
}

impl Copies {
    fn read(device: &impl Device, geometry: Geometry) -> Result<Self, (CopyFault, CopyFault)> {
        let at_end = || WholeCopy::read(device, geometry, geometry.last_lba);
        match WholeCopy::read(device, geometry, PRIMARY_LBA) {
            Ok(primary) => {
                // On a disk that has grown the backup is still at the old end.
                let named = WholeCopy::read(device, geometry, primary.header.place.other_lba);
                match named.or_else(|fault| at_end().map_err(|_| fault)) {
                    Ok(backup) => Ok(Self::Both(primary, backup)),
                    Err(fault) => Ok(Self::Primary(primary, fault)),
                }
            }
            Err(fault) => match at_end() {
                Ok(backup) => Ok(Self::Backup(fault, backup)),
                Err(other) => Err((fault, other)),
            },
        }
    }
}
