//! The kernel's device-mapper, as far as a verity device needs it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::str::FromStr;

use rustix::fs::{major, minor};

use crate::table::VerityTable;

/// A block device, as `major:minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNumber {
    /// The driver.
    pub major: u32,
    /// The device of the driver.
    pub minor: u32,
}

/// A file that is no block device, so a table cannot name it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum NotADevice {
    #[error("cannot stat the device")]
    Stat(#[source] io::Error),
    #[error("not a block device")]
    Other,
    #[error("{0:?} is not a device number, like 254:3")]
    Text(String),
}

impl DeviceNumber {
    /// Returns the number of an open block device.
    ///
    /// # Errors
    /// `file` is something else, or cannot be looked at.
    pub fn of(file: &File) -> Result<Self, NotADevice> {
        let metadata = file.metadata().map_err(NotADevice::Stat)?;
        if !metadata.file_type().is_block_device() {
            return Err(NotADevice::Other);
        }
        let device = metadata.rdev();
        Ok(Self {
            major: major(device),
            minor: minor(device),
        })
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Parses `major:minor`, as sysfs writes it in a `dev` file.
impl FromStr for DeviceNumber {
    type Err = NotADevice;

    fn from_str(text: &str) -> Result<Self, NotADevice> {
        text.trim_end()
            .split_once(':')
            .and_then(|(major, minor)| {
                Some(Self {
                    major: major.parse().ok()?,
                    minor: minor.parse().ok()?,
                })
            })
            .ok_or_else(|| NotADevice::Text(text.to_owned()))
    }
}

/// The name of a mapped device: 1 to 127 bytes, printable ASCII, no `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DmName(String);

/// A name that no mapped device may have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no name for a mapped device: 1 to 127 printable ASCII characters, no '/'")]
pub struct BadName(String);

impl DmName {
    /// Checks a name.
    ///
    /// # Errors
    /// The kernel, or a path in `/dev/mapper`, could not hold it.
    pub fn parse(name: &str) -> Result<Self, BadName> {
        let good = matches!(name.len(), 1..=127)
            && !matches!(name, "." | ".." | "control")
            && name
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if good {
            Ok(Self(name.to_owned()))
        } else {
            Err(BadName(name.to_owned()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is asked of the device-mapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Make a device without a table.
    Create,
    /// Give it a table, not yet used.
    Load,
    /// Use the loaded table.
    Resume,
    /// Take the device away.
    Remove,
    /// Look at the device.
    Status,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Load => "load the table of",
            Self::Resume => "resume",
            Self::Remove => "remove",
            Self::Status => "read the status of",
        })
    }
}

/// The device-mapper refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum DmError {
    #[error("cannot open the device-mapper's control device {path}")]
    Open { path: String, source: io::Error },
    #[error("device-mapper cannot {operation} {name}")]
    Failed {
        operation: Operation,
        name: DmName,
        source: io::Error,
    },
    #[error("device-mapper's answer to {operation} {name} makes no sense: {why}")]
    Answer {
        operation: Operation,
        name: DmName,
        why: &'static str,
    },
}

/// What the kernel says of a mapped device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStatus {
    /// The device.
    pub device: DeviceNumber,
    /// How often it is open: mounts count, too.
    pub open_count: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// It has a table in use.
    pub active: bool,
    /// The targets of that table, in order.
    pub targets: Vec<TargetStatus>,
}

/// One target of a mapped device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// Its first sector (512 bytes) on the mapped device.
    pub start: u64,
    /// Its sectors.
    pub sectors: u64,
    /// Its type, `verity` for ours.
    pub kind: String,
    /// What it says of itself: a verity target says `V` while every block read
    /// was good, and `C` since one was not.
    pub text: String,
}

/// The device-mapper. All devices are read-only.
pub trait Dm {
    /// Makes a device that has no table yet, and returns its number.
    ///
    /// # Errors
    /// The name is taken, or the kernel refuses.
    fn create(&mut self, name: &DmName) -> Result<DeviceNumber, DmError>;
    /// Gives the device a table; reads are not yet served by it.
    ///
    /// # Errors
    /// There is no such device, or the kernel does not take the table. The
    /// kernel's log says why.
    fn load(&mut self, name: &DmName, table: &VerityTable) -> Result<(), DmError>;
    /// Serves reads by the loaded table.
    ///
    /// # Errors
    /// There is no such device, or the kernel refuses.
    fn resume(&mut self, name: &DmName) -> Result<(), DmError>;
    /// Takes the device away.
    ///
    /// # Errors
    /// There is no such device, or it is open.
    fn remove(&mut self, name: &DmName) -> Result<(), DmError>;
    /// Looks at the device.
    ///
    /// # Errors
    /// There is no such device, or the answer makes no sense.
    fn status(&mut self, name: &DmName) -> Result<DeviceStatus, DmError>;
}

/// A verity device could not be set up.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum ActivateError {
    #[error("cannot set up verity device {name}")]
    Failed { name: DmName, source: DmError },
    #[error("cannot set up verity device {name}, nor take it away again ({undo})")]
    Stuck {
        name: DmName,
        source: DmError,
        undo: DmError,
    },
}

