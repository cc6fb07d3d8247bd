//! What PID 1 does, as a list that is made before anything is done.
//!
//! ```text
//! ground:  /dev /proc /sys                  then the command line and the module list can be read
//! plan:    modules → watchdog → find the slot → mend names → open verity → mount root
//!          → move mounts → free the initramfs → switch root → start systemd
//! ```
//!
//! The order is a literal: the watchdog runs before the first wait, and the only
//! thing that is ever mounted as root is the verity device opened just before.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use partition_layout::RootHash;

use crate::cmdline::{CannotBoot, Options};

/// A file system of the kernel's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelFs {
    Dev,
    Proc,
    Sys,
}

impl KernelFs {
    /// All that PID 1 mounts and systemd inherits; `/run` systemd makes by itself.
    pub const ALL: [Self; 3] = [Self::Dev, Self::Proc, Self::Sys];

    /// Returns where it is mounted, below the root in use.
    pub const fn place(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Proc => "proc",
            Self::Sys => "sys",
        }
    }
}

/// One thing that PID 1 does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Mount(KernelFs),
    LoadModule(PathBuf),
    /// Starts the watchdog, which nothing stops again: systemd takes it over running.
    StartWatchdog(Duration),
    /// Waits until the two partitions of the image are there.
    FindSlot {
        root_hash: RootHash,
        patience: Duration,
    },
    /// Takes away what a count of the boot loader's, cut short, has left beside its entry: as
    /// long as that is there, no start is counted.
    MendNames,
    /// Makes the device-mapper device that checks each block against the root hash.
    OpenVerity(RootHash),
    /// Mounts the verity device, and nothing else, read-only.
    MountRoot,
    MoveMount(KernelFs),
    /// Removes what the initramfs holds, so that its memory is free.
    FreeInitramfs,
    SwitchRoot,
    /// Becomes systemd. Returns only when that failed.
    StartSystemd,
}

/// What a failed step means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The image cannot be booted.
    Required,
    /// Booting goes on, and the failure is said.
    Desired,
}

impl Step {
    /// A driver without its hardware refuses to load, and which ones a machine
    /// needs is not known here: when one that matters is missing, the step that
    /// needed it fails, and the log says which drivers did not load.
    const fn need(&self) -> Need {
        match self {
            Self::LoadModule(_)
            | Self::StartWatchdog(_)
            | Self::MendNames
            | Self::FreeInitramfs => Need::Desired,
            Self::Mount(_)
            | Self::FindSlot { .. }
            | Self::OpenVerity(_)
            | Self::MountRoot
            | Self::MoveMount(_)
            | Self::SwitchRoot
            | Self::StartSystemd => Need::Required,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(what) => write!(f, "mount /{}", what.place()),
            Self::LoadModule(path) => write!(f, "load the kernel module {}", path.display()),
            Self::StartWatchdog(timeout) => {
                write!(f, "start the watchdog with {} s", timeout.as_secs())
            }
            Self::FindSlot {
                root_hash,
                patience,
            } => {
                let patience = patience.as_secs();
                write!(
                    f,
                    "find the partitions of the image {root_hash} within {patience} s"
                )
            }
            Self::MendNames => write!(f, "mend the names of the boot entries"),
            Self::OpenVerity(root_hash) => write!(f, "open dm-verity with root hash {root_hash}"),
            Self::MountRoot => write!(f, "mount the root file system"),
            Self::MoveMount(what) => write!(f, "move /{} into the root file system", what.place()),
            Self::FreeInitramfs => write!(f, "free the initramfs"),
            Self::SwitchRoot => write!(f, "switch to the root file system"),
            Self::StartSystemd => write!(f, "start systemd"),
        }
    }
}

/// What to do, and what struck us while planning it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub remarks: Vec<String>,
}

/// Returns the steps before which nothing can be read.
pub fn ground() -> Vec<Step> {
    KernelFs::ALL.map(Step::Mount).to_vec()
}

/// Returns the way from the initramfs to systemd for the kernel command line
/// `cmdline` and the list `modules`: a path per line, in the order of loading,
/// with empty lines and lines that begin with `#` left out.
pub fn plan(cmdline: &str, modules: &str) -> Result<Plan, CannotBoot> {
    let mut remarks = Vec::new();
    let options = Options::parse(cmdline, &mut remarks)?;
    let root_hash = options.root_hash;

    let modules = modules.lines().map(str::trim);
    let modules = modules.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut steps: Vec<Step> = modules.map(|path| Step::LoadModule(path.into())).collect();
    // The watchdog's own driver is among the modules; everything after it is watched.
    steps.extend(options.watchdog.map(Step::StartWatchdog));
    steps.push(Step::FindSlot {
        root_hash,
        patience: options.device_patience,
    });
    // Before anything that fails when the image is bad: such an image must not start for ever.
    steps.push(Step::MendNames);
    steps.push(Step::OpenVerity(root_hash));
    steps.push(Step::MountRoot);
    steps.extend(KernelFs::ALL.map(Step::MoveMount));
    steps.extend([Step::FreeInitramfs, Step::SwitchRoot, Step::StartSystemd]);
    Ok(Plan { steps, remarks })
}

