//! Who asked for a piece of work: it stands in the history beside what was done.

use std::fmt;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;

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

/// Who asked, as far as that is known: a caller is answered first and looked up meanwhile.
#[derive(Debug, Clone)]
pub enum Asking {
    Known(Asker),
    /// Ends when nothing more is to be learned.
    LookedUp(watch::Receiver<Option<Asker>>),
}

impl Asking {
    /// Waits until it is known who asked. It must be used from a thread that may block.
    pub fn wait(&self) -> Asker {
        let mut learned = match self {
            Self::Known(asker) => return asker.clone(),
            Self::LookedUp(learned) => learned.clone(),
        };
        let learned = Handle::current().block_on(async {
            let known = learned.wait_for(Option::is_some).await;
            known.ok().and_then(|asker| asker.clone())
        });
        learned.unwrap_or(Asker::Caller {
            uid: None,
            unit: None,
        })
    }

    /// Returns whether the node's settings did.
    pub const fn is_policy(&self) -> bool {
        matches!(self, Self::Known(Asker::Policy))
    }
}

impl From<Asker> for Asking {
    fn from(asker: Asker) -> Self {
        Self::Known(asker)
    }
}

impl Default for Asking {
    fn default() -> Self {
        Self::Known(Asker::default())
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Updater => f.write_str("the updater"),
            Self::Policy => f.write_str("the node's settings"),
            Self::Caller {
                unit: Some(unit), ..
            } => f.write_str(unit),
            Self::Caller {
                unit: None,
                uid: Some(uid),
            } => write!(f, "user {uid}"),
            Self::Caller {
                unit: None,
                uid: None,
            } => f.write_str("somebody on the bus"),
        }
    }
}
