//! Names of boot entries, edited here and read by others; and cut short at every write.

#[expect(
    dead_code,
    reason = "these tests need no partition table and no kernel image"
)]
mod common;

use std::collections::BTreeSet;

use common::{Content, Esp};
use partition_layout::entry_names::{EditNamesError, EntryNames};
use partition_layout::testing::{FakeDisk, Fault};
use partition_layout::{Device, SectorSize, TEMPORARY_NAME};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// The kinds of file system that an ESP may have, as options of `mkfs.vfat`: FAT16 and
/// FAT32, small and large sectors, folders of many clusters and of one.
const KINDS: [(u64, &[&str], SectorSize); 4] = [
    (3, &["-F", "16", "-s", "1"], SectorSize::B512),
    (9, &["-F", "16", "-s", "4"], SectorSize::B512),
    (34, &["-F", "32", "-s", "1"], SectorSize::B512),
    (
        18,
        &["-F", "16", "-s", "1", "-S", "4096"],
        SectorSize::B4096,
    ),
];

/// A file system with files in the folder of boot entries, each with its own name as content.
struct Stand {
    esp: Esp,
    sector: SectorSize,
}

impl Stand {
    fn new((mib, options, sector): (u64, &[&str], SectorSize), files: &[&str]) -> Self {
        let esp = Esp::format_with(mib * MIB, options);
        for name in files {
            esp.add(&format!("EFI/Linux/{name}"), content_of(name).as_bytes());
        }
        Self { esp, sector }
    }

    fn disk(&self) -> FakeDisk {
        FakeDisk::holding(self.esp.bytes()).with_sector_size(self.sector)
    }

    /// Shows a disk to the tools of others.
    fn show(&self, disk: &FakeDisk) -> &Esp {
        self.esp.replace(&disk.image());
        &self.esp
    }
}

/// Longer than a cluster of most.
fn content_of(name: &str) -> String {
    format!("{name} ").repeat(100)
}

fn edit(disk: &mut FakeDisk) -> EntryNames<'_, FakeDisk> {
    let end = disk.size().expect("a disk in memory");
    EntryNames::read(disk, 0..end).expect("a sound file system")
}

