//! The daemon's decisions: a state, an event, the next state and what to do.
//! Pure: no clock, no device, no logging.
//!
//! ```text
//!              Settling            what an earlier boot left open
//!                  │ Ended
//!                  ▼          Check
//!   ┌──▶ Idle · Staged ◀─────────────────▶ Checking
//!   │      │      │            Refreshed, Ended
//!   │      │      │ Stage              Resolved                 Ended
//!   │      └──────┴──────────▶ Resolving ─────────▶ Staging ───────────▶ Staged
//!   │                             │ refused,            │ failed,
//!   │                             │ failed              │ cancelled
//!   │◀────────────────────────────┘                     ▼
//!   │◀────────────────────────────────────────────── Clearing ◀─┐ failed,
//!   │                                                           │ cancelled
//!   │◀── Planning ◀── Resolving ◀── Plan, from Idle and Staged: looks, and changes nothing
//!   │
//!   │ Idle ───────── Rollback ───────────────────────────▶ RollingBack ───▶ Staged
//!   │
//!   │ Trial ──── MarkGood ──▶ Marking ──▶ Idle
//!   │ Trial ──── MarkBad, Rollback ──▶ Marking ──▶ Condemned
//!   │                                          └─▶ LastResort    nothing else boots
//!   │ LastResort ── Check, Stage by name with force ──▶ as from Idle, and back
//!   │
//!   │ Idle, Staged ── MarkGood ──▶ Watching ──▶ the same       a good boot has come up
//!   │
//!   └─ any of Idle, Staged, Trial, LastResort, Condemned ── Reboot ──▶ Rebooting
//!                                                        └─ Forgive ──▶ Forgiving ─▶ the same
//! ```
//!
//! Where a piece of work ends is not remembered but looked up: its last report
//! brings the node's facts, read anew from the disk, and [`rest`] tells the
//! state from them. `Clearing` is a state of its own so that a late report of
//! the stage that it undoes cannot be taken for the next one's.
//!
//! What works can be held up and stopped: `Going` says what it was asked for. A
//! pause outlasts the step at which it was asked for, and a stop outlasts a pause.

mod effect;
#[cfg(test)]
mod histories;
mod orders;
mod watch;
mod words;

use partition_layout::RootHash;
use release::Release;

pub use self::effect::{Blame, Effect, Note};
pub use self::orders::ONE_SHOT_TRIES;
pub(crate) use self::orders::blessed;
use self::orders::{bless, clear_stage, condemn, note_unresolved, rearm, stage};
pub(crate) use self::watch::{end_watch, keep_watch, record_good, tell_departure};
pub use self::words::{
    Complaint, Event, Going, Holder, Job, Outcome, Purpose, Report, Request, STATES, Seen, State,
    Stopped, Target,
};
use crate::admit::{self, Admitted, Ask, Force};
use crate::names::ErrorName;
use crate::node::{Node, SlotStatus, Standing, Way};
use crate::records::Happened;
use crate::refusal::{Failure, Refused};

/// Returns the state of a node on which nothing is under way.
pub fn rest(node: Box<Node>) -> State {
    match node.booted.standing {
        Standing::Good if node.staged().is_some() => State::Staged { node },
        Standing::Good => State::Idle { node },
        Standing::Trial { .. } => State::Trial { node },
        Standing::LastResort => State::LastResort { node },
        Standing::Condemned => State::Condemned { node },
    }
}

/// Answers an event. A refused request changes nothing.
pub fn step(state: State, event: Event) -> Answer {
    match event {
        Event::Request(request) => answer(state, request),
        Event::Report(report) => Ok(proceed(state, report)),
    }
}

/// What a step gives: the next state and what to do, or a refusal with the
/// state as it was.
pub type Answer = Result<(State, Vec<Effect>), Box<Rejection>>;

/// A request that changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub state: State,
    pub refused: Refused,
}

fn refuse(state: State, refused: Refused) -> Answer {
    Err(Box::new(Rejection { state, refused }))
}

