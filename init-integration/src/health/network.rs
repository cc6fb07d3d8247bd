//! Whether the node has a network, and whether it had one when it was last good.
//!
//! A release that loses the network can never be updated again, so it must not become
//! good; and a node that never had one must. What the last good boot had decides: it leaves a
//! mark in `/var`, and with the mark a network is required of the next trial.
//!
//! Asked is systemd-networkd's `OnlineState`, not its `OperationalState`: the first is about
//! the links that it was told to bring up, the second also takes a bridge of
//! containers with an address for a network.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::report::Chain;

use super::bus::{Bus, Networkd};
use super::durable;
use super::gate::Importance;
use super::look::Look;
use super::this_boot::since_boot;
use super::watch::notify;

/// The unit to look at when there is none.
const NETWORKD: &str = "systemd-networkd.service";

/// The name of the mark.
const MARK: &str = "network";

/// How long systemd-networkd may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks whether there is a network.
pub(super) async fn look(networkd: &Networkd) -> Look {
    match networkd.online_state().await {
        Ok(state) => judge(&state),
        Err(error) => Look::failed(&error),
    }
    .blaming(Some(NETWORKD))
}

fn judge(state: &str) -> Look {
    match state {
        // Partial: a second port that nothing is plugged into.
        "online" | "partial" => Look::Well,
        "" => Look::ill("systemd-networkd has no link to bring up"),
        other => Look::ill(format!("systemd-networkd says that the node is {other}")),
    }
}

/// What is remembered of the network from boot to boot.
#[derive(Debug, Clone)]
pub struct NetworkMemory {
    /// The folder of the mark, beside the verdict.
    pub folder: PathBuf,
    /// Between two looks.
    pub pause: Duration,
}

impl NetworkMemory {
    /// Returns the memory of a node. The pause is a fraction of the patience of the gate's watchdog.
    pub fn of_node() -> Self {
        Self {
            folder: "/var/lib/bistable/gate".into(),
            pause: Duration::from_secs(30),
        }
    }

    /// Says how much the network counts: what a good boot had, the next release must have.
    pub(super) fn importance(&self) -> Importance {
        if self.folder.join(MARK).exists() {
            Importance::RequiredOnTrial
        } else {
            Importance::Advisory
        }
    }

    /// Waits for a network and leaves the mark. If there is none at `deadline`, counted from the
    /// start of the kernel, the mark goes, and the wait goes on: the network may be the last to come
    /// back of a whole site. Called on a good slot only.
    pub async fn keep(&self, bus: &mut Bus, deadline: Duration) {
        let mut late = false;
        while !online(bus).await {
            if !late && since_boot() >= deadline {
                late = true;
                tracing::info!("no network on a good slot: the next trial needs none");
                if let Err(error) = durable::remove(&self.folder, MARK) {
                    tracing::warn!(error = %Chain(&error), "an old mark of a network stays");
                }
            }
            notify(&[sd_notify::NotifyState::Watchdog]);
            sleep(self.pause).await;
        }
        if self.folder.join(MARK).exists() {
            return;
        }
        if let Err(error) = durable::replace(&self.folder, MARK, b"") {
            tracing::warn!(error = %Chain(&error), "it is not kept that there is a network");
        }
    }
}

async fn online(bus: &mut Bus) -> bool {
    let connection = match bus.connection().await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(error = %Chain(&error), "the network cannot be asked for");
            return false;
        }
    };
    let networkd = Networkd::new(connection);
    timeout(PATIENCE, look(&networkd)).await == Ok(Look::Well)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_link_that_works_is_a_network_and_nothing_else_is() {
        for state in ["online", "partial"] {
            assert_eq!(judge(state), Look::Well, "{state}");
        }
        for state in ["offline", "", "unknown"] {
            assert!(matches!(judge(state), Look::Ill(_)), "{state}");
        }
    }
}
