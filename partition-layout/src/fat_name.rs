//! A name as a folder of a FAT file system keeps it: parts of the long name, the last
//! one first, and behind them the record with the name of old.
//!
//! Source: as for the file system, see [`crate::fat`].

use crate::fat_folder::{
    ATTRIBUTES_OF_LONG_NAME, ENTRY_BYTES, LAST_PART, SHORT_BYTES, UNITS_OF_PART, checksum_of,
    short_name,
};

/// A record of a folder.
pub(crate) type Record = [u8; ENTRY_BYTES];

const MOST_UNITS: usize = 255;
/// Where the parts of a name of old begin and end.
const STEM_BYTES: usize = 8;
const PLACE_OF_CASE: usize = 12;
const FORBIDDEN: &str = "\"*/:<>?\\|";
/// What a name of old may hold beside letters and digits.
const ODD_BUT_ALLOWED: &str = "$%'-_@~`!(){}^#&";
/// A folder has no more entries than there are tails up to here.
const LAST_TAIL: u32 = 99_999;

/// Says what keeps `name` from being the name of a file.
pub(crate) fn fault_of(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.encode_utf16().count() > MOST_UNITS {
        return Some("it has not 1 to 255 characters");
    }
    if name.ends_with(['.', ' ']) {
        return Some("it ends in a dot or a space");
    }
    let forbidden = |char: char| char.is_control() || FORBIDDEN.contains(char);
    name.contains(forbidden)
        .then_some("it has a character that FAT does not allow")
}

/// Returns the records of `name`, of which `last` is the file's own: everything in it
/// but the name stays.
pub(crate) fn records_of(name: &str, short: &[u8; SHORT_BYTES], last: &Record) -> Vec<Record> {
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if !units.len().is_multiple_of(UNITS_OF_PART) {
        // One zero ends the name, the rest of its part is ones.
        units.push(0);
    }
    let checksum = checksum_of(short);
    let parts = units.chunks(UNITS_OF_PART);
    let highest = u8::try_from(parts.len()).expect("255 characters make 20 parts");
    let mut records: Vec<_> = parts
        .zip(1..=highest)
        .map(|(part, number)| {
            let mark = if number == highest { LAST_PART } else { 0 };
            part_record(number | mark, checksum, part)
        })
        .rev()
        .collect();
    let mut own = *last;
    for (place, byte) in own.iter_mut().zip(short) {
        *place = *byte;
    }
    if let Some(case) = own.get_mut(PLACE_OF_CASE) {
        *case = 0;
    }
    records.push(own);
    records
}

fn part_record(order: u8, checksum: u8, units: &[u16]) -> Record {
    let mut bytes = units.iter().flat_map(|unit| unit.to_le_bytes());
    let mut record = [0; ENTRY_BYTES];
    for (place, byte) in record.iter_mut().enumerate() {
        *byte = match place {
            0 => order,
            11 => ATTRIBUTES_OF_LONG_NAME,
            13 => checksum,
            // The kind, and a cluster that is none.
            12 | 26 | 27 => 0,
            _ => bytes.next().unwrap_or(0xff),
        };
    }
    record
}