/// Renames, and counts the sectors that are written.
fn rename(disk: &mut FakeDisk, from: &str, to: &str) -> Result<usize, EditNamesError> {
    let before = disk.operations();
    edit(disk).rename(from, to)?;
    assert_eq!(disk.unsynced(), 0, "on return it has reached the disk");
    Ok(disk.operations() - before)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn others_find_a_renamed_file_under_its_new_name_and_nothing_wrong() {
    // What happens to an update that is armed, tried, marked good, and demoted.
    let life = [
        TEMPORARY_NAME,
        "bistable_2.0~rc1+3.efi",
        "bistable_2.0~rc1+2-1.efi",
        "bistable_2.0~rc1.efi",
        "bistable_2.0~rc1+0.efi",
        "bistable_2.0~rc1+2.efi",
    ];
    for kind in KINDS {
        let stand = Stand::new(kind, &["bistable_1.efi", TEMPORARY_NAME, "other.efi"]);
        let mut disk = stand.disk();
        for (from, to) in life.iter().zip(&life[1..]) {
            let written = rename(&mut disk, from, to).expect("there is room");
            assert_eq!(written, 2, "{kind:?}: to {to} by one write and one sync");
            let esp = stand.show(&disk);
            assert_eq!(esp.names(), set(&["bistable_1.efi", to, "other.efi"]));
            assert_eq!(esp.check(), [""; 0], "{kind:?}, {to}");
            assert_eq!(esp.content(to), content_of(TEMPORARY_NAME));
            assert_eq!(edit(&mut disk).mend().expect("nothing fails"), []);
        }
        stand.esp.remove("bistable_2.0~rc1+2.efi");
        assert_eq!(stand.esp.check(), [""; 0]);
        assert_eq!(
            stand.esp.content("bistable_1.efi"),
            content_of("bistable_1.efi")
        );
    }
}

/// What a cut within a rename may leave for others to complain of: parts of long names, and,
/// where the two names cannot change places at once, both of them.
fn is_harmless(complaint: &str, both: bool) -> bool {
    let of_parts = ["Orphaned long file name part", "Unfinished long file name"];
    let of_both = [
        "share clusters",
        "Truncating",
        "bistable",
        "and",
        "File size",
    ];
    let frame = [
        "fsck.fat",
        "Leaving filesystem",
        "Auto-deleting",
        "files,",
        "Not auto",
    ];
    let starts = |known: &[&str]| known.iter().any(|known| complaint.contains(known));
    complaint.is_empty() || starts(&of_parts) || starts(&frame) || (both && starts(&of_both))
}

/// Cuts the power at every operation of a rename, and looks at every disk that may be found.
fn cut_everywhere(stand: &Stand, start: &FakeDisk, from: &str, to: &str) -> usize {
    let content = stand.show(start).content(from);
    let others = stand.esp.names();
    let operations = rename(&mut start.clone(), from, to).expect("nothing fails");
    let unit = usize::try_from(stand.sector.bytes() / 512).expect("a small number");
    for cut in 0..=operations {
        let mut disk = start.clone();
        disk.fail_after(cut, Fault::PowerCut);
        assert_eq!(rename(&mut disk, from, to).is_ok(), cut == operations);
        // A sector is there or not; of several, any may be.
        let sectors = disk.unsynced() / unit;
        for survivors in 0..1_u32 << sectors {
            let mut found = disk.after_power_cut(|at| survivors >> (at / unit) & 1 == 1);
            let when = format!("{from} to {to}, cut after {cut}, {survivors:#b} survive");
            check_cut(stand, &mut found, from, to, &content, &others, &when);
        }
    }
    operations
}

fn check_cut(
    stand: &Stand,
    disk: &mut FakeDisk,
    from: &str,
    to: &str,
    content: &str,
    before: &BTreeSet<String>,
    when: &str,
) {
    let esp = stand.show(disk);
    let names = esp.names();
    let there: Vec<_> = [from, to]
        .into_iter()
        .filter(|name| names.contains(*name))
        .collect();
    assert!(!there.is_empty(), "{when}: neither in {names:?}");
    for name in &there {
        assert_eq!(esp.content(name), content, "{when}: {name}");
    }
    for complaint in esp.check() {
        assert!(
            is_harmless(&complaint, there.len() == 2),
            "{when}: {complaint}"
        );
    }
    // Cut again while it is mended: nothing gets worse.
    for cut in 0..3 {
        let mut again = disk.clone();
        again.fail_after(cut, Fault::PowerCut);
        let mended = edit(&mut again).mend();
        let mut again = again.after_power_cut(|at| at % 2 == 0);
        if mended.is_err() {
            edit(&mut again).mend().expect("the power is back");
        }
        let names = stand.show(&again).names();
        assert!(there.iter().any(|name| names.contains(*name)), "{when}");
        assert_eq!(stand.esp.check(), [""; 0], "{when}, mended in two parts");
    }
    edit(disk).mend().expect("nothing fails");
    let esp = stand.show(disk);
    assert_eq!(esp.check(), [""; 0], "{when}, mended");
    let names = esp.names();
    let mut survivors = [from, to].into_iter().filter(|name| names.contains(*name));
    let survivor = survivors.next().expect("one is there");
    assert_eq!(survivors.next(), None, "{when}");
    let others = before.iter().filter(|name| *name != from).cloned();
    let expected: BTreeSet<_> = others.chain([survivor.to_owned()]).collect();
    assert_eq!(names, expected, "{when}: the others are as they were");
    for other in names.iter().filter(|name| *name != survivor) {
        esp.remove(other);
    }
    assert_eq!(esp.content(survivor), content, "{when}, all others removed");
    assert_eq!(esp.check(), [""; 0], "{when}, all others removed");
}

#[test]
fn wherever_a_rename_is_cut_the_whole_file_is_there_and_outlives_the_removal_of_all_others() {
    for kind in KINDS {
        let stand = Stand::new(kind, &["bistable_1.efi", TEMPORARY_NAME]);
        let operations = cut_everywhere(&stand, &stand.disk(), TEMPORARY_NAME, "bistable_2+3.efi");
        assert_eq!(operations, 2, "{kind:?}: one write, one sync");
    }
}

/// Two parts, filled to the last character; its counter takes a third.
const GOOD: &str = "bistable_1234567890123.efi";
const DEMOTED: &str = "bistable_1234567890123+0.efi";

fn filler(number: usize) -> String {
    format!("filler-file-{number}.efi")
}

#[test]
fn the_same_holds_wherever_in_a_crowded_folder_the_old_name_stands() {
    let mut operations = BTreeSet::new();
    for before in 0..6 {
        for removed in [None, Some(before), Some(before + 2)] {
            let fillers: Vec<_> = (0..before + 9).map(filler).collect();
            let (first, later) = fillers.split_at(before);
            let files = first.iter().map(String::as_str).chain([GOOD]);
            let files: Vec<_> = files.chain(later.iter().map(String::as_str)).collect();
            let stand = Stand::new(KINDS[0], &files);
            removed
                .into_iter()
                .for_each(|number| stand.esp.remove(&filler(number)));
            let start = stand.disk();
            // A folder that ends with its cluster can be full: that has its own test.
            let refused = rename(&mut start.clone(), GOOD, DEMOTED).err();
            if !matches!(refused, Some(EditNamesError::NoRoom { .. })) {
                operations.insert(cut_everywhere(&stand, &start, GOOD, DEMOTED));
            }
        }
    }
    // A write and a sync; with parts beside; a new name elsewhere, and the old one's end.
    assert_eq!(operations, BTreeSet::from([2, 4, 6]), "all ways were seen");
}

#[test]
fn a_temporary_name_across_two_sectors_becomes_an_entry_in_one_step() {
    // Two records are the folder's own; the third filler ends before the last two of the sector.
    let fillers: Vec<_> = (0..4).map(filler).collect();
    let mut files: Vec<_> = fillers.iter().map(String::as_str).collect();
    files.push(TEMPORARY_NAME);
    let stand = Stand::new(KINDS[0], &files);
    let start = stand.disk();
    let operations = cut_everywhere(&stand, &start, TEMPORARY_NAME, "bistable_2+3.efi");
    assert_eq!(
        operations, 4,
        "the flip, and the end of what was left of the old name"
    );
    for cut in 0..operations {
        let mut disk = start.clone();
        disk.fail_after(cut, Fault::PowerCut);
        rename(&mut disk, TEMPORARY_NAME, "bistable_2+3.efi").expect_err("the power fails");
        let mut disk = disk.after_power_cut(|_| true);
        let names = edit(&mut disk).names();
        let count = |name: &str| names.iter().filter(|found| *found == name).count();
        assert_eq!(
            count(TEMPORARY_NAME) + count("bistable_2+3.efi"),
            1,
            "{names:?}"
        );
    }
}

#[test]
fn a_folder_without_room_is_told_and_not_touched() {
    // Eleven names of old, the folder's own two and three of the good one are a sector.
    let singles: Vec<_> = ('A'..='K').map(|letter| format!("{letter}.EFI")).collect();
    let files: Vec<_> = singles.iter().map(String::as_str).chain([GOOD]).collect();
    let stand = Stand::new(KINDS[0], &files);
    let mut disk = stand.disk();
    let error = rename(&mut disk, GOOD, DEMOTED).expect_err("there is no room");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    assert_eq!(disk.operations(), 0);
    assert_eq!(
        rename(&mut disk, GOOD, "bistable_1.efi").expect("it is shorter"),
        2
    );
}

#[test]
fn what_was_never_read_behind_the_end_of_a_folder_is_not_read_later() {
    let stand = Stand::new(KINDS[0], &[&filler(0), &filler(1), &filler(2), GOOD]);
    let mut image = stand.esp.bytes();
    // Four names of three records, and the folder's own two: record 14 ends it.
    let own = *b"BISTAB~1EFI";
    let place = image.windows(own.len()).position(|bytes| bytes == own);
    let last = place.expect("it is there");
    let (end, ghost) = (last + 32, image[last..last + 32].to_vec());
    for number in 1..18 {
        let place = end + 32 * number;
        if number != 1 && (place / 512 != end / 512 || place % 512 == 0) {
            break;
        }
        image[place..place + 32].copy_from_slice(&ghost);
        let name = format!("GHOST{number:03}");
        image[place..place + 8].copy_from_slice(name.as_bytes());
        // The usual check looks behind the end too, so it gets nothing to complain of.
        image[place + 20..place + 22].fill(0);
        image[place + 26..place + 32].fill(0);
    }
    let start = FakeDisk::holding(image);
    for to in [DEMOTED, "bistable_1234567890123+12-12.efi"] {
        let names = stand.show(&start).names();
        assert!(
            !names.iter().any(|name| name.contains("GHOST")),
            "{names:?}"
        );
        cut_everywhere(&stand, &start, GOOD, to);
    }
}

#[test]
fn a_rename_that_cannot_be_is_refused_by_name() {
    let stand = Stand::new(KINDS[0], &["bistable_1.efi", "bistable_2.efi"]);
    let mut disk = stand.disk();
    let mut refused = |from: &str, to: &str| {
        let error = rename(&mut disk, from, to).expect_err("it cannot be");
        assert_eq!(disk.operations(), 0);
        error.kind()
    };
    use std::io::ErrorKind as Kind;
    assert_eq!(refused("bistable_3.efi", "bistable_4.efi"), Kind::NotFound);
    assert_eq!(
        refused("bistable_1.efi", "BISTABLE_2.EFI"),
        Kind::AlreadyExists
    );
    assert_eq!(
        refused("bistable_1.efi", "bistab~2.efi"),
        Kind::AlreadyExists
    );
    assert_eq!(refused("bistable_1.efi", "a/b"), Kind::InvalidInput);
    assert_eq!(
        rename(&mut disk, "BISTABLE_1.EFI", "bistable_1.efi").expect("the same"),
        0
    );
    assert_eq!(
        rename(&mut disk, "bistable_1.efi", "Bistable_1.efi").expect("its own"),
        2
    );
}

#[test]
fn a_file_system_in_smaller_sectors_than_the_disk_writes_is_refused() {
    let stand = Stand::new(KINDS[0], &["bistable_1.efi"]);
    let mut disk = stand.disk().with_sector_size(SectorSize::B4096);
    let end = disk.size().expect("a disk in memory");
    let error = EntryNames::read(&mut disk, 0..end).expect_err("a write would be torn");
    assert!(matches!(
        error,
        EditNamesError::SmallSectors {
            found: 512,
            disk: 4096
        }
    ));
}

#[test]
fn what_the_rename_of_a_driver_has_left_is_mended_without_freeing_a_cluster() {
    use Content::{None, Shared};
    for (from, to, content, kept) in [
        ("bistable_2+3.efi", "bistable_2+2-1.efi", None, 0),
        ("bistable_2+3.efi", "bistable_2+2-1.efi", Shared, 0),
        ("bistable_2+1-2.efi", "bistable_2+0-3.efi", Shared, 0),
        ("bistable_2+2-1.efi", "bistable_2.efi", Shared, 1),
        ("bistable_2.efi", "bistable_2+0.efi", Shared, 0),
        ("bistable.new", "bistable_2+3.efi", Shared, 1),
        (TEMPORARY_NAME, "bistable_2+3.efi", None, 0),
    ] {
        let stand = Stand::new(KINDS[0], &[from]);
        stand.esp.tear(from, to, content);
        let mut disk = stand.disk();
        assert_eq!(stand.esp.names(), set(&[from, to]));
        let mended = edit(&mut disk).mend().expect("nothing fails");
        let mended: Vec<_> = mended.into_iter().map(|torn| torn.name).collect();
        assert_eq!(mended, [[from, to][1 - kept]]);
        let esp = stand.show(&disk);
        assert_eq!(esp.names(), set(&[[from, to][kept]]));
        assert_eq!(esp.content([from, to][kept]), content_of(from));
        assert_eq!(esp.check(), [""; 0]);
    }
}

/// A name of ours: of two to five parts.
fn our_name() -> impl Strategy<Value = String> {
    let counter = proptest::option::of((0..=3_u32, proptest::option::of(0..=i32::MAX)));
    let name = ("[a-z0-9][a-z0-9.~^-]{0,26}", counter).prop_map(|(version, counter)| {
        let counter = match counter {
            None => String::new(),
            Some((left, None)) => format!("+{left}"),
            Some((left, Some(done))) => format!("+{left}-{done}"),
        };
        format!("bistable_{version}{counter}.efi")
    });
    prop_oneof![6 => name, 1 => Just(TEMPORARY_NAME.to_owned())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Names of all lengths come and go until they straddle sectors and leave gaps; then
    /// one more rename is cut.
    #[test]
    fn after_any_history_a_cut_rename_leaves_every_file_whole(
        kind in 0..KINDS.len() - 2,
        strangers in proptest::collection::btree_set("[a-zA-Z][a-zA-Z ]{0,40}[a-z]", 0..5),
        history in proptest::collection::vec((any::<prop::sample::Index>(), our_name()), 1..40),
        cut in 0..8_usize,
        survivors: u8,
    ) {
        let lower: BTreeSet<_> = strangers.iter().map(|name| name.to_lowercase()).collect();
        prop_assume!(lower.len() == strangers.len());
        let ours: Vec<_> = (1..6).map(|number| format!("bistable_{number}.efi")).collect();
        let mut files: Vec<&str> = Vec::new();
        let mut add = strangers.iter();
        for name in &ours {
            files.push(name);
            files.extend(add.next().map(String::as_str));
        }
        let stand = Stand::new(KINDS[kind], &files);
        let mut disk = stand.disk();
        // What each of our files is called now.
        let mut called = ours.clone();
        let (last, earlier) = history.split_last().expect("one at least");
        for (which, to) in earlier {
            let which = which.index(called.len());
            match rename(&mut disk, &called[which], to) {
                Ok(_) => called[which].clone_from(to),
                Err(error) => prop_assert!(matches!(error, EditNamesError::Exists { .. } | EditNamesError::NoRoom { .. }), "{error}"),
            }
        }
        let (which, to) = (last.0.index(called.len()), &last.1);
        disk.fail_after(cut, Fault::PowerCut);
        let renamed = rename(&mut disk, &called[which], to).is_ok();
        let mut disk = disk.after_power_cut(|at| survivors >> (at % 8) & 1 == 1);
        if !renamed {
            edit(&mut disk).mend().expect("the power is back");
        }
        let esp = stand.show(&disk);
        prop_assert_eq!(esp.check(), [""; 0]);
        let names = esp.names();
        prop_assert_eq!(names.len(), files.len(), "{:?}", names);
        let now = if names.contains(&called[which]) { &called[which] } else { to };
        prop_assert!(!renamed || now == to);
        let now = now.clone();
        called[which] = now;
        for (name, first) in called.iter().zip(&ours) {
            prop_assert_eq!(esp.content(name), content_of(first), "{}", name);
        }
        for name in &strangers {
            prop_assert_eq!(esp.content(name), content_of(name));
        }
    }
}
