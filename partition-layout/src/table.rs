//! The partition table as it is in use, and the codec of its entries.

use std::ops::Range;

use uuid::Uuid;

use crate::device::{Device, SectorSize};
use crate::header::{ENTRY_BYTES, Fields, Geometry};
use crate::health::{TableFault, TableHealth};
use crate::survey::{ReadTableError, Survey};

/// The longest label, in UTF-16 units.
pub const LABEL_UNITS: usize = 36;

/// A partition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Partition {
    /// Its number, from 1: its place in the table.
    pub number: u32,
    /// Its type.
    pub type_guid: Uuid,
    /// Its own UUID.
    pub uuid: Uuid,
    /// Its label; what is no Unicode is replaced by U+FFFD.
    pub label: String,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its attribute bits.
    pub attributes: u64,
}

impl Partition {
    /// Returns the bytes of the disk that the partition takes.
    pub fn range(&self) -> Range<u64> {
        self.start..self.start.saturating_add(self.len)
    }

    /// Tells whether the partition shares a byte with `other`.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.start < other.range().end && other.start < self.range().end
    }
}

/// The partition table of a disk, whoever made it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table {
    /// The sector size that the table counts in.
    pub sector_size: SectorSize,
    /// The UUID of the disk.
    pub disk_guid: Uuid,
    /// The bytes of the disk that partitions may take.
    pub usable: Range<u64>,
    /// The partitions that the kernel makes devices of, in table order.
    pub partitions: Vec<Partition>,
}

impl Table {
    /// Reads the table that the kernel would use with `gpt` on its command line:
    /// the primary copy when it is whole, else the backup at the end of the disk.
    ///
    /// # Errors
    /// When neither copy is whole, or the disk has no size.
    pub fn read(device: &impl Device) -> Result<(Self, TableHealth), ReadTableError> {
        let survey = Survey::take(device)?;
        Ok(survey.into_table())
    }

    /// Takes the partitions out of `entries`, and says what is wrong with them.
    pub(crate) fn decode(
        geometry: Geometry,
        disk_guid: Uuid,
        usable: (u64, u64),
        entries: &[u8],
    ) -> (Self, Vec<TableFault>) {
        let mut faults = Vec::new();
        let mut partitions = Vec::new();
        for (number, bytes) in (1..).zip(entries.chunks_exact(ENTRY_BYTES)) {
            match decode_entry(number, bytes, geometry) {
                Entry::Unused => {}
                Entry::Partition(partition) => partitions.push(partition),
                Entry::OffTheDisk => faults.push(TableFault::OffTheDisk { number }),
            }
        }
        let bytes = geometry.sector_size.bytes();
        let (first, last) = usable;
        let table = Self {
            sector_size: geometry.sector_size,
            disk_guid,
            // Both were checked against the last sector of the disk.
            usable: first.saturating_mul(bytes)..last.saturating_add(1).saturating_mul(bytes),
            partitions,
        };
        faults.extend(table.faults());
        (table, faults)
    }

    /// Returns what is wrong with the partitions among each other.
    ///
    /// A hostile table has thirty thousand of them: no pair is looked at that is not
    /// next to each other by start or by UUID.
    fn faults(&self) -> Vec<TableFault> {
        let mut faults = Vec::new();
        for partition in &self.partitions {
            let number = partition.number;
            if partition.start < self.usable.start || partition.range().end > self.usable.end {
                faults.push(TableFault::OutsideUsable { number });
            }
            if partition.uuid.is_nil() {
                faults.push(TableFault::NilUuid { number });
            }
        }

        let mut by_start: Vec<_> = self.partitions.iter().collect();
        by_start.sort_by_key(|partition| partition.start);
        let mut by_start = by_start.into_iter();
        if let Some(mut reaching) = by_start.next() {
            for next in by_start {
                if reaching.overlaps(next) {
                    let (first, second) = in_order(reaching, next);
                    faults.push(TableFault::Overlap { first, second });
                }
                if next.range().end > reaching.range().end {
                    reaching = next;
                }
            }
        }

        let mut by_uuid: Vec<_> = self
            .partitions
            .iter()
            .filter(|p| !p.uuid.is_nil())
            .collect();
        by_uuid.sort_by_key(|partition| (partition.uuid, partition.number));
        for (a, b) in by_uuid.iter().zip(by_uuid.iter().skip(1)) {
            // Two slots that hold the same release share the UUIDs made from its root
            // hash: that is in the nature of the convention.
            let same_image = a.type_guid == b.type_guid && a.label == b.label;
            if a.uuid == b.uuid && !same_image {
                let (first, second) = in_order(a, b);
                faults.push(TableFault::SharedUuid { first, second });
            }
        }
        faults
    }
}

