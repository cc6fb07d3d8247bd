//! Wherever the power fails, one whole table with the old or the new content remains.
#![expect(
    clippy::indexing_slicing,
    reason = "a test says by a panic that its claim does not hold"
)]

use partition_layout::testing::{FakeDisk, Fault};
use partition_layout::{
    Architecture, Device, DiskLayout, DiskPlan, Form, RepairStep, RootHash, SectorSize, Sizes,
    Slot, SlotContent, SlotLabel, Table, TableCopy, TableFault, Uuid, Version, create, relabel,
    repair,
};

fn plan(sector_size: SectorSize) -> DiskPlan {
    DiskPlan {
        sector_size,
        sizes: Sizes {
            esp: 8192,
            root: 16384,
            verity: 4096,
            verity_sig: 4096,
        },
        slot_a: Some((version("1"), hash(1))),
        ..DiskPlan::new(Architecture::X86_64, Form::Full)
    }
}

fn version(text: &str) -> Version {
    Version::parse(text).expect("a good version")
}

/// A root hash whose halves differ.
fn hash(first: u8) -> RootHash {
    RootHash::new(std::array::from_fn(
        |at| if at < 16 { first } else { !first },
    ))
}

/// A disk with a release in slot A, an empty slot B, and foreign bits in the table.
fn disk(sector_size: SectorSize) -> FakeDisk {
    let plan = plan(sector_size);
    let bytes = usize::try_from(plan.smallest_disk()).expect("a small disk");
    let mut disk = FakeDisk::blank(bytes);
    create(&mut disk, &plan).expect("the disk is blank");
    assert_eq!(disk.unsynced(), 0, "what is created has reached the disk");
    disk
}

/// What the kernel with `gpt` on its command line makes of the disk: the table, and nothing about health.
fn seen(disk: &FakeDisk) -> Table {
    Table::read(disk).expect("one whole copy remains").0
}

fn is_sound(disk: &FakeDisk) -> bool {
    DiskLayout::read(disk).expect("our disk").1.is_sound()
}

/// Flips a bit in the first entry of a copy's array.
fn damage(disk: FakeDisk, copy: TableCopy) -> FakeDisk {
    let sector = sector_of(&disk);
    let mut image = disk.image();
    let at = match copy {
        TableCopy::Primary => 2 * sector,
        TableCopy::Backup => image.len() - sector - 128 * 128,
    };
    image[at] ^= 1;
    FakeDisk::holding(image)
}

fn sector_of(disk: &FakeDisk) -> usize {
    let (table, _) = Table::read(disk).expect("a table");
    usize::try_from(table.sector_size.bytes()).expect("a small number")
}

/// The ways in which sectors that were not synced survive a power cut.
fn survivals(unsynced: usize) -> Vec<Box<dyn Fn(usize) -> bool>> {
    let mut ways: Vec<Box<dyn Fn(usize) -> bool>> = Vec::new();
    // Only the first sectors of the entries, and the header behind them, differ.
    let cuts = (0..=unsynced).filter(|&cut| cut < 4 || cut == 16 || cut + 2 > unsynced);
    for cut in cuts {
        ways.push(Box::new(move |at| at < cut));
        ways.push(Box::new(move |at| at >= cut));
        ways.push(Box::new(move |at| at != cut));
    }
    for parity in 0..2 {
        ways.push(Box::new(move |at| at % 2 == parity));
    }
    ways
}

/// Cuts the power at every operation of `work`, and gives every disk that can be found then.
fn every_cut(
    start: &FakeDisk,
    work: impl Fn(&mut FakeDisk) -> bool,
    check: impl Fn(&FakeDisk, &str),
) {
    let mut whole = start.clone();
    assert!(work(&mut whole), "the work succeeds when nothing fails");
    let operations = whole.operations() - start.operations();
    assert!(operations >= 4, "two copies are written and synced");
    assert_eq!(
        whole.unsynced(),
        0,
        "on return everything has reached the disk"
    );
    check(&whole, "no cut");
    for cut in 0..operations {
        let mut disk = start.clone();
        disk.fail_after(cut, Fault::PowerCut);
        assert!(!work(&mut disk), "a failed write is told");
        for (way, survived) in survivals(disk.unsynced()).into_iter().enumerate() {
            check(
                &disk.after_power_cut(survived),
                &format!("cut after {cut}, way {way}"),
            );
        }
        let mut disk = start.clone();
        disk.fail_after(cut, Fault::Once);
        assert!(!work(&mut disk), "a failed write is told");
        check(&disk, &format!("error after {cut}"));
    }
}

fn states() -> Vec<(&'static str, FakeDisk)> {
    let mut states = Vec::new();
    for sector_size in [SectorSize::B512, SectorSize::B4096] {
        let sound = disk(sector_size);
        states.push(("primary damaged", damage(sound.clone(), TableCopy::Primary)));
        states.push(("backup damaged", damage(sound.clone(), TableCopy::Backup)));
        let mut grown = sound.image();
        grown.resize(grown.len() + (1 << 20), 0);
        states.push(("grown", FakeDisk::holding(grown)));
        states.push(("copies disagree", disagreeing(&sound)));
        states.push(("sound", sound));
    }
    states
}

