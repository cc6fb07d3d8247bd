//! The watch on a good slot: its boot entry carries a counter, so that a good release whose
//! starts fail gives way to the other one.
//!
//! A counted entry is renamed by the firmware at each start, and no firmware does that
//! safely. So there is a watch only while the other slot boots by right: before that slot is
//! disarmed or put on trial, the counter goes; and it comes back when a boot has come up.

use super::effect::{Blame, Effect, Note};
use crate::node::{GaveWay, Node, Often, Standing};
use crate::records::{Departure, Happened};

/// Begins or renews the watch on a good slot whose boot has come up, or ends it.
pub(crate) fn keep_watch(node: &Node) -> Vec<Effect> {
    if !node.is_to_be_watched() {
        return end_watch(node);
    }
    let Some(entry) = &node.booted.entry else {
        return vec![];
    };
    let fresh = partition_layout::BootEntry::watched(entry.version.clone());
    if *entry == fresh {
        return vec![];
    }
    let mut effects = vec![record_good(node)];
    effects.extend(spare_unwatched(node));
    effects.push(Effect::Watch {
        entry: entry.clone(),
    });
    effects
}

/// Ends the watch on the booted slot, if there is one. What follows may disarm the other slot.
pub(crate) fn end_watch(node: &Node) -> Vec<Effect> {
    let entry = node.booted.entry.as_ref();
    let watched =
        entry.filter(|entry| node.booted.standing == Standing::Good && entry.counter.is_some());
    let bless = |entry: &partition_layout::BootEntry| Effect::Bless {
        entry: entry.clone(),
    };
    watched.map(bless).into_iter().collect()
}

/// What the booted slot would give way to must boot whatever the firmware does to names.
pub(super) fn spare_unwatched(node: &Node) -> Option<Effect> {
    let entry = node.spare.entry.as_ref()?;
    entry.is_watched().then(|| Effect::Bless {
        entry: entry.clone(),
    })
}

/// Notes that the booted release is the one that was good last.
pub(crate) fn record_good(node: &Node) -> Effect {
    Effect::RecordGood {
        slot: node.booted.slot,
        version: node.booted.version.clone(),
        root_hash: node.booted.root_hash,
    }
}

/// Tells that a good release boots no more, and clears its slot beside a good one.
pub(crate) fn tell_departure(node: &Node, gone: &GaveWay) -> Vec<Effect> {
    let GaveWay {
        version,
        root_hash,
        slot,
        starts,
        complaint,
        often,
    } = gone.clone();
    let reason = complaint.reason.clone();
    let mut effects = vec![Effect::RecordRollback(Blame {
        kind: Departure::GaveWay,
        version: version.clone(),
        root_hash,
        complaint,
        tries: starts,
        armed_at: None,
    })];
    match often {
        Often::Once => {}
        Often::Again => effects.push(Effect::Bar {
            version: version.clone(),
            root_hash,
            reason: reason.clone(),
        }),
    }
    if node.booted.standing == Standing::Good {
        effects.extend(end_watch(node));
        effects.push(Effect::Disarm {
            spare: node.spare.slot,
            booted: node.booted.version.clone(),
        });
    }
    effects.push(Effect::Announce(format!(
        "release {version} gave way to {} ({reason})",
        node.booted.version
    )));
    effects.push(Effect::Remember(Note {
        event: Happened::GaveWay,
        version: Some(version),
        root_hash: Some(root_hash),
        slot: Some(slot),
        message: reason,
        error: None,
    }));
    // Told: from here on it is the running one that may give way.
    effects.push(record_good(node));
    effects
}
