//! Release versions, ordered by the UAPI version format specification.
//!
//! Source: <https://uapi-group.org/specifications/specs/version_format_specification/>
//! (UAPI.10), which is also how systemd-boot orders what it boots.

use std::cmp::Ordering;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The version of a release, fit for a partition label and a FAT file name.
///
/// 1 to 27 characters of `a-z 0-9 . ~ ^ -`, the first a letter or a digit.
/// `+` and `_` are left out because they mark the tries of a boot entry and
/// end the product's name in a label; capitals because FAT folds case; and 27
/// because a GPT label holds 36 characters, `bistable_` being nine of them.
///
/// Versions are equal when neither is newer, so `1.0 == 1.00`. Whoever means
/// the name and not the rank compares [`Version::as_str`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(String);

/// Why a text is no [`Version`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadVersion {
    /// There is no character at all.
    #[error("a version cannot be empty")]
    Empty,
    /// It does not fit a partition label behind the product's name.
    #[error(
        "the version {version:?} has {length} characters, at most {} fit a partition label",
        Version::MAX_LENGTH
    )]
    TooLong {
        /// The text that was offered, cut to what is worth showing.
        version: String,
        /// Its length in characters.
        length: usize,
    },
    /// It starts with a separator.
    #[error("the version {version:?} does not start with one of a-z 0-9")]
    BadStart {
        /// The text that was offered.
        version: String,
    },
    /// It holds a character that a label or a file name cannot carry safely.
    #[error("the version {version:?} has {character:?}, only a-z 0-9 . ~ ^ - are allowed")]
    BadCharacter {
        /// The text that was offered.
        version: String,
        /// The first offending character.
        character: char,
    },
}

impl Version {
    /// The longest version, in characters (and bytes).
    pub const MAX_LENGTH: usize = 27;

    /// Returns `text` as a version.
    ///
    /// # Errors
    /// When the text is empty, too long, or has a character out of the alphabet.
    pub fn parse(text: &str) -> Result<Self, BadVersion> {
        let Some(first) = text.chars().next() else {
            return Err(BadVersion::Empty);
        };
        let length = text.chars().count();
        if length > Self::MAX_LENGTH {
            let version = text.chars().take(2 * Self::MAX_LENGTH).collect();
            return Err(BadVersion::TooLong { version, length });
        }
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let version = || text.to_owned();
        if let Some(character) = text.chars().find(|&c| !is_plain(c) && !".~^-".contains(c)) {
            return Err(BadVersion::BadCharacter {
                version: version(),
                character,
            });
        }
        if !is_plain(first) {
            return Err(BadVersion::BadStart { version: version() });
        }
        Ok(Self(version()))
    }

    /// Returns the version as it is written in labels and file names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Version {
    type Error = BadVersion;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.0
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_versions(&self.0, &other.0)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

/// Compares two texts by UAPI.10; any text has a place in the order.
///
/// `Less` means that `a` is older. Characters outside the specification's
/// alphabet separate, and count for nothing themselves.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (Rest(a.as_bytes()), Rest(b.as_bytes()));
    loop {
        if let ControlFlow::Break(order) = compare_segment(&mut a, &mut b) {
            return order;
        }
    }
}

/// Takes one segment, with the separators before it, off both sides.
///
/// The order of the tests is the specification's: `~` sorts even before the
/// end of the text, so it stands above the test for the end.
fn compare_segment(a: &mut Rest<'_>, b: &mut Rest<'_>) -> ControlFlow<Ordering> {
    a.take_while(|c| !is_significant(c));
    b.take_while(|c| !is_significant(c));

    decided(b.take_byte(b'~').cmp(&a.take_byte(b'~')))?;
    if a.0.is_empty() || b.0.is_empty() {
        return ControlFlow::Break(b.0.is_empty().cmp(&a.0.is_empty()));
    }
    for separator in *b"-^." {
        decided(b.take_byte(separator).cmp(&a.take_byte(separator)))?;
    }

    let (number_a, number_b) = (
        a.take_while(|c| c.is_ascii_digit()),
        b.take_while(|c| c.is_ascii_digit()),
    );
    decided(number_b.is_empty().cmp(&number_a.is_empty()))?;
    if !number_a.is_empty() {
        return decided(compare_numbers(number_a, number_b));
    }
    let (word_a, word_b) = (
        a.take_while(|c| c.is_ascii_alphabetic()),
        b.take_while(|c| c.is_ascii_alphabetic()),
    );
    decided(word_a.cmp(word_b))
}