/// A disk as a cut between the backup and the primary leaves it: the backup is newer.
fn disagreeing(sound: &FakeDisk) -> FakeDisk {
    let mut disk = sound.clone();
    disk.fail_after(3, Fault::PowerCut);
    let cut_short = relabel(&mut disk, Slot::A, &SlotLabel::Empty);
    assert!(cut_short.is_err());
    let disk = disk.after_power_cut(|_| false);
    let (_, health) = Table::read(&disk).expect("both copies are whole");
    assert!(
        matches!(health.faults.as_slice(), [TableFault::Disagree]),
        "{health:?}"
    );
    disk
}

#[test]
fn a_relabelling_cut_short_leaves_the_old_label_or_the_new_one() {
    let (version, root_hash) = (version("2.0~rc1"), hash(2));
    let holds = SlotLabel::Holds {
        version: &version,
        root_hash: &root_hash,
    };
    for (state, start) in states() {
        for (slot, label) in [(Slot::B, holds), (Slot::A, SlotLabel::Empty)] {
            let old = seen(&start);
            let mut finished = start.clone();
            relabel(&mut finished, slot, &label).expect("nothing fails");
            assert!(
                is_sound(&finished) || state == "grown",
                "{state}: relabelling sets both copies right"
            );
            let new = seen(&finished);
            assert_ne!(old.partitions, new.partitions);
            every_cut(
                &start,
                |disk| relabel(disk, slot, &label).is_ok(),
                |disk, when| {
                    let found = seen(disk).partitions;
                    let expected = found == old.partitions || found == new.partitions;
                    assert!(expected, "{state}, slot {slot}, {when}");
                    // What is found can be worked with: relabelling again completes it.
                    let mut again = disk.clone();
                    relabel(&mut again, slot, &label).expect("the power is back");
                    assert_eq!(
                        seen(&again).partitions,
                        new.partitions,
                        "{state}, slot {slot}, {when}"
                    );
                },
            );
        }
    }
}

#[test]
fn a_repair_cut_short_changes_nothing_that_counts_and_can_be_repeated() {
    for (state, start) in states() {
        if state == "sound" {
            continue;
        }
        let partitions = seen(&start).partitions;
        every_cut(
            &start,
            |disk| repair(disk).is_ok(),
            |disk, when| {
                assert_eq!(seen(disk).partitions, partitions, "{state}, {when}");
                let mut again = disk.clone();
                repair(&mut again).expect("the power is back");
                assert_eq!(seen(&again).partitions, partitions, "{state}, {when}");
                assert!(is_sound(&again), "{state}, {when}");
            },
        );
    }
}

#[test]
fn a_whole_copy_is_never_written_while_the_other_one_is_damaged() {
    for (copy, sector_of_header) in [(TableCopy::Primary, 1), (TableCopy::Backup, -1)] {
        let mut disk = damage(disk(SectorSize::B512), copy);
        let before = disk.image();
        // The first copy to be written gets stuck before its sync.
        disk.fail_after(2, Fault::PowerCut);
        repair(&mut disk).expect_err("the sync fails");
        let after = disk.image();
        let whole = match sector_of_header {
            1 => after.len() - 33 * 512..after.len(),
            _ => 0..34 * 512,
        };
        assert_eq!(
            after[whole.clone()],
            before[whole],
            "the copy other than the {copy}"
        );
        assert_ne!(after, before);
    }
}

#[test]
fn when_copies_disagree_repair_takes_the_primary() {
    let sound = disk(SectorSize::B512);
    let mut disk = disagreeing(&sound);
    let repaired = repair(&mut disk).expect("both copies are whole");
    assert_eq!(repaired.steps, [RepairStep::BackupAligned]);
    assert!(
        disk.image() == sound.image(),
        "the step that was not finished is taken back"
    );
}

#[test]
fn a_torn_primary_completes_what_the_backup_says() {
    let mut disk = disk(SectorSize::B512);
    // Backup entries, header, sync; and the primary gets its entries, but no header.
    disk.fail_after(3, Fault::PowerCut);
    relabel(&mut disk, Slot::A, &SlotLabel::Empty).expect_err("the power fails");
    let mut disk = disk.after_power_cut(|_| true);
    let (layout, health) = DiskLayout::read(&disk).expect("the backup is whole");
    assert_eq!(health.in_use, TableCopy::Backup);
    assert_eq!(layout.slot_a.content(), SlotContent::Empty);
    let repaired = repair(&mut disk).expect("the backup is whole");
    assert_eq!(repaired.steps, [RepairStep::Restored(TableCopy::Primary)]);
    assert!(is_sound(&disk));
}

#[test]
fn nothing_is_written_to_a_sound_disk_by_repair() {
    let mut disk = disk(SectorSize::B4096);
    let before = disk.operations();
    assert!(repair(&mut disk).expect("our disk").steps.is_empty());
    assert_eq!(disk.operations(), before);
}

