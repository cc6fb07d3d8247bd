//! The loop of the gate: look, decide, and do what was decided.
//!
//! ```text
//! Good, on a trial   MarkGood ─ refused: it is one more thing that fails, until the deadline
//! Good, settled      MarkGood, for the watch on the slot; refused, it is logged
//! Bad                verdict.json → MarkBad ─ done:          the updater restarts the machine
//!                                           ─ not on trial:  go on looking
//!                                           ─ no answer:     systemd restarts it ─ refused: reboot(2)
//! ```
//!
//! The verdict is on the disk before anybody is told, so that its reason survives whoever is dead.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

use crate::report::Chain;

use super::bus::{Bus, BusError, Systemd};
use super::checks::{Checks, Round};
use super::gate::{Failure, Finding, Importance, Outcome, Policy, Stakes, State, Verdict, step};
use super::journal;
use super::power::LastResort;
use super::this_boot::{BootFiles, ThisBoot, since_boot};
use super::updater::{BootedSlot, MarkedBad, Standing, Updater};
use super::verdict_file;

/// How long the gate waits for whom.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Between two rounds on a trial.
    pub trial: Duration,
    /// Between two rounds while nothing is at stake but the checks' own cost.
    pub settled: Duration,
    /// For the updater to mark a slot.
    pub mark: Duration,
    /// For a restart that was promised to begin: the gate is stopped by it.
    pub restart: Duration,
}

impl Patience {
    /// The patience on a node. The stop timeout of units is a minute, which a
    /// restart may take from its promise to the end of the gate.
    pub const NODE: Self = Self {
        trial: Duration::from_secs(1),
        settled: Duration::from_secs(5),
        mark: Duration::from_secs(20),
        restart: Duration::from_secs(90),
    };
}

/// What the gate works on.
#[derive(Debug)]
pub struct Watch<P> {
    pub bus: Bus,
    pub checks: Checks,
    pub policy: Policy,
    pub patience: Patience,
    pub boot_files: BootFiles,
    /// The folder of the verdict.
    pub verdicts: PathBuf,
    /// The program that reads the journal.
    pub journalctl: PathBuf,
    pub last_resort: P,
}

/// How the gate ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The node is healthy, and its slot good.
    Good,
    /// The slot is bad, and the machine ought to have restarted by now.
    Stranded,
}

impl<P: LastResort> Watch<P> {
    /// Watches the node until it is good, or until it is restarted.
    pub async fn run(mut self) -> Ended {
        let boot = self.boot_files.read();
        let mut state = State::default();
        let mut known = None;
        let mut said = Said::default();
        if self.boot_files.presumed_stakes() == Stakes::Trial {
            // It takes a while: the sooner the better.
            self.checks.read_image();
        }
        loop {
            let round = self.checks.round(&mut self.bus).await;
            said.log(&round);
            let stakes = self.stakes(round.booted.as_ref(), &mut known);
            // Only now is it known, perhaps: nothing becomes good by a round without it.
            if stakes == Stakes::Trial && self.checks.read_image() {
                continue;
            }
            let standing = round.booted.map(|booted| booted.standing);
            let findings: Vec<Finding> = round
                .findings
                .into_iter()
                .map(|(_, finding)| finding)
                .collect();
            let verdict;
            (state, verdict) = step(state, self.policy, stakes, &findings, since_boot());
            match verdict {
                Verdict::Wait => {}
                Verdict::Good => match self.pass(&boot, stakes, standing).await {
                    Ok(()) => return Ended::Good,
                    Err(failure) => {
                        tracing::warn!(reason = %failure.reason, "the updater does not make the slot good");
                        state.last_failure = Some(failure);
                    }
                },
                Verdict::Bad(failure) => match self.fail(&boot, failure).await {
                    Condemned::Restarting => return self.start_over().await,
                    Condemned::Stays => known = Some(Stakes::Settled),
                },
            }
            notify(&[
                sd_notify::NotifyState::Watchdog,
                sd_notify::NotifyState::Status(&status(&state, self.policy)),
            ]);
            sleep(match stakes {
                Stakes::Trial => self.patience.trial,
                Stakes::Settled => self.patience.settled,
            })
            .await;
        }
    }

    /// Says what is at stake. What the updater said last counts while it is
    /// silent: a daemon that dies in a trial does not end the trial.
    fn stakes(&self, booted: Option<&BootedSlot>, known: &mut Option<Stakes>) -> Stakes {
        match booted.map(|booted| &booted.standing) {
            Some(Standing::Good) => *known = Some(Stakes::Settled),
            Some(Standing::Trial) => *known = Some(Stakes::Trial),
            Some(Standing::Other(_)) | None => {}
        }
        known.unwrap_or_else(|| self.boot_files.presumed_stakes())
    }

