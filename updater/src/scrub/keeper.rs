//! When the images of both slots are read, and what is done about what was found.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use partition_layout::{RootHash, Slot};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::mend::OnMedium;
use super::proven::Prover;
use super::turn::{Round, Turn, is_due};
use super::{CHUNK_BLOCKS, Reading, ScrubError, read_through};
use crate::driver::{Accepted, Handle};
use crate::machine::{Outcome, Request, Seen};
use crate::node::Standing;
use crate::ports::{Clock, DiskQueue, Pace, Part, Record, Records, Slots, Stop, Stopped, Stopper};
use crate::records;
use crate::refusal::Chain;

/// A boot has other things to do, and the health gate reads the whole image on a trial.
const AFTER_BOOT: Duration = Duration::from_secs(15 * 60);
/// How often it is looked whether the next reading is due: the clock may be set.
const LOOK: Duration = Duration::from_secs(10 * 60);
/// Below the pace's own rests: 20 MiB/s at most, however quiet the machine is.
const PER_CHUNK: Duration = Duration::from_millis(50);
/// How often the place is written down, in chunks: 64 MiB are read twice after a power cut.
const NOTE: u64 = 64;
/// While somebody updates, the reading waits.
const GIVE_WAY: Duration = Duration::from_secs(5);

/// Rung by who wants the images read now.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<Notify>);

impl Bell {
    /// Has them read once more, whether or not that is due.
    pub fn ring(&self) {
        self.0.notify_one();
    }

    /// Returns whether it was rung before `time` had passed.
    async fn is_rung_within(&self, time: Duration) -> bool {
        timeout(time, self.0.notified()).await.is_ok()
    }
}

/// How the reading of the booted image stands, for everyone to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    pub blocks: u64,
    pub next: u64,
    pub rotten: u64,
    pub finished: Option<Timestamp>,
}

/// Stops the reading when nobody waits for it any more: the daemon goes down.
struct Ends(Stopper);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// How far a reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    End,
    /// To where the hash tree is rotten: behind it nothing can be judged.
    RottenTree,
}

/// Whether rotten blocks are sound now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mended {
    Yes,
    No,
}

/// Whether it could be written down that an image was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Yes,
    No,
}

/// Whose image is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The booted slot's.
    Booted,
    /// The spare slot's, if the boot loader could start it: nobody else reads it before the day
    /// when the booted slot has to give way.
    Spare,
}

impl Whose {
    /// The one that runs comes first.
    const BOTH: [Self; 2] = [Self::Booted, Self::Spare];

    /// Where it is written down how far the reading is.
    const fn record(self) -> Record {
        match self {
            Self::Booted => Record::Reading,
            Self::Spare => Record::SpareReading,
        }
    }
}

/// Reads both images again and again.
#[derive(Debug)]
pub struct Keeper<D, C> {
    device: Arc<D>,
    clock: C,
    handle: Handle,
    bell: Bell,
    progress: watch::Sender<Progress>,
}

