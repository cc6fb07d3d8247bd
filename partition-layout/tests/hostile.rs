//! No bytes make this crate panic, and whatever it accepts it can also rewrite safely.

#![expect(
    clippy::indexing_slicing,
    reason = "a test says by a panic that its claim does not hold"
)]

#[expect(dead_code, reason = "these tests need no disk in a file")]
mod common;

use std::sync::LazyLock;

use common::{Esp, root_hash_a};
use partition_layout::testing::FakeDisk;
use partition_layout::{
    Architecture, DiskLayout, DiskPlan, Form, RelabelError, RootHash, SectorSize, Sizes, Slot,
    SlotLabel, Table, Uuid, Version, create, relabel, repair,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn small_disk(sector_size: SectorSize) -> FakeDisk {
    let plan = DiskPlan {
        sector_size,
        sizes: Sizes {
            esp: 8192,
            root: 16384,
            verity: 4096,
            verity_sig: 4096,
        },
        slot_a: Some((Version::parse("1").expect("a good version"), root_hash_a())),
        ..DiskPlan::new(Architecture::Aarch64, Form::Full)
    };
    let mut disk = FakeDisk::blank(usize::try_from(plan.smallest_disk()).expect("a small disk"));
    create(&mut disk, &plan).expect("the disk is blank");
    disk
}

static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| small_disk(SectorSize::B512).image());

/// Sets the checksums of a copy right, so that hostile fields get past them.
fn seal(image: &mut [u8], header: usize) {
    let field = |image: &[u8], at: usize| {
        u32::from_le_bytes(image[at..at + 4].try_into().expect("4 bytes"))
    };
    let entries = u64::from_le_bytes(image[header + 72..header + 80].try_into().expect("8 bytes"));
    let start = usize::try_from(entries)
        .ok()
        .and_then(|lba| lba.checked_mul(512));
    let length = usize::try_from(field(image, header + 80))
        .ok()
        .and_then(|count| count.checked_mul(128));
    let range = start
        .zip(length)
        .and_then(|(start, length)| Some(start..start.checked_add(length)?));
    if let Some(entries) = range.and_then(|range| image.get(range)) {
        let checksum = crc32fast::hash(entries).to_le_bytes();
        image[header + 88..header + 92].copy_from_slice(&checksum);
    }
    image[header + 16..header + 20].fill(0);
    let size = usize::try_from(field(image, header + 12))
        .unwrap_or(usize::MAX)
        .min(512);
    let checksum = crc32fast::hash(&image[header..header + size]).to_le_bytes();
    image[header + 16..header + 20].copy_from_slice(&checksum);
}