fn answer(state: State, request: Request) -> Answer {
    use State as In;
    match state {
        In::Idle { node } | In::Staged { node } => answer_good(node, request),
        In::Trial { node } => answer_trial(node, request),
        In::LastResort { node } => answer_last_resort(node, request),
        In::Condemned { node } => answer_condemned(node, request),
        In::Checking { .. }
        | In::Resolving { .. }
        | In::Planning { .. }
        | In::Staging { .. }
        | In::RollingBack { .. } => answer_at_work(state, request),
        In::Clearing { .. }
        | In::Marking {
            job: Job::Waits, ..
        } => match request {
            // The job ends as fast as it can already.
            Request::Cancel | Request::Resume => Ok((state, vec![])),
            Request::Pause(_) => refuse(state, Refused::NotPausable),
            Request::Check
            | Request::Stage(_)
            | Request::Plan(_)
            | Request::Reboot(_)
            | Request::Rollback { .. }
            | Request::MarkGood
            | Request::MarkBad(_)
            | Request::Forgive { .. }
            | Request::Mend { .. } => refuse(state, Refused::Busy),
        },
        In::Settling { .. }
        | In::Marking { job: Job::None, .. }
        | In::Watching { .. }
        | In::Forgiving { .. } => busy_without_job(state, &request),
        In::Rebooting { .. } => match request {
            // It goes down already.
            Request::Reboot(_) => Ok((state, vec![])),
            Request::Check
            | Request::Stage(_)
            | Request::Plan(_)
            | Request::Cancel
            | Request::Pause(_)
            | Request::Resume
            | Request::Rollback { .. }
            | Request::MarkGood
            | Request::MarkBad(_)
            | Request::Forgive { .. }
            | Request::Mend { .. } => busy_without_job(state, &request),
        },
    }
}

fn busy_without_job(state: State, request: &Request) -> Answer {
    match request {
        Request::Cancel | Request::Pause(_) | Request::Resume => refuse(state, Refused::NoSuchJob),
        Request::Check
        | Request::Stage(_)
        | Request::Plan(_)
        | Request::Reboot(_)
        | Request::Rollback { .. }
        | Request::MarkGood
        | Request::MarkBad(_)
        | Request::Forgive { .. }
        | Request::Mend { .. } => refuse(state, Refused::Busy),
    }
}

/// A job that can be cancelled is at work. It started from a good slot, or from the
/// last resort.
fn answer_at_work(state: State, request: Request) -> Answer {
    match request {
        Request::Cancel => {
            let effects = match state.going() {
                Some(Going::Stopping) => vec![],
                Some(Going::On | Going::Paused(_)) | None => vec![Effect::Interrupt],
            };
            Ok((asked(state, Going::Stopping), effects))
        }
        Request::Pause(holder) => pause(state, holder),
        Request::Resume => match state.going() {
            Some(Going::Paused(_)) => Ok((asked(state, Going::On), vec![Effect::LetGo])),
            Some(Going::On | Going::Stopping) | None => Ok((state, vec![])),
        },
        Request::MarkGood if state.node().booted.standing == Standing::Good => Ok((state, vec![])),
        Request::MarkBad(_) => refuse(state, Refused::NotInTrial),
        Request::MarkGood
        | Request::Check
        | Request::Stage(_)
        | Request::Plan(_)
        | Request::Reboot(_)
        | Request::Rollback { .. }
        | Request::Forgive { .. }
        | Request::Mend { .. } => refuse(state, Refused::Busy),
    }
}

fn pause(state: State, holder: Holder) -> Answer {
    let effects = match (&state, state.going()) {
        // It is over in a moment, and nothing waits for it.
        (State::Checking { .. }, _) | (_, Some(Going::Stopping) | None) => {
            return refuse(state, Refused::NotPausable);
        }
        (_, Some(Going::On)) => vec![Effect::Hold],
        // A window that closes does not take a pause from who asked for it.
        (_, Some(Going::Paused(Holder::Caller))) => return Ok((state, vec![])),
        (_, Some(Going::Paused(Holder::Window))) => vec![],
    };
    Ok((asked(state, Going::Paused(holder)), effects))
}

