//! Story 9: a trial whose `/var` cannot be mounted ends at once; a good slot says why, waits, and
//! tries again without a restart, and at last with one; it leaves what it cannot read as it is.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::StageOptions;
use qemu_tests::deadline::Deadline;
use qemu_tests::harm::SpareSuperblocks;
use qemu_tests::node::{BOOT_SECONDS, RESET_SECONDS};
use qemu_tests::smbios::Handed;
use qemu_tests::story::{expect_disk, expect_slots, tell};

use crate::tale::{EMPTY, ONLY_ON_TRIAL, at_rest, good, stage_well};

/// How long a trial may take from the failure to the reset; a good slot waits for 300 s, and does not
/// restart then.
const AT_ONCE: Duration = Duration::from_secs(120);

/// Instead of five minutes.
const PAUSE: Duration = Duration::from_secs(60);

/// What the console says of a `/var` that was not mounted.
const NO_VAR: &str = "Dependency failed for var.mount";

/// The same, when there was nothing else that it waited for.
const NOT_MOUNTED: &str = "Failed to mount var.mount";

/// What the kernel says of a `/var` that is none.
const GARBAGE: &str = "Can't find ext4 filesystem";

/// A node whose `/var` needs a unit that fails on a trial.
fn broken(handed: Handed) -> Handed {
    let unit = format!(
        "[Unit]\nDescription=What the disk lacks\nDefaultDependencies=no\n{ONLY_ON_TRIAL}\
         [Service]\nType=oneshot\nExecStart=/usr/bin/udevadm no-such-command\n"
    );
    handed.unit("broken-disk.service", &unit).drop_in(
        "var.mount",
        "[Unit]\nRequires=broken-disk.service\nAfter=broken-disk.service\n",
    )
}

/// A node whose disk comes late: `/var` needs a unit that fails the first time.
fn late(handed: Handed) -> Handed {
    // Once it was started, its folder is there, and it is passed over.
    let unit = "[Unit]\nDescription=What comes late\nDefaultDependencies=no\n\
         ConditionPathExists=!/run/came-late\n\
         [Service]\nType=oneshot\nExecStart=/usr/bin/udevadm no-such-command\n\
         RuntimeDirectory=came-late\nRuntimeDirectoryPreserve=yes\n";
    handed.unit("late-disk.service", unit).drop_in(
        "var.mount",
        "[Unit]\nRequires=late-disk.service\nAfter=late-disk.service\n",
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "told by `cargo xtask torture`"]
async fn without_var_a_trial_ends_at_once_and_a_good_slot_waits_and_says_why() -> Result<()> {
    tell("broken-var", async |story| {
        let (one, two) = (story.image("1")?, story.image("2")?);
        let shop = story.open_shop(&["2"]).await?;
        let handed = broken(shop.configure(Handed::default()));
        let node = story.machine(handed)?.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        stage_well(&bus, &two, StageOptions { tries: Some(1) }).await?;
        let mark = node.qmp().mark();
        bus.reboot().await?;
        node.reset(mark, RESET_SECONDS).await?;
        let (events, lines) = (node.qmp().mark(), node.console().mark());
        let failed = node
            .console()
            .wait_for(lines, NO_VAR, Deadline::after(BOOT_SECONDS))
            .await?;
        node.reset(events, AT_ONCE.as_secs()).await?;
        let took = failed.at.elapsed();
        ensure!(took < AT_ONCE, "the trial ended {took:?} after its /var");
        story.step("the trial ended at once");
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        expect_slots(&bus, Slot::A, good(&one), EMPTY).await?;
        let rollback = bus.updater().await?.last_rollback;
        ensure!(rollback.version == two.version, "{rollback:?}");
        let machine = node.shut_down().await?;

        let pause = format!("[Timer]\nOnActiveSec=\nOnActiveSec={}s\n", PAUSE.as_secs());
        let handed = late(Handed::default()).drop_in("bistable-emergency-retry.timer", &pause);
        let node = story.hand_over(machine, handed).power_on().await?;
        let lines = node.console().mark();
        let failed = node
            .console()
            .wait_for(lines, NO_VAR, Deadline::after(BOOT_SECONDS))
            .await?;
        let before = node.qmp().events().len();
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        let waited = Instant::now().duration_since(failed.at);
        ensure!(waited >= PAUSE, "it tried again after {waited:?}");
        let since = node.qmp().events().split_off(before);
        ensure!(
            since.iter().all(|event| event.name != "RESET"),
            "it restarted: {since:?}"
        );
        story.step("the good slot waited, and then came up without a restart");
        let machine = node.shut_down().await?;

        // Nothing of it can be read any more, and no copy of its superblock is left to mend it from.
        let kept = machine.disk()?.destroy_var(SpareSuperblocks::Destroyed)?;
        // The six hours are over.
        let over = "[Timer]\nOnBootSec=\nOnBootSec=1s\n";
        let handed = Handed::default().drop_in("bistable-emergency-restart.timer", over);
        let node = story.hand_over(machine, handed).power_on().await?;
        let (events, lines) = (node.qmp().mark(), node.console().mark());
        node.console()
            .wait_for(lines, NOT_MOUNTED, Deadline::after(BOOT_SECONDS))
            .await?;
        // From the journal: systemd itself says that a unit failed, not how.
        node.console()
            .wait_for(lines, GARBAGE, Deadline::after(BOOT_SECONDS))
            .await?;
        node.reset(events, BOOT_SECONDS).await?;
        story.step("where nothing helps, it says why before it restarts");
        let machine = node.cut();
        expect_disk(&machine, Some(&one), None, &[&one.good_entry()])?;
        let disk = machine.disk()?;
        let found = disk.destroy_var(SpareSuperblocks::Destroyed)?;
        ensure!(
            found.is_noise(),
            "the node has written to what it cannot read"
        );
        disk.put_back(kept)?;

        let node = story
            .hand_over(machine, Handed::default())
            .power_on()
            .await?;
        at_rest(&node.bus().await?).await?;
        story.step("with its /var it is well again");
        Ok(())
    })
    .await
}
