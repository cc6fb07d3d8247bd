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
//!   │ Idle ───────── Rollback ───────────────────────────▶ RollingBack ───▶ Staged
//!   │
//!   │ Trial ──── MarkGood ──▶ Marking ──▶ Idle
//!   │ Trial ──── MarkBad, Rollback ──▶ Marking ──▶ Condemned
//!   │
//!   └─ any of Idle, Staged, Trial, Condemned ── Reboot ──▶ Rebooting
//!                                            └─ Forgive ──▶ Forgiving ─▶ the same
//! ```
//!
//! Where a piece of work ends is not remembered but looked up: its last report
//! brings the node's facts, read anew from the disk, and [`rest`] tells the
//! state from them. `Clearing` is a state of its own so that a late report of
//! the stage that it undoes cannot be taken for the next one's.

use partition_layout::{BootEntry, RootHash, Slot, Version};
use release::Release;

use crate::admit::{self, Admitted, Ask};
use crate::node::{Node, SlotStatus, Standing, Way};
use crate::ports::Offer;
use crate::records::Happened;
use crate::refusal::{Failure, Refused};

/// How often a rollback's target may try to prove itself again: once it was
/// good here, and it is reached by a variable that works once.
pub const ROLLBACK_TRIES: u32 = 1;

/// What the daemon is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Ends what an earlier boot, or an earlier run of the daemon, left open.
    Settling { node: Box<Node> },
    /// Nothing is under way.
    Idle { node: Box<Node> },
    /// The spare slot is armed.
    Staged { node: Box<Node> },
    /// The booted slot waits for its verdict.
    Trial { node: Box<Node> },
    /// The booted slot will not boot again; only a reboot helps.
    Condemned { node: Box<Node> },
    /// Asks the repository what there is.
    Checking { node: Box<Node>, stopping: Stopping },
    /// Asks the repository for one release.
    Resolving {
        node: Box<Node>,
        ask: Ask,
        stopping: Stopping,
    },
    /// Fills the spare slot.
    Staging {
        node: Box<Node>,
        version: Version,
        root_hash: RootHash,
        stopping: Stopping,
    },
    /// Undoes an unfinished stage or rollback.
    Clearing { node: Box<Node>, outcome: Outcome },
    /// Checks and arms what the spare slot holds.
    RollingBack {
        node: Box<Node>,
        target: Target,
        stopping: Stopping,
    },
    /// Ends a trial.
    Marking { node: Box<Node>, job: Job },
    /// Takes an image off the list of those that failed.
    Forgiving { node: Box<Node> },
    /// Goes down.
    Rebooting { node: Box<Node> },
}

/// Whether the work was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopping {
    No,
    Asked,
}

/// Whether a job waits for this work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    Waits,
    None,
}

/// What a rollback arms, and how to put it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub slot: Slot,
    pub version: Version,
    pub root_hash: RootHash,
    /// Its entry as it was.
    pub entry: BootEntry,
}

/// How a job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed(Failure),
    Cancelled,
}

/// What happens to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Request(Request),
    Report(Report),
}

/// What callers ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Check,
    Stage(Ask),
    /// Stops the job at work.
    Cancel,
    Reboot,
    Rollback {
        reason: String,
    },
    MarkGood,
    MarkBad(Complaint),
    Forgive {
        root_hash: RootHash,
    },
}

/// Why a trial is to end badly.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Complaint {
    pub reason: String,
    pub check: String,
    pub unit: String,
    pub lines: Vec<String>,
}

/// What the hands say, once per order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The repository has answered; nothing on this node has changed.
    Refreshed(Box<Offer>),
    /// The release file is here; nothing on this node has changed.
    Resolved(Box<Release>),
    /// The order has ended. `node` is what the disk says now, if it could be
    /// read.
    Ended {
        result: Result<(), Stopped>,
        node: Option<Box<Node>>,
    },
}

/// Why an order did not get to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// It was asked to stop.
    Asked,
    Failed(Failure),
}

