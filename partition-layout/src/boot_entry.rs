//! The names of boot entries on the ESP, with their boot counters.
//!
//! Source: Boot Loader Specification (UAPI.1), "Boot counting", and systemd's
//! automatic boot assessment: `<stem>[+<left>[-<done>]].<suffix>`.

use std::fmt;

use crate::version::{BadVersion, Version};

/// The folder of the ESP that holds the boot entries.
pub const ENTRY_FOLDER: &str = "EFI/Linux";

const PREFIX: &str = "bistable_";
const SUFFIX: &str = ".efi";

/// The name of a kernel image in [`ENTRY_FOLDER`] before it is an entry.
///
/// No boot loader takes it for one, as it does not end in `.efi`. It is as long as it is
/// so that it takes no fewer records in the folder than the entry that it becomes: then
/// the new name fits in the place of this one (see [`crate::entry_names`]).
pub const TEMPORARY_NAME: &str = "bistable.new_kernel-image-that-is-no-entry-yet";
/// The name in [`ENTRY_FOLDER`] of a kernel image that was an entry and is to be removed.
///
/// Short, so that it fits in the place of any entry's name. As a temporary name it is
/// removed by any release that finds it.
pub const REMOVED_NAME: &str = "bistable.new";
/// The most tries that a trial can have; nobody wants to wait for more.
pub const MAX_TRIES: u32 = 10;
/// How often a good release on watch is started before it gives way to the other one.
///
/// More than [`MAX_TRIES`]: the sum of what is left and what is done, which no start
/// changes, tells a watch from a trial.
pub const WATCHED_STARTS: u32 = 15;
/// What every release of ours has given such a name to begin with.
const TEMPORARY_PREFIX: &str = "bistable.new";

/// Tells whether `file_name` is that of a kernel image that never became an entry,
/// left behind by whatever release of ours.
pub fn is_temporary_name(file_name: &str) -> bool {
    let name = file_name.to_ascii_lowercase();
    name.starts_with(TEMPORARY_PREFIX) && !name.ends_with(SUFFIX)
}

/// The boot counter in the name of an entry.
///
/// Each value is at most `i32::MAX`, the limit that systemd has for it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Counter {
    /// The tries that are left; 0 makes the entry a last resort.
    pub left: u32,
    /// The tries that were spent.
    pub done: u32,
}

impl Counter {
    /// The largest value of either part.
    pub const MAX: u32 = i32::MAX.unsigned_abs();

    /// Returns the counter as systemd-boot leaves it when it boots the entry.
    #[must_use]
    pub fn spent(self) -> Self {
        Self {
            left: self.left.saturating_sub(1),
            done: self.done.saturating_add(1).min(Self::MAX),
        }
    }
}

/// Writes the counter as it stands in a name, unpadded, as systemd 252 to 257 do.
impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { left, done: 0 } => write!(f, "+{left}"),
            Self { left, done } => write!(f, "+{left}-{done}"),
        }
    }
}

/// The name of any boot entry, ours or not, taken apart as systemd-boot does.
///
/// Only the last `+` directly before the last `.` starts a counter; digits may be
/// padded with zeros. Where the digits are no counter, or exceed [`Counter::MAX`],
/// systemd-boot boots the entry as one without a counter, and so does this.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CountedName {
    /// The name without its counter: what systemd calls the id of the entry.
    pub id: String,
    /// The counter, if the name has one.
    pub counter: Option<Counter>,
}

impl CountedName {
    /// Takes `file_name` apart.
    pub fn parse(file_name: &str) -> Self {
        let without_counter = || Self {
            id: file_name.to_owned(),
            counter: None,
        };
        let Some(dot) = file_name.rfind('.') else {
            return without_counter();
        };
        let (stem, suffix) = file_name.split_at(dot);
        let Some((stem, digits)) = stem.rsplit_once('+') else {
            return without_counter();
        };
        let Some(counter) = parse_counter(digits) else {
            return without_counter();
        };
        Self {
            id: format!("{stem}{suffix}"),
            counter: Some(counter),
        }
    }

    /// Returns the file name with its counter.
    pub fn file_name(&self) -> String {
        let Some(counter) = self.counter else {
            return self.id.clone();
        };
        let dot = self.id.rfind('.').unwrap_or(self.id.len());
        let (stem, suffix) = self.id.split_at(dot);
        format!("{stem}{counter}{suffix}")
    }

    /// Returns the name that the entry has once systemd-boot has started it.
    #[must_use]
    pub fn spent(&self) -> Self {
        Self {
            id: self.id.clone(),
            counter: self.counter.map(Counter::spent),
        }
    }
}

