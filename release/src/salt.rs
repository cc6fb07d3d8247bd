use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::blob::{parse_hex, write_hex};
use crate::limits::MAX_SALT_BYTES;

/// The salt of a hash tree, written in lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Salt(Vec<u8>);

/// A text or a list of bytes is no salt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a salt of at most {MAX_SALT_BYTES} bytes in lower-case hexadecimal digits")]
pub struct BadSalt;

impl Salt {
    /// Returns the salt with these bytes; there may be none.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, BadSalt> {
        let bytes = bytes.into();
        if bytes.len() > MAX_SALT_BYTES {
            return Err(BadSalt);
        }
        Ok(Self(bytes))
    }

    /// Returns the salt that `text` spells.
    pub fn parse(text: &str) -> Result<Self, BadSalt> {
        Self::new(parse_hex(text).ok_or(BadSalt)?)
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<String> for Salt {
    type Error = BadSalt;

    fn try_from(text: String) -> Result<Self, BadSalt> {
        Self::parse(&text)
    }
}

impl fmt::Display for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Salt({self})")
    }
}

impl Serialize for Salt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
