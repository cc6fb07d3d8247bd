//! A disk that refuses single reads and writes while a release is staged: each ends in an error
//! that says what, where and why, on a node that boots; and then it works again.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};
use partition_layout::Slot;
use qemu_tests::bus::{Bus, JobReport, StageOptions};
use qemu_tests::faults::{Access, Faults, Then, spread};
use qemu_tests::fixtures::Image;
use qemu_tests::node::Node;
use qemu_tests::smbios::Handed;
use qemu_tests::story::{Story, expect_disk, expect_slots, tell};

use crate::tale::{
    armed, at_rest, expect_disarmed, expect_failure, good, restarted, stage, stage_well,
};

/// Where in an image a block is that a fault is at, in percent.
const MIDDLE: u64 = 60;
/// A place among the kernel modules (see the story `rotten_block`), so that nothing but
/// staging reads it.
const MODULES: u64 = 72;
/// Less than the size of any kernel image.
const STEP: u64 = 2 << 20;
const BLOCK: usize = 4096;

/// The words of the kernel for `EIO`.
const WHY: &str = "Input/output error";

/// Where things lie on the node's disk, in bytes.
struct Places {
    /// A block of the booted root, which both releases have.
    booted: u64,
    /// A block of the spare root that will be written.
    spare: u64,
    /// Where the next kernel image will lie, some of it.
    kernel: Vec<u64>,
}

impl Places {
    async fn find(node: &Node, one: &Image, two: &Image) -> Result<Self> {
        let (booted, spare) = (data_block(one, MODULES)?, data_block(two, MIDDLE)?);
        node.look_at_disk(|disk| {
            let layout = disk.layout();
            let slot_b = layout.slot_b.as_ref().context("there is no slot B")?;
            Ok(Self {
                booted: layout.slot_a.root.start + booted,
                spare: slot_b.root.start + spare,
                kernel: spread(disk.behind_entries()?, layout.esp.range().end, STEP).collect(),
            })
        })
        .await
    }
}

/// Returns the first block of an image's root from `percent` on that is not all zeros.
fn data_block(image: &Image, percent: u64) -> Result<u64> {
    let path = image.folder.join("root.img");
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let block = BLOCK as u64;
    let mut at = image.sizes.root / 100 * percent / block * block;
    let mut bytes = [0; BLOCK];
    loop {
        file.read_exact_at(&mut bytes, at)
            .with_context(|| format!("{} has no data behind {percent} %", path.display()))?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(at);
        }
        at += block;
    }
}

/// Stages on a disk that fails, and has it work again afterwards.
async fn stage_on(node: &Node, bus: &Bus, faults: &Faults) -> Result<JobReport> {
    node.break_disk(faults).await?;
    let report = stage(bus, StageOptions::default()).await?;
    node.mend_disk().await?;
    Ok(report)
}

/// One flush fails, and the kernel lets nobody read or write `/var` any more; the next start mends it.
async fn without_var(node: &Node, bus: Bus, one: &Image) -> Result<Bus> {
    // A stage begins with a record, which is brought to the medium.
    let report = stage_on(node, &bus, &Faults::nth(Access::Flush, 1, Then::Recovers)).await?;
    expect_failure(&report, "RecordFailed", &[])?;
    let report = stage(&bus, StageOptions::default()).await?;
    expect_failure(&report, "RecordFailed", &[WHY])?;
    expect_disarmed(node, &bus, one).await?;
    restarted(node, &bus).await
}

async fn failing(story: &mut Story) -> Result<()> {
    let (one, two) = (story.image("1")?, story.image("2")?);
    let shop = story.open_shop(&["2"]).await?;
    let machine = story.machine(shop.configure(Handed::default()))?;
    let node = machine.power_on().await?;
    let bus = node.bus().await?;
    at_rest(&bus).await?;
    let places = Places::find(&node, &one, &two).await?;
    story.step("release 1 runs");

    // What the booted slot cannot give is fetched, so it is the write that ends the job.
    let faults =
        Faults::at(Access::Read, [places.booted]).and(Faults::at(Access::Write, [places.spare]));
    let report = stage_on(&node, &bus, &faults).await?;
    let words = ["cannot write the Root partition of slot B: bytes ", WHY];
    expect_failure(&report, "SlotWriteFailed", &words)?;
    expect_disarmed(&node, &bus, &one).await?;
    story.step("a write to the spare slot failed");

    let faults = Faults::at(Access::Read, [places.spare]);
    let report = stage_on(&node, &bus, &faults).await?;
    let words = [
        "cannot read the Root partition of slot B back at byte ",
        WHY,
    ];
    expect_failure(&report, "SlotWriteFailed", &words)?;
    expect_disarmed(&node, &bus, &one).await?;
    story.step("reading the spare slot back failed");

    let faults = Faults::at(Access::Write, places.kernel.clone());
    let report = stage_on(&node, &bus, &faults).await?;
    expect_failure(&report, "SlotWriteFailed", &["kernel image", WHY])?;
    expect_disarmed(&node, &bus, &one).await?;
    story.step("writing the kernel image failed");

    let bus = without_var(&node, bus, &one).await?;
    story.step("/var was given up by the kernel, and mended at the next start");

    node.break_disk(&Faults::at(Access::Read, [places.booted]))
        .await?;
    stage_well(&bus, &two, StageOptions::default()).await?;
    node.mend_disk().await?;
    expect_slots(&bus, Slot::A, good(&one), armed(&two)).await?;
    story.step("it is staged, without a block of the booted slot");
    let machine = node.shut_down().await?;
    machine.disk()?.expect_root(Slot::B, &two)?;
    let entries = [one.good_entry(), two.armed_entry(3)];
    let entries = entries.each_ref().map(String::as_str);
    expect_disk(&machine, Some(&one), Some(&two), &entries)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "told by `cargo xtask torture`"]
async fn a_disk_that_fails_is_named_and_the_node_boots_and_then_updates() -> Result<()> {
    tell("failing-disk", failing).await
}
