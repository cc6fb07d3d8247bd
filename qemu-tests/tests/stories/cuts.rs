//! The power fails at every write of an update, from the first boot on.
//!
//! One node is recorded, and every state that a cut can leave on its disk is rebuilt and
//! judged; one is booted. `cargo xtask torture` takes the same road for as long as one
//! likes (see `torture`).

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::{Bus, StageOptions};
use qemu_tests::cuts::dice::Dice;
use qemu_tests::cuts::judge::{Expected, Judge, Judgement};
use qemu_tests::cuts::recording::Recording;
use qemu_tests::cuts::replay::{Pass, Replay, State};
use qemu_tests::cuts::survival::Survival;
use qemu_tests::cuts::tally::Tally;
use qemu_tests::deadline::{Deadline, Look};
use qemu_tests::fixtures::Image;
use qemu_tests::node::{Node, RESET_SECONDS};
use qemu_tests::smbios::Handed;
use qemu_tests::story::{STATE, Shop, Story, say, tell};
use sha2::{Digest as _, Sha256};

use crate::rotten_block::{PERCENT, mended};
use crate::tale::{STAGE_SECONDS, TRIAL_SECONDS, at_rest, stage_well};

/// How long the states that are the same in each run may take; they took 10 s.
const EVERY_SECONDS: u64 = 600;
/// A sample is the same in each run, as far as its recording is.
const SAMPLE_SEED: u64 = 1;
const SAMPLE_ROUNDS: u64 = 3;
const SAMPLE_BOOTS: usize = 1;

/// How much of a node's life is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// First boot and an update.
    Short,
    /// And a block that rots and is mended, a rollback, and another update.
    Long,
}

/// Returns what holds of a node that has only run `one`, and may get `others`.
pub(crate) fn expected(one: &Image, others: &[&Image]) -> Result<Expected> {
    let digest = |image: &Image| {
        let path = image.folder.join(image.good_entry());
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok((image.root_hash.clone(), hex::encode(Sha256::digest(bytes))))
    };
    let images = others.iter().copied().chain([one]);
    let kernels: Result<BTreeMap<_, _>> = images.map(digest).collect();
    Ok(Expected {
        proven: [one.root_hash.clone()].into(),
        kernels: kernels?,
        ..Expected::default()
    })
}

/// Records a node's life, in the story's folder.
pub(crate) async fn record(story: &mut Story, shop: &Shop, life: Life) -> Result<Recording> {
    let (one, two) = (story.image("1")?, story.image("2")?);
    let mut expected = expected(&one, &[&two])?;
    let mut recording = Recording::begin(story.folder());
    let machine = story.machine(shop.configure(Handed::default()))?;
    if life == Life::Long {
        let disk = machine.disk()?;
        disk.flip(Slot::A, one.sizes.root / 100 * PERCENT)?;
        let bootable = disk.inspect()?.verdict.bootable.into_iter();
        let fault = bootable.filter_map(|it| it.fault).next();
        let fault = fault.context("the block is not rotten")?;
        expected.rotten.insert(one.root_hash.clone(), fault);
    }
    recording.phase("first boot", &expected)?;
    let node = machine.recorded(&recording)?.power_on().await?;
    let mut bus = node.bus().await?;
    at_rest(&bus).await?;
    story.step("release 1 is at rest");

    if life == Life::Long {
        recording.phase("mending a block", &expected)?;
        bus.scrub().await?;
        let message = mended(&bus, "block ").await?;
        expected.rotten.clear();
        story.step(&message);
    }
    recording.phase("staging", &expected)?;
    stage_well(&bus, &two, StageOptions::default()).await?;
    story.step("release 2 is staged");
    recording.phase("rebooting into a trial", &expected)?;
    bus = reboot_into_trial(&node, bus, &two, &mut recording, &mut expected).await?;
    story.step("release 2 is good");

    if life == Life::Long {
        recording.phase("rolling back", &expected)?;
        let job = bus.roll_back("a torture").await?;
        let report = job.ended(Deadline::after(STAGE_SECONDS)).await?;
        ensure!(report.result == "done", "the rollback ended so: {report:?}");
        recording.phase("rebooting into the old release", &expected)?;
        bus = reboot_into_trial(&node, bus, &one, &mut recording, &mut expected).await?;
        story.step("rolled back: release 1 is good");
        recording.phase("staging once more", &expected)?;
        stage_well(&bus, &two, StageOptions::default()).await?;
        story.step("release 2 is staged again");
    }
    recording.phase("switching off", &expected)?;
    drop(bus);
    node.shut_down().await?;
    recording.save()?;
    story.step("switched off");
    Ok(recording)
}