    async fn pass(
        &mut self,
        boot: &ThisBoot,
        stakes: Stakes,
        standing: Option<Standing>,
    ) -> Result<(), Failure> {
        match stakes {
            Stakes::Trial => {
                let refused = |error: BusError| Failure {
                    unit: Some("bistable-updater.service".to_owned()),
                    ..Failure::new(
                        "mark-good",
                        format!("the slot cannot be made good: {}", Chain(&error)),
                    )
                };
                self.mark_good().await.map_err(refused)?;
                tracing::info!(version = %boot.version, "all checks held for the soak time: the slot is good");
                self.write_pass(boot);
            }
            Stakes::Settled => {
                // First: an updater that is at work now finds it when it is not any more.
                self.write_pass(boot);
                // What was given up and runs on, for want of another, has had its verdict.
                if standing == Some(Standing::Good)
                    && let Err(error) = self.mark_good().await
                {
                    tracing::warn!(error = %Chain(&error), "the updater is not told that the boot came up");
                }
            }
        }
        Ok(())
    }

    async fn mark_good(&mut self) -> Result<(), BusError> {
        let connection = self.bus.connection().await?;
        Updater::new(connection).mark_good(self.patience.mark).await
    }

    /// The slot is good whether or not this is written.
    fn write_pass(&self, boot: &ThisBoot) {
        if let Err(error) = verdict_file::write_pass(&self.verdicts, boot) {
            tracing::warn!(error = %Chain(&error), "the verdict is not written");
        }
    }

    async fn fail(&mut self, boot: &ThisBoot, mut failure: Failure) -> Condemned {
        notify(&[sd_notify::NotifyState::Watchdog]);
        if let Some(unit) = failure.unit.as_deref().filter(|_| failure.lines.is_empty()) {
            failure.lines = journal::last_lines(&self.journalctl, unit).await;
        }
        tracing::error!(
            check = failure.check,
            unit = failure.unit,
            reason = failure.reason,
            "the release failed its trial"
        );
        if let Err(error) = verdict_file::write_fail(&self.verdicts, boot, &failure) {
            tracing::error!(error = %Chain(&error), "the verdict is not written");
        }
        notify(&[
            sd_notify::NotifyState::Watchdog,
            sd_notify::NotifyState::Status("the release failed its trial"),
        ]);
        let marked = match self.bus.connection().await {
            Ok(connection) => {
                Updater::new(connection)
                    .mark_bad(&failure, self.patience.mark)
                    .await
            }
            Err(error) => MarkedBad::Failed(error),
        };
        match marked {
            MarkedBad::Done => {
                // It restarts the machine itself, within the same patience as systemd does.
                self.await_the_end().await;
                Condemned::Restarting
            }
            MarkedBad::NotInTrial => {
                tracing::warn!("the updater says that the booted slot is not on trial");
                Condemned::Stays
            }
            MarkedBad::NothingElseBoots => {
                tracing::error!("no other release boots: the node stays up with this one");
                Condemned::Stays
            }
            MarkedBad::Failed(error) => {
                tracing::error!(error = %Chain(&error), "the updater does not give the slot up");
                Condemned::Restarting
            }
        }
    }

    /// Restarts the machine without the updater. The try that was spent is what
    /// brings the other slot back; the verdict on the disk tells the rest.
    async fn start_over(mut self) -> Ended {
        let asked = match self.bus.connection().await {
            Ok(connection) => Systemd::new(connection).restart_machine().await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(()) => self.await_the_end().await,
            Err(error) => {
                tracing::error!(error = %Chain(&error), "systemd does not restart the machine")
            }
        }
        let error = self.last_resort.restart();
        tracing::error!(%error, "the machine cannot be restarted");
        Ended::Stranded
    }

    /// Waits to be stopped, which is how an orderly restart begins.
    async fn await_the_end(&self) {
        const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
        let mut left = self.patience.restart;
        while !left.is_zero() {
            notify(&[sd_notify::NotifyState::Watchdog]);
            let pause = left.min(SIGN_OF_LIFE);
            sleep(pause).await;
            left -= pause;
        }
    }
}

enum Condemned {
    Restarting,
    Stays,
}

/// What was logged of each check, so that a line means a change.
#[derive(Debug, Default)]
struct Said(HashMap<String, Outcome>);

impl Said {
    fn log(&mut self, round: &Round) {
        for (check, finding) in &round.findings {
            let before = self.0.insert(check.clone(), finding.outcome.clone());
            if before.as_ref() == Some(&finding.outcome) {
                continue;
            }
            match (&finding.outcome, finding.importance) {
                (Outcome::Holds, _) => tracing::info!(check, "holds"),
                (Outcome::Working(_), _) => tracing::debug!(check, "is at work"),
                (Outcome::Fails(failure), Importance::Required | Importance::RequiredOnTrial) => {
                    tracing::warn!(
                        check,
                        unit = failure.unit,
                        reason = failure.reason,
                        "does not hold"
                    );
                }
                (Outcome::Fails(failure), Importance::Advisory) => {
                    tracing::info!(
                        check,
                        unit = failure.unit,
                        reason = failure.reason,
                        "does not hold, which is advisory"
                    );
                }
            }
        }
    }
}

fn status(state: &State, policy: Policy) -> String {
    match (state.holding_since, &state.last_failure) {
        (Some(since), _) => {
            let held = since_boot().saturating_sub(since).as_secs();
            format!(
                "all required checks hold since {held} s, of {} s",
                policy.soak.as_secs()
            )
        }
        (None, Some(failure)) => format!("{}: {}", failure.check, failure.reason),
        (None, None) => "waiting".to_owned(),
    }
}

/// Tells systemd. Without it there is nobody to tell, and the gate decides all the same.
pub fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd is not told");
    }
}
