//! Cuts of the power for as long as one likes: the story that tells them, told.

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
    releases::prepare(checkout, runner, &programs, &releases::DEMO)?;
    let emulator = emulator::unpack(checkout, runner, &programs)?;
    let Torture {
        minutes,
        seed,
        recording,
    } = asked;
    let said = format!("torture: {minutes} minutes, --seed {seed}");
    writeln!(io::stdout(), "{said}").context("cannot print")?;
    let mut story = rungs::test(checkout);
    story
        .args(["--test", "stories"])
        .env("BISTABLE_BUILD_DIR", checkout.build())
        .env("BISTABLE_IMAGE_BIN", &programs.image_tool)
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
        "torture_by_cuts_of_the_power",
    ]);
    runner.run(&mut story)
}
