//! Finds the two partitions of the image that the root hash names.
//!
//! Their partition UUIDs are the two halves of the root hash, so they are read
//! from the partition tables themselves: the kernel of Debian 13 does not tell
//! partition UUIDs in `/sys`, and udev's links do not exist yet. A disk is never
//! known by its name, since clouds attach the same one as SCSI here and as NVMe there.
//!
//! The UUIDs only say where to look. What is found there is proved by dm-verity.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use partition_layout::RootHash;

use crate::block_devices::{BlockDevices, FoundSlot};
use crate::report::Chain;
use crate::uevents::{Changes, Woken};

/// The slot to boot, and others that hold the same image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub slot: FoundSlot,
    pub also: Vec<FoundSlot>,
}

/// Why no slot was found.
#[derive(Debug, thiserror::Error)]
pub enum FindSlotError {
    #[error("cannot list the block devices")]
    List { source: io::Error },
    #[error("cannot wait for block devices")]
    Wait { source: io::Error },
    #[error("no disk has partitions for it; seen: {seen}")]
    NotFound { seen: Seen },
}

/// The disks that were looked at, and what came of each.
#[derive(Debug, Default)]
pub struct Seen(Vec<(String, String)>);

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "no disk at all");
        }
        for (index, (disk, outcome)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{disk} ({outcome})")?;
        }
        Ok(())
    }
}

/// Waits until a disk holds the image `root_hash`, at most for `patience`.
pub fn find_slot(
    devices: &BlockDevices,
    root_hash: &RootHash,
    patience: Duration,
    changes: &mut impl Changes,
) -> Result<Found, FindSlotError> {
    let deadline = Instant::now() + patience;
    let mut woken = Woken::ByChange;
    loop {
        let look = look(devices, root_hash).map_err(|source| FindSlotError::List { source })?;
        match (look, woken) {
            (Look::Found(found), _) => return Ok(found),
            // This look was the last: what showed itself at the deadline still counts.
            (Look::Nothing(seen), Woken::ByDeadline) => {
                return Err(FindSlotError::NotFound { seen });
            }
            (Look::Nothing(_), Woken::ByChange) => {}
        }
        woken = changes
            .wait(deadline)
            .map_err(|source| FindSlotError::Wait { source })?;
    }
}

enum Look {
    Found(Found),
    Nothing(Seen),
}

