//! Story 6: a root that was altered from outside is not run, and not tried again at once.

use std::time::Duration;

use anyhow::{Result, ensure};
use partition_layout::Slot;
use qemu_tests::console::Mark;
use qemu_tests::deadline::Deadline;
use qemu_tests::node::BOOT_SECONDS;
use qemu_tests::smbios::Handed;
use qemu_tests::story::{expect_disk, expect_slots, tell};

use crate::tale::{EMPTY, USERSPACE, at_rest, good};

/// `panic=` of the command line, less what the console is late.
pub(crate) const BACK_OFF: Duration = Duration::from_secs(9);

/// A byte within the superblock of EROFS, which every mount must read.
pub(crate) const IN_SUPERBLOCK: u64 = 1024 + 64;

/// What the kernel says when it has read something else than the image.
pub(crate) const ROTTEN: &str = "is corrupted";

/// What it says then.
pub(crate) const PANIC: &str = "Kernel panic - not syncing: dm-verity device corrupted";

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_booted_root_is_refused_by_the_kernel() -> Result<()> {
    tell("flipped-byte", async |story| {
        let one = story.image("1")?;
        let node = story.machine(Handed::default())?.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        expect_slots(&bus, Slot::A, good(&one), EMPTY).await?;
        let machine = node.shut_down().await?;
        story.step("release 1 is sound");

        machine.disk()?.flip(Slot::A, IN_SUPERBLOCK)?;
        let node = machine.power_on().await?;
        let mark = node.qmp().mark();
        node.console()
            .wait_for(Mark::START, ROTTEN, Deadline::after(BOOT_SECONDS))
            .await?;
        // The kernel panics rather than run on it, leaves that to be read, and restarts.
        let deadline = Deadline::after(BOOT_SECONDS);
        let panicked = node
            .console()
            .wait_for(Mark::START, PANIC, deadline)
            .await?;
        node.reset(mark, BOOT_SECONDS).await?;
        let waited = panicked.at.elapsed();
        ensure!(waited >= BACK_OFF, "it restarted after {waited:?}");
        let again = node.console().mark();
        node.console()
            .wait_for(again, ROTTEN, Deadline::after(BOOT_SECONDS))
            .await?;
        let userspace = node.console().find(Mark::START, USERSPACE);
        ensure!(userspace.is_none(), "the node ran on it: {userspace:?}");
        story.step("refused twice");

        // Healed, it is the very same node again.
        let machine = node.cut();
        expect_disk(&machine, Some(&one), None, &[&one.good_entry()])?;
        machine.disk()?.flip(Slot::A, IN_SUPERBLOCK)?;
        let node = machine.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        expect_slots(&bus, Slot::A, good(&one), EMPTY).await?;
        story.step("healed, it boots");
        Ok(())
    })
    .await
}