/// The machine, as far as PID 1 changes it.
pub trait Kernel {
    /// Does `step`. The error says what was wrong, not what was tried: the caller knows that.
    fn perform(&mut self, step: &Step) -> io::Result<()>;
    /// Tells `line` to whoever looks at the console or reads the log afterwards.
    fn say(&mut self, line: &str);
}

/// A step without which the image cannot be booted, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct StepFailed {
    pub step: Step,
    pub source: io::Error,
}

/// Performs `steps` in order and stops at the first required one that fails.
pub fn carry_out(steps: &[Step], kernel: &mut impl Kernel) -> Result<(), StepFailed> {
    for step in steps {
        let Err(source) = kernel.perform(step) else {
            continue;
        };
        match step.need() {
            Need::Required => {
                return Err(StepFailed {
                    step: step.clone(),
                    source,
                });
            }
            Need::Desired => {
                kernel.say(&format!(
                    "did not {step}: {}",
                    crate::report::Chain(&source)
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210";

    /// Remembers what it did, holds what a step needs of an earlier one, and fails when told.
    #[derive(Default)]
    struct Remembering {
        done: Vec<Step>,
        said: Vec<String>,
        fails_at: Option<usize>,
        calls: usize,
        slot: bool,
        verity: bool,
        root: bool,
    }

    impl Kernel for Remembering {
        fn perform(&mut self, step: &Step) -> io::Result<()> {
            self.calls += 1;
            if self.fails_at == Some(self.calls - 1) {
                return Err(io::Error::from_raw_os_error(5));
            }
            match step {
                Step::FindSlot { .. } => self.slot = true,
                Step::MendNames => {
                    assert!(self.slot, "the names are those on the disk of the slot");
                    assert!(
                        !self.verity,
                        "a root that cannot be opened is mended before"
                    );
                }
                Step::OpenVerity(_) => {
                    assert!(self.slot, "verity is opened on partitions that were found");
                    self.verity = true;
                }
                Step::MountRoot => {
                    assert!(self.verity, "root is never mounted unverified");
                    self.root = true;
                }
                Step::MoveMount(_)
                | Step::FreeInitramfs
                | Step::SwitchRoot
                | Step::StartSystemd => {
                    assert!(self.root, "{step:?} needs a root");
                }
                Step::Mount(_) | Step::LoadModule(_) | Step::StartWatchdog(_) => {}
            }
            self.done.push(step.clone());
            Ok(())
        }

        fn say(&mut self, line: &str) {
            self.said.push(line.to_owned());
        }
    }

    fn plan_of(cmdline: &str, modules: &str) -> Vec<Step> {
        plan(&format!("roothash={HASH} {cmdline}"), modules)
            .expect("it is a good line")
            .steps
    }

    #[test]
    fn the_whole_way_is_in_this_order() {
        let root_hash: RootHash = RootHash::parse(HASH).expect("a root hash");
        let expected = [
            Step::LoadModule("/lib/a.ko".into()),
            Step::LoadModule("/lib/b.ko.xz".into()),
            Step::StartWatchdog(Duration::from_secs(60)),
            Step::FindSlot {
                root_hash,
                patience: Duration::from_secs(30),
            },
            Step::MendNames,
            Step::OpenVerity(root_hash),
            Step::MountRoot,
            Step::MoveMount(KernelFs::Dev),
            Step::MoveMount(KernelFs::Proc),
            Step::MoveMount(KernelFs::Sys),
            Step::FreeInitramfs,
            Step::SwitchRoot,
            Step::StartSystemd,
        ];
        assert_eq!(
            plan_of("", "/lib/a.ko\n\n# for NVMe\n  /lib/b.ko.xz\n"),
            expected
        );
    }

    #[test]
    fn without_a_watchdog_the_rest_stays() {
        let with = plan_of("", "");
        let without = plan_of("bistable.watchdog=0", "");
        assert_eq!(with.len(), without.len() + 1);
        assert!(
            !without
                .iter()
                .any(|step| matches!(step, Step::StartWatchdog(_)))
        );
    }

    #[test]
    fn without_a_root_hash_there_is_no_plan() {
        assert_eq!(plan("quiet", "/lib/a.ko"), Err(CannotBoot::NoRootHash));
    }

    #[test]
    fn wherever_a_required_step_fails_nothing_follows_it() {
        let steps = plan_of("", "/lib/a.ko\n/lib/b.ko");
        for (fails_at, failing) in steps.iter().enumerate() {
            let mut kernel = Remembering {
                fails_at: Some(fails_at),
                ..Remembering::default()
            };
            let outcome = carry_out(&steps, &mut kernel);
            if failing.need() == Need::Required {
                let failed = outcome.expect_err("a required step failed");
                assert_eq!(&failed.step, failing);
                assert_eq!(kernel.calls, fails_at + 1, "after {failing}");
            } else {
                outcome.expect("booting goes on");
                assert_eq!(kernel.done.len(), steps.len() - 1);
                assert!(
                    kernel
                        .said
                        .iter()
                        .any(|line| line.contains(&failing.to_string())),
                    "{:?}",
                    kernel.said
                );
            }
        }
    }

    #[test]
    fn a_step_that_may_not_be_missed_is_never_only_desired() {
        for step in plan_of("", "") {
            let desired = matches!(
                step,
                Step::StartWatchdog(_) | Step::MendNames | Step::FreeInitramfs
            );
            assert_eq!(step.need() == Need::Desired, desired, "{step}");
        }
    }
}