impl<D, C> Keeper<D, C>
where
    D: Slots + Pace + Records + 'static,
    C: Clock,
{
    /// Reads with a device of its own, beside the hands.
    pub fn new(device: D, clock: C, handle: Handle) -> Self {
        Self {
            device: Arc::new(device),
            clock,
            handle,
            bell: Bell::default(),
            progress: watch::Sender::default(),
        }
    }

    /// Returns what has it read now.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Returns how far the reading is, now and later.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Reads whenever it is due or the bell is rung. `every` is asked each time; `None`
    /// is never.
    pub async fn keep(self, every: impl Fn() -> Option<Duration>) {
        self.handle.settled().await;
        let after_boot = AFTER_BOOT.saturating_sub(self.clock.since_boot());
        let mut rung = self.bell.is_rung_within(after_boot).await;
        let mut looks = Looks::new(Arc::new(self));
        loop {
            match rung {
                true => looks.look_again().await,
                false => looks.look(every()).await,
            }
            rung = looks.keeper.bell.is_rung_within(LOOK).await;
        }
    }

    /// Reads an image to the end, and has mended what was rotten; also the kernel image, which is
    /// not read here: the hands alone mount the partition on which it lies. What could not be
    /// mended stays written down.
    async fn read_and_mend(self: Arc<Self>, whose: Whose) -> Kept {
        let Some((slot, root_hash)) = self.image(whose) else {
            return Kept::Yes;
        };
        let (stopper, stop) = Stopper::new();
        let ends = Ends(stopper);
        let keeper = self.clone();
        let read = move || keeper.read(whose, (slot, root_hash), &stop);
        let read = tokio::task::spawn_blocking(read).await;
        drop(ends);
        let (reading, reach) = match read {
            Ok(Ok((reading, reach))) => {
                tell(slot, &reading);
                (reading, reach)
            }
            Ok(Err(Stopped)) => return Kept::Yes,
            Err(error) => {
                tracing::error!(%error, "the reading of an image has died");
                return Kept::No;
            }
        };
        let seen = match reach {
            Reach::End => Seen::All,
            Reach::RottenTree => Seen::Part,
        };
        let now = match (self.mend(&reading, seen).await, reach) {
            (Mended::Yes, Reach::End) => reading.mended(),
            // Only now can the rest be judged.
            (Mended::Yes, Reach::RottenTree) => {
                self.on_disk(move |keeper| keeper.read_again(whose)).await;
                return Kept::Yes;
            }
            (Mended::No, _) => Reading {
                left: true,
                ..reading
            },
        };
        // Also if nothing has changed: whether it is kept counts.
        self.on_disk(move |keeper| keeper.note(whose, &now)).await
    }

    /// Has mended what could not be mended before, if anything is left of that. If blocks were,
    /// the image is read anew afterwards: its tree may have been rotten.
    async fn mend_again(self: Arc<Self>, whose: Whose) {
        let Some((_, root_hash)) = self.image(whose) else {
            return;
        };
        let last = self.on_disk(move |keeper| keeper.recall(whose)).await;
        let left = last.filter(|reading| {
            let is_over = reading.next >= reading.blocks;
            let is_left = reading.left || !reading.rotten.is_empty();
            reading.root_hash == root_hash && is_over && is_left
        });
        if let Some(reading) = left
            && self.mend(&reading, Seen::Part).await == Mended::Yes
        {
            let after = move |keeper: &Self| match reading.rotten.is_empty() {
                true => drop(keeper.note(whose, &reading.mended())),
                false => keeper.read_again(whose),
            };
            self.on_disk(after).await;
        }
    }

    /// Returns the image that is to be read, if any: nobody reads what nobody could start, or beside a
    /// release that has not proved itself.
    fn readable(&self, whose: Whose) -> Option<RootHash> {
        let is_good = self.handle.view().node.booted.standing == Standing::Good;
        let (_, root_hash) = self.image(whose).filter(|_| is_good)?;
        Some(root_hash)
    }

    fn image(&self, whose: Whose) -> Option<(Slot, RootHash)> {
        let view = self.handle.view();
        let root_hash = match whose {
            Whose::Booted => view.node.booted.root_hash,
            Whose::Spare => view.node.spare.held.as_ref()?.1,
        };
        let (slot, _) = view.node.startable(&root_hash)?;
        Some((slot, root_hash))
    }

    async fn mend(&self, reading: &Reading, seen: Seen) -> Mended {
        let mend = Request::Mend {
            root_hash: reading.root_hash,
            blocks: reading.rotten.clone(),
            seen,
        };
        match self.handle.request(mend).await {
            Ok(Accepted::Job(mut job)) => {
                // Ends with an error only if the daemon does.
                let ended = job.outcome.wait_for(Option::is_some).await;
                match ended.is_ok_and(|it| *it == Some(Outcome::Done)) {
                    true => Mended::Yes,
                    false => Mended::No,
                }
            }
            Ok(Accepted::Done | Accepted::Nothing) => Mended::No,
            Err(error) if reading.rotten.is_empty() => {
                tracing::info!(error = %Chain(&error), "the kernel image is not looked at now");
                Mended::No
            }
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "rotten blocks are not mended now");
                Mended::No
            }
        }
    }

    /// Does what waits for the disk, on a thread that may: the daemon's own is everybody's.
    async fn on_disk<T>(self: &Arc<Self>, work: impl FnOnce(&Self) -> T + Send + 'static) -> T
    where
        T: Send + 'static,
    {
        let keeper = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&keeper)).await;
        done.expect("nothing that keeps a record panics")
    }

    /// Has the image read from its beginning at the next look.
    fn read_again(&self, whose: Whose) {
        if let Err(error) = records::remove(&*self.device, whose.record()) {
            tracing::warn!(error = %Chain(&error), "cannot forget a reading");
        }
    }

    fn recall(&self, whose: Whose) -> Option<Reading> {
        records::recall(&*self.device, whose.record())
    }

    fn read(
        &self,
        whose: Whose,
        (slot, root_hash): (Slot, RootHash),
        stop: &Stop,
    ) -> Result<(Reading, Reach), Stopped> {
        let before = self.recall(whose);
        let finished = before.as_ref().and_then(|before| before.finished);
        let same_image =
            |reading: &Reading| reading.root_hash == root_hash && reading.next < reading.blocks;
        let mut reading = before
            .filter(same_image)
            .unwrap_or(Reading::anew(root_hash, finished));
        self.stand(DiskQueue::Last);
        let read = self.read_on(whose, slot, &mut reading, stop);
        // Others' work is done on this thread, too.
        self.stand(DiskQueue::Among);
        let reach = match read {
            Ok(()) => Reach::End,
            Err(ScrubError::Stopped) => {
                self.note(whose, &reading);
                return Err(Stopped);
            }
            // Somebody has begun to write there, or had when it was opened.
            Err(ScrubError::Open(_) | ScrubError::Tree(_))
                if self.is_in_the_way() || self.image(whose) != Some((slot, root_hash)) =>
            {
                return Err(Stopped);
            }
            Err(ScrubError::Open(_) | ScrubError::Tree(_)) => {
                // The hands come upon the same, and mend it or say so where it is seen.
                reading.blocks = reading.blocks.max(1);
                let ends = reading
                    .next
                    .saturating_add(CHUNK_BLOCKS)
                    .min(reading.blocks);
                reading.rotten.extend(reading.next..ends);
                reading.next = reading.blocks;
                Reach::RottenTree
            }
        };
        reading.finished = Some(self.clock.now());
        self.show(whose, &reading);
        self.note(whose, &reading);
        Ok((reading, reach))
    }

    fn read_on(
        &self,
        whose: Whose,
        slot: Slot,
        reading: &mut Reading,
        stop: &Stop,
    ) -> Result<(), ScrubError> {
        let device = &*self.device;
        let on = |part| OnMedium { device, slot, part };
        let image = Some((slot, reading.root_hash));
        let wait_for_turn = || {
            while self.is_in_the_way() {
                stop.rest(GIVE_WAY);
                stop.checkpoint()?;
            }
            // Another release may have taken its place.
            match self.image(whose) == image {
                true => Ok(()),
                false => Err(Stopped),
            }
        };
        wait_for_turn()?;
        let prover = Prover::open(on(Part::Verity), reading.root_hash).map_err(ScrubError::Open)?;
        let mut chunks = 0_u64;
        read_through(&on(Part::Root), &prover, reading, &mut |now, bytes| {
            self.show(whose, now);
            chunks = chunks.saturating_add(1);
            if chunks.is_multiple_of(NOTE) {
                self.note(whose, now);
            }
            stop.rest(PER_CHUNK);
            wait_for_turn()?;
            device.step(bytes, stop)
        })
    }

    fn stand(&self, place: DiskQueue) {
        if let Err(error) = self.device.stand(place) {
            tracing::debug!(%error, "cannot choose a place in the disk's queue");
        }
    }

    fn is_in_the_way(&self) -> bool {
        !matches!(self.handle.view().state, "idle" | "staged")
    }

    fn show(&self, whose: Whose, reading: &Reading) {
        if whose == Whose::Spare {
            return;
        }
        self.progress.send_replace(Progress {
            blocks: reading.blocks,
            next: reading.next,
            rotten: u64::try_from(reading.rotten.len()).unwrap_or(u64::MAX),
            finished: reading.finished,
        });
    }

    fn note(&self, whose: Whose, reading: &Reading) -> Kept {
        match records::write(&*self.device, whose.record(), reading) {
            Ok(()) => Kept::Yes,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "cannot write down how far the reading is");
                Kept::No
            }
        }
    }
}

