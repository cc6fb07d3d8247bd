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
    /// How often it asks again without progress.
    pub retries: u32,
    /// The wait before the first time; each further one is twice as long.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
}

impl Default for Patience {
    /// Rides out a minute without network (0.5 + 1 + … + 16 + 30 s), the time a
    /// switch or a load balancer takes to come back; the slowest link that it
    /// puts up with has 1 KiB/s.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            stall: Duration::from_secs(64),
            progress: 64 * 1024,
            retries: 7,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(30),
        }
    }
}

impl Patience {
    /// Returns the waits between attempts, in order.
    pub(crate) fn waits(&self) -> impl Iterator<Item = Duration> + use<> {
        let (first, longest) = (self.first_wait, self.longest_wait);
        (0..self.retries).map(move |number| {
            let whole = first
                .saturating_mul(2_u32.saturating_pow(number))
                .min(longest);
            // Half to all of it: a fleet that lost its server together must
            // not come back together.
            whole / 2 + whole / 2 * chance() / 256
        })
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
        let waits: Vec<_> = patience.waits().collect();
        assert_eq!(waits.len(), 7);
        let mut whole = patience.first_wait;
        for wait in waits {
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
            whole = (whole * 2).min(patience.longest_wait);
        }
    }
}
