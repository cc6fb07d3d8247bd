//! Story 3: a release whose required unit fails is undone, explained, and not taken again.

use anyhow::{Context, Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::{StageOptions, refusal};
use qemu_tests::call::Call;
use qemu_tests::deadline::Deadline;
use qemu_tests::node::{BOOT_SECONDS, RESET_SECONDS};
use qemu_tests::seat::Seat;
use qemu_tests::smbios::Handed;
use qemu_tests::story::{expect_disk, expect_slots, tell};

use crate::tale::{EMPTY, STAGE_SECONDS, TRIAL_SECONDS, armed, at_rest, good, stage_well};

const STANDING: Call = Call {
    name: "standing",
    line: "/usr/bin/bistable status",
};
const AGAIN: Call = Call {
    name: "again",
    line: "/usr/bin/bistable stage 4.0",
};
const BARRED: Call = Call {
    name: "barred",
    line: "/usr/bin/bistable barred",
};
const HAPPENED: Call = Call {
    name: "happened",
    line: "/usr/bin/bistable history",
};

const CALLS: [Call; 4] = [STANDING, AGAIN, BARRED, HAPPENED];

/// The unit that the overlay `sick-unit.toml` adds, requires, and lets fail.
const SICK_UNIT: &str = "sick.service";

/// The check that it fails first: built in, and asked before those that a release declares.
const SICK_CHECK: &str = "failed-units";

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_release_is_undone_explained_and_barred_until_forgiven() -> Result<()> {
    tell("sick-unit", async |story| {
        let (one, sick) = (story.image("1")?, story.image("sick-unit")?);
        let shop = story.open_shop(&["sick-unit"]).await?;
        let forgive = Call {
            name: "forgive",
            line: format!("/usr/bin/bistable forgive {}", sick.root_hash).leak(),
        };
        let handed = forgive.hand_in(shop.configure(Handed::default()));
        let node = story
            .machine_with_probe(Seat::hand_in(&CALLS, handed), &[])?
            .power_on()
            .await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        stage_well(&bus, &sick, StageOptions::default()).await?;
        story.step("the sick release is staged");

        let mark = node.qmp().mark();
        bus.reboot().await?;
        node.reset(mark, RESET_SECONDS).await?;
        // From here on nobody helps: the gate gives up, and the node resets by itself.
        let mark = node.qmp().mark();
        node.reset(mark, BOOT_SECONDS + TRIAL_SECONDS).await?;
        story.step("the gate gave up");

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
            rollback.unit == SICK_UNIT,
            "the rollback blames {:?}: {rollback:?}",
            rollback.unit
        );
        ensure!(
            rollback.check == SICK_CHECK && rollback.reason.contains(SICK_UNIT),
            "the rollback blames the check {:?}: {rollback:?}",
            rollback.check
        );
        ensure!(
            !rollback.lines.is_empty(),
            "the rollback kept no lines of the journal: {rollback:?}"
        );
        let barred = bus.barred().await?;
        let hashes: Vec<_> = barred
            .iter()
            .filter_map(|entry| entry.get("root_hash")?.as_str())
            .collect();
        ensure!(hashes == [sick.root_hash.as_str()], "barred are {barred:?}");

        let mut seat = Seat::at(story, &node, &bus)?;
        let deadline = || Deadline::after(STAGE_SECONDS);
        let told = seat.exits(STANDING, 0, deadline()).await?.out;
        ensure!(
            told.contains("rolled back") && told.contains(SICK_UNIT),
            "{told}"
        );
        let refused = seat.exits(AGAIN, 3, deadline()).await?.err;
        ensure!(refused.contains("hint: "), "{refused}");
        let told = seat.exits(BARRED, 0, deadline()).await?.out;
        ensure!(told.contains(&sick.version), "{told}");
        seat.exits(HAPPENED, 0, deadline()).await?;
        story.step("the command tells why");

        let refused = match bus.stage("", StageOptions::default()).await {
            Err(error) => refusal::<()>(Err(error))?.name,
            // The version is known only once the metadata is here, so the job may be what is refused.
            Ok(job) => {
                let report = job.ended(Deadline::after(TRIAL_SECONDS)).await?;
                crate::tale::failure(&report)?.into()
            }
        };
        ensure!(
            refused == "Barred",
            "staging it again was refused with {refused}"
        );
        expect_slots(&bus, Slot::A, good(&one), EMPTY).await?;
        seat.exits(forgive, 0, deadline()).await?;
        ensure!(bus.barred().await?.is_empty(), "it was not forgiven");
        stage_well(&bus, &sick, StageOptions::default())
            .await
            .context("after forgiving")?;
        expect_slots(&bus, Slot::A, good(&one), armed(&sick)).await?;
        story.step("forgiven, and staged again");
        let machine = node.shut_down().await?;
        expect_disk(
            &machine,
            Some(&one),
            Some(&sick),
            &[&one.good_entry(), &sick.armed_entry(3)],
        )
    })
    .await
}
