//! The head: takes requests and reports one at a time, lets [`machine`] decide,
//! sends orders to the hands, and publishes how things stand. It never waits
//! for a device.
//!
//! [`machine`]: crate::machine

mod handle;
mod steward;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::handle::{Accepted, Automation, Handle, JobWish, RequestError, View};
use self::handle::{Call, Reply, SETTLING};
use self::steward::{Elsewhere, Known, Steward};
use crate::asker::{Asker, Asking};
use crate::checks::Checks;
use crate::derive;
use crate::hands::{Device, Hands, Network, Order};
use crate::job::{Job, JobKind, RunningJob, Windows};
use crate::journal;
use crate::machine::{
    self, Effect, Event, Outcome, Rejection, Report, Request, State, Stopped, keep_watch,
};
use crate::meter::Meter;
use crate::observe::{ObserveError, observe};
use crate::policy::{MachineId, Rules, Word};
use crate::ports::{Clock, Offer, Record, Stopper};
use crate::records;
use crate::refusal::{Chain, Failure, Refused};

/// How many finished jobs stay readable.
const FINISHED_JOBS: usize = 8;
/// A watch is for starts that end early. One that has lasted so long did not, whatever the gate waits for: a
/// unit that fails for good, say, while the workload is served.
const LONG_UPTIME: Duration = Duration::from_secs(60 * 60);
/// How many callers may wait to be heard. More are made to wait by the bus.
const REQUESTS: usize = 32;

/// The hands' thread ended on its own.
#[derive(Debug, thiserror::Error)]
#[error("the thread that works on the disk has died")]
pub struct HandsDied;

/// The head, and what it remembers between events.
#[derive(Debug)]
pub struct Head<C> {
    state: Option<State>,
    clock: C,
    calls: mpsc::Receiver<Call>,
    orders: Option<mpsc::Sender<Order>>,
    reports: mpsc::Receiver<Report>,
    publish: watch::Sender<Arc<View>>,
    /// Stops the order at work.
    stopper: Option<Stopper>,
    /// Waits for the order at work.
    waiting: Option<Reply>,
    /// Who asked for what is no job.
    asker: Asking,
    running: Option<RunningJob>,
    finished: VecDeque<Job>,
    next_job: u64,
    offer: Option<Offer>,
    last_check: Option<Timestamp>,
    word: Word,
    last_error: Option<Failure>,
    steward: Steward,
    /// Whether the order at work was given while releases came from elsewhere.
    asked: Elsewhere,
    watch: Watch,
}

/// How the last change of the watch on the booted slot went. One that failed is not tried again
/// before something else was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    Tried,
    Failed,
}

/// Reads the node, starts the hands, and begins to settle what is open. The
/// head has to be [run](Head::run).
pub async fn start<D, N, C>(
    device: D,
    network: N,
    clock: C,
    rules: Rules,
    machine_id: MachineId,
) -> Result<(Handle, Head<C>), ObserveError>
where
    D: Device + 'static,
    N: Network + 'static,
    C: Clock,
{
    let mut hands = Hands {
        device,
        network,
        clock: clock.clone(),
    };
    let (first, seen) = oneshot::channel();
    let (orders, mut todo) = mpsc::channel::<Order>(1);
    let (done, reports) = mpsc::channel(1);
    // It ends with the head: nobody has to join it.
    drop(tokio::task::spawn_blocking(move || {
        if let Err(error) = records::trim_boots(&hands.device) {
            tracing::warn!(error = %Chain(&error), "the list of boots grows");
        }
        // PID 1 has tried it. What it could not do would keep all further starts from being counted,
        // and is not seen: the node would look as if nothing were to be done.
        if let Err(error) = hands.device.mend_names() {
            tracing::warn!(error = %Chain(&error), "cannot mend the names of boot entries");
        }
        let seen = observe(&hands.device);
        let checks = records::recall::<Checks>(&hands.device, Record::Checks);
        let checks = checks.unwrap_or_default();
        if first.send(seen.map(|seen| (seen, checks))).is_err() {
            return;
        }
        while let Some(order) = todo.blocking_recv() {
            if done.blocking_send(hands.carry_out(order)).is_err() {
                return;
            }
        }
    }));
    let (seen, checks) = seen
        .await
        .expect("the hands answer before they do anything else")?;
    let node = Box::new(derive::derive(&seen));
    let effects = derive::settle(&seen, &node);
    let (caller, calls) = mpsc::channel(REQUESTS);
    let steward = Steward::new(rules, machine_id);
    let state = State::Settling { node };
    let sound = checks.sound.as_ref();
    let last_check = sound.map(|sound| sound.when);
    let offer = sound.and_then(|sound| sound.offer_of(steward.source()?));
    let word = Word::Remembered;
    let known = Known {
        state: &state,
        offer: offer.as_ref(),
        last_check,
        word,
    };
    let (publish, view) = watch::channel(Arc::new(View {
        state: SETTLING,
        node: state.node().clone(),
        offer: offer.clone(),
        last_check,
        last_error: None,
        jobs: vec![],
        current_job: None,
        automation: steward.show(known, None, clock.now()),
    }));
    let mut head = Head {
        state: Some(state),
        clock,
        calls,
        orders: Some(orders),
        reports,
        publish,
        stopper: None,
        waiting: None,
        asker: Asking::default(),
        running: None,
        finished: VecDeque::new(),
        next_job: 1,
        offer,
        last_check,
        word,
        last_error: None,
        steward,
        asked: Elsewhere::No,
        watch: Watch::Tried,
    };
    head.give(effects).await;
    Ok((
        Handle {
            calls: caller,
            view,
        },
        head,
    ))
}

