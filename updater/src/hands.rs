//! The hands: they do what they are told, in order, and decide nothing.
//!
//! They run on one thread of their own and may block. An order ends at its
//! first failure; only notes (what is written down about a verdict) are tried
//! all, since a full `/var` must not keep a bad slot bootable, nor an ESP that takes nothing keep
//! the verdict from being written down.

mod check;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use partition_layout::{BootEntry, Counter, RootHash, Slot, Version};

use crate::asker::Asking;
use crate::derive;
use crate::history::{self, Happened, HistoryLine};
use crate::journal;
use crate::kernels::{self, Ground};
use crate::machine::{Blame, Effect, Note, Report, Seen, Stopped};
use crate::meter::Meter;
use crate::names::ErrorName;
use crate::node::{Node, Way};
use crate::observe::observe;
use crate::policy::Source;
use crate::ports::{
    BootControl, Clock, Console, DiskQueue, Fetch, KeptPieces, Pace, Power, Record, Records,
    Releases, ReleasesError, Slots, Stop,
};
use crate::pstore::{self, Dump};
use crate::records::{
    self, Barred, Departure, GateVerdict, LastGood, RecordError, Rollback, Trial,
};
use crate::refusal::{Chain, Failure};
use crate::scrub::mend::{Mended, Mender};
use crate::stage::Bench;
use crate::stage_error::StageError;
use crate::totals;
use crate::uki::check_room;

/// A list of effects, done one after the other.
#[derive(Debug)]
pub struct Order {
    pub effects: Vec<Effect>,
    pub stop: Stop,
    pub meter: Arc<Meter>,
    /// Who asked for it.
    pub asker: Asking,
    /// Who asked the job that it belongs to, to stop.
    pub cancelled_by: Option<Asking>,
    /// Where releases come from.
    pub source: Option<Source>,
}

/// The devices of a node, the network, and a clock.
#[derive(Debug)]
pub struct Hands<D, N, C> {
    pub device: D,
    pub network: N,
    pub clock: C,
}

/// Everything on the disk side in one bound.
pub trait Device: Slots + Pace + BootControl + KeptPieces + Records + Console + Power {}
impl<T: Slots + Pace + BootControl + KeptPieces + Records + Console + Power> Device for T {}

/// Everything on the network side in one bound.
pub trait Network: Releases + Fetch {}
impl<T: Releases + Fetch> Network for T {}

impl<D: Device, N: Network, C: Clock> Hands<D, N, C> {
    /// Does an order, and says how it ended.
    pub fn carry_out(&mut self, order: Order) -> Report {
        let mut result = Ok(());
        let mut notes = Notes::Written;
        for effect in &order.effects {
            // What is not done any more.
            if result.is_err() && !effect.is_note() {
                continue;
            }
            let begun = self.clock.since_boot();
            self.stand(effect.disk_queue());
            let performed = self.perform(effect, &order, notes);
            self.stand(DiskQueue::Among);
            self.time(effect, &order.meter, begun);
            match performed {
                Ok(None) => {}
                Ok(Some(report)) => return report,
                Err(Stopped::Failed(failure)) if effect.is_note() => {
                    tracing::error!(effect = effect.name(), error = %failure, "cannot write down what happened");
                    notes = Notes::Missing;
                }
                Err(stopped) => {
                    if let Stopped::Failed(failure) = &stopped {
                        tracing::error!(effect = effect.name(), name = failure.name.short(), error = %failure, "gave up");
                    }
                    result = Err(stopped);
                    // A verdict was passed, and is written down whatever comes of it.
                    if !matches!(effect, Effect::RemoveBooted { .. }) {
                        break;
                    }
                }
            }
        }
        let node = self.look();
        Report::Ended { result, node }
    }

