//! Story 7: the power fails at five points of staging, and each time the old slot boots.

use anyhow::{Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::{JobReport, StageOptions};
use qemu_tests::deadline::Deadline;
use qemu_tests::smbios::Handed;
use qemu_tests::story::{expect_disk, tell};

use crate::tale::{STAGE_SECONDS, at_rest};

/// Where the power fails, in percent of the work of staging: fetch and write first, read-back last.
const CUTS: [u64; 5] = [2, 25, 50, 75, 97];

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_power_fails_the_old_slot_boots_and_staging_then_completes() -> Result<()> {
    tell("power-cut", async |story| {
        let (one, two) = (story.image("1")?, story.image("2")?);
        // Without patches: the kernel image takes long enough to be cut off in it.
        let shop = story.open_shop(&[]).await?;
        shop.publisher
            .publish_without_patches(&two, &shop.repository)?;
        let mut machine = story.machine(shop.configure(Handed::default()))?;
        for cut in CUTS {
            let node = machine.power_on().await?;
            let bus = node.bus().await?;
            at_rest(&bus).await?;
            let updater = bus.updater().await?;
            ensure!(updater.booted_version == one.version, "{updater:?}");
            let job = bus.stage("", StageOptions::default()).await?;
            let report = job
                .until(Deadline::after(STAGE_SECONDS), async |report| {
                    Ok(report.reached(cut))
                })
                .await?;
            machine = node.cut();
            ensure!(
                report.result.is_empty(),
                "staging was over before the cut at {cut} %: {report:?}"
            );
            // Half-written or whole, nothing but the old slot can be booted.
            let entries = machine.disk()?.boot_entry_names()?;
            ensure!(
                entries == [one.good_entry()],
                "after the cut at {cut} %, the boot entries are {entries:?}"
            );
            story.step(&format!(
                "cut at {cut} % ({}, {} bytes done)",
                report.phase, report.bytes_done
            ));
        }

        let node = machine.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        let job = bus.stage("", StageOptions::default()).await?;
        let whole = async |report: &JobReport| Ok(report.at_100_percent());
        let report = job.until(Deadline::after(STAGE_SECONDS), whole).await?;
        // At once: what is said to be all done is armed, on the disk.
        let machine = node.cut();
        ensure!(
            report.at_100_percent(),
            "staging does not complete: {report:?}"
        );
        expect_disk(
            &machine,
            Some(&one),
            Some(&two),
            &[&one.good_entry(), &two.armed_entry(3)],
        )?;
        machine.disk()?.expect_root(Slot::B, &two)?;
        story.step("staging completes");
        Ok(())
    })
    .await
}
