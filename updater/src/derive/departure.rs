//! A release that was good, and boots no more: what the disk says of it, and why.

use super::{Observed, panicked, reached_userspace};
use crate::history::{Happened, HistoryLine};
use crate::machine::Complaint;
use crate::node::{GaveWay, Often, SlotStatus, Spare};
use crate::pstore::panic_of;
use crate::records::{Departure, LastGood, Passed};
use partition_layout::{BootEntry, RootHash, WATCHED_STARTS};

/// Returns the release that was good last, if another one runs because it does not boot.
///
/// The disk decides: the record says of which release it is to be asked. While there is
/// a trial, the slot is the trial's, and its own end is told.
pub(super) fn gave_way(seen: &Observed, spare: &Spare) -> Option<GaveWay> {
    let good = seen.last_good.as_ref()?;
    if good.root_hash == seen.disk.booted_root_hash || seen.trial.is_some() {
        return None;
    }
    // Made to boot no more by a verdict of a trial that it had since.
    let failed = seen.last_rollback.as_ref().is_some_and(|told| {
        told.kind == Departure::Trial && told.root_hash == good.root_hash && told.when >= good.when
    });
    if failed {
        return None;
    }
    let holds = spare.held.as_ref();
    let holds = holds.is_some_and(|(_, root_hash)| *root_hash == good.root_hash);
    let (starts, complaint) = match (holds, &spare.entry, spare.status) {
        (false, ..) => gone("its slot does not hold it any more"),
        (true, None, _) => gone("its kernel image has gone"),
        (true, Some(entry), SlotStatus::Bad) => {
            let starts = entry.counter.map_or(0, |counter| counter.done);
            (starts, in_vain(starts, good, seen))
        }
        (true, Some(_), _) => return None,
    };
    let (starts, complaint) = said(good, seen).unwrap_or((starts, complaint));
    Some(GaveWay {
        version: good.version.clone(),
        root_hash: good.root_hash,
        slot: good.slot,
        starts,
        complaint,
        often: often(&seen.history, &good.root_hash),
    })
}

/// Returns how often it has given way, if this is the last start of the watch on the booted release.
///
/// The name alone does not tell: a failed trial that is the last resort goes on counting.
pub(super) fn last_start(seen: &Observed, entry: Option<&BootEntry>) -> Option<Often> {
    let counter = entry?.counter?;
    let good = seen.last_good.as_ref()?;
    let is_last = counter.left == 0 && counter.done >= WATCHED_STARTS;
    let root_hash = &seen.disk.booted_root_hash;
    (is_last && good.root_hash == *root_hash).then(|| often(&seen.history, root_hash))
}

/// What its last start, which was a trial, has left word of: the daemon's, or the gate's if the power
/// failed before there was one.
fn said(good: &LastGood, seen: &Observed) -> Option<(u32, Complaint)> {
    let told = seen.last_rollback.as_ref().filter(|told| {
        told.kind == Departure::GaveWay
            && told.root_hash == good.root_hash
            && told.when >= good.when
    });
    if let Some(told) = told {
        let complaint = Complaint {
            reason: told.reason.clone(),
            check: told.check.clone(),
            unit: told.unit.clone(),
            lines: told.lines.clone(),
            panic: told.panic.clone(),
        };
        return Some((told.tries, complaint));
    }
    // When it was good, the gate's word was another.
    let verdict = seen
        .verdict
        .as_ref()
        .filter(|verdict| verdict.verdict == Passed::Fail && verdict.root_hash == good.root_hash)?;
    let complaint = Complaint {
        reason: verdict.reason.clone(),
        check: verdict.check.clone(),
        unit: verdict.unit.clone(),
        lines: verdict.lines.clone(),
        panic: String::new(),
    };
    Some((WATCHED_STARTS, complaint))
}

fn gone(what: &str) -> (u32, Complaint) {
    let complaint = Complaint {
        reason: format!("it was good, and {what}"),
        ..Complaint::default()
    };
    (0, complaint)
}

fn in_vain(starts: u32, good: &LastGood, seen: &Observed) -> Complaint {
    let started = format!("it was good, and was started {starts} times without coming up");
    if let Some(dump) = panic_of(&seen.dumps, good) {
        return panicked(&started, dump);
    }
    let end = match reached_userspace(&good.boot_id, &good.version, seen) {
        Some(true) => "; it reached userspace",
        Some(false) => "; it never reached userspace",
        None => "",
    };
    Complaint {
        reason: format!("{started}{end}"),
        ..Complaint::default()
    }
}

/// Once is no fault of the image. Once more, after it had been made good again, is.
fn often(history: &[HistoryLine], root_hash: &RootHash) -> Often {
    let of_it = history
        .iter()
        .filter(|line| line.root_hash == Some(*root_hash));
    let mut before = Often::Once;
    let mut has_given_way = false;
    for line in of_it {
        match line.event {
            Happened::GaveWay => has_given_way = true,
            Happened::Good if has_given_way => before = Often::Again,
            Happened::Forgiven => (before, has_given_way) = (Often::Once, false),
            Happened::Good
            | Happened::Staged
            | Happened::StageFailed
            | Happened::StageCancelled
            | Happened::RollbackRequested
            | Happened::Bad
            | Happened::RolledBack
            | Happened::Mended
            | Happened::Rotten
            | Happened::CheckFailed
            | Happened::CheckRecovered => {}
        }
    }
    before
}
