//! A story: a folder of its own, a clock, and everything said when it fails.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use partition_layout::Slot;
use serde_json::json;

use crate::bus::{self, Bus};
use crate::console;
use crate::cuts::recording;
use crate::fixtures::{Fixtures, Image};
use crate::journal;
use crate::machine::Machine;
use crate::node;
use crate::outside::Held;
use crate::probe;
use crate::publisher::{Publisher, Repository};
use crate::server::Server;
use crate::smbios::Handed;

/// How many lines of the console are of each log are shown when a story fails.
const TAIL: usize = 60;

/// The name of a copy of a node's disk.
pub const TWIN: &str = "twin.raw";

/// The name of a disk that was rebuilt as it may have been. The machine that boots it is
/// in the folder `state`.
pub const STATE: &str = "state.raw";

/// What a story stands on.
#[derive(Debug)]
pub struct Story {
    name: String,
    folder: PathBuf,
    fixtures: Fixtures,
    started: Instant,
    steps: Vec<(String, f64)>,
}

/// A repository, and the server that serves it to one node.
#[derive(Debug)]
pub struct Shop {
    /// The files.
    pub repository: Repository,
    /// The server.
    pub server: Server,
    /// Who signs them.
    pub publisher: Publisher,
}

/// Tells a story in a folder of its own below the build folder.
///
/// The folder is emptied before; after a story that ends well only its logs
/// are kept. One that fails keeps all, and prints the ends of its logs.
///
/// # Errors
///
/// Fails as `body` does.
pub async fn tell(name: &str, body: impl AsyncFnOnce(&mut Story) -> Result<()>) -> Result<()> {
    let mut story = Story::begin(name)?;
    let result = body(&mut story).await;
    story.end(&result)?;
    result.with_context(|| {
        format!(
            "the story {name} failed; its files are in {}",
            story.folder.display()
        )
    })
}

impl Story {
    fn begin(name: &str) -> Result<Self> {
        node::check_host()?;
        let fixtures = Fixtures::find()?;
        let folder = fixtures.build().join("stories").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self {
            name: name.into(),
            folder,
            fixtures,
            started: Instant::now(),
            steps: Vec::new(),
        })
    }

    /// Returns the ready-made images and keys.
    pub fn fixtures(&self) -> &Fixtures {
        &self.fixtures
    }

    /// Returns the story's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the image called `name`.
    ///
    /// # Errors
    ///
    /// As [`Fixtures::image`].
    pub fn image(&self, name: &str) -> Result<Image> {
        self.fixtures.image(name)
    }

    /// Says that a part of the story is over.
    pub fn step(&mut self, what: &str) {
        let now = self.started.elapsed().as_secs_f64();
        say(format_args!("{:7.1} s  {}: {what}", now, self.name));
        self.steps.push((what.into(), now));
    }

    /// Opens a repository that holds `images`, and a server for it.
    ///
    /// # Errors
    ///
    /// Fails when publishing does, or no port can be had.
    pub async fn open_shop(&self, images: &[&str]) -> Result<Shop> {
        let repository = Repository::at(&self.folder.join("repository"));
        let publisher = self.fixtures.publisher();
        for name in images {
            publisher.publish(&self.image(name)?, &repository)?;
        }
        let server = Server::start(repository.folder()).await?;
        Ok(Shop {
            repository,
            server,
            publisher,
        })
    }

    /// Makes a machine with release 1 on its disk.
    ///
    /// # Errors
    ///
    /// As [`Machine::create`].
    pub fn machine(&self, handed: Handed) -> Result<Machine> {
        Machine::create(&self.folder, &self.image("1")?.disk()?, whole(handed))
    }

    /// Makes a machine in `folder` whose disk starts as a copy of `image`.
    ///
    /// # Errors
    ///
    /// As [`Machine::create`].
    pub fn machine_of(&self, folder: &Path, image: &Path, handed: Handed) -> Result<Machine> {
        Machine::create(folder, image, whole(handed))
    }

    /// Switches to `handed` what is handed to `machine`.
    pub fn hand_over(&self, machine: Machine, handed: Handed) -> Machine {
        machine.handing_in(whole(handed))
    }

    /// Makes a machine with release 1 on its disk, and the probe and others beside it.
    ///
    /// # Errors
    ///
    /// As [`Machine::create`], and when the probe cannot be built.
    pub fn machine_with_probe(&self, handed: Handed, others: &[(&str, &Path)]) -> Result<Machine> {
        self.put_probe(self.machine(probe::hand_in(handed))?, others)
    }

    /// The same with a disk that starts as a copy of `image`.
    ///
    /// # Errors
    ///
    /// As [`Self::machine_with_probe`].
    pub fn machine_of_with_probe(&self, image: &Path, handed: Handed) -> Result<Machine> {
        let machine = self.machine_of(&self.folder, image, probe::hand_in(handed))?;
        self.put_probe(machine, &[])
    }

    fn put_probe(&self, machine: Machine, others: &[(&str, &Path)]) -> Result<Machine> {
        let program = probe::build(&self.folder)?;
        let disk = probe::disk(&self.folder, &program, others)?;
        Ok(machine.with_disk(probe::PROBE_DISK, &disk))
    }

    /// Prints and keeps what the story took, and clears away what is large.
    fn end(&self, result: &Result<()>) -> Result<()> {
        let steps: Vec<_> = self
            .steps
            .iter()
            .map(|(what, at)| json!({ "step": what, "at_seconds": at }))
            .collect();
        let timings = json!({ "story": self.name, "passed": result.is_ok(), "seconds": self.started.elapsed().as_secs_f64(), "steps": steps });
        fs::write(self.folder.join("timings.json"), format!("{timings:#}\n"))
            .context("cannot keep the timings")?;
        match result {
            Ok(()) => {
                let large = ["disk.raw", TWIN, "repository", "strange-repository"];
                let large = large
                    .into_iter()
                    .chain([STATE, "state/disk.raw", "victim", "patient"]);
                for name in large.chain(recording::LARGE) {
                    remove(&self.folder.join(name));
                }
                say(format_args!(
                    "{:7.1} s  {}: the end",
                    self.started.elapsed().as_secs_f64(),
                    self.name
                ));
            }
            Err(error) => {
                say(format_args!("\nstory {} failed: {error:#}", self.name));
                self.say_logs();
            }
        }
        Ok(())
    }

    /// Prints the ends of what the node said, without the lines that only move.
    fn say_logs(&self) {
        for name in ["console.log", journal::LOG] {
            let log = self.folder.join(name);
            let text = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines = text.lines().map(console::plain);
            let lines: Vec<String> = lines
                .filter(|line| !line.contains("] Job ") && !line.contains(") Job "))
                .collect();
            say(format_args!("the end of {}:", log.display()));
            for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
                say(format_args!("  | {line}"));
            }
        }
    }
}

