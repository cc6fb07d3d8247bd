//! Story 5: what is not sound is refused by name, arms nothing, and harms no later update.

use anyhow::{Context, Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::{Bus, StageOptions};
use qemu_tests::publisher::Repository;
use qemu_tests::server::Fault;
use qemu_tests::smbios::Handed;
use qemu_tests::story::{expect_disk, expect_slots, tell};

use crate::tale::{EMPTY, armed, at_rest, failure, good, stage, stage_well};

/// Stages, which must fail with `name`, and leaves the node as it was.
async fn refused(bus: &Bus, name: &str, one: &qemu_tests::fixtures::Image) -> Result<()> {
    let report = stage(bus, StageOptions::default()).await?;
    let error = failure(&report)?;
    ensure!(
        error == name,
        "it failed with {error}, not {name}: {report:?}"
    );
    let updater = bus.updater().await?;
    ensure!(
        updater.staged_version.is_empty(),
        "something is staged: {updater:?}"
    );
    ensure!(
        updater.last_error.0 == report.error.0,
        "the last error is {:?}",
        updater.last_error
    );
    at_rest(bus).await?;
    expect_slots(bus, Slot::A, good(one), EMPTY).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_repository_arms_nothing_and_a_sound_one_still_updates() -> Result<()> {
    tell("hostile-repository", async |story| {
        let (one, two) = (story.image("1")?, story.image("2")?);
        let shop = story.open_shop(&[]).await?;
        let strange = Repository::at(&story.folder().join("strange-repository"));
        story
            .fixtures()
            .stranger(&story.folder().join("strange-keys"))?
            .publish(&two, &strange)?;
        let node = story
            .machine(shop.configure(Handed::default()))?
            .power_on()
            .await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;

        refused(&bus, "RepositoryUnreachable", &one)
            .await
            .context("no repository at all")?;
        shop.server.serve(strange.folder());
        refused(&bus, "MetadataUntrusted", &one)
            .await
            .context("signed by a stranger")?;
        story.step("a stranger is refused");

        shop.server.serve(shop.repository.folder());
        // Without patches, so that there is something to spoil.
        shop.publisher
            .publish_without_patches(&two, &shop.repository)?;
        shop.publisher
            .refresh(&shop.repository, Some("2020-01-01T00:00:00Z"))?;
        refused(&bus, "MetadataExpired", &one)
            .await
            .context("expired metadata")?;
        shop.publisher.refresh(&shop.repository, None)?;
        story.step("expired metadata is refused");

        let blobs = shop.repository.blobs(&two.version)?;
        let packed = blobs.packed.as_ref().context("no compressed root image")?;
        // In the order of their use: what an attempt has brought is not fetched again.
        shop.server.spoil(&blobs.verity.path(), Fault::Lies);
        refused(&bus, "BlobCorrupt", &one)
            .await
            .context("flipped bytes in the hash tree")?;
        shop.server.heal();
        for blob in [&blobs.root, packed] {
            shop.server.spoil(&blob.path(), Fault::Lies);
        }
        refused(&bus, "BlobCorrupt", &one)
            .await
            .context("flipped bytes in the root image")?;
        shop.server.heal();
        story.step("flipped bytes are refused");
        for blob in [&blobs.root, packed] {
            shop.server.spoil(&blob.path(), Fault::TruncateAt(17));
        }
        refused(&bus, "BlobTruncated", &one)
            .await
            .context("a truncated root image")?;
        shop.server.heal();
        story.step("a truncated blob is refused");
        shop.server.spoil(&blobs.uki.path(), Fault::Lies);
        refused(&bus, "BlobCorrupt", &one)
            .await
            .context("flipped bytes in the kernel")?;
        shop.server.heal();

        stage_well(&bus, &two, StageOptions::default())
            .await
            .context("a sound repository")?;
        expect_slots(&bus, Slot::A, good(&one), armed(&two)).await?;
        story.step("a sound release is staged");
        let machine = node.shut_down().await?;
        expect_disk(
            &machine,
            Some(&one),
            Some(&two),
            &[&one.good_entry(), &two.armed_entry(3)],
        )
    })
    .await
}