fn asked(mut state: State, wish: Going) -> State {
    match &mut state {
        State::Checking { going, .. }
        | State::Resolving { going, .. }
        | State::Planning { going, .. }
        | State::Staging { going, .. }
        | State::RollingBack { going, .. } => *going = wish,
        State::Settling { .. }
        | State::Idle { .. }
        | State::Staged { .. }
        | State::Trial { .. }
        | State::LastResort { .. }
        | State::Condemned { .. }
        | State::Clearing { .. }
        | State::Marking { .. }
        | State::Watching { .. }
        | State::Forgiving { .. }
        | State::Rebooting { .. } => {}
    }
    state
}

fn answer_good(node: Box<Node>, request: Request) -> Answer {
    match request {
        Request::Check => Ok((
            State::Checking {
                node,
                going: Going::On,
            },
            vec![Effect::Refresh],
        )),
        Request::Stage(ask) => resolve(node, ask, Purpose::Stage),
        Request::Plan(ask) => resolve(node, ask, Purpose::Plan),
        Request::Cancel | Request::Pause(_) | Request::Resume => {
            refuse(rest(node), Refused::NoSuchJob)
        }
        Request::Reboot(restart) => {
            let mut effects = Vec::new();
            // The firmware may have lost the wish since the slot was armed. If it
            // takes no new one, the request is refused: the reboot would lead back
            // to this slot, and the workload would have stopped for nothing.
            if let (Some((version, _)), Some(entry)) = (node.staged(), &node.spare.entry)
                && node.way_to(version) == Way::OneShot
            {
                effects.push(Effect::AskFor {
                    entry: entry.clone(),
                });
            }
            effects.push(Effect::Reboot(restart));
            Ok((State::Rebooting { node }, effects))
        }
        Request::Rollback { reason } => roll_back(node, reason),
        Request::MarkGood => match keep_watch(&node) {
            effects if effects.is_empty() => Ok((rest(node), vec![])),
            effects => Ok((State::Watching { node }, effects)),
        },
        Request::MarkBad(_) => refuse(rest(node), Refused::NotInTrial),
        Request::Forgive { root_hash } => forgive(node, root_hash),
        Request::Mend {
            root_hash,
            blocks,
            seen,
        } => mend(node, root_hash, (blocks, seen)),
    }
}

fn resolve(node: Box<Node>, ask: Ask, purpose: Purpose) -> Answer {
    if let Err(refused) = admit::check_ask(&ask) {
        return refuse(rest(node), refused);
    }
    let version = ask.version.clone();
    let state = State::Resolving {
        node,
        ask,
        purpose,
        going: Going::On,
    };
    Ok((state, vec![Effect::Resolve { version }]))
}

fn answer_trial(node: Box<Node>, request: Request) -> Answer {
    match request {
        Request::Check | Request::Stage(_) | Request::Plan(_) | Request::Mend { .. } => {
            refuse(rest(node), Refused::BootedSlotNotGood)
        }
        Request::Cancel | Request::Pause(_) | Request::Resume => {
            refuse(rest(node), Refused::NoSuchJob)
        }
        Request::Reboot(restart) => Ok((State::Rebooting { node }, vec![Effect::Reboot(restart)])),
        Request::Rollback { .. } if node.nothing_else_boots() => {
            refuse(rest(node), Refused::NothingToRollBackTo)
        }
        Request::Rollback { reason } => {
            let complaint = Complaint {
                reason,
                ..Complaint::default()
            };
            let effects = condemn(&node, complaint);
            Ok((
                State::Marking {
                    node,
                    job: Job::Waits,
                },
                effects,
            ))
        }
        Request::MarkGood => {
            let effects = bless(&node);
            Ok((
                State::Marking {
                    node,
                    job: Job::None,
                },
                effects,
            ))
        }
        Request::MarkBad(complaint) => {
            let effects = condemn(&node, complaint);
            Ok((
                State::Marking {
                    node,
                    job: Job::None,
                },
                effects,
            ))
        }
        Request::Forgive { root_hash } => forgive(node, root_hash),
    }
}