/// Returns what every node is handed beside `handed`.
fn whole(handed: Handed) -> Handed {
    journal::hand_in(bus::hand_in(handed))
}

impl Drop for Story {
    fn drop(&mut self) {
        // An assertion that fails unwinds past `end`.
        if thread::panicking() {
            self.say_logs();
        }
    }
}

impl Shop {
    /// Tells a node where the repository is.
    #[must_use]
    pub fn configure(&self, handed: Handed) -> Handed {
        handed.credential(
            "bistable.updater.toml",
            &format!("repository = \"{}\"\n", self.server.url_for_node()),
        )
    }
}

/// Says one line of a story's progress.
#[expect(
    clippy::print_stdout,
    reason = "it is how a story is followed while it runs"
)]
pub fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
    // Nobody listens when this fails.
    drop(std::io::stdout().flush());
}

fn remove(path: &Path) {
    let result = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    // What is not there need not be removed, and what remains only costs room.
    drop(result);
}

/// What a slot should be, seen from both sides.
#[derive(Clone, Copy, Debug)]
pub struct SlotIs<'a> {
    /// Its status over D-Bus.
    pub status: &'a str,
    /// Its image, if it holds one.
    pub image: Option<&'a Image>,
}

/// Checks over D-Bus which slot is booted and what both hold.
///
/// # Errors
///
/// Fails with what is there instead.
pub async fn expect_slots(bus: &Bus, booted: Slot, a: SlotIs<'_>, b: SlotIs<'_>) -> Result<()> {
    let slots = bus.slots().await?;
    let updater = bus.updater().await?;
    ensure!(
        updater.booted_slot == booted.to_string(),
        "slot {} is booted, not {booted}",
        updater.booted_slot
    );
    for ((report, is), name) in slots.iter().zip([a, b]).zip(Slot::ALL) {
        let image = is
            .image
            .map(|image| (image.version.as_str(), image.root_hash.as_str()));
        let (version, root_hash) = image.unwrap_or_default();
        ensure!(
            report.slot == name.to_string(),
            "{report:?} stands in the place of slot {name}"
        );
        ensure!(
            report.booted == (name == booted),
            "{report:?}, but {booted} is booted"
        );
        ensure!(
            report.status == is.status,
            "slot {name} is {}, not {}: {report:?}",
            report.status,
            is.status
        );
        ensure!(
            report.version == version,
            "slot {name} holds {:?}, not {version:?}",
            report.version
        );
        ensure!(
            report.root_hash == root_hash,
            "slot {name} has root hash {:?}, not {root_hash:?}",
            report.root_hash
        );
    }
    Ok(())
}

/// Checks from outside what both slots hold and which boot entries there are.
///
/// # Errors
///
/// Fails with what is there instead.
pub fn expect_disk(
    machine: &Machine,
    a: Option<&Image>,
    b: Option<&Image>,
    entries: &[&str],
) -> Result<()> {
    let disk = machine.disk()?;
    for (slot, image) in Slot::ALL.into_iter().zip([a, b]) {
        let expected = image.map(|image| Held {
            version: image.version.clone(),
            root_hash: image.root_hash.clone(),
        });
        let held = disk.slot(slot)?;
        ensure!(
            held == expected,
            "from outside, slot {slot} holds {held:?}, not {expected:?}"
        );
    }
    let names = disk.boot_folder()?;
    let mut expected = entries.to_vec();
    expected.sort_unstable();
    ensure!(
        names == expected,
        "from outside, the boot entries are {names:?}, not {expected:?}"
    );
    Ok(())
}
