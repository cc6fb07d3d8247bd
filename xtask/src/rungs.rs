//! The four rungs of tests, the fast ones first.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::checkout::Checkout;
use crate::phases::Phases;
use crate::programs::{self, Programs, cargo};
use crate::runner::{Interrupted, Runner};
use crate::{emulator, host, releases, room};

/// How many stories are told at a time. A virtual machine without hardware help
/// fills a core while it starts and waits while it soaks, so that three keep two
/// cores busy.
const STORIES_AT_A_TIME: &str = "--test-threads=3";

/// How many fast tests run at a time: the longest ones wait for servers that do not answer.
const FAST_AT_A_TIME: &str = "4";

/// What is among the ignored stories and is none: each has a command of its own.
const NO_STORIES: [&str; 4] = [
    "--skip",
    "boots_by_encoding",
    "--skip",
    "torture_by_cuts_and_faults",
];

/// The rungs that need no virtual machine and no image: pure and wired.
pub(crate) fn run_fast(checkout: &Checkout, runner: &Runner) -> Result<()> {
    in_phases(|phases| fast(checkout, runner, phases))
}

/// Every rung, or only the stories whose name contains `story`.
pub(crate) fn run_all(checkout: &Checkout, runner: &Runner, story: Option<&str>) -> Result<()> {
    in_phases(|phases| match story {
        Some(name) => {
            host::set_up(runner)?;
            slow(checkout, runner, phases, Some(name))
        }
        None => {
            fast(checkout, runner, phases)?;
            slow(checkout, runner, phases, None)
        }
    })
}

/// Does `work`, and prints where the time went, also when it failed.
fn in_phases(work: impl FnOnce(&mut Phases) -> Result<()>) -> Result<()> {
    let mut phases = Phases::default();
    let result = work(&mut phases);
    if let Err(error) = &result
        && error.is::<Interrupted>()
    {
        return result;
    }
    write!(io::stdout(), "{phases}").context("cannot print")?;
    result
}

fn fast(checkout: &Checkout, runner: &Runner, phases: &mut Phases) -> Result<()> {
    phases.time("host packages", || host::set_up(runner))?;
    // Neither examples, which are benches, nor documentation, which has no code.
    let tests = || {
        let mut tests = test(checkout);
        tests
            .arg("--tests")
            .env("RUST_TEST_THREADS", FAST_AT_A_TIME);
        tests
    };
    // Not quiet: on a fresh machine it takes seven minutes.
    phases.time("compile", || runner.run(tests().arg("--no-run")))?;
    // All that fail are told, not only the first: the next run is half an hour away.
    phases.time("fast tests", || runner.run(tests().arg("--no-fail-fast")))
}

fn slow(
    checkout: &Checkout,
    runner: &Runner,
    phases: &mut Phases,
    story: Option<&str>,
) -> Result<()> {
    let programs = phases.time("compile programs", || programs::build(checkout, runner))?;
    let slow = |target: &str| slow_test(checkout, &programs, target);
    let kernel_tests = phases.time("compile slow tests", || {
        let mut compile = slow("whole_build");
        runner.run(compile.args(["--test", "stories", "--no-run"]))?;
        if let Some(name) = story {
            expect_story(runner, slow("stories"), name)?;
        }
        kernel_tests(checkout, runner)
    })?;
    phases.time("six images", || {
        room::for_images_and_stories(checkout)?;
        let recipes = [releases::DEMO, releases::STORIES].concat();
        releases::prepare(checkout, runner, &programs, &recipes)
    })?;
    if story.is_none() {
        phases.time("whole builds", || runner.run(&mut slow("whole_build")))?;
    }
    let emulator = phases.time("emulator", || emulator::unpack(checkout, runner, &programs))?;
    let mut stories = slow("stories");
    stories.env(emulator::VARIABLE, emulator);
    stories.env("BISTABLE_KERNEL_TESTS", kernel_tests);
    stories.args(["--", STORIES_AT_A_TIME]);
    if let Some(name) = story {
        stories.arg("--include-ignored").args(NO_STORIES).arg(name);
    }
    let start = SystemTime::now();
    let told = phases.time("stories", || runner.run(&mut stories));
    phases.add_stories(&checkout.stories(), start);
    told
}

/// Returns the stories that `cargo xtask test` only tells when they are named.
pub(crate) fn rare_stories(checkout: &Checkout, programs: &Programs, emulator: &Path) -> Command {
    let mut stories = slow_test(checkout, programs, "stories");
    stories.env(emulator::VARIABLE, emulator);
    stories.args(["--", STORIES_AT_A_TIME, "--ignored"]);
    stories.args(NO_STORIES);
    stories
}

/// Returns the tests of `target`, which need the programs and what was made with them.
pub(crate) fn slow_test(checkout: &Checkout, programs: &Programs, target: &str) -> Command {
    let mut slow = test(checkout);
    slow.args(["--test", target])
        .env("BISTABLE_BUILD_DIR", checkout.build())
        .env("BISTABLE_IMAGE_BIN", &programs.image_tool);
    slow
}

/// Fails when no story has `name` in its name: running none of them would pass, and
/// only after all images were made.
fn expect_story(runner: &Runner, mut stories: Command, name: &str) -> Result<()> {
    let list = runner.output(stories.args(["--quiet", "--", "--list"]))?;
    let names: Vec<&str> = list
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .collect();
    ensure!(
        names.iter().any(|story| story.contains(name)),
        "no story has `{name}` in its name; there are:\n  {}",
        names.join("\n  ")
    );
    Ok(())
}

/// Returns the program of the tests of `verity` that need a kernel of their own: a
/// story runs it inside a node.
fn kernel_tests(checkout: &Checkout, runner: &Runner) -> Result<String> {
    const NAME: &str = "root_device_mapper";
    let mut compile = test(checkout);
    compile.args(["--test", NAME, "--no-run", "--message-format=json"]);
    let messages = runner.output(&mut compile)?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| {
            let name = message.pointer("/target/name")?;
            let program = message.get("executable")?.as_str()?;
            (name == NAME).then(|| program.to_owned())
        })
        .with_context(|| format!("cargo does not say where the tests {NAME} are"))
}

/// Everything is tested with the same selection of packages, the whole workspace:
/// another one would have other features, and compile its dependencies anew.
pub(crate) fn test(checkout: &Checkout) -> Command {
    let mut test = cargo(checkout);
    test.args(["test", "--release", "--workspace"]);
    // A failure's own words tell more than fifty lines of the runtime's frames.
    test.env("RUST_BACKTRACE", "0");
    test
}

/// Formatting, lints, and what may enter the dependency tree.
pub(crate) fn check(checkout: &Checkout, runner: &Runner) -> Result<()> {
    host::set_up(runner)?;
    runner.run(cargo(checkout).args(["fmt", "--all", "--check"]))?;
    runner.run(cargo(checkout).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))?;
    if Command::new("cargo-deny").arg("--version").output().is_ok() {
        // The advisories need a network that reaches their repository: a nightly job's work.
        runner.run(cargo(checkout).args(["deny", "check", "licenses", "bans", "sources"]))?;
    }
    Ok(())
}