/// One thing to do. The hands do a list of them in order and stop at the first
/// that fails, but for notes ([`Effect::is_note`]), whose failure is told and
/// does not keep a slot from being disarmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    // for the head
    /// Tells the hands to stop.
    Interrupt,
    /// Ends the job at work.
    EndJob(Outcome),

    // for the hands: the repository
    Refresh,
    Resolve {
        version: Option<Version>,
    },

    // for the hands: the spare slot
    /// Removes every boot entry but the booted one's, then labels the slot empty.
    Disarm {
        spare: Slot,
        booted: Version,
    },
    /// Fails if the kernel image will not fit.
    CheckRoom {
        release: Box<Release>,
    },
    WriteTree {
        spare: Slot,
        release: Box<Release>,
    },
    WriteRoot {
        spare: Slot,
        release: Box<Release>,
    },
    ReadBack {
        spare: Slot,
        release: Box<Release>,
    },
    Label {
        spare: Slot,
        version: Version,
        root_hash: RootHash,
    },
    /// Writes the kernel image under a temporary name and reads it back.
    WriteKernel {
        release: Box<Release>,
    },
    /// Reads a slot that was written in the past.
    CheckWhole {
        spare: Slot,
        root_hash: RootHash,
    },
    RecordTrial {
        spare: Slot,
        version: Version,
        root_hash: RootHash,
        tries: u32,
        way: Way,
    },
    /// Makes the temporary kernel image an entry with tries.
    Arm {
        version: Version,
        tries: u32,
        way: Way,
    },
    /// Gives an entry that is there tries.
    Rearm {
        entry: BootEntry,
        tries: u32,
        way: Way,
    },
    /// Puts an entry back as it was, whatever its counter is now.
    PutBack {
        entry: BootEntry,
    },
    /// Asks the boot loader for an entry, once.
    AskFor {
        entry: BootEntry,
    },

    // for the hands: verdicts
    /// Empties an entry's counter: a last resort from now on.
    Demote {
        entry: BootEntry,
    },
    /// Takes an entry's counter away.
    Bless {
        entry: BootEntry,
    },
    /// Removes the booted slot's entry.
    RemoveBooted {
        version: Version,
    },
    MarkSettled,

    // for the hands: records
    RecordRollback(Blame),
    Bar {
        version: Version,
        root_hash: RootHash,
        reason: String,
    },
    Forgive {
        root_hash: RootHash,
    },
    RaiseFloor {
        version: Version,
    },
    Remember(Note),
    ForgetTrial,

    Reboot,
}

/// A rollback, but for the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blame {
    pub version: Version,
    pub root_hash: RootHash,
    pub complaint: Complaint,
    pub tries: u32,
    pub armed_at: Option<jiff::Timestamp>,
}

/// A history line, but for the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub event: Happened,
    pub version: Version,
    pub root_hash: RootHash,
    pub slot: Option<Slot>,
    pub message: String,
}

impl Effect {
    /// Returns whether it only writes down what happened.
    pub const fn is_note(&self) -> bool {
        match self {
            Self::RecordRollback(_)
            | Self::Bar { .. }
            | Self::RaiseFloor { .. }
            | Self::Remember(_)
            | Self::ForgetTrial
            | Self::MarkSettled => true,
            Self::Interrupt
            | Self::EndJob(_)
            | Self::Refresh
            | Self::Resolve { .. }
            | Self::Disarm { .. }
            | Self::CheckRoom { .. }
            | Self::WriteTree { .. }
            | Self::WriteRoot { .. }
            | Self::ReadBack { .. }
            | Self::Label { .. }
            | Self::WriteKernel { .. }
            | Self::CheckWhole { .. }
            | Self::RecordTrial { .. }
            | Self::Arm { .. }
            | Self::Rearm { .. }
            | Self::PutBack { .. }
            | Self::AskFor { .. }
            | Self::Demote { .. }
            | Self::Bless { .. }
            | Self::RemoveBooted { .. }
            | Self::Forgive { .. }
            | Self::Reboot => false,
        }
    }

    /// Returns whether the head does it, not the hands.
    pub const fn is_for_the_head(&self) -> bool {
        matches!(self, Self::Interrupt | Self::EndJob(_))
    }
}

