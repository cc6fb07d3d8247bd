//! The orders, as literal lists: what comes first and what last is the point.

use partition_layout::{RootHash, Version};
use release::Release;

use super::effect::{Blame, Effect, Note};
use super::watch::{end_watch, record_good, spare_unwatched, tell_departure};
use super::words::{Complaint, Outcome, Target};
use crate::admit::Ask;
use crate::node::{Node, Often, SlotStatus, Standing, Way};
use crate::records::{Departure, Happened};
use crate::refusal::Failure;

/// The fewest tries of a trial that a one-shot wish starts. It is started once,
/// and must have one left while it runs: when it is good, the newer release
/// gives way first, and a cut then must find something with tries to boot.
pub const ONE_SHOT_TRIES: u32 = 2;

/// The end of a trial that went well.
pub(super) fn bless(node: &Node) -> Vec<Effect> {
    let mut effects = Vec::new();
    // A newer release in the other slot would be started first. It gives way
    // before the booted slot's counter goes: a cut in between boots this trial again.
    if let (Some((version, _)), Some(entry)) = (&node.spare.held, &node.spare.entry)
        && *version > node.booted.version
        && node.spare_boots()
        && node.spare.status != SlotStatus::Demoted
    {
        effects.push(Effect::Demote {
            entry: entry.clone(),
        });
    }
    if let Some(entry) = &node.booted.entry {
        let entry = entry.clone();
        if node.spare_boots_by_right() {
            effects.extend(spare_unwatched(node));
            effects.push(Effect::Watch { entry });
        } else {
            effects.push(Effect::Bless { entry });
        }
    }
    effects.extend(blessed(node));
    if let Some(gone) = &node.gave_way {
        effects.extend(tell_departure(node, gone));
    }
    effects
}

/// What is written down when the booted slot is good.
pub(crate) fn blessed(node: &Node) -> Vec<Effect> {
    let version = node.booted.version.clone();
    let root_hash = node.booted.root_hash;
    let (event, slot) = (Happened::Good, Some(node.booted.slot));
    let note = Note {
        event,
        version: Some(version.clone()),
        root_hash: Some(root_hash),
        slot,
        message: String::new(),
        error: None,
    };
    let mut effects = vec![Effect::RaiseFloor { version }, Effect::Remember(note)];
    if node.gave_way.is_none() {
        effects.push(record_good(node));
    }
    effects.extend([Effect::ForgetTrial, Effect::MarkSettled]);
    if node.barred(&root_hash).is_some() {
        // It failed before, was staged by force, and has proved itself now.
        effects.push(Effect::Forgive { root_hash });
    }
    effects
}

/// The end of a trial that went badly. The entry goes first: a full `/var` must
/// not keep a bad slot bootable, and the gate has left its word on the disk
/// already. The record of the trial stays until the other slot has settled, so
/// that a cut in here is noticed there.
///
/// When nothing else boots, the node stays up: a restart would lead here again. That
/// is settled first, so that whatever fails later, nobody restarts the node.
pub(super) fn condemn(node: &Node, complaint: Complaint) -> Vec<Effect> {
    let version = node.booted.version.clone();
    let root_hash = node.booted.root_hash;
    let tries = match node.booted.standing {
        Standing::Trial { done, .. } => done,
        Standing::Good | Standing::LastResort | Standing::Condemned => 0,
    };
    let mut effects = Vec::new();
    if node.spare_boots() {
        effects.push(Effect::RemoveBooted {
            version: version.clone(),
        });
    } else if let Some(entry) = &node.booted.entry {
        effects.push(Effect::MarkSettled);
        effects.push(Effect::Announce(format!(
            "release {version} failed ({}), and no other release boots: the node stays up with it; \
             stage another one by name, with force",
            complaint.reason
        )));
        // Bad, and still better than nothing that boots.
        effects.push(Effect::Demote {
            entry: entry.clone(),
        });
    }
    let own = node
        .trial
        .as_ref()
        .filter(|trial| trial.root_hash == root_hash);
    // A release that was good is not barred by the last start of its watch. The other slot's daemon
    // finishes what is told here.
    let (kind, is_barred) = match node.last_start {
        None => (Departure::Trial, true),
        Some(Often::Once) => (Departure::GaveWay, false),
        Some(Often::Again) => (Departure::GaveWay, true),
    };
    effects.push(Effect::RecordRollback(Blame {
        kind,
        version: version.clone(),
        root_hash,
        complaint: complaint.clone(),
        tries,
        armed_at: own.map(|trial| trial.armed_at),
    }));
    let reason = complaint.reason;
    if is_barred {
        effects.push(Effect::Bar {
            version: version.clone(),
            root_hash,
            reason: reason.clone(),
        });
    }
    let (event, slot) = (Happened::Bad, Some(node.booted.slot));
    effects.push(Effect::Remember(Note {
        event,
        version: Some(version),
        root_hash: Some(root_hash),
        slot,
        message: reason,
        error: None,
    }));
    effects
}

