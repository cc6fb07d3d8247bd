//! The EFI system partition: the FAT file system, the boot entries on it and what they
//! say of themselves, names that a rename left torn, and names that are changed.
//!
//! The input is a disk whose only partition it is.

use std::collections::BTreeMap;

use partition_layout::entry_names::EntryNames;
use partition_layout::esp::{Esp, FatCheck};
use partition_layout::{Partition, Uuid};

use crate::Outcome;
use crate::disk::Disk;
use crate::script::Script;

const NEW_NAME: &str = "bistable_9.9~fuzz+3.efi";

pub(crate) fn read(input: &[u8]) -> Outcome {
    let disk = Disk::parse(&mut Script(input));
    let partition = Partition {
        number: 1,
        type_guid: Uuid::nil(),
        uuid: Uuid::nil(),
        label: String::new(),
        start: 0,
        len: disk.len(),
        attributes: 0,
    };
    let check = Esp::check(&disk, &partition);
    let Ok(esp) = Esp::read(&disk, &partition) else {
        return Outcome::Refused;
    };
    let extents: BTreeMap<_, _> = esp
        .files
        .iter()
        .filter_map(|file| Some((file.file_name.clone(), file.extents.as_ref().ok()?)))
        .collect();
    for file in &esp.files {
        let Ok(extents) = &file.extents else {
            continue;
        };
        assert!(extents.iter().all(|part| part.end <= disk.len()));
        let bytes: u64 = extents.iter().map(|part| part.end - part.start).sum();
        assert_eq!(bytes, file.size, "{}", file.file_name);
    }
    if let Some(next) = esp.boots_next() {
        assert!(next.loader_entry().is_some(), "what boots next can boot");
    }

    let mut changed = disk.clone();
    let end = disk.len();
    let Ok(mut names) = EntryNames::read(&mut changed, 0..end) else {
        return Outcome::Refused;
    };
    let before = names.names();
    let mended = names.mend().expect("the medium does not fail");
    let after = names.names();
    assert_eq!(before.len(), after.len() + mended.len());
    drop(names);
    let mut names = EntryNames::read(&mut changed, 0..end).expect("it was readable before");
    assert_eq!(names.names(), after, "what was mended has reached the disk");
    assert_eq!(names.mend().expect("the medium does not fail"), []);
    let sound = matches!(&check, Ok(FatCheck { damage, .. }) if damage.is_empty());
    let renamed = after.first().is_some_and(|first| {
        let renamed = names.rename(first, NEW_NAME).is_ok();
        renamed && first != NEW_NAME
    });
    if renamed && sound {
        hold_rename(&changed, &after);
        hold_files(&changed, &partition, &extents);
    }
    Outcome::Accepted
}

/// Asserts that of `before` the first has got the new name, and no other another one.
fn hold_rename(disk: &Disk, before: &[String]) {
    let mut disk = disk.clone();
    let end = disk.len();
    let names = EntryNames::read(&mut disk, 0..end).expect("it was readable before");
    let mut found = names.names();
    found.sort();
    let mut expected = vec![NEW_NAME.to_owned()];
    expected.extend(before.iter().skip(1).cloned());
    expected.sort();
    assert_eq!(found, expected);
}

/// Asserts that files which kept their names lie where they lay.
fn hold_files(
    disk: &Disk,
    partition: &Partition,
    before: &BTreeMap<String, &Vec<std::ops::Range<u64>>>,
) {
    let esp = Esp::read(disk, partition).expect("it was readable before");
    for file in &esp.files {
        if let (Ok(now), Some(before)) = (&file.extents, before.get(&file.file_name)) {
            assert_eq!(&now, before, "{}", file.file_name);
        }
    }
}

/// None are made here: those in the corpus come from `mkfs.vfat` and mtools.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}
