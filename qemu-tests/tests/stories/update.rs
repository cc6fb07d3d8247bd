//! Story 2: release 2 to slot B, release 3 back to slot A, each through a trial.

use std::cell::RefCell;

use anyhow::{Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::{Bus, JobReport, StageOptions};
use qemu_tests::call::Call;
use qemu_tests::deadline::{Deadline, Look};
use qemu_tests::fixtures::Image;
use qemu_tests::memory::Memory;
use qemu_tests::node::{Node, RESET_SECONDS};
use qemu_tests::seat::Seat;
use qemu_tests::smbios::Handed;
use qemu_tests::story::{Story, expect_disk, expect_slots, tell};

use crate::tale::{STAGE_SECONDS, TRIAL_SECONDS, armed, at_rest, good};

const ROLL_BACK: Call = Call {
    name: "roll-back",
    line: "/usr/bin/bistable rollback --reason \"latency went up\"",
};
const STANDING: Call = Call {
    name: "standing",
    line: "/usr/bin/bistable status",
};
const HAPPENED: Call = Call {
    name: "happened",
    line: "/usr/bin/bistable history",
};
const CALLS: [Call; 3] = [ROLL_BACK, STANDING, HAPPENED];

/// What staging may cost a node, in bytes: resident in the daemon at its peak, and as
/// much again left in the page cache.
const MEMORY: u64 = 48_000_000;

/// The tries of a release that is older than the booted one: it is started once, by the
/// firmware's one-shot wish, and has one left while it runs.
const ONE_SHOT_TRIES: u32 = 2;

/// Stages what the channel names, and watches its progress all the way.
async fn stage_watched(bus: &Bus, image: &Image) -> Result<()> {
    let job = bus.stage("", StageOptions::default()).await?;
    let last: RefCell<Option<JobReport>> = RefCell::new(None);
    let points = RefCell::new(0);
    let end = job
        .until(Deadline::after(STAGE_SECONDS), async |report| {
            if let Some(before) = last.borrow().as_ref() {
                ensure!(
                    report.bytes_done >= before.bytes_done,
                    "progress went back: {before:?}, then {report:?}"
                );
            }
            // That the slot is armed when all is done is the power-cut story's to prove.
            if report.bytes_done > 0 && !report.at_100_percent() {
                *points.borrow_mut() += 1;
            }
            last.replace(Some(report.clone()));
            Ok(false)
        })
        .await?;
    ensure!(
        end.result == "done" && end.at_100_percent(),
        "staging ended so: {end:?}"
    );
    ensure!(
        end.version == image.version,
        "{} was staged instead of {}",
        end.version,
        image.version
    );
    ensure!(
        *points.borrow() >= 3,
        "progress was seen at {} points only",
        points.borrow()
    );
    Ok(())
}

/// Reboots into the trial of `image` in `slot`, and waits until it is good.
pub(crate) async fn reboot_into_trial(
    node: &Node,
    bus: &Bus,
    slot: Slot,
    image: &Image,
) -> Result<Bus> {
    let mark = node.qmp().mark();
    bus.reboot().await?;
    node.reset(mark, RESET_SECONDS).await?;
    let bus = node.bus().await?;
    let seen = RefCell::new(Vec::new());
    Deadline::after(TRIAL_SECONDS)
        .until("the trial to end well", async || {
            let updater = bus.updater().await?;
            ensure!(
                updater.booted_version == image.version,
                "{} is booted: {updater:?}",
                updater.booted_version
            );
            ensure!(
                updater.booted_slot == slot.to_string(),
                "slot {} is booted",
                updater.booted_slot
            );
            seen.borrow_mut().push(updater.state.clone());
            Ok(if updater.state == "idle" {
                Look::Found(())
            } else {
                Look::NotYet(updater.state)
            })
        })
        .await?;
    ensure!(
        seen.borrow().iter().any(|state| state == "trial"),
        "it was good without a trial: {:?}",
        seen.borrow()
    );
    Ok(bus)
}

async fn update(story: &mut Story) -> Result<()> {
    let (one, two, three) = (story.image("1")?, story.image("2")?, story.image("3")?);
    let shop = story.open_shop(&["2"]).await?;
    let handed = Seat::hand_in(&CALLS, shop.configure(Handed::default()));
    let machine = story.machine_with_probe(handed, &[])?;
    let node = machine.power_on().await?;
    let bus = node.bus().await?;
    at_rest(&bus).await?;
    story.step("release 1 is at rest");

    let check = bus
        .check_for_update()
        .await?
        .ended(Deadline::after(STAGE_SECONDS))
        .await?;
    ensure!(check.result == "done", "the check ended so: {check:?}");
    let available = bus.updater().await?.available_version;
    ensure!(available == two.version, "{available:?} is on offer");
    stage_watched(&bus, &two).await?;
    let memory = Memory::of_updater(&node, &bus).await?;
    ensure!(
        memory.peak <= MEMORY && memory.cache <= MEMORY,
        "staging took more memory than {MEMORY} bytes: {memory:?}"
    );
    story.step(&format!(
        "the updater took {} bytes at most, and left {} in the page cache",
        memory.peak, memory.cache
    ));
    bus.in_state("staged", Deadline::after(10)).await?;
    expect_slots(&bus, Slot::A, good(&one), armed(&two)).await?;
    story.step("release 2 is staged");

    let bus = reboot_into_trial(&node, &bus, Slot::B, &two).await?;
    expect_slots(&bus, Slot::B, good(&one), good(&two)).await?;
    ensure!(
        bus.updater().await?.floor == two.version,
        "the floor was not raised: {:?}",
        bus.updater().await?
    );
    story.step("release 2 is good");

    let machine = node.shut_down().await?;
    expect_disk(
        &machine,
        Some(&one),
        Some(&two),
        &[&one.good_entry(), &two.watched_entry()],
    )?;
    let node = machine.power_on().await?;
    shop.publisher.publish(&three, &shop.repository)?;
    let bus = node.bus().await?;
    at_rest(&bus).await?;
    expect_slots(&bus, Slot::B, good(&one), good(&two)).await?;
    story.step("a cold boot chose release 2");

    stage_watched(&bus, &three).await?;
    expect_slots(&bus, Slot::B, armed(&three), good(&two)).await?;
    story.step("release 3 is staged");
    let bus = reboot_into_trial(&node, &bus, Slot::A, &three).await?;
    expect_slots(&bus, Slot::A, good(&three), good(&two)).await?;
    story.step("release 3 is good");

    let mut seat = Seat::at(story, &node, &bus)?;
    let deadline = || Deadline::after(STAGE_SECONDS);
    let told = seat.exits(ROLL_BACK, 0, deadline()).await?.out;
    ensure!(told.contains(&two.version), "{told}");
    seat.exits(STANDING, 0, deadline()).await?;
    expect_slots(&bus, Slot::A, good(&three), armed(&two)).await?;
    seat.exits(HAPPENED, 0, deadline()).await?;
    story.step("a rollback to release 2 waits for the reboot");

    let history = bus.history().await?;
    let versions: Vec<_> = history
        .iter()
        .filter_map(|entry| entry.get("version")?.as_str())
        .collect();
    ensure!(
        versions.contains(&two.version.as_str()) && versions.contains(&three.version.as_str()),
        "the history does not tell of both: {history:?}"
    );
    let machine = node.shut_down().await?;
    expect_disk(
        &machine,
        Some(&three),
        Some(&two),
        // The watch on release 3 has ended before release 2 was armed.
        &[&two.armed_entry(ONE_SHOT_TRIES), &three.good_entry()],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn two_updates_bring_the_node_back_to_slot_a() -> Result<()> {
    tell("update", update).await
}
