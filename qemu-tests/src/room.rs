//! Room on a node's disk, taken from outside while the node is off, and given back.
//!
//! The ESP by mtools, `/var` by `debugfs`: neither needs a mount, or root.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};

use crate::outside::OutsideDisk;

/// What takes the room, on the ESP.
const FILLER: &str = "::/filler";
/// The same on `/var`, as the node sees it: without it there is room again.
pub const VAR_FILLER: &str = "/var/filler";
/// What is left on the ESP: enough to rename, and for no kernel image.
const LEFT: u64 = 1 << 20;
/// Blocks of `/var` that are taken one by one, since a large file needs blocks of its own
/// to say where it lies, and nobody knows how many.
const SINGLE: u64 = 256;
const BLOCK: usize = 4096;

impl OutsideDisk {
    /// Leaves a MiB of room on the ESP.
    ///
    /// # Errors
    ///
    /// Fails when mtools do.
    pub fn fill_esp(&self) -> Result<()> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let filler = folder.path().join("filler");
        let room = self.esp_room()?;
        File::create(&filler)
            .and_then(|file| file.set_len(room.saturating_sub(LEFT)))
            .with_context(|| format!("cannot make {}", filler.display()))?;
        let mut copy = self.on_esp("mcopy")?;
        run(copy.arg(&filler).arg(FILLER))?;
        let room = self.esp_room()?;
        ensure!(room <= LEFT, "the ESP has room for {room} bytes still");
        Ok(())
    }

    /// Takes away what fills the ESP.
    ///
    /// # Errors
    ///
    /// Fails when mtools do.
    pub fn clear_esp(&self) -> Result<()> {
        run(self.on_esp("mdel")?.arg(FILLER)).map(drop)
    }

    /// Takes every block of `/var`, those included that are kept for root.
    ///
    /// # Errors
    ///
    /// Fails when there is no `/var`, `debugfs` fails, or blocks are left.
    pub fn fill_var(&self) -> Result<()> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let single = folder.path().join("single");
        // Of a block of zeros it would make a hole.
        fs::write(&single, [b'.'; BLOCK])
            .with_context(|| format!("cannot write {}", single.display()))?;
        let filler = VAR_FILLER.trim_start_matches("/var/");
        let large = self.free_var_blocks()?.saturating_sub(SINGLE);
        let mut orders = format!(
            "write /dev/null {filler}\nfallocate {filler} 0 {}\nmkdir singles\n",
            large.saturating_sub(1)
        );
        for number in 0..SINGLE {
            writeln!(orders, "write {} singles/{number}", single.display())?;
        }
        let script = folder.path().join("orders");
        fs::write(&script, orders).with_context(|| format!("cannot write {}", script.display()))?;
        let place = self.var_place()?;
        run(host_tools::command("debugfs")?
            .args(["-w", "-f"])
            .arg(&script)
            .arg(&place))?;
        let free = self.free_var_blocks()?;
        ensure!(free == 0, "/var has {free} free blocks still");
        Ok(())
    }

    /// Checks that nothing is wrong with the file system of `/var`, which was unmounted.
    ///
    /// # Errors
    ///
    /// Fails with what `e2fsck` says.
    pub fn expect_sound_var(&self) -> Result<()> {
        let place = self.var_place()?;
        run(host_tools::command("e2fsck")?.args(["-f", "-n", &place])).map(drop)
    }

    fn esp_room(&self) -> Result<u64> {
        let listing = run(self.on_esp("mdir")?.arg("::/"))?;
        let digits = |line: &str| {
            line.chars()
                .filter(char::is_ascii_digit)
                .collect::<String>()
        };
        let room = listing
            .lines()
            .find_map(|line| line.strip_suffix(" bytes free"));
        let room = room.context("mdir does not say how much is free")?;
        digits(room).parse().context("mdir says no number")
    }

    pub(crate) fn on_esp(&self, program: &str) -> Result<Command> {
        let mut command = host_tools::command(program)?;
        command.args(["-i", &self.esp_place()]);
        Ok(command)
    }

    fn free_var_blocks(&self) -> Result<u64> {
        let place = self.var_place()?;
        let said = run(host_tools::command("debugfs")?.args(["-R", "stats -h", &place]))?;
        let blocks = said
            .lines()
            .find_map(|line| line.strip_prefix("Free blocks:"));
        let blocks = blocks.context("debugfs does not say how many blocks are free")?;
        blocks.trim().parse().context("debugfs says no number")
    }

    /// Where `/var` is, as e2fsprogs are told.
    fn var_place(&self) -> Result<String> {
        let start = self.var()?.start;
        Ok(format!("{}?offset={start}", self.path().display()))
    }
}

pub(crate) fn run(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        let complaint = String::from_utf8_lossy(&stderr);
        bail!("{command:?}: {status}\n{said}{complaint}");
    }
    Ok(said)
}
