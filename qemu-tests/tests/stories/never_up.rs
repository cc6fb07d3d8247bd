//! Story 4: releases whose userspace never comes up are left behind by the boot loader.

use anyhow::{Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::{Bus, StageOptions};
use qemu_tests::deadline::Deadline;
use qemu_tests::node::{BOOT_SECONDS, Node, RESET_SECONDS};
use qemu_tests::smbios::Handed;
use qemu_tests::story::{Shop, Story, expect_disk, expect_slots, tell};

use crate::tale::{EMPTY, at_rest, expect_disarmed, good, stage_well};

/// What must be seen on the way down.
struct Fall {
    image: &'static str,
    tries: u32,
    /// Waits for one attempt to fail, from the moment it is booted.
    seconds: u64,
    /// Part of what the kernel said in its last moment; empty if it had none.
    last_words: &'static str,
}

/// Tries a sick release on a node that runs release 1, and comes back.
async fn fall_and_return(
    story: &mut Story,
    (shop, node, bus): (&Shop, &Node, Bus),
    fall: Fall,
    failed: impl AsyncFn(&Node, Deadline) -> Result<()>,
) -> Result<Bus> {
    let (one, sick) = (story.image("1")?, story.image(fall.image)?);
    shop.publisher.publish(&sick, &shop.repository)?;
    let options = StageOptions {
        tries: Some(fall.tries),
    };
    stage_well(&bus, &sick, options).await?;
    story.step(&format!("{} is staged", fall.image));

    let mark = node.qmp().mark();
    bus.reboot().await?;
    node.reset(mark, RESET_SECONDS).await?;
    for attempt in 1..=fall.tries {
        let mark = node.qmp().mark();
        failed(node, Deadline::after(fall.seconds)).await?;
        node.reset(mark, fall.seconds).await?;
        story.step(&format!("attempt {attempt} failed"));
    }

    let bus = node.bus().await?;
    at_rest(&bus).await?;
    story.step("back on release 1");
    expect_slots(&bus, Slot::A, good(&one), EMPTY).await?;
    let rollback = bus.updater().await?.last_rollback;
    ensure!(
        rollback.version == sick.version && rollback.root_hash == sick.root_hash,
        "{rollback:?}"
    );
    ensure!(
        rollback.tries == fall.tries,
        "it was tried {} times, it says: {rollback:?}",
        rollback.tries
    );
    ensure!(
        !rollback.reason.is_empty(),
        "no reason was kept: {rollback:?}"
    );
    let words = fall.last_words;
    ensure!(
        rollback.panic.contains(words) && rollback.panic.is_empty() == words.is_empty(),
        "the kernel's last words were {words:?}: {rollback:?}"
    );
    expect_disarmed(node, &bus, &one).await?;
    Ok(bus)
}

/// `panic=10` leaves the message standing until the reset.
async fn panics(node: &Node, deadline: Deadline) -> Result<()> {
    let mark = node.console().mark();
    node.console()
        .wait_for(mark, "Kernel panic", deadline)
        .await?;
    Ok(())
}

async fn is_bitten(node: &Node, deadline: Deadline) -> Result<()> {
    let mark = node.qmp().mark();
    node.qmp().wait_for(mark, "WATCHDOG", deadline).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_panics_spends_its_tries_one_that_hangs_is_bitten_and_the_old_slot_runs()
-> Result<()> {
    tell("never-up", async |story| {
        let one = story.image("1")?;
        let shop = story.open_shop(&[]).await?;
        let handed = shop.configure(Handed::default());
        let node = story.machine(handed)?.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        let fall = Fall {
            image: "panic",
            tries: 2,
            seconds: BOOT_SECONDS,
            last_words: "Attempted to kill init",
        };
        let bus = fall_and_return(story, (&shop, &node, bus), fall, panics).await?;
        let fall = Fall {
            image: "hang",
            tries: 1,
            seconds: BOOT_SECONDS,
            last_words: "",
        };
        fall_and_return(story, (&shop, &node, bus), fall, is_bitten).await?;
        let machine = node.shut_down().await?;
        expect_disk(&machine, Some(&one), None, &[&one.good_entry()])
    })
    .await
}
