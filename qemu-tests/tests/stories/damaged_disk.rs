//! A disk that is harmed while the node is off, a bit of everything at a time: a copy of the
//! partition table, the superblock of `/var`, all room on the ESP, all room in `/var`, `/var`
//! itself; once under a node that runs, nobody may write. The node boots each time, mends what
//! can be mended, and names what keeps it from staging.

use anyhow::{Result, ensure};
use partition_layout::{Slot, TableCopy};
use qemu_tests::bus::{Bus, StageOptions};
use qemu_tests::deadline::{Deadline, Look};
use qemu_tests::fixtures::Image;
use qemu_tests::harm::SpareSuperblocks;
use qemu_tests::node::{BOOT_SECONDS, Node};
use qemu_tests::outside::OutsideDisk;
use qemu_tests::probe::Request;
use qemu_tests::room::VAR_FILLER;
use qemu_tests::smbios::Handed;
use qemu_tests::story::{expect_disk, expect_slots, tell};

use crate::tale::{
    armed, at_rest, expect_disarmed, expect_failure, good, restarted, stage, stage_well,
};

const REMEMBERED: &str = "/var/lib/story";

/// The kernel's door for emergencies, and what is said there to have no file system written to any
/// more (the kernel's `admin-guide/sysrq.rst`).
const SYSRQ: &str = "/proc/sysrq-trigger";
const EMERGENCY_REMOUNT: &str = "u";

/// Checks that both copies of the partition table are whole, and nothing else is wrong.
fn expect_sound(disk: &OutsideDisk) -> Result<()> {
    let seen = disk.inspect()?;
    ensure!(seen.sound, "from outside: {:?}", seen.faults);
    Ok(())
}

/// The same, about the disk of a node that runs.
async fn expect_whole_tables(node: &Node) -> Result<()> {
    let table = node.look_at_disk(|disk| Ok(disk.inspect()?.table)).await?;
    ensure!(
        table.primary == "whole" && table.backup == "whole",
        "from outside: {table:?}"
    );
    Ok(())
}

/// All file systems become read-only under a node that runs, as on a disk that the kernel does not
/// trust any more; the next start has them writable again.
async fn read_only(node: &Node, bus: Bus, one: &Image) -> Result<Bus> {
    node.probe(&Request::Write(SYSRQ, EMERGENCY_REMOUNT))
        .await?;
    Deadline::after(BOOT_SECONDS)
        .until("/var to be read-only", async || {
            let mounts = node.probe(&Request::Read("/proc/mounts")).await?;
            let var = mounts.lines().find(|line| line.contains(" /var "));
            Ok(match var {
                Some(line) if line.contains(" ro,") => Look::Found(()),
                _ => Look::NotYet(format!("{var:?}")),
            })
        })
        .await?;
    let report = stage(&bus, StageOptions::default()).await?;
    expect_failure(&report, "RecordFailed", &["Read-only file system"])?;
    expect_disarmed(node, &bus, one).await?;
    restarted(node, &bus).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "told by `cargo xtask torture`"]
async fn on_a_disk_that_is_damaged_and_full_a_node_boots_names_it_and_then_updates() -> Result<()> {
    tell("damaged-disk", async |story| {
        let (one, two) = (story.image("1")?, story.image("2")?);
        let shop = story.open_shop(&["2"]).await?;
        let machine = story.machine_with_probe(shop.configure(Handed::default()), &[])?;
        let node = machine.power_on().await?;
        at_rest(&node.bus().await?).await?;
        node.probe(&Request::Write(REMEMBERED, "what was")).await?;
        // Whose /var is mounted still.
        let machine = node.cut();
        story.step("release 1 runs, and is cut");

        let disk = machine.disk()?;
        disk.destroy_table(TableCopy::Primary)?;
        disk.destroy_var(SpareSuperblocks::Left)?;
        disk.fill_esp()?;
        let table = disk.inspect()?.table;
        ensure!(table.primary == "damaged", "before the start: {table:?}");
        ensure!(disk.expect_sound_var().is_err(), "/var is not damaged");
        let node = machine.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        expect_whole_tables(&node).await?;
        let remembered = node.probe(&Request::Read(REMEMBERED)).await?;
        ensure!(remembered == "what was", "in /var is {remembered:?}");
        story.step("it runs with a mended table and a mended /var");
        let report = stage(&bus, StageOptions::default()).await?;
        let words = ["the EFI system partition has room for "];
        expect_failure(&report, "EspFull", &words)?;
        expect_disarmed(&node, &bus, &one).await?;
        let machine = node.shut_down().await?;
        story.step("the ESP is full");

        let disk = machine.disk()?;
        disk.expect_sound_var()?;
        disk.clear_esp()?;
        disk.destroy_table(TableCopy::Backup)?;
        disk.fill_var()?;
        let table = disk.inspect()?.table;
        ensure!(table.backup == "damaged", "before the start: {table:?}");
        let node = machine.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        expect_whole_tables(&node).await?;
        let report = stage(&bus, StageOptions::default()).await?;
        expect_failure(&report, "RecordFailed", &["No space left on device"])?;
        expect_disarmed(&node, &bus, &one).await?;
        story.step("it runs with a mended table and a full /var");

        node.probe(&Request::Remove(VAR_FILLER)).await?;
        let bus = read_only(&node, bus, &one).await?;
        story.step("it names a /var that takes no writes, and restarts in order");

        // This time under a node that runs: no firmware mends it, a relabelling does.
        node.look_at_disk(|disk| disk.destroy_table(TableCopy::Primary))
            .await?;
        stage_well(&bus, &two, StageOptions::default()).await?;
        expect_slots(&bus, Slot::A, good(&one), armed(&two)).await?;
        let machine = node.shut_down().await?;
        let entries = [one.good_entry(), two.armed_entry(3)];
        let entries = entries.each_ref().map(String::as_str);
        expect_disk(&machine, Some(&one), Some(&two), &entries)?;
        let disk = machine.disk()?;
        expect_sound(&disk)?;
        disk.expect_sound_var()?;
        story.step("with room it stages, and the disk is whole");

        // With all that the node knew: that there is a trial, whose count the firmware has.
        disk.lose_var()?;
        let node = machine.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        expect_slots(&bus, Slot::B, good(&one), good(&two)).await?;
        expect_whole_tables(&node).await?;
        let machine = node.shut_down().await?;
        machine.disk()?.expect_sound_var()?;
        story.step("the trial of a node that lost its /var is decided all the same");
        Ok(())
    })
    .await
}