/// Does everything to a disk that can be done, and checks what must hold of any disk.
fn use_disk(mut disk: FakeDisk) {
    let before = disk.image();
    let Ok((table, _)) = Table::read(&disk) else {
        assert!(DiskLayout::read(&disk).is_err());
        assert!(relabel(&mut disk, Slot::A, &SlotLabel::Empty).is_err());
        assert!(repair(&mut disk).is_err());
        assert!(
            disk.image() == before,
            "what cannot be read is not written to"
        );
        return;
    };
    let size = before.len() as u64;
    for partition in &table.partitions {
        assert!(
            partition.len > 0 && partition.range().end <= size,
            "{partition:?}"
        );
    }
    let Ok((layout, _)) = DiskLayout::read(&disk) else {
        assert!(relabel(&mut disk, Slot::A, &SlotLabel::Empty).is_err());
        assert!(repair(&mut disk).is_err());
        assert!(disk.image() == before, "what is not ours is not written to");
        return;
    };
    if repair(&mut disk.clone()).is_ok() {
        let mut repaired = disk.clone();
        repair(&mut repaired).expect("it worked a moment ago");
        assert_eq!(
            Table::read(&repaired).expect("repaired").0.partitions,
            table.partitions
        );
        let twice = repair(&mut repaired).expect("it worked a moment ago");
        assert!(twice.steps.is_empty(), "{twice:?}");
    }
    match relabel(&mut disk, Slot::A, &SlotLabel::Empty) {
        Ok(()) => {
            let after = disk.image();
            for partition in std::iter::once(&layout.esp)
                .chain(&layout.var)
                .chain(&layout.foreign)
            {
                let bytes = usize::try_from(partition.start).expect("small")
                    ..usize::try_from(partition.range().end).expect("small");
                assert!(
                    before[bytes.clone()] == after[bytes],
                    "partition {} is untouched",
                    partition.number
                );
            }
            let (after, _) = DiskLayout::read(&disk).expect("it is ours still");
            assert_eq!(
                (after.esp, after.slot_b, after.var),
                (layout.esp, layout.slot_b, layout.var)
            );
        }
        Err(RelabelError::Rewrite { .. }) => {
            assert!(disk.image() == before, "a refusal writes nothing")
        }
        Err(error @ (RelabelError::Read { .. } | RelabelError::NoSuchSlot { .. })) => {
            unreachable!("the layout could be read: {error}")
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_disk_is_used_without_a_panic(image in vec(any::<u8>(), 0..6000)) {
        use_disk(FakeDisk::holding(image));
    }

    #[test]
    fn a_disk_with_hostile_headers_is_used_without_a_panic(
        fields in vec((0_usize..96, prop_oneof![Just(0_u64), Just(u64::MAX), 0_u64..70, any::<u64>()], 1_usize..=8), 1..4),
        both: bool,
    ) {
        let mut image = SMALL.clone();
        let end = image.len() - 512;
        let headers: &[usize] = if both { &[512, end] } else { &[512] };
        for &header in headers {
            for (at, value, width) in &fields {
                let bytes = &value.to_le_bytes()[..*width];
                image[header + at..header + at + width].copy_from_slice(bytes);
            }
            seal(&mut image, header);
        }
        use_disk(FakeDisk::holding(image));
    }

    #[test]
    fn a_disk_with_hostile_entries_is_used_without_a_panic(
        fields in vec((0_usize..9 * 128, prop_oneof![Just(0_u64), Just(u64::MAX), 0_u64..20_000, any::<u64>()], 1_usize..=8), 1..6),
    ) {
        let mut image = SMALL.clone();
        let end = image.len() - 512;
        for (entries, header) in [(1024, 512), (end - 32 * 512, end)] {
            for (at, value, width) in &fields {
                image[entries + at..entries + at + width].copy_from_slice(&value.to_le_bytes()[..*width]);
            }
            seal(&mut image, header);
        }
        use_disk(FakeDisk::holding(image));
    }

    #[test]
    fn the_labels_of_a_slot_survive_the_disk(
        version in "[a-z0-9][a-z0-9.~^-]{0,26}",
        bytes: [u8; 32],
        slot in prop_oneof![Just(Slot::A), Just(Slot::B)],
    ) {
        let version = Version::parse(&version).expect("drawn from the alphabet");
        let root_hash = RootHash::new(bytes);
        let mut disk = FakeDisk::holding(SMALL.clone());
        let label = SlotLabel::Holds { version: &version, root_hash: &root_hash };
        relabel(&mut disk, slot, &label).expect("nothing fails");
        let (layout, _) = DiskLayout::read(&disk).expect("our disk");
        let content = layout.slot(slot).expect("both slots are there").content();
        let Some(SlotLabel::Holds { version: found, root_hash: hash }) = content.as_label() else {
            return Err(TestCaseError::fail(format!("{content:?}")));
        };
        prop_assert_eq!((found.as_str(), hash), (version.as_str(), &root_hash));
        prop_assert_eq!(layout.slot(slot).map(|slot| slot.root.uuid), Some(Uuid::from_slice(&bytes[..16]).expect("16 bytes")));
    }
}

/// File systems that others made, one for each width, and where there is something in them.
static FILE_SYSTEMS: LazyLock<Vec<(Vec<u8>, Vec<usize>)>> = LazyLock::new(|| {
    let make = |bits| {
        let esp = Esp::format(bits);
        esp.add_entry("bistable_1.0~rc1.efi", "1.0~rc1", &root_hash_a());
        esp.add_entry("bistable_2.0+2-1.efi", "2.0", &root_hash_a());
        let bytes = esp.bytes();
        let used = bytes
            .iter()
            .take(2 << 20)
            .enumerate()
            .filter(|(_, byte)| **byte != 0);
        let used = used.map(|(at, _)| at).collect();
        (bytes, used)
    };
    vec![make("16"), make("32")]
});

#[cfg(feature = "esp")]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_rotten_file_system_is_read_without_a_panic_and_to_an_end(
        which in 0_usize..2,
        rot in vec((0_usize..3, any::<proptest::sample::Index>(), any::<u8>()), 1..40),
    ) {
        let (bytes, used) = &FILE_SYSTEMS[which];
        let mut bytes = bytes.clone();
        // Most of it is empty: rot the first sector, the tables and the folders.
        let tables = 512 * usize::from(u16::from_le_bytes([bytes[14], bytes[15]]));
        for (place, index, value) in rot {
            let at = match place {
                0 => index.index(90),
                1 => tables + index.index(64),
                _ => used[index.index(used.len())],
            };
            bytes[at] = value;
        }
        let len = bytes.len() as u64;
        let partition = partition_layout::Partition {
            number: 1,
            type_guid: Uuid::nil(),
            uuid: Uuid::nil(),
            label: String::new(),
            start: 0,
            len,
            attributes: 0,
        };
        let disk = FakeDisk::holding(bytes);
        if let Ok(esp) = partition_layout::esp::Esp::read(&disk, &partition) {
            esp.boots_next();
        }
        // Only that it ends.
        drop(partition_layout::esp::Esp::check(&disk, &partition));
    }
}
