//! The decision of the health gate, without clock, bus or disk.
//!
//! ```text
//!             all required checks hold                 soak time over
//!  ┌─────────┐ ───────────────────────▶ ┌─────────┐ ──────────────────▶ Good
//!  │ ailing  │                          │ soaking │
//!  └─────────┘ ◀─────────────────────── └─────────┘
//!       │         one of them fails          │
//!       └───────── deadline, on a trial ─────┴─────────────────────────▶ Bad
//! ```
//!
//! A check that is still at work (reading the image takes a while) breaks no soak,
//! and nothing is good before it is done. At the deadline nothing is good any more.

use std::time::Duration;

/// How much a check counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// It has to hold.
    Required,
    /// It has to hold for a slot to become good; on a good one it is logged.
    RequiredOnTrial,
    /// It is logged, and decides nothing.
    Advisory,
}

impl Importance {
    /// Says whether the check has to hold when that is at stake.
    const fn decides(self, stakes: Stakes) -> bool {
        match (self, stakes) {
            (Self::Required, _) | (Self::RequiredOnTrial, Stakes::Trial) => true,
            (Self::RequiredOnTrial, Stakes::Settled) | (Self::Advisory, _) => false,
        }
    }
}

/// Why a check does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The name of the check.
    pub check: String,
    /// The systemd unit to look at, if there is one.
    pub unit: Option<String>,
    pub reason: String,
    /// What the check itself has to show for it, last line last.
    pub lines: Vec<String>,
}

impl Failure {
    /// Returns a failure of `check` that no unit is to blame for.
    pub fn new(check: &str, reason: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            unit: None,
            reason: reason.into(),
            lines: Vec::new(),
        }
    }
}

/// What a check found this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Holds,
    /// It is not done yet, and nothing speaks against it so far.
    Working(Failure),
    Fails(Failure),
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub importance: Importance,
    pub outcome: Outcome,
}

/// Whether this boot is to be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stakes {
    /// The booted slot is on trial: at the deadline it is bad.
    Trial,
    /// The booted slot is good already: waiting never ends, and never restarts anything.
    Settled,
}

/// How long the checks have to hold, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub soak: Duration,
    /// Since the kernel started.
    pub deadline: Duration,
}

/// What is remembered from round to round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Since when no required check failed, counted from the start of the kernel.
    pub holding_since: Option<Duration>,
    /// The last failure of a required check, or what is still awaited.
    pub last_failure: Option<Failure>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Wait,
    Good,
    Bad(Failure),
}

/// Takes in what one round of all checks found, at `now` since the kernel started.
pub fn step(
    state: State,
    policy: Policy,
    stakes: Stakes,
    findings: &[Finding],
    now: Duration,
) -> (State, Verdict) {
    let required = || {
        findings
            .iter()
            .filter(|finding| finding.importance.decides(stakes))
    };
    let failure = required().find_map(|finding| match &finding.outcome {
        Outcome::Fails(failure) => Some(failure),
        Outcome::Holds | Outcome::Working(_) => None,
    });
    let awaited = required().find_map(|finding| match &finding.outcome {
        Outcome::Working(awaited) => Some(awaited),
        Outcome::Holds | Outcome::Fails(_) => None,
    });
    let holding_since = match failure {
        Some(_) => None,
        None => state.holding_since.or(Some(now)),
    };
    // What fails now says more than what failed before; what is awaited says least.
    let last_failure = failure.or(state.last_failure.as_ref()).cloned();
    let soaked = holding_since.is_some_and(|since| now.saturating_sub(since) >= policy.soak);
    let verdict = if stakes == Stakes::Trial && now >= policy.deadline {
        Verdict::Bad(blame(
            policy,
            failure,
            awaited,
            last_failure.as_ref(),
            holding_since,
            now,
        ))
    } else if soaked && awaited.is_none() && required().next().is_some() {
        Verdict::Good
    } else {
        Verdict::Wait
    };
    (
        State {
            holding_since,
            last_failure,
        },
        verdict,
    )
}

