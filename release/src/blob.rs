use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::document::{BadDocument, Fields, Problem};

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// A text is no SHA-256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a SHA-256 digest of 64 lower-case hexadecimal digits")]
pub struct BadDigest;

impl Digest {
    /// Returns the digest whose bytes these are.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the digest that `text` spells.
    pub fn parse(text: &str) -> Result<Self, BadDigest> {
        let bytes = parse_hex(text).ok_or(BadDigest)?;
        Ok(Self(bytes.try_into().map_err(|_| BadDigest)?))
    }

    /// Returns the 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        Self::parse(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A content-addressed file of the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Blob {
    /// The digest of the content, which is also its name.
    pub sha256: Digest,
    /// The size of the content, in bytes.
    pub size: u64,
}

impl Blob {
    /// Returns where the blob lies in a repository.
    pub const fn path(&self) -> BlobPath {
        BlobPath(self.sha256)
    }

    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, BadDocument> {
        Ok(Self {
            sha256: fields.parsed("sha256", Digest::parse)?,
            size: fields.number("size")?,
        })
    }

    pub(crate) fn check(&self, field: &str, max: u64) -> Result<(), BadDocument> {
        if self.size == 0 {
            return Err(BadDocument::field(field, Problem::Empty));
        }
        if self.size > max {
            let problem = Problem::TooLarge {
                found: self.size,
                max,
            };
            return Err(BadDocument::field(field, problem));
        }
        Ok(())
    }
}

/// Where a blob lies, relative to the repository's base: `blobs/<sha256>`.
///
/// It can only be made from a digest, so no text from outside gets into a path
/// or a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobPath(Digest);

impl BlobPath {
    /// The folder of the repository that holds the blobs.
    pub const FOLDER: &'static str = "blobs";

    /// Returns the file name within [`BlobPath::FOLDER`].
    pub const fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for BlobPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Self::FOLDER, self.0)
    }
}

/// Returns the bytes that `text` spells in lower-case hexadecimal digits.
pub(crate) fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect()
}

pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_digest_is_read_back_from_its_text(bytes: [u8; 32]) {
            let digest = Digest::new(bytes);
            prop_assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
        }

        #[test]
        fn whatever_is_read_as_a_digest_is_written_the_same(text in "[0-9a-fA-F]{63,65}|.{0,70}") {
            if let Ok(digest) = Digest::parse(&text) {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }

    #[test]
    fn a_digest_that_could_leave_the_blob_folder_is_refused() {
        for text in [
            "",
            "..",
            "../../etc/passwd",
            &"A".repeat(64),
            &"é".repeat(32),
        ] {
            assert_eq!(Digest::parse(text), Err(BadDigest), "{text:?}");
        }
    }

    #[test]
    fn a_blob_lies_under_the_digest_of_its_content() {
        let blob = Blob {
            sha256: Digest::new([0xa5; 32]),
            size: 1,
        };
        assert_eq!(
            blob.path().to_string(),
            format!("blobs/{}", "a5".repeat(32))
        );
    }
}