    /// Returns what the disk says now, if it can be read.
    fn look(&self) -> Option<Box<Node>> {
        let node = match observe(&self.device) {
            Ok(seen) => Some(Box::new(derive::derive(&seen))),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "cannot tell how the slots stand");
                None
            }
        };
        self.device.release();
        node
    }

    fn stand(&self, place: DiskQueue) {
        if let Err(error) = self.device.stand(place) {
            // Slower for others, no worse.
            tracing::debug!(%error, "cannot choose a place in the disk's queue");
        }
    }

    fn time(&self, effect: &Effect, meter: &Meter, begun: Duration) {
        // What is written down about it is not the work.
        if !effect.is_note() {
            let spent = self.clock.since_boot().saturating_sub(begun);
            meter.count(|tally| tally.spend(effect.phase(), spent));
        }
    }

    fn perform(
        &mut self,
        effect: &Effect,
        order: &Order,
        notes: Notes,
    ) -> Result<Option<Report>, Stopped> {
        // What has been done is written down all the same.
        if !effect.is_note() {
            order.stop.checkpoint().map_err(|_| Stopped::Asked)?;
        }
        tracing::debug!(effect = effect.name(), "begins");
        let meter = &*order.meter;
        meter.phase(effect.phase());
        let device = &self.device;
        match effect {
            Effect::Interrupt | Effect::Hold | Effect::LetGo | Effect::EndJob(_) => Ok(()),

            Effect::Refresh => return self.refresh(order).map(Some),
            Effect::Resolve { version } => {
                let release = self
                    .network
                    .release(version.as_ref(), &order.stop)
                    .map_err(releases)?;
                return Ok(Some(Report::Resolved(Box::new(release))));
            }

            Effect::Survey { spare, release } => {
                meter.name(Some(release.version.clone()));
                let plan = self.bench(order).preview(*spare, release);
                plan.map(drop).map_err(stage)
            }

            Effect::Disarm { spare, booted } => disarm(device, *spare, booted),
            Effect::CheckRoom { release } => {
                meter.expect_release(release);
                check_room(device, release).map_err(stage)
            }
            Effect::WriteTree { spare, release } => {
                self.bench(order).write_tree(*spare, release).map_err(stage)
            }
            Effect::WriteRoot { spare, release } => {
                self.bench(order).write_root(*spare, release).map_err(stage)
            }
            Effect::ReadBack { spare, release } => {
                self.bench(order).read_back(*spare, release).map_err(stage)
            }
            Effect::Label {
                spare,
                version,
                root_hash,
            } => device
                .relabel(*spare, Some((version, root_hash)))
                .map_err(|source| {
                    stage(StageError::Label {
                        slot: *spare,
                        source,
                    })
                }),
            Effect::WriteKernel { release } => {
                let written = self.bench(order).write_kernel(release);
                if written.is_ok() {
                    let sha256 = release.blobs.uki.sha256;
                    kernels::learn(&self.device, release.root_hash, sha256, Ground::Release);
                }
                written.map_err(stage)
            }
            Effect::CheckWhole {
                spare,
                root_hash,
                entry,
            } => {
                let mut bench = self.bench(order);
                let whole = bench.check_whole(*spare, *root_hash);
                let whole = whole.and_then(|()| bench.check_kernel(entry, root_hash));
                whole.map_err(stage)
            }
            Effect::RecordTrial {
                spare,
                version,
                root_hash,
                tries,
                way,
            } => {
                let trial = Trial {
                    boot_id: device
                        .boot_id()
                        .map_err(|source| esp("tell which boot this is", source))?,
                    armed_at: self.clock.now(),
                    slot: *spare,
                    version: version.clone(),
                    root_hash: *root_hash,
                    tries: *tries,
                    way: *way,
                    older_verdict: records::recall::<GateVerdict>(device, Record::Verdict)
                        .map(|verdict| verdict.boot_id),
                    older_dumps: dumps_now(device),
                };
                records::write(device, Record::Trial, &trial).map_err(record)
            }
            Effect::Arm {
                version,
                tries,
                way,
            } => {
                let entry = counted(version, *tries, 0);
                device
                    .publish_temporary(&entry)
                    .map_err(|source| esp("make the kernel image an entry", source))?;
                ask_for(device, &entry, *way)?;
                if let Err(error) = device.forget_pieces() {
                    tracing::warn!(%error, "what came of the kernel image stays in /var");
                }
                meter.complete();
                Ok(())
            }
            Effect::Rearm { entry, tries, way } => {
                let armed = counted(&entry.version, *tries, 0);
                rename(device, entry, &armed)?;
                ask_for(device, &armed, *way)?;
                meter.complete();
                Ok(())
            }
            Effect::PutBack { entry } => put_back(device, entry),
            Effect::AskFor { entry } => ask_for(device, entry, Way::OneShot),

            Effect::Mend {
                slot,
                version,
                root_hash,
                blocks,
                seen,
            } => self.mend((*slot, version, *root_hash), (blocks, *seen), order),

            Effect::Demote { entry } => rename(device, entry, &entry.last_resort()),
            Effect::Bless { entry } => {
                rename(device, entry, &BootEntry::good(entry.version.clone()))
            }
            Effect::Watch { entry } => {
                rename(device, entry, &BootEntry::watched(entry.version.clone()))
            }
            Effect::RemoveBooted { version } => {
                remove_entries(device, |entry| entry.version == *version)
            }
            Effect::MarkSettled => device
                .mark_settled()
                .map_err(|source| record(RecordError::Settled { source })),

            Effect::Announce(text) => {
                tracing::error!("{text}");
                if let Err(error) = device.say(text) {
                    // A machine may have no console. Nothing is forgotten for want of one.
                    tracing::warn!(%error, "cannot say it on the console");
                }
                Ok(())
            }

            Effect::RecordGood { .. } if notes == Notes::Missing => Ok(()),
            Effect::RecordGood {
                slot,
                version,
                root_hash,
            } => {
                let good = LastGood {
                    boot_id: device
                        .boot_id()
                        .map_err(|source| esp("tell which boot this is", source))?,
                    when: self.clock.now(),
                    slot: *slot,
                    version: version.clone(),
                    root_hash: *root_hash,
                    older_dumps: dumps_now(device),
                };
                records::write(device, Record::LastGood, &good).map_err(record)
            }
            Effect::RecordRollback(blame) => self.record_rollback(blame),
            Effect::Bar {
                version,
                root_hash,
                reason,
            } => {
                let barred = Barred {
                    root_hash: *root_hash,
                    version: version.clone(),
                    reason: reason.clone(),
                    when: self.clock.now(),
                };
                records::bar(device, &barred).map_err(record)
            }
            Effect::Forgive { root_hash } => records::forgive(device, root_hash).map_err(record),
            Effect::RaiseFloor { version } => records::raise_floor(device, version).map_err(record),
            Effect::Remember(note) => self.remember(note, order),
            Effect::ForgetTrial => match notes {
                Notes::Written => records::remove(device, Record::Trial).map_err(record),
                // It is what the missing notes can be made from at the next start.
                Notes::Missing => Ok(()),
            },

            Effect::Reboot(restart) => device.reboot(*restart).map_err(reboot),
        }?;
        Ok(None)
    }

    fn bench<'a>(&'a mut self, order: &'a Order) -> Bench<'a, D, N> {
        Bench {
            device: &self.device,
            network: &mut self.network,
            meter: &order.meter,
            stop: &order.stop,
        }
    }

    fn mend(
        &mut self,
        (slot, version, root_hash): (Slot, &Version, RootHash),
        (blocks, seen): (&[u64], Seen),
        order: &Order,
    ) -> Result<(), Stopped> {
        let mut mender = Mender {
            device: &self.device,
            network: &mut self.network,
            meter: &order.meter,
            stop: &order.stop,
            slot,
            version,
            root_hash,
        };
        let mended = mender.mend(blocks).map_err(|_| Stopped::Asked)?;
        let history = records::recall_history(&self.device).into_iter();
        let is_about_it = |line: &HistoryLine| {
            let is_meant = matches!(line.event, Happened::Mended | Happened::Rotten);
            is_meant && line.root_hash == Some(root_hash)
        };
        let last = history.rev().find(is_about_it);
        let told = last.filter(|line| line.event == Happened::Rotten);
        let is_told = |mended: &Mended| told.as_ref().is_some_and(|line| mended.is_told_by(line));
        let event = match mended.event() {
            // It is tried every few hours, and the history has an end: of the same rot it has one line.
            Some(Happened::Rotten) if is_told(&mended) => None,
            // Somebody else has mended it, or the disk has thought better of it.
            None if seen == Seen::All && mended.is_whole() && told.is_some() => {
                Some(Happened::Mended)
            }
            event => event,
        };
        let message = Some(mended.describe()).filter(|message| !message.is_empty());
        let message = message.unwrap_or_else(|| "what was rotten is sound again".to_owned());
        let failure = (!mended.is_whole()).then(|| Failure {
            name: ErrorName::ReadBackMismatch,
            message: message.clone(),
        });
        let noted = match event {
            Some(event) => self.remember(
                &Note {
                    event,
                    version: Some(version.clone()),
                    root_hash: Some(root_hash),
                    slot: Some(slot),
                    message,
                    error: failure.as_ref().map(|failure| failure.name),
                },
                order,
            ),
            None => Ok(()),
        };
        match failure {
            Some(failure) => Err(Stopped::Failed(failure)),
            None => noted,
        }
    }

    fn record_rollback(&self, blame: &Blame) -> Result<(), Stopped> {
        let complaint = &blame.complaint;
        let rollback = Rollback {
            kind: blame.kind,
            version: blame.version.clone(),
            root_hash: blame.root_hash,
            check: complaint.check.clone(),
            unit: complaint.unit.clone(),
            reason: complaint.reason.clone(),
            panic: complaint.panic.clone(),
            when: self.clock.now(),
            lines: records::trim_lines(&complaint.lines),
            tries: blame.tries,
            armed_at: blame.armed_at,
            boot_id: self.device.boot_id().unwrap_or_default(),
        };
        let (message_id, what) = match rollback.kind {
            Departure::Trial => (journal::TRIAL_FAILED, "a trial has failed"),
            Departure::GaveWay => (journal::GAVE_WAY, "a good release boots no more"),
        };
        tracing::warn!(
            message_id,
            version = %rollback.version, root_hash = %rollback.root_hash, check = rollback.check,
            unit = rollback.unit, tries = rollback.tries, panic = rollback.panic,
            reason = rollback.reason, "{what}"
        );
        records::write(&self.device, Record::LastRollback, &rollback).map_err(record)
    }

    fn remember(&self, note: &Note, order: &Order) -> Result<(), Stopped> {
        let message = match (note.event, &order.cancelled_by) {
            (Happened::StageCancelled, Some(asker)) => format!("cancelled by {}", asker.wait()),
            _ => note.message.clone(),
        };
        let asker = order.asker.wait();
        let who = asker.as_str();
        let line = HistoryLine {
            when: self.clock.now(),
            event: note.event,
            version: note.version.clone(),
            root_hash: note.root_hash,
            slot: note.slot,
            message,
            by: Some(asker),
            error: note.error.map(|name| name.short().to_owned()),
            cost: (&order.meter.tally()).into(),
        };
        tracing::info!(
            message_id = line.event.message_id(),
            event = line.event.as_str(),
            version = line.version.as_ref().map(tracing::field::display),
            root_hash = line.root_hash.as_ref().map(tracing::field::display),
            error = line.error,
            who,
            fetched = line.cost.fetched,
            copied = line.cost.copied,
            reason = line.message,
            "history"
        );
        history::add(&self.device, &line).map_err(record)?;
        totals::count(&self.device, &line).map_err(record)
    }
}

