//! A barrier on the way of a thread: closed, it holds whoever comes.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// After this, a test that failed with the barrier closed is let go, so that it ends.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct State {
    closed: bool,
    waiting: usize,
}

/// A barrier; clones are the same one. It is open at first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Barrier(Arc<(Mutex<State>, Condvar)>);

impl Barrier {
    pub(crate) fn close(&self) {
        self.0.0.lock().unwrap().closed = true;
    }

    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().closed = false;
        self.0.1.notify_all();
    }

    /// Returns once it is open.
    pub(crate) fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut held = state.lock().unwrap();
        held.waiting += 1;
        changed.notify_all();
        let waited = changed.wait_timeout_while(held, LIMIT, |state| state.closed);
        let (mut held, _) = waited.unwrap();
        // Open already, but for the test that failed.
        held.closed = false;
        held.waiting -= 1;
    }

    /// Completes once somebody is held by it.
    pub(crate) async fn holds(&self) {
        let barrier = self.clone();
        let waited = tokio::task::spawn_blocking(move || {
            let (state, changed) = &*barrier.0;
            let held = state.lock().unwrap();
            drop(
                changed
                    .wait_while(held, |state| state.waiting == 0)
                    .unwrap(),
            );
        });
        waited.await.unwrap();
    }
}
