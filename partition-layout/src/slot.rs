//! The two slots, what a slot holds, and how its labels say so.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::{Uuid, uuid};

use crate::architecture::Role;
use crate::root_hash::RootHash;
use crate::table::Partition;
use crate::version::Version;

/// The label of every partition of a slot that holds nothing; systemd skips such partitions.
pub const EMPTY_LABEL: &str = "_empty";

const PREFIX: &str = "bistable_";

/// One of the two places that a release can be in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Slot {
    /// The slot of the first root partition in the table.
    A,
    /// The slot of the second.
    B,
}

/// A text that names no slot.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} names no slot, only A and B do")]
pub struct BadSlot(String);

impl Slot {
    /// Both slots, in the order of the table.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// Returns the other slot.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Returns the UUID of a partition of this slot that no root hash decides.
    ///
    /// The UUID of a root and of a verity partition is the convention's only while
    /// the slot holds a release; the one of the signature never is. Constants keep
    /// images reproducible, and differ so that no two partitions of a disk share one.
    pub(crate) const fn idle_uuid(self, role: Role) -> Uuid {
        match (self, role) {
            (Self::A, Role::Root) => uuid!("24a012c7-d3c0-4398-b940-eceac7a03cf3"),
            (Self::A, Role::Verity) => uuid!("94216b47-f64c-41a7-b4c1-5e676486f9bc"),
            (Self::A, Role::VeritySig) => uuid!("cbaf189e-1b60-43cc-a47c-dd3716d7b4d6"),
            (Self::B, Role::Root) => uuid!("431a70ab-ba93-4ed2-8ba3-341aa6a94108"),
            (Self::B, Role::Verity) => uuid!("0d880bd6-917f-4086-ba5e-49020d024a03"),
            (Self::B, Role::VeritySig) => uuid!("bb426fc3-3b56-4cce-9da2-80b4c350d1cc"),
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

impl FromStr for Slot {
    type Err = BadSlot;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "A" | "a" => Ok(Self::A),
            "B" | "b" => Ok(Self::B),
            other => Err(BadSlot(other.to_owned())),
        }
    }
}

/// What a slot is to be labelled as.
#[derive(Clone, Copy, Debug)]
pub enum SlotLabel<'a> {
    /// Nothing: every partition is labelled [`EMPTY_LABEL`].
    Empty,
    /// A release, whose partitions carry its version and the halves of its root hash.
    Holds {
        /// The release's version.
        version: &'a Version,
        /// The root hash of its image.
        root_hash: &'a RootHash,
    },
}

impl SlotLabel<'_> {
    /// Returns the label of the three partitions.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Empty => EMPTY_LABEL.to_owned(),
            Self::Holds { version, .. } => format!("{PREFIX}{version}"),
        }
    }

    /// Returns the UUID of the partition for `role` when `slot` is labelled so.
    pub(crate) fn uuid(&self, slot: Slot, role: Role) -> Uuid {
        match (self, role) {
            (Self::Holds { root_hash, .. }, Role::Root) => root_hash.root_uuid(),
            (Self::Holds { root_hash, .. }, Role::Verity) => root_hash.verity_uuid(),
            (Self::Holds { .. }, Role::VeritySig) | (Self::Empty, _) => slot.idle_uuid(role),
        }
    }
}

/// What a slot holds, as the partition table says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SlotContent {
    /// Nothing.
    Empty,
    /// A release.
    Holds {
        /// The release's version.
        version: Version,
        /// The root hash of its image.
        root_hash: RootHash,
    },
    /// Something that the labels do not name as a release.
    Unknown {
        /// What is odd about them.
        why: String,
    },
}

impl SlotContent {
    /// Returns the label that says this, if one can.
    pub fn as_label(&self) -> Option<SlotLabel<'_>> {
        match self {
            Self::Empty => Some(SlotLabel::Empty),
            Self::Holds { version, root_hash } => Some(SlotLabel::Holds { version, root_hash }),
            Self::Unknown { .. } => None,
        }
    }
}

/// The three partitions of a slot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SlotPartitions {
    /// The root file system image.
    pub root: Partition,
    /// Its hash tree.
    pub verity: Partition,
    /// The signature of its root hash.
    pub verity_sig: Partition,
}

impl SlotPartitions {
    /// Returns the partition that has `role`.
    pub fn partition(&self, role: Role) -> &Partition {
        match role {
            Role::Root => &self.root,
            Role::Verity => &self.verity,
            Role::VeritySig => &self.verity_sig,
        }
    }

    /// Reads what the slot holds from the labels and UUIDs of its partitions.
    pub fn content(&self) -> SlotContent {
        let unknown = |why: String| SlotContent::Unknown { why };
        let label = &self.root.label;
        for role in [Role::Verity, Role::VeritySig] {
            let other = &self.partition(role).label;
            if other != label {
                return unknown(format!("root is labelled {label:?}, {role} {other:?}"));
            }
        }
        if label == EMPTY_LABEL {
            return SlotContent::Empty;
        }
        let Some(version) = label.strip_prefix(PREFIX) else {
            return unknown(format!("the label {label:?} names no release"));
        };
        let version = match Version::parse(version) {
            Ok(version) => version,
            Err(bad) => return unknown(format!("the label {label:?} names no release: {bad}")),
        };
        for slot in Slot::ALL {
            for role in [Role::Root, Role::Verity] {
                if self.partition(role).uuid == slot.idle_uuid(role) {
                    return unknown(format!(
                        "labelled {label:?}, with the {role} UUID of an empty slot"
                    ));
                }
            }
        }
        let root_hash = RootHash::from_uuids(self.root.uuid, self.verity.uuid);
        SlotContent::Holds { version, root_hash }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_named_by_its_letter() {
        for slot in Slot::ALL {
            assert_eq!(slot.to_string().parse(), Ok(slot));
            assert_eq!(slot.other().other(), slot);
            assert_eq!(
                serde_json::to_string(&slot).ok(),
                Some(format!("\"{slot}\""))
            );
        }
        assert!("C".parse::<Slot>().is_err());
    }

    #[test]
    fn the_longest_version_fits_the_label() {
        let version = Version::parse(&"9".repeat(Version::MAX_LENGTH)).expect("good");
        let root_hash = RootHash::new([7; 32]);
        let label = SlotLabel::Holds {
            version: &version,
            root_hash: &root_hash,
        };
        assert_eq!(label.text().len(), crate::table::LABEL_UNITS);
    }
}
