//! How fast to go on a machine that has other work to do.
//!
//! ```text
//! others wait more than HIGH of the time   rest twice as long after each MiB
//!             less than LOW                rest half as long, in the end not at all
//!             more than ALONE              ask the disk for little, one thing after the other,
//!                                          until nobody has waited for a while
//! ```
//! What counts is the time in which somebody *else* waited for the disk or for memory. A rest is never
//! longer than [`LONGEST`] for a MiB, so that an update comes to its end on the busiest machine.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::ports::{Clock, Stop, Stopped};

/// Others who wait this share of the time, in thousandths, are being hurt: etcd's own disk writes
/// on a quiet machine stay well below.
const HIGH: u64 = 100;
/// Far enough below for the rests not to swing.
const LOW: u64 = 40;
/// Whoever syncs now and then, and is not hurt, waits longer than this.
const ALONE: u64 = 5;
/// For so long nobody may have waited, if the next who comes is not to be expected.
const QUIET: Duration = Duration::from_secs(2);
/// A look from before is no use when so much time has passed: it was another job's.
const STALE: Duration = Duration::from_secs(60);
/// How often it is looked at: several times a second follows a burst, and costs nothing.
const BEAT: Duration = Duration::from_millis(200);
/// The shortest rest worth the name, for each MiB.
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest: 2 MiB/s at least, a quarter of an hour for a whole slot of 2 GiB.
const LONGEST: Duration = Duration::from_millis(500);
/// What a rest is for.
const UNIT: u64 = 1 << 20;

/// How long others have waited.
pub trait Pressure: Send + Sync {
    /// Returns how long others have waited so far; `None` when the kernel does not say, and then nobody
    /// is given way to.
    fn waited(&self) -> Option<Duration>;
}

/// How often and how long the work has rested, for everyone to see.
#[derive(Debug, Clone, Default)]
pub struct Rests(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    rests: AtomicU64,
    micros: AtomicU64,
}

impl Rests {
    /// Returns how often the work has rested.
    pub fn count(&self) -> u64 {
        self.0.rests.load(Ordering::Relaxed)
    }

    /// Returns for how long it has rested together.
    pub fn time(&self) -> Duration {
        Duration::from_micros(self.0.micros.load(Ordering::Relaxed))
    }

    fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.rests.fetch_add(1, Ordering::Relaxed);
        self.0.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// Whether anybody else waits for the disk at all, for everyone to see. As long as it is not
/// known, somebody does.
#[derive(Debug, Clone)]
pub struct Company(Arc<AtomicBool>);

impl Default for Company {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Company {
    pub fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, is_there: bool) {
        self.0.store(is_there, Ordering::Relaxed);
    }
}

/// Lets the work rest while others wait.
#[derive(Debug)]
pub struct Pacer<P, C> {
    pressure: P,
    clock: C,
    state: Mutex<State>,
    rests: Rests,
    company: Company,
}

#[derive(Debug, Default)]
struct State {
    controller: Controller,
    /// When it was looked, and how long others had waited by then.
    last: Option<(Duration, Duration)>,
    /// When somebody else was last seen to wait, or nobody had looked yet.
    company: Duration,
    /// Done since the last rest.
    bytes: u64,
}

impl<P: Pressure, C: Clock> Pacer<P, C> {
    /// Returns a pace that has not rested yet.
    pub fn new(pressure: P, clock: C) -> Self {
        Self {
            pressure,
            clock,
            state: Mutex::default(),
            rests: Rests::default(),
            company: Company::default(),
        }
    }

    /// Returns the counts of its rests.
    pub fn rests(&self) -> Rests {
        self.rests.clone()
    }

    /// Returns whether anybody else waits, as it will be seen.
    pub fn company(&self) -> Company {
        self.company.clone()
    }

    /// Rests after `bytes` more were read or written, if others wait, and waits out a pause.
    ///
    /// # Errors
    /// When the work is asked to stop.
    pub fn step(&self, bytes: u64, stop: &Stop) -> Result<(), Stopped> {
        let rest = self.after(bytes);
        if !rest.is_zero() {
            let begun = self.clock.since_boot();
            stop.rest(rest);
            let rested = self.clock.since_boot().saturating_sub(begun);
            self.rests.add(rested);
        }
        stop.checkpoint()
    }

    fn after(&self, bytes: u64) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.since_boot();
        let due = match state.last {
            Some((then, _)) => now.saturating_sub(then) >= BEAT,
            None => true,
        };
        if due {
            let waited = self.pressure.waited();
            state.last = state
                .last
                .filter(|(then, _)| now.saturating_sub(*then) < STALE);
            match (state.last, waited) {
                (Some((then, before)), Some(waited)) => {
                    let share =
                        thousandths(waited.saturating_sub(before), now.saturating_sub(then));
                    state.controller.look(share);
                    if share > ALONE {
                        state.company = now;
                    }
                    let quiet = now.saturating_sub(state.company);
                    self.company.set(quiet < QUIET);
                }
                (None, Some(_)) => {
                    state.company = now;
                    self.company.set(true);
                }
                (_, None) => {
                    state.controller = Controller::default();
                    self.company.set(false);
                }
            }
            state.last = waited.map(|waited| (now, waited));
        }
        state.bytes = state.bytes.saturating_add(bytes);
        let units = u32::try_from(state.bytes / UNIT).unwrap_or(u32::MAX);
        state.bytes %= UNIT;
        state.controller.rest.saturating_mul(units)
    }
}