fn parse_counter(digits: &str) -> Option<Counter> {
    let number = |text: &str| {
        // `parse` alone would let a sign through.
        let plain = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        let value = plain.then(|| text.parse::<u32>().ok()).flatten()?;
        (value <= Counter::MAX).then_some(value)
    };
    let (left, done) = match digits.split_once('-') {
        Some((left, done)) => (number(left)?, number(done)?),
        None => (number(digits)?, 0),
    };
    Some(Counter { left, done })
}

/// A boot entry of a release: `bistable_<version>[+<left>[-<done>]].efi`.
///
/// Equal entries may have different file names (`+09` is `+9`): to touch an
/// existing file use the name it was found under, not [`BootEntry::file_name`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BootEntry {
    /// The release it boots.
    pub version: Version,
    /// Its counter; an entry without one is good, and one on watch is too.
    pub counter: Option<Counter>,
}

/// Why a file name is none of a release's boot entry.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadBootEntry {
    /// It does not look like one of ours at all.
    #[error("{file_name:?} is not named {PREFIX}<version>{SUFFIX}")]
    Foreign {
        /// The name of the file.
        file_name: String,
    },
    /// It has our form, but no version in it.
    #[error("{file_name:?} names no release")]
    Version {
        /// The name of the file.
        file_name: String,
        /// What is wrong with its version.
        source: BadVersion,
    },
}

