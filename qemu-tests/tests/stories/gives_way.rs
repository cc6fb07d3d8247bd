//! Story 11: what a good slot on watch loses by power cuts, by a lost kernel image, by a gate that fails
//! its last start, and by rot; and that the one that it would give way to is kept sound.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use partition_layout::{Slot, WATCHED_STARTS};
use qemu_tests::bus::{Bus, Rollback, StageOptions};
use qemu_tests::call::Call;
use qemu_tests::console::Mark;
use qemu_tests::deadline::{Deadline, Look};
use qemu_tests::fixtures::Image;
use qemu_tests::machine::Machine;
use qemu_tests::node::{BOOT_SECONDS, Node};
use qemu_tests::outside::OutsideDisk;
use qemu_tests::qmp::EventMark;
use qemu_tests::seat::Seat;
use qemu_tests::smbios::Handed;
use qemu_tests::story::{Story, TWIN, expect_disk, expect_slots, tell};

use crate::flipped_byte::{BACK_OFF, IN_SUPERBLOCK, PANIC, ROTTEN};
use crate::rotten_block::{PERCENT, mended, rot_kernel};
use crate::tale::{
    EMPTY, ONLY_ON_TRIAL, STAGE_SECONDS, TRIAL_SECONDS, USERSPACE, at_rest, good, stage_well,
};
use crate::update::reboot_into_trial;

/// How often in a row the power fails before a healthy node is up.
const CUTS: u32 = 10;

/// What the firmware says when it starts the boot loader.
const FIRMWARE: &str = "BdsDxe: starting";

const STANDING: Call = Call {
    name: "standing",
    line: "/usr/bin/bistable status",
};
const HAPPENED: Call = Call {
    name: "happened",
    line: "/usr/bin/bistable history",
};

/// The unit that fails.
const SICK_UNIT: &str = "fails-by-now.service";

/// What the kernel says when it has panicked and waits.
const WAITS: &str = "Rebooting in 10 seconds";

/// Release 1 is good in slot A, release 2 in slot B, on watch.
struct Releases {
    one: Image,
    two: Image,
}

impl Releases {
    /// Checks from outside that both are there, with release 2 started `done` times since it came up.
    fn expect_on_watch(&self, machine: &Machine, done: u32) -> Result<()> {
        let Self { one, two } = self;
        let left = WATCHED_STARTS.saturating_sub(done);
        let watched = two.counted_entry(left, done);
        expect_disk(
            machine,
            Some(one),
            Some(two),
            &[&one.good_entry(), &watched],
        )
    }

    /// Checks that release 1 runs and nothing else boots, and that this is told of release 2, which
    /// was started `starts` times.
    async fn expect_given_way(&self, node: &Node, bus: &Bus, starts: u32) -> Result<Rollback> {
        let Self { one, two } = self;
        at_rest(bus).await?;
        expect_slots(bus, Slot::A, good(one), EMPTY).await?;
        let told = bus.updater().await?.last_rollback;
        ensure!(
            told.kind == "gave-way"
                && (&told.version, &told.root_hash) == (&two.version, &two.root_hash)
                && told.tries == starts,
            "{told:?}"
        );
        let history = bus.history().await?;
        let last = history.first().context("the history is empty")?;
        ensure!(
            last["event"] == "gave-way"
                && last["version"] == *two.version
                && last["message"] == *told.reason,
            "the history ends with {last}"
        );
        // It was not the image that was to blame.
        let barred = bus.barred().await?;
        ensure!(barred.is_empty(), "{barred:?}");
        let said = format!(
            "release {} gave way to {} ({})",
            two.version, one.version, told.reason
        );
        node.console()
            .wait_for(Mark::START, &said, Deadline::after(BOOT_SECONDS))
            .await?;
        Ok(told)
    }
}

/// Updates a node to release 2, and cuts it as soon as that is good.
async fn updated(story: &mut Story, releases: &Releases, handed: Handed) -> Result<Machine> {
    let Releases { one, two } = releases;
    let node = story.machine(handed)?.power_on().await?;
    let bus = node.bus().await?;
    at_rest(&bus).await?;
    stage_well(&bus, two, StageOptions::default()).await?;
    story.step("release 2 is staged");
    let bus = reboot_into_trial(&node, &bus, Slot::B, two).await?;
    expect_slots(&bus, Slot::B, good(one), good(two)).await?;
    let machine = node.cut();
    releases.expect_on_watch(&machine, 0)?;
    story.step("release 2 is good, and on watch");
    Ok(machine)
}

