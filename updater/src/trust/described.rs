//! What metadata says of other files, and whether they are so.

use std::collections::HashMap;
use std::num::NonZeroU64;

use serde::Deserialize;
use sha2::{Digest, Sha256, Sha512};

use super::untrusted::Untrusted;

/// A file of metadata, as another one describes it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Described {
    pub(super) version: NonZeroU64,
    length: Option<u64>,
    hashes: Option<Hashes>,
}

/// A target, as signed metadata describes it.
#[derive(Debug, Clone, Deserialize)]
pub struct Target {
    length: u64,
    hashes: Hashes,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
struct Hashes(HashMap<String, String>);

impl Described {
    /// Returns how many bytes are to be fetched at most, if `bound` is the
    /// largest that such a file may be.
    pub(super) fn most(&self, bound: u64) -> u64 {
        self.length.map_or(bound, |length| length.min(bound))
    }

    pub(super) fn check(&self, file: &str, bytes: &[u8]) -> Result<(), Untrusted> {
        check_length(self.length, file, bytes)?;
        self.hashes
            .as_ref()
            .map_or(Ok(()), |hashes| hashes.check(file, bytes))
    }
}

impl Target {
    /// Returns its size in bytes.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Checks that `bytes` are those of the target, which is called `name`.
    pub(super) fn check(&self, name: &str, bytes: &[u8]) -> Result<(), Untrusted> {
        check_length(Some(self.length), name, bytes)?;
        self.hashes.check(name, bytes)
    }

    /// Returns whether `bytes` are those of the target.
    pub fn is(&self, bytes: &[u8]) -> bool {
        self.check("", bytes).is_ok()
    }

    /// Returns the digest under which a repository with consistent snapshots
    /// keeps it.
    pub(super) fn digest(&self) -> Option<&str> {
        ["sha256", "sha512"]
            .into_iter()
            .find_map(|algorithm| self.hashes.0.get(algorithm).map(String::as_str))
    }
}

impl Hashes {
    /// Holds `bytes` against every hash that is known here, of which there must
    /// be one.
    fn check(&self, file: &str, bytes: &[u8]) -> Result<(), Untrusted> {
        let found = [
            ("sha256", hex::encode(Sha256::digest(bytes))),
            ("sha512", hex::encode(Sha512::digest(bytes))),
        ];
        let mut known = found
            .iter()
            .filter_map(|(algorithm, found)| Some((self.0.get(*algorithm)?, found)))
            .peekable();
        let good = known.peek().is_some()
            && known.all(|(expected, found)| expected.eq_ignore_ascii_case(found));
        match good {
            true => Ok(()),
            false => Err(Untrusted::WrongContent {
                file: file.to_owned(),
                what: "its hash",
            }),
        }
    }
}

fn check_length(expected: Option<u64>, file: &str, bytes: &[u8]) -> Result<(), Untrusted> {
    match expected {
        Some(expected) if u64::try_from(bytes.len()) != Ok(expected) => {
            Err(Untrusted::WrongContent {
                file: file.to_owned(),
                what: "its length",
            })
        }
        _ => Ok(()),
    }
}
