//! A torture: cuts of the power and faults of the disk for as long as one likes, told by
//! `cargo xtask torture`.
//!
//! Four things take turns until the time is over: states of a recorded life are judged,
//! by chance; one of them is booted; a node that stages is cut, again and again; and the disk
//! of another one fails.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::StageOptions;
use qemu_tests::console::Mark;
use qemu_tests::cuts::dice::Dice;
use qemu_tests::cuts::judge::{Expected, Judge, Judgement};
use qemu_tests::cuts::medium::Medium;
use qemu_tests::cuts::recording::Recording;
use qemu_tests::cuts::replay::{Pass, Replay};
use qemu_tests::cuts::tally::Tally;
use qemu_tests::deadline::{Deadline, Look};
use qemu_tests::fixtures::Image;
use qemu_tests::machine::Machine;
use qemu_tests::node::{BOOT_SECONDS, Node};
use qemu_tests::smbios::Handed;
use qemu_tests::story::{Shop, Story, TWIN, expect_slots, tell};

use crate::cuts::{Life, Spread, boot, conclude, expected, record};
use crate::patient::Patient;
use crate::tale::{STAGE_SECONDS, at_rest, good, stage_well};

/// For how many minutes.
const MINUTES: &str = "BISTABLE_TORTURE_MINUTES";
/// What all chances follow from.
const SEED: &str = "BISTABLE_TORTURE_SEED";
/// A file with what was counted before, of simulated nodes.
const TABLE: &str = "BISTABLE_TORTURE_TABLE";
/// A folder with a recording that was made before, to be gone through again.
const RECORDING: &str = "BISTABLE_TORTURE_RECORDING";

/// How long states are judged in one turn: a thousand of them take a second.
const JUDGING_SECONDS: u64 = 30;
/// How many cuts of a running node are in one turn.
const CUTS: u64 = 3;
/// A start writes about 500 lines until the updater answers.
const LINES: u64 = 600;

struct Asked {
    minutes: u64,
    seed: u64,
    recording: Option<PathBuf>,
    table: Option<PathBuf>,
}

impl Asked {
    fn read() -> Result<Self> {
        let number = |name: &str| -> Result<u64> {
            let text = env::var(name).with_context(|| format!("{name} is not set"))?;
            text.parse().with_context(|| format!("{name} is {text:?}"))
        };
        Ok(Self {
            minutes: number(MINUTES)?,
            seed: number(SEED)?,
            recording: env::var_os(RECORDING).map(PathBuf::from),
            table: env::var_os(TABLE).map(PathBuf::from),
        })
    }
}

/// A node that is cut while it stages.
struct Victim {
    machine: Machine,
    expected: Expected,
    one: Image,
    two: Image,
}

impl Victim {
    fn new(story: &Story, shop: &Shop) -> Result<Self> {
        let (one, two) = (story.image("1")?, story.image("2")?);
        let folder = story.folder().join("victim");
        let handed = shop.configure(Handed::default());
        Ok(Self {
            machine: story.machine_of(&folder, &one.disk()?, handed)?,
            expected: expected(&one, &[&two])?,
            one,
            two,
        })
    }

    /// Switches it on, cuts it somewhere, and says where.
    async fn cut(self, dice: &mut Dice) -> Result<(Self, String)> {
        let node = self.machine.power_on().await?;
        let (line, percent) = (dice.below(LINES), dice.below(100));
        let place = match dice.below(3) {
            0 => {
                said(&node, line).await?;
                format!("at line {line} of its start")
            }
            _ => {
                let bus = node.bus().await?;
                at_rest(&bus).await?;
                let job = bus.stage("", StageOptions::default()).await?;
                let reached =
                    async |report: &qemu_tests::bus::JobReport| Ok(report.reached(percent));
                job.until(Deadline::after(STAGE_SECONDS), reached).await?;
                format!("at {percent} % of staging")
            }
        };
        let machine = node.cut();
        Ok((Self { machine, ..self }, place))
    }

    /// Judges the disk as the cut has left it.
    fn judge(&self, tally: &mut Tally, place: &str) -> Result<()> {
        let path = self.machine.copy_disk(TWIN)?;
        let open = |path: &Path| {
            File::open(path).with_context(|| format!("cannot open {}", path.display()))
        };
        let (disk, nothing) = (open(&path)?, open(Path::new("/dev/null"))?);
        let medium = Medium::new(&disk, &nothing)?;
        let judgement = Judge::default().judge(&medium, &self.expected);
        let violations = judgement.violations.iter();
        tally
            .violations
            .extend(violations.map(|violation| format!("cut {place}: {violation}")));
        tally.cuts += 1;
        Ok(())
    }