/// Reboots into a trial, and waits until it is good.
async fn reboot_into_trial(
    node: &Node,
    bus: Bus,
    image: &Image,
    recording: &mut Recording,
    expected: &mut Expected,
) -> Result<Bus> {
    let mark = node.qmp().mark();
    bus.reboot().await?;
    node.reset(mark, RESET_SECONDS).await?;
    let bus = node.bus().await?;
    // From here on the gate may have said so.
    expected.proven.insert(image.root_hash.clone());
    recording.phase(&format!("{} becomes good", image.version), expected)?;
    Deadline::after(TRIAL_SECONDS)
        .until("the trial to end well", async || {
            let updater = bus.updater().await?;
            ensure!(updater.booted_version == image.version, "{updater:?}");
            Ok(match updater.state.as_str() {
                "idle" => Look::Found(()),
                _ => Look::NotYet(updater.state),
            })
        })
        .await?;
    Ok(bus)
}

/// States that are worth a boot: one of each phase, drawn by chance.
#[derive(Debug)]
pub(crate) struct Spread {
    dice: Dice,
    /// By phase, with the number that it was drawn by.
    drawn: BTreeMap<usize, (u64, State)>,
}

impl Spread {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: Dice::of(&[seed, 1]),
            drawn: BTreeMap::new(),
        }
    }

    /// Draws a number for a state; of each phase the state with the highest is kept.
    pub(crate) fn consider(&mut self, phase: usize, state: State, judgement: &Judgement) {
        let is_odd = match state.survival {
            Survival::Some(_) | Survival::Reordered(_) | Survival::Torn(_) => true,
            Survival::Lost | Survival::Cut(_) | Survival::Missing(_) | Survival::Alone(_) => false,
        };
        // A rotten block is beyond the inspector, and not beyond a node that never reads it.
        if !is_odd || judgement.harmless.contains("a block to be mended") {
            return;
        }
        // What something is wrong with is the better test.
        let number = self.dice.roll() >> u32::from(judgement.harmless.is_empty());
        let drawn = self.drawn.entry(phase).or_insert((number, state));
        if drawn.0 < number {
            *drawn = (number, state);
        }
    }

    /// Returns what was drawn, in some order.
    pub(crate) fn take(mut self) -> Vec<State> {
        let mut states: Vec<_> = self.drawn.into_values().map(|(_, state)| state).collect();
        self.dice.shuffle(&mut states);
        states
    }
}

/// Boots a disk in some state: the slot that the inspector named comes up, and to rest.
pub(crate) async fn boot(story: &Story, shop: &Shop, replay: &Replay, state: State) -> Result<()> {
    let image = story.folder().join(STATE);
    let judgement = replay.rebuild(state, &image)?;
    let verdict = judgement.verdict.context("nothing is known of the disk")?;
    let folder = story.folder().join("state");
    let machine = story.machine_of(&folder, &image, shop.configure(Handed::default()))?;
    let come_up = async {
        let node = machine.power_on().await?;
        let bus = node.bus().await?;
        let booted = bus.updater().await?.booted_slot;
        let told = verdict.boots.map(|slot| slot.to_string());
        ensure!(
            told.as_ref() == Some(&booted),
            "slot {booted} is booted, and the inspector said {told:?}: {verdict:?}"
        );
        // A rollback may be armed still, for which the firmware of this machine has no wish.
        let settled = async || {
            let state = bus.updater().await?.state;
            Ok(match state.as_str() {
                "idle" | "staged" => Look::Found(()),
                _ => Look::NotYet(state),
            })
        };
        Deadline::after(TRIAL_SECONDS)
            .until("the updater to have settled", settled)
            .await?;
        node.shut_down().await
    };
    come_up
        .await
        .with_context(|| format!("the disk at {state} does not come up"))?;
    Ok(())
}

/// Prints the table, and fails if something was not as it must be.
pub(crate) fn conclude(tally: &Tally) -> Result<()> {
    say(format_args!("{tally}"));
    let violations = &tally.violations;
    ensure!(
        violations.is_empty(),
        "{} states are not as they must be; the first: {}",
        violations.len(),
        violations.first().map_or("", String::as_str)
    );
    Ok(())
}

async fn sample(story: &mut Story) -> Result<()> {
    let shop = story.open_shop(&["2"]).await?;
    let replay = Replay::of(record(story, &shop, Life::Short).await?)?;
    let (mut judge, mut tally) = (Judge::default(), replay.tally());
    let every = Deadline::after(EVERY_SECONDS);
    replay.go(Pass::Every, &mut judge, &mut tally, every, |_, _, _| {})?;
    let mut spread = Spread::new(SAMPLE_SEED);
    for round in 0..SAMPLE_ROUNDS {
        let pass = Pass::Random(SAMPLE_SEED + round);
        let keep = |phase, state, judgement: &Judgement| spread.consider(phase, state, judgement);
        replay.go(pass, &mut judge, &mut tally, every, keep)?;
    }
    story.step(&format!("{} states were judged", tally.states()));
    if tally.violations.is_empty() {
        for state in spread.take().into_iter().take(SAMPLE_BOOTS) {
            boot(story, &shop, &replay, state).await?;
            tally.boots += 1;
            story.step(&format!("the disk at {state} comes up"));
        }
    }
    conclude(&tally)
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_an_update_is_cut_a_good_slot_boots_and_nothing_broken_could() -> Result<()> {
    tell("cuts", sample).await
}
