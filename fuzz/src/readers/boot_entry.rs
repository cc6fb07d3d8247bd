//! The name of a file in the folder of boot entries.

use partition_layout::{BootEntry, CountedName, Counter, Version, is_temporary_name};

use crate::Outcome;

pub(crate) fn read(input: &[u8]) -> Outcome {
    let Ok(name) = std::str::from_utf8(input) else {
        return Outcome::Refused;
    };
    let counted = CountedName::parse(name);
    assert_eq!(
        CountedName::parse(&counted.file_name()),
        counted,
        "it prints itself"
    );
    let spent = counted.spent();
    assert_eq!(spent.id, counted.id, "it stays the same entry");
    if let (Some(before), Some(after)) = (counted.counter, spent.counter) {
        assert!(before.left <= Counter::MAX && before.done <= Counter::MAX);
        assert!(after.left <= before.left && after.done >= before.done);
        assert_eq!(CountedName::parse(&spent.file_name()), spent);
    }
    let Ok(entry) = BootEntry::parse_file_name(name) else {
        return Outcome::Refused;
    };
    assert!(
        !is_temporary_name(name),
        "an entry is nothing to be removed"
    );
    for entry in [
        entry.clone(),
        entry.demoted(),
        BootEntry::good(entry.version.clone()),
        BootEntry::armed(entry.version.clone(), 3),
    ] {
        let printed = entry.file_name();
        let again = BootEntry::parse_file_name(&printed).expect("it prints itself");
        assert_eq!(again.version.as_str(), entry.version.as_str());
        assert_eq!(
            (&again.counter, again.file_name()),
            (&entry.counter, printed)
        );
        assert_eq!(again.is_bad(), entry.is_bad());
    }
    assert!(entry.demoted().is_bad());
    Outcome::Accepted
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let version = Version::parse("2.0~rc1^4-5").expect("a good version");
    let armed = BootEntry::armed(version.clone(), 3);
    let named = [
        BootEntry::good(version).file_name(),
        armed.file_name(),
        armed.demoted().file_name(),
    ];
    let names = named
        .into_iter()
        .chain(["BISTABLE_1+09-0002.EFI".to_owned()]);
    names.map(String::into_bytes).collect()
}
