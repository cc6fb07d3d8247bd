//! The running Linux kernel, as PID 1 changes it.
#![expect(
    unsafe_code,
    reason = "setting the timeout of a watchdog is an ioctl that rustix has no wrapper for"
)]

use std::ffi::c_int;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use partition_layout::RootHash;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};
use rustix::system::{RebootCommand, finit_module, reboot};
use verity::KernelDm;

use crate::block_devices::{BlockDevices, FoundSlot};
use crate::console::Console;
use crate::initramfs;
use crate::plan::{Kernel, KernelFs, Step};
use crate::root_device;
use crate::slot_search::find_slot;
use crate::torn_count;
use crate::uevents::Uevents;

/// Where the root file system is mounted before it becomes `/`.
const SYSROOT: &str = "/sysroot";

/// The first watchdog that a driver registered: the kernel's own, in software, is the last
/// of the modules and so the first only where there is no other. systemd opens the same one.
const WATCHDOG: &str = "/dev/watchdog0";

/// `panic=` of the kernel command line, as the kernel took it.
const PANIC_SECONDS: &str = "/proc/sys/kernel/panic";
/// How many seconds there are at least between a boot that failed here and the next.
const BACK_OFF: u32 = 10;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h: the kernel unpacks Debian's `.ko.xz`.
const COMPRESSED_FILE: c_int = 4;

/// `WDIOC_SETTIMEOUT` of linux/watchdog.h: takes seconds, returns what the hardware made of them.
const SET_TIMEOUT: Opcode = opcode::read_write::<c_int>(b'W', 6);

/// The kernel that runs us.
#[derive(Debug, Default)]
pub struct Linux {
    console: Console,
    /// Held so that it is fed nowhere but by systemd; closing it without the
    /// magic character leaves it counting.
    watchdog: Option<File>,
    slot: Option<FoundSlot>,
    root_device: Option<PathBuf>,
}

impl Kernel for Linux {
    fn perform(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Mount(what) => self.mount_kernel_fs(*what),
            Step::LoadModule(path) => load_module(path),
            Step::StartWatchdog(timeout) => self.start_watchdog(*timeout),
            Step::FindSlot {
                root_hash,
                patience,
            } => self.find_slot(root_hash, *patience),
            Step::MendNames => self.mend_names(),
            Step::OpenVerity(root_hash) => self.open_verity(root_hash),
            Step::MountRoot => self.mount_root(),
            Step::MoveMount(what) => {
                let place = what.place();
                Ok(mount_move(
                    Path::new("/").join(place),
                    Path::new(SYSROOT).join(place),
                )?)
            }
            Step::FreeInitramfs => initramfs::free(),
            Step::SwitchRoot => switch_root(),
            Step::StartSystemd => {
                // Nothing of the boot loader's or the kernel's environment reaches
                // systemd, which reads the command line by itself. This returns
                // only when it failed. The watchdog's descriptor closes on exec.
                Err(Command::new("/usr/lib/systemd/systemd")
                    .arg0("/sbin/init")
                    .env_clear()
                    .exec())
            }
        }
    }

    fn say(&mut self, line: &str) {
        self.console.say(line);
    }
}

impl Linux {
    /// Reports that this boot is lost. PID 1 is to end then, which is a panic: the kernel keeps its log
    /// in the firmware, leaves the console standing for as long as `panic=` says, so that no boot
    /// that fails is followed by the next at once, and restarts. The boot loader has counted the
    /// try, if it counts, so that the other slot gets its turn.
    pub fn give_up(&mut self, why: &str) {
        match back_off() {
            Ok(seconds) => {
                let line = format!("{why}; the kernel restarts in {seconds} s");
                self.console.complain(&line);
                rustix::fs::sync();
            }
            // A panic might be the end.
            Err(error) => {
                self.console.complain(&format!("{why}; restarting"));
                self.console.complain(&format!("{PANIC_SECONDS}: {error}"));
                rustix::fs::sync();
                if let Err(errno) = reboot(RebootCommand::Restart) {
                    self.console.complain(&format!("cannot restart: {errno}"));
                }
            }
        }
    }

    fn mount_kernel_fs(&mut self, what: KernelFs) -> io::Result<()> {
        let place = Path::new("/").join(what.place());
        make_directory(&place)?;
        let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let (kind, flags) = match what {
            KernelFs::Dev => ("devtmpfs", MountFlags::NOSUID),
            KernelFs::Proc => ("proc", safe),
            KernelFs::Sys => ("sysfs", safe),
        };
        mount(kind, &place, kind, flags, None)?;
        if what == KernelFs::Dev {
            self.console.open();
        }
        Ok(())
    }