/// The node runs a release that failed, because nothing else boots. What helps is another
/// release in the spare slot, which cannot make it worse; but only an operator knows which.
fn answer_last_resort(node: Box<Node>, request: Request) -> Answer {
    match request {
        Request::Stage(Ask {
            force: Force::No, ..
        })
        | Request::Plan(Ask {
            force: Force::No, ..
        })
        | Request::Mend { .. } => refuse(rest(node), Refused::BootedSlotNotGood),
        Request::Check
        | Request::Stage(Ask {
            force: Force::ByName,
            ..
        })
        | Request::Plan(Ask {
            force: Force::ByName,
            ..
        })
        | Request::Cancel
        | Request::Pause(_)
        | Request::Resume
        | Request::Reboot(_)
        | Request::Forgive { .. } => answer_good(node, request),
        Request::Rollback { .. } => refuse(rest(node), Refused::NothingToRollBackTo),
        Request::MarkGood => {
            let effects = bless(&node);
            Ok((
                State::Marking {
                    node,
                    job: Job::None,
                },
                effects,
            ))
        }
        // It is marked bad already: the caller did not hear our reply.
        Request::MarkBad(_) => Ok((rest(node), vec![])),
    }
}

fn answer_condemned(node: Box<Node>, request: Request) -> Answer {
    match request {
        Request::Check
        | Request::Stage(_)
        | Request::Plan(_)
        | Request::Rollback { .. }
        | Request::Mend { .. } => refuse(rest(node), Refused::BootedSlotNotGood),
        Request::Cancel | Request::Pause(_) | Request::Resume => {
            refuse(rest(node), Refused::NoSuchJob)
        }
        Request::Reboot(restart) => Ok((State::Rebooting { node }, vec![Effect::Reboot(restart)])),
        Request::MarkGood => refuse(rest(node), Refused::NotInTrial),
        // It is marked bad already: the caller did not hear our reply.
        Request::MarkBad(_) => Ok((rest(node), vec![])),
        Request::Forgive { root_hash } => forgive(node, root_hash),
    }
}

fn forgive(node: Box<Node>, root_hash: RootHash) -> Answer {
    let Some(barred) = node.barred(&root_hash) else {
        let refused = Refused::BadArgument(format!("image {root_hash} did not fail on this node"));
        return refuse(rest(node), refused);
    };
    let note = Note {
        event: Happened::Forgiven,
        version: Some(barred.version.clone()),
        root_hash: Some(root_hash),
        slot: None,
        message: barred.reason.clone(),
        error: None,
    };
    Ok((
        State::Forgiving { node },
        vec![Effect::Forgive { root_hash }, Effect::Remember(note)],
    ))
}

/// It is the repository that is asked, for what the other slot does not have.
fn mend(node: Box<Node>, root_hash: RootHash, (blocks, seen): (Vec<u64>, Seen)) -> Answer {
    // What was read may have been replaced since.
    let Some((slot, version)) = node.startable(&root_hash) else {
        let why = format!("no slot holds an image {root_hash} that could start");
        return refuse(rest(node), Refused::BadArgument(why));
    };
    let mend = Effect::Mend {
        slot,
        version: version.clone(),
        root_hash,
        blocks,
        seen,
    };
    let checking = State::Checking {
        node,
        going: Going::On,
    };
    Ok((checking, vec![mend]))
}

