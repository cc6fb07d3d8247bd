//! A disk with sectors of 4096 bytes, as NVMe drives and some clouds have: the node boots from
//! it, makes slot B and `/var`, and updates.

use anyhow::{Result, ensure};
use partition_layout::{SectorSize, Slot};
use qemu_tests::bus::StageOptions;
use qemu_tests::smbios::Handed;
use qemu_tests::story::{expect_disk, expect_slots, tell};

use crate::tale::{EMPTY, armed, at_rest, good, stage_well};
use crate::update::reboot_into_trial;

const SECTORS: SectorSize = SectorSize::B4096;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "told by `cargo xtask torture`"]
async fn a_node_on_sectors_of_4096_bytes_boots_and_updates() -> Result<()> {
    tell("large-sectors", async |story| {
        let (one, two) = (story.image("1")?, story.image("2")?);
        let shop = story.open_shop(&["2"]).await?;
        let handed = shop.configure(Handed::default());
        let disk = one.disk_of_large_sectors()?;
        let machine = story
            .machine_of(story.folder(), &disk, handed)?
            .with_sectors(SECTORS);
        let node = machine.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        expect_slots(&bus, Slot::A, good(&one), EMPTY).await?;
        story.step("release 1 runs");

        stage_well(&bus, &two, StageOptions::default()).await?;
        expect_slots(&bus, Slot::A, good(&one), armed(&two)).await?;
        let bus = reboot_into_trial(&node, &bus, Slot::B, &two).await?;
        expect_slots(&bus, Slot::B, good(&one), good(&two)).await?;
        story.step("release 2 is good");

        let machine = node.shut_down().await?;
        let entries = [one.good_entry(), two.watched_entry()];
        let entries = entries.each_ref().map(String::as_str);
        expect_disk(&machine, Some(&one), Some(&two), &entries)?;
        let seen = machine.disk()?.inspect()?;
        ensure!(
            seen.sound && seen.disk.sector_size == SECTORS.bytes(),
            "from outside: {:?}, {:?}",
            seen.faults,
            seen.disk
        );
        Ok(())
    })
    .await
}
