//! Who asked for a piece of work: it stands in the history beside what was done.

use serde::{Deserialize, Serialize};

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "who", rename_all = "kebab-case")]
pub enum Asker {
    /// Nobody: the daemon ends what an earlier boot left open, or a deadline has passed.
    #[default]
    Updater,
    /// The node's settings, which a timer carries out.
    Policy,
    /// A program on the bus.
    Caller {
        uid: Option<u32>,
        /// The systemd unit that it runs in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unit: Option<String>,
    },
}

impl Asker {
    /// Returns the word on the bus.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Updater => "updater",
            Self::Policy => "policy",
            Self::Caller { .. } => "caller",
        }
    }
}