/// The dumps of kernels that panicked before now.
fn dumps_now(device: &impl Records) -> Vec<String> {
    let dumps = pstore::assemble(&device.dumps());
    dumps.iter().map(Dump::id).collect()
}

/// Whether all notes of the order were written so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notes {
    Written,
    Missing,
}

/// On return nothing in the spare slot boots, whatever it holds. The entries go
/// before the label, so that a cut in between is seen as a slot without entry.
fn disarm(
    device: &(impl BootControl + Slots),
    spare: Slot,
    booted: &Version,
) -> Result<(), Stopped> {
    remove_entries(device, |entry| entry.version != *booted)?;
    // The names that mean nothing to us mean something to the boot loader. As long as there is one, the
    // partitions keep their labels: what it starts finds its root.
    let booted_root_hash = device
        .view()
        .map_err(|source| esp("tell which image runs", source))?
        .booted_root_hash;
    device
        .remove_others(booted, &booted_root_hash)
        .map_err(|source| esp("remove the kernel images of other releases", source))?;
    if let Err(error) = device.clear_one_shot() {
        // The boot loader passes over a wish for an entry that is not there, so
        // a firmware that keeps one for ever must not end all updates.
        tracing::warn!(%error, "the firmware keeps a wish for an entry that has gone");
    }
    device
        .remove_temporary()
        .map_err(|source| esp("remove an unfinished kernel image", source))?;
    device.relabel(spare, None).map_err(|source| {
        stage(StageError::Label {
            slot: spare,
            source,
        })
    })
}

