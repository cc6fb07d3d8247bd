//! A hand on the reset button, for firmware that never says a word.
//!
//! Under emulation a machine now and then comes out of a reset and hangs before
//! its firmware has printed anything, both processors busy, nothing of the node's
//! own software running. A person would press reset again; so does this. Whatever
//! has printed anything is left alone: that hang would be ours.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::console::Console;
use crate::deadline::Deadline;
use crate::qmp::{EventMark, Qmp};

/// How long firmware may take to its first line: 3 s alone, 15 s beside two
/// builds and another node.
const SILENCE_SECONDS: u64 = 60;

/// What the system that went down printed last may be read only after we were told of the
/// reset; no firmware speaks as soon as that.
const ECHO: Duration = Duration::from_secs(1);

/// Longer than any story.
const FOR_EVER_SECONDS: u64 = 24 * 3600;

/// Presses reset whenever the firmware stays silent after power-on or a reset,
/// until QEMU is gone.
pub(crate) async fn watch(qmp: Qmp, console: Console) {
    let mut events = EventMark::START;
    loop {
        // Any line at all: the firmware's first one is not the same everywhere.
        let spoke = console
            .speaks_after(Instant::now() + ECHO, Deadline::after(SILENCE_SECONDS))
            .await;
        if spoke.is_err() {
            let pressed = qmp
                .execute("system_reset", Value::Null, Deadline::after(30))
                .await;
            if pressed.is_err() {
                return;
            }
            // The press is an event too: it is taken below, or it would count as the next reset.
        }
        let reset = qmp
            .wait_for(events, "RESET", Deadline::after(FOR_EVER_SECONDS))
            .await;
        if reset.is_err() {
            return;
        }
        events = qmp.mark();
    }
}
