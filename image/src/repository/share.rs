use std::fmt;
use std::str::FromStr;

use partition_layout::Version;
use release::Rollout;
use release::rollout::EVERYBODY;

/// A share of a channel's nodes, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

/// A text is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a percentage from 0 to 100, with at most two decimals")]
pub struct BadShare(String);

impl Share {
    /// All nodes.
    pub const ALL: Self = Self(EVERYBODY);

    /// Returns the share of a rollout; without one it is all nodes.
    pub fn of(rollout: Option<&Rollout>) -> Self {
        rollout.map_or(Self::ALL, |rollout| Self(rollout.share))
    }

    /// Returns the rollout of a release to this share. The places of the nodes
    /// are drawn from the version: the same ones whatever the share, and others
    /// for the next release.
    pub(crate) fn rollout(self, version: &Version) -> Option<Rollout> {
        (self < Self::ALL).then(|| Rollout {
            share: self.0,
            seed: version.to_string(),
        })
    }
}

impl FromStr for Share {
    type Err = BadShare;

    fn from_str(text: &str) -> Result<Self, BadShare> {
        let bad = || BadShare(text.to_owned());
        let number = text.strip_suffix('%').unwrap_or(text);
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 2 {
            return Err(bad());
        }
        let number: u32 = format!("{whole}{decimals:0<2}")
            .parse()
            .map_err(|_| bad())?;
        if number > EVERYBODY {
            return Err(bad());
        }
        Ok(Self(number))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 100 {
            0 => write!(f, "{}%", self.0 / 100),
            rest => write!(f, "{}.{rest:02}%", self.0 / 100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage() {
        for (text, hundredths, shown) in [
            ("0", 0, "0%"),
            ("25", 2500, "25%"),
            ("25%", 2500, "25%"),
            ("0.5", 50, "0.50%"),
            ("0.05", 5, "0.05%"),
            ("12.25%", 1225, "12.25%"),
            ("100", 10_000, "100%"),
            ("100.00", 10_000, "100%"),
        ] {
            assert_eq!(text.parse(), Ok(Share(hundredths)), "{text}");
            assert_eq!(Share(hundredths).to_string(), shown);
        }
        for text in [
            "",
            "%",
            "-1",
            "+1",
            "101",
            "100.01",
            "1.234",
            "1.",
            ".5",
            "ten",
            "99999999999",
        ] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn everybody_needs_no_rollout() {
        let version = Version::parse("1.2").unwrap();
        assert_eq!(Share::ALL.rollout(&version), None);
        let rollout = Share(1).rollout(&version);
        assert_eq!(Share::of(rollout.as_ref()), Share(1));
        assert_eq!(rollout.unwrap().seed, "1.2");
    }
}
