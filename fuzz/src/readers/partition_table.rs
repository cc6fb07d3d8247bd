//! The partition table, both copies, with sectors of 512 and of 4096 bytes.
//!
//! ```text
//! u8 which checksums are set right   a disk
//! ```

use partition_layout::{
    Architecture, Device, DiskLayout, DiskPlan, Form, Partition, RootHash, SectorSize, Sizes, Slot,
    SlotContent, SlotLabel, Table, TableFault, Version, create, relabel, repair,
};

use crate::Outcome;
use crate::disk::Disk;
use crate::script::Script;

/// A checksum is not to be hit upon by chance.
const PRIMARY_IS_RIGHT: u8 = 1;
const BACKUP_IS_RIGHT: u8 = 2;

pub(crate) fn read(input: &[u8]) -> Outcome {
    let mut script = Script(input);
    let right = script.byte();
    let mut disk = Disk::parse(&mut script);
    for sector in [512, 4096] {
        let last = (disk.len() / sector).saturating_sub(1);
        for (bit, lba) in [(PRIMARY_IS_RIGHT, 1), (BACKUP_IS_RIGHT, last)] {
            if right & bit == 0 {
                continue;
            }
            if let Some(header) = header_set_right(&disk, lba * sector, sector) {
                disk.write_at(lba * sector, &header)
                    .expect("it was read from there");
            }
        }
    }
    let Ok((table, health)) = Table::read(&disk) else {
        return Outcome::Refused;
    };
    let sector = table.sector_size.bytes();
    assert_eq!(health.sector_size, table.sector_size);
    assert!(table.usable.end <= disk.len());
    let mut number = 0;
    for partition in &table.partitions {
        assert!(partition.number > number, "in table order");
        number = partition.number;
        assert!(partition.len > 0 && partition.range().end <= disk.len());
        assert!(partition.start.is_multiple_of(sector) && partition.len.is_multiple_of(sector));
    }
    if health.is_sound() {
        let outside =
            |one: &Partition| one.start < table.usable.start || one.range().end > table.usable.end;
        assert!(!table.partitions.iter().any(outside));
        assert!(!table.partitions.iter().any(|one| shares(&table, one)));
    }
    let Ok((layout, _)) = DiskLayout::read(&disk) else {
        return Outcome::Refused;
    };
    for one in ours(&layout) {
        assert!(one.start >= table.usable.start && one.range().end <= table.usable.end);
        assert!(!shares(&table, &one), "what is ours shares no sector");
    }
    hold_relabelling(&disk, &table, &layout);
    hold_repair(&disk, &table);
    Outcome::Accepted
}

/// Returns the header at byte `at`, if there is any, with the checksums that it should have.
fn header_set_right(disk: &Disk, at: u64, sector: u64) -> Option<Vec<u8>> {
    const FIELD: std::ops::Range<usize> = 16..20;
    let mut header = vec![0; usize::try_from(sector).ok()?];
    disk.read_at(at, &mut header).ok()?;
    let number = |at: usize| Some(u32::from_le_bytes(*header.get(at..)?.first_chunk()?));
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let covered = usize::try_from(number(12)?).ok()?;
    let place = u64::from(number(72)?).checked_mul(sector)?;
    let bytes = number(80)?
        .checked_mul(128)
        .filter(|bytes| *bytes <= 1 << 20)?;
    let mut entries = vec![0; usize::try_from(bytes).ok()?];
    disk.read_at(place, &mut entries).ok()?;
    let of_entries = crc32fast::hash(&entries).to_le_bytes();
    header.get_mut(88..92)?.copy_from_slice(&of_entries);
    header.get_mut(FIELD)?.fill(0);
    let of_header = crc32fast::hash(header.get(..covered)?).to_le_bytes();
    header.get_mut(FIELD)?.copy_from_slice(&of_header);
    Some(header)
}

fn shares(table: &Table, one: &Partition) -> bool {
    let overlaps = |other: &Partition| {
        other.number != one.number && other.start < one.range().end && one.start < other.range().end
    };
    table.partitions.iter().any(overlaps)
}

fn ours(layout: &DiskLayout) -> Vec<Partition> {
    let of_slots = layout
        .slots()
        .flat_map(|(_, slot)| [&slot.root, &slot.verity, &slot.verity_sig].map(Partition::clone));
    let mut ours: Vec<_> = of_slots.collect();
    ours.push(layout.esp.clone());
    ours.extend(layout.var.clone());
    ours
}

