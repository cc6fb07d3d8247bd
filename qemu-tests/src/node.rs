//! A virtual machine that is switched on.

use std::process::Child;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::block_nodes;
use crate::bus::Bus;
use crate::console::Console;
use crate::deadline::Deadline;
use crate::emulator::Emulator;
use crate::faults::Faults;
use crate::machine::Machine;
use crate::outside::OutsideDisk;
use crate::probe;
use crate::qmp::{EventMark, Qmp};

/// How long a node may take from firmware to an answer on its bus.
///
/// About 30 s alone on two cores; three times as long beside another node and
/// a build, and once more for luck.
pub const BOOT_SECONDS: u64 = 240;

/// How long an ordered reboot may take until the machine resets.
pub const RESET_SECONDS: u64 = 150;

/// A running QEMU, killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    _sockets: TempDir,
}

impl Process {
    pub(crate) fn new(child: Child, sockets: TempDir) -> Self {
        Self {
            child,
            _sockets: sockets,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it has ended by itself.
        drop(self.child.kill());
        // So that its files are free, and no zombie is left.
        drop(self.child.wait());
    }
}

/// A machine that is switched on.
#[derive(Debug)]
pub struct Node {
    // Dropped first: the process goes before its files do.
    process: Process,
    machine: Machine,
    console: Console,
    qmp: Qmp,
    bus_port: u16,
    probe_port: u16,
    powered_on: Instant,
}

impl Node {
    pub(crate) fn new(
        machine: Machine,
        process: Process,
        console: Console,
        qmp: Qmp,
        bus_port: u16,
        probe_port: u16,
        powered_on: Instant,
    ) -> Self {
        Self {
            process,
            machine,
            console,
            qmp,
            bus_port,
            probe_port,
            powered_on,
        }
    }

    /// Returns its serial console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Returns the connection to its hypervisor.
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// Returns when QEMU was started.
    pub fn powered_on(&self) -> Instant {
        self.powered_on
    }

    /// Returns the process number of its QEMU.
    pub fn process_id(&self) -> u32 {
        self.process.child.id()
    }

    /// Waits until the node's own D-Bus answers, and connects to it.
    ///
    /// # Errors
    ///
    /// Fails at the deadline, with what the last attempt met.
    pub async fn bus(&self) -> Result<Bus> {
        Bus::connect(self.bus_port, Deadline::after(BOOT_SECONDS))
            .await
            .with_context(|| format!("console: {}", self.console.log().display()))
    }

    /// Asks the probe, for which the machine must have been given one.
    ///
    /// # Errors
    ///
    /// Fails when the probe cannot be reached or does not do what it is asked.
    pub async fn probe(&self, request: &probe::Request<'_>) -> Result<String> {
        probe::ask(self.probe_port, request, Deadline::after(BOOT_SECONDS)).await
    }

    /// Waits for a reset of the machine after `mark` that the node caused.
    ///
    /// # Errors
    ///
    /// Fails when it does not come within `seconds`.
    pub async fn reset(&self, mark: EventMark, seconds: u64) -> Result<()> {
        self.qmp
            .wait_for_own_reset(mark, Deadline::after(seconds))
            .await
            .with_context(|| format!("console: {}", self.console.log().display()))?;
        Ok(())
    }

    /// Cuts the power: QEMU is killed where it stands.
    pub fn cut(self) -> Machine {
        // The process ends as the rest of `self` goes out of scope.
        let Self {
            machine, process, ..
        } = self;
        drop(process);
        machine
    }

    /// Shuts the node down in good order, and waits until the machine is off.
    ///
    /// # Errors
    ///
    /// Fails when it is not off in time.
    pub async fn shut_down(self) -> Result<Machine> {
        let bus = self.bus().await?;
        bus.power_off().await?;
        self.qmp
            .gone(Deadline::after(RESET_SECONDS))
            .await
            .context("the node does not switch off")?;
        Ok(self.cut())
    }

    /// Freezes the node, has `look` look at its disk from outside, and lets it go on:
    /// this is what the disk would hold if the power failed now.
    ///
    /// # Errors
    ///
    /// Fails when QEMU refuses, the disk cannot be read, or `look` fails.
    pub async fn look_at_disk<T>(&self, look: impl FnOnce(&OutsideDisk) -> Result<T>) -> Result<T> {
        self.freeze().await?;
        let seen = self.machine.disk().and_then(|disk| look(&disk));
        self.thaw().await?;
        seen
    }

    /// Freezes the node; [`Self::thaw`] lets it go on.
    ///
    /// # Errors
    ///
    /// Fails when QEMU refuses.
    pub async fn freeze(&self) -> Result<()> {
        self.qmp
            .execute("stop", Value::Null, Deadline::after(30))
            .await?;
        Ok(())
    }

    /// Has the disk refuse what `faults` say, until [`Self::mend_disk`].
    ///
    /// # Errors
    ///
    /// Fails when QEMU refuses, and when the disk fails already.
    pub async fn break_disk(&self, faults: &Faults) -> Result<()> {
        block_nodes::insert(&self.qmp, faults).await
    }

    /// Has the disk work again.
    ///
    /// # Errors
    ///
    /// Fails when QEMU refuses.
    pub async fn mend_disk(&self) -> Result<()> {
        block_nodes::remove(&self.qmp).await
    }

    /// Lets a frozen node go on.
    ///
    /// # Errors
    ///
    /// Fails when QEMU refuses.
    pub async fn thaw(&self) -> Result<()> {
        self.qmp
            .execute("cont", Value::Null, Deadline::after(30))
            .await?;
        Ok(())
    }
}

/// Says whether this machine can run nodes, and what it lacks.
///
/// # Errors
///
/// Fails with the first program that is missing, and its package.
pub fn check_host() -> Result<()> {
    Emulator::find()?;
    for program in ["setpriv", "mdir", "mcopy", "mren", "mdel", "mkfs.vfat"] {
        host_tools::find(program).context("this machine cannot run nodes")?;
    }
    Ok(())
}
