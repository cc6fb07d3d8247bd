//! A virtual machine that is switched off: its disk, its firmware's variables, its identity.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use partition_layout::SectorSize;
use tempfile::TempDir;

use crate::block_nodes;
use crate::bus::BUSWAY_PORT;
use crate::console::Console;
use crate::cuts::recording::Recording;
use crate::deadline::Deadline;
use crate::emulator::Emulator;
use crate::firmware;
use crate::journal;
use crate::node::{Node, Process};
use crate::outside::OutsideDisk;
use crate::probe::PROBE_PORT;
use crate::qmp;
use crate::smbios::Handed;

/// Size of a node's disk: the shipped image, slot B, and 3 GiB of `/var`.
const DISK_BYTES: u64 = 8 << 30;

/// The processor: all that QEMU can emulate, but for one instruction.
///
/// QEMU 7.2, which a host may still bring, gives a processor wrong flags when an
/// interrupt comes right after `cmpxchg16b`, which the kernel's allocator executes all
/// the time: one boot in two then ended in a double fault on a busy host. Without the
/// feature the kernel does the same by other means.
const CPU: &str = "max,cx16=off";

/// A machine that is switched off.
///
/// Switching it on turns it into a [`Node`], cutting its power turns that back
/// into a machine: so nobody reads a disk that a node is writing.
#[derive(Debug)]
pub struct Machine {
    folder: PathBuf,
    uuid: String,
    emulator: Emulator,
    handed: Handed,
    disks: Vec<ExtraDisk>,
    watchdog: Watchdog,
    processors: u8,
    sectors: SectorSize,
    /// Where all that is done to the disk is logged.
    log: Option<PathBuf>,
    power_ons: u32,
}

/// What ends a machine that shows no sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watchdog {
    /// A card that the node's kernel drives.
    Card,
    /// None in the machine.
    Absent,
}

#[derive(Debug)]
struct ExtraDisk {
    serial: String,
    path: PathBuf,
}

impl Machine {
    /// Makes a machine in `folder` whose disk starts as a copy of `image`.
    ///
    /// The copy is raw and sparse (about 150 MB), so that the disk can be read
    /// and damaged from outside without any tool of QEMU's; `image` itself is
    /// never opened for writing.
    ///
    /// # Errors
    ///
    /// Fails when the image or the firmware is missing, or the copy cannot be made.
    pub fn create(folder: &Path, image: &Path, handed: Handed) -> Result<Self> {
        let emulator = Emulator::find()?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let disk = folder.join("disk.raw");
        copy_sparse(image, &disk)?;
        File::options()
            .write(true)
            .open(&disk)
            .and_then(|file| file.set_len(DISK_BYTES))
            .with_context(|| format!("cannot grow {}", disk.display()))?;
        fs::copy(emulator.variables(), folder.join("variables.fd"))
            .context("cannot copy the firmware's variables")?;
        let uuid =
            fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot make a UUID")?;
        Ok(Self {
            folder: folder.into(),
            uuid: uuid.trim().into(),
            emulator,
            handed,
            disks: Vec::new(),
            watchdog: Watchdog::Card,
            processors: 1,
            sectors: SectorSize::B512,
            log: None,
            power_ons: 0,
        })
    }

    /// Adds a disk that the node can only read, as `/dev/disk/by-id/virtio-SERIAL`.
    #[must_use]
    pub fn with_disk(mut self, serial: &str, path: &Path) -> Self {
        self.disks.push(ExtraDisk {
            serial: serial.into(),
            path: path.into(),
        });
        self
    }

    /// Takes the watchdog out.
    #[must_use]
    pub fn without_watchdog(mut self) -> Self {
        self.watchdog = Watchdog::Absent;
        self
    }

    /// Gives it a second processor. One is emulated with a sixth less work for each boot,
    /// and three machines that share two cores have no use for more.
    #[must_use]
    pub fn with_two_processors(mut self) -> Self {
        self.processors = 2;
        self
    }