/// Returns the state of a node on which nothing is under way.
pub fn rest(node: Box<Node>) -> State {
    match node.booted.standing {
        Standing::Good if node.staged().is_some() => State::Staged { node },
        Standing::Good => State::Idle { node },
        Standing::Trial { .. } => State::Trial { node },
        Standing::Condemned => State::Condemned { node },
    }
}

/// Answers an event. A refused request changes nothing.
pub fn step(state: State, event: Event) -> Result<(State, Vec<Effect>), (State, Refused)> {
    match event {
        Event::Request(request) => answer(state, request),
        Event::Report(report) => Ok(proceed(state, report)),
    }
}

type Answer = Result<(State, Vec<Effect>), (State, Refused)>;

fn answer(state: State, request: Request) -> Answer {
    use State as In;
    match state {
        In::Idle { node } | In::Staged { node } => answer_good(node, request),
        In::Trial { node } => answer_trial(node, request),
        In::Condemned { node } => answer_condemned(node, request),
        In::Checking { .. }
        | In::Resolving { .. }
        | In::Staging { .. }
        | In::RollingBack { .. } => answer_at_work(state, request),
        In::Clearing { .. }
        | In::Marking {
            job: Job::Waits, ..
        } => match request {
            // The job ends as fast as it can already.
            Request::Cancel => Ok((state, vec![])),
            Request::Check
            | Request::Stage(_)
            | Request::Reboot
            | Request::Rollback { .. }
            | Request::MarkGood
            | Request::MarkBad(_)
            | Request::Forgive { .. } => Err((state, Refused::Busy)),
        },
        In::Settling { .. } | In::Marking { job: Job::None, .. } | In::Forgiving { .. } => {
            Err(busy_without_job(state, &request))
        }
        In::Rebooting { .. } => match request {
            // It goes down already.
            Request::Reboot => Ok((state, vec![])),
            Request::Check
            | Request::Stage(_)
            | Request::Cancel
            | Request::Rollback { .. }
            | Request::MarkGood
            | Request::MarkBad(_)
            | Request::Forgive { .. } => Err(busy_without_job(state, &request)),
        },
    }
}

fn busy_without_job(state: State, request: &Request) -> (State, Refused) {
    match request {
        Request::Cancel => (state, Refused::NoSuchJob),
        Request::Check
        | Request::Stage(_)
        | Request::Reboot
        | Request::Rollback { .. }
        | Request::MarkGood
        | Request::MarkBad(_)
        | Request::Forgive { .. } => (state, Refused::Busy),
    }
}

/// A job that can be cancelled is at work. All of them start from a good slot.
fn answer_at_work(state: State, request: Request) -> Answer {
    match request {
        Request::Cancel => {
            let first = stopping(&state) == Stopping::No;
            let effects = if first {
                vec![Effect::Interrupt]
            } else {
                vec![]
            };
            Ok((asked_to_stop(state), effects))
        }
        Request::MarkGood => Ok((state, vec![])),
        Request::MarkBad(_) => Err((state, Refused::NotInTrial)),
        Request::Check
        | Request::Stage(_)
        | Request::Reboot
        | Request::Rollback { .. }
        | Request::Forgive { .. } => Err((state, Refused::Busy)),
    }
}

const fn stopping(state: &State) -> Stopping {
    match state {
        State::Checking { stopping, .. }
        | State::Resolving { stopping, .. }
        | State::Staging { stopping, .. }
        | State::RollingBack { stopping, .. } => *stopping,
        State::Settling { .. }
        | State::Idle { .. }
        | State::Staged { .. }
        | State::Trial { .. }
        | State::Condemned { .. }
        | State::Clearing { .. }
        | State::Marking { .. }
        | State::Forgiving { .. }
        | State::Rebooting { .. } => Stopping::No,
    }
}

