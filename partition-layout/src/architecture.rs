//! The partition types of the Discoverable Partitions Specification that a node has.
//!
//! Source: <https://uapi-group.org/specifications/specs/discoverable_partitions_specification/>

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::{Uuid, uuid};

/// The type of the EFI system partition.
pub const ESP_TYPE: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
/// The type of the partition that holds `/var`.
pub const VAR_TYPE: Uuid = uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d");

/// The processor that a disk is made for; it decides the types of the slots' partitions.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Architecture {
    /// AMD64 and Intel 64.
    #[serde(rename = "x86-64")]
    X86_64,
    /// 64-bit Arm.
    #[serde(rename = "arm64")]
    Aarch64,
}

/// What a partition of a slot is for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// The root file system image.
    Root,
    /// Its hash tree.
    Verity,
    /// The signature of its root hash.
    VeritySig,
}

impl Role {
    /// The three partitions of a slot in the order in which they lie on disk.
    pub const ALL: [Self; 3] = [Self::Root, Self::Verity, Self::VeritySig];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Root => "root",
            Self::Verity => "verity",
            Self::VeritySig => "verity-sig",
        })
    }
}

impl Architecture {
    /// Every architecture that has a disk.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// Returns the architecture that this program was built for.
    pub const fn of_build() -> Self {
        #[cfg(target_arch = "x86_64")]
        return Self::X86_64;
        #[cfg(target_arch = "aarch64")]
        return Self::Aarch64;
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        compile_error!("no disk is laid out for this architecture");
    }

    /// Returns the partition type of `role` in a slot.
    pub const fn partition_type(self, role: Role) -> Uuid {
        match (self, role) {
            (Self::X86_64, Role::Root) => uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
            (Self::X86_64, Role::Verity) => uuid!("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
            (Self::X86_64, Role::VeritySig) => uuid!("41092b05-9fc8-4523-994f-2def0408b176"),
            (Self::Aarch64, Role::Root) => uuid!("b921b045-1df0-41c3-af44-4c6f280d3fae"),
            (Self::Aarch64, Role::Verity) => uuid!("df3300ce-d69f-4c92-978c-9bfb0f38d820"),
            (Self::Aarch64, Role::VeritySig) => uuid!("6db69de6-29f4-4758-a7a5-962190f00ce3"),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::X86_64 => "x86-64",
            Self::Aarch64 => "arm64",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_and_serde_agree() {
        for architecture in Architecture::ALL {
            let json = serde_json::to_string(&architecture).expect("a unit variant serializes");
            assert_eq!(json, format!("\"{architecture}\""));
        }
    }
}
