//! What the disk says: the facts of a node, and what an earlier boot left open.
//!
//! Slots are known from partition labels and boot entries alone. The record of
//! a trial adds only how the trial came about, and is never believed against
//! them.

mod departure;
#[cfg(test)]
mod table;

use partition_layout::{BootEntry, RootHash, SlotContent, Version};

use crate::machine::{
    Blame, Complaint, Effect, Note, blessed, end_watch, keep_watch, record_good, tell_departure,
};
use crate::node::{Booted, Node, SlotStatus, Spare, Standing, Way};
use crate::ports::{DiskView, Leftover, SlotOnDisk};
use crate::pstore::{Dump, panic_of};
use crate::records::{
    Barred, Boot, Departure, GateVerdict, Happened, HistoryLine, LastGood, Passed, Rollback, Trial,
};
use crate::totals::Totals;

/// Everything that can be read from the node.
#[derive(Debug, Clone)]
pub struct Observed {
    pub disk: DiskView,
    pub entries: Vec<BootEntry>,
    /// A kernel image that is no entry.
    pub leftover: Leftover,
    pub has_variables: bool,
    pub boot_id: String,
    /// In this boot it was decided to stay in the booted slot.
    pub settled: bool,
    pub trial: Option<Trial>,
    pub last_good: Option<LastGood>,
    /// What kernels that panicked have left behind.
    pub dumps: Vec<Dump>,
    /// The boots that reached userspace, oldest first.
    pub boots: Vec<Boot>,
    pub verdict: Option<GateVerdict>,
    pub last_rollback: Option<Rollback>,
    pub barred: Vec<Barred>,
    pub floor: Option<Version>,
    pub history: Vec<HistoryLine>,
    pub totals: Totals,
}

/// Returns the facts.
pub fn derive(seen: &Observed) -> Node {
    let version = &seen.disk.booted_version;
    let entry = entry_of(&seen.entries, version);
    let spare = spare(seen);
    let boots_by_right = matches!(spare.status, SlotStatus::Good | SlotStatus::Demoted);
    let of_trial = |entry: &BootEntry| entry.counter.filter(|_| !entry.is_good());
    let standing = match entry.as_ref().map(of_trial) {
        Some(None) => Standing::Good,
        Some(Some(_)) if seen.settled && !boots_by_right => Standing::LastResort,
        Some(Some(counter)) => Standing::Trial {
            left: counter.left,
            done: counter.done,
        },
        None => Standing::Condemned,
    };
    // A node that has never ended a trial accepts nothing older than the good
    // release that it shipped with.
    let shipped = match (standing, spare.status, &spare.held) {
        (Standing::Good, ..) => Some(version),
        (_, SlotStatus::Good, Some((held, _))) => Some(held),
        (Standing::Trial { .. } | Standing::LastResort | Standing::Condemned, ..) => None,
    };
    let floor = seen.floor.as_ref().or(shipped).cloned();
    let came_up = seen.verdict.as_ref().is_some_and(|it| {
        it.verdict == Passed::Pass
            && it.boot_id == seen.boot_id
            && it.root_hash == seen.disk.booted_root_hash
    });
    Node {
        booted: Booted {
            slot: seen.disk.booted,
            version: version.clone(),
            root_hash: seen.disk.booted_root_hash,
            standing,
            entry: entry.clone(),
        },
        spare: spare.clone(),
        has_variables: seen.has_variables,
        boot_id: seen.boot_id.clone(),
        floor,
        barred: seen.barred.clone(),
        trial: seen.trial.clone(),
        came_up,
        gave_way: departure::gave_way(seen, &spare),
        last_start: departure::last_start(seen, entry.as_ref()),
        last_rollback: seen.last_rollback.clone(),
        history: seen.history.clone(),
        totals: seen.totals.clone(),
    }
}

/// Returns the entry that counts when a torn rename has left two of them: the
/// one that the boot loader prefers.
fn entry_of(entries: &[BootEntry], version: &Version) -> Option<BootEntry> {
    let rank = |entry: &BootEntry| match entry.counter {
        None => (2, 0),
        Some(counter) if counter.left > 0 => (1, counter.left),
        Some(_) => (0, 0),
    };
    entries
        .iter()
        .filter(|entry| entry.version == *version)
        .max_by_key(|entry| rank(entry))
        .cloned()
}

