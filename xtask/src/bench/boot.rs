//! `cargo xtask bench boot`: what the encoding of the root file system costs at boot.
//!
//! The images are the product's first release, packed in several ways, and each boots in
//! the virtual machine of the stories, in turns. A processor that is emulated makes
//! unpacking dearer than it is: the order of the encodings counts, not the seconds.

use std::io::{self, Write as _};

use anyhow::{Context, Result};

use super::machine::{load, machine};
use crate::checkout::Checkout;
use crate::runner::Runner;
use crate::{emulator, host, programs, releases, rungs};

/// What the story reads: how often each image boots, and the images' names.
const RUNS: &str = "BISTABLE_BOOT_RUNS";
const IMAGES: &str = "BISTABLE_BOOT_IMAGES";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often each image boots
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    runs: u8,
}

/// Makes the images, boots them, and prints the table.
pub(crate) fn run(checkout: &Checkout, runner: &Runner, arguments: &Arguments) -> Result<()> {
    host::set_up(runner)?;
    let programs = programs::build(checkout, runner)?;
    releases::prepare(checkout, runner, &programs, &releases::ENCODINGS)?;
    let emulator = emulator::unpack(checkout, runner, &programs)?;
    let names = releases::ENCODINGS.map(|recipe| recipe.name());
    writeln!(io::stdout(), "{}, load average {}", machine()?, load()?).context("cannot print")?;
    let mut story = rungs::test(checkout);
    story
        .args(["--test", "stories"])
        .env("BISTABLE_BUILD_DIR", checkout.build())
        .env("BISTABLE_IMAGE_BIN", &programs.image_tool)
        .env(emulator::VARIABLE, emulator)
        .env(RUNS, arguments.runs.to_string())
        .env(IMAGES, names.join(","))
        .args(["--", "--ignored", "--nocapture", "boots_by_encoding"]);
    runner.run(&mut story)
}