    /// Has the disk count in sectors of this size.
    #[must_use]
    pub fn with_sectors(mut self, sectors: SectorSize) -> Self {
        self.sectors = sectors;
        self
    }

    /// Keeps the disk as it is now for `recording`, and logs there what is done to it
    /// from now on. It may be switched on once.
    ///
    /// # Errors
    ///
    /// Fails when the disk cannot be copied or the log not made.
    pub fn recorded(mut self, recording: &Recording) -> Result<Self> {
        copy_sparse(&self.disk_path(), &recording.image())?;
        let log = recording.log();
        File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        self.log = Some(log);
        Ok(self)
    }

    /// Hands in `handed` from the next start on, instead of what was handed in before.
    #[must_use]
    pub fn handing_in(mut self, handed: Handed) -> Self {
        self.handed = handed;
        self
    }

    /// Copies the disk to the file `name` in the machine's folder, as another
    /// machine's disk or a snapshot, and returns its path.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be copied.
    pub fn copy_disk(&self, name: &str) -> Result<PathBuf> {
        let copy = self.folder.join(name);
        copy_sparse(&self.disk_path(), &copy)?;
        Ok(copy)
    }

    /// Looks at the disk from outside.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read, or holds no disk of ours.
    pub fn disk(&self) -> Result<OutsideDisk> {
        OutsideDisk::open(&self.disk_path())
    }

