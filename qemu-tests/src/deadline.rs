//! Deadlines: every wait of a story is for a state, and ends.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a state that cannot announce itself is looked at.
///
/// An emulated node shares two cores with its neighbour: asking more often
/// would slow what is being waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The moment at which a wait gives up.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    allowed: Duration,
}

impl Deadline {
    /// Returns the deadline `seconds` from now.
    pub fn after(seconds: u64) -> Self {
        let allowed = Duration::from_secs(seconds);
        Self {
            at: Instant::now() + allowed,
            allowed,
        }
    }

    /// Returns the time that is left, zero when it has passed.
    pub fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Says whether the deadline has passed.
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }

    /// Awaits `future`, but no longer than until the deadline.
    ///
    /// # Errors
    ///
    /// Fails with `waiting_for` when the deadline passes first.
    pub async fn bound<T>(
        &self,
        waiting_for: impl fmt::Display,
        future: impl Future<Output = T>,
    ) -> Result<T> {
        match tokio::time::timeout(self.left(), future).await {
            Ok(value) => Ok(value),
            Err(_elapsed) => bail!("waited {} s for {waiting_for}", self.allowed.as_secs()),
        }
    }

    /// Looks again and again until `look` finds what it looks for.
    ///
    /// # Errors
    ///
    /// Fails when the deadline passes, with the last reason `look` gave.
    pub async fn until<T>(
        &self,
        waiting_for: impl fmt::Display,
        mut look: impl AsyncFnMut() -> Result<Look<T>>,
    ) -> Result<T> {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = String::from("nothing was seen");
        loop {
            ticks.tick().await;
            match tokio::time::timeout(self.left(), look()).await {
                Ok(looked) => match looked? {
                    Look::Found(value) => return Ok(value),
                    Look::NotYet(why) => last = why,
                },
                Err(_elapsed) => {}
            }
            if self.passed() {
                bail!(
                    "waited {} s for {waiting_for}; last: {last}",
                    self.allowed.as_secs()
                );
            }
        }
    }
}

/// What a look at a state found.
#[derive(Debug)]
pub enum Look<T> {
    /// It is there.
    Found(T),
    /// It is not there yet; this is what is there instead.
    NotYet(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_that_fails_says_what_it_saw_last() {
        let error = Deadline::after(0)
            .until("the moon", async || Ok(Look::<()>::NotYet("clouds".into())))
            .await
            .expect_err("there is no moon");
        assert_eq!(error.to_string(), "waited 0 s for the moon; last: clouds");
    }

    #[tokio::test]
    async fn a_state_that_already_holds_needs_no_time() {
        let found = Deadline::after(60)
            .until("it", async || Ok(Look::Found(7)))
            .await
            .expect("it is there");
        assert_eq!(found, 7);
    }
}
