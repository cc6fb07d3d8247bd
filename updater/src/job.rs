//! A piece of work that callers follow, and can cancel.

use std::sync::Arc;

use partition_layout::Version;
use tokio::sync::watch;

use crate::asker::Asking;
use crate::machine::Outcome;
use crate::meter::{Meter, Work};

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    Check,
    Plan,
    Stage,
    Rollback,
    /// Of an image's rotten blocks.
    Mend,
}

impl JobKind {
    /// Returns the word on the bus.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Plan => "plan",
            Self::Stage => "stage",
            Self::Rollback => "rollback",
            Self::Mend => "mend",
        }
    }
}

/// A job, as its followers see it.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: u64,
    pub kind: JobKind,
    pub work: watch::Receiver<Work>,
    /// `None` while it runs.
    pub outcome: watch::Receiver<Option<Outcome>>,
}

/// Whether a job is held up while no window is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Windows {
    Heeded,
    Ignored,
}

/// A job, as the head keeps it.
#[derive(Debug)]
pub(crate) struct RunningJob {
    pub(crate) job: Job,
    pub(crate) meter: Arc<Meter>,
    pub(crate) asker: Asking,
    pub(crate) windows: Windows,
    /// Who asked it to stop, if somebody did.
    pub(crate) cancelled_by: Option<Asking>,
    outcome: watch::Sender<Option<Outcome>>,
}

impl RunningJob {
    pub(crate) fn begin(id: u64, kind: JobKind, version: Option<Version>, asker: Asking) -> Self {
        let (meter, work) = Meter::new();
        if version.is_some() {
            meter.name(version);
        }
        let (sender, outcome) = watch::channel(None);
        Self {
            job: Job {
                id,
                kind,
                work,
                outcome,
            },
            meter: Arc::new(meter),
            // A check is allowed at any time, and a caller knows the time.
            windows: match asker.is_policy() && kind == JobKind::Stage {
                true => Windows::Heeded,
                false => Windows::Ignored,
            },
            asker,
            cancelled_by: None,
            outcome: sender,
        }
    }

    pub(crate) fn end(self, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.meter.complete(),
            Outcome::Failed(_) | Outcome::Cancelled => {}
        }
        self.outcome.send_replace(Some(outcome));
    }
}
