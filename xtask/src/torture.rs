//! What `cargo xtask test` holds a sample of: histories of a simulated node, the largest image
//! in little memory, the stories that are rarely told, and cuts of the power and faults of the
//! disk of a real node for as long as one likes.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::runner::Runner;
use crate::{emulator, host, programs, releases, rungs};

/// What the story reads what it is asked for from.
const MINUTES: &str = "BISTABLE_TORTURE_MINUTES";
const SEED: &str = "BISTABLE_TORTURE_SEED";
const RECORDING: &str = "BISTABLE_TORTURE_RECORDING";
/// Where the histories leave their part of the table.
const TABLE: &str = "BISTABLE_TORTURE_TABLE";
/// Of so many minutes the histories have one, and one at least.
const SHARE_OF_HISTORIES: u64 = 6;

/// What a torture is asked for.
#[derive(Debug)]
pub(crate) struct Torture {
    pub(crate) minutes: u64,
    pub(crate) seed: u64,
    pub(crate) recording: Option<PathBuf>,
}

/// Returns a seed that is hardly ever the same.
pub(crate) fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // Short enough to be typed.
    now.map_or(0, |now| u64::from(now.subsec_nanos()))
}

/// Makes what the story needs, and tells it.
pub(crate) fn run(checkout: &Checkout, runner: &Runner, asked: &Torture) -> Result<()> {
    host::set_up(runner)?;
    let programs = programs::build(checkout, runner)?;
    let recipes = [releases::DEMO, releases::STORIES].concat();
    releases::prepare(checkout, runner, &programs, &recipes)?;
    let emulator = emulator::unpack(checkout, runner, &programs)?;
    let Torture {
        minutes,
        seed,
        recording,
    } = asked;
    let said = format!("torture: {minutes} minutes, --seed {seed}");
    writeln!(io::stdout(), "{said}").context("cannot print")?;
    let table = checkout.build().join("histories.txt");
    let mut histories = rungs::test(checkout);
    histories
        .args(["--test", "histories"])
        .env(MINUTES, (minutes / SHARE_OF_HISTORIES).max(1).to_string())
        .env(SEED, seed.to_string())
        .env(TABLE, &table)
        .args(["--", "--ignored", "--nocapture", "torture_by_histories"]);
    runner.run(&mut histories)?;
    let mut memory = rungs::test(checkout);
    memory
        .args(["--test", "memory"])
        .args(["--", "--ignored", "--nocapture", "an_image_of_8_gib"]);
    runner.run(&mut memory)?;

    if recording.is_none() {
        rungs::rare_stories(checkout, runner, &programs, &emulator)?;
    }
    let mut story = rungs::slow_test(checkout, &programs, "stories");
    story
        .env(emulator::VARIABLE, emulator)
        .env(MINUTES, minutes.to_string())
        .env(SEED, seed.to_string());
    if let Some(folder) = recording {
        let folder = folder.canonicalize();
        let folder = folder.with_context(|| format!("cannot find the recording {recording:?}"))?;
        story.env(RECORDING, folder);
    }
    story.args([
        "--",
        "--ignored",
        "--nocapture",
        "torture_by_cuts_and_faults",
    ]);
    runner.run(&mut story)?;
    let rows = fs::read_to_string(&table);
    let rows = rows.with_context(|| format!("cannot read {}", table.display()))?;
    write!(io::stdout(), "{rows}").context("cannot print")
}
