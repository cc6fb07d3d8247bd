//! The header of one copy of the partition table: checked, and put together again.
//!
//! Source: UEFI 2.10, 5.3.2 "GPT Header". The checks are those of Linux 6.12's
//! `block/partitions/efi.c`, so that what it takes is taken here, and no more.

use std::io;

use uuid::Uuid;

use crate::device::SectorSize;

const SIGNATURE: &[u8; 8] = b"EFI PART";
/// The only revision there is. Linux does not look at it.
pub(crate) const REVISION: u32 = 0x0001_0000;
/// The bytes of a header that the specification defines.
const DEFINED_BYTES: usize = 92;
/// The only size of an entry that Linux, firmware and this crate read.
pub(crate) const ENTRY_BYTES: usize = 128;
const ENTRY_SIZE: u32 = 128;
/// Linux gives up on larger arrays (`KMALLOC_MAX_SIZE`); and no bound would let a
/// header of 512 bytes ask for 512 GiB of memory.
const MAX_ARRAY_BYTES: u64 = 4 << 20;

/// What is wrong with one copy of the partition table.
#[derive(Debug, thiserror::Error)]
pub enum CopyFault {
    /// The medium does not give it.
    #[error("it cannot be read")]
    Unreadable {
        /// What the medium said.
        source: io::Error,
    },
    /// There is no header.
    #[error("there is no header")]
    NoHeader,
    /// The header claims an impossible size.
    #[error("the header claims a size of {found} bytes")]
    HeaderSize {
        /// The size found, in bytes.
        found: u32,
    },
    /// The header's checksum does not match.
    #[error("the header's checksum is wrong")]
    HeaderChecksum,
    /// The header was made for another sector.
    #[error("the header says that it belongs to sector {claimed}, but is in sector {found}")]
    Misplaced {
        /// The sector it says.
        claimed: u64,
        /// The sector it is in.
        found: u64,
    },
    /// The sectors for partitions do not lie on this disk.
    #[error("the header gives sectors {first} to {last} to partitions, and the disk ends with sector {end}{}", shrunk(*.last, *.end))]
    UsableRange {
        /// The first sector for partitions.
        first: u64,
        /// The last sector for partitions.
        last: u64,
        /// The last sector of the disk.
        end: u64,
    },
    /// Entries of a size nobody reads.
    #[error("the header claims entries of {found} bytes, only {ENTRY_BYTES} are known")]
    EntrySize {
        /// The size found, in bytes.
        found: u32,
    },
    /// No entries, or absurdly many.
    #[error("the header claims {found} entries")]
    EntryCount {
        /// The number found.
        found: u32,
    },
    /// The checksum of the entries does not match.
    #[error("the checksum of the entries is wrong")]
    EntriesChecksum,
}

/// Says what it means that partitions end behind the disk.
const fn shrunk(last: u64, end: u64) -> &'static str {
    if last > end { ": it has shrunk" } else { "" }
}

/// The addresses of a disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Geometry {
    pub(crate) sector_size: SectorSize,
    /// The address of the last sector.
    pub(crate) last_lba: u64,
}

impl Geometry {
    /// Returns the first byte of sector `lba`, if it lies on this disk.
    pub(crate) fn offset(self, lba: u64) -> Option<u64> {
        let inside = lba <= self.last_lba;
        inside
            .then(|| lba.checked_mul(self.sector_size.bytes()))
            .flatten()
    }

    /// Returns the sectors that `count` entries take.
    pub(crate) fn sectors_of_entries(self, count: u32) -> u64 {
        array_bytes(count).div_ceil(self.sector_size.bytes())
    }
}

fn array_bytes(count: u32) -> u64 {
    u64::from(count).saturating_mul(ENTRY_BYTES as u64)
}

/// Where a copy stands, and what it says about its surroundings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) own_lba: u64,
    pub(crate) other_lba: u64,
    pub(crate) first_usable: u64,
    pub(crate) last_usable: u64,
    pub(crate) entries_lba: u64,
}

/// A header that passed every check, with the bytes it came from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    /// The whole sector, so that bytes not known here are kept.
    sector: Vec<u8>,
    pub(crate) revision: u32,
    size: u32,
    reserved: [u8; 4],
    pub(crate) place: Place,
    pub(crate) disk_guid: Uuid,
    pub(crate) entry_count: u32,
    entries_checksum: u32,
}

impl Header {
    /// Checks the header in `sector`, which was read from sector `at`.
    pub(crate) fn parse(sector: Vec<u8>, at: u64, geometry: Geometry) -> Result<Self, CopyFault> {
        let header = Self::decode(sector).ok_or(CopyFault::NoHeader)??;
        let place = header.place;
        if place.own_lba != at {
            let claimed = place.own_lba;
            return Err(CopyFault::Misplaced { claimed, found: at });
        }
        let (first, last) = (place.first_usable, place.last_usable);
        if first > last || last > geometry.last_lba {
            let end = geometry.last_lba;
            return Err(CopyFault::UsableRange { first, last, end });
        }
        let bytes = array_bytes(header.entry_count);
        if bytes == 0 || bytes > MAX_ARRAY_BYTES {
            let found = header.entry_count;
            return Err(CopyFault::EntryCount { found });
        }
        Ok(header)
    }

