use partition_layout::{BootEntry, RootHash, Slot, Version};
use release::Release;

use super::words::{Complaint, Outcome, Seen};
use crate::names::ErrorName;
use crate::node::Way;
use crate::ports::{DiskQueue, Restart};
use crate::records::{Departure, Happened};

/// One thing to do. The hands do a list of them in order and stop at the first
/// that fails, but for notes ([`Effect::is_note`]), whose failure is told and
/// does not keep a slot from being disarmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    // for the head
    /// Tells the hands to stop.
    Interrupt,
    /// Tells the hands to hold still.
    Hold,
    /// Tells the hands to go on.
    LetGo,
    /// Ends the job at work.
    EndJob(Outcome),

    // for the hands: the repository
    Refresh,
    Resolve {
        version: Option<Version>,
    },
    /// Looks what filling the spare slot would take.
    Survey {
        spare: Slot,
        release: Box<Release>,
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
    /// Reads a slot that was written in the past, and its kernel image.
    CheckWhole {
        spare: Slot,
        root_hash: RootHash,
        entry: BootEntry,
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

    // for the hands: either slot
    /// Puts sound blocks in the place of rotten ones, here and in the kernel image: nothing
    /// else is ever written to the booted slot.
    Mend {
        slot: Slot,
        version: Version,
        root_hash: RootHash,
        blocks: Vec<u64>,
        seen: Seen,
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
    /// Gives the entry of a good release the whole counter of a watch.
    Watch {
        entry: BootEntry,
    },
    /// Removes the booted slot's entry.
    RemoveBooted {
        version: Version,
    },
    MarkSettled,
    /// Says on the console what somebody has to know who cannot ask the daemon.
    Announce(String),

    // for the hands: records
    RecordGood {
        slot: Slot,
        version: Version,
        root_hash: RootHash,
    },
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

    Reboot(Restart),
}

/// A rollback, but for the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blame {
    pub kind: Departure,
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
    /// The release that it is about, if any.
    pub version: Option<Version>,
    pub root_hash: Option<RootHash>,
    pub slot: Option<Slot>,
    pub message: String,
    /// The name of the error, if it is one.
    pub error: Option<ErrorName>,
}

impl Effect {
    /// Returns whether it only writes down what happened.
    pub const fn is_note(&self) -> bool {
        match self {
            Self::RecordGood { .. }
            | Self::RecordRollback(_)
            | Self::Bar { .. }
            | Self::RaiseFloor { .. }
            | Self::Remember(_)
            | Self::ForgetTrial
            | Self::Announce(_)
            | Self::MarkSettled => true,
            Self::Interrupt
            | Self::Hold
            | Self::LetGo
            | Self::EndJob(_)
            | Self::Refresh
            | Self::Resolve { .. }
            | Self::Survey { .. }
            | Self::Disarm { .. }
            | Self::CheckRoom { .. }
            | Self::WriteTree { .. }
            | Self::WriteRoot { .. }
            | Self::ReadBack { .. }
            | Self::Label { .. }
            | Self::WriteKernel { .. }
            | Self::CheckWhole { .. }
            | Self::Mend { .. }
            | Self::RecordTrial { .. }
            | Self::Arm { .. }
            | Self::Rearm { .. }
            | Self::PutBack { .. }
            | Self::AskFor { .. }
            | Self::Demote { .. }
            | Self::Bless { .. }
            | Self::Watch { .. }
            | Self::RemoveBooted { .. }
            | Self::Forgive { .. }
            | Self::Reboot(_) => false,
        }
    }

    /// Returns whether the head does it, not the hands.
    pub const fn is_for_the_head(&self) -> bool {
        matches!(
            self,
            Self::Interrupt | Self::Hold | Self::LetGo | Self::EndJob(_)
        )
    }
}

impl Effect {
    /// Returns where in the disk's queue it belongs. What moves a whole image stands behind
    /// everybody; a label, an entry or a verdict must get through on a disk that is busy.
    pub const fn disk_queue(&self) -> DiskQueue {
        match self {
            Self::Survey { .. }
            | Self::WriteTree { .. }
            | Self::WriteRoot { .. }
            | Self::ReadBack { .. }
            | Self::WriteKernel { .. }
            | Self::CheckWhole { .. }
            | Self::Mend { .. } => DiskQueue::Last,
            Self::Interrupt
            | Self::Hold
            | Self::LetGo
            | Self::EndJob(_)
            | Self::Refresh
            | Self::Resolve { .. }
            | Self::Disarm { .. }
            | Self::CheckRoom { .. }
            | Self::Label { .. }
            | Self::RecordTrial { .. }
            | Self::Arm { .. }
            | Self::Rearm { .. }
            | Self::PutBack { .. }
            | Self::AskFor { .. }
            | Self::Demote { .. }
            | Self::Bless { .. }
            | Self::Watch { .. }
            | Self::RemoveBooted { .. }
            | Self::MarkSettled
            | Self::Announce(_)
            | Self::RecordGood { .. }
            | Self::RecordRollback(_)
            | Self::Bar { .. }
            | Self::Forgive { .. }
            | Self::RaiseFloor { .. }
            | Self::Remember(_)
            | Self::ForgetTrial
            | Self::Reboot(_) => DiskQueue::Among,
        }
    }

    /// Returns the phase that a job shows while the effect is at work.
    pub const fn phase(&self) -> &'static str {
        match self {
            Self::Refresh => "check",
            Self::Resolve { .. } => "resolve",
            Self::Survey { .. } => "survey",
            Self::Disarm { .. } | Self::CheckRoom { .. } => "disarm",
            Self::WriteTree { .. } => "tree",
            Self::WriteRoot { .. } => "root",
            Self::ReadBack { .. } | Self::CheckWhole { .. } => "verify",
            Self::Label { .. } => "label",
            Self::WriteKernel { .. } => "kernel",
            Self::Mend { .. } => "mend",
            Self::RecordTrial { .. }
            | Self::Arm { .. }
            | Self::Rearm { .. }
            | Self::AskFor { .. } => "arm",
            Self::PutBack { .. } | Self::ForgetTrial => "clear",
            Self::Interrupt
            | Self::Hold
            | Self::LetGo
            | Self::EndJob(_)
            | Self::Demote { .. }
            | Self::Bless { .. }
            | Self::Watch { .. }
            | Self::RemoveBooted { .. }
            | Self::MarkSettled
            | Self::Announce(_)
            | Self::RecordGood { .. }
            | Self::RecordRollback(_)
            | Self::Bar { .. }
            | Self::Forgive { .. }
            | Self::RaiseFloor { .. }
            | Self::Remember(_) => "record",
            Self::Reboot(_) => "reboot",
        }
    }

    /// Returns its name in the journal, without its payload.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Interrupt => "interrupt",
            Self::Hold => "hold",
            Self::LetGo => "let-go",
            Self::EndJob(_) => "end-job",
            Self::Refresh => "refresh",
            Self::Resolve { .. } => "resolve",
            Self::Survey { .. } => "survey",
            Self::Disarm { .. } => "disarm",
            Self::CheckRoom { .. } => "check-room",
            Self::WriteTree { .. } => "write-tree",
            Self::WriteRoot { .. } => "write-root",
            Self::ReadBack { .. } => "read-back",
            Self::Label { .. } => "label",
            Self::WriteKernel { .. } => "write-kernel",
            Self::CheckWhole { .. } => "check-whole",
            Self::Mend { .. } => "mend",
            Self::RecordTrial { .. } => "record-trial",
            Self::Arm { .. } => "arm",
            Self::Rearm { .. } => "rearm",
            Self::PutBack { .. } => "put-back",
            Self::AskFor { .. } => "ask-for",
            Self::Demote { .. } => "demote",
            Self::Bless { .. } => "bless",
            Self::Watch { .. } => "watch",
            Self::RemoveBooted { .. } => "remove-booted",
            Self::MarkSettled => "mark-settled",
            Self::Announce(_) => "announce",
            Self::RecordGood { .. } => "record-good",
            Self::RecordRollback(_) => "record-rollback",
            Self::Bar { .. } => "bar",
            Self::Forgive { .. } => "forgive",
            Self::RaiseFloor { .. } => "raise-floor",
            Self::Remember(_) => "remember",
            Self::ForgetTrial => "forget-trial",
            Self::Reboot(_) => "reboot",
        }
    }
}