/// Cuts the power again and again before the node is up; then it comes up, and has lost nothing.
async fn power_cuts(story: &mut Story, releases: &Releases, machine: Machine) -> Result<Machine> {
    let Releases { one, two } = releases;
    let (mut machine, mut starts) = (machine, 0);
    for _ in 0..CUTS {
        let node = machine.power_on().await?;
        node.console()
            .wait_for(Mark::START, USERSPACE, Deadline::after(BOOT_SECONDS))
            .await?;
        starts += starts_of(&node);
        machine = node.cut();
    }
    releases.expect_on_watch(&machine, starts)?;
    story.step("ten power cuts in a row");

    // As if one more had come inside the firmware's counting: nothing is counted beside what it has
    // left, until PID 1 of the initrd has mended it.
    let next = starts.saturating_add(1);
    let begun = two.counted_entry(WATCHED_STARTS.saturating_sub(next), next);
    machine.disk()?.begin_entry(&begun)?;
    let node = machine.power_on().await?;
    node.console()
        .wait_for(Mark::START, USERSPACE, Deadline::after(BOOT_SECONDS))
        .await?;
    machine = node.cut();
    releases.expect_on_watch(&machine, starts)?;
    story.step("a count that was cut short was mended before userspace");

    let node = machine.power_on().await?;
    let bus = node.bus().await?;
    let updater = Deadline::after(BOOT_SECONDS)
        .until("the updater to have settled", async || {
            let updater = bus.updater().await?;
            Ok(if updater.state == "settling" {
                Look::NotYet(updater.state)
            } else {
                Look::Found(updater)
            })
        })
        .await?;
    ensure!(
        updater.state == "idle" && updater.last_rollback.version.is_empty(),
        "a watch is no trial, and nothing was left: {updater:?}"
    );
    expect_slots(&bus, Slot::B, good(one), good(two)).await?;
    Deadline::after(TRIAL_SECONDS)
        .until("the watch to be renewed", async || {
            let [_, watched] = bus.slots().await?;
            Ok(if watched.tries_left == WATCHED_STARTS {
                Look::Found(())
            } else {
                Look::NotYet(format!("it has {} starts left", watched.tries_left))
            })
        })
        .await?;
    let machine = node.cut();
    releases.expect_on_watch(&machine, 0)?;
    story.step("it came up, and has all its starts again");
    Ok(machine)
}

/// How often the firmware has started the boot loader since power-on: once, but on a host that is so
/// busy that the emulated timer stands still, and the kernel panics of it.
fn starts_of(node: &Node) -> u32 {
    let starts = node.console().count(Mark::START, FIRMWARE);
    u32::try_from(starts).unwrap_or(u32::MAX)
}

/// A start that failed.
struct Failed {
    /// The kernel's words on what it has read.
    why: String,
    /// When the kernel began to wait.
    waits: Instant,
    /// Where the machine's events stood then.
    events: EventMark,
}

/// Waits until the start after `lines` has failed, and said why.
async fn failed(node: &Node, lines: Mark) -> Result<Failed> {
    let said = |words| {
        node.console()
            .wait_for(lines, words, Deadline::after(BOOT_SECONDS))
    };
    let rotten = said(ROTTEN).await?.text;
    let events = node.qmp().mark();
    said(PANIC).await?;
    // By then its words are kept.
    let waits = said(WAITS).await?.at;
    ensure!(
        node.console().find(lines, USERSPACE).is_none(),
        "the node ran on what is rotten"
    );
    // Without the time.
    let (_, why) = rotten.split_once("] ").context(rotten.clone())?;
    Ok(Failed {
        why: why.into(),
        waits,
        events,
    })
}

