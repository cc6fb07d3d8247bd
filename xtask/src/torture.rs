//! What `cargo xtask test` holds a sample of: histories of a simulated node, the largest image
//! in little memory, the stories that are rarely told, and cuts of the power and faults of the
//! disk of a real node for as long as one likes.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::checkout::Checkout;
use crate::runner::{Interrupted, Runner};
use crate::{emulator, host, programs, releases, rungs};

/// What the story reads what it is asked for from.
const MINUTES: &str = "BISTABLE_TORTURE_MINUTES";
const SEED: &str = "BISTABLE_TORTURE_SEED";
const RECORDING: &str = "BISTABLE_TORTURE_RECORDING";
/// Where the histories leave their part of the table for the last part, which prints all of it.
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

/// Makes what the parts need, and runs them all: one that fails keeps none of the others, which may
/// take an hour each, from running.
pub(crate) fn run(checkout: &Checkout, runner: &Runner, asked: &Torture) -> Result<()> {
    let Torture {
        minutes,
        seed,
        recording,
    } = asked;
    let recording = recording.as_ref().map(|folder| {
        let found = folder.canonicalize();
        found.with_context(|| format!("cannot find the recording {}", folder.display()))
    });
    let recording = recording.transpose()?;
    host::set_up(runner)?;
    let programs = programs::build(checkout, runner)?;
    let recipes = [releases::DEMO, releases::STORIES].concat();
    releases::prepare(checkout, runner, &programs, &recipes)?;
    let emulator = emulator::unpack(checkout, runner, &programs)?;
    let said = format!("torture: {minutes} minutes, --seed {seed}");
    writeln!(io::stdout(), "{said}").context("cannot print")?;

    let table = checkout.build().join("histories.txt");
    // Of an earlier run.
    match fs::remove_file(&table) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let failed = format!("cannot remove {}", table.display());
            return Err(error).context(failed);
        }
        Ok(()) | Err(_) => {}
    }
    let mut histories = rungs::test(checkout);
    histories
        .args(["--test", "histories"])
        .env(MINUTES, (minutes / SHARE_OF_HISTORIES).max(1).to_string())
        .env(SEED, seed.to_string())
        .env(TABLE, &table)
        .args(["--", "--ignored", "--nocapture", "torture_by_histories"]);
    let mut memory = rungs::test(checkout);
    memory
        .args(["--test", "memory"])
        .args(["--", "--ignored", "--nocapture", "an_image_of_8_gib"]);
    let mut cuts = rungs::slow_test(checkout, &programs, "stories");
    cuts.env(emulator::VARIABLE, &emulator)
        .env(TABLE, &table)
        .env(MINUTES, minutes.to_string())
        .env(SEED, seed.to_string());
    cuts.args([
        "--",
        "--ignored",
        "--nocapture",
        "torture_by_cuts_and_faults",
    ]);
    let mut parts = vec![("histories", histories), ("8 GiB in 64 MiB", memory)];
    if let Some(folder) = recording {
        cuts.env(RECORDING, folder);
    } else {
        let rare = rungs::rare_stories(checkout, &programs, &emulator);
        parts.push(("the stories that are rarely told", rare));
    }
    parts.push(("cuts and faults of a real node", cuts));

    let mut failed = Vec::new();
    for (name, mut part) in parts {
        match runner.run(&mut part) {
            Ok(()) => {}
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => failed.push(format!("{name}: {error:#}")),
        }
    }
    // The last part has not printed them if it has failed early; twice is better than never.
    if !failed.is_empty()
        && let Ok(rows) = fs::read_to_string(&table)
    {
        write!(io::stdout(), "{rows}").context("cannot print")?;
    }
    ensure!(
        failed.is_empty(),
        "--seed {seed} has failed in:\n  {}",
        failed.join("\n  ")
    );
    Ok(())
}
