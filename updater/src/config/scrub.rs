use std::time::Duration;

/// How often the images in the slots are read through in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrub {
    Off,
    Daily,
    Weekly,
    Monthly,
}

/// A text is no answer to how often.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is {0:?}; off, daily, weekly and monthly are known")]
pub struct BadScrub(String);

impl Scrub {
    /// Returns how often `text` says.
    pub fn parse(text: &str) -> Result<Self, BadScrub> {
        match text {
            "off" => Ok(Self::Off),
            "daily" => Ok(Self::Daily),
            "weekly" => Ok(Self::Weekly),
            "monthly" => Ok(Self::Monthly),
            other => Err(BadScrub(other.to_owned())),
        }
    }

    /// Returns the time from one reading to the next; `None` is never.
    pub const fn every(self) -> Option<Duration> {
        const DAY: u64 = 24 * 60 * 60;
        match self {
            Self::Off => None,
            Self::Daily => Some(Duration::from_secs(DAY)),
            Self::Weekly => Some(Duration::from_secs(7 * DAY)),
            Self::Monthly => Some(Duration::from_secs(30 * DAY)),
        }
    }
}
