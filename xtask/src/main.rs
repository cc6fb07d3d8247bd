//! The front door: `cargo xtask demo | test | torture | fuzz | bench | image | check | setup`.
//!
//! It depends on nothing that needs a C library, so that it compiles on a fresh
//! machine and can then install what the other crates need.

mod archive;
mod bench;
mod checkout;
mod emulator;
mod fuzz;
mod host;
mod phases;
mod programs;
mod releases;
mod room;
mod rungs;
mod runner;
mod torture;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::checkout::Checkout;
use crate::fuzz::Fuzz;
use crate::runner::{Interrupted, Runner};
use crate::torture::Torture;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Builds, tests and shows Bistable",
    version
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Installs the host packages that building and testing need (as root), or
    /// prints the one command that does
    Setup,
    /// Plays the main job in this terminal: build three releases (one sick), boot,
    /// stage, flip, good; then the sick one, and back
    Demo,
    /// Builds the releases that the demo and the stories use, where they are missing or old
    Releases,
    /// Runs the tests, the fast rungs first
    Test {
        /// Only the rungs without virtual machines and without image builds
        #[arg(long)]
        fast: bool,
        /// Only stories whose name contains this, the rarely told ones among them
        #[arg(long, value_name = "NAME", conflicts_with = "fast")]
        story: Option<String>,
    },
    /// Runs what `test` holds a sample of: the stories that it does not tell, which take a
    /// quarter of an hour, and then cuts of the power for as long as you like: every state
    /// that a recorded life's disk may be left in, some of them booted, and nodes that are cut
    /// while they stage. Ends with a table
    Torture {
        /// For how many minutes; what has been begun is brought to its end
        #[arg(long, value_name = "N", default_value_t = 30)]
        minutes: u64,
        /// What all chances follow from; another number each time if not given
        #[arg(long, value_name = "S")]
        seed: Option<u64>,
        /// The folder of a torture or story that failed: goes through its recording again
        #[arg(long, value_name = "FOLDER")]
        recording: Option<PathBuf>,
    },
    /// Looks for inputs that break what a reader of outside bytes promises. Ends with a
    /// table, and fails when there was one
    Fuzz(Fuzz),
    /// Formatting, lints and, where cargo-deny is installed, licences and sources
    Check,
    /// Measures, beside the field's own tools, in one run
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Runs the image builder and publisher: `build`, `keys`, `publish`, `repository`
    #[command(disable_help_flag = true)]
    Image {
        /// Arguments of `bistable-image`; `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> Result<ExitCode> {
    let task = Arguments::parse().task;
    match perform(task) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let Some(interrupted) = error.downcast_ref::<Interrupted>() else {
                return Err(error);
            };
            writeln!(io::stderr(), "\n{interrupted}")?;
            Ok(ExitCode::from(interrupted.exit_code()))
        }
    }
}

fn perform(task: Task) -> Result<()> {
    let checkout = Checkout::find()?;
    let runner = Runner::new()?;
    match task {
        Task::Setup => host::set_up(&runner),
        Task::Demo => releases::demo(&checkout, &runner),
        Task::Releases => releases::build_all(&checkout, &runner),
        Task::Test { fast: true, .. } => rungs::run_fast(&checkout, &runner),
        Task::Test { story, .. } => rungs::run_all(&checkout, &runner, story.as_deref()),
        Task::Torture {
            minutes,
            seed,
            recording,
        } => torture::run(
            &checkout,
            &runner,
            &Torture {
                minutes,
                seed: seed.unwrap_or_else(torture::any_seed),
                recording,
            },
        ),
        Task::Fuzz(asked) => fuzz::run(&checkout, &runner, &asked),
        Task::Check => rungs::check(&checkout, &runner),
        Task::Bench { bench } => bench.run(&checkout, &runner),
        Task::Image { arguments } => releases::image_tool(&checkout, &runner, &arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_lines_can_be_typed_as_they_stand() {
        let typed = ["/checkout/target/debug/xtask", "test", "--no-such-option"];
        let error = Arguments::try_parse_from(typed).expect_err("there is no such option");
        let said = error.to_string();
        assert!(said.contains("Usage: cargo xtask test"), "{said}");
    }
}