fn asked_to_stop(mut state: State) -> State {
    match &mut state {
        State::Checking { stopping, .. }
        | State::Resolving { stopping, .. }
        | State::Staging { stopping, .. }
        | State::RollingBack { stopping, .. } => *stopping = Stopping::Asked,
        State::Settling { .. }
        | State::Idle { .. }
        | State::Staged { .. }
        | State::Trial { .. }
        | State::Condemned { .. }
        | State::Clearing { .. }
        | State::Marking { .. }
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
                stopping: Stopping::No,
            },
            vec![Effect::Refresh],
        )),
        Request::Stage(ask) => {
            if let Err(refused) = admit::check_ask(&ask) {
                return Err((rest(node), refused));
            }
            let resolve = Effect::Resolve {
                version: ask.version.clone(),
            };
            Ok((
                State::Resolving {
                    node,
                    ask,
                    stopping: Stopping::No,
                },
                vec![resolve],
            ))
        }
        Request::Cancel => Err((rest(node), Refused::NoSuchJob)),
        Request::Reboot => {
            let mut effects = Vec::new();
            // The firmware may have lost the wish since the slot was armed.
            if let (Some((version, _)), Some(entry)) = (node.staged(), &node.spare.entry)
                && node.way_to(version) == Way::OneShot
            {
                effects.push(Effect::AskFor {
                    entry: entry.clone(),
                });
            }
            effects.push(Effect::Reboot);
            Ok((State::Rebooting { node }, effects))
        }
        Request::Rollback { reason } => roll_back(node, reason),
        Request::MarkGood => Ok((rest(node), vec![])),
        Request::MarkBad(_) => Err((rest(node), Refused::NotInTrial)),
        Request::Forgive { root_hash } => forgive(node, root_hash),
    }
}

