//! When an image is read, and when what could not be mended is tried again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Reading;

/// When what nobody could mend is tried again; each further time after twice as long.
const AGAIN: Duration = Duration::from_secs(10 * 60);
/// After this at the latest: a repository may come back in the night.
const AGAIN_AT_LATEST: Duration = Duration::from_secs(6 * 3600);

/// What was done about the images at one look, the most of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Round {
    Nothing,
    /// What could not be mended was tried again.
    Tried,
    Read,
}

/// When what could not be mended is tried again, in time since the boot. After one, it is at
/// the first look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    comes: Duration,
    wait: Duration,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            comes: Duration::ZERO,
            wait: AGAIN,
        }
    }
}

impl Turn {
    fn after(now: Duration, wait: Duration) -> Self {
        let comes = now.saturating_add(wait);
        Self { comes, wait }
    }

    pub(super) fn has_come(self, now: Duration) -> bool {
        now >= self.comes
    }

    pub(super) fn next_after(self, round: Round, now: Duration) -> Self {
        match round {
            Round::Nothing => self,
            Round::Tried => Self::after(now, self.wait.saturating_mul(2).min(AGAIN_AT_LATEST)),
            Round::Read => Self::after(now, AGAIN),
        }
    }
}

/// One that was broken off goes on; one that ended in the future was made under
/// another clock.
pub(super) fn is_due(reading: Option<&Reading>, every: Duration, now: Timestamp) -> bool {
    let Some(reading) = reading else { return true };
    if reading.blocks == 0 || reading.next < reading.blocks {
        return true;
    }
    let Some(finished) = reading.finished else {
        return true;
    };
    let every = SignedDuration::try_from(every).unwrap_or(SignedDuration::MAX);
    let age = now.duration_since(finished);
    age >= every || age < SignedDuration::ZERO
}

#[cfg(test)]
mod tests {
    use partition_layout::RootHash;

    use super::*;

    #[test]
    fn what_could_not_be_mended_has_its_turn_ever_later_and_four_times_a_day_in_the_end() {
        let minutes = |number: u64| Duration::from_secs(60 * number);
        let mut now = minutes(15);
        // After a boot at once.
        let mut turn = Turn::default();
        assert!(turn.has_come(now));
        let mut waits = Vec::new();
        for _ in 0..8 {
            turn = turn.next_after(Round::Tried, now);
            assert!(!turn.has_come(turn.comes - minutes(1)) && turn.has_come(turn.comes));
            waits.push((turn.comes - now).as_secs() / 60);
            now = turn.comes;
        }
        assert_eq!(waits, [20, 40, 80, 160, 320, 360, 360, 360]);
        assert_eq!(turn.next_after(Round::Nothing, now), turn);
        let read = turn.next_after(Round::Tried.max(Round::Read), now);
        assert!(!read.has_come(now) && read.has_come(now + minutes(10)));
    }

    #[test]
    fn a_reading_is_due_after_its_time_and_when_it_was_broken_off() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let week = Duration::from_secs(7 * 24 * 3600);
        let now = at(2_000_000_000);
        let reading = |next, finished| Reading {
            next,
            blocks: 10,
            finished,
            ..Reading::anew(RootHash::new([1; 32]), None)
        };
        let never_opened = Reading {
            blocks: 0,
            ..reading(0, Some(at(1_999_999_000)))
        };
        for (reading, due) in [
            (None, true),
            (Some(never_opened), true),
            (Some(reading(10, Some(at(1_999_999_000)))), false),
            (Some(reading(3, Some(at(1_999_999_000)))), true),
            (Some(reading(10, Some(at(1_999_000_000)))), true),
            (Some(reading(10, Some(at(2_000_100_000)))), true),
            (Some(reading(10, None)), true),
        ] {
            assert_eq!(is_due(reading.as_ref(), week, now), due, "{reading:?}");
        }
    }
}
