//! Which boot entry systemd-boot starts next: a model of its order, without the loader.
//!
//! Source: systemd 257, `src/boot/boot.c`, and the Boot Loader Specification, "Sorting".
//! The model leaves out what a node's ESP does not have: entries that are not in
//! `EFI/Linux`, a default set in `loader.conf`, and the EFI variables by which somebody
//! chose an entry (`LoaderEntryOneShot`, `LoaderEntryDefault`).

use std::cmp::Ordering;

use crate::boot_entry::CountedName;
use crate::version::compare_versions;

/// A boot entry as systemd-boot sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoaderEntry {
    /// Its file name, taken apart.
    pub name: CountedName,
    /// What the image itself says of its rank, if it says anything.
    pub sort_key: Option<SortKey>,
}

/// What an image says of its rank, from the `os-release` inside of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SortKey {
    /// `IMAGE_ID`, or `ID`.
    pub key: String,
    /// `IMAGE_VERSION`, or another of its versions.
    pub version: String,
}

impl LoaderEntry {
    /// Returns an entry that is ranked by its name only.
    pub fn by_name(file_name: &str) -> Self {
        Self {
            name: CountedName::parse(file_name),
            sort_key: None,
        }
    }

    /// Orders entries as systemd-boot does: the least is the one that boots.
    pub fn order(&self, other: &Self) -> Ordering {
        let spent = |entry: &Self| entry.name.counter.is_some_and(|counter| counter.left == 0);
        // What has no tries left comes after everything else, but still boots.
        let by_tries = spent(self).cmp(&spent(other));
        let by_key = || match (&self.sort_key, &other.sort_key) {
            (Some(a), Some(b)) => {
                let newest_first = compare_versions(&b.version, &a.version);
                a.key.cmp(&b.key).then(newest_first)
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        };
        let by_id = || compare_versions(&other.name.id, &self.name.id);
        let by_counter = || match (self.name.counter, other.name.counter) {
            (Some(a), Some(b)) => b.left.cmp(&a.left).then(a.done.cmp(&b.done)),
            (Some(_), None) | (None, Some(_) | None) => Ordering::Equal,
        };
        by_tries
            .then_with(by_key)
            .then_with(by_id)
            .then_with(by_counter)
    }
}

/// Returns the entry that systemd-boot starts next, or `None` when there is none.
///
/// It will then be found under [`CountedName::spent`].
pub fn choose_entry(entries: &[LoaderEntry]) -> Option<&LoaderEntry> {
    entries.iter().min_by(|a, b| a.order(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uki(file_name: &str, key: &str, version: &str) -> LoaderEntry {
        LoaderEntry {
            sort_key: Some(SortKey {
                key: key.to_owned(),
                version: version.to_owned(),
            }),
            ..LoaderEntry::by_name(file_name)
        }
    }

    fn chosen(entries: &[LoaderEntry]) -> Option<String> {
        choose_entry(entries).map(|entry| entry.name.file_name())
    }

    #[test]
    fn the_version_inside_an_image_outranks_its_name() {
        let older = uki("bistable_9.efi", "bistable", "1");
        let newer = uki("bistable_1.efi", "bistable", "2");
        assert_eq!(chosen(&[older, newer]).as_deref(), Some("bistable_1.efi"));
    }

    #[test]
    fn an_image_that_ranks_itself_comes_before_one_that_does_not() {
        let silent = LoaderEntry::by_name("zzz_9.efi");
        let ranked = uki("bistable_1.efi", "bistable", "1");
        assert_eq!(chosen(&[silent, ranked]).as_deref(), Some("bistable_1.efi"));
    }

    #[test]
    fn a_newer_release_without_tries_gives_way_and_is_still_a_last_resort() {
        let spent = uki("bistable_2+0-3.efi", "bistable", "2");
        let good = uki("bistable_1.efi", "bistable", "1");
        let both = [spent.clone(), good];
        assert_eq!(chosen(&both).as_deref(), Some("bistable_1.efi"));
        assert_eq!(chosen(&[spent]).as_deref(), Some("bistable_2+0-3.efi"));
        assert_eq!(chosen(&[]), None);
    }
}
