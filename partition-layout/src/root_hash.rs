//! The dm-verity root hash, and the partition UUIDs made from it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The root hash of a dm-verity tree, SHA-256.
///
/// As the Discoverable Partitions Specification has it, the first 128 bits are
/// the partition UUID of the data, the last 128 bits that of the tree: the
/// hexadecimal digits of the hash with dashes put in.
/// Source: <https://uapi-group.org/specifications/specs/discoverable_partitions_specification/>
/// and systemd-veritysetup-generator(8).
#[derive(Clone, Copy, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct RootHash([u8; 32]);

/// Why a text is no [`RootHash`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a root hash is 64 hexadecimal digits, not {text:?}")]
pub struct BadRootHash {
    text: String,
}

impl RootHash {
    /// Returns the hash that `bytes` are.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the hash written in `text` as 64 hexadecimal digits.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn parse(text: &str) -> Result<Self, BadRootHash> {
        let bad = || BadRootHash {
            text: text.chars().take(80).collect(),
        };
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() {
            return Err(bad());
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let mut value = 0;
            for &digit in pair {
                let digit = char::from(digit).to_digit(16).ok_or_else(bad)?;
                value = value * 16 + u8::try_from(digit).map_err(|_| bad())?;
            }
            *byte = value;
        }
        Ok(Self(bytes))
    }

    /// Returns the hash whose halves are the UUIDs of a root and a verity partition.
    pub fn from_uuids(root: Uuid, verity: Uuid) -> Self {
        let mut bytes = [0; 32];
        for (byte, value) in bytes
            .iter_mut()
            .zip(root.into_bytes().into_iter().chain(verity.into_bytes()))
        {
            *byte = value;
        }
        Self(bytes)
    }

    /// Returns the 32 bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the UUID of the root partition that holds this image.
    pub fn root_uuid(&self) -> Uuid {
        let (first, _) = self.halves();
        first
    }

    /// Returns the UUID of the verity partition that holds this image's tree.
    pub fn verity_uuid(&self) -> Uuid {
        let (_, last) = self.halves();
        last
    }

    fn halves(&self) -> (Uuid, Uuid) {
        let whole = |range: &[u8]| {
            let mut half = [0; 16];
            half.copy_from_slice(range);
            Uuid::from_bytes(half)
        };
        let (first, last) = self.0.split_at(16);
        (whole(first), whole(last))
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootHash({self})")
    }
}

impl FromStr for RootHash {
    type Err = BadRootHash;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for RootHash {
    type Error = BadRootHash;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<RootHash> for String {
    fn from(hash: RootHash) -> Self {
        hash.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_uuids_are_the_digits_of_the_hash_with_dashes_put_in() {
        let hash =
            RootHash::parse("00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210")
                .expect("good");
        assert_eq!(
            hash.root_uuid().to_string(),
            "00112233-4455-6677-8899-aabbccddeeff"
        );
        assert_eq!(
            hash.verity_uuid().to_string(),
            "01234567-89ab-cdef-fedc-ba9876543210"
        );
    }

    #[test]
    fn a_text_of_another_length_or_alphabet_is_refused() {
        for bad in [
            "",
            "00",
            &"0".repeat(63),
            &"0".repeat(65),
            &"g".repeat(64),
            &"é".repeat(32),
            &"+1".repeat(32),
        ] {
            assert!(RootHash::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_hash_survives_its_text_and_its_uuids(bytes: [u8; 32]) {
            let hash = RootHash::new(bytes);
            prop_assert_eq!(RootHash::parse(&hash.to_string()), Ok(hash));
            prop_assert_eq!(RootHash::parse(&hash.to_string().to_uppercase()), Ok(hash));
            prop_assert_eq!(RootHash::from_uuids(hash.root_uuid(), hash.verity_uuid()), hash);
        }
    }
}