/// Says why the deadline found the node not good.
fn blame(
    policy: Policy,
    failure: Option<&Failure>,
    awaited: Option<&Failure>,
    last_failure: Option<&Failure>,
    holding_since: Option<Duration>,
    now: Duration,
) -> Failure {
    if let Some(blamed) = failure.or(awaited) {
        return blamed.clone();
    }
    let held = now.saturating_sub(holding_since.unwrap_or(now)).as_secs();
    let soak = policy.soak.as_secs();
    let shortage = format!("held for the last {held} s of the {soak} s that it has to");
    match last_failure {
        Some(failure) => Failure {
            reason: format!("{}; then it {shortage}", failure.reason),
            ..failure.clone()
        },
        None => Failure::new("soak", format!("the checks came too late and {shortage}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const POLICY: Policy = Policy {
        soak: Duration::from_secs(15),
        deadline: Duration::from_secs(100),
    };

    fn failure(check: &str) -> Failure {
        Failure::new(check, format!("{check} is not well"))
    }

    fn required(outcome: Outcome) -> Finding {
        Finding {
            importance: Importance::Required,
            outcome,
        }
    }

    fn advisory(outcome: Outcome) -> Finding {
        Finding {
            importance: Importance::Advisory,
            outcome,
        }
    }

    fn fails(check: &str) -> Finding {
        required(Outcome::Fails(failure(check)))
    }

    /// Runs rounds, each with its second and its findings, until there is a verdict.
    fn run(
        stakes: Stakes,
        rounds: impl IntoIterator<Item = (u64, Vec<Finding>)>,
    ) -> Option<(u64, Verdict)> {
        let mut state = State::default();
        for (second, findings) in rounds {
            let (next, verdict) = step(
                state,
                POLICY,
                stakes,
                &findings,
                Duration::from_secs(second),
            );
            if verdict != Verdict::Wait {
                return Some((second, verdict));
            }
            state = next;
        }
        None
    }

    fn well() -> Vec<Finding> {
        vec![required(Outcome::Holds)]
    }

    #[test]
    fn checks_that_hold_for_the_soak_time_make_the_node_good() {
        assert_eq!(
            run(Stakes::Trial, (10..).map(|second| (second, well()))),
            Some((25, Verdict::Good))
        );
    }

    #[test]
    fn a_flap_starts_the_soak_anew() {
        let rounds = (10..).map(|second| {
            (
                second,
                if second == 24 {
                    vec![fails("web")]
                } else {
                    well()
                },
            )
        });
        assert_eq!(run(Stakes::Trial, rounds), Some((40, Verdict::Good)));
    }

    #[test]
    fn a_check_that_never_holds_is_blamed_at_the_deadline() {
        let rounds = (10..).map(|second| (second, vec![required(Outcome::Holds), fails("web")]));
        assert_eq!(
            run(Stakes::Trial, rounds),
            Some((100, Verdict::Bad(failure("web"))))
        );
    }

    #[test]
    fn a_check_that_flaps_for_ever_is_bad_even_when_it_holds_at_the_deadline() {
        let rounds = (1..).map(|second| {
            (
                second,
                if second % 14 == 0 {
                    vec![fails("web")]
                } else {
                    well()
                },
            )
        });
        let Some((100, Verdict::Bad(blamed))) = run(Stakes::Trial, rounds) else {
            panic!("not bad at the deadline")
        };
        assert_eq!(blamed.check, "web");
        assert!(
            blamed
                .reason
                .contains("web is not well; then it held for the last 1 s"),
            "{}",
            blamed.reason
        );
    }

    #[test]
    fn the_deadline_beats_a_soak_that_ends_with_it() {
        let Some((100, Verdict::Bad(blamed))) =
            run(Stakes::Trial, (85..).map(|second| (second, well())))
        else {
            panic!("not bad at the deadline")
        };
        assert_eq!(blamed.check, "soak");
        assert_eq!(
            run(Stakes::Trial, (84..).map(|second| (second, well()))),
            Some((99, Verdict::Good))
        );
    }

    #[test]
    fn advisory_checks_decide_nothing() {
        let ailing = || {
            vec![
                required(Outcome::Holds),
                advisory(Outcome::Fails(failure("online"))),
            ]
        };
        assert_eq!(
            run(Stakes::Trial, (10..).map(|second| (second, ailing()))),
            Some((25, Verdict::Good))
        );
    }

    #[test]
    fn what_is_required_on_a_trial_decides_nothing_on_a_good_slot() {
        let ailing = |second| {
            let network = Finding {
                importance: Importance::RequiredOnTrial,
                outcome: Outcome::Fails(failure("network")),
            };
            (second, vec![required(Outcome::Holds), network])
        };
        assert_eq!(
            run(Stakes::Settled, (10..).map(ailing)),
            Some((25, Verdict::Good))
        );
        assert_eq!(
            run(Stakes::Trial, (10..).map(ailing)),
            Some((100, Verdict::Bad(failure("network"))))
        );
    }

    #[test]
    fn without_a_required_check_nothing_is_good() {
        let none = || vec![advisory(Outcome::Holds)];
        assert!(matches!(
            run(Stakes::Trial, (10..).map(|second| (second, none()))),
            Some((100, Verdict::Bad(_)))
        ));
    }

    #[test]
    fn work_that_goes_on_withholds_the_verdict_and_breaks_no_soak() {
        let reading = |second| {
            if second < 50 {
                Outcome::Working(failure("image"))
            } else {
                Outcome::Holds
            }
        };
        let rounds = (10..).map(|second| {
            (
                second,
                vec![required(Outcome::Holds), required(reading(second))],
            )
        });
        assert_eq!(run(Stakes::Trial, rounds), Some((50, Verdict::Good)));
    }

    #[test]
    fn work_that_never_ends_is_blamed_at_the_deadline() {
        let rounds =
            (10..).map(|second| (second, vec![required(Outcome::Working(failure("image")))]));
        assert_eq!(
            run(Stakes::Trial, rounds),
            Some((100, Verdict::Bad(failure("image"))))
        );
    }

    #[test]
    fn a_settled_boot_has_no_deadline() {
        let rounds = |last| (10..last).map(|second| (second, vec![fails("web")]));
        assert_eq!(run(Stakes::Settled, rounds(10_000)), None);
        let late = rounds(5000).chain((5000..).map(|second| (second, well())));
        assert_eq!(run(Stakes::Settled, late), Some((5015, Verdict::Good)));
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            6 => Just(Outcome::Holds),
            1 => Just(Outcome::Working(failure("image"))),
            1 => Just(Outcome::Fails(failure("web"))),
        ]
    }

    proptest! {
        /// The rule, told a second time without the machine.
        #[test]
        fn good_means_that_no_required_check_failed_for_the_soak_time(
            rounds in vec((1_u64..4, any_outcome(), any_outcome()), 1..80),
        ) {
            let mut now = 0;
            let rounds: Vec<_> = rounds.into_iter().map(|(pause, one, other)| {
                now += pause;
                (now, vec![required(one.clone()), required(other.clone())])
            }).collect();
            let verdict = run(Stakes::Trial, rounds.clone());
            let end = verdict.as_ref().map_or(u64::MAX, |(second, _)| *second);
            let unwell_before = |from: u64, to: u64| rounds.iter()
                .any(|(second, findings)| (from..=to).contains(second)
                    && findings.iter().any(|finding| matches!(finding.outcome, Outcome::Fails(_))));
            match verdict {
                Some((_, Verdict::Good)) => {
                    prop_assert!(end < 100);
                    prop_assert!(!unwell_before(end - 15, end));
                    let last = rounds.iter().find(|(second, _)| *second == end).expect("the last round");
                    prop_assert!(last.1.iter().all(|finding| finding.outcome == Outcome::Holds));
                }
                Some((_, Verdict::Bad(_))) => prop_assert!(end >= 100),
                Some((_, Verdict::Wait)) => prop_assert!(false, "waiting is no verdict"),
                None => prop_assert!(rounds.last().is_none_or(|(second, _)| *second < 100)),
            }
        }

        #[test]
        fn a_settled_boot_is_never_bad(rounds in vec((1_u64..1000, any_outcome()), 1..80)) {
            let mut now = 0;
            let rounds: Vec<_> = rounds.into_iter().map(|(pause, one)| { now += pause; (now, vec![required(one)]) }).collect();
            prop_assert!(!matches!(run(Stakes::Settled, rounds), Some((_, Verdict::Bad(_)))));
        }
    }
}
