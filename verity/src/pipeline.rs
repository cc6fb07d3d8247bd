//! Work on numbered chunks by all cores, taken in order.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Finished chunks per core that may wait for an earlier one. More only costs
/// memory; fewer would stall the fast core behind the slow one.
const AHEAD: usize = 8;

/// Calls `work` for the chunks `0..chunks` on `cores` threads, each with state
/// of its own, and `take` with every result in order of the chunks.
///
/// # Errors
/// The error of the first chunk, in order, whose `work` or `take` failed; no
/// later chunk is taken.
pub fn in_order<S, T: Send, E: Send>(
    cores: NonZeroUsize,
    chunks: u64,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, u64) -> Result<T, E> + Sync,
    take: impl FnMut(T) -> Result<(), E> + Send,
) -> Result<(), E> {
    let threads = usize::try_from(chunks).map_or(cores.get(), |chunks| cores.get().min(chunks));
    let queue = Queue {
        inner: Mutex::new(Inner {
            claimed: 0,
            waiting: VecDeque::new(),
            outcome: Ok(()),
            stopped: false,
            take,
        }),
        moved: Condvar::new(),
        window: threads * AHEAD,
        chunks,
    };
    let run = || {
        let _stop = StopOnPanic(&queue);
        let mut state = state();
        while let Some(chunk) = queue.claim() {
            let result = work(&mut state, chunk);
            queue.hand_in(chunk, result);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // Fewer threads do the same work.
            if thread::Builder::new().spawn_scoped(scope, run).is_err() {
                break;
            }
        }
        run();
    });
    let inner = queue.inner.into_inner();
    inner.unwrap_or_else(PoisonError::into_inner).outcome
}

struct Queue<T, E, F> {
    inner: Mutex<Inner<T, E, F>>,
    moved: Condvar,
    window: usize,
    chunks: u64,
}

struct Inner<T, E, F> {
    /// Chunks that have been given out.
    claimed: u64,
    /// Results from the oldest chunk not yet taken on; `None` is being worked on.
    waiting: VecDeque<Option<Result<T, E>>>,
    outcome: Result<(), E>,
    stopped: bool,
    take: F,
}

impl<T, E, F: FnMut(T) -> Result<(), E>> Queue<T, E, F> {
    fn claim(&self) -> Option<u64> {
        let mut inner = self.lock();
        while !inner.stopped && inner.waiting.len() >= self.window {
            inner = self
                .moved
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if inner.stopped || inner.claimed == self.chunks {
            return None;
        }
        let chunk = inner.claimed;
        inner.claimed += 1;
        inner.waiting.push_back(None);
        Some(chunk)
    }

    fn hand_in(&self, chunk: u64, result: Result<T, E>) {
        let mut inner = self.lock();
        let oldest = inner.claimed - inner.waiting.len() as u64;
        let slot = usize::try_from(chunk - oldest)
            .ok()
            .and_then(|index| inner.waiting.get_mut(index));
        if let Some(slot) = slot {
            *slot = Some(result);
        }
        while let Some(Some(_)) = inner.waiting.front() {
            let Some(Some(result)) = inner.waiting.pop_front() else {
                break;
            };
            if inner.stopped {
                continue;
            }
            let taken = result.and_then(|result| (inner.take)(result));
            if taken.is_err() {
                inner.stopped = true;
                inner.outcome = taken;
            }
        }
        self.moved.notify_all();
    }
}

impl<T, E, F> Queue<T, E, F> {
    fn lock(&self) -> MutexGuard<'_, Inner<T, E, F>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the other threads end when one panics; the scope passes the panic on.
struct StopOnPanic<'a, T, E, F>(&'a Queue<T, E, F>);

impl<T, E, F> Drop for StopOnPanic<'_, T, E, F> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().stopped = true;
            self.0.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn cores(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).expect("from one on")
    }

    /// Work whose amount differs from chunk to chunk, so that they end out of order.
    fn uneven(chunk: u64) -> u64 {
        (0..(chunk * 7919) % 500).fold(chunk, |sum, n| std::hint::black_box(sum ^ n ^ n))
    }

    #[test]
    fn results_come_in_order_whoever_is_faster() {
        for number in 1..=5 {
            let mut taken = Vec::new();
            let work = |_: &mut (), chunk| Ok::<_, ()>(uneven(chunk));
            in_order(
                cores(number),
                1000,
                || (),
                work,
                |result| {
                    taken.push(result);
                    Ok(())
                },
            )
            .expect("nothing fails");
            assert_eq!(taken, (0..1000).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_error_in_order_is_the_one_reported() {
        for number in 1..=5 {
            let mut taken = 0;
            let work = |_: &mut (), chunk| {
                if uneven(chunk) >= 333 {
                    Err(chunk)
                } else {
                    Ok(())
                }
            };
            let outcome = in_order(
                cores(number),
                1000,
                || (),
                work,
                |()| {
                    taken += 1;
                    Ok(())
                },
            );
            assert_eq!((outcome, taken), (Err(333), 333));
        }
    }

    #[test]
    fn an_error_of_the_taker_ends_the_work() {
        let done = AtomicU64::new(0);
        let work = |_: &mut (), chunk| {
            done.fetch_add(1, Ordering::Relaxed);
            Ok(chunk)
        };
        let take = |chunk| if chunk == 10 { Err("full") } else { Ok(()) };
        assert_eq!(in_order(cores(3), u64::MAX, || (), work, take), Err("full"));
        assert!(done.into_inner() < 1000);
    }

    #[test]
    fn no_core_runs_ahead_of_a_slow_one_without_bound() {
        let (taken, far) = (AtomicU64::new(0), AtomicU64::new(0));
        let work = |_: &mut (), chunk: u64| {
            far.fetch_max(chunk - taken.load(Ordering::SeqCst), Ordering::SeqCst);
            Ok::<_, ()>(uneven(chunk))
        };
        let take = |_| {
            taken.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        in_order(cores(4), 5000, || (), work, take).expect("nothing fails");
        assert!(far.into_inner() <= 4 * AHEAD as u64);
    }

    #[test]
    fn a_panic_is_passed_on_and_nobody_waits_for_ever() {
        let work = |_: &mut (), chunk| {
            assert_ne!(chunk, 5, "planted");
            Ok::<_, ()>(())
        };
        let run = || in_order(cores(4), u64::MAX, || (), work, |()| Ok(()));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    }
}
