//! What a folder of a FAT file system says: its entries, and their long and short names.
//!
//! Source: as for the file system, see [`crate::fat`].

use std::ops::Range;

use crate::header::Fields;

/// The size of an entry.
pub(crate) const ENTRY_BYTES: usize = 32;
/// The size of a name of old: eight characters and three.
pub(crate) const SHORT_BYTES: usize = 11;
/// The first byte of an entry that is free.
pub(crate) const DELETED: u8 = 0xe5;

const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;
pub(crate) const ATTRIBUTES_OF_LONG_NAME: u8 = 0x0f;

/// A file or folder, as its folder describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) is_folder: bool,
    pub(crate) size: u64,
    pub(crate) first_cluster: u32,
}

/// A name in a folder: its records, which stand one behind the other.
#[derive(Clone, Debug)]
pub(crate) struct NameSet {
    pub(crate) node: Node,
    /// The name of old, by which the parts of the long one are told to belong here.
    pub(crate) short: [u8; SHORT_BYTES],
    /// The places of its records. The last one makes the name real.
    pub(crate) slots: Range<usize>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Content,
    /// The label of the file system, `.` or `..`.
    Fixture,
}

/// What the records of a folder are.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) names: Vec<NameSet>,
    /// Parts of long names that belong to no name.
    pub(crate) strays: Vec<usize>,
    /// The first record that is not read any more: the end of the folder.
    pub(crate) end: usize,
}

/// Takes the files and folders out of the content of a folder.
pub(crate) fn nodes(folder: &[u8]) -> Vec<Node> {
    let names = records(folder).names.into_iter();
    names
        .filter_map(|name| (name.kind == Kind::Content).then_some(name.node))
        .collect()
}

/// Tells what each record of a folder is.
pub(crate) fn records(folder: &[u8]) -> Records {
    let mut found = Records::default();
    let mut long = LongName::default();
    for (slot, bytes) in folder.as_chunks::<ENTRY_BYTES>().0.iter().enumerate() {
        let Some(entry) = Entry::parse(bytes) else {
            break;
        };
        found.end = slot.saturating_add(1);
        match entry {
            Entry::Deleted => found.strays.extend(std::mem::take(&mut long).slots),
            Entry::PartOfLongName {
                order,
                checksum,
                units,
            } => found.strays.extend(long.add(slot, order, checksum, &units)),
            Entry::Named {
                short,
                is_volume,
                mut node,
            } => {
                let (name, before) = match std::mem::take(&mut long).finish(checksum_of(&short)) {
                    Ok((name, slots)) => (Some(name), slots.len()),
                    Err(strays) => {
                        found.strays.extend(strays);
                        (None, 0)
                    }
                };
                node.name = name.unwrap_or(node.name);
                let is_link = node.name == "." || node.name == "..";
                let kind = if is_volume || is_link {
                    Kind::Fixture
                } else {
                    Kind::Content
                };
                found.names.push(NameSet {
                    node,
                    short,
                    slots: slot.saturating_sub(before)..found.end,
                    kind,
                });
            }
        }
    }
    found.strays.extend(long.slots);
    found
}

impl NameSet {
    /// Tells whether it is a file, and neither folder nor label.
    pub(crate) fn is_file(&self) -> bool {
        self.kind == Kind::Content && !self.node.is_folder
    }

    /// Returns the place of the record that makes the name real.
    pub(crate) fn short_slot(&self) -> usize {
        self.slots.end.saturating_sub(1)
    }
}

enum Entry {
    Deleted,
    PartOfLongName {
        order: u8,
        checksum: u8,
        units: Vec<u16>,
    },
    Named {
        short: [u8; SHORT_BYTES],
        is_volume: bool,
        node: Node,
    },
}

impl Entry {
    /// Reads one entry; `None` is the end of the folder.
    fn parse(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let short: [u8; SHORT_BYTES] = fields.take()?;
        let [attributes, case] = fields.take()?;
        let [first, ..] = short;
        match first {
            0x00 => return None,
            DELETED => return Some(Self::Deleted),
            _ => {}
        }
        if attributes & 0x3f == ATTRIBUTES_OF_LONG_NAME {
            let [checksum] = fields.take()?;
            // Five units between the order and the attributes, six and two behind.
            let mut start = Fields(bytes);
            let [order] = start.take()?;
            let mut units = Vec::with_capacity(UNITS_OF_PART);
            for _ in 0..5 {
                units.push(start.u16()?);
            }
            for _ in 0..6 {
                units.push(fields.u16()?);
            }
            let _cluster: [u8; 2] = fields.take()?;
            for _ in 0..2 {
                units.push(fields.u16()?);
            }
            return Some(Self::PartOfLongName {
                order,
                checksum,
                units,
            });
        }
        let _creation_and_access: [u8; 7] = fields.take()?;
        let high = fields.u16()?;
        let _modification: [u8; 4] = fields.take()?;
        let low = fields.u16()?;
        let size = fields.u32()?;
        let node = Node {
            name: short_name(&short, case),
            is_folder: attributes & ATTRIBUTE_FOLDER != 0,
            size: u64::from(size),
            first_cluster: u32::from(high) << 16 | u32::from(low),
        };
        let is_volume = attributes & ATTRIBUTE_VOLUME != 0;
        Some(Self::Named {
            short,
            is_volume,
            node,
        })
    }
}