fn thousandths(part: Duration, whole: Duration) -> u64 {
    let share = part.as_micros().saturating_mul(1000) / whole.as_micros().max(1);
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// How long to rest after each MiB. Pure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Controller {
    rest: Duration,
}

impl Controller {
    /// Takes in the share of the time, in thousandths, in which others waited.
    fn look(&mut self, share: u64) {
        if share > HIGH {
            self.rest = (self.rest * 2).clamp(SHORTEST, LONGEST);
        } else if share < LOW {
            self.rest /= 2;
            if self.rest < SHORTEST {
                self.rest = Duration::ZERO;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ports::Stopper;

    proptest! {
        #[test]
        fn however_others_wait_a_mib_costs_at_most_the_longest_rest(
            shares in proptest::collection::vec(0_u64..=10_000, 0..200),
        ) {
            let mut controller = Controller::default();
            for share in shares {
                controller.look(share);
                prop_assert!(controller.rest <= LONGEST);
                prop_assert!(controller.rest.is_zero() || controller.rest >= SHORTEST);
            }
            // And when nobody waits any more, it is fast again soon.
            for _ in 0..6 {
                controller.look(0);
            }
            prop_assert_eq!(controller, Controller::default());
        }
    }

    #[test]
    fn between_the_two_marks_the_rest_stays_as_it_is() {
        let mut controller = Controller::default();
        controller.look(HIGH + 1);
        controller.look(HIGH + 1);
        let rest = controller.rest;
        assert_eq!(rest, SHORTEST * 2);
        for share in [LOW, (LOW + HIGH) / 2, HIGH] {
            controller.look(share);
            assert_eq!(controller.rest, rest);
        }
    }

    /// A clock and others on it: they wait a share of the time.
    #[derive(Debug, Clone, Default)]
    struct World(Arc<Mutex<(Duration, Option<Duration>)>>);

    impl World {
        fn pass(&self, time: Duration, waited: Option<Duration>) {
            let mut world = self.0.lock().unwrap();
            world.0 += time;
            world.1 = match (world.1, waited) {
                (Some(sum), Some(more)) => Some(sum + more),
                (None, more) => more,
                (Some(_), None) => None,
            };
        }
    }

    impl Clock for World {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn since_boot(&self) -> Duration {
            self.0.lock().unwrap().0
        }
    }

    impl Pressure for World {
        fn waited(&self) -> Option<Duration> {
            self.0.lock().unwrap().1
        }
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_work_rests_while_others_wait_and_not_when_they_do_not() {
        let world = World::default();
        let pace = Pacer::new(world.clone(), world.clone());
        world.pass(BEAT, Some(Duration::ZERO));
        assert_eq!(pace.after(MIB), Duration::ZERO);
        world.pass(BEAT, Some(BEAT / 2));
        assert_eq!(pace.after(MIB), SHORTEST);
        // Too early for another look.
        world.pass(BEAT / 4, Some(BEAT / 4));
        assert_eq!(pace.after(MIB), SHORTEST);
        assert_eq!(pace.after(MIB / 2), Duration::ZERO);
        assert_eq!(pace.after(MIB / 2), SHORTEST);
        world.pass(BEAT, Some(BEAT));
        assert_eq!(pace.after(2 * MIB), SHORTEST * 4);
        for _ in 0..2 {
            world.pass(BEAT, Some(Duration::ZERO));
            pace.after(MIB);
        }
        assert_eq!(pace.after(MIB), Duration::ZERO);
    }

    #[test]
    fn a_kernel_that_does_not_say_who_waits_is_no_reason_to_rest() {
        let world = World::default();
        let pace = Pacer::new(world.clone(), world.clone());
        world.pass(BEAT, Some(Duration::ZERO));
        pace.after(MIB);
        world.pass(BEAT, Some(BEAT));
        assert_eq!(pace.after(MIB), SHORTEST);
        world.pass(BEAT, None);
        assert_eq!(pace.after(MIB), Duration::ZERO);
    }

    #[test]
    fn whoever_waits_a_little_is_company_until_nobody_has_for_a_while() {
        let world = World::default();
        let pace = Pacer::new(world.clone(), world.clone());
        let company = pace.company();
        assert!(company.is_there(), "nobody has looked yet");
        let looked = |waited: Option<Duration>| {
            world.pass(BEAT, waited);
            pace.after(MIB);
            company.is_there()
        };
        let beats = QUIET.as_millis() / BEAT.as_millis();
        let leaves = || (1..).find(|_| !looked(Some(Duration::ZERO)));
        assert!(looked(Some(Duration::ZERO)));
        assert_eq!(leaves(), Some(beats), "a machine without any");
        assert!(looked(Some(BEAT / 100)));
        assert_eq!(leaves(), Some(beats), "after a hundredth of a beat");
        // Where the kernel does not say, nobody is given way to.
        assert!(looked(Some(BEAT / 100)));
        assert!(!looked(None));
    }

    #[test]
    fn a_rest_is_counted_and_a_stop_ends_it() {
        let world = World::default();
        let pace = Pacer::new(world.clone(), world.clone());
        let (stopper, stop) = Stopper::new();
        assert_eq!(pace.step(MIB, &stop), Ok(()));
        assert_eq!(pace.rests().count(), 0);
        world.pass(BEAT, Some(Duration::ZERO));
        assert_eq!(pace.step(MIB, &stop), Ok(()));
        world.pass(BEAT, Some(BEAT));
        stopper.stop();
        // A thousand seconds and more, if it were not for the stop.
        assert_eq!(pace.step(100_000 * MIB, &stop), Err(Stopped));
        assert_eq!(pace.rests().count(), 1);
    }
}
