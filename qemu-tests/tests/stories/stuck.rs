//! Story 8: on a machine without a watchdog, a release that hangs before its first target is
//! ended by the timer that runs none of our code, and one whose systemd hangs by the kernel's own watchdog.

use anyhow::{Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::{Bus, StageOptions};
use qemu_tests::deadline::{Deadline, Look};
use qemu_tests::fixtures::Image;
use qemu_tests::journal;
use qemu_tests::node::{BOOT_SECONDS, Node, RESET_SECONDS};
use qemu_tests::smbios::Handed;
use qemu_tests::story::{expect_disk, expect_slots, tell};

use crate::tale::{EMPTY, ONLY_ON_TRIAL, at_rest, good, stage_well};

/// Instead of 20 minutes: enough for a node to be far into what it hangs in.
const UNDECIDED: &str = "[Timer]\nOnBootSec=\nOnBootSec=90s\n";

/// A unit that everything waits for, and that never comes up.
fn stuck() -> String {
    format!(
        "[Unit]\nDescription=A unit that never comes up\nDefaultDependencies=no\nBefore=sysinit.target\n{ONLY_ON_TRIAL}\
         [Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/usr/bin/udevadm monitor\n"
    )
}

async fn try_once(node: &Node, bus: &Bus, image: &Image) -> Result<()> {
    stage_well(bus, image, StageOptions { tries: Some(1) }).await?;
    let mark = node.qmp().mark();
    bus.reboot().await?;
    node.reset(mark, RESET_SECONDS).await
}

async fn expect_return(node: &Node, one: &Image, left: &Image) -> Result<Bus> {
    let bus = node.bus().await?;
    at_rest(&bus).await?;
    expect_slots(&bus, Slot::A, good(one), EMPTY).await?;
    let rollback = bus.updater().await?.last_rollback;
    ensure!(
        rollback.version == left.version && rollback.tries == 1,
        "{rollback:?}"
    );
    Ok(bus)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "told by `cargo xtask torture`"]
async fn without_a_watchdog_a_release_that_hangs_early_or_wholly_is_left() -> Result<()> {
    tell("stuck", async |story| {
        let (one, two, hang) = (story.image("1")?, story.image("2")?, story.image("hang")?);
        let shop = story.open_shop(&["2"]).await?;
        let handed = Handed::default()
            .unit("stuck.service", &stuck())
            .wanted_by("sysinit.target", "stuck.service")
            .drop_in("bistable-undecided.timer", UNDECIDED);
        let machine = story.machine(shop.configure(handed))?.without_watchdog();
        let node = machine.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        // The console shows warnings only; the journal holds what PID 1 of the initrd said.
        let journal = story.folder().join(journal::LOG);
        Deadline::after(BOOT_SECONDS)
            .until("the watchdog in software", async || {
                let told = std::fs::read_to_string(&journal)?;
                Ok(
                    if told.contains("/dev/watchdog0 (Software Watchdog) bites") {
                        Look::Found(())
                    } else {
                        Look::NotYet("nothing is said of it".into())
                    },
                )
            })
            .await?;

        try_once(&node, &bus, &two).await?;
        let (events, lines) = (node.qmp().mark(), node.console().mark());
        node.reset(events, BOOT_SECONDS).await?;
        ensure!(
            node.console()
                .find(lines, "A unit that never comes up")
                .is_some(),
            "it hung somewhere else"
        );
        for later in ["Reached target sysinit.target", "Bistable health gate"] {
            ensure!(
                node.console().find(lines, later).is_none(),
                "{later:?}: it hung too late"
            );
        }
        story.step("the timer ended a trial that hung early");
        let bus = expect_return(&node, &one, &two).await?;

        shop.publisher.publish(&hang, &shop.repository)?;
        try_once(&node, &bus, &hang).await?;
        let mark = node.qmp().mark();
        let lines = node.console().mark();
        node.reset(mark, BOOT_SECONDS).await?;
        ensure!(
            node.console().find(lines, "Kernel panic").is_none(),
            "it did not hang, it panicked"
        );
        story.step("the watchdog in software bit");
        expect_return(&node, &one, &hang).await?;
        let machine = node.shut_down().await?;
        expect_disk(&machine, Some(&one), None, &[&one.good_entry()])
    })
    .await
}