/// Returns an 8.3 name as text. Bits 3 and 4 of `case` say that a part is in lower case.
pub(crate) fn short_name(short: &[u8; SHORT_BYTES], case: u8) -> String {
    let (stem, suffix) = short.split_at(8);
    let text = |part: &[u8], lower: bool| {
        let text: String = part
            .iter()
            .map(|&byte| {
                if byte.is_ascii() {
                    char::from(byte)
                } else {
                    char::REPLACEMENT_CHARACTER
                }
            })
            .collect();
        let text = text.trim_end();
        if lower {
            text.to_ascii_lowercase()
        } else {
            text.to_owned()
        }
    };
    let (stem, suffix) = (text(stem, case & 0x08 != 0), text(suffix, case & 0x10 != 0));
    if suffix.is_empty() {
        stem
    } else {
        format!("{stem}.{suffix}")
    }
}

pub(crate) fn checksum_of(short: &[u8; SHORT_BYTES]) -> u8 {
    short
        .iter()
        .fold(0_u8, |sum, &byte| sum.rotate_right(1).wrapping_add(byte))
}

/// How many UTF-16 units of a long name stand in one record.
pub(crate) const UNITS_OF_PART: usize = 13;
pub(crate) const LAST_PART: u8 = 0x40;

/// A long name as it comes together: its parts stand before the short name, the last one first.
#[derive(Default)]
struct LongName {
    /// The parts so far, each before the ones that came earlier.
    units: Vec<u16>,
    /// Where they stand.
    slots: Vec<usize>,
    /// The order of the part that came last, and the checksum they all carry.
    state: Option<(u8, u8)>,
}

impl LongName {
    /// Takes a part, and returns the places of those that it shows to be strays.
    fn add(&mut self, slot: usize, order: u8, checksum: u8, part: &[u16]) -> Vec<usize> {
        let number = order & !LAST_PART;
        let continues = self.state == Some((number.saturating_add(1), checksum));
        let mut strays = Vec::new();
        if order & LAST_PART != 0 {
            strays = std::mem::take(self).slots;
        } else if !continues {
            strays = std::mem::take(self).slots;
            strays.push(slot);
            return strays;
        }
        self.units.splice(..0, part.iter().copied());
        self.slots.push(slot);
        self.state = Some((number, checksum));
        strays
    }

    /// Returns the name and where its parts stand, when it is whole and belongs to the
    /// short name with `checksum`; or the places of what turns out to be strays.
    fn finish(self, checksum: u8) -> Result<(String, Vec<usize>), Vec<usize>> {
        let is_whole = self.state == Some((1, checksum));
        let text = self
            .units
            .split(|&unit| unit == 0)
            .next()
            .unwrap_or_default();
        if is_whole {
            Ok((String::from_utf16_lossy(text), self.slots))
        } else {
            Err(self.slots)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The entry of `loader.conf`, as Linux writes it: an 8.3 name in lower case.
    fn short_entry() -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[..11].copy_from_slice(b"LOADER  CON");
        entry[11] = 0x20;
        entry[12] = 0x18;
        entry[20..22].copy_from_slice(&1_u16.to_le_bytes());
        entry[26..28].copy_from_slice(&2_u16.to_le_bytes());
        entry[28..32].copy_from_slice(&77_u32.to_le_bytes());
        entry
    }

    fn long_entry(order: u8, text: &str) -> [u8; ENTRY_BYTES] {
        let mut entry = [0xff; ENTRY_BYTES];
        let units: Vec<_> = text
            .encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect();
        let places = (1..11).chain(14..26).chain(28..32);
        places
            .zip(units)
            .for_each(|(place, byte)| entry[place] = byte);
        entry[0] = order;
        entry[11] = ATTRIBUTES_OF_LONG_NAME;
        entry[12] = 0;
        entry[13] = checksum_of(b"LOADER  CON");
        entry[26..28].fill(0);
        entry
    }

    #[test]
    fn a_short_name_in_lower_case_is_read_so() {
        let found = nodes(&short_entry());
        let wanted = Node {
            name: "loader.con".to_owned(),
            is_folder: false,
            size: 77,
            first_cluster: 0x1_0002,
        };
        assert_eq!(found, [wanted]);
    }

    #[test]
    fn a_long_name_counts_only_when_it_is_whole_and_belongs_to_the_short_one() {
        let (second, first) = (long_entry(0x42, "n.efi"), long_entry(1, "bistable_1.0+"));
        let name = |entries: &[[u8; ENTRY_BYTES]]| {
            let found = nodes(entries.as_flattened());
            found.into_iter().map(|node| node.name).collect::<Vec<_>>()
        };
        assert_eq!(
            name(&[second, first, short_entry()]),
            ["bistable_1.0+n.efi"]
        );
        assert_eq!(name(&[first, second, short_entry()]), ["loader.con"]);
        assert_eq!(name(&[second, short_entry()]), ["loader.con"]);
        let mut stranger = first;
        stranger[13] ^= 1;
        assert_eq!(name(&[second, stranger, short_entry()]), ["loader.con"]);
        let mut deleted = first;
        deleted[0] = 0xe5;
        assert_eq!(name(&[second, deleted, short_entry()]), ["loader.con"]);
    }

    #[test]
    fn what_stands_behind_the_end_of_a_folder_is_not_read() {
        let end = [0; ENTRY_BYTES];
        assert!(nodes([end, short_entry()].as_flattened()).is_empty());
    }

    proptest! {
        #[test]
        fn any_folder_is_read_without_a_panic(folder in vec(any::<u8>(), 0..400)) {
            nodes(&folder);
        }
    }
}