impl<C: Clock> Head<C> {
    /// Works until it is told to go down.
    pub async fn run(mut self) -> Result<(), HandsDied> {
        loop {
            tokio::select! {
                report = self.reports.recv() => self.hear(report.ok_or(HandsDied)?).await,
                // The watch takes a moment, and nobody who calls has asked for it.
                call = self.calls.recv(), if !self.is_watching() => match call {
                    Some(Call::Ask { request, asker, reply }) => {
                        self.answer(request, asker, reply).await;
                    }
                    Some(Call::Proceed { reply }) => self.proceed(reply).await,
                    Some(Call::AskOfJob { id, wish, asker, reply }) => {
                        self.ask_of_job(id, wish, asker, reply).await;
                    }
                    Some(Call::LookAtClock) => self.look_at_clock().await,
                    Some(Call::Obey(rules)) => {
                        if self.steward.obey(*rules) == Elsewhere::Yes {
                            self.offer = None;
                            self.asked = Elsewhere::Yes;
                        }
                        self.look_at_clock().await;
                    }
                    Some(Call::KeepSettings { mistake }) => {
                        self.steward.keep(mistake);
                        self.publish();
                    }
                    Some(Call::GoDown) | None => break,
                },
            }
        }
        self.go_down().await
    }

    /// Lets the hands finish. A stage is broken off: its slot cannot boot, and
    /// is cleared at the next start. A verdict is always finished.
    async fn go_down(mut self) -> Result<(), HandsDied> {
        self.calls.close();
        let breakable = match self.state() {
            State::Checking { .. }
            | State::Resolving { .. }
            | State::Planning { .. }
            | State::Staging { .. }
            | State::RollingBack { .. } => true,
            State::Settling { .. }
            | State::Idle { .. }
            | State::Staged { .. }
            | State::Trial { .. }
            | State::LastResort { .. }
            | State::Condemned { .. }
            | State::Clearing { .. }
            | State::Marking { .. }
            | State::Watching { .. }
            | State::Forgiving { .. }
            | State::Rebooting { .. } => false,
        };
        let Some(stopper) = self.stopper.take() else {
            return Ok(());
        };
        if breakable {
            stopper.stop();
        }
        let report = self.reports.recv().await.ok_or(HandsDied)?;
        self.orders = None;
        self.hear(report).await;
        Ok(())
    }

    fn state(&self) -> &State {
        self.state.as_ref().expect("a step puts back what it takes")
    }

    fn is_watching(&self) -> bool {
        matches!(self.state(), State::Watching { .. })
    }

    async fn answer(&mut self, request: Request, asker: Asking, reply: Reply) {
        let kind = match &request {
            Request::Check => Some((JobKind::Check, None)),
            Request::Stage(ask) => Some((JobKind::Stage, ask.version.clone())),
            Request::Plan(ask) => Some((JobKind::Plan, ask.version.clone())),
            Request::Rollback { .. } => {
                let held = self.state().node().spare.held.clone();
                Some((JobKind::Rollback, held.map(|(version, _)| version)))
            }
            Request::Cancel
            | Request::Pause(_)
            | Request::Resume
            | Request::Reboot(_)
            | Request::MarkGood
            | Request::MarkBad(_)
            | Request::Forgive { .. } => None,
            Request::Mend { root_hash, .. } => {
                let image = self.state().node().startable(root_hash);
                Some((JobKind::Mend, image.map(|(_, version)| version.clone())))
            }
        };
        let effects = match self.step(Event::Request(request)) {
            Ok(effects) => effects,
            Err(refused) => return answer(reply, Err(RequestError::Refused(refused))),
        };
        if let Some((kind, version)) = kind {
            let running = RunningJob::begin(self.next_job, kind, version, asker);
            self.next_job = self.next_job.saturating_add(1);
            answer(reply, Ok(Accepted::Job(running.job.clone())));
            self.running = Some(running);
        } else if effects.iter().all(Effect::is_for_the_head) {
            answer(reply, Ok(Accepted::Done));
        } else {
            self.waiting = Some(reply);
            self.asker = asker;
        }
        self.give(effects).await;
    }