/// Returns a name of old for `name` that is not `taken`, which is asked with the bytes
/// of the name and with its text.
pub(crate) fn short_for(
    name: &str,
    taken: impl Fn(&[u8; SHORT_BYTES], &str) -> bool,
) -> Option<[u8; SHORT_BYTES]> {
    let (stem, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
    let (stem, suffix) = (plain(stem), plain(suffix));
    (1..=LAST_TAIL).find_map(|number| {
        let tail = format!("~{number}");
        let room = STEM_BYTES.saturating_sub(tail.len());
        let text: String = stem.chars().take(room).chain(tail.chars()).collect();
        let mut short = [b' '; SHORT_BYTES];
        let (first, second) = short.split_at_mut(STEM_BYTES);
        put(first, &text);
        put(second, &suffix);
        (!taken(&short, &short_name(&short, 0))).then_some(short)
    })
}

fn put(place: &mut [u8], text: &str) {
    for (place, byte) in place.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
}

fn plain(text: &str) -> String {
    text.chars()
        .filter(|char| !matches!(char, ' ' | '.'))
        .map(|char| match char.to_ascii_uppercase() {
            char if char.is_ascii_alphanumeric() || ODD_BUT_ALLOWED.contains(char) => char,
            _ => '_',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::boot_entry::{BootEntry, REMOVED_NAME, TEMPORARY_NAME, is_temporary_name};
    use crate::fat_folder::nodes;
    use crate::version::Version;

    #[test]
    fn a_name_of_old_is_made_of_plain_letters_and_a_number_that_is_free() {
        let free = |_: &[u8; SHORT_BYTES], _: &str| false;
        assert_eq!(short_for("bistable_1.0+3.efi", free), Some(*b"BISTAB~1EFI"));
        let first = |short: &[u8; SHORT_BYTES], _: &str| short == b"BISTAB~1EFI";
        assert_eq!(
            short_for("bistable_1.0+3.efi", first),
            Some(*b"BISTAB~2EFI")
        );
        let up_to_nine = |_: &[u8; SHORT_BYTES], text: &str| !text.contains("~10");
        assert_eq!(
            short_for("bistable_1.efi", up_to_nine),
            Some(*b"BISTA~10EFI")
        );
        assert_eq!(short_for("ä+b", free), Some(*b"__B~1      "));
        assert_eq!(short_for(".hidden", free), Some(*b"~1      HID"));
    }

    #[test]
    fn no_name_takes_more_records_than_the_one_that_it_replaces() {
        let count = |name: &str| records_of(name, b"BISTAB~1EFI", &[0; ENTRY_BYTES]).len();
        let longest = Version::parse(&"9".repeat(Version::MAX_LENGTH)).expect("a version");
        // More tries than anybody can ask for.
        let armed = BootEntry::armed(longest, 99);
        assert!(count(&armed.file_name()) <= count(TEMPORARY_NAME));
        let shortest = BootEntry::good(Version::parse("1").expect("a version"));
        assert!(count(REMOVED_NAME) <= count(&shortest.file_name()));
        assert!(is_temporary_name(REMOVED_NAME));
        assert!(is_temporary_name(TEMPORARY_NAME));
        assert!(fault_of(TEMPORARY_NAME).is_none());
        assert!(is_temporary_name("BISTABLE.NEW"), "of an older release");
        assert!(!is_temporary_name("bistable.new.efi"));
        assert!(!is_temporary_name("bistable_1.efi"));
    }

    #[test]
    fn what_fat_does_not_allow_in_a_name_is_refused() {
        for bad in ["", "a/b", "a.", "a ", "a\\b", "a*", "a\n", &"x".repeat(256)] {
            assert!(fault_of(bad).is_some(), "{bad:?}");
        }
        assert_eq!(fault_of("bistable_1.0~rc1^git+3-1.efi"), None);
        assert_eq!(fault_of(&"x".repeat(255)), None);
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(name in "[a-zA-Z0-9äß漢𝒳+~^ .-]{0,80}[a-z0-9ß𝒳]") {
            prop_assume!(fault_of(&name).is_none());
            let short = short_for(&name, |_, _| false).expect("none is taken");
            let mut last = [0x20; ENTRY_BYTES];
            last[20..22].copy_from_slice(&1_u16.to_le_bytes());
            last[26..28].copy_from_slice(&2_u16.to_le_bytes());
            last[28..32].copy_from_slice(&77_u32.to_le_bytes());
            let records = records_of(&name, &short, &last);
            prop_assert_eq!(records.len(), 1 + name.encode_utf16().count().div_ceil(UNITS_OF_PART));
            let found = nodes(records.as_flattened());
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(&found[0].name, &name);
            prop_assert_eq!((found[0].first_cluster, found[0].size), (0x1_0002, 77));
        }
    }
}
