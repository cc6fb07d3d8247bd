//! Ends a trial that nobody ends.
//!
//! The health gate gives up by its own deadline. If the gate itself is what the
//! release broke, this does it; and if the daemon is broken too, the unit
//! `bistable-undecided.timer` reboots, which costs the trial one of its tries.

use std::time::Duration;

use crate::dbus::reboot_after_verdict;
use crate::driver::{Handle, RequestError};
use crate::machine::{Complaint, Request};
use crate::node::{Node, Standing};
use crate::ports::Clock;
use crate::refusal::Refused;

/// When a trial without verdict has failed, counted from the machine's start:
/// the health gate's longest deadline is 10 minutes, and it gets half of that
/// again for its last words.
pub const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// A refusal for being busy lasts a second or two.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits for the deadline, and ends the trial if it still is one.
pub async fn watch(handle: &Handle, clock: &impl Clock, deadline: Duration) {
    handle.settled().await;
    if condemned_now(&handle.view().node) {
        // An earlier run of the daemon had no time to reboot.
        return reboot_after_verdict(handle).await;
    }
    tokio::time::sleep(deadline.saturating_sub(clock.since_boot())).await;
    loop {
        let node = handle.view().node.clone();
        match node.booted.standing {
            Standing::Good | Standing::LastResort => return,
            Standing::Condemned if condemned_now(&node) => {
                return reboot_after_verdict(handle).await;
            }
            // Started without a boot entry, by hand: nobody's trial.
            Standing::Condemned => return,
            Standing::Trial { .. } => {}
        }
        match handle.request(Request::MarkBad(complaint(deadline))).await {
            Ok(_) => return reboot_after_verdict(handle).await,
            Err(RequestError::Refused(Refused::NotInTrial | Refused::GoingDown)) => return,
            Err(error) => tracing::error!(%error, "cannot end a trial without verdict"),
        }
        tokio::time::sleep(PATIENCE).await;
    }
}

fn complaint(deadline: Duration) -> Complaint {
    Complaint {
        reason: format!(
            "no verdict within {} minutes of the start",
            deadline.as_secs() / 60
        ),
        check: "verdict".to_owned(),
        ..Complaint::default()
    }
}

/// Whether the booted slot was condemned in this very boot.
fn condemned_now(node: &Node) -> bool {
    node.booted.standing == Standing::Condemned
        && node.last_rollback.as_ref().is_some_and(|told| {
            told.boot_id == node.boot_id && told.root_hash == node.booted.root_hash
        })
}