fn remove_entries(
    device: &impl BootControl,
    which: impl Fn(&BootEntry) -> bool,
) -> Result<(), Stopped> {
    let entries = device
        .entries()
        .map_err(|source| esp("list the boot entries", source))?;
    for entry in entries.iter().filter(|entry| which(entry)) {
        device
            .remove(entry)
            .map_err(|source| esp("remove a boot entry", source))?;
    }
    Ok(())
}

/// The wish goes first, and the entry stays armed if it does not: its old name
/// would be started by the wish all the same, uncounted and with nobody waiting
/// for a verdict.
fn put_back(device: &impl BootControl, good: &BootEntry) -> Result<(), Stopped> {
    device
        .clear_one_shot()
        .map_err(|source| wish("take back the wish for an entry", source))?;
    let entries = device
        .entries()
        .map_err(|source| esp("list the boot entries", source))?;
    let now = entries.iter().find(|entry| entry.version == good.version);
    now.map_or(Ok(()), |now| rename(device, now, good))
}

/// What was known when the order was made may be older than what an order before has done: then the
/// entry has another name, or has the new one already.
fn rename(device: &impl BootControl, from: &BootEntry, to: &BootEntry) -> Result<(), Stopped> {
    if from == to {
        return Ok(());
    }
    let outcome = match device.rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            rename_now(device, from, to, error)
        }
        outcome => outcome,
    };
    outcome.map_err(|source| esp("rename a boot entry", source))
}