fn roll_back(node: Box<Node>, reason: String) -> Answer {
    let (Some((version, root_hash)), Some(entry)) = (&node.spare.held, &node.spare.entry) else {
        return refuse(rest(node), Refused::NothingToRollBackTo);
    };
    let target = match node.spare.status {
        SlotStatus::Good | SlotStatus::Demoted => Target {
            slot: node.spare.slot,
            version: version.clone(),
            root_hash: *root_hash,
            entry: entry.clone(),
        },
        SlotStatus::Trial
        | SlotStatus::Armed
        | SlotStatus::Bad
        | SlotStatus::Empty
        | SlotStatus::Unknown => return refuse(rest(node), Refused::NothingToRollBackTo),
    };
    let way = node.way_to(version);
    if way == Way::OneShot && !node.has_variables {
        let refused = Refused::NoFirmwareVariables {
            version: target.version,
        };
        return refuse(rest(node), refused);
    }
    let effects = rearm(&node, &target, way, reason);
    Ok((
        State::RollingBack {
            node,
            target,
            going: Going::On,
        },
        effects,
    ))
}

fn outcome(result: Result<(), Stopped>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(Stopped::Asked) => Outcome::Cancelled,
        Err(Stopped::Failed(failure)) => Outcome::Failed(failure),
    }
}

fn proceed(state: State, report: Report) -> (State, Vec<Effect>) {
    use State as In;
    match (state, report) {
        (In::Checking { node, .. }, Report::Refreshed { node: now, .. }) => (
            rest(now.unwrap_or(node)),
            vec![Effect::EndJob(Outcome::Done)],
        ),
        (In::Checking { node, .. }, Report::Ended { result, node: now }) => (
            rest(now.unwrap_or(node)),
            vec![Effect::EndJob(outcome(result))],
        ),

        (
            In::Resolving {
                node,
                going: Going::Stopping,
                ..
            },
            Report::Resolved(_),
        ) => (rest(node), vec![Effect::EndJob(Outcome::Cancelled)]),
        (
            In::Resolving {
                node,
                ask,
                purpose,
                going: going @ (Going::On | Going::Paused(_)),
            },
            Report::Resolved(release),
        ) => match purpose {
            Purpose::Stage => resolved(node, &ask, *release, going),
            Purpose::Plan => resolved_to_plan(node, &ask, *release, going),
        },
        (
            In::Resolving {
                node,
                ask,
                purpose: Purpose::Stage,
                ..
            },
            Report::Ended {
                result: Err(Stopped::Failed(failure)),
                node: now,
            },
        ) if failure.name != ErrorName::UnknownVersion => {
            // Nothing is to be undone; but who asked for the release will look what became of it.
            let effects = vec![note_unresolved(&ask, &failure)];
            let (node, outcome) = (now.unwrap_or(node), Outcome::Failed(failure));
            (In::Clearing { node, outcome }, effects)
        }
        (
            In::Resolving { node, .. } | In::Planning { node, .. },
            Report::Ended { result, node: now },
        ) => (
            rest(now.unwrap_or(node)),
            vec![Effect::EndJob(outcome(result))],
        ),

        (
            In::Staging { node, .. },
            Report::Ended {
                result: Ok(()),
                node: now,
            },
        ) => (
            rest(now.unwrap_or(node)),
            vec![Effect::EndJob(Outcome::Done)],
        ),
        (
            In::Staging {
                node,
                version,
                root_hash,
                ..
            },
            Report::Ended {
                result: result @ Err(_),
                node: now,
            },
        ) => {
            let node = now.unwrap_or(node);
            let outcome = outcome(result);
            let effects = clear_stage(&node, version, root_hash, &outcome);
            (In::Clearing { node, outcome }, effects)
        }

        (
            In::RollingBack { node, .. },
            Report::Ended {
                result: Ok(()),
                node: now,
            },
        ) => (
            rest(now.unwrap_or(node)),
            vec![Effect::EndJob(Outcome::Done)],
        ),
        (
            In::RollingBack { node, target, .. },
            Report::Ended {
                result: result @ Err(_),
                node: now,
            },
        ) => {
            let effects = vec![
                Effect::PutBack {
                    entry: target.entry,
                },
                Effect::ForgetTrial,
            ];
            (
                In::Clearing {
                    node: now.unwrap_or(node),
                    outcome: outcome(result),
                },
                effects,
            )
        }

        (In::Clearing { node, outcome }, Report::Ended { result, node: now }) => {
            let node = now.unwrap_or(node);
            let outcome = match result {
                // It is still armed, whatever became of the job: that is what
                // the caller has to know.
                Err(Stopped::Failed(failure)) if node.staged().is_some() => {
                    Outcome::Failed(failure)
                }
                // What else could not be cleared does not boot. The job's own
                // failure is the one to tell; the hands log this one.
                Ok(()) | Err(_) => outcome,
            };
            (rest(node), vec![Effect::EndJob(outcome)])
        }

        (
            In::Marking {
                node,
                job: Job::Waits,
            },
            Report::Ended { result, node: now },
        ) => (
            rest(now.unwrap_or(node)),
            vec![Effect::EndJob(outcome(result))],
        ),
        (
            In::Marking {
                node,
                job: Job::None,
            }
            | In::Settling { node }
            | In::Watching { node }
            | In::Forgiving { node },
            Report::Ended { node: now, .. },
        ) => (rest(now.unwrap_or(node)), vec![]),

        // Accepted: the machine goes down when systemd says so.
        (In::Rebooting { node }, Report::Ended { result: Ok(()), .. }) => {
            (In::Rebooting { node }, vec![])
        }
        (
            In::Rebooting { node },
            Report::Ended {
                result: Err(_),
                node: now,
            },
        ) => (rest(now.unwrap_or(node)), vec![]),

        // A report that no order of ours can have led to: nothing to do about it.
        (
            state @ (In::Idle { .. }
            | In::Staged { .. }
            | In::Trial { .. }
            | In::LastResort { .. }
            | In::Condemned { .. }),
            Report::Refreshed { .. } | Report::Resolved(_) | Report::Ended { .. },
        )
        | (
            state @ (In::Settling { .. }
            | In::Planning { .. }
            | In::Staging { .. }
            | In::Clearing { .. }
            | In::RollingBack { .. }
            | In::Marking { .. }
            | In::Watching { .. }
            | In::Forgiving { .. }
            | In::Rebooting { .. }),
            Report::Refreshed { .. } | Report::Resolved(_),
        )
        | (state @ In::Checking { .. }, Report::Resolved(_))
        | (state @ In::Resolving { .. }, Report::Refreshed { .. }) => (state, vec![]),
    }
}