fn answer_trial(node: Box<Node>, request: Request) -> Answer {
    match request {
        Request::Check | Request::Stage(_) => Err((rest(node), Refused::BootedSlotNotGood)),
        Request::Cancel => Err((rest(node), Refused::NoSuchJob)),
        Request::Reboot => Ok((State::Rebooting { node }, vec![Effect::Reboot])),
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

fn answer_condemned(node: Box<Node>, request: Request) -> Answer {
    match request {
        Request::Check | Request::Stage(_) | Request::Rollback { .. } => {
            Err((rest(node), Refused::BootedSlotNotGood))
        }
        Request::Cancel => Err((rest(node), Refused::NoSuchJob)),
        Request::Reboot => Ok((State::Rebooting { node }, vec![Effect::Reboot])),
        Request::MarkGood => Err((rest(node), Refused::NotInTrial)),
        // It is marked bad already: the caller did not hear our reply.
        Request::MarkBad(_) => Ok((rest(node), vec![])),
        Request::Forgive { root_hash } => forgive(node, root_hash),
    }
}

fn forgive(node: Box<Node>, root_hash: RootHash) -> Answer {
    let Some(barred) = node.barred(&root_hash) else {
        let refused = Refused::BadArgument(format!("image {root_hash} did not fail on this node"));
        return Err((rest(node), refused));
    };
    let note = Note {
        event: Happened::Forgiven,
        version: barred.version.clone(),
        root_hash,
        slot: None,
        message: barred.reason.clone(),
    };
    Ok((
        State::Forgiving { node },
        vec![Effect::Forgive { root_hash }, Effect::Remember(note)],
    ))
}

fn roll_back(node: Box<Node>, reason: String) -> Answer {
    let (Some((version, root_hash)), Some(entry)) = (&node.spare.held, &node.spare.entry) else {
        return Err((rest(node), Refused::NothingToRollBackTo));
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
        | SlotStatus::Unknown => return Err((rest(node), Refused::NothingToRollBackTo)),
    };
    let way = node.way_to(version);
    if way == Way::OneShot && !node.has_variables {
        let refused = Refused::NoFirmwareVariables {
            version: target.version,
        };
        return Err((rest(node), refused));
    }
    let Target {
        slot: spare,
        version,
        root_hash,
        entry,
    } = target.clone();
    let tries = ROLLBACK_TRIES;
    let effects = vec![
        Effect::CheckWhole { spare, root_hash },
        Effect::RecordTrial {
            spare,
            version: version.clone(),
            root_hash,
            tries,
            way,
        },
        Effect::Rearm { entry, tries, way },
        Effect::Remember(Note {
            event: Happened::RollbackRequested,
            version,
            root_hash,
            slot: Some(spare),
            message: reason,
        }),
    ];
    Ok((
        State::RollingBack {
            node,
            target,
            stopping: Stopping::No,
        },
        effects,
    ))
}

/// The end of a trial that went well.
fn bless(node: &Node) -> Vec<Effect> {
    let mut effects = Vec::new();
    // A newer release in the other slot would be started first. It gives way
    // before the booted slot's counter goes: a cut in between boots this trial again.
    if let (Some((version, _)), Some(entry)) = (&node.spare.held, &node.spare.entry)
        && *version > node.booted.version
        && node.spare_boots()
        && node.spare.status != SlotStatus::Demoted
    {
        effects.push(Effect::Demote {
            entry: entry.clone(),
        });
    }
    if let Some(entry) = &node.booted.entry {
        effects.push(Effect::Bless {
            entry: entry.clone(),
        });
    }
    effects.extend(blessed(node));
    effects
}

/// What is written down when the booted slot is good.
pub(crate) fn blessed(node: &Node) -> Vec<Effect> {
    let version = node.booted.version.clone();
    let root_hash = node.booted.root_hash;
    let (event, slot) = (Happened::Good, Some(node.booted.slot));
    let note = Note {
        event,
        version: version.clone(),
        root_hash,
        slot,
        message: String::new(),
    };
    let mut effects = vec![
        Effect::RaiseFloor { version },
        Effect::Remember(note),
        Effect::ForgetTrial,
        Effect::MarkSettled,
    ];
    if node.barred(&root_hash).is_some() {
        // It failed before, was staged by force, and has proved itself now.
        effects.push(Effect::Forgive { root_hash });
    }
    effects
}

/// The end of a trial that went badly. The entry goes first: a full `/var` must
/// not keep a bad slot bootable, and the gate has left its word on the disk
/// already. The record of the trial stays until the other slot has settled, so
/// that a cut in here is noticed there.
fn condemn(node: &Node, complaint: Complaint) -> Vec<Effect> {
    let version = node.booted.version.clone();
    let root_hash = node.booted.root_hash;
    let tries = match node.booted.standing {
        Standing::Trial { done, .. } => done,
        Standing::Good | Standing::Condemned => 0,
    };
    let mut effects = Vec::new();
    if node.spare_boots() {
        effects.push(Effect::RemoveBooted {
            version: version.clone(),
        });
    } else if let Some(entry) = &node.booted.entry {
        // Bad, and still better than nothing that boots.
        effects.push(Effect::Demote {
            entry: entry.clone(),
        });
    }
    let own = node
        .trial
        .as_ref()
        .filter(|trial| trial.root_hash == root_hash);
    effects.push(Effect::RecordRollback(Blame {
        version: version.clone(),
        root_hash,
        complaint: complaint.clone(),
        tries,
        armed_at: own.map(|trial| trial.armed_at),
    }));
    let reason = complaint.reason;
    effects.push(Effect::Bar {
        version: version.clone(),
        root_hash,
        reason: reason.clone(),
    });
    let (event, slot) = (Happened::Bad, Some(node.booted.slot));
    effects.push(Effect::Remember(Note {
        event,
        version,
        root_hash,
        slot,
        message: reason,
    }));
    effects
}

fn stage(node: &Node, release: Release, tries: u32, way: Way) -> Vec<Effect> {
    let spare = node.spare.slot;
    let version = release.version.clone();
    let root_hash = release.root_hash;
    let release = Box::new(release);
    // Disarm first and arm last: a power cut in between leaves the spare slot
    // unbootable, never half-written and bootable.
    vec![
        Effect::Disarm {
            spare,
            booted: node.booted.version.clone(),
        },
        Effect::CheckRoom {
            release: release.clone(),
        },
        Effect::WriteTree {
            spare,
            release: release.clone(),
        },
        Effect::WriteRoot {
            spare,
            release: release.clone(),
        },
        Effect::ReadBack {
            spare,
            release: release.clone(),
        },
        Effect::Label {
            spare,
            version: version.clone(),
            root_hash,
        },
        Effect::WriteKernel { release },
        Effect::RecordTrial {
            spare,
            version: version.clone(),
            root_hash,
            tries,
            way,
        },
        Effect::Arm {
            version: version.clone(),
            tries,
            way,
        },
        Effect::Remember(Note {
            event: Happened::Staged,
            version,
            root_hash,
            slot: Some(spare),
            message: String::new(),
        }),
    ]
}

fn clear_stage(
    node: &Node,
    version: Version,
    root_hash: RootHash,
    outcome: &Outcome,
) -> Vec<Effect> {
    let mut effects = vec![
        Effect::Disarm {
            spare: node.spare.slot,
            booted: node.booted.version.clone(),
        },
        Effect::ForgetTrial,
    ];
    let (event, message) = match outcome {
        Outcome::Cancelled => (Happened::StageCancelled, String::new()),
        Outcome::Failed(failure) => (Happened::StageFailed, failure.message.clone()),
        Outcome::Done => return effects,
    };
    let slot = Some(node.spare.slot);
    effects.push(Effect::Remember(Note {
        event,
        version,
        root_hash,
        slot,
        message,
    }));
    effects
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
        (In::Checking { node, .. }, Report::Refreshed(_)) => {
            (rest(node), vec![Effect::EndJob(Outcome::Done)])
        }
        (In::Checking { node, .. }, Report::Ended { result, node: now }) => (
            rest(now.unwrap_or(node)),
            vec![Effect::EndJob(outcome(result))],
        ),

        (
            In::Resolving {
                node,
                stopping: Stopping::Asked,
                ..
            },
            Report::Resolved(_),
        ) => (rest(node), vec![Effect::EndJob(Outcome::Cancelled)]),
        (
            In::Resolving {
                node,
                ask,
                stopping: Stopping::No,
            },
            Report::Resolved(release),
        ) => resolved(node, &ask, *release),
        (In::Resolving { node, .. }, Report::Ended { result, node: now }) => (
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

        // What could not be cleared is still not armed: the stage never got that
        // far. The job's own failure is the one to tell; the hands log this one.
        (In::Clearing { node, outcome }, Report::Ended { node: now, .. }) => {
            (rest(now.unwrap_or(node)), vec![Effect::EndJob(outcome)])
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
            state @ (In::Idle { .. } | In::Staged { .. } | In::Trial { .. } | In::Condemned { .. }),
            Report::Refreshed(_) | Report::Resolved(_) | Report::Ended { .. },
        )
        | (
            state @ (In::Settling { .. }
            | In::Staging { .. }
            | In::Clearing { .. }
            | In::RollingBack { .. }
            | In::Marking { .. }
            | In::Forgiving { .. }
            | In::Rebooting { .. }),
            Report::Refreshed(_) | Report::Resolved(_),
        )
        | (state @ In::Checking { .. }, Report::Resolved(_))
        | (state @ In::Resolving { .. }, Report::Refreshed(_)) => (state, vec![]),
    }
}

fn resolved(node: Box<Node>, ask: &Ask, release: Release) -> (State, Vec<Effect>) {
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
                    stopping: Stopping::No,
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

impl State {
    /// Returns the facts.
    pub fn node(&self) -> &Node {
        match self {
            Self::Settling { node }
            | Self::Idle { node }
            | Self::Staged { node }
            | Self::Trial { node }
            | Self::Condemned { node }
            | Self::Checking { node, .. }
            | Self::Resolving { node, .. }
            | Self::Staging { node, .. }
            | Self::Clearing { node, .. }
            | Self::RollingBack { node, .. }
            | Self::Marking { node, .. }
            | Self::Forgiving { node }
            | Self::Rebooting { node } => node,
        }
    }

    /// Returns the state in one word, as the bus shows it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Settling { .. } => "settling",
            Self::Idle { .. } => "idle",
            Self::Staged { .. } => "staged",
            Self::Trial { .. } | Self::Marking { .. } => "trial",
            Self::Condemned { .. } => "condemned",
            Self::Checking { .. } => "checking",
            Self::Resolving { .. } | Self::Staging { .. } | Self::RollingBack { .. } => "staging",
            Self::Clearing { .. } => "clearing",
            Self::Forgiving { node } => rest(node.clone()).name(),
            Self::Rebooting { .. } => "rebooting",
        }
    }
}