    /// Takes the fields out of `sector`; `None` when it holds no header at all.
    fn decode(sector: Vec<u8>) -> Option<Result<Self, CopyFault>> {
        let mut fields = Fields(&sector);
        if &fields.take::<8>()? != SIGNATURE {
            return None;
        }
        let revision = fields.u32()?;
        let size = fields.u32()?;
        let checksum = fields.u32()?;
        let reserved = fields.take()?;
        let place = Place {
            own_lba: fields.u64()?,
            other_lba: fields.u64()?,
            first_usable: fields.u64()?,
            last_usable: fields.u64()?,
            entries_lba: 0,
        };
        let disk_guid = fields.uuid()?;
        let entries_lba = fields.u64()?;
        let entry_count = fields.u32()?;
        let entry_size = fields.u32()?;
        let entries_checksum = fields.u32()?;

        let header = Self {
            revision,
            size,
            reserved,
            place: Place {
                entries_lba,
                ..place
            },
            disk_guid,
            entry_count,
            entries_checksum,
            sector,
        };
        let Some(covered) = header.covered_bytes() else {
            return Some(Err(CopyFault::HeaderSize { found: size }));
        };
        if checksum_of_header(covered) != checksum {
            return Some(Err(CopyFault::HeaderChecksum));
        }
        if entry_size != ENTRY_SIZE {
            return Some(Err(CopyFault::EntrySize { found: entry_size }));
        }
        Some(Ok(header))
    }

    /// Returns the bytes that the header's checksum covers.
    fn covered_bytes(&self) -> Option<&[u8]> {
        let size = usize::try_from(self.size).ok()?;
        (size >= DEFINED_BYTES)
            .then(|| self.sector.get(..size))
            .flatten()
    }

    /// Returns the size of the entry array in bytes.
    pub(crate) fn array_bytes(&self) -> usize {
        // Bounded by MAX_ARRAY_BYTES when the header was parsed.
        usize::try_from(array_bytes(self.entry_count)).unwrap_or(usize::MAX)
    }

    /// Checks `entries` against the checksum in the header.
    pub(crate) fn check_entries(&self, entries: &[u8]) -> Result<(), CopyFault> {
        let whole = crc32fast::hash(entries) == self.entries_checksum;
        whole.then_some(()).ok_or(CopyFault::EntriesChecksum)
    }

    /// Returns the sector of this header moved to `place`, for `entries`.
    ///
    /// Everything else, also what the specification leaves undefined, is kept.
    pub(crate) fn encode(&self, place: Place, entries: &[u8]) -> Vec<u8> {
        let with_checksum = |checksum: u32| {
            let mut sector = Vec::with_capacity(self.sector.len());
            sector.extend_from_slice(SIGNATURE);
            sector.extend_from_slice(&self.revision.to_le_bytes());
            sector.extend_from_slice(&self.size.to_le_bytes());
            sector.extend_from_slice(&checksum.to_le_bytes());
            sector.extend_from_slice(&self.reserved);
            sector.extend_from_slice(&place.own_lba.to_le_bytes());
            sector.extend_from_slice(&place.other_lba.to_le_bytes());
            sector.extend_from_slice(&place.first_usable.to_le_bytes());
            sector.extend_from_slice(&place.last_usable.to_le_bytes());
            sector.extend_from_slice(&self.disk_guid.to_bytes_le());
            sector.extend_from_slice(&place.entries_lba.to_le_bytes());
            sector.extend_from_slice(&self.entry_count.to_le_bytes());
            sector.extend_from_slice(&ENTRY_SIZE.to_le_bytes());
            sector.extend_from_slice(&crc32fast::hash(entries).to_le_bytes());
            sector.extend(self.sector.iter().skip(DEFINED_BYTES));
            sector
        };
        let blank = with_checksum(0);
        let covered = usize::try_from(self.size)
            .unwrap_or(usize::MAX)
            .min(blank.len());
        with_checksum(crc32fast::hash(blank.get(..covered).unwrap_or(&blank)))
    }
}

/// Returns the checksum of a header, its own checksum counting as zero.
fn checksum_of_header(bytes: &[u8]) -> u32 {
    let blanked = bytes.iter().enumerate();
    let blanked = blanked.map(|(at, &byte)| if (16..20).contains(&at) { 0 } else { byte });
    crc32fast::hash(&blanked.collect::<Vec<u8>>())
}

/// Little-endian fields, taken one after the other.
pub(crate) struct Fields<'b>(pub(crate) &'b [u8]);

impl Fields<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn uuid(&mut self) -> Option<Uuid> {
        self.take().map(Uuid::from_bytes_le)
    }
}
