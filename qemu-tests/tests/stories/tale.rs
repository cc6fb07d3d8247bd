//! What several stories have in common: a node that starts sound, and stages.

use anyhow::{Context, Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::{Bus, JobReport, StageOptions};
use qemu_tests::deadline::Deadline;
use qemu_tests::fixtures::Image;
use qemu_tests::node::{Node, RESET_SECONDS};
use qemu_tests::outside::OutsideDisk;
use qemu_tests::story::{SlotIs, expect_slots};

/// How long staging may take: 105 MB written and read back, about 30 s alone.
pub(crate) const STAGE_SECONDS: u64 = 300;

/// How long a trial may take from power-on to good: a boot and the gate's soak.
pub(crate) const TRIAL_SECONDS: u64 = 300;

/// What has a unit from outside run while the boot loader counts, and not on a good slot.
pub(crate) const ONLY_ON_TRIAL: &str = "ConditionPathExists=/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f\n";

/// What systemd says first, long after the boot loader has counted the start, and far from up.
pub(crate) const USERSPACE: &str = "Welcome to";

pub(crate) const EMPTY: SlotIs<'static> = SlotIs {
    status: "empty",
    image: None,
};

pub(crate) fn good(image: &Image) -> SlotIs<'_> {
    SlotIs {
        status: "good",
        image: Some(image),
    }
}

pub(crate) fn armed(image: &Image) -> SlotIs<'_> {
    SlotIs {
        status: "armed",
        image: Some(image),
    }
}

/// Waits until the updater has booted soundly, and is at rest.
pub(crate) async fn at_rest(bus: &Bus) -> Result<()> {
    bus.in_state("idle", Deadline::after(TRIAL_SECONDS)).await?;
    Ok(())
}

/// Restarts a node in order, and waits until it is at rest again.
pub(crate) async fn restarted(node: &Node, bus: &Bus) -> Result<Bus> {
    let mark = node.qmp().mark();
    bus.reboot().await?;
    node.reset(mark, RESET_SECONDS).await?;
    let bus = node.bus().await?;
    at_rest(&bus).await?;
    Ok(bus)
}

/// Stages what the channel names, to the end.
pub(crate) async fn stage(bus: &Bus, options: StageOptions) -> Result<JobReport> {
    let job = bus.stage("", options).await?;
    job.ended(Deadline::after(STAGE_SECONDS)).await
}

/// Stages what the channel names, and it must succeed.
pub(crate) async fn stage_well(bus: &Bus, image: &Image, options: StageOptions) -> Result<()> {
    let report = stage(bus, options).await?;
    ensure!(
        report.result == "done",
        "staging {} ended so: {report:?}",
        image.version
    );
    ensure!(
        report.version == image.version,
        "{} was staged instead of {}",
        report.version,
        image.version
    );
    let updater = bus.updater().await?;
    ensure!(
        updater.state == "staged" && updater.staged_version == image.version,
        "after staging: {updater:?}"
    );
    Ok(())
}

/// Returns the name, without its prefix, with which a job failed.
pub(crate) fn failure(report: &JobReport) -> Result<&str> {
    ensure!(
        report.result == "failed",
        "the job did not fail: {report:?}"
    );
    report
        .error
        .0
        .strip_prefix("io.bistable.Error.")
        .with_context(|| format!("an unnamed error: {report:?}"))
}

/// Checks that a job failed as `name`, and that its message has all of `words`.
pub(crate) fn expect_failure(report: &JobReport, name: &str, words: &[&str]) -> Result<()> {
    ensure!(failure(report)? == name, "it is no {name}: {report:?}");
    for word in words {
        ensure!(
            report.error.1.contains(word),
            "{word:?} is not in {report:?}"
        );
    }
    Ok(())
}

/// Checks that release `one` in slot A is all that there is, over the bus and from outside.
pub(crate) async fn expect_disarmed(node: &Node, bus: &Bus, one: &Image) -> Result<()> {
    at_rest(bus).await?;
    expect_slots(bus, Slot::A, good(one), EMPTY).await?;
    let look = |disk: &OutsideDisk| Ok((disk.boot_folder()?, disk.inspect()?));
    let (files, seen) = node.look_at_disk(look).await?;
    ensure!(files == [one.good_entry()], "on the ESP are {files:?}");
    let verdict = seen.verdict;
    ensure!(
        verdict.safe && verdict.boots == Some(Slot::A),
        "from outside: {verdict:?}"
    );
    Ok(())
}
