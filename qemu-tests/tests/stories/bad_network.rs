//! Story 9: a network that breaks again and again, a server that lies, one that knows no
//! ranges, an operator who thinks twice, and a window that opens: no byte is fetched twice
//! for nothing, and the node ends with what the channel offers.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::{Bus, StageOptions, refusal};
use qemu_tests::call::Call;
use qemu_tests::deadline::{Deadline, Look};
use qemu_tests::fixtures::Image;
use qemu_tests::seat::Seat;
use qemu_tests::server::{Fault, Manner, Served, Server};
use qemu_tests::smbios::Handed;
use qemu_tests::story::{Shop, Story, expect_disk, expect_slots, tell};

use crate::tale::{EMPTY, STAGE_SECONDS, TRIAL_SECONDS, armed, at_rest, good, stage_well};

/// How long the node's window stays closed: time for a boot and all that an operator does
/// before it opens.
const CLOSED: Duration = Duration::from_secs(5 * 60);

const HELD: Call = Call {
    name: "held",
    line: "/usr/bin/bistable proceed",
};
const STANDING: Call = Call {
    name: "standing",
    line: "/usr/bin/bistable status",
};
const NO_SHARE: Call = Call {
    name: "no-share",
    line: "/usr/bin/bistable proceed",
};
const PAUSE: Call = Call {
    name: "pause",
    line: "/usr/bin/bistable pause",
};
const RESUME: Call = Call {
    name: "resume",
    line: "/usr/bin/bistable resume",
};
const CANCEL: Call = Call {
    name: "cancel",
    line: "/usr/bin/bistable cancel",
};
const CALLS: [Call; 6] = [HELD, STANDING, NO_SHARE, PAUSE, RESUME, CANCEL];

/// Where blobs are in a repository.
const BLOBS: &str = "blobs/";

/// What each answer breaks off after: more than the 64 KiB that the node counts as progress.
const BREATH: u64 = 96 << 10;

/// A kernel image, and what two releases of the same packages differ by: far less than a
/// root image.
const FEW_BYTES: u64 = 20_000_000;

/// `HH:MM` in UTC, so many seconds after 1970, rounded up to a minute.
fn time_of_day(seconds: u64) -> String {
    let minutes = seconds.div_ceil(60) % (24 * 60);
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

/// A node that stages by itself, from two servers, in a window that is yet to open.
fn settings(shop: &Shop, mirror: &Server) -> Result<String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("it is before 1970")?;
    let opens = (now + CLOSED).as_secs();
    Ok(format!(
        "repository = \"{}\"\nmirrors = [\"{}\"]\nautomatic = \"stage\"\n\
         [[window]]\ndays = [\"daily\"]\nfrom = \"{}\"\nto = \"{}\"\n",
        shop.server.url_for_node(),
        mirror.url_for_node(),
        time_of_day(opens),
        time_of_day(opens + 12 * 3600),
    ))
}

fn blobs_of(served: Vec<Served>) -> Vec<Served> {
    let is_blob = |served: &Served| served.path.starts_with(BLOBS) && served.bytes > 0;
    served.into_iter().filter(is_blob).collect()
}

/// Checks that no byte of any blob was sent twice.
fn expect_nothing_twice(served: &[Served]) -> Result<()> {
    let mut parts: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
    for part in served {
        let ends = part.from + part.bytes;
        parts.entry(&part.path).or_default().push((part.from, ends));
    }
    for (path, parts) in &mut parts {
        parts.sort_unstable();
        let twice = parts
            .windows(2)
            .find(|pair| matches!(pair, [(_, end), (next, _)] if next < end));
        ensure!(twice.is_none(), "of {path}, {twice:?} was sent twice");
    }
    Ok(())
}

/// Waits until the node, asked to proceed, says why it does nothing.
async fn held(bus: &Bus, why: &str) -> Result<()> {
    Deadline::after(STAGE_SECONDS)
        .until(format_args!("the node to be held: {why}"), async || {
            let did = bus.proceed().await?;
            let held = bus.updater().await?.held;
            Ok(if did == "nothing" && held == why {
                Look::Found(())
            } else {
                Look::NotYet(format!("it did {did}, and is held: {held:?}"))
            })
        })
        .await
}

async fn check(bus: &Bus) -> Result<()> {
    let check = bus.check_for_update().await?;
    let check = check.ended(Deadline::after(STAGE_SECONDS)).await?;
    ensure!(check.result == "done", "the check ended so: {check:?}");
    Ok(())
}

/// Stages while every answer breaks off: the parts add up.
async fn breaks(shop: &Shop, mirror: &Server, bus: &Bus, two: &Image) -> Result<()> {
    for server in [&shop.server, mirror] {
        server.behave(Manner::HangsUpAfter(BREATH));
    }
    let before = (shop.server.served().len(), mirror.served().len());
    stage_well(bus, two, StageOptions::default()).await?;
    for server in [&shop.server, mirror] {
        server.heal();
    }
    let mut served = blobs_of(shop.server.served().split_off(before.0));
    served.extend(blobs_of(mirror.served().split_off(before.1)));
    let bytes: u64 = served.iter().map(|part| part.bytes).sum();
    ensure!(
        served.len() > 10 && bytes < FEW_BYTES,
        "{bytes} bytes in {} answers",
        served.len()
    );
    expect_nothing_twice(&served)
}

