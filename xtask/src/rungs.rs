//! The four rungs of tests, the fast ones first.

use std::process::Command;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::programs::cargo;
use crate::{command, host, releases};

/// The rungs that need no virtual machine and no image: pure and wired.
pub(crate) fn run_fast(checkout: &Checkout) -> Result<()> {
    host::set_up()?;
    command::run(&mut test(checkout))
}

/// Every rung, or only the stories whose name contains `story`.
pub(crate) fn run_all(checkout: &Checkout, story: Option<&str>) -> Result<()> {
    if story.is_none() {
        run_fast(checkout)?;
    } else {
        host::set_up()?;
    }
    let tool = releases::prepare(checkout, &[releases::DEMO, releases::STORIES].concat())?;
    let slow = |target: &str| {
        let mut slow = test(checkout);
        slow.args(["--test", target])
            .env("BISTABLE_BUILD_DIR", checkout.build())
            .env("BISTABLE_IMAGE_BIN", &tool);
        slow
    };
    if story.is_none() {
        command::run(&mut slow("whole_build"))?;
    }
    let mut stories = slow("stories");
    // A virtual machine without hardware help fills a core.
    stories.args(["--", "--test-threads=2"]);
    stories.args(story);
    command::run(&mut stories)
}

/// Everything is tested with the same selection of packages, the whole workspace:
/// another one would have other features, and compile its dependencies anew.
fn test(checkout: &Checkout) -> Command {
    let mut test = cargo(checkout);
    test.args(["test", "--release", "--workspace"]);
    test
}

/// Formatting, lints, and what may enter the dependency tree.
pub(crate) fn check(checkout: &Checkout) -> Result<()> {
    host::set_up()?;
    command::run(cargo(checkout).args(["fmt", "--all", "--check"]))?;
    command::run(cargo(checkout).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))?;
    if Command::new("cargo-deny").arg("--version").output().is_ok() {
        // The advisories need a network that reaches their repository: a nightly job's work.
        command::run(cargo(checkout).args(["deny", "check", "licenses", "bans", "sources"]))?;
    }
    Ok(())
}