    /// Does what the settings allow now.
    async fn proceed(&mut self, reply: Reply) {
        match self.steward.next(self.known(), self.clock.now()) {
            Ok(request) => self.answer(request, Asker::Policy.into(), reply).await,
            Err(held) => {
                tracing::debug!(reason = held.name(), "held");
                self.publish();
                answer(reply, Ok(Accepted::Nothing));
            }
        }
    }

    async fn ask_of_job(&mut self, id: u64, wish: JobWish, asker: Asking, reply: Reply) {
        let Some(running) = self.running.as_mut().filter(|running| running.job.id == id) else {
            return answer(reply, Err(RequestError::Refused(Refused::NoSuchJob)));
        };
        match wish {
            JobWish::Cancel => drop(running.cancelled_by.get_or_insert(asker)),
            // Whoever says so overrules the windows.
            JobWish::Resume => running.windows = Windows::Ignored,
            JobWish::Pause => {}
        }
        // The job stays that of who asked for it.
        self.answer(wish.into(), Asking::default(), reply).await;
    }

    /// Holds a job of its own up when the windows close, and lets it go on, or
    /// gives it up, when one opens.
    async fn look_at_clock(&mut self) {
        let heeds = |running: &RunningJob| running.windows == Windows::Heeded;
        let request = match self.running.as_ref().is_some_and(heeds) {
            true => self.steward.heed(self.known(), self.clock.now()),
            false => None,
        };
        if let Some(running) = self
            .running
            .as_mut()
            .filter(|_| request == Some(Request::Cancel))
        {
            running.cancelled_by.get_or_insert(Asker::Policy.into());
        }
        // What cannot be held up is nearly over.
        let effects = request.map(|request| self.step(Event::Request(request)));
        match effects {
            Some(Ok(effects)) => self.give(effects).await,
            Some(Err(_)) | None => self.publish(),
        }
        self.look_at_watch().await;
    }

    /// Puts the watch on the booted slot right, where a job was at work when the boot came up,
    /// or has ended it since; and where the gate finds something amiss for so long that the start at
    /// least did not fail.
    async fn look_at_watch(&mut self) {
        let (State::Idle { node } | State::Staged { node }) = self.state() else {
            return;
        };
        let is_up = node.came_up || self.clock.since_boot() >= LONG_UPTIME;
        if !is_up || self.watch == Watch::Failed || keep_watch(node).is_empty() {
            return;
        }
        if let Ok(effects) = self.step(Event::Request(Request::MarkGood)) {
            self.give(effects).await;
        }
    }

    async fn hear(&mut self, report: Report) {
        self.stopper = None;
        let result = match &report {
            // The word of those whom the node followed when it asked; it asks anew.
            Report::Refreshed { .. } if self.asked == Elsewhere::Yes => Ok(()),
            Report::Refreshed { offer, .. } => {
                self.offer = Some((**offer).clone());
                self.last_check = Some(self.clock.now());
                self.word = Word::Heard;
                Ok(())
            }
            Report::Resolved(_) => Ok(()),
            Report::Ended { result, .. } => result.clone(),
        };
        self.watch = match (self.is_watching(), &result) {
            (true, Err(_)) => Watch::Failed,
            (true, Ok(())) | (false, _) => Watch::Tried,
        };
        let effects = match self.step(Event::Report(report)) {
            Ok(effects) => effects,
            Err(refused) => {
                tracing::error!(error = %refused, "a report was refused: this is a bug");
                vec![]
            }
        };
        let waiting = self.waiting.take();
        self.give(effects).await;
        // After the new state is published, so that a caller who looks sees it.
        if let Some(reply) = waiting {
            answer(
                reply,
                match result {
                    Ok(()) => Ok(Accepted::Done),
                    Err(Stopped::Asked) => Err(RequestError::Refused(Refused::GoingDown)),
                    Err(Stopped::Failed(failure)) => Err(RequestError::Failed(failure)),
                },
            );
        }
    }

