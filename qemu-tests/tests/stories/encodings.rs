//! What the encoding of the root file system costs at boot, measured by
//! `cargo xtask bench boot`.

use std::collections::BTreeMap;
use std::env;
use std::fs;

use anyhow::{Context, Result, ensure};
use qemu_tests::console::Mark;
use qemu_tests::deadline::Deadline;
use qemu_tests::fixtures::Image;
use qemu_tests::node::BOOT_SECONDS;
use qemu_tests::probe::{self, PROBE_DISK, Request};
use qemu_tests::smbios::Handed;
use qemu_tests::story::{Story, say, tell};

use crate::tale::at_rest;

/// How often each image boots.
const RUNS: &str = "BISTABLE_BOOT_RUNS";
/// The images' names.
const IMAGES: &str = "BISTABLE_BOOT_IMAGES";

/// What systemd says once containerd serves.
const CONTAINERD: &str = "Started containerd.service";

/// What a boot took.
#[derive(Clone, Copy, Debug)]
struct Boot {
    /// From power-on to containerd, in seconds.
    containerd: f64,
    /// From power-on until the gate has read the whole root and found the node good.
    good: f64,
    /// What is not available to programs then, in kB as the kernel counts.
    used: u64,
    /// What the page cache holds then, in kB.
    cached: u64,
}

/// Returns a line of `/proc/meminfo`.
fn kilobytes(meminfo: &str, name: &str) -> Result<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    let words = line.and_then(|rest| rest.strip_prefix(':'));
    let number = words.and_then(|rest| rest.split_whitespace().next());
    let number = number.with_context(|| format!("the kernel does not tell {name}"))?;
    number
        .parse()
        .with_context(|| format!("{name} is {number:?}"))
}

async fn boot(story: &Story, image: &Image) -> Result<Boot> {
    let program = probe::build(story.folder())?;
    let disk = probe::disk(story.folder(), &program, &[])?;
    let handed = probe::hand_in(Handed::default());
    let folder = story.folder().join("state");
    let machine = story
        .machine_of(&folder, &image.disk()?, handed)?
        .with_two_processors()
        .with_disk(PROBE_DISK, &disk);
    let node = machine.power_on().await?;
    let started = node.powered_on();
    let line = node
        .console()
        .wait_for(Mark::START, CONTAINERD, Deadline::after(BOOT_SECONDS))
        .await?;
    let containerd = (line.at - started).as_secs_f64();
    let bus = node.bus().await?;
    bus.failed_units_once_started(Deadline::after(BOOT_SECONDS))
        .await?;
    at_rest(&bus).await?;
    let good = started.elapsed().as_secs_f64();
    let meminfo = node.probe(&Request::Read("/proc/meminfo")).await?;
    let total = kilobytes(&meminfo, "MemTotal")?;
    let boot = Boot {
        containerd,
        good,
        used: total - kilobytes(&meminfo, "MemAvailable")?,
        cached: kilobytes(&meminfo, "Cached")?,
    };
    drop(node.cut());
    fs::remove_dir_all(&folder).context("cannot remove the disk of a boot that is over")?;
    Ok(boot)
}

fn median(boots: &[Boot], of: impl Fn(&Boot) -> f64) -> f64 {
    let mut values: Vec<f64> = boots.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

async fn compare(story: &mut Story) -> Result<()> {
    let asked = |name: &str| env::var(name).with_context(|| format!("{name} is not set"));
    let runs: u32 = asked(RUNS)?.parse().context("how often is no number")?;
    let names = asked(IMAGES)?;
    ensure!(runs > 0, "nothing is to be measured");
    let mut boots: BTreeMap<&str, Vec<Boot>> = BTreeMap::new();
    for run in 1..=runs {
        for name in names.split(',') {
            let image = story.image(name)?;
            let boot = boot(story, &image).await?;
            story.step(&format!("{run}: {name}: {boot:?}"));
            boots.entry(name).or_default().push(boot);
        }
    }
    say(format_args!(
        "| image | root MB | containerd s | good s | used MB | page cache MB |\n|---|---|---|---|---|---|"
    ));
    for name in names.split(',') {
        let boots = boots.get(name).map(Vec::as_slice).unwrap_or_default();
        let size = story.image(name)?.sizes.root;
        say(format_args!(
            "| {name} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} |",
            megabytes(size),
            median(boots, |boot| boot.containerd),
            median(boots, |boot| boot.good),
            median(boots, |boot| megabytes(boot.used * 1024)),
            median(boots, |boot| megabytes(boot.cached * 1024)),
        ));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "it is printed with one digit")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures: `cargo xtask bench boot`"]
async fn boots_by_encoding() -> Result<()> {
    tell("encodings", compare).await
}
