use partition_layout::{BootEntry, RootHash, Slot, Version};
use release::Release;

use super::rest;
use crate::admit::Ask;
use crate::node::Node;
use crate::ports::{Offer, Restart};
use crate::refusal::Failure;

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
    /// The booted slot failed its trial, and nothing else boots.
    LastResort { node: Box<Node> },
    /// The booted slot will not boot again; only a reboot helps.
    Condemned { node: Box<Node> },
    /// Asks the repository what there is.
    Checking { node: Box<Node>, going: Going },
    /// Asks the repository for one release.
    Resolving {
        node: Box<Node>,
        ask: Ask,
        purpose: Purpose,
        going: Going,
    },
    /// Looks what filling the spare slot would take, and changes nothing.
    Planning { node: Box<Node>, going: Going },
    /// Fills the spare slot.
    Staging {
        node: Box<Node>,
        version: Version,
        root_hash: RootHash,
        going: Going,
    },
    /// Undoes an unfinished stage or rollback, and writes down how it ended.
    Clearing { node: Box<Node>, outcome: Outcome },
    /// Checks and arms what the spare slot holds.
    RollingBack {
        node: Box<Node>,
        target: Target,
        going: Going,
    },
    /// Ends a trial.
    Marking { node: Box<Node>, job: Job },
    /// Begins, renews or ends the watch on the booted slot, which is good.
    Watching { node: Box<Node> },
    /// Takes an image off the list of those that failed.
    Forgiving { node: Box<Node> },
    /// Goes down.
    Rebooting { node: Box<Node> },
}

/// What the work was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Going {
    On,
    Paused(Holder),
    Stopping,
}

/// What a release is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Stage,
    Plan,
}

/// Who holds up a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Somebody who asked for it.
    Caller,
    /// No window is open.
    Window,
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
    /// Tells what staging would take.
    Plan(Ask),
    /// Stops the job at work.
    Cancel,
    /// Holds the job at work up.
    Pause(Holder),
    /// Lets it go on.
    Resume,
    Reboot(Restart),
    Rollback {
        reason: String,
    },
    MarkGood,
    MarkBad(Complaint),
    Forgive {
        root_hash: RootHash,
    },
    /// Puts sound blocks in the place of those of an image that are rotten, and of those of
    /// its kernel image that are.
    Mend {
        /// Of which image: what either slot holds.
        root_hash: RootHash,
        blocks: Vec<u64>,
        seen: Seen,
    },
}

/// How much of an image was read before its blocks are to be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// From the first block to the last: what is not among them is sound.
    All,
    Part,
}

/// Why a trial is to end badly.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Complaint {
    pub reason: String,
    pub check: String,
    pub unit: String,
    /// Why the kernel panicked, if it did.
    pub panic: String,
    pub lines: Vec<String>,
}

/// What the hands say, once per order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The repository has answered. `node` is what the disk says now, if anything of that was
    /// written down.
    Refreshed {
        offer: Box<Offer>,
        node: Option<Box<Node>>,
    },
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

/// Every state's name, as the bus shows it.
pub const STATES: &[&str] = &[
    "settling",
    "idle",
    "staged",
    "trial",
    "last-resort",
    "condemned",
    "checking",
    "planning",
    "staging",
    "clearing",
    "rebooting",
];

impl State {
    /// Returns the facts.
    pub fn node(&self) -> &Node {
        match self {
            Self::Settling { node }
            | Self::Idle { node }
            | Self::Staged { node }
            | Self::Trial { node }
            | Self::LastResort { node }
            | Self::Condemned { node }
            | Self::Checking { node, .. }
            | Self::Resolving { node, .. }
            | Self::Planning { node, .. }
            | Self::Staging { node, .. }
            | Self::Clearing { node, .. }
            | Self::RollingBack { node, .. }
            | Self::Marking { node, .. }
            | Self::Watching { node }
            | Self::Forgiving { node }
            | Self::Rebooting { node } => node,
        }
    }

    /// Returns what the work was asked for, if it is such that can be stopped.
    pub const fn going(&self) -> Option<Going> {
        match self {
            Self::Checking { going, .. }
            | Self::Resolving { going, .. }
            | Self::Planning { going, .. }
            | Self::Staging { going, .. }
            | Self::RollingBack { going, .. } => Some(*going),
            Self::Settling { .. }
            | Self::Idle { .. }
            | Self::Staged { .. }
            | Self::Trial { .. }
            | Self::LastResort { .. }
            | Self::Condemned { .. }
            | Self::Clearing { .. }
            | Self::Marking { .. }
            | Self::Watching { .. }
            | Self::Forgiving { .. }
            | Self::Rebooting { .. } => None,
        }
    }

    /// Returns who holds the work up, if somebody does.
    pub const fn holder(&self) -> Option<Holder> {
        match self.going() {
            Some(Going::Paused(holder)) => Some(holder),
            Some(Going::On | Going::Stopping) | None => None,
        }
    }

    /// Returns the state in one word, as the bus shows it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Settling { .. } => "settling",
            Self::Idle { .. } => "idle",
            Self::Staged { .. } => "staged",
            Self::Trial { .. } | Self::Marking { .. } => "trial",
            Self::LastResort { .. } => "last-resort",
            Self::Condemned { .. } => "condemned",
            Self::Checking { .. } => "checking",
            Self::Planning { .. }
            | Self::Resolving {
                purpose: Purpose::Plan,
                ..
            } => "planning",
            Self::Resolving {
                purpose: Purpose::Stage,
                ..
            }
            | Self::Staging { .. }
            | Self::RollingBack { .. } => "staging",
            Self::Clearing { .. } => "clearing",
            Self::Watching { node } | Self::Forgiving { node } => rest(node.clone()).name(),
            Self::Rebooting { .. } => "rebooting",
        }
    }
}