/// Pauses and cancels a stage that waits for a server.
async fn second_thoughts(
    shop: &Shop,
    mirror: &Server,
    (bus, seat): (&Bus, &mut Seat<'_>),
    two: &Image,
) -> Result<()> {
    let blobs = shop.repository.blobs(&two.version)?;
    for server in [&shop.server, mirror] {
        server.behave(Manner::WithoutRanges);
        for path in [Some(&blobs.root), blobs.packed.as_ref()]
            .into_iter()
            .flatten()
        {
            server.spoil(&path.path(), Fault::StallAt(path.size / 3));
        }
    }
    let job = bus.stage(&two.version, StageOptions::default()).await?;
    Deadline::after(STAGE_SECONDS)
        .until("a server to stall", async || {
            let stalled = blobs_of(shop.server.served())
                .iter()
                .any(|part| part.status == 200 && part.bytes >= blobs.root.size / 6);
            let report = job.report().await?;
            ensure!(report.result.is_empty(), "it ended: {report:?}");
            Ok(if stalled {
                Look::Found(())
            } else {
                Look::NotYet(format!("{report:?}"))
            })
        })
        .await?;
    let soon = || Deadline::after(TRIAL_SECONDS);
    seat.exits(PAUSE, 0, soon()).await?;
    ensure!(job.report().await?.paused, "it is not paused");
    let second = refusal(bus.stage("", StageOptions::default()).await)?;
    ensure!(second.name == "Busy", "a second caller got {second}");
    seat.exits(RESUME, 0, soon()).await?;
    ensure!(!job.report().await?.paused, "it is still paused");
    seat.exits(CANCEL, 0, soon()).await?;
    let report = job.ended(Deadline::after(STAGE_SECONDS)).await?;
    ensure!(report.result == "cancelled", "it ended so: {report:?}");
    at_rest(bus).await?;
    shop.server.heal();
    mirror.heal();
    Ok(())
}

async fn network(story: &mut Story) -> Result<()> {
    let (one, two, three) = (story.image("1")?, story.image("2")?, story.image("3")?);
    // Without patches, so that there is something to fetch.
    let shop = story.open_shop(&[]).await?;
    shop.publisher
        .publish_without_patches(&two, &shop.repository)?;
    let mirror = Server::start(shop.repository.folder()).await?;
    let handed = Handed::default().credential("bistable.updater.toml", &settings(&shop, &mirror)?);
    let handed = Seat::hand_in(&CALLS, handed);
    let node = story.machine_with_probe(handed, &[])?.power_on().await?;
    let bus = node.bus().await?;
    at_rest(&bus).await?;

    held(&bus, "window-closed").await?;
    expect_slots(&bus, Slot::A, good(&one), EMPTY).await?;
    let mut seat = Seat::at(story, &node, &bus)?;
    let soon = || Deadline::after(TRIAL_SECONDS);
    let told = seat.exits(HELD, 0, soon()).await?.out;
    ensure!(told.contains("window"), "{told}");
    seat.exits(STANDING, 0, soon()).await?;
    story.step("with its window closed the node does nothing by itself");

    breaks(&shop, &mirror, &bus, &two).await?;
    expect_slots(&bus, Slot::A, good(&one), armed(&two)).await?;
    story.step("release 2 is staged over a network that breaks again and again");

    shop.publisher
        .publish_without_patches(&three, &shop.repository)?;
    shop.server.behave(Manner::LiesBelow(BLOBS));
    let sent = mirror.bytes_sent();
    stage_well(&bus, &three, StageOptions::default()).await?;
    shop.server.heal();
    ensure!(mirror.bytes_sent() > sent, "the mirror was not asked");
    expect_slots(&bus, Slot::A, good(&one), armed(&three)).await?;
    story.step("release 3 is staged straight from 1, past a server that lies");

    second_thoughts(&shop, &mirror, (&bus, &mut seat), &two).await?;
    expect_slots(&bus, Slot::A, good(&one), EMPTY).await?;
    story.step("a stage was paused, resumed and cancelled in the middle");

    shop.publisher.roll_out(&shop.repository, 0)?;
    check(&bus).await?;
    held(&bus, "rollout").await?;
    let told = seat.exits(NO_SHARE, 0, soon()).await?.out;
    ensure!(told.contains("0 %"), "{told}");
    story.step("a rollout that was stopped holds the node");
    shop.publisher.roll_out(&shop.repository, 100)?;

    for server in [&shop.server, &mirror] {
        server.behave(Manner::WithoutRanges);
    }
    check(&bus).await?;
    Deadline::after(CLOSED.as_secs() + TRIAL_SECONDS)
        .until("the node to stage by itself", async || {
            let did = bus.proceed().await?;
            let updater = bus.updater().await?;
            Ok(if updater.state == "staged" {
                Look::Found(())
            } else {
                Look::NotYet(format!("it did {did}: {updater:?}"))
            })
        })
        .await?;
    expect_slots(&bus, Slot::A, good(&one), armed(&three)).await?;
    story.step("the window opened, and the node staged release 3 without ranges");

    let machine = node.shut_down().await?;
    machine.disk()?.expect_root(Slot::B, &three)?;
    expect_disk(
        &machine,
        Some(&one),
        Some(&three),
        &[&one.good_entry(), &three.armed_entry(3)],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_network_a_liar_and_second_thoughts_delay_an_update_and_spoil_nothing() -> Result<()>
{
    tell("bad-network", network).await
}
