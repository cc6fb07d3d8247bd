//! What a folder of a FAT file system says: its entries, and their long and short names.
//!
//! Source: as for the file system, see [`crate::fat`].

use crate::header::Fields;

/// The size of an entry.
pub(crate) const ENTRY_BYTES: usize = 32;

const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_FOLDER: u8 = 0x10;
const ATTRIBUTES_OF_LONG_NAME: u8 = 0x0f;

/// A file or folder, as its folder describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) is_folder: bool,
    pub(crate) size: u64,
    pub(crate) first_cluster: u32,
}

/// Takes the files and folders out of the content of a folder.
pub(crate) fn nodes(folder: &[u8]) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut long = LongName::default();
    for bytes in folder.as_chunks::<ENTRY_BYTES>().0 {
        let Some(entry) = Entry::parse(bytes) else {
            break;
        };
        match entry {
            Entry::Deleted => long = LongName::default(),
            Entry::PartOfLongName {
                order,
                checksum,
                units,
            } => long.add(order, checksum, &units),
            Entry::Named {
                short,
                is_volume,
                mut node,
            } => {
                if let Some(name) = std::mem::take(&mut long).finish(checksum_of(&short)) {
                    node.name = name;
                }
                let is_link = node.name == "." || node.name == "..";
                nodes.extend((!is_volume && !is_link).then_some(node));
            }
        }
    }
    nodes
}

enum Entry {
    Deleted,
    PartOfLongName {
        order: u8,
        checksum: u8,
        units: Vec<u16>,
    },
    Named {
        short: [u8; 11],
        is_volume: bool,
        node: Node,
    },
}

impl Entry {
    /// Reads one entry; `None` is the end of the folder.
    fn parse(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let short: [u8; 11] = fields.take()?;
        let [attributes, case] = fields.take()?;
        let [first, ..] = short;
        match first {
            0x00 => return None,
            0xe5 => return Some(Self::Deleted),
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
fn short_name(short: &[u8; 11], case: u8) -> String {
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

fn checksum_of(short: &[u8; 11]) -> u8 {
    short
        .iter()
        .fold(0_u8, |sum, &byte| sum.rotate_right(1).wrapping_add(byte))
}

const UNITS_OF_PART: usize = 13;
const LAST_PART: u8 = 0x40;

/// A long name as it comes together: its parts stand before the short name, the last one first.
#[derive(Default)]
struct LongName {
    /// The parts so far, each before the ones that came earlier.
    units: Vec<u16>,
    /// The order of the part that came last, and the checksum they all carry.
    state: Option<(u8, u8)>,
}

impl LongName {
    fn add(&mut self, order: u8, checksum: u8, part: &[u16]) {
        let number = order & !LAST_PART;
        let continues = self.state == Some((number.saturating_add(1), checksum));
        if order & LAST_PART != 0 {
            self.units.clear();
        } else if !continues {
            *self = Self::default();
            return;
        }
        self.units.splice(..0, part.iter().copied());
        self.state = Some((number, checksum));
    }

    /// Returns the name, when it is whole and belongs to the short name with `checksum`.
    fn finish(self, checksum: u8) -> Option<String> {
        let is_whole = self.state == Some((1, checksum));
        let text = self
            .units
            .split(|&unit| unit == 0)
            .next()
            .unwrap_or_default();
        is_whole.then(|| String::from_utf16_lossy(text))
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
