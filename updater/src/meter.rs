//! How far a piece of work has got.

use std::sync::{Mutex, PoisonError};

use partition_layout::Version;
use release::Release;
use tokio::sync::watch;

use crate::machine::Holder;
use crate::tally::Tally;

/// A piece of work, as a job shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Work {
    /// The step at work, for people.
    pub phase: &'static str,
    /// The release that it is about.
    pub version: Option<Version>,
    /// Bytes fetched, written and read back. Never goes down.
    pub done: u64,
    /// 0 until it is known.
    pub total: u64,
    /// Who holds it up, if somebody does.
    pub holder: Option<Holder>,
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

    /// Names the release and the size of the work: everything is fetched,
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