fn resolved(node: Box<Node>, ask: &Ask, release: Release, going: Going) -> (State, Vec<Effect>) {
    match admit::admit(&node, &release, ask.force) {
        Ok(Admitted::Write(way)) => {
            let version = release.version.clone();
            let root_hash = release.root_hash;
            let effects = stage(&node, release, ask.tries, way);
            (
                State::Staging {
                    node,
                    version,
                    root_hash,
                    going,
                },
                effects,
            )
        }
        Ok(Admitted::AlreadyStaged) => (rest(node), vec![Effect::EndJob(Outcome::Done)]),
        Err(refused) => {
            let outcome = Outcome::Failed(Failure::from(&refused));
            (rest(node), vec![Effect::EndJob(outcome)])
        }
    }
}

/// What could not be staged has no plan either. What is staged already has one: it shows
/// what was found in its place.
fn resolved_to_plan(
    node: Box<Node>,
    ask: &Ask,
    release: Release,
    going: Going,
) -> (State, Vec<Effect>) {
    match admit::admit(&node, &release, ask.force) {
        Ok(Admitted::Write(_) | Admitted::AlreadyStaged) => {
            let survey = Effect::Survey {
                spare: node.spare.slot,
                release: Box::new(release),
            };
            (State::Planning { node, going }, vec![survey])
        }
        Err(refused) => {
            let outcome = Outcome::Failed(Failure::from(&refused));
            (rest(node), vec![Effect::EndJob(outcome)])
        }
    }
}