/// Compares two runs of digits of any length by value.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let value = |digits: &[u8]| {
        let zeros = digits.iter().take_while(|&&c| c == b'0').count();
        digits.iter().skip(zeros).copied().collect::<Vec<u8>>()
    };
    let (a, b) = (value(a), value(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
}

fn is_significant(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"~-^.".contains(&c)
}

fn decided(order: Ordering) -> ControlFlow<Ordering> {
    match order {
        Ordering::Equal => ControlFlow::Continue(()),
        Ordering::Less | Ordering::Greater => ControlFlow::Break(order),
    }
}

/// What is still to be compared of one side.
struct Rest<'t>(&'t [u8]);

impl<'t> Rest<'t> {
    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'t [u8] {
        let length = self.0.iter().take_while(|&&c| wanted(c)).count();
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    /// Takes one `byte` off when it is there, and tells whether it was.
    fn take_byte(&mut self, byte: u8) -> bool {
        let rest = self.0.strip_prefix(&[byte]);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_version_is_fit_for_a_label_and_a_fat_file_name() {
        for good in [
            "1",
            "a",
            "2025.11.1",
            "1.0~rc1",
            "1^git3",
            "1-2",
            "abcdefghijklmnopqrstuvwxyz0",
        ] {
            assert_eq!(Version::parse(good).map(String::from).as_deref(), Ok(good));
        }
        assert_eq!(Version::parse(""), Err(BadVersion::Empty));
        for bad in ["~1", ".1", "-1", "^1"] {
            assert!(
                matches!(Version::parse(bad), Err(BadVersion::BadStart { .. })),
                "{bad}"
            );
        }
        for bad in ["1+2", "1_2", "1.0A", "1 0", "1/2", "1é", "../1", "1\0"] {
            assert!(
                matches!(Version::parse(bad), Err(BadVersion::BadCharacter { .. })),
                "{bad}"
            );
        }
        let long = "1".repeat(28);
        assert!(matches!(
            Version::parse(&long),
            Err(BadVersion::TooLong { length: 28, .. })
        ));
    }

    #[test]
    fn equal_versions_may_be_written_differently() {
        let version = |text| Version::parse(text).expect("good");
        assert_eq!(version("1.0"), version("1.00"));
        assert!(version("1.10") > version("1.9"));
        assert!(version("1.0~rc1") < version("1.0"));
        assert!(version("1.0^git1") > version("1.0"));
    }

    #[test]
    fn serde_refuses_what_parse_refuses() {
        assert!(serde_json::from_str::<Version>("\"1.0\"").is_ok());
        assert!(serde_json::from_str::<Version>("\"1_0\"").is_err());
    }

    proptest! {
        #[test]
        fn the_order_of_any_texts_is_total(a in ".{0,12}", b in "[a-b0-1.~^_-]{0,8}", c in "[a-b0-1.~^_-]{0,8}") {
            prop_assert_eq!(compare_versions(&a, &b), compare_versions(&b, &a).reverse());
            prop_assert_eq!(compare_versions(&a, &a), Ordering::Equal);
            if compare_versions(&a, &b).is_le() && compare_versions(&b, &c).is_le() {
                prop_assert!(compare_versions(&a, &c).is_le());
            }
        }
    }
}
