use jiff::Timestamp;

use super::handle::Automation;
use crate::admit::{Ask, Force};
use crate::job::{Job, JobKind};
use crate::machine::{Holder, Outcome, Request, State};
use crate::policy::{
    Attempt, AttemptEnd, Decision, Held, MachineId, Rules, Situation, Source, Word, decide,
    is_fresh,
};
use crate::ports::{Offer, Restart};

/// What the head needs to know to act by itself.
#[derive(Debug)]
pub(super) struct Steward {
    rules: Rules,
    machine_id: MachineId,
    last_attempt: Option<Attempt>,
}

/// Whether an offer is another repository's, or another channel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elsewhere {
    Yes,
    No,
}

/// What the head knows of the repository.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) state: &'a State,
    pub(super) offer: Option<&'a Offer>,
    pub(super) last_check: Option<Timestamp>,
    pub(super) word: Word,
}

impl Steward {
    pub(super) const fn new(rules: Rules, machine_id: MachineId) -> Self {
        Self {
            rules,
            machine_id,
            last_attempt: None,
        }
    }

    /// Takes other rules, and tells whether offers come from elsewhere by them.
    /// What was given up under the old ones is tried anew.
    pub(super) fn obey(&mut self, rules: Rules) -> Elsewhere {
        let elsewhere = match rules.source == self.rules.source {
            true => Elsewhere::No,
            false => Elsewhere::Yes,
        };
        self.rules = rules;
        self.last_attempt = None;
        elsewhere
    }

    /// Returns where releases come from.
    pub(super) const fn source(&self) -> Option<&Source> {
        self.rules.source.as_ref()
    }

    /// Goes on by the rules that it has, and tells why there are no others.
    pub(super) fn keep(&mut self, mistake: String) {
        self.rules.mistake = Some(mistake);
    }

    /// Returns what is to be done by itself now.
    pub(super) fn next(&self, known: Known<'_>, now: Timestamp) -> Result<Request, Held> {
        match self.decide(known, now) {
            Decision::Nothing(held) => Err(held),
            Decision::Check => Ok(Request::Check),
            Decision::Stage(version) => Ok(Request::Stage(Ask {
                version: Some(version),
                force: Force::No,
                tries: self.rules.tries,
            })),
            Decision::Reboot => Ok(Request::Reboot(Restart::InOrder)),
        }
    }

    fn decide(&self, known: Known<'_>, now: Timestamp) -> Decision {
        let situation = Situation {
            state: known.state,
            offer: known.offer,
            last_check: known.last_check,
            word: known.word,
            last_attempt: self.last_attempt.as_ref(),
            machine_id: &self.machine_id,
        };
        decide(&self.rules, &situation, now)
    }

    /// Returns what the windows ask of a job that heeds them. One that was held until the
    /// channel's word had grown old is given up: the rollout may have been stopped meanwhile.
    /// What it wrote stays in the spare slot, for the stage that follows the next check.
    pub(super) fn heed(&self, known: Known<'_>, now: Timestamp) -> Option<Request> {
        match (known.state.holder(), self.rules.windows.is_open(now)) {
            (None, false) => Some(Request::Pause(Holder::Window)),
            (Some(Holder::Window), true) if is_fresh(known.last_check, now) => {
                Some(Request::Resume)
            }
            (Some(Holder::Window), true) => Some(Request::Cancel),
            (None | Some(Holder::Window | Holder::Caller), _) => None,
        }
    }

    /// Learns how a job ended that was its own idea, and was not given up by itself.
    pub(super) fn learn(&mut self, job: &Job, outcome: &Outcome, now: Timestamp) {
        let version = job.work.borrow().version.clone();
        let (JobKind::Stage, Some(version)) = (job.kind, version) else {
            return;
        };
        let end = match outcome {
            Outcome::Done => {
                self.last_attempt = None;
                return;
            }
            Outcome::Failed(failure) => AttemptEnd::Failed {
                message: failure.message.clone(),
            },
            Outcome::Cancelled => AttemptEnd::Cancelled,
        };
        self.last_attempt = Some(Attempt {
            version,
            when: now,
            end,
        });
    }

    /// Returns how things stand, for everyone to see.
    pub(super) fn show(&self, known: Known<'_>, job: Option<&Job>, now: Timestamp) -> Automation {
        let windows = &self.rules.windows;
        let next_window = (!windows.is_open(now))
            .then(|| windows.next_opening(now))
            .flatten();
        let held = match known.state.holder() {
            Some(Holder::Caller) => Some(Held::Paused),
            Some(Holder::Window) => {
                let version = job.and_then(|job| job.work.borrow().version.clone());
                version.map(|version| Held::WindowClosed {
                    version,
                    opens: next_window,
                })
            }
            None => match self.decide(known, now) {
                Decision::Nothing(held) => Some(held),
                Decision::Check | Decision::Stage(_) | Decision::Reboot => None,
            },
        };
        Automation {
            automatic: self.rules.automatic,
            tries: self.rules.tries,
            held,
            next_window,
            mistake: self.rules.mistake.clone(),
        }
    }
}