/// One look after the other, at what is to be done about either image.
#[derive(Debug)]
pub struct Looks<D, C> {
    keeper: Arc<Keeper<D, C>>,
    turn: Turn,
    /// Of the last reading of the booted image, and of the other.
    kept: [Kept; 2],
}

impl<D, C> Looks<D, C>
where
    D: Slots + Pace + Records + 'static,
    C: Clock,
{
    /// Begins with a boot.
    pub fn new(keeper: Arc<Keeper<D, C>>) -> Self {
        Self {
            keeper,
            turn: Turn::default(),
            kept: [Kept::Yes; 2],
        }
    }

    /// Reads what is due `every` so often, `None` being never; of the rest tries again to mend what
    /// could not be mended, if its turn has come.
    pub async fn look(&mut self, every: Option<Duration>) {
        let again = self.turn.has_come(self.keeper.clock.since_boot());
        let mut round = Round::Nothing;
        for (whose, kept) in Whose::BOTH.into_iter().zip(&mut self.kept) {
            let keeper = &self.keeper;
            let Some(root_hash) = keeper.readable(whose) else {
                continue;
            };
            let last = keeper.on_disk(move |keeper| keeper.recall(whose)).await;
            let last = last.filter(|reading| reading.root_hash == root_hash);
            let now = keeper.clock.now();
            let is_due = every.is_some_and(|every| is_due(last.as_ref(), every, now));
            // A disk that forgets that it was read would have it read at each look.
            if is_due && (*kept == Kept::Yes || again) {
                *kept = keeper.clone().read_and_mend(whose).await;
                round = round.max(match kept {
                    Kept::Yes => Round::Read,
                    Kept::No => Round::Tried,
                });
            } else if again {
                keeper.clone().mend_again(whose).await;
                round = round.max(Round::Tried);
            }
        }
        self.turn = self.turn.next_after(round, self.keeper.clock.since_boot());
    }

    /// Reads all of both, not the rest of a reading that was broken off.
    pub async fn look_again(&mut self) {
        for (whose, kept) in Whose::BOTH.into_iter().zip(&mut self.kept) {
            let keeper = &self.keeper;
            if keeper.readable(whose).is_some() {
                keeper.on_disk(move |keeper| keeper.read_again(whose)).await;
                *kept = keeper.clone().read_and_mend(whose).await;
            }
        }
        let now = self.keeper.clock.since_boot();
        self.turn = self.turn.next_after(Round::Read, now);
    }
}

fn tell(slot: Slot, reading: &Reading) {
    match reading.rotten.len() {
        0 => tracing::info!(%slot, blocks = reading.blocks, "the image is sound"),
        blocks => tracing::warn!(%slot, blocks, "the image is rotten"),
    }
}
