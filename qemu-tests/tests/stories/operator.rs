//! An operator's day on the shipped command, with a daemon that is killed in between.

use anyhow::{Context, Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::{Bus, StageOptions};
use qemu_tests::call::{Call, Ran};
use qemu_tests::deadline::{Deadline, Look};
use qemu_tests::fixtures::Image;
use qemu_tests::memory;
use qemu_tests::node::Node;
use qemu_tests::seat::Seat;
use qemu_tests::smbios::Handed;
use qemu_tests::story::{Story, expect_disk, expect_slots, tell};
use serde_json::Value;

use crate::tale::{EMPTY, STAGE_SECONDS, armed, at_rest, good};

const STATUS: Call = Call {
    name: "status",
    line: "/usr/bin/bistable status --json",
};
const NONSENSE: Call = Call {
    name: "nonsense",
    line: "/usr/bin/bistable stage --tries 99",
};
const UNKNOWN: Call = Call {
    name: "unknown",
    line: "/usr/bin/bistable stage 99.9",
};
const STAGE: Call = Call {
    name: "stage",
    line: "/usr/bin/bistable stage",
};
const SLOTS: Call = Call {
    name: "slots",
    line: "/usr/bin/bistable slots",
};
const HISTORY: Call = Call {
    name: "history",
    line: "/usr/bin/bistable history --json",
};
const CHECK: Call = Call {
    name: "check",
    line: "/usr/bin/bistable check",
};
const PLAN: Call = Call {
    name: "plan",
    line: "/usr/bin/bistable plan",
};
const PROCEED: Call = Call {
    name: "proceed",
    line: "/usr/bin/bistable proceed",
};
const RELOAD: Call = Call {
    name: "reload",
    line: "/usr/bin/bistable reload",
};
const STANDING: Call = Call {
    name: "standing",
    line: "/usr/bin/bistable status",
};
const HAPPENED: Call = Call {
    name: "happened",
    line: "/usr/bin/bistable history",
};
const METRICS: Call = Call {
    name: "metrics",
    line: "/usr/bin/bistable metrics",
};
const CALLS: [Call; 13] = [
    STATUS, NONSENSE, UNKNOWN, STAGE, SLOTS, HISTORY, CHECK, PLAN, PROCEED, RELOAD, STANDING,
    HAPPENED, METRICS,
];

/// Where the daemon is killed, in percent of the work of staging: at the first
/// blocks, in the middle of the root, in the read-back.
const KILLS: [u64; 4] = [2, 35, 70, 95];

const SIGKILL: i32 = 9;

fn json(ran: &Ran) -> Result<Value> {
    serde_json::from_str(&ran.out).with_context(|| format!("this is no JSON: {ran:?}"))
}

/// Kills the daemon when `percent` of staging are done, and waits for the next one.
async fn kill_while_staging(node: &Node, bus: &Bus, one: &Image, percent: u64) -> Result<String> {
    let process = bus.main_process(memory::UNIT).await?;
    let job = bus.stage("", StageOptions::default()).await?;
    let report = job
        .until(Deadline::after(STAGE_SECONDS), async |report| {
            Ok(report.reached(percent))
        })
        .await?;
    bus.kill_main_process(memory::UNIT, SIGKILL).await?;
    ensure!(
        report.result.is_empty(),
        "staging was over before the daemon was killed: {report:?}"
    );
    // What would be left if the power failed now as well.
    let entries = node.look_at_disk(|disk| disk.boot_entry_names()).await?;
    ensure!(
        entries == [one.good_entry()],
        "killed at {percent} %, the boot entries are {entries:?}"
    );
    Deadline::after(STAGE_SECONDS)
        .until("systemd to start the daemon again", async || {
            let now = bus.main_process(memory::UNIT).await?;
            Ok(if now > 0 && now != process {
                Look::Found(())
            } else {
                Look::NotYet(format!("its process is {now}, as it was: {process}"))
            })
        })
        .await?;
    at_rest(bus).await?;
    expect_slots(bus, Slot::A, good(one), EMPTY)
        .await
        .with_context(|| format!("killed at {percent} %"))?;
    Ok(report.phase)
}

/// Stages with the command, off a terminal.
async fn stage_by_command(seat: &mut Seat<'_>, two: &Image) -> Result<()> {
    let staged = seat.exits(STAGE, 0, Deadline::after(STAGE_SECONDS)).await?;
    let percents: Vec<u64> = staged
        .out
        .lines()
        .filter_map(|line| line.split_once(" % (")?.0.rsplit(' ').next()?.parse().ok())
        .collect();
    ensure!(
        percents.len() >= 3 && percents.is_sorted(),
        "its progress is {percents:?}: {staged:?}"
    );
    ensure!(
        !staged.out.contains('\r') && !staged.out.contains('\u{1b}'),
        "it drew a bar into a file: {staged:?}"
    );
    ensure!(
        staged.out.contains(&two.version) && staged.err.is_empty(),
        "{staged:?}"
    );
    Ok(())
}

async fn day(story: &mut Story) -> Result<()> {
    let (one, two) = (story.image("1")?, story.image("2")?);
    let shop = story.open_shop(&["2"]).await?;
    let handed = Seat::hand_in(&CALLS, shop.configure(Handed::default()));
    let node = story.machine_with_probe(handed, &[])?.power_on().await?;
    let bus = node.bus().await?;
    at_rest(&bus).await?;
    let mut seat = Seat::at(story, &node, &bus)?;

    let status = json(
        &seat
            .exits(STATUS, 0, Deadline::after(STAGE_SECONDS))
            .await?,
    )?;
    ensure!(
        status["booted_version"] == one.version.as_str() && status["booted_slot"] == "A",
        "{status}"
    );
    let nonsense = seat
        .exits(NONSENSE, 2, Deadline::after(STAGE_SECONDS))
        .await?;
    ensure!(
        nonsense.err.contains("99") && nonsense.err.contains("--tries"),
        "{nonsense:?}"
    );
    let unknown = seat
        .exits(UNKNOWN, 3, Deadline::after(STAGE_SECONDS))
        .await?;
    ensure!(
        unknown.err.contains("99.9") && unknown.err.contains("hint: "),
        "{unknown:?}"
    );
    at_rest(&bus).await?;
    story.step("the command answers, and refuses");

    seat.exits(CHECK, 0, Deadline::after(STAGE_SECONDS)).await?;
    let plan = seat.exits(PLAN, 0, Deadline::after(STAGE_SECONDS)).await?;
    let sent = shop.server.bytes_sent();
    ensure!(
        plan.out.contains("patch") && plan.out.contains(&two.version),
        "{plan:?}"
    );
    let reloaded = seat
        .exits(RELOAD, 0, Deadline::after(STAGE_SECONDS))
        .await?;
    let proceeded = seat
        .exits(PROCEED, 0, Deadline::after(STAGE_SECONDS))
        .await?;
    ensure!(
        proceeded.out.starts_with("nothing to do now: "),
        "{reloaded:?}, then {proceeded:?}"
    );
    expect_slots(&bus, Slot::A, good(&one), EMPTY).await?;
    story.step(&format!("a plan was made; {sent} bytes were sent so far"));

    for percent in KILLS {
        let phase = kill_while_staging(&node, &bus, &one, percent).await?;
        story.step(&format!("the daemon was killed at {percent} % ({phase})"));
    }

    stage_by_command(&mut seat, &two).await?;
    expect_slots(&bus, Slot::A, good(&one), armed(&two)).await?;
    let slots = seat.exits(SLOTS, 0, Deadline::after(STAGE_SECONDS)).await?;
    ensure!(
        slots.out.contains("A (running)") && slots.out.contains("armed"),
        "{slots:?}"
    );
    let history = json(
        &seat
            .exits(HISTORY, 0, Deadline::after(STAGE_SECONDS))
            .await?,
    )?;
    let staged = history
        .as_array()
        .into_iter()
        .flatten()
        .any(|entry| entry["event"] == "staged" && entry["version"] == two.version.as_str());
    ensure!(staged, "the history does not tell of it: {history}");
    seat.exits(STANDING, 0, Deadline::after(STAGE_SECONDS))
        .await?;
    seat.exits(HAPPENED, 0, Deadline::after(STAGE_SECONDS))
        .await?;
    let metrics = seat
        .exits(METRICS, 0, Deadline::after(STAGE_SECONDS))
        .await?;
    let staged = format!("bistable_staged_info{{version=\"{}\"", two.version);
    ensure!(metrics.out.contains(&staged), "{metrics:?}");
    story.step("staged with the command");

    let machine = node.shut_down().await?;
    machine.disk()?.expect_root(Slot::A, &one)?;
    machine.disk()?.expect_root(Slot::B, &two)?;
    expect_disk(
        &machine,
        Some(&one),
        Some(&two),
        &[&one.good_entry(), &two.armed_entry(3)],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_drives_a_node_whose_daemon_is_killed_again_and_again() -> Result<()> {
    tell("operator", day).await
}
