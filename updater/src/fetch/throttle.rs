use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// What may come at once after a silence: long enough that a timer's grain does
/// not show in the rate, short enough that nobody sees it in a graph.
const BURST: Duration = Duration::from_millis(100);

/// Bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth(NonZeroU64);

/// Why a text is no bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no bandwidth of at least 1 KiB/s, as in \"20 MiB/s\"; known are B, KiB, MiB, GiB, kB, MB and GB"
)]
pub struct BadBandwidth;

impl Bandwidth {
    /// The slowest that a server may be, so nobody can ask for less.
    const LEAST: u64 = 1024;

    /// Reads a whole number, a unit, and `/s`.
    pub fn parse(text: &str) -> Result<Self, BadBandwidth> {
        let (amount, unit) = text
            .trim()
            .strip_suffix("/s")
            .map(str::trim_end)
            .and_then(|text| text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?))
            .ok_or(BadBandwidth)?;
        let unit: u64 = match unit.trim_start() {
            "B" => 1,
            "kB" => 1000,
            "KiB" => 1 << 10,
            "MB" => 1_000_000,
            "MiB" => 1 << 20,
            "GB" => 1_000_000_000,
            "GiB" => 1 << 30,
            _ => return Err(BadBandwidth),
        };
        let amount: u64 = amount.parse().map_err(|_| BadBandwidth)?;
        let bytes = amount
            .checked_mul(unit)
            .filter(|bytes| *bytes >= Self::LEAST);
        bytes
            .and_then(NonZeroU64::new)
            .map(Self)
            .ok_or(BadBandwidth)
    }

    /// Returns how long `bytes` take.
    fn time_of(self, bytes: u64) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.0.get());
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B/s", self.0)
    }
}

/// Holds all connections together to a bandwidth, which may change at any time.
/// Clones are the same one.
#[derive(Debug, Clone)]
pub struct Throttle(Arc<Bucket>);

#[derive(Debug)]
struct Bucket {
    cap: watch::Sender<Option<Bandwidth>>,
    /// When what has come so far may have come, at the cap.
    due: Mutex<Option<Instant>>,
}

impl Throttle {
    /// Returns a throttle that lets `cap` through; without one, everything.
    pub fn new(cap: Option<Bandwidth>) -> Self {
        Self(Arc::new(Bucket {
            cap: watch::Sender::new(cap),
            due: Mutex::new(None),
        }))
    }

    /// Changes the cap, for transfers under way too.
    pub fn set(&self, cap: Option<Bandwidth>) {
        *self.due() = None;
        self.0.cap.send_replace(cap);
    }

    /// Returns once `bytes`, which came, may have come.
    pub(super) async fn pass(&self, bytes: u64) {
        let mut cap = self.0.cap.subscribe();
        let Some(bandwidth) = *cap.borrow_and_update() else {
            return;
        };
        let due = {
            let mut due = self.due();
            let now = Instant::now();
            let idle = now.checked_sub(BURST).unwrap_or(now);
            let from = due.map_or(idle, |due| due.max(idle));
            *due.insert(from + bandwidth.time_of(bytes))
        };
        tokio::select! {
            () = sleep_until(due) => {}
            // What was owed at another rate is not owed any more.
            _ = cap.changed() => {}
        }
    }

    fn due(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("20 MiB/s", 20 << 20),
            ("20MiB/s", 20 << 20),
            (" 500 kB / s ", 0),
            ("500 kB/s", 500_000),
            ("1 GB/s", 1_000_000_000),
            ("1024 B/s", 1024),
            ("1023 B/s", 0),
            ("0 MiB/s", 0),
            ("20 MiB", 0),
            ("20", 0),
            ("1.5 MiB/s", 0),
            ("-1 MiB/s", 0),
            ("MiB/s", 0),
            ("20 Mbit/s", 0),
            ("99999999999999999 GiB/s", 0),
            ("", 0),
        ] {
            let expected = NonZeroU64::new(bytes).map(Bandwidth).ok_or(BadBandwidth);
            assert_eq!(Bandwidth::parse(text), expected, "{text}");
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    }

    #[test]
    fn what_comes_through_several_connections_takes_its_time_together() {
        let throttle = Throttle::new(Some(Bandwidth::parse("1000 kB/s").unwrap()));
        let begun = Instant::now();
        runtime().block_on(async {
            let connection = async {
                for _ in 0..10 {
                    throttle.pass(25_000).await;
                }
            };
            tokio::join!(connection, async {
                for _ in 0..10 {
                    throttle.pass(25_000).await;
                }
            });
        });
        // 500 000 bytes, of which a tenth of a second's worth is free.
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(395), "{took:?}");
    }

    #[test]
    fn a_cap_that_is_lifted_lets_everybody_go_at_once() {
        let throttle = Throttle::new(Some(Bandwidth::parse("1 KiB/s").unwrap()));
        let lift = async {
            throttle.set(None);
        };
        runtime().block_on(async {
            // An hour's worth.
            tokio::join!(throttle.pass(3_600 * 1024), lift);
            throttle.pass(u64::MAX).await;
        });
    }
}
