//! What the daemon knows of its node: facts, read from disk and records,
//! never changed by hand.

use partition_layout::{BootEntry, RootHash, Slot, Version};

use crate::machine::Complaint;
use crate::records::{Barred, HistoryLine, Rollback, Trial};
use crate::totals::Totals;

/// Everything that decisions rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub booted: Booted,
    pub spare: Spare,
    /// Whether the firmware keeps variables.
    pub has_variables: bool,
    /// This boot's id.
    pub boot_id: String,
    /// The oldest version accepted without force.
    pub floor: Option<Version>,
    pub barred: Vec<Barred>,
    pub trial: Option<Trial>,
    /// Whether the health gate has found this boot healthy.
    pub came_up: bool,
    /// The release that was good last, if it boots no more and nobody was told.
    pub gave_way: Option<GaveWay>,
    /// The booted release is the one that was good last, and this is the last start of its watch:
    /// how often it would have given way.
    pub last_start: Option<Often>,
    pub last_rollback: Option<Rollback>,
    /// What happened, oldest first.
    pub history: Vec<HistoryLine>,
    /// How often things happened, and what they took.
    pub totals: Totals,
}

/// A release that was good, boots no more, and has left the node to the other one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GaveWay {
    pub version: Version,
    pub root_hash: RootHash,
    pub slot: Slot,
    /// How often it was started in vain.
    pub starts: u32,
    pub complaint: Complaint,
    pub often: Often,
}

/// How often a release has given way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Often {
    /// What rots on a disk is not the image's fault: it may be staged again.
    Once,
    /// It had been made good again since.
    Again,
}

/// The slot that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booted {
    pub slot: Slot,
    pub version: Version,
    pub root_hash: RootHash,
    pub standing: Standing,
    /// Its boot entry.
    pub entry: Option<BootEntry>,
}

/// How far the booted slot is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its boot entry has no counter, or one of a watch.
    Good,
    /// Its boot entry has another counter.
    Trial { left: u32, done: u32 },
    /// It failed its trial in this very boot, and stays up because nothing else boots.
    LastResort,
    /// It has no boot entry any more: the next boot takes the other slot.
    Condemned,
}

/// The slot that does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spare {
    pub slot: Slot,
    pub status: SlotStatus,
    /// The release that its labels name.
    pub held: Option<(Version, RootHash)>,
    /// Its boot entry.
    pub entry: Option<BootEntry>,
    /// Bytes of its root partition; 0 when the disk has no such slot.
    pub root_len: u64,
    /// Bytes of its verity partition; 0 when the disk has no such slot.
    pub verity_len: u64,
}

/// A slot in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotStatus {
    /// Has passed its health gate.
    Good,
    /// Runs, and its health gate has not spoken.
    Trial,
    /// Boots next, counted.
    Armed,
    /// Holds a release and cannot boot, or has no tries left.
    Bad,
    /// Holds nothing.
    Empty,
    /// Was good, and gave way to the other slot on request: a last resort.
    Demoted,
    /// Its labels make no sense.
    Unknown,
}

impl SlotStatus {
    /// Everything that a slot can be.
    pub const ALL: [Self; 7] = [
        Self::Good,
        Self::Trial,
        Self::Armed,
        Self::Bad,
        Self::Empty,
        Self::Demoted,
        Self::Unknown,
    ];

    /// Returns the word on the bus.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Trial => "trial",
            Self::Armed => "armed",
            Self::Bad => "bad",
            Self::Empty => "empty",
            Self::Demoted => "demoted",
            Self::Unknown => "unknown",
        }
    }
}

impl Node {
    /// Returns the mark against the image with this root hash, if it failed here.
    pub fn barred(&self, root_hash: &RootHash) -> Option<&Barred> {
        self.barred.iter().find(|each| each.root_hash == *root_hash)
    }

    /// Returns the status of the booted slot in one word.
    pub const fn booted_status(&self) -> SlotStatus {
        match self.booted.standing {
            Standing::Good => SlotStatus::Good,
            Standing::Trial { .. } => SlotStatus::Trial,
            Standing::LastResort | Standing::Condemned => SlotStatus::Bad,
        }
    }

    /// Returns the release that the next reboot tries.
    pub fn staged(&self) -> Option<(&Version, &RootHash)> {
        match (self.booted.standing, self.spare.status, &self.spare.held) {
            (Standing::Good | Standing::LastResort, SlotStatus::Armed, Some((version, hash))) => {
                Some((version, hash))
            }
            (
                Standing::Good
                | Standing::LastResort
                | Standing::Trial { .. }
                | Standing::Condemned,
                ..,
            ) => None,
        }
    }

    /// Returns whether the spare slot may be written: beside a good slot, and when there is
    /// no good slot to lose.
    pub const fn may_write_spare(&self) -> bool {
        match self.booted.standing {
            Standing::Good | Standing::LastResort => true,
            Standing::Trial { .. } | Standing::Condemned => false,
        }
    }

    /// Returns whether the boot loader has something to start in the spare slot.
    pub const fn spare_boots(&self) -> bool {
        match self.spare.status {
            SlotStatus::Good | SlotStatus::Armed | SlotStatus::Demoted => true,
            SlotStatus::Trial | SlotStatus::Bad | SlotStatus::Empty | SlotStatus::Unknown => false,
        }
    }

    /// Returns the slot that holds this image, and its version, if the boot loader can start it.
    pub fn startable(&self, root_hash: &RootHash) -> Option<(Slot, &Version)> {
        if self.booted.root_hash == *root_hash {
            return Some((self.booted.slot, &self.booted.version));
        }
        let held = self.spare.held.as_ref().filter(|_| self.spare_boots());
        let (version, _) = held.filter(|(_, held)| held == root_hash)?;
        Some((self.spare.slot, version))
    }

    /// Returns whether the boot loader may start the spare slot without anybody waiting for a
    /// verdict: it was good, if only a last resort since.
    pub const fn spare_boots_by_right(&self) -> bool {
        match self.spare.status {
            SlotStatus::Good | SlotStatus::Demoted => true,
            SlotStatus::Trial
            | SlotStatus::Armed
            | SlotStatus::Bad
            | SlotStatus::Empty
            | SlotStatus::Unknown => false,
        }
    }

    /// Returns whether the starts of the booted slot are to be counted: it is good, the boot
    /// loader takes it first, and there is another one to give way to.
    pub fn is_to_be_watched(&self) -> bool {
        let newer = self.spare.held.as_ref();
        let newer = newer.is_some_and(|(version, _)| *version > self.booted.version);
        let comes_first = self.spare.status == SlotStatus::Demoted || !newer;
        self.booted.standing == Standing::Good && self.spare_boots_by_right() && comes_first
    }

    /// Returns whether a restart after a bad verdict would lead to the booted slot again.
    pub const fn nothing_else_boots(&self) -> bool {
        match self.booted.standing {
            Standing::LastResort => true,
            Standing::Trial { .. } => !self.spare_boots(),
            Standing::Good | Standing::Condemned => false,
        }
    }

    /// Returns how the boot loader is led to `version` in the spare slot: it
    /// starts the newest release that has tries by itself, and an older one only when told.
    pub fn way_to(&self, version: &Version) -> Way {
        let has_tries = self.booted.standing != Standing::LastResort;
        if has_tries && *version < self.booted.version {
            Way::OneShot
        } else {
            Way::Order
        }
    }
}

/// How the boot loader comes to start a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// It is the newest, so it comes first.
    Order,
    /// A firmware variable asks for it, once.
    OneShot,
}