fn spare(seen: &Observed) -> Spare {
    let slot = seen.disk.booted.other();
    let on_disk = seen.disk.slot(slot);
    let (root_len, verity_len) =
        on_disk.map_or((0, 0), |it: &SlotOnDisk| (it.root_len, it.verity_len));
    let (status, held, entry) = match on_disk.map(|it| &it.content) {
        None | Some(SlotContent::Empty) => (SlotStatus::Empty, None, None),
        Some(SlotContent::Unknown { .. }) => (SlotStatus::Unknown, None, None),
        Some(SlotContent::Holds { version, root_hash }) => {
            let held = Some((version.clone(), *root_hash));
            if *version == seen.disk.booted_version {
                // One name for two slots: the entry is the booted one's.
                (SlotStatus::Unknown, held, None)
            } else {
                let entry = entry_of(&seen.entries, version);
                (spare_status(entry.as_ref()), held, entry)
            }
        }
    };
    Spare {
        slot,
        status,
        held,
        entry,
        root_len,
        verity_len,
    }
}

fn spare_status(entry: Option<&BootEntry>) -> SlotStatus {
    let Some(entry) = entry else {
        return SlotStatus::Bad;
    };
    let Some(counter) = entry.counter.filter(|_| !entry.is_good()) else {
        return SlotStatus::Good;
    };
    match (counter.left, counter.done) {
        (1.., _) => SlotStatus::Armed,
        // Emptied by us, never tried.
        (0, 0) => SlotStatus::Demoted,
        (0, _) => SlotStatus::Bad,
    }
}

/// Returns what to do first: the end of whatever an earlier boot, or an earlier
/// run of the daemon, left open.
pub fn settle(seen: &Observed, node: &Node) -> Vec<Effect> {
    let of_trial = match &seen.trial {
        None => vec![],
        Some(trial) if trial.slot == node.booted.slot => settle_own(trial, node),
        Some(trial) => settle_spare(trial, seen, node),
    };
    let mut effects = Vec::new();
    let open = seen.trial.is_some() && !of_trial.contains(&Effect::ForgetTrial);
    let clears = |effect: &Effect| matches!(effect, Effect::Disarm { .. });
    if !open && !of_trial.iter().any(clears) && node.gave_way.is_none() {
        effects.extend(clear_leftovers(seen, node));
    }
    effects.extend(of_trial);
    if node.booted.standing == Standing::Good {
        if !effects.contains(&Effect::MarkSettled) {
            effects.push(Effect::MarkSettled);
        }
        if seen.floor.is_none() {
            // A node as shipped: without it, an older release that becomes good
            // would set the first floor, below the shipped one.
            effects.push(Effect::RaiseFloor {
                version: node.booted.version.clone(),
            });
        }
        let stale = seen.last_good.as_ref();
        let stale = stale.is_some_and(|good| good.root_hash != node.booted.root_hash);
        let notes_good = |effect: &Effect| matches!(effect, Effect::RecordGood { .. });
        if stale && effects.contains(&Effect::ForgetTrial) && !effects.iter().any(notes_good) {
            // The end of the trial is what is to be told of that slot.
            effects.push(record_good(node));
        }
        let is_cleared = effects.iter().any(clears);
        let of_watch = match &node.gave_way {
            Some(gone) => tell_departure(node, gone),
            // There is nothing to give way to: no start may touch its name.
            None if is_cleared || !node.is_to_be_watched() => end_watch(node),
            None if node.came_up => keep_watch(node),
            // It is renewed when the boot has come up.
            None => vec![],
        };
        for effect in of_watch {
            if !effects.contains(&effect) {
                effects.push(effect);
            }
        }
    }
    effects
}

/// An interrupted stage, whose record was not written yet: the slot is labelled
/// or a kernel image lies about, and nothing of it boots.
fn clear_leftovers(seen: &Observed, node: &Node) -> Vec<Effect> {
    let unbootable = match node.spare.status {
        SlotStatus::Bad => node.spare.entry.is_none(),
        SlotStatus::Empty => seen.leftover != Leftover::Nothing,
        SlotStatus::Good
        | SlotStatus::Trial
        | SlotStatus::Armed
        | SlotStatus::Demoted
        | SlotStatus::Unknown => false,
    };
    if unbootable { disarm(node) } else { vec![] }
}

