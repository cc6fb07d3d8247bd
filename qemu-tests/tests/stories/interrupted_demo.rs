//! Whoever leaves the demo leaves nothing running.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use qemu_tests::fixtures::{BUILD_DIR, Fixtures, IMAGE_BIN};
use rustix::process::{Pid, Signal, kill_process};

/// What the demo says when its node is switched on.
const POWER_ON: &str = "power on";

/// Returns the command lines of all processes that have a file of `folder` on it.
fn processes_in(folder: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // Those that end meanwhile, and those that are no processes, have none.
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(folder) {
            found.push(line);
        }
    }
    Ok(found)
}

#[test]
fn ctrl_c_in_the_demo_leaves_nothing_running_and_nothing_behind() -> Result<()> {
    let fixtures = Fixtures::find()?;
    let folder = tempfile::tempdir()?;
    let scene = fixtures.build().join("demo");
    let scene = scene.to_str().context("a path that is text")?;
    let mut demo = std::process::Command::new(env!("CARGO_BIN_EXE_demo"))
        .env(BUILD_DIR, fixtures.build())
        .env(IMAGE_BIN, fixtures.publisher().program())
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(demo.stdout.take().context("it has an output")?).lines();
    let on = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(POWER_ON)));
    ensure!(
        on.is_some(),
        "the demo ended before its node was switched on"
    );
    let before = processes_in(scene)?;
    let process = i32::try_from(demo.id()).ok().and_then(Pid::from_raw);
    kill_process(
        process.context("a process number that is none")?,
        Signal::INT,
    )
    .context("it was gone already")?;
    let status = demo.wait()?;
    ensure!(!before.is_empty(), "no node was running");
    ensure!(status.code() == Some(130), "the demo ended with {status}");
    let after = processes_in(scene)?;
    ensure!(after.is_empty(), "still running: {after:?}");
    let left: Vec<_> = fs::read_dir(folder.path())?.collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