/// Waits for the start after the failed one, which must not come at once.
async fn starts_anew(node: &Node, failed: &Failed) -> Result<Mark> {
    node.reset(failed.events, BOOT_SECONDS).await?;
    let waited = failed.waits.elapsed();
    ensure!(waited >= BACK_OFF, "it restarted after {waited:?}");
    Ok(node.console().mark())
}

/// Both slots rot, and later slot A is healed.
async fn rot(story: &mut Story, releases: &Releases, machine: Machine) -> Result<()> {
    let Releases { one, two } = releases;
    machine.disk()?.flip(Slot::B, IN_SUPERBLOCK)?;
    let node = machine.power_on().await?;
    let first = failed(&node, Mark::START).await?;
    let lines = starts_anew(&node, &first).await?;
    let of_two = failed(&node, lines).await?.why;
    let starts = starts_of(&node);
    let machine = node.cut();
    releases.expect_on_watch(&machine, starts)?;
    story.step("two starts of a rotten slot B have failed");

    // As if twelve more had.
    let disk = machine.disk()?;
    let counted = |done: u32| two.counted_entry(WATCHED_STARTS.saturating_sub(done), done);
    disk.rename_entry(&counted(starts), &counted(WATCHED_STARTS.saturating_sub(1)))?;
    disk.flip(Slot::A, IN_SUPERBLOCK)?;
    let node = machine.power_on().await?;
    let mut start = failed(&node, Mark::START).await?;
    ensure!(start.why == of_two, "{:?} is not {of_two:?}", start.why);
    story.step("the last start of slot B has failed");

    // From here on nobody touches the machine.
    for _ in 0..2 {
        let lines = starts_anew(&node, &start).await?;
        start = failed(&node, lines).await?;
        ensure!(start.why != of_two, "slot B was started again");
    }
    let heal = |disk: &OutsideDisk| {
        disk.flip(Slot::A, IN_SUPERBLOCK)?;
        disk.boot_folder()
    };
    let files = node.look_at_disk(heal).await?;
    let spent = counted(WATCHED_STARTS);
    ensure!(
        files == [one.good_entry(), spent],
        "on the ESP are {files:?}"
    );
    story.step("both are rotten: slot A is tried again and again, with ten seconds in between");

    starts_anew(&node, &start).await?;
    let bus = node.bus().await?;
    let told = releases
        .expect_given_way(&node, &bus, WATCHED_STARTS)
        .await?;
    story.step(&format!("slot A runs once it is healed: {}", told.reason));
    let mut seat = Seat::at(story, &node, &bus)?;
    let soon = || Deadline::after(BOOT_SECONDS);
    let said = seat.exits(STANDING, 0, soon()).await?.out;
    ensure!(
        said.contains("gave way") && said.contains(&told.reason),
        "{said}"
    );
    seat.exits(HAPPENED, 0, soon()).await?;
    // The firmware has kept them, also of a panic before userspace.
    ensure!(
        PANIC.ends_with(&told.panic)
            && told.reason.ends_with(&told.panic)
            && !told.panic.is_empty(),
        "the kernel's words were lost: {told:?}"
    );
    let machine = node.cut();
    expect_disk(&machine, Some(one), None, &[&one.good_entry()])
}

/// Slot A, which does not run, rots, and then its kernel image; they are mended before the node
/// needs them.
async fn rot_of_spare(story: &mut Story, releases: &Releases, machine: Machine) -> Result<()> {
    let Releases { one, two } = releases;
    let disk = machine.disk()?;
    disk.flip(Slot::A, one.sizes.root / 100 * PERCENT)?;
    ensure!(
        disk.expect_root(Slot::A, one).is_err(),
        "slot A is not rotten"
    );
    let node = machine.power_on().await?;
    let bus = node.bus().await?;
    at_rest(&bus).await?;
    bus.scrub().await?;
    let message = mended(&bus, "block ").await?;
    story.step(&format!("slot A was mended while slot B ran: {message}"));

    // What it should be was asked for just now: it came with the disk.
    let entry = one.good_entry();
    let sound = node.look_at_disk(|disk| rot_kernel(disk, &entry)).await?;
    bus.scrub().await?;
    let message = mended(&bus, "kernel image").await?;
    expect_slots(&bus, Slot::B, good(one), good(two)).await?;
    story.step(&format!("and so was its kernel image: {message}"));

    // Who reads it in the background leaves it to who works with it.
    let job = bus.roll_back("it is whole").await?;
    let report = job.ended(Deadline::after(STAGE_SECONDS)).await?;
    ensure!(report.result == "done", "{report:?}");
    let disk = node.cut().disk()?;
    disk.expect_root(Slot::A, one)?;
    let files = disk.boot_folder()?;
    let found = files.iter().find(|name| name.contains(&one.version));
    let found = found.context("release 1 has no kernel image")?;
    ensure!(
        disk.kernel(found)? == sound,
        "the kernel image is not mended"
    );
    Ok(())
}

