//! A history: what a node may live through, by chance, with the power failing at any write,
//! and again while it recovers.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use partition_layout::RootHash;
use release::Release;
use updater::driver::{Accepted, JobWish, RequestError};
use updater::job::Job;
use updater::machine::{Outcome, Request, Seen};
use updater::policy::Automatic;
use updater::ports::{Part, Record};
use updater::pstore::DumpFile;

use super::dice::Dice;
use super::firmware::{Count, Start, is_table_sound};
use super::judge::{Expected, describe, judge};
use super::node::{Flaw, SimNode};
use super::shelf::{LAST, RELEASES, kernels, node, releases};
use crate::fake::{Image, JumpingClock};
use crate::gate::{Daemon, bad, force, outcome, rules, stage};
use crate::network::FakeRepository;

/// How many ways in which the unsynced writes may survive are judged at each cut.
const WAYS: usize = 6;
/// Starts until something is up.
const STARTS: usize = 30;
const BLOCK: usize = 4096;

/// What was seen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) histories: u64,
    pub(crate) cuts: u64,
    pub(crate) starts: u64,
    pub(crate) judged: u64,
    pub(crate) staged: u64,
    pub(crate) good: u64,
    pub(crate) failed: u64,
    pub(crate) rolled_back: u64,
    pub(crate) mended: u64,
}

impl Tally {
    fn rows(&mut self) -> [(&'static str, &mut u64); 9] {
        [
            ("histories of a simulated node", &mut self.histories),
            ("cuts in them", &mut self.cuts),
            ("  states judged", &mut self.judged),
            ("  starts", &mut self.starts),
            ("  releases armed", &mut self.staged),
            ("  marked good", &mut self.good),
            ("  failed their gate", &mut self.failed),
            ("  rollbacks on request", &mut self.rolled_back),
            ("  blocks mended", &mut self.mended),
        ]
    }

    pub(crate) fn add(&mut self, mut other: Self) {
        let pairs = self.rows().into_iter().zip(other.rows());
        pairs.for_each(|((_, sum), (_, more))| *sum += *more);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tally = *self;
        let mut rows = tally.rows().into_iter();
        rows.try_for_each(|(what, count)| writeln!(f, "{what:32}{count:>12}"))
    }
}

/// Whether the power may fail again while the node starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mains {
    Shaky,
    Steady,
}

/// What must not be.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) what: String,
    /// What led there.
    pub(crate) log: String,
}

type Lived<T = ()> = Result<T, String>;

struct Life {
    dice: Dice,
    node: SimNode,
    repository: FakeRepository,
    /// It goes on as clocks do, or jumps.
    clock: JumpingClock,
    images: BTreeMap<RootHash, Image>,
    expected: Expected,
    /// A block of a slot that has rotten, and what it should be.
    rotten: Option<(u64, Vec<u8>)>,
    /// Writes and syncs that a turn takes, at most.
    reach: usize,
    tally: Tally,
    log: String,
}

/// Lives through `turns` turns of the history that follows from `seed`, and then updates.
pub(crate) async fn live(seed: u64, turns: usize, flaw: Flaw) -> Result<Tally, Box<Violation>> {
    let mut life = Life::begin(seed, flaw);
    match life.live(turns).await {
        Ok(()) => Ok(life.tally),
        Err(what) => {
            let disk = describe(&life.node.world().disk);
            let log = format!("{}now: {disk}\n", life.log);
            Err(Box::new(Violation { what, log }))
        }
    }
}

