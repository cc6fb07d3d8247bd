use std::fmt;
use std::str::FromStr;

use partition_layout::Version;
use serde::{Serialize, Serializer};

use crate::FORMAT;
use crate::document::{self, BadDocument, Fields, Problem};
use crate::limits::{MAX_CHANNEL_BYTES, MAX_CHANNEL_RELEASES};
use crate::rollout::Rollout;

/// A channel file: which release the nodes that follow the channel shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The channel's own name, so that one channel's file cannot be served as
    /// another's.
    pub channel: ChannelName,
    /// The release to run.
    pub release: Version,
    /// All releases that can be had, newest first; the one to run is among them.
    pub releases: Vec<Version>,
    /// Which nodes may take the release by themselves now; all of them without it.
    pub rollout: Option<Rollout>,
}

impl Channel {
    /// Returns the channel that a file describes.
    ///
    /// # Errors
    /// Names the first field that is missing, malformed or beyond a limit.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadDocument> {
        let value = document::parse(bytes, MAX_CHANNEL_BYTES)?;
        let fields = Fields::of_document(&value)?;
        let rollout = fields.optional_object("rollout")?;
        let channel = Self {
            channel: fields.parsed("channel", ChannelName::parse)?,
            release: fields.parsed("release", Version::parse)?,
            releases: fields.parsed_list("releases", MAX_CHANNEL_RELEASES, Version::parse)?,
            rollout: rollout.as_ref().map(Rollout::read).transpose()?,
        };
        channel.check()?;
        Ok(channel)
    }

    /// Returns the one file that describes the channel: equal channels have
    /// equal bytes.
    ///
    /// # Errors
    /// Names the first field that [`Channel::parse`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BadDocument> {
        self.check()?;
        let mut bytes = serde_json::to_vec_pretty(&Written {
            format: FORMAT,
            channel: &self.channel,
            release: &self.release,
            releases: &self.releases,
            rollout: self.rollout.as_ref(),
        })
        .expect("no map has keys other than texts, and writing to memory cannot fail");
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn check(&self) -> Result<(), BadDocument> {
        let count = self.releases.len();
        if count > MAX_CHANNEL_RELEASES {
            let problem = Problem::too_many(count, MAX_CHANNEL_RELEASES);
            return Err(BadDocument::field("releases", problem));
        }
        for pair in self.releases.windows(2) {
            if let [newer, older] = pair
                && newer <= older
            {
                // Two spellings of one version (1.0 and 1.00) are the same.
                let problem = if newer == older {
                    Problem::Twice(older.to_string())
                } else {
                    Problem::Malformed(format!("has {older} after {newer}, which is older"))
                };
                return Err(BadDocument::field("releases", problem));
            }
        }
        let listed = self
            .releases
            .iter()
            .any(|one| one.as_str() == self.release.as_str());
        if !listed {
            let problem = format!("is {}, which is not among the releases", self.release);
            return Err(BadDocument::field("release", Problem::Malformed(problem)));
        }
        self.rollout.as_ref().map_or(Ok(()), Rollout::check)
    }
}

#[derive(Serialize)]
struct Written<'a> {
    format: u64,
    channel: &'a ChannelName,
    release: &'a Version,
    releases: &'a [Version],
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<&'a Rollout>,
}

/// The name of a channel: 1 to 32 lower-case letters, digits and dashes, the
/// first no dash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(String);

/// A text is no channel name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "is {0:?}, which is not a channel name: 1 to 32 lower-case letters, digits and dashes, the first no dash"
)]
pub struct BadChannelName(pub String);

impl ChannelName {
    const MAX_BYTES: usize = 32;
    const TARGET_SUFFIX: &'static str = ".channel.json";

    /// Returns the channel name that `text` is.
    pub fn parse(text: &str) -> Result<Self, BadChannelName> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let sound = !text.is_empty()
            && text.len() <= Self::MAX_BYTES
            && text.bytes().all(plain)
            && !text.starts_with('-');
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            // What came from outside is not repeated at full length.
            Err(BadChannelName(text.chars().take(Self::MAX_BYTES).collect()))
        }
    }

    /// Returns the channel whose file a TUF target is, if its name is such.
    pub fn of_target(name: &str) -> Option<Self> {
        Self::parse(name.strip_suffix(Self::TARGET_SUFFIX)?).ok()
    }

    /// Returns the name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the TUF target: `<channel>.channel.json`.
    pub fn target(&self) -> String {
        format!("{self}{}", Self::TARGET_SUFFIX)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ChannelName {
    type Err = BadChannelName;

    fn from_str(text: &str) -> Result<Self, BadChannelName> {
        Self::parse(text)
    }
}

impl Serialize for ChannelName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