/// Makes the verity device `name`, ready to be read; a failure leaves none behind.
///
/// # Errors
/// [`ActivateError`], with what failed first and, if it did, what failed then.
pub fn activate(
    dm: &mut impl Dm,
    name: &DmName,
    table: &VerityTable,
) -> Result<DeviceNumber, ActivateError> {
    let device = dm.create(name).map_err(|source| ActivateError::Failed {
        name: name.clone(),
        source,
    })?;
    let ready = dm.load(name, table).and_then(|()| dm.resume(name));
    let Err(source) = ready else {
        return Ok(device);
    };
    let name = name.clone();
    Err(match dm.remove(&name) {
        Ok(()) => ActivateError::Failed { name, source },
        Err(undo) => ActivateError::Stuck { name, source, undo },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HashArea, HashType, OnCorruption, Params};

    /// A device-mapper that remembers its devices and can fail at the n-th call.
    #[derive(Default)]
    struct FakeDm {
        devices: Vec<(DmName, Option<String>, bool)>,
        calls: usize,
        fail_from: Option<usize>,
        fail_once: bool,
    }

    impl FakeDm {
        fn call(&mut self, operation: Operation, name: &DmName) -> Result<(), DmError> {
            let call = self.calls;
            self.calls += 1;
            let fails = self
                .fail_from
                .is_some_and(|from| call == from || (call > from && !self.fail_once));
            if fails {
                let (name, source) = (name.clone(), io::ErrorKind::Other.into());
                return Err(DmError::Failed {
                    operation,
                    name,
                    source,
                });
            }
            Ok(())
        }

        fn device(&mut self, name: &DmName) -> &mut (DmName, Option<String>, bool) {
            self.devices
                .iter_mut()
                .find(|device| device.0 == *name)
                .expect("it was made")
        }
    }

    impl Dm for FakeDm {
        fn create(&mut self, name: &DmName) -> Result<DeviceNumber, DmError> {
            self.call(Operation::Create, name)?;
            self.devices.push((name.clone(), None, false));
            Ok(DeviceNumber {
                major: 252,
                minor: 7,
            })
        }

        fn load(&mut self, name: &DmName, table: &VerityTable) -> Result<(), DmError> {
            self.call(Operation::Load, name)?;
            self.device(name).1 = Some(table.to_string());
            Ok(())
        }

        fn resume(&mut self, name: &DmName) -> Result<(), DmError> {
            self.call(Operation::Resume, name)?;
            assert!(self.device(name).1.is_some(), "resumed without a table");
            self.device(name).2 = true;
            Ok(())
        }

        fn remove(&mut self, name: &DmName) -> Result<(), DmError> {
            self.call(Operation::Remove, name)?;
            self.devices.retain(|device| device.0 != *name);
            Ok(())
        }

        fn status(&mut self, name: &DmName) -> Result<DeviceStatus, DmError> {
            self.call(Operation::Status, name)?;
            let (_, _, active) = *self.device(name);
            let device = DeviceNumber {
                major: 252,
                minor: 7,
            };
            Ok(DeviceStatus {
                device,
                open_count: 0,
                read_only: true,
                active,
                targets: Vec::new(),
            })
        }
    }

    fn table() -> VerityTable {
        let params = Params {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: Vec::new(),
            hash_type: HashType::Normal,
        };
        let area = HashArea::bare(params, 2, 0).expect("good");
        let device = |minor| DeviceNumber { major: 254, minor };
        VerityTable::new(
            device(1),
            device(2),
            area,
            partition_layout::RootHash::new([0; 32]),
        )
        .on_corruption(OnCorruption::Panic)
    }

    fn name() -> DmName {
        DmName::parse("root").expect("good")
    }

    #[test]
    fn an_activated_device_serves_its_table() {
        let mut dm = FakeDm::default();
        let device = activate(&mut dm, &name(), &table()).expect("nothing fails");
        assert_eq!(
            device,
            DeviceNumber {
                major: 252,
                minor: 7
            }
        );
        assert_eq!(dm.devices, [(name(), Some(table().to_string()), true)]);
        assert!(dm.status(&name()).expect("nothing fails").active);
    }

    #[test]
    fn whichever_step_fails_no_device_is_left_behind() {
        for fail_from in 0..3 {
            let mut dm = FakeDm {
                fail_from: Some(fail_from),
                fail_once: true,
                ..FakeDm::default()
            };
            let outcome = activate(&mut dm, &name(), &table());
            assert!(
                matches!(outcome, Err(ActivateError::Failed { .. })),
                "{outcome:?}"
            );
            assert_eq!(dm.devices, [], "step {fail_from}");
        }
    }

    #[test]
    fn a_failure_that_cannot_be_undone_is_told_with_both_causes() {
        let mut dm = FakeDm {
            fail_from: Some(1),
            ..FakeDm::default()
        };
        let outcome = activate(&mut dm, &name(), &table());
        let Err(ActivateError::Stuck { source, undo, .. }) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(matches!(
            source,
            DmError::Failed {
                operation: Operation::Load,
                ..
            }
        ));
        assert!(matches!(
            undo,
            DmError::Failed {
                operation: Operation::Remove,
                ..
            }
        ));
    }

    #[test]
    fn only_what_can_stand_in_dev_mapper_is_a_name() {
        for good in ["root", "usr-verity_1.2", &"n".repeat(127)] {
            assert_eq!(DmName::parse(good).expect("good").as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "control",
            "a/b",
            "a b",
            "a\0",
            "\u{e4}",
            &"n".repeat(128),
        ] {
            assert_eq!(DmName::parse(bad), Err(BadName(bad.to_owned())));
        }
    }

    #[test]
    fn device_numbers_are_read_as_sysfs_writes_them() {
        let number: DeviceNumber = "254:3\n".parse().expect("good");
        assert_eq!(number.to_string(), "254:3");
        for bad in ["", "254", "254:", ":3", "a:b", "1:2:3", "-1:2"] {
            assert!(bad.parse::<DeviceNumber>().is_err(), "{bad}");
        }
        let null = File::open("/dev/null").expect("every Linux has it");
        assert!(matches!(DeviceNumber::of(&null), Err(NotADevice::Other)));
    }
}