#[test]
fn a_copy_that_cannot_be_read_counts_as_damaged() {
    let mut disk = disk(SectorSize::B512);
    disk.make_unreadable(512..1024);
    let (_, health) = DiskLayout::read(&disk).expect("the backup is whole");
    assert_eq!(health.in_use, TableCopy::Backup);
    assert!(health.copy_fault(TableCopy::Primary).is_some());
    let end = disk.size().expect("a disk in memory");
    disk.make_unreadable(end - 512..end);
    assert!(DiskLayout::read(&disk).is_err());
}

#[test]
fn repair_restores_the_protective_mbr_but_not_over_partitions_of_others() {
    let sound = disk(SectorSize::B512).image();
    let mut lost = sound.clone();
    lost[446..512].fill(0);
    lost[..446].fill(0x90);
    let mut disk = FakeDisk::holding(lost);
    let repaired = repair(&mut disk).expect("the table is whole");
    assert_eq!(repaired.steps, [RepairStep::ProtectiveMbr]);
    assert!(is_sound(&disk));
    assert_eq!(disk.image()[446..], sound[446..]);
    assert_eq!(disk.image()[..446], [0x90; 446], "boot code is not ours");

    let mut hybrid = sound;
    hybrid[462 + 4] = 0x83;
    let mut disk = FakeDisk::holding(hybrid.clone());
    assert!(
        repair(&mut disk)
            .expect("the table is whole")
            .steps
            .is_empty()
    );
    assert!(disk.image() == hybrid);
    assert!(!is_sound(&disk));
}

#[test]
fn a_table_inside_of_partitions_is_never_written_to() {
    // Hostile or broken: the primary's entries lie where partitions may be.
    let sound = disk(SectorSize::B512);
    let mut image = sound.image();
    let inside = 4096;
    image.copy_within(1024..1024 + 128 * 128, inside * 512);
    image[512 + 72..512 + 80].copy_from_slice(&(inside as u64).to_le_bytes());
    image[512 + 16..512 + 20].fill(0);
    let checksum = crc32fast::hash(&image[512..512 + 92]);
    image[512 + 16..512 + 20].copy_from_slice(&checksum.to_le_bytes());
    let mut disk = FakeDisk::holding(image.clone());
    assert_eq!(
        seen(&disk).partitions,
        seen(&sound).partitions,
        "the kernel reads it"
    );
    relabel(&mut disk, Slot::B, &SlotLabel::Empty).expect_err("no room");
    assert!(disk.image() == image);
}

#[test]
fn foreign_entries_attributes_and_undefined_bytes_outlive_a_relabelling() {
    let mut image = disk(SectorSize::B512).image();
    let end = image.len();
    // A foreign partition in the free space behind the ESP, its label no Unicode; odd
    // attribute bits on slot B's root; a header of 512 bytes with something in it.
    let foreign = 1024 + 40 * 128;
    image.copy_within(1024..1024 + 128, foreign);
    image[foreign..foreign + 16].fill(0x5a);
    image[foreign + 16..foreign + 32].fill(0xa5);
    let free = (1_u64 << 20) / 512 + 64;
    image[foreign + 32..foreign + 40].copy_from_slice(&free.to_le_bytes());
    image[foreign + 40..foreign + 48].copy_from_slice(&(free + 7).to_le_bytes());
    image[foreign + 56..foreign + 58].copy_from_slice(&0xd800_u16.to_le_bytes());
    let root_b = 1024 + 4 * 128;
    image[root_b + 48..root_b + 56].fill(0xff);
    for (header, entries) in [(512, 1024), (end - 512, end - 33 * 512)] {
        image.copy_within(1024..1024 + 128 * 128, entries);
        let checksum = crc32fast::hash(&image[entries..entries + 128 * 128]);
        image[header + 12..header + 16].copy_from_slice(&512_u32.to_le_bytes());
        image[header + 88..header + 92].copy_from_slice(&checksum.to_le_bytes());
        image[header + 300] = 7;
        image[header + 16..header + 20].fill(0);
        let checksum = crc32fast::hash(&image[header..header + 512]);
        image[header + 16..header + 20].copy_from_slice(&checksum.to_le_bytes());
    }
    let mut disk = FakeDisk::holding(image.clone());
    let (layout, health) = DiskLayout::read(&disk).expect("our disk");
    assert!(health.is_sound(), "{health:?}");
    assert_eq!(layout.foreign.len(), 1);
    assert_eq!(layout.foreign[0].uuid, Uuid::from_bytes([0xa5; 16]));

    let (version, root_hash) = (version("7"), hash(7));
    relabel(
        &mut disk,
        Slot::B,
        &SlotLabel::Holds {
            version: &version,
            root_hash: &root_hash,
        },
    )
    .expect("nothing fails");
    let after = disk.image();
    assert!(is_sound(&disk));
    assert_eq!(after[foreign..foreign + 128], image[foreign..foreign + 128]);
    assert_eq!(after[root_b + 48..root_b + 56], [0xff; 8]);
    assert_eq!(after[512 + 300], 7);
    assert_eq!(after[end - 512 + 300], 7);

    relabel(&mut disk, Slot::B, &SlotLabel::Empty).expect("nothing fails");
    assert!(disk.image() == image, "and back again nothing is different");
}