impl Life {
    fn begin(seed: u64, flaw: Flaw) -> Self {
        let mut dice = Dice::new(seed);
        let releases = releases(&mut dice);
        let repository = FakeRepository::with(&releases.iter().collect::<Vec<_>>());
        let node = node(&releases[0].1);
        {
            let mut world = node.world();
            world.dice = Dice::new(dice.roll());
            world.flaw = flaw;
            world.has_variables = !dice.one_in(8);
        }
        let years = if dice.one_in(2) { 40 } else { 0 };
        let mut expected = Expected {
            kernels: kernels(&releases),
            ..Expected::default()
        };
        expected.good.insert(releases[0].1.root_hash);
        let images = releases.into_iter().map(|(_, image): (Release, _)| image);
        Self {
            dice,
            clock: JumpingClock::around("1990-01-01T00:00:00Z", years),
            node,
            repository,
            images: images.map(|image| (image.root_hash, image)).collect(),
            expected,
            rotten: None,
            reach: 60,
            tally: Tally {
                histories: 1,
                ..Tally::default()
            },
            log: String::new(),
        }
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.log, "{what}").unwrap();
    }

    fn is_dead(&self) -> bool {
        self.node.world().disk.is_dead()
    }

    async fn live(&mut self, turns: usize) -> Lived {
        self.judge("at first")?;
        for _ in 0..turns {
            self.turn().await?;
        }
        self.update().await
    }

    /// A run of the daemon, in which the power may fail.
    async fn turn(&mut self) -> Lived {
        let reach = match self.dice.one_in(2) {
            true => self.reach,
            false => usize::MAX,
        };
        let fuse = self.dice.below(reach);
        self.node.world().disk.light_fuse(fuse);
        if reach != usize::MAX {
            self.tell(&format!("- the power fails after {fuse} writes"));
        }
        if let Some(daemon) = self.daemon().await? {
            for _ in 0..=self.dice.below(3) {
                let (dead, reboots) = (self.is_dead(), self.node.world().reboots);
                if dead || reboots {
                    break;
                }
                self.act(&daemon).await?;
            }
            daemon.stop().await;
        }
        self.node.hold_nobody();
        let (done, reboots) = {
            let world = self.node.world();
            (world.disk.done(), world.reboots)
        };
        self.reach = self.reach.max(done + 1);
        if self.is_dead() || reboots || self.dice.one_in(4) {
            self.power_cycle(Mains::Shaky)?;
        }
        Ok(())
    }

    /// Starts the daemon, if there is power enough.
    async fn daemon(&mut self) -> Lived<Option<Daemon>> {
        let rules = rules(Automatic::Off);
        let (node, clock) = (self.node.clone(), self.clock.clone());
        let started = Daemon::on(node, &self.repository, clock, rules).await;
        match started {
            Ok(daemon) => {
                let state = daemon.state();
                self.tell(&format!("- the daemon says {state}"));
                Ok(Some(daemon))
            }
            Err(_) if self.is_dead() => Ok(None),
            Err(error) => Err(format!("the daemon does not start: {error:?}")),
        }
    }

    async fn act(&mut self, daemon: &Daemon) -> Lived {
        match daemon.state() {
            "idle" | "staged" => match self.dice.below(12) {
                0..=4 => self.stage(daemon).await,
                5 => self.stage_and_meddle(daemon).await,
                6 => self.stage_and_meddle(daemon).await,
                7 => self.roll_back(daemon).await,
                8 => self.forgive(daemon).await,
                9 => self.rot_and_mend(daemon).await,
                10 => self.damage_the_table(),
                _ => self
                    .request(daemon, Request::Reboot(updater::ports::Restart::InOrder))
                    .await
                    .map(drop),
            },
            "trial" => match self.dice.below(8) {
                0..=3 => self.pass(daemon).await,
                4 => self.fail(daemon).await,
                5 => self.leave_a_panic(),
                6 => self.power_cycle_later("the release hangs"),
                _ => {
                    let booted = self.node.world().booted.2;
                    self.request(
                        daemon,
                        Request::Rollback {
                            reason: "by hand".to_owned(),
                        },
                    )
                    .await
                    .map(|done| {
                        if done {
                            self.expected.barred.insert(booted);
                        }
                    })
                }
            },
            "last-resort" => Err("the node is on its last resort".to_owned()),
            // It goes down, or can do nothing else.
            other => self.power_cycle_later(other),
        }
    }

    fn power_cycle_later(&mut self, why: &str) -> Lived {
        self.tell(&format!("- {why}"));
        self.node.world().reboots = true;
        Ok(())
    }

    /// Any release that is not the last one: newer, older, or the one that runs.
    fn any_release(&mut self) -> (String, RootHash) {
        let booted = self.node.world().booted.1.to_string();
        let booted: usize = booted.parse().unwrap_or_default();
        let most = usize::from(RELEASES);
        let number = match self.dice.one_in(4) {
            true => 1 + self.dice.below(most),
            false => (booted + 1 + self.dice.below(2)).min(most),
        };
        let name = number.to_string();
        let found = self
            .images
            .values()
            .find(|image| image.version.to_string() == name);
        (name, found.unwrap().root_hash)
    }

    async fn begin_stage(&mut self, daemon: &Daemon) -> Option<(Job, RootHash)> {
        let (name, root_hash) = self.any_release();
        let forced = self.dice.one_in(6);
        let request = match forced {
            true => force(&name),
            false => stage(&name),
        };
        if self.dice.one_in(10) {
            let number = self.dice.below(12);
            self.node.world().bad_write = Some(number);
            self.tell(&format!("- write {number} to the slot goes wrong"));
        }
        self.tell(&format!("- stage {name}, forced: {forced}"));
        let begun = daemon.begin(request).await;
        if let Err(error) = &begun {
            self.tell(&format!("  refused: {error:?}"));
        }
        let job = begun.ok()?;
        if forced {
            self.expected.barred.remove(&root_hash);
        }
        Some((job, root_hash))
    }

    async fn stage(&mut self, daemon: &Daemon) -> Lived {
        if let Some((mut job, _)) = self.begin_stage(daemon).await {
            let ended = outcome(&mut job).await;
            self.ended(&ended);
        }
        Ok(())
    }

    fn ended(&mut self, outcome: &Outcome) {
        self.node.world().bad_write = None;
        self.tally.staged += u64::from(*outcome == Outcome::Done);
        self.tell(&format!("  {outcome:?}"));
    }

    /// Holds a stage up somewhere, and cancels it, or lets it go on, or cuts the power.
    async fn stage_and_meddle(&mut self, daemon: &Daemon) -> Lived {
        let calls = self.dice.below(60);
        self.node.hold_after(calls);
        let Some((mut job, _)) = self.begin_stage(daemon).await else {
            self.node.hold_nobody();
            return Ok(());
        };
        let is_held = tokio::select! {
            () = self.node.holds() => true,
            _ = outcome(&mut job) => false,
        };
        let wishes: &[JobWish] = match self.dice.below(4) {
            0 => &[JobWish::Cancel],
            1 => &[JobWish::Pause, JobWish::Resume],
            2 => &[JobWish::Pause, JobWish::Cancel],
            _ => &[JobWish::Pause],
        };
        self.tell(&format!("  held at call {calls}: {is_held}; {wishes:?}"));
        for wish in wishes {
            // It may be over, or not to be paused.
            drop(daemon.handle.ask_of_job(job.id, *wish).await);
            self.node.hold_nobody();
        }
        if wishes.len() == 1 && wishes[0] == JobWish::Pause {
            self.tell("  the power fails");
            self.node.world().disk.cut_now();
            drop(daemon.handle.ask_of_job(job.id, JobWish::Resume).await);
        }
        let ended = outcome(&mut job).await;
        self.ended(&ended);
        Ok(())
    }

    async fn roll_back(&mut self, daemon: &Daemon) -> Lived {
        self.tell("- roll back");
        let request = Request::Rollback {
            reason: String::new(),
        };
        match daemon.begin(request).await {
            Ok(mut job) => {
                let ended = outcome(&mut job).await;
                self.tally.rolled_back += u64::from(ended == Outcome::Done);
                self.tell(&format!("  {ended:?}"));
            }
            Err(error) => self.tell(&format!("  refused: {error:?}")),
        }
        Ok(())
    }

    async fn forgive(&mut self, daemon: &Daemon) -> Lived {
        let barred = &daemon.handle.view().node.barred;
        let barred: Vec<_> = barred.iter().map(|it| it.root_hash).collect();
        let Some(root_hash) = self.dice.pick(&barred) else {
            return Ok(());
        };
        // Asked for is enough: an answer may be lost with the power.
        self.expected.barred.remove(&root_hash);
        self.request(daemon, Request::Forgive { root_hash })
            .await
            .map(drop)
    }

    /// Tells whether it was done. Only without power it may fail.
    async fn request(&mut self, daemon: &Daemon, request: Request) -> Lived<bool> {
        self.tell(&format!("- {request:?}"));
        match daemon.handle.request(request).await {
            Ok(Accepted::Job(mut job)) => Ok(outcome(&mut job).await == Outcome::Done),
            Ok(_) => Ok(true),
            Err(RequestError::Failed(failure)) if !self.is_dead() => {
                Err(format!("it fails: {failure:?}"))
            }
            Err(error) => {
                self.tell(&format!("  {error:?}"));
                Ok(false)
            }
        }
    }

    async fn pass(&mut self, daemon: &Daemon) -> Lived {
        let root_hash = self.node.world().booted.2;
        // The gate's word counts from here on, whatever comes of writing it down.
        self.expected.good.insert(root_hash);
        self.expected.barred.remove(&root_hash);
        let done = self.request(daemon, Request::MarkGood).await?;
        if !done && !self.is_dead() {
            return Err("a trial cannot be marked good".to_owned());
        }
        self.tally.good += u64::from(done);
        Ok(())
    }

    async fn fail(&mut self, daemon: &Daemon) -> Lived {
        let (boot, root_hash) = {
            let world = self.node.world();
            (world.boot, world.booted.2)
        };
        let verdict = format!(
            r#"{{"boot_id":"boot-{boot}","root_hash":"{root_hash}","verdict":"fail","check":"c","reason":"sick"}}"#
        );
        // The gate's own file, before it calls.
        if self.node.world().disk.operate().is_ok() {
            let mut world = self.node.world();
            world.records.insert(Record::Verdict, verdict.into_bytes());
        }
        if self.dice.one_in(4) {
            return self.power_cycle_later("nobody hears the gate");
        }
        if self.request(daemon, bad("sick")).await? {
            self.tally.failed += 1;
            self.expected.barred.insert(root_hash);
        }
        Ok(())
    }

    fn leave_a_panic(&mut self) -> Lived {
        let mut world = self.node.world();
        let id = (1_800_000_000 + world.dumps.len()) * 100_000 + 1001;
        world.dumps.push(DumpFile {
            name: format!("dmesg-efi_pstore-{id}"),
            content: b"Panic#1 Part1\nKernel panic".to_vec(),
        });
        drop(world);
        self.power_cycle_later("the release panics")
    }

    async fn rot_and_mend(&mut self, daemon: &Daemon) -> Lived {
        let node = daemon.handle.view().node.clone();
        let spare = node.spare.held.as_ref().map(|(_, root_hash)| *root_hash);
        let both = [Some(node.booted.root_hash), spare];
        let root_hash = both[self.dice.below(2)].unwrap_or(node.booted.root_hash);
        // What nobody could start is not read either.
        let Some((slot, _)) = node.startable(&root_hash) else {
            return Ok(());
        };
        let image = &self.images[&root_hash];
        let block = self.dice.below(image.root.len() / BLOCK);
        let bytes = image.root[block * BLOCK..][..BLOCK].to_vec();
        let offset = u64::try_from(block * BLOCK).unwrap();
        let number = u64::try_from(block).unwrap();
        let place = {
            let mut world = self.node.world();
            let Ok(start) = world.place(slot, Part::Root) else {
                return Ok(());
            };
            world.disk.rot(start + offset);
            start + offset
        };
        self.rotten = Some((place, bytes));
        let blocks = vec![number];
        let mended = daemon
            .begin(Request::Mend {
                root_hash,
                blocks,
                seen: Seen::Part,
            })
            .await;
        let Ok(mut job) = mended else {
            self.put_right();
            return Ok(());
        };
        self.tell(&format!("- block {block} of slot {slot} rots"));
        let ended = outcome(&mut job).await;
        if !self.is_dead() {
            if ended != Outcome::Done {
                return Err(format!("block {block} is not mended: {ended:?}"));
            }
            self.tally.mended += 1;
            self.rotten = None;
        }
        Ok(())
    }

    /// What was not mended yet is no fault of the power's.
    fn put_right(&mut self) {
        if let Some((place, bytes)) = self.rotten.take() {
            self.node.world().disk.put_right(place, &bytes);
        }
    }

    fn damage_the_table(&mut self) -> Lived {
        let mut world = self.node.world();
        if !is_table_sound(&world) {
            return Ok(());
        }
        use partition_layout::Device as _;
        let end = world.disk.size().unwrap();
        let places = [512, 1024, end - 512, end - 33 * 512];
        let place = places[self.dice.below(places.len())];
        world.disk.rot(place);
        drop(world);
        self.tell(&format!("- a sector of the table rots, at {place}"));
        Ok(())
    }

    fn judge(&mut self, when: &str) -> Lived {
        self.tally.judged += 1;
        let judged = judge(&self.node.world().disk, &self.expected);
        judged.map_err(|what| format!("{when}: {what}"))
    }

    /// The power goes and comes back, until something is up.
    fn power_cycle(&mut self, mains: Mains) -> Lived {
        for _ in 0..STARTS {
            self.lose_power()?;
            self.tally.starts += 1;
            let shaky = mains == Mains::Shaky;
            let count = match self.dice.below(12) {
                _ if !shaky => Count::Whole,
                0 => Count::Empty,
                1 => Count::Shared,
                _ => Count::Whole,
            };
            // The power may fail while the table is repaired.
            if shaky && self.dice.one_in(8) {
                let fuse = self.dice.below(20);
                self.node.world().disk.light_fuse(fuse);
            }
            let started = self.node.world().start(&self.images, count);
            let start = match started {
                // Also in the middle of the count.
                _ if self.is_dead() => Start::Cut,
                started => started?,
            };
            let booted = self.node.world().booted.clone();
            self.tell(&format!(
                "- start: {start:?}, {} in slot {}",
                booted.1, booted.0
            ));
            match start {
                Start::Up if shaky && self.dice.one_in(10) => self.tell("  and the power fails"),
                Start::Up => {
                    self.node.world().disk.light_fuse(usize::MAX);
                    return Ok(());
                }
                Start::NoRoot => {
                    return Err("what was started has no root".to_owned());
                }
                Start::Cut => {}
            }
        }
        Err("nothing comes up".to_owned())
    }

    fn lose_power(&mut self) -> Lived {
        self.put_right();
        self.tally.cuts += 1;
        for _ in 0..WAYS {
            let mut disk = self.node.world().disk.clone();
            disk.lose_power(&mut self.dice);
            self.tally.judged += 1;
            let judged = judge(&disk, &self.expected);
            judged.map_err(|what| format!("the power fails: {what}; {}", describe(&disk)))?;
        }
        self.node.lose_power();
        self.judge("when the power comes back")
    }

    /// Whatever has happened: the next release goes in.
    async fn update(&mut self) -> Lived {
        self.tell("- and now the last one");
        for _ in 0..STARTS {
            // A release whose every try ends in a cut is given up, and rightly.
            self.power_cycle(Mains::Steady)?;
            let Some(daemon) = self.daemon().await? else {
                continue;
            };
            let booted = self.node.world().booted.1.to_string();
            match (daemon.state(), booted.as_str()) {
                ("idle" | "staged", LAST) => {
                    daemon.stop().await;
                    return self.judge("at last");
                }
                ("idle" | "staged", _) => {
                    let ended = daemon.stage(LAST).await;
                    if ended != Outcome::Done {
                        return Err(format!("the last release cannot be staged: {ended:?}"));
                    }
                }
                ("trial", _) => self.pass(&daemon).await?,
                ("last-resort", _) => return Err("the node is on its last resort".to_owned()),
                _ => {}
            }
            daemon.stop().await;
        }
        Err("it does not get to the last release".to_owned())
    }
}