pub(super) fn stage(node: &Node, release: Release, tries: u32, way: Way) -> Vec<Effect> {
    let spare = node.spare.slot;
    let version = release.version.clone();
    let root_hash = release.root_hash;
    let tries = match way {
        Way::Order => tries,
        Way::OneShot => tries.max(ONE_SHOT_TRIES),
    };
    let release = Box::new(release);
    // The note of what the slot held goes before the slot does: a cut would make
    // it pass for a trial that was left, and bar an image that was never started.
    let mut effects = give_up_spare(node);
    // Disarm first and arm last: a power cut in between leaves the spare slot
    // unbootable, never half-written and bootable.
    effects.extend([
        Effect::Disarm {
            spare,
            booted: node.booted.version.clone(),
        },
        Effect::CheckRoom {
            release: release.clone(),
        },
        Effect::WriteTree {
            spare,
            release: release.clone(),
        },
        Effect::WriteRoot {
            spare,
            release: release.clone(),
        },
        Effect::ReadBack {
            spare,
            release: release.clone(),
        },
        Effect::Label {
            spare,
            version: version.clone(),
            root_hash,
        },
        Effect::WriteKernel { release },
        Effect::RecordTrial {
            spare,
            version: version.clone(),
            root_hash,
            tries,
            way,
        },
        Effect::Arm {
            version: version.clone(),
            tries,
            way,
        },
        Effect::Remember(Note {
            event: Happened::Staged,
            version: Some(version),
            root_hash: Some(root_hash),
            slot: Some(spare),
            message: String::new(),
            error: None,
        }),
    ]);
    effects
}

/// What the spare slot held is not what the node gives way to from here on, nor what it
/// has left.
fn give_up_spare(node: &Node) -> Vec<Effect> {
    let mut effects = Vec::new();
    if node.booted.standing == Standing::Good {
        effects.push(record_good(node));
    }
    effects.push(Effect::ForgetTrial);
    effects.extend(end_watch(node));
    effects
}

pub(super) fn clear_stage(
    node: &Node,
    version: Version,
    root_hash: RootHash,
    outcome: &Outcome,
) -> Vec<Effect> {
    let mut effects = Vec::new();
    // Somebody has meddled with the entries if the booted slot is not good any
    // more: then nothing is written. The stage began with a disarm in any case.
    if node.may_write_spare() {
        effects.extend(end_watch(node));
        effects.push(Effect::Disarm {
            spare: node.spare.slot,
            booted: node.booted.version.clone(),
        });
    }
    effects.push(Effect::ForgetTrial);
    let (event, message, error) = match outcome {
        Outcome::Cancelled => (Happened::StageCancelled, String::new(), None),
        Outcome::Failed(failure) => {
            let message = failure.message.clone();
            (Happened::StageFailed, message, Some(failure.name))
        }
        Outcome::Done => return effects,
    };
    let slot = Some(node.spare.slot);
    effects.push(Effect::Remember(Note {
        event,
        version: Some(version),
        root_hash: Some(root_hash),
        slot,
        message,
        error,
    }));
    effects
}

/// What is written down of a stage whose release file could not be had.
pub(super) fn note_unresolved(ask: &Ask, failure: &Failure) -> Effect {
    Effect::Remember(Note {
        event: Happened::StageFailed,
        version: ask.version.clone(),
        root_hash: None,
        slot: None,
        message: failure.message.clone(),
        error: Some(failure.name),
    })
}

/// A slot that was good once gets its tries back.
pub(super) fn rearm(node: &Node, target: &Target, way: Way, reason: String) -> Vec<Effect> {
    let Target {
        slot: spare,
        version,
        root_hash,
        entry,
    } = target.clone();
    let tries = ONE_SHOT_TRIES;
    let mut effects = vec![Effect::CheckWhole {
        spare,
        root_hash,
        entry: entry.clone(),
    }];
    effects.extend(give_up_spare(node));
    effects.extend([
        Effect::RecordTrial {
            spare,
            version: version.clone(),
            root_hash,
            tries,
            way,
        },
        Effect::Rearm { entry, tries, way },
        Effect::Remember(Note {
            event: Happened::RollbackRequested,
            version: Some(version),
            root_hash: Some(root_hash),
            slot: Some(spare),
            message: reason,
            error: None,
        }),
    ]);
    effects
}