/// Asserts that what was written lies outside of every partition.
fn hold_writes(before: &Disk, after: &Disk, table: &Table) {
    for byte in after.changes(before) {
        // A partition of others that reaches into the table is none to be spared.
        let is_inside = |one: &&Partition| {
            let usable = &table.usable;
            let is_apart = usable.start <= one.start && one.range().end <= usable.end;
            is_apart && one.range().contains(&byte)
        };
        let inside = table.partitions.iter().find(is_inside);
        assert!(inside.is_none(), "byte {byte} is in {inside:?}");
    }
}

fn hold_relabelling(disk: &Disk, table: &Table, layout: &DiskLayout) {
    let version = Version::parse("7.0~rc1").expect("a good version");
    let root_hash = RootHash::new([0x77; 32]);
    let holds = SlotLabel::Holds {
        version: &version,
        root_hash: &root_hash,
    };
    for (slot, _) in layout.slots() {
        for label in [SlotLabel::Empty, holds] {
            let mut after = disk.clone();
            if relabel(&mut after, slot, &label).is_err() {
                assert_eq!(
                    &after, disk,
                    "what fails without the medium's fault wrote nothing"
                );
                continue;
            }
            hold_writes(disk, &after, table);
            let (new, health) = DiskLayout::read(&after).expect("it was ours before");
            let content = new.slot(slot).expect("it was there before").content();
            let is_so = match (label, &content) {
                (SlotLabel::Empty, SlotContent::Empty) => true,
                (
                    SlotLabel::Holds { .. },
                    SlotContent::Holds {
                        version: found,
                        root_hash: hash,
                    },
                ) => found.as_str() == version.as_str() && *hash == root_hash,
                _ => false,
            };
            assert!(
                is_so,
                "{slot} was labelled {label:?}, and holds {content:?}"
            );
            assert!(
                no_copy_is_damaged(&health.faults),
                "both copies were written"
            );
            let (new, _) = Table::read(&after).expect("it was just read");
            let own: Vec<u32> = layout.slot(slot).map_or_else(Vec::new, |slot| {
                [&slot.root, &slot.verity, &slot.verity_sig]
                    .map(|one| one.number)
                    .into()
            });
            let others = |table: &Table| -> Vec<Partition> {
                let others = table.partitions.iter();
                others
                    .filter(|one| !own.contains(&one.number))
                    .cloned()
                    .collect()
            };
            assert_eq!(others(&new), others(table), "no other partition changes");
        }
    }
}

fn hold_repair(disk: &Disk, table: &Table) {
    let mut after = disk.clone();
    if repair(&mut after).is_err() {
        return;
    }
    hold_writes(disk, &after, table);
    let (again, health) = Table::read(&after).expect("it was readable before");
    assert_eq!(again.partitions, table.partitions, "no partition changes");
    assert!(no_copy_is_damaged(&health.faults), "{:?}", health.faults);
    let once_more = repair(&mut after).expect("it went well before");
    assert_eq!(once_more.steps, [], "nothing is left to repair");
}

fn no_copy_is_damaged(faults: &[TableFault]) -> bool {
    !faults.iter().any(|fault| {
        matches!(
            fault,
            TableFault::Copy { .. } | TableFault::Disagree | TableFault::BackupMisplaced { .. }
        )
    })
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let seed = |form, sector_size: SectorSize, own| {
        let plan = DiskPlan {
            sector_size,
            sizes: Sizes {
                esp: 1 << 20,
                root: 1 << 20,
                verity: 1 << 20,
                verity_sig: 1 << 20,
            },
            slot_a: Some((
                Version::parse("1.0").expect("a good version"),
                RootHash::new([1; 32]),
            )),
            ..DiskPlan::new(Architecture::X86_64, form)
        };
        let sectors = plan.smallest_disk() / 512 + 4096;
        let mut disk = Disk::blank(u32::try_from(sectors).expect("a small disk"), own);
        create(&mut disk, &plan).expect("the disk is blank");
        disk
    };
    let (b512, b4096) = (SectorSize::B512, SectorSize::B4096);
    let full = seed(Form::Full, b512, None);
    let mut torn = full.clone();
    torn.write_at(512, &[0; 512])
        .expect("the disk has a second sector");
    let mut odd = full.clone();
    let empty = relabel(&mut odd, Slot::A, &SlotLabel::Empty);
    empty.expect("the disk is sound");
    let mut primary = vec![0; 34 * 512];
    full.read_at(0, &mut primary).expect("a table lies there");
    odd.write_at(0, &primary).expect("a table lay there");
    let disks = [
        seed(Form::Shipped, b512, Some(b512)),
        seed(Form::Full, b4096, Some(b4096)),
        full,
        torn,
        odd,
    ];
    let right = PRIMARY_IS_RIGHT | BACKUP_IS_RIGHT;
    let with_flags = |disk: &Disk| [0, right].map(|flags| [vec![flags], disk.to_bytes()].concat());
    disks.iter().flat_map(with_flags).collect()
}