    fn start_watchdog(&mut self, timeout: Duration) -> io::Result<()> {
        let watchdog = OpenOptions::new()
            .write(true)
            .open(WATCHDOG)
            .map_err(|error| {
                let hint = if error.kind() == io::ErrorKind::NotFound {
                    " (no driver found one)"
                } else {
                    ""
                };
                io::Error::other(format!("{WATCHDOG}: {error}{hint}"))
            })?;
        // From here on it counts, also when its timeout stays its own.
        let watchdog = self.watchdog.insert(watchdog);
        let mut seconds = c_int::try_from(timeout.as_secs()).map_err(io::Error::other)?;
        // SAFETY: the opcode names the size of an int, which the kernel reads and writes.
        let set = unsafe { Updater::<SET_TIMEOUT, c_int>::new(&mut seconds) };
        // SAFETY: `set` upholds the contract of this opcode, and WATCHDOG is a watchdog device.
        let outcome = unsafe { ioctl(&*watchdog, set) };
        let name = fs::read_to_string("/sys/class/watchdog/watchdog0/identity").unwrap_or_default();
        let name = name.trim();
        if let Err(errno) = outcome {
            return Err(io::Error::other(format!(
                "{name} runs with its own timeout: {errno}"
            )));
        }
        self.say(&format!(
            "{WATCHDOG} ({name}) bites {seconds} s after its last sign of life"
        ));
        Ok(())
    }

    fn find_slot(&mut self, root_hash: &RootHash, patience: Duration) -> io::Result<()> {
        let mut uevents = Uevents::listen()?;
        let devices = BlockDevices::of_kernel();
        let found =
            find_slot(&devices, root_hash, patience, &mut uevents).map_err(io::Error::other)?;
        for other in &found.also {
            self.say(&format!(
                "{other} holds the same image; taking {}",
                found.slot
            ));
        }
        self.slot = Some(found.slot);
        Ok(())
    }

    fn mend_names(&self) -> io::Result<()> {
        let esp = self.slot.as_ref().and_then(|slot| slot.esp.as_deref());
        let esp = esp.ok_or_else(|| io::Error::other("there is no EFI system partition"))?;
        torn_count::mend_apart(esp)
    }

    fn open_verity(&mut self, root_hash: &RootHash) -> io::Result<()> {
        let slot = self
            .slot
            .as_ref()
            .ok_or_else(|| io::Error::other("no slot was found before"))?;
        let mut dm = KernelDm::open(Path::new("/dev/mapper/control")).map_err(io::Error::other)?;
        let device = root_device::open(slot, root_hash, &mut dm).map_err(io::Error::other)?;
        let line = format!(
            "{slot} is opened as {} with root hash {root_hash}",
            device.display()
        );
        self.root_device = Some(device);
        self.say(&line);
        Ok(())
    }

    fn mount_root(&mut self) -> io::Result<()> {
        let device = self.root_device.as_deref();
        let device =
            device.ok_or_else(|| io::Error::other("no verity device was opened before"))?;
        make_directory(Path::new(SYSROOT))?;
        // No NOSUID: it would also switch off file capabilities and SELinux transitions.
        mount(
            device,
            SYSROOT,
            "erofs",
            MountFlags::RDONLY | MountFlags::NODEV,
            None,
        )
        .map_err(|errno| io::Error::other(format!("{}: {errno}", device.display())))
    }
}

/// Makes sure that a panic ends in a restart, and not too soon. Returns after how many seconds.
fn back_off() -> io::Result<u32> {
    let text = fs::read_to_string(PANIC_SECONDS)?;
    // None is to wait for ever, and less is not to wait.
    match text.trim().parse::<u32>() {
        Ok(seconds) if seconds >= BACK_OFF => Ok(seconds),
        Ok(_) | Err(_) => {
            fs::write(PANIC_SECONDS, format!("{BACK_OFF}\n"))?;
            Ok(BACK_OFF)
        }
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

fn load_module(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let compressed = path.extension().is_some_and(|extension| extension != "ko");
    let flags = if compressed { COMPRESSED_FILE } else { 0 };
    match finit_module(&file, c"", flags) {
        // Built into the kernel, or loaded by another name.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        // "No such file" is how the kernel says that a symbol is missing.
        Err(Errno::NOENT) => Err(io::Error::other("it needs another one that is not loaded")),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes the root file system `/`. There is no way back: the old root stays
/// below it, empty, since the kernel cannot do without it.
fn switch_root() -> io::Result<()> {
    chdir(SYSROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}