    fn step(&mut self, event: Event) -> Result<Vec<Effect>, Refused> {
        let state = self.state.take().expect("a step puts back what it takes");
        let before = state.name();
        let (state, effects) = match machine::step(state, event) {
            Ok((state, effects)) => (state, Ok(effects)),
            Err(rejection) => {
                let Rejection { state, refused } = *rejection;
                (state, Err(refused))
            }
        };
        if state.name() != before {
            tracing::info!(
                message_id = journal::STATE,
                from = before,
                to = state.name(),
                "state"
            );
        }
        self.state = Some(state);
        effects
    }

    /// Does the head's effects, sends the others to the hands, and publishes.
    async fn give(&mut self, effects: Vec<Effect>) {
        let settling = matches!(self.state(), State::Settling { .. });
        let mut order = Vec::new();
        let mut ended = None;
        for effect in effects {
            let stopper = self.stopper.as_ref();
            if let Effect::EndJob(outcome) = effect {
                ended = Some(outcome);
            } else if effect == Effect::Interrupt {
                stopper.into_iter().for_each(Stopper::stop);
            } else if effect == Effect::Hold {
                stopper.into_iter().for_each(Stopper::pause);
            } else if effect == Effect::LetGo {
                stopper.into_iter().for_each(Stopper::resume);
            } else {
                order.push(effect);
            }
        }
        let ended = ended.and_then(|outcome| self.end_job(outcome));
        if let Some(running) = &self.running {
            running.meter.hold(self.state().holder());
        }
        if !order.is_empty() || settling {
            self.send(order).await;
        }
        self.publish();
        if let Some((running, outcome)) = ended {
            running.end(outcome);
        }
    }

    async fn send(&mut self, effects: Vec<Effect>) {
        // None when going down: what is left undone is settled at the next start.
        let Some(orders) = &self.orders else { return };
        self.asked = Elsewhere::No;
        let (stopper, stop) = Stopper::new();
        if self.state().holder().is_some() {
            // The pause was asked for during the step before.
            stopper.pause();
        }
        self.stopper = Some(stopper);
        let (meter, asker) = match &self.running {
            Some(running) => (running.meter.clone(), running.asker.clone()),
            None => (Arc::new(Meter::new().0), std::mem::take(&mut self.asker)),
        };
        let running = self.running.as_ref();
        let cancelled_by = running.and_then(|running| running.cancelled_by.clone());
        // If the hands have died, the next report says so.
        drop(
            orders
                .send(Order {
                    effects,
                    stop,
                    meter,
                    asker,
                    cancelled_by,
                    source: self.steward.source().cloned(),
                })
                .await,
        );
    }

    fn end_job(&mut self, outcome: Outcome) -> Option<(RunningJob, Outcome)> {
        match &outcome {
            Outcome::Done => self.last_error = None,
            Outcome::Failed(failure) => {
                tracing::warn!(
                    message_id = journal::JOB_FAILED,
                    name = failure.name.short(),
                    error = %failure,
                    "job failed"
                );
                self.last_error = Some(failure.clone());
            }
            Outcome::Cancelled => {}
        }
        let running = self.running.take()?;
        let gave_up = running.cancelled_by.as_ref().is_some_and(Asking::is_policy);
        if running.asker.is_policy() && !gave_up {
            self.steward.learn(&running.job, &outcome, self.clock.now());
        }
        self.finished.push_back(running.job.clone());
        while self.finished.len() > FINISHED_JOBS {
            self.finished.pop_front();
        }
        Some((running, outcome))
    }

    fn publish(&self) {
        let running = self.running.as_ref().map(|running| running.job.clone());
        self.publish.send_replace(Arc::new(View {
            state: self.state().name(),
            node: self.state().node().clone(),
            offer: self.offer.clone(),
            last_check: self.last_check,
            last_error: self.last_error.clone(),
            current_job: running.as_ref().map(|job| job.id),
            automation: self
                .steward
                .show(self.known(), running.as_ref(), self.clock.now()),
            jobs: self.finished.iter().cloned().chain(running).collect(),
        }));
    }

    fn known(&self) -> Known<'_> {
        Known {
            state: self.state(),
            offer: self.offer.as_ref(),
            last_check: self.last_check,
            word: self.word,
        }
    }
}

fn answer(reply: Reply, result: Result<Accepted, RequestError>) {
    // The caller may have left the bus meanwhile: what was asked is done all the same.
    drop(reply.send(result));
}
