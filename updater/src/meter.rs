//! How far a piece of work has got.

use std::sync::{Mutex, PoisonError};

use partition_layout::Version;
use release::Release;
use tokio::sync::watch;

use crate::machine::Holder;
use crate::plan::{Alternative, Plan, PlanPart};
use crate::stage::Source;
use crate::tally::Tally;

/// A piece of work, as a job shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Work {
    /// The step at work, for people.
    pub phase: &'static str,
    /// The release that it is about.
    pub version: Option<Version>,
    /// Each byte of the release counts three times: when it is had, from
    /// wherever it is; when it is written, or need not be; and when it was read
    /// back. Never goes down.
    pub done: u64,
    /// 0 until it is known.
    pub total: u64,
    /// Who holds it up, if somebody does.
    pub holder: Option<Holder>,
    /// The ways that the parts take, as far as they are known.
    pub plan: Plan,
}

/// The hands' end: counts.
#[derive(Debug)]
pub struct Meter {
    work: watch::Sender<Work>,
    tally: Mutex<Tally>,
}

impl Meter {
    /// Starts at nothing; the other end follows it.
    pub fn new() -> (Self, watch::Receiver<Work>) {
        let (work, receiver) = watch::channel(Work::default());
        let tally = Mutex::default();
        (Self { work, tally }, receiver)
    }

    /// Names the step at work.
    pub fn phase(&self, phase: &'static str) {
        self.work.send_if_modified(|work| {
            let changed = work.phase != phase;
            work.phase = phase;
            changed
        });
    }

    /// Tells who holds it up, if somebody does.
    pub fn hold(&self, holder: Option<Holder>) {
        self.work.send_if_modified(|work| {
            let changed = work.holder != holder;
            work.holder = holder;
            changed
        });
    }

    /// Names the release that the work is about.
    pub fn name(&self, version: Option<Version>) {
        self.work.send_modify(|work| work.version = version);
    }

    /// Names the release and the size of the work: everything is had,
    /// written and read back.
    pub fn expect_release(&self, release: &Release) {
        let blobs = &release.blobs;
        let bytes = [blobs.verity.size, blobs.root.size, blobs.uki.size];
        let once = bytes.into_iter().fold(0, u64::saturating_add);
        self.name(Some(release.version.clone()));
        self.expect(once.saturating_mul(3));
    }

    /// Tells the size of the work.
    pub fn expect(&self, total: u64) {
        self.work.send_modify(|work| {
            work.total = total.max(work.done).max(1);
        });
    }

    /// Counts `bytes`. The last byte is not counted before [`Meter::complete`],
    /// so that whoever sees all of them sees an armed slot too.
    pub fn add(&self, bytes: u64) {
        self.work.send_modify(|work| {
            let most = work.total.saturating_sub(1).max(work.done);
            work.done = work.done.saturating_add(bytes).min(most);
        });
    }

    /// Notes down what was done, and how long it took.
    pub fn count(&self, note: impl FnOnce(&mut Tally)) {
        note(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns what was noted down so far.
    pub fn tally(&self) -> Tally {
        let tally = self.tally.lock();
        tally.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts bytes that came from somewhere, written or not.
    pub(crate) fn came_from(&self, source: Source, bytes: u64) {
        self.add(bytes);
        self.count(|tally| match source {
            Source::There => tally.kept = tally.kept.saturating_add(bytes),
            Source::Booted => tally.copied = tally.copied.saturating_add(bytes),
            // Counted where they come in, with what is thrown away.
            Source::Network => {}
        });
    }

    /// Counts bytes that are in their place already: had, and not to be written.
    pub(crate) fn kept(&self, bytes: u64) {
        self.came_from(Source::There, bytes);
        self.add(bytes);
    }

    /// Counts bytes that need not come from anywhere.
    pub(crate) fn made_zero(&self, bytes: u64) {
        self.add(bytes);
        self.count(|tally| tally.zero = tally.zero.saturating_add(bytes));
    }

    /// Counts bytes that were written.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.add(bytes);
        self.count(|tally| tally.written = tally.written.saturating_add(bytes));
    }

    /// Counts bytes that were read back.
    pub(crate) fn read_back(&self, bytes: u64) {
        self.add(bytes);
        self.count(|tally| tally.read_back = tally.read_back.saturating_add(bytes));
    }

    /// Counts bytes from the network, also those that were of no use.
    pub(crate) fn fetched(&self, bytes: u64) {
        self.count(|tally| tally.fetched = tally.fetched.saturating_add(bytes));
    }

    /// Shows the ways that a part can take.
    pub(crate) fn plan(&self, part: PlanPart, alternatives: Vec<Alternative>) {
        self.work
            .send_modify(|work| work.plan.set(part, alternatives));
    }

    /// Counts what was fetched in order to compare the ways.
    pub(crate) fn read_index(&self, bytes: u64) {
        self.work.send_modify(|work| {
            work.plan.indexes = work.plan.indexes.saturating_add(bytes);
        });
    }

    /// Returns the ways that are known so far.
    pub fn known_plan(&self) -> Plan {
        self.work.borrow().plan.clone()
    }

    /// All is done, arming included.
    pub fn complete(&self) {
        self.work.send_modify(|work| work.done = work.total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_counted_only_after_completion() {
        let (meter, work) = Meter::new();
        meter.expect(100);
        meter.add(60);
        meter.add(60);
        assert_eq!(work.borrow().done, 99);
        meter.complete();
        assert_eq!(work.borrow().done, 100);
    }

    #[test]
    fn work_of_unknown_size_counts_nothing() {
        let (meter, work) = Meter::new();
        meter.add(5);
        assert_eq!((work.borrow().done, work.borrow().total), (0, 0));
    }
}