impl BootEntry {
    /// Returns the entry that `file_name` names. As on FAT, case does not matter.
    ///
    /// # Errors
    /// When the file is not a boot entry of a release.
    pub fn parse_file_name(file_name: &str) -> Result<Self, BadBootEntry> {
        let name = CountedName::parse(&file_name.to_ascii_lowercase());
        let version = name
            .id
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_suffix(SUFFIX));
        let Some(version) = version else {
            let file_name = file_name.to_owned();
            return Err(BadBootEntry::Foreign { file_name });
        };
        let version = Version::parse(version).map_err(|source| BadBootEntry::Version {
            file_name: file_name.to_owned(),
            source,
        })?;
        Ok(Self {
            version,
            counter: name.counter,
        })
    }

    /// Returns the entry that gives `version` a trial of so many boots.
    pub fn armed(version: Version, tries: u32) -> Self {
        let left = tries.min(Counter::MAX);
        Self {
            version,
            counter: Some(Counter { left, done: 0 }),
        }
    }

    /// Returns the entry of a release that has proved itself: it has no counter.
    pub fn good(version: Version) -> Self {
        Self {
            version,
            counter: None,
        }
    }

    /// Returns the entry of a release that has proved itself, whose starts are counted
    /// all the same: should they fail from now on, it gives way to the other release.
    pub fn watched(version: Version) -> Self {
        let counter = Counter {
            left: WATCHED_STARTS,
            done: 0,
        };
        Self {
            version,
            counter: Some(counter),
        }
    }

    /// Tells whether the entry is of a good release on watch.
    ///
    /// On its last start it is not any more: without starts left, names do not tell it from a
    /// failed trial that was the last resort for long. So that start is a trial again.
    pub fn is_watched(&self) -> bool {
        self.counter.is_some_and(|counter| {
            counter.left > 0 && counter.left.saturating_add(counter.done) > MAX_TRIES
        })
    }

    /// Tells whether the entry is of a release that has proved itself, on watch or not.
    pub fn is_good(&self) -> bool {
        self.counter.is_none() || self.is_watched()
    }

    /// Returns the entry with no tries left, as systemd-bless-boot names a bad one: booted
    /// only when nothing else is there.
    ///
    /// The starts of a watch were none of a trial, so none is done.
    #[must_use]
    pub fn demoted(&self) -> Self {
        let of_trial = self.counter.filter(|_| !self.is_watched());
        let done = of_trial.map_or(0, |counter| counter.done);
        Self {
            version: self.version.clone(),
            counter: Some(Counter { left: 0, done }),
        }
    }

    /// Returns the entry [demoted](Self::demoted), so that its name still tells what it was.
    ///
    /// One that was good has no start done, so that it boots by right. One on trial has at least
    /// one, also where the firmware did not count it.
    #[must_use]
    pub fn last_resort(&self) -> Self {
        let mut entry = self.demoted();
        if let (Some(before), Some(counter)) = (self.counter, &mut entry.counter)
            && before.left > 0
            && !self.is_watched()
        {
            counter.done = counter.done.max(1);
        }
        entry
    }

    /// Tells whether the entry has no tries left.
    pub fn is_bad(&self) -> bool {
        self.counter.is_some_and(|counter| counter.left == 0)
    }

    /// Returns the name of the entry's file in [`ENTRY_FOLDER`].
    pub fn file_name(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for BootEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.version)?;
        if let Some(counter) = self.counter {
            write!(f, "{counter}")?;
        }
        f.write_str(SUFFIX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(file_name: &str) -> BootEntry {
        BootEntry::parse_file_name(file_name).expect("an entry of ours")
    }

    #[test]
    fn an_entry_is_armed_spent_blessed_and_demoted_by_its_name_alone() {
        let version = Version::parse("2.0~rc1").expect("good");
        let armed = BootEntry::armed(version, 3);
        assert_eq!(armed.file_name(), "bistable_2.0~rc1+3.efi");
        let good = BootEntry::good(armed.version.clone());
        assert_eq!(good.file_name(), "bistable_2.0~rc1.efi");
        assert_eq!(armed.demoted().file_name(), "bistable_2.0~rc1+0.efi");
        let last = armed.last_resort();
        assert_eq!(last.file_name(), "bistable_2.0~rc1+0-1.efi");
        assert_eq!(last.last_resort(), last);
        assert_eq!(good.last_resort(), good.demoted());
        assert_eq!(good.last_resort().last_resort(), good.demoted());
        assert_eq!(
            entry("bistable_2+2-1.efi").demoted().file_name(),
            "bistable_2+0-1.efi"
        );
        assert_eq!(
            entry("bistable_2.efi").demoted().file_name(),
            "bistable_2+0.efi"
        );
        assert!(entry("bistable_2+0-1.efi").is_bad());
        assert!(!entry("bistable_2.efi").is_bad());
        assert!(!armed.is_bad());
    }

    #[test]
    fn a_watch_stays_one_until_its_last_start_and_no_trial_ever_becomes_one() {
        let mut name =
            CountedName::parse(&BootEntry::watched(Version::parse("2").expect("good")).file_name());
        assert_eq!(name.file_name(), "bistable_2+15.efi");
        for start in 1..=40 {
            name = name.spent();
            let entry = entry(&name.file_name());
            assert_eq!(entry.is_watched(), start < WATCHED_STARTS, "{entry}");
            assert_eq!(entry.is_bad(), start >= WATCHED_STARTS, "{entry}");
        }
        for tries in 0..=MAX_TRIES {
            let version = Version::parse("2").expect("good");
            let mut name = CountedName::parse(&BootEntry::armed(version, tries).file_name());
            for _ in 0..40 {
                assert!(!entry(&name.file_name()).is_good(), "{name:?}");
                name = name.spent();
            }
        }
        assert!(entry("bistable_2.efi").is_good());
        let watched = entry("bistable_2+9-6.efi");
        assert!(watched.is_good());
        assert_eq!(watched.demoted().file_name(), "bistable_2+0.efi");
    }

    #[test]
    fn padding_and_case_do_not_hide_an_entry() {
        assert_eq!(entry("bistable_2+009-01.efi"), entry("bistable_2+9-1.efi"));
        assert_eq!(entry("BISTABLE_2+9-1.EFI"), entry("bistable_2+9-1.efi"));
    }

    #[test]
    fn files_of_others_are_refused() {
        for foreign in [
            "",
            ".efi",
            "bistable_1",
            "bistable-1.efi",
            "other_1.efi",
            "bistable_1.efi.new",
            "bistable_1.conf",
        ] {
            assert!(
                matches!(
                    BootEntry::parse_file_name(foreign),
                    Err(BadBootEntry::Foreign { .. })
                ),
                "{foreign}"
            );
        }
        for unnamed in [
            "bistable_.efi",
            "bistable_+3.efi",
            "bistable_1+2147483648.efi",
            "bistable_1+x.efi",
            "bistable_1+-1.efi",
            "bistable_1_2.efi",
        ] {
            assert!(
                matches!(
                    BootEntry::parse_file_name(unnamed),
                    Err(BadBootEntry::Version { .. })
                ),
                "{unnamed}"
            );
        }
    }

    proptest! {
        #[test]
        fn an_entry_survives_its_name(
            version in "[a-z0-9][a-z0-9.~^-]{0,26}",
            counter in proptest::option::of((0..=Counter::MAX, 0..=Counter::MAX)),
        ) {
            let counter = counter.map(|(left, done)| Counter { left, done });
            let version = Version::parse(&version).expect("drawn from the alphabet");
            let before = BootEntry { version, counter };
            let after = entry(&before.file_name());
            prop_assert_eq!(after.version.as_str(), before.version.as_str());
            prop_assert_eq!(after.counter, before.counter);
        }

        #[test]
        fn any_name_is_taken_apart_and_put_together_without_a_panic(name in "\\PC{0,40}", tail in "[+0-9.-]{0,8}") {
            let name = CountedName::parse(&(name + &tail));
            prop_assert_eq!(CountedName::parse(&name.file_name()), name);
        }
    }
}
