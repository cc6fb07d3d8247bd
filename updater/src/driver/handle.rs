//! The way to the head: requests go in, and how things stand comes out.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::asker::{Asker, Asking};
use crate::job::Job;
use crate::machine::{Holder, Request};
use crate::node::Node;
use crate::policy::{Automatic, Held, Rules};
use crate::ports::Offer;
use crate::refusal::{Failure, Refused};

/// How things stand, for everyone to see.
#[derive(Debug, Clone)]
pub struct View {
    /// The state in one word.
    pub state: &'static str,
    pub node: Node,
    /// What the last check found.
    pub offer: Option<Offer>,
    pub last_check: Option<Timestamp>,
    pub last_error: Option<Failure>,
    /// The job at work, and the last ones that ended; oldest first.
    pub jobs: Vec<Job>,
    pub current_job: Option<u64>,
    pub automation: Automation,
}

/// What the node does by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Automation {
    /// How far it goes.
    pub automatic: Automatic,
    /// What a trial gets when nobody says otherwise.
    pub tries: u32,
    /// Why it does nothing now; `None` if it would act when asked to.
    pub held: Option<Held>,
    /// When the next window opens; `None` if one is open, or none ever opens.
    pub next_window: Option<Timestamp>,
    /// Why the settings could not be read the last time, if so.
    pub mistake: Option<String>,
}

/// What a request led to.
#[derive(Debug, Clone)]
pub enum Accepted {
    /// A job was begun.
    Job(Job),
    /// It is done.
    Done,
    /// There is nothing to do by itself.
    Nothing,
}

/// Why a request led to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    Refused(Refused),
    #[error(transparent)]
    Failed(Failure),
}

pub(super) type Reply = oneshot::Sender<Result<Accepted, RequestError>>;

#[derive(Debug)]
pub(super) enum Call {
    Ask {
        request: Request,
        asker: Asking,
        reply: Reply,
    },
    /// Does what the settings allow now.
    Proceed {
        reply: Reply,
    },
    AskOfJob {
        id: u64,
        wish: JobWish,
        asker: Asking,
        reply: Reply,
    },
    /// Looks whether a window has opened or closed.
    LookAtClock,
    Obey(Box<Rules>),
    KeepSettings {
        mistake: String,
    },
    GoDown,
}

/// What can be asked of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobWish {
    Cancel,
    Pause,
    Resume,
}

impl From<JobWish> for Request {
    fn from(wish: JobWish) -> Self {
        match wish {
            JobWish::Cancel => Self::Cancel,
            JobWish::Pause => Self::Pause(Holder::Caller),
            JobWish::Resume => Self::Resume,
        }
    }
}

/// The way to the head, for any number of callers.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) view: watch::Receiver<Arc<View>>,
}

impl Handle {
    /// Puts a request of the daemon's own to the head. Completes when it was
    /// refused, when a job was begun, or, for what is no job, when it is done.
    pub async fn request(&self, request: Request) -> Result<Accepted, RequestError> {
        self.request_by(Asker::Updater, request).await
    }

    /// Puts somebody's request to the head.
    pub async fn request_by(
        &self,
        asker: impl Into<Asking>,
        request: Request,
    ) -> Result<Accepted, RequestError> {
        let (reply, answer) = oneshot::channel();
        let ask = Call::Ask {
            request,
            asker: asker.into(),
            reply,
        };
        self.call(ask, answer).await
    }

    /// Lets the head do what the settings allow now.
    pub async fn proceed(&self) -> Result<Accepted, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.call(Call::Proceed { reply }, answer).await
    }

    /// Asks a job to stop.
    pub async fn cancel(&self, id: u64) -> Result<Accepted, RequestError> {
        self.ask_of_job(id, JobWish::Cancel).await
    }

    /// Asks something of a job, for the daemon itself.
    pub async fn ask_of_job(&self, id: u64, wish: JobWish) -> Result<Accepted, RequestError> {
        self.ask_of_job_by(Asker::Updater, id, wish).await
    }

    /// Asks something of a job, for somebody.
    pub async fn ask_of_job_by(
        &self,
        asker: impl Into<Asking>,
        id: u64,
        wish: JobWish,
    ) -> Result<Accepted, RequestError> {
        let (reply, answer) = oneshot::channel();
        let call = Call::AskOfJob {
            id,
            wish,
            asker: asker.into(),
            reply,
        };
        self.call(call, answer).await
    }

    /// Lets the head look whether a window has opened or closed.
    pub async fn look_at_clock(&self) {
        // It has gone already if nobody listens.
        drop(self.calls.send(Call::LookAtClock).await);
    }

    /// Gives the head other rules.
    pub async fn obey(&self, rules: Rules) {
        // As above.
        drop(self.calls.send(Call::Obey(Box::new(rules))).await);
    }

    /// Tells the head why there are no other settings than those it has.
    pub async fn keep_settings(&self, mistake: String) {
        // As above.
        drop(self.calls.send(Call::KeepSettings { mistake }).await);
    }

    async fn call(
        &self,
        call: Call,
        answer: oneshot::Receiver<Result<Accepted, RequestError>>,
    ) -> Result<Accepted, RequestError> {
        let gone = || RequestError::Refused(Refused::GoingDown);
        self.calls.send(call).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Asks the head to end: it takes no more requests, and lets the hands
    /// finish what must not be left half done.
    pub async fn go_down(&self) {
        // It has gone already if nobody listens.
        drop(self.calls.send(Call::GoDown).await);
    }

    /// Returns how things stand now.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Returns a view that can be waited for.
    pub fn follow(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Completes when what an earlier boot left open has been ended.
    pub async fn settled(&self) {
        let mut view = self.view.clone();
        // The head has gone if this fails; whoever waits for it will notice.
        drop(view.wait_for(|view| view.state != SETTLING).await);
    }
}

/// The state's name before the daemon is open for requests.
pub(super) const SETTLING: &str = "settling";