    /// Lets it update, and come to rest on the new release.
    async fn update(self) -> Result<()> {
        let node = self.machine.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        ensure!(
            bus.updater().await?.booted_version == self.one.version,
            "the cuts have changed the slot"
        );
        stage_well(&bus, &self.two, StageOptions::default()).await?;
        let node = node.cut().power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        expect_slots(&bus, Slot::B, good(&self.one), good(&self.two)).await?;
        node.shut_down().await?;
        Ok(())
    }
}

/// Waits until the console has so many lines, or the node has come up with fewer.
async fn said(node: &Node, lines: u64) -> Result<()> {
    let deadline = Deadline::after(BOOT_SECONDS);
    let said = deadline.until("its words", async || {
        let count = node.console().count(Mark::START, "") as u64;
        Ok(if count >= lines {
            Look::Found(())
        } else {
            Look::NotYet(format!("{count} lines"))
        })
    });
    let up = async { node.bus().await.map(drop) };
    tokio::select! {
        said = said => said,
        up = up => up,
    }
}

async fn torture(story: &mut Story, asked: &Asked) -> Result<()> {
    let deadline = Deadline::after(60 * asked.minutes);
    let shop = story.open_shop(&["1", "2"]).await?;
    let recording = match &asked.recording {
        Some(folder) => Recording::open(folder)?,
        None => record(story, &shop, Life::Long).await?,
    };
    let replay = Replay::of(recording)?;
    let mut tally = replay.tally();
    // There is none when the histories have failed, which is told elsewhere.
    let counted = asked
        .table
        .as_ref()
        .and_then(|path| fs::read_to_string(path).ok());
    tally.counted_before = counted.unwrap_or_default();
    let ended = take_turns(story, &shop, &replay, (asked.seed, deadline), &mut tally).await;
    // Also of one that was broken off after an hour.
    match (conclude(&tally), ended) {
        (Err(violated), Err(broken_off)) => Err(violated.context(format!("{broken_off:#}"))),
        (violated, broken_off) => violated.and(broken_off),
    }
}

/// Judges, boots, cuts and breaks until `deadline`, or until something is not as it must be.
async fn take_turns(
    story: &mut Story,
    shop: &Shop,
    replay: &Replay,
    (seed, deadline): (u64, Deadline),
    tally: &mut Tally,
) -> Result<()> {
    let mut judge = Judge::default();
    // However short the time is, each of these is judged.
    let for_ever = Deadline::after(24 * 3600);
    replay.go(Pass::Every, &mut judge, tally, for_ever, |_, _, _| {})?;
    story.step(&format!("{} states were judged", tally.states()));

    let mut dice = Dice::of(&[seed]);
    let mut victim = Victim::new(story, shop)?;
    let mut patient = Patient::new(story, shop)?;
    while tally.violations.is_empty() {
        let turn = Deadline::after(JUDGING_SECONDS);
        let mut spread = Spread::new(dice.roll());
        loop {
            let pass = Pass::Random(dice.roll());
            let keep =
                |phase, state, judgement: &Judgement| spread.consider(phase, state, judgement);
            replay.go(pass, &mut judge, tally, for_ever, keep)?;
            if turn.passed() || deadline.passed() {
                break;
            }
        }
        story.step(&format!("{} states were judged", tally.states()));
        for state in spread.take().into_iter().take(1) {
            boot(story, shop, replay, state).await?;
            tally.boots += 1;
            story.step(&format!("the disk at {state} comes up"));
        }
        for _ in 0..CUTS {
            let place;
            (victim, place) = victim.cut(&mut dice).await?;
            victim.judge(tally, &place)?;
            story.step(&format!("cut {place}"));
        }
        patient = match patient.suffer(&mut dice, tally).await? {
            Some(patient) => patient,
            None => Patient::new(story, shop)?,
        };
        story.step(&format!(
            "{} faults of a disk",
            tally.faults.values().sum::<u64>()
        ));
        if deadline.passed() {
            break;
        }
    }
    if tally.violations.is_empty() {
        victim.update().await?;
        story.step("the node that was cut has updated");
        patient.recover().await?;
        story.step("the node whose disk failed has updated");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as it is told: `cargo xtask torture`"]
async fn torture_by_cuts_and_faults() -> Result<()> {
    let asked = Asked::read()?;
    // What was recorded by the one may be gone through by the other.
    let name = if asked.recording.is_some() {
        "torture-again"
    } else {
        "torture"
    };
    let told = tell(name, async |story| torture(story, &asked).await).await;
    told.with_context(|| format!("with the seed {}", asked.seed))
}