/// Nothing is written while the booted slot is not good; what is left over then
/// does not boot either, and is cleared later.
fn disarm(node: &Node) -> Vec<Effect> {
    if node.booted.standing != Standing::Good {
        return vec![];
    }
    let mut effects = end_watch(node);
    effects.push(Effect::Disarm {
        spare: node.spare.slot,
        booted: node.booted.version.clone(),
    });
    effects
}

/// The trial's slot is the one that runs.
fn settle_own(trial: &Trial, node: &Node) -> Vec<Effect> {
    if trial.root_hash != node.booted.root_hash {
        return vec![Effect::ForgetTrial];
    }
    match node.booted.standing {
        // The verdict was cut off between the entry and the records.
        Standing::Good => blessed(node),
        Standing::Trial { .. } | Standing::LastResort | Standing::Condemned => vec![],
    }
}

/// How a trial of the spare slot stands, seen from the other one.
enum Fate {
    /// It may still be tried.
    Open,
    /// It was never armed; the slot is to be cleared.
    NeverArmed,
    /// The record is of something else.
    Stale,
    /// The trial was left.
    Left(Complaint, Guilt),
    /// The trial was left, and that is written down.
    LeftAndTold(Guilt),
}

/// Whether a trial that was left speaks against its image.
#[derive(Clone, Copy)]
enum Guilt {
    Proven,
    /// The one start that was asked for ended without a word of the gate. It may have
    /// hung, or the power may have failed; and nothing tries it again by itself.
    Unclear,
}

fn settle_spare(trial: &Trial, seen: &Observed, node: &Node) -> Vec<Effect> {
    match fate(trial, seen, node) {
        Fate::Open => vec![],
        Fate::Stale => vec![Effect::ForgetTrial],
        Fate::NeverArmed => {
            let mut effects = disarm(node);
            effects.push(Effect::ForgetTrial);
            effects
        }
        Fate::Left(complaint, guilt) => {
            let tries = tries_spent(trial, node);
            let mut effects = vec![Effect::RecordRollback(Blame {
                kind: Departure::Trial,
                version: trial.version.clone(),
                root_hash: trial.root_hash,
                complaint: complaint.clone(),
                tries,
                armed_at: Some(trial.armed_at),
            })];
            effects.extend(left(trial, node, guilt, &complaint.reason));
            effects
        }
        Fate::LeftAndTold(guilt) => {
            let reason = seen
                .last_rollback
                .as_ref()
                .map_or("", |it| it.reason.as_str());
            left(trial, node, guilt, reason)
        }
    }
}

fn left(trial: &Trial, node: &Node, guilt: Guilt, reason: &str) -> Vec<Effect> {
    let Trial {
        version,
        root_hash,
        slot,
        ..
    } = trial.clone();
    let mut effects = Vec::new();
    let is_proven = match guilt {
        Guilt::Proven => true,
        Guilt::Unclear => false,
    };
    if is_proven && node.barred(&root_hash).is_none() {
        let (version, reason) = (version.clone(), reason.to_owned());
        effects.push(Effect::Bar {
            version,
            root_hash,
            reason,
        });
    }
    effects.extend(disarm(node));
    let (event, slot, message) = (Happened::RolledBack, Some(slot), reason.to_owned());
    effects.push(Effect::Remember(Note {
        event,
        version: Some(version),
        root_hash: Some(root_hash),
        slot,
        message,
        error: None,
    }));
    effects.push(Effect::ForgetTrial);
    effects
}

fn tries_spent(trial: &Trial, node: &Node) -> u32 {
    let counter = node.spare.entry.as_ref().and_then(|entry| entry.counter);
    counter.map_or(trial.tries, |counter| counter.done)
}