fn in_order(a: &Partition, b: &Partition) -> (u32, u32) {
    (a.number.min(b.number), a.number.max(b.number))
}

enum Entry {
    Unused,
    Partition(Partition),
    OffTheDisk,
}

/// Reads one entry. As in Linux, one that leaves the disk makes no partition.
fn decode_entry(number: u32, bytes: &[u8], geometry: Geometry) -> Entry {
    let mut fields = Fields(bytes);
    let type_guid = fields.uuid().unwrap_or_default();
    if type_guid.is_nil() {
        return Entry::Unused;
    }
    let mut read = || {
        let uuid = fields.uuid()?;
        let (first, last) = (fields.u64()?, fields.u64()?);
        let attributes = fields.u64()?;
        let mut label = Vec::with_capacity(LABEL_UNITS);
        while let Some(unit) = fields.u16() {
            label.push(unit);
        }
        Some((uuid, first, last, attributes, label))
    };
    let Some((uuid, first, last, attributes, label)) = read() else {
        return Entry::Unused;
    };
    let span = (geometry.offset(first), geometry.offset(last));
    let (Some(start), Some(start_of_last)) = span else {
        return Entry::OffTheDisk;
    };
    let Some(len) = (start_of_last + geometry.sector_size.bytes()).checked_sub(start) else {
        return Entry::OffTheDisk;
    };
    if len == 0 {
        return Entry::OffTheDisk;
    }
    let text = label.split(|&unit| unit == 0).next().unwrap_or_default();
    Entry::Partition(Partition {
        number,
        type_guid,
        uuid,
        label: String::from_utf16_lossy(text),
        start,
        len,
        attributes,
    })
}

/// Returns `entries` with a new UUID and label for partition `number`; all else is kept.
pub(crate) fn relabel_entry(entries: &[u8], number: u32, uuid: Uuid, label: &str) -> Vec<u8> {
    let mut changed = Vec::with_capacity(entries.len());
    for (at, entry) in (1..).zip(entries.chunks(ENTRY_BYTES)) {
        if at != number {
            changed.extend_from_slice(entry);
            continue;
        }
        let units = label
            .encode_utf16()
            .chain(std::iter::repeat(0))
            .take(LABEL_UNITS);
        changed.extend(entry.iter().take(16));
        changed.extend_from_slice(&uuid.to_bytes_le());
        changed.extend(entry.iter().skip(32).take(24));
        changed.extend(units.flat_map(u16::to_le_bytes));
    }
    changed
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const GEOMETRY: Geometry = Geometry {
        sector_size: SectorSize::B512,
        last_lba: 99,
    };

    proptest! {
        #[test]
        fn relabelling_keeps_every_byte_it_does_not_own(
            entries in vec(any::<u8>(), 4 * ENTRY_BYTES),
            number in 1_u32..=4,
            uuid: u128,
            label in "[a-z_0-9.]{0,36}",
        ) {
            let uuid = Uuid::from_u128(uuid);
            let changed = relabel_entry(&entries, number, uuid, &label);
            prop_assert_eq!(changed.len(), entries.len());
            let own = (number as usize - 1) * ENTRY_BYTES;
            for (at, (before, after)) in entries.iter().zip(&changed).enumerate() {
                let ours = (own + 16..own + 32).contains(&at) || (own + 56..own + 128).contains(&at);
                prop_assert!(ours || before == after, "byte {}", at);
            }
            if let Entry::Partition(partition) = decode_entry(number, &changed[own..own + ENTRY_BYTES], GEOMETRY) {
                prop_assert_eq!(partition.uuid, uuid);
                prop_assert_eq!(partition.label, label);
            }
        }

        #[test]
        fn any_entries_are_read_without_a_panic(entries in vec(any::<u8>(), 0..6 * ENTRY_BYTES), first: u64, last: u64) {
            Table::decode(GEOMETRY, Uuid::nil(), (first, last), &entries);
        }
    }
}