/// The kernel image of slot B vanishes.
async fn lost_kernel(story: &mut Story, releases: &Releases, machine: Machine) -> Result<()> {
    let Releases { one, two } = releases;
    machine.disk()?.remove_entry(&two.watched_entry())?;
    let node = machine.power_on().await?;
    let bus = node.bus().await?;
    let told = releases.expect_given_way(&node, &bus, 0).await?;
    ensure!(told.reason.contains("kernel image has gone"), "{told:?}");
    let machine = node.cut();
    expect_disk(&machine, Some(one), None, &[&one.good_entry()])?;
    story.step("without its kernel image slot B gave way at once");
    Ok(())
}

/// A node with a unit that fails while the boot loader counts.
fn sick(handed: Handed) -> Handed {
    let unit = format!(
        "[Unit]\nDescription=What fails by now\n{ONLY_ON_TRIAL}\
         [Service]\nType=oneshot\nExecStart=/usr/bin/udevadm no-such-command\n"
    );
    handed
        .unit(SICK_UNIT, &unit)
        .wanted_by("multi-user.target", SICK_UNIT)
}

/// Fourteen starts of slot B have failed; the fifteenth comes up, and the gate does not like it.
async fn last_start(story: &mut Story, releases: &Releases, machine: Machine) -> Result<()> {
    let Releases { one, two } = releases;
    let last = two.counted_entry(1, WATCHED_STARTS.saturating_sub(1));
    machine.disk()?.rename_entry(&two.watched_entry(), &last)?;
    let node = machine.power_on().await?;
    let bus = node.bus().await?;
    let updater = bus.updater().await?;
    ensure!(
        updater.booted_slot == Slot::B.to_string() && updater.last_rollback.version.is_empty(),
        "{updater:?}"
    );
    // Nobody helps.
    node.reset(node.qmp().mark(), BOOT_SECONDS + TRIAL_SECONDS)
        .await?;
    let bus = node.bus().await?;
    let told = releases
        .expect_given_way(&node, &bus, WATCHED_STARTS)
        .await?;
    ensure!(
        told.unit == SICK_UNIT && told.reason.contains(SICK_UNIT),
        "it blames something else: {told:?}"
    );
    let machine = node.cut();
    expect_disk(&machine, Some(one), None, &[&one.good_entry()])?;
    story.step("on its last start the gate failed slot B, and it gave way");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "told by `cargo xtask torture`"]
async fn a_good_slot_outlasts_power_cuts_and_gives_way_when_it_boots_no_more() -> Result<()> {
    tell("gives-way", async |story| {
        let releases = Releases {
            one: story.image("1")?,
            two: story.image("2")?,
        };
        let shop = story.open_shop(&["1", "2"]).await?;
        let handed = shop.configure(Handed::default());
        let machine = updated(story, &releases, handed.clone()).await?;
        let machine = power_cuts(story, &releases, machine).await?;

        let kept = machine.copy_disk(TWIN)?;
        lost_kernel(story, &releases, machine).await?;
        // As if that had not happened.
        let machine = story.machine_of(story.folder(), &kept, handed.clone())?;
        rot_of_spare(story, &releases, machine).await?;
        let machine = story.machine_of(story.folder(), &kept, sick(handed.clone()))?;
        last_start(story, &releases, machine).await?;
        let handed = Seat::hand_in(&[STANDING, HAPPENED], handed);
        let machine = story.machine_of_with_probe(&kept, handed)?;
        rot(story, &releases, machine).await
    })
    .await
}
