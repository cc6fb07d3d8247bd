//! Names of boot entries that a rename, cut short, has left behind.
//!
//! FAT has no atomic rename. The kernel's driver and the firmware's (which renames an
//! entry to count its tries) write the new name first, without content, then with the
//! content of the old one, and remove the old one last. A cut in between leaves a name
//! without content, or two names on one chain of clusters. Both are harmless as long as
//! none of two is removed the usual way: that frees the clusters under the other.

use std::cmp::Reverse;
use std::fmt;

use crate::boot_entry::{BootEntry, is_temporary_name};
use crate::fat_folder::Node;

/// A name that stands for nothing of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TornName {
    /// The name.
    pub name: String,
    /// What makes it so.
    pub why: Torn,
}

/// What makes a name stand for nothing of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Torn {
    /// It has no content.
    Empty,
    /// Its content is that of another name, which the boot loader prefers.
    SharesWith(String),
}

impl fmt::Display for TornName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, why } = self;
        match why {
            Torn::Empty => write!(f, "{name} is empty: a rename to it was cut short"),
            Torn::SharesWith(other) => write!(
                f,
                "{name} and {other} are one file: a rename was cut short, and removing one would destroy both"
            ),
        }
    }
}

/// Finds the torn names among `files`, by their places.
pub(crate) fn find_torn(files: &[&Node]) -> Vec<(usize, TornName)> {
    let torn = files.iter().enumerate().filter_map(|(place, file)| {
        let why = if is_empty(file) {
            BootEntry::parse_file_name(&file.name)
                .is_ok()
                .then_some(Torn::Empty)?
        } else {
            Torn::SharesWith(preferred_to(files, place)?.name.clone())
        };
        let name = file.name.clone();
        Some((place, TornName { name, why }))
    });
    torn.collect()
}

fn is_empty(file: &Node) -> bool {
    file.size == 0 || file.first_cluster == 0
}

/// Returns the file that keeps the content which the one at `place` shares with it.
/// Files of others that share with each other are not ours to judge.
fn preferred_to<'f>(files: &[&'f Node], place: usize) -> Option<&'f Node> {
    let cluster = files.get(place)?.first_cluster;
    let sharing = files
        .iter()
        .enumerate()
        .filter(|(_, file)| !is_empty(file) && file.first_cluster == cluster);
    let is_ours = |name: &str| BootEntry::parse_file_name(name).is_ok() || is_temporary_name(name);
    if !sharing.clone().any(|(_, file)| is_ours(&file.name)) {
        return None;
    }
    let (best, file) =
        sharing.max_by_key(|(place, file)| (preference(&file.name), Reverse(*place)))?;
    (best != place).then_some(*file)
}

/// Returns which of the names of one file stays: the one that the boot loader prefers.
pub fn preferred<'n>(names: &[&'n str]) -> Option<&'n str> {
    let places = names.iter().enumerate();
    let best = places.max_by_key(|(place, name)| (preference(name), Reverse(*place)));
    best.map(|(_, name)| *name)
}

/// How much the boot loader prefers a name: none without a counter is counted away, and
/// none with tries left comes after one without.
fn preference(name: &str) -> (u8, u32) {
    match BootEntry::parse_file_name(name).map(|entry| entry.counter) {
        Ok(None) => (4, 0),
        Ok(Some(counter)) if counter.left > 0 => (3, counter.left),
        Ok(Some(_)) => (2, 0),
        Err(_) if !is_temporary_name(name) => (1, 0),
        Err(_) => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot_entry::TEMPORARY_NAME;

    fn torn(files: &[(&str, u32)]) -> Vec<(String, Torn)> {
        let nodes: Vec<_> = files
            .iter()
            .map(|(name, first_cluster)| Node {
                name: (*name).to_owned(),
                is_folder: false,
                size: u64::from(*first_cluster) * 1000,
                first_cluster: *first_cluster,
            })
            .collect();
        let found = find_torn(&nodes.iter().collect::<Vec<_>>());
        found
            .into_iter()
            .map(|(_, torn)| (torn.name, torn.why))
            .collect()
    }

    #[test]
    fn of_names_on_one_chain_the_one_that_the_boot_loader_prefers_stays() {
        let best_first = [
            "bistable_1.efi",
            "bistable_1+3.efi",
            "bistable_1+2-1.efi",
            "bistable_1+0-3.efi",
            "somebody-else.efi",
            TEMPORARY_NAME,
        ];
        for (better, name) in best_first.iter().enumerate() {
            for worse in &best_first[better + 1..] {
                for pair in [[(*name, 9), (*worse, 9)], [(*worse, 9), (*name, 9)]] {
                    let shares = Torn::SharesWith((*name).to_owned());
                    assert_eq!(torn(&pair), [((*worse).to_owned(), shares)]);
                }
            }
        }
    }

    #[test]
    fn what_has_a_chain_of_its_own_is_left_alone_and_so_are_files_of_others() {
        let apart = [("bistable_1.efi", 9), ("bistable_1+3.efi", 10)];
        assert_eq!(torn(&apart), []);
        let others = [
            ("a.efi", 9),
            ("b.efi", 9),
            ("c.efi", 0),
            ("bistable.new", 0),
        ];
        assert_eq!(torn(&others), []);
    }

    #[test]
    fn a_boot_entry_without_content_is_torn() {
        let names = [("bistable_1+2-1.efi", 0), ("bistable_1+3.efi", 9)];
        let empty = ("bistable_1+2-1.efi".to_owned(), Torn::Empty);
        assert_eq!(torn(&names), [empty]);
    }
}