/// The same for the entry of that version as it is called now, if it stands for the same.
fn rename_now(
    device: &impl BootControl,
    from: &BootEntry,
    to: &BootEntry,
    error: io::Error,
) -> io::Result<()> {
    let entries = device.entries()?;
    let is_same = |entry: &&BootEntry| {
        *entry == to || (entry.version == from.version && entry.is_good() == from.is_good())
    };
    match entries.iter().find(is_same) {
        Some(now) if now == to => Ok(()),
        Some(now) => device.rename(now, to),
        None => Err(error),
    }
}

fn ask_for(device: &impl BootControl, entry: &BootEntry, way: Way) -> Result<(), Stopped> {
    match way {
        Way::Order => Ok(()),
        Way::OneShot => device
            .set_one_shot(entry)
            .map_err(|source| wish("ask the boot loader for an entry", source)),
    }
}

fn counted(version: &Version, left: u32, done: u32) -> BootEntry {
    BootEntry {
        version: version.clone(),
        counter: Some(Counter { left, done }),
    }
}

fn stage(error: StageError) -> Stopped {
    if let StageError::Stopped = error {
        return Stopped::Asked;
    }
    Stopped::Failed(Failure::from(&error))
}

fn esp(doing: &'static str, source: std::io::Error) -> Stopped {
    stage(StageError::Esp { doing, source })
}

fn wish(doing: &'static str, source: std::io::Error) -> Stopped {
    stage(StageError::Wish { doing, source })
}

/// systemd did not take the order.
#[derive(Debug, thiserror::Error)]
#[error("cannot reboot")]
struct RebootError(#[source] std::io::Error);

fn reboot(error: std::io::Error) -> Stopped {
    Stopped::Failed(Failure::new(ErrorName::Internal, &RebootError(error)))
}

fn record(error: RecordError) -> Stopped {
    Stopped::Failed(Failure::new(ErrorName::RecordFailed, &error))
}

fn releases(error: ReleasesError) -> Stopped {
    let name = match &error {
        ReleasesError::Stopped => return Stopped::Asked,
        ReleasesError::MetadataExpired { .. } => ErrorName::MetadataExpired,
        ReleasesError::MetadataUntrusted { .. } => ErrorName::MetadataUntrusted,
        ReleasesError::RepositoryUnreachable { .. } => ErrorName::RepositoryUnreachable,
        ReleasesError::UnknownVersion { .. } => ErrorName::UnknownVersion,
        ReleasesError::Local { .. } => ErrorName::RecordFailed,
    };
    Stopped::Failed(Failure::new(name, &error))
}