fn fate(trial: &Trial, seen: &Observed, node: &Node) -> Fate {
    let same_boot = trial.boot_id == seen.boot_id;
    match &node.spare.held {
        Some((_, hash)) if *hash != trial.root_hash => return Fate::Stale,
        Some(_) | None => {}
    }
    let Some(entry) = &node.spare.entry else {
        // In the boot that armed it nothing was tried. Else what was said of the trial comes first: a
        // removal that was cut short may have left something behind that looks like a stage that was.
        return if same_boot {
            Fate::NeverArmed
        } else if is_told(trial, seen) {
            Fate::LeftAndTold(Guilt::Proven)
        } else if let Some(complaint) = complaint(trial, seen) {
            Fate::Left(complaint, Guilt::Proven)
        } else if seen.leftover == Leftover::Unfinished {
            // The kernel image still has its temporary name: arming is its rename.
            Fate::NeverArmed
        } else {
            let gone = silence("its boot entry has gone", trial, seen);
            Fate::Left(gone, Guilt::Proven)
        };
    };
    let Some(counter) = entry.counter.filter(|_| !entry.is_good()) else {
        // A rollback's target that was not given its counter, or lost it again.
        return Fate::Stale;
    };
    if same_boot {
        return if counter.left > 0 {
            Fate::Open
        } else {
            Fate::Stale
        };
    }
    let complaint = complaint(trial, seen);
    let guilt = match (counter.left, counter.done, trial.way, &complaint) {
        (1.., 1.., Way::OneShot, None) if panic_of(&seen.dumps, trial).is_none() => Guilt::Unclear,
        (_, _, Way::OneShot | Way::Order, _) => Guilt::Proven,
    };
    if is_told(trial, seen) {
        return Fate::LeftAndTold(guilt);
    }
    if let Some(complaint) = complaint {
        return Fate::Left(complaint, guilt);
    }
    let started = match (counter.left, counter.done, trial.way) {
        // Never tried: a rollback's target whose new counter was not written.
        (0, 0, _) => return Fate::Stale,
        (0, 1, _) => "it was started once".to_owned(),
        (0, done, _) => format!("it was started {done} times"),
        // The wish works once, so this was it.
        (_, 1.., Way::OneShot) => "it was started once".to_owned(),
        (_, _, Way::Order) | (_, 0, Way::OneShot) => return Fate::Open,
    };
    Fate::Left(silence(&started, trial, seen), guilt)
}

/// What is known of a trial that ended without the gate's word.
fn silence(started: &str, trial: &Trial, seen: &Observed) -> Complaint {
    if let Some(dump) = panic_of(&seen.dumps, trial) {
        return panicked(started, dump);
    }
    let end = match reached_userspace(&trial.boot_id, &trial.version, seen) {
        Some(true) => "it reached userspace, and no verdict was recorded",
        Some(false) => "it never reached userspace",
        None => "no verdict was recorded",
    };
    Complaint {
        reason: format!("{started}; {end}"),
        ..Complaint::default()
    }
}

fn panicked(started: &str, dump: &Dump) -> Complaint {
    let panic = dump.reason();
    let panic = panic.unwrap_or_else(|| "for an unknown reason".to_owned());
    Complaint {
        reason: format!("{started}, and the kernel panicked: {panic}"),
        panic,
        lines: dump.lines(),
        ..Complaint::default()
    }
}

/// Whether a boot of `version` after the boot `since` got as far as a mounted `/var`;
/// `None` if the list does not go back so far.
fn reached_userspace(since: &str, version: &Version, seen: &Observed) -> Option<bool> {
    let mut boots = seen.boots.iter();
    boots.find(|boot| boot.is(since))?;
    let mut later = boots.filter(|boot| !boot.is(&seen.boot_id));
    Some(later.any(|boot| boot.version == *version))
}

/// The gate's own word about this trial, which a dead daemon did not hear.
fn complaint(trial: &Trial, seen: &Observed) -> Option<Complaint> {
    let verdict = seen.verdict.as_ref()?;
    let of_this_trial = verdict.verdict == Passed::Fail
        && verdict.root_hash == trial.root_hash
        && verdict.boot_id != trial.boot_id
        && verdict.boot_id != seen.boot_id
        && Some(&verdict.boot_id) != trial.older_verdict.as_ref();
    of_this_trial.then(|| Complaint {
        reason: verdict.reason.clone(),
        check: verdict.check.clone(),
        unit: verdict.unit.clone(),
        lines: verdict.lines.clone(),
        panic: String::new(),
    })
}

fn is_told(trial: &Trial, seen: &Observed) -> bool {
    let same = |hash: &RootHash, told: &Rollback| {
        told.root_hash == *hash && told.armed_at == Some(trial.armed_at)
    };
    seen.last_rollback
        .as_ref()
        .is_some_and(|told| same(&trial.root_hash, told))
}
