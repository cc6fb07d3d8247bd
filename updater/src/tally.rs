//! Where the bytes of an update came from, and where its time went.

use std::time::Duration;

/// Bytes by source and seconds by phase, of one piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Came from the network, also what was thrown away.
    pub fetched: u64,
    /// Were in the booted slot.
    pub copied: u64,
    /// Were in the spare slot, in their place.
    pub kept: u64,
    /// Are zero.
    pub zero: u64,
    /// Were written.
    pub written: u64,
    /// Were read back from the medium.
    pub read_back: u64,
    /// The phases in the order in which each began first.
    pub phases: Vec<(&'static str, Duration)>,
}

impl Tally {
    /// Adds to what a phase has taken.
    pub fn spend(&mut self, phase: &'static str, time: Duration) {
        match self.phases.iter_mut().find(|(name, _)| *name == phase) {
            Some((_, spent)) => *spent = spent.saturating_add(time),
            None => self.phases.push((phase, time)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_that_comes_again_goes_on_where_it_stopped() {
        let mut tally = Tally::default();
        for (phase, seconds) in [("tree", 1), ("root", 20), ("tree", 2)] {
            tally.spend(phase, Duration::from_secs(seconds));
        }
        let seconds = |seconds| Duration::from_secs(seconds);
        assert_eq!(tally.phases, [("tree", seconds(3)), ("root", seconds(20))]);
    }
}