fn look(devices: &BlockDevices, root_hash: &RootHash) -> io::Result<Look> {
    let mut found = Vec::new();
    let mut seen = Seen::default();
    for disk in devices.disks()? {
        let outcome = match devices.slots_on(&disk, root_hash) {
            Ok(slots) if slots.is_empty() => "holds other images".to_owned(),
            Ok(slots) => {
                found.extend(slots);
                continue;
            }
            Err(error) => Chain(&error).to_string(),
        };
        seen.0.push((disk, outcome));
    }
    let mut found = found.into_iter();
    Ok(match found.next() {
        Some(slot) => Look::Found(Found {
            slot,
            also: found.collect(),
        }),
        None => Look::Nothing(seen),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use partition_layout::{Architecture, DiskPlan, Form, Slot, Version, create};
    use std::fs::{self, File};

    const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210";

    /// Disks as the kernel would show them, made of files.
    struct Machine {
        _folder: tempfile::TempDir,
        devices: BlockDevices,
    }

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let devices = BlockDevices {
                sys: folder.path().join("sys"),
                dev: folder.path().join("dev"),
            };
            fs::create_dir(&devices.sys).unwrap();
            fs::create_dir(&devices.dev).unwrap();
            Self {
                _folder: folder,
                devices,
            }
        }

        /// Adds a disk that holds the images `a` and `b`, its partitions not yet shown.
        fn add_disk(&self, disk: &str, a: &str, b: Option<&str>) {
            let version = Version::parse("1").unwrap();
            let hash = |text: &str| (version.clone(), RootHash::parse(text).unwrap());
            let mut plan = DiskPlan::new(Architecture::X86_64, Form::Full);
            plan.slot_a = Some(hash(a));
            let mut file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(self.devices.dev.join(disk))
                .unwrap();
            file.set_len(plan.smallest_disk()).unwrap();
            create(&mut file, &plan).unwrap();
            if let Some((version, root_hash)) = b.map(hash) {
                let label = partition_layout::SlotLabel::Holds {
                    version: &version,
                    root_hash: &root_hash,
                };
                partition_layout::relabel(&mut file, Slot::B, &label).unwrap();
            }
            self.show(disk, "size", "1000\n");
        }

        fn show(&self, device: &str, file: &str, text: &str) {
            let folder = self.devices.sys.join(device);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(file), text).unwrap();
        }

        /// Shows the partitions of `disk` under the names that `prefix` begins, as sysfs
        /// does: in the folder of the disk and beside it.
        fn show_partitions(&self, disk: &str, prefix: &str) {
            for number in 1..=8 {
                let name = format!("{prefix}{number}");
                self.show(
                    &format!("{disk}/{name}"),
                    "partition",
                    &format!("{number}\n"),
                );
                self.show(&name, "partition", &format!("{number}\n"));
            }
        }

        fn find(&self, changes: &mut impl Changes) -> Result<Found, FindSlotError> {
            let root_hash = RootHash::parse(HASH).unwrap();
            find_slot(&self.devices, &root_hash, Duration::from_secs(60), changes)
        }

        fn slot(&self, slot: Slot, esp: &str, root: &str, verity: &str) -> FoundSlot {
            FoundSlot {
                slot,
                root: self.devices.dev.join(root),
                verity: self.devices.dev.join(verity),
                esp: Some(self.devices.dev.join(esp)),
            }
        }
    }

    /// Changes the machine each time it is waited for, until it has no more changes.
    struct Script<'a>(Vec<Box<dyn FnOnce() + 'a>>);

    impl Changes for Script<'_> {
        fn wait(&mut self, _deadline: Instant) -> io::Result<Woken> {
            let Some(change) = self.0.pop() else {
                return Ok(Woken::ByDeadline);
            };
            change();
            Ok(Woken::ByChange)
        }
    }

    const OTHER: &str = "ff112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210";

    #[test]
    fn a_slot_is_found_by_its_root_hash_and_named_as_the_kernel_does() {
        let machine = Machine::new();
        machine.add_disk("nvme0n1", OTHER, Some(HASH));
        machine.show_partitions("nvme0n1", "nvme0n1p");
        let found = machine.find(&mut Script(vec![])).unwrap();
        assert_eq!(
            found,
            Found {
                slot: machine.slot(Slot::B, "nvme0n1p1", "nvme0n1p5", "nvme0n1p6"),
                also: vec![]
            }
        );
    }

    #[test]
    fn of_two_slots_with_the_same_image_the_first_is_taken_and_the_other_told() {
        let machine = Machine::new();
        machine.add_disk("vda", HASH, Some(HASH));
        machine.show_partitions("vda", "vda");
        let found = machine.find(&mut Script(vec![])).unwrap();
        assert_eq!(found.slot, machine.slot(Slot::A, "vda1", "vda2", "vda3"));
        assert_eq!(found.also, [machine.slot(Slot::B, "vda1", "vda5", "vda6")]);
    }

    #[test]
    fn a_disk_that_comes_late_is_waited_for_until_its_partitions_are_there() {
        let machine = Machine::new();
        let partitions = || machine.show_partitions("sda", "sda");
        let disk = || machine.add_disk("sda", HASH, None);
        let found = machine
            .find(&mut Script(vec![Box::new(partitions), Box::new(disk)]))
            .unwrap();
        assert_eq!(found.slot, machine.slot(Slot::A, "sda1", "sda2", "sda3"));
    }

    #[test]
    fn an_esp_that_is_not_there_keeps_no_slot_from_being_found() {
        let machine = Machine::new();
        machine.add_disk("vda", HASH, None);
        machine.show_partitions("vda", "vda");
        for folder in ["vda/vda1", "vda1"] {
            fs::remove_dir_all(machine.devices.sys.join(folder)).unwrap();
        }
        let found = machine.find(&mut Script(vec![])).unwrap();
        let slot = machine.slot(Slot::A, "vda1", "vda2", "vda3");
        assert_eq!(found.slot, FoundSlot { esp: None, ..slot });
    }

    #[test]
    fn what_was_seen_is_told_when_nothing_is_found() {
        let machine = Machine::new();
        let nothing = machine.find(&mut Script(vec![])).unwrap_err();
        assert!(
            nothing.to_string().ends_with("seen: no disk at all"),
            "{nothing}"
        );
        machine.add_disk("vda", OTHER, None);
        machine.show_partitions("vda", "vda");
        machine.show("vdb", "size", "2048\n");
        fs::write(machine.devices.dev.join("vdb"), vec![0; 1 << 20]).unwrap();
        machine.show("vdc", "size", "2048\n");
        machine.show("sr0", "size", "2048\n");
        machine.show("loop3", "size", "2048\n");
        machine.show("sdd", "size", "0\n");
        let error = machine.find(&mut Script(vec![])).unwrap_err().to_string();
        assert!(
            error.contains("vda (holds other images); vdb (is none of ours: "),
            "{error}"
        );
        assert!(error.contains("vdc (cannot be opened: "), "{error}");
        for silent in ["sr0", "loop3", "sdd", "vda1"] {
            assert!(!error.contains(silent), "{error}");
        }
    }

    #[test]
    fn half_a_root_hash_is_no_image() {
        let machine = Machine::new();
        // The same root partition UUID, another verity partition's.
        machine.add_disk(
            "vda",
            &HASH.replace("0123456789abcdef", "1123456789abcdef"),
            None,
        );
        machine.show_partitions("vda", "vda");
        assert!(matches!(
            machine.find(&mut Script(vec![])),
            Err(FindSlotError::NotFound { .. })
        ));
    }
}
