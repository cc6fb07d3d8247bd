//! Who of several servers is asked first.

use std::time::Duration;

use tokio::time::Instant;

/// Servers in the order in which they are set, but those that failed a short time ago
/// after the others: each question would spend its patience on them anew.
#[derive(Debug)]
pub(crate) struct Turns {
    rest: Duration,
    rests_until: Vec<Option<Instant>>,
}

/// Whether a server did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Yes,
    No,
}

impl Turns {
    /// Lets `servers` have turns; one that fails is asked last for as long as `rest`.
    pub(crate) fn new(servers: usize, rest: Duration) -> Self {
        Self {
            rest,
            rests_until: vec![None; servers],
        }
    }

    /// Returns all of them, by their places in the settings: who is asked first comes first.
    pub(crate) fn order(&self, now: Instant) -> Vec<usize> {
        let rests = |until: &Option<Instant>| until.is_some_and(|until| until > now);
        let mut order: Vec<_> = self.rests_until.iter().map(rests).enumerate().collect();
        order.sort_by_key(|(server, rests)| (*rests, *server));
        order.into_iter().map(|(server, _)| server).collect()
    }

    /// Lets `server` rest after a failure, or calls it fit.
    pub(crate) fn judge(&mut self, server: usize, fit: Fit, now: Instant) {
        if let Some(until) = self.rests_until.get_mut(server) {
            *until = match fit {
                Fit::Yes => None,
                Fit::No => Some(now + self.rest),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_failed_is_asked_last_for_a_while() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut turns = Turns::new(3, Duration::from_secs(60));
        assert_eq!(turns.order(at(0)), [0, 1, 2]);
        turns.judge(0, Fit::No, at(0));
        assert_eq!(turns.order(at(0)), [1, 2, 0]);
        turns.judge(1, Fit::No, at(30));
        assert_eq!(turns.order(at(30)), [2, 0, 1]);
        turns.judge(1, Fit::Yes, at(40));
        assert_eq!(turns.order(at(40)), [1, 2, 0]);
        assert_eq!(turns.order(at(60)), [0, 1, 2]);
    }
}