    /// Returns the folder that holds the machine's files and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn disk_path(&self) -> PathBuf {
        self.folder.join("disk.raw")
    }

    /// Switches the machine on: a cold boot from firmware.
    ///
    /// Must be awaited on a thread that lives as long as the node should (a
    /// test's or `main`'s own, not a task's): the kernel kills QEMU when the
    /// thread that started it ends, so that nothing is left after Ctrl-C.
    ///
    /// # Errors
    ///
    /// Fails when QEMU cannot be started or ends at once.
    pub async fn power_on(mut self) -> Result<Node> {
        self.power_ons += 1;
        // Apart from the machine's own folder, as a socket's path has a low limit.
        let sockets =
            TempDir::with_prefix("bistable-").context("cannot make a folder for sockets")?;
        let socket = sockets.path().join("qmp");
        let expected = qmp::Expected::at(&socket)?;
        let arguments = self.arguments(&socket)?;
        let errors = self.folder.join("qemu.log");
        let started = Instant::now();
        let mut child = self
            .emulator
            .command()?
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(
                File::create(&errors)
                    .with_context(|| format!("cannot make {}", errors.display()))?,
            )
            .spawn()
            .context("cannot run setpriv and qemu-system-x86_64")?;
        let output = child.stdout.take();
        // From here on the process is killed however this function ends.
        let process = Process::new(child, sockets);
        let console = Console::read_from(
            output.context("QEMU has no output")?,
            &self.folder.join("console.log"),
        )?;
        let qmp = expected
            .connect(Deadline::after(30))
            .await
            .with_context(|| {
                let said = fs::read_to_string(&errors).unwrap_or_default();
                format!("QEMU did not start: {}", said.trim())
            })?;
        // Ends by itself when QEMU is gone.
        drop(tokio::spawn(firmware::watch(qmp.clone(), console.clone())));
        let network = qmp.human("info usernet", Deadline::after(30)).await?;
        let bus_port =
            forwarded_port(&network, BUSWAY_PORT).context("the D-Bus port is not forwarded")?;
        let probe_port =
            forwarded_port(&network, PROBE_PORT).context("the probe's port is not forwarded")?;
        Ok(Node::new(
            self, process, console, qmp, bus_port, probe_port, started,
        ))
    }

    fn arguments(&self, qmp_socket: &Path) -> Result<Vec<String>> {
        let mut arguments: Vec<String> = Vec::new();
        let mut add =
            |words: &[&str]| arguments.extend(words.iter().map(|word| String::from(*word)));
        add(&["-nodefaults", "-display", "none"]);
        add(&["-accel", "tcg,thread=multi", "-cpu", CPU]);
        add(&["-M", "q35", "-m", "1024"]);
        add(&["-smp", &self.processors.to_string()]);
        add(&["-uuid", &self.uuid]);
        add(&[
            "-drive",
            &format!(
                "if=pflash,unit=0,format=raw,readonly=on,file={}",
                self.emulator.firmware().display()
            ),
        ]);
        let variables = self.folder.join("variables.fd");
        add(&[
            "-drive",
            &format!("if=pflash,unit=1,format=raw,file={}", variables.display()),
        ]);
        for node in block_nodes::of_disk(&self.disk_path(), self.log.as_deref()) {
            add(&["-blockdev", &node.to_string()]);
        }
        let sector = self.sectors.bytes();
        add(&[
            "-device",
            &format!(
                "virtio-blk-pci,drive={},serial=bistable,bootindex=1,\
                 logical_block_size={sector},physical_block_size={sector}",
                block_nodes::DISK
            ),
        ]);
        for (index, ExtraDisk { serial, path }) in self.disks.iter().enumerate() {
            add(&[
                "-drive",
                &format!(
                    "if=none,id=extra{index},format=raw,readonly=on,file={}",
                    path.display()
                ),
            ]);
            add(&[
                "-device",
                &format!("virtio-blk-pci,drive=extra{index},serial={serial}"),
            ]);
        }
        // Port 0: the host chooses, so that no two machines can want the same.
        let local = Ipv4Addr::LOCALHOST;
        let network = format!(
            "user,id=net,hostfwd=tcp:{local}:0-:{BUSWAY_PORT},hostfwd=tcp:{local}:0-:{PROBE_PORT}"
        );
        add(&["-netdev", &network, "-device", "virtio-net-pci,netdev=net"]);
        if self.watchdog == Watchdog::Card {
            add(&["-device", "i6300esb", "-action", "watchdog=reset"]);
        }
        add(&[
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
        ]);
        let journal = self.folder.join(journal::LOG);
        add(&[
            "-chardev",
            &format!("file,id=journal,append=on,path={}", journal.display()),
            "-serial",
            "chardev:journal",
        ]);
        add(&[
            "-chardev",
            &format!("socket,id=qmp,path={}", qmp_socket.display()),
        ]);
        add(&["-mon", "chardev=qmp,mode=control"]);
        arguments.extend(self.handed.write(&self.folder.join("handed"))?);
        Ok(arguments)
    }
}

pub(crate) fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp")
        .args(["--sparse=always", "--reflink=auto", "--"])
        .args([from, to])
        .status()
        .context("cannot run cp")?;
    if !copied.success() {
        bail!(
            "cannot copy {} to {}: {copied}",
            from.display(),
            to.display()
        );
    }
    Ok(())
}

/// Finds the host's port for the node's port `guest` in what `info usernet` prints.
fn forwarded_port(table: &str, guest: u16) -> Option<u16> {
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if words.next()? != "TCP[HOST_FORWARD]" {
            return None;
        }
        // File descriptor, host's address, host's port, node's address, node's port.
        let host: u16 = words.nth(2)?.parse().ok()?;
        (words.nth(1)?.parse() == Ok(guest)).then_some(host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forwarded_port_is_read_from_the_monitors_table() {
        let table = "Hub -1 (n):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                     TCP[HOST_FORWARD]   8       127.0.0.1 44241       10.0.2.15  7411     0     0\r\n  \
                     TCP[HOST_FORWARD]   9       127.0.0.1 44242       10.0.2.15  7412     0     0\r\n";
        assert_eq!(forwarded_port(table, 7411), Some(44241));
        assert_eq!(forwarded_port(table, 7412), Some(44242));
        assert_eq!(forwarded_port(table, 7413), None);
    }
}
