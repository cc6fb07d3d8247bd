use std::fmt;

use jiff::Timestamp;
use partition_layout::Version;

use super::AttemptEnd;

/// Why the node does nothing by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Nobody told it to do anything.
    Off,
    /// The settings cannot be read, and there are no older ones.
    BadSettings(String),
    NoRepository,
    /// The state's name: something is under way.
    Busy(&'static str),
    /// The state's name: the booted slot is not good.
    NotGood(&'static str),
    UpToDate(Version),
    /// There is a release, and the node only looks.
    OnlyChecks(Version),
    /// A release is staged, and the node does not reboot by itself.
    OnlyStages(Version),
    /// An operator has staged something newer than the channel offers.
    OtherStaged {
        staged: Version,
        offered: Version,
    },
    Older {
        version: Version,
        booted: Version,
    },
    BelowFloor {
        version: Version,
        floor: Version,
    },
    Barred {
        version: Version,
        reason: String,
    },
    /// The rollout has not come to this node; both in hundredths of a percent.
    Rollout {
        version: Version,
        share: u32,
        place: u32,
    },
    /// It did not work, and is tried again later.
    Attempt {
        version: Version,
        end: AttemptEnd,
        again: Timestamp,
    },
    WindowClosed {
        version: Version,
        opens: Option<Timestamp>,
    },
    /// An operator has paused the job at work.
    Paused,
}

impl Held {
    /// Returns the word on the bus.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::BadSettings(_) => "bad-settings",
            Self::NoRepository => "no-repository",
            Self::Busy(_) => "busy",
            Self::NotGood(_) => "not-good",
            Self::UpToDate(_) => "up-to-date",
            Self::OnlyChecks(_) => "only-checks",
            Self::OnlyStages(_) => "only-stages",
            Self::OtherStaged { .. } => "other-staged",
            Self::Older { .. } => "older",
            Self::BelowFloor { .. } => "below-floor",
            Self::Barred { .. } => "barred",
            Self::Rollout { .. } => "rollout",
            Self::Attempt { end, .. } => match end {
                AttemptEnd::Failed { .. } => "failed",
                AttemptEnd::Cancelled => "cancelled",
            },
            Self::WindowClosed { .. } => "window-closed",
            Self::Paused => "paused",
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("`automatic` is \"off\": nothing is done without being asked"),
            Self::BadSettings(mistake) => write!(f, "the settings cannot be read: {mistake}"),
            Self::NoRepository => f.write_str("`repository` is not set"),
            Self::Busy(state) => write!(f, "the updater is at work ({state})"),
            Self::NotGood(state) => {
                write!(f, "the running release is not good ({state})")
            }
            Self::UpToDate(version) => write!(f, "{version} is what the channel offers"),
            Self::OnlyChecks(version) => {
                write!(f, "{version} is available, and `automatic` is \"check\"")
            }
            Self::OnlyStages(version) => write!(
                f,
                "{version} waits for the reboot, and `automatic` is not \"reboot\""
            ),
            Self::OtherStaged { staged, offered } => write!(
                f,
                "{staged} was staged, which is newer than {offered}, the channel's"
            ),
            Self::Older { version, booted } => {
                write!(
                    f,
                    "the channel offers {version}, which is older than {booted}"
                )
            }
            Self::BelowFloor { version, floor } => write!(
                f,
                "the channel offers {version}, which is older than {floor}, the oldest that this node accepts"
            ),
            Self::Barred { version, reason } => {
                write!(f, "{version} failed on this node: {reason}")
            }
            Self::Rollout {
                version,
                share,
                place,
            } => write!(
                f,
                "{version} is rolled out to {} % of the nodes, and this one comes at {} %",
                Percent(*share),
                Percent(*place)
            ),
            Self::Attempt {
                version,
                end,
                again,
            } => {
                match end {
                    AttemptEnd::Failed { message } => {
                        write!(f, "{version} could not be staged ({message})")?;
                    }
                    AttemptEnd::Cancelled => write!(f, "staging {version} was cancelled")?,
                }
                write!(f, "; tried again from {}", Minute(*again))
            }
            Self::WindowClosed { version, opens } => {
                write!(f, "{version} waits for a window")?;
                match opens {
                    Some(opens) => write!(f, "; the next one opens {}", Minute(*opens)),
                    None => f.write_str(", and none ever opens"),
                }
            }
            Self::Paused => f.write_str("somebody has paused the job at work"),
        }
    }
}

/// Hundredths of a percent, as a percentage.
struct Percent(u32);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}"),
            (whole, rest) => write!(f, "{whole}.{rest:02}"),
        }
    }
}

/// A time to the minute.
struct Minute(Timestamp);

impl fmt::Display for Minute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.strftime("%Y-%m-%d %H:%M UTC"))
    }
}
