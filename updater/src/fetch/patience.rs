use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

/// How long a transfer waits for a server, and how often it asks again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// How long a connection may take to stand.
    pub connect: Duration,
    /// How long a server may be silent.
    pub idle: Duration,
    /// How long it may take over each [`Patience::progress`] bytes: a server
    /// that sends a byte now and then is never silent.
    pub stall: Duration,
    /// How many bytes count as progress.
    pub progress: u64,
    /// How many bytes a connection must bring in a second; 0 to take what comes.
    pub rate: u64,
    /// Over how long that is measured, of all connections to a server together.
    pub measure: Duration,
    /// How often it asks again without progress.
    pub retries: u32,
    /// The wait before the first time; each further one is twice as long.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
    /// How long a whole set of metadata may take, with every retry: a server that drips
    /// must not hold up the node.
    pub metadata: Duration,
}

impl Default for Patience {
    /// Rides out a minute without network (0.5 + 1 + … + 16 + 30 s), the time a
    /// switch or a load balancer takes to come back; the slowest link that it
    /// puts up with has 1 KiB/s. Metadata gets a hundred times what it takes over a slow
    /// line.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            stall: Duration::from_secs(64),
            progress: 64 * 1024,
            rate: 0,
            measure: Duration::from_secs(120),
            retries: 7,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(30),
            metadata: Duration::from_secs(180),
        }
    }
}

/// What a server must bring over each connection while another one could be asked: with
/// four of them 64 KiB/s, below which no stage is a matter of hours.
const RATE: u64 = 16 * 1024;

impl Patience {
    /// Returns the patience with a server while another one could be asked.
    pub(crate) fn with_another(&self) -> Self {
        Self {
            connect: self.connect.min(Duration::from_secs(5)),
            idle: self.idle.min(Duration::from_secs(10)),
            stall: self.stall.min(Duration::from_secs(30)),
            rate: RATE,
            retries: self.retries.min(2),
            ..self.clone()
        }
    }

    /// Returns how long to wait before asking again, `attempts` times having
    /// done so in vain; `None` once that is enough.
    pub(crate) fn wait(&self, attempts: u32) -> Option<Duration> {
        if attempts >= self.retries {
            return None;
        }
        let whole = self
            .first_wait
            .saturating_mul(2_u32.saturating_pow(attempts))
            .min(self.longest_wait);
        // Half to all of it: a fleet that lost its server together must
        // not come back together.
        Some(whole / 2 + whole / 2 * chance() / 256)
    }
}

/// Returns a number from 0 to 256 by chance; nobody's safety hangs on it.
fn chance() -> u32 {
    let [byte, ..] = RandomState::new().hash_one(()).to_le_bytes();
    u32::from(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_end() {
        let patience = Patience::default();
        let waits: Vec<_> = (0..).map_while(|number| patience.wait(number)).collect();
        assert_eq!(waits.len(), 7);
        let mut whole = patience.first_wait;
        for wait in waits {
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
            whole = (whole * 2).min(patience.longest_wait);
        }
    }

    #[test]
    fn another_server_shortens_the_patience_with_the_first() {
        let patience = Patience::default();
        let short = patience.with_another();
        let waits = |patience: &Patience| {
            let waits = (0..).map_while(|number| patience.wait(number));
            waits.sum::<Duration>()
        };
        assert!(waits(&patience) > Duration::from_secs(30));
        assert!(waits(&short) < Duration::from_secs(2));
        // Somebody who has none gets no more.
        let none = Patience {
            retries: 0,
            ..patience
        };
        assert_eq!(none.with_another().wait(0), None);
    }
}
