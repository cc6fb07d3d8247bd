//! Watching a job to its end.

use std::io::{self, Write};
use std::time::Duration;

use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use zbus::fdo::{self, PropertiesProxy};
use zbus::names::InterfaceName;
use zbus::{Connection, OwnedObjectPath};

use super::bus::JobProxy;
use super::failure::CommandError;
use super::model::Job;
use super::text;
use crate::names::ErrorName;

const JOB: InterfaceName<'static> =
    InterfaceName::from_static_str_unchecked("io.bistable.Updater1.Job");
/// Signals say when something changed; this is for one that was lost.
const LOOK_ANYWAY: Duration = Duration::from_secs(5);
/// Plain output says something at every such step.
const PERCENT_STEP: u64 = 10;

/// How a job was shown to its end.
#[derive(Debug)]
pub(super) enum Watched {
    Ended(Box<Job>),
    /// The one who watched has left; the job goes on.
    Left,
}

/// Where a job's progress goes.
pub(super) enum Display<'a> {
    /// A bar on a terminal.
    Bar(ProgressBar),
    /// A line now and then.
    Lines {
        out: &'a mut dyn Write,
        phase: String,
        step: u64,
    },
    /// A JSON object per change.
    Json {
        out: &'a mut dyn Write,
        last: Option<Job>,
    },
    Nothing,
}

impl<'a> Display<'a> {
    pub(super) fn bar() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(plain_style());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self::Bar(bar)
    }

    pub(super) fn lines(out: &'a mut dyn Write) -> Self {
        Self::Lines {
            out,
            phase: String::new(),
            step: 0,
        }
    }

    pub(super) fn json(out: &'a mut dyn Write) -> Self {
        Self::Json { out, last: None }
    }

    fn show(&mut self, job: &Job) -> io::Result<()> {
        match self {
            Self::Bar(bar) => {
                if job.bytes_total > 0 && bar.length().is_none() {
                    bar.set_style(bytes_style());
                }
                if job.bytes_total > 0 {
                    bar.set_length(job.bytes_total);
                    bar.set_position(job.bytes_done);
                }
                let version = job.version.as_deref().unwrap_or_default();
                let phase = text::phase(&job.phase);
                bar.set_message(format!("{version} {phase}").trim().to_owned());
                Ok(())
            }
            Self::Lines { out, phase, step } => {
                let reached = text::percent(job).unwrap_or_default() / PERCENT_STEP;
                if job.result.is_some() || (*phase == job.phase && *step == reached) {
                    return Ok(());
                }
                phase.clone_from(&job.phase);
                *step = reached;
                writeln!(out, "{}", text::progress(job))
            }
            Self::Json { out, last } => {
                if last.as_ref() == Some(job) {
                    return Ok(());
                }
                *last = Some(job.clone());
                writeln!(out, "{}", json!({ "job": job }))?;
                out.flush()
            }
            Self::Nothing => Ok(()),
        }
    }

    /// Says something in between, to people only.
    fn say(&mut self, words: &str) -> io::Result<()> {
        match self {
            Self::Bar(bar) => bar.suspend(|| writeln!(io::stderr(), "{words}")),
            Self::Lines { out, .. } => writeln!(out, "{words}"),
            Self::Json { .. } | Self::Nothing => Ok(()),
        }
    }
}

impl Drop for Display<'_> {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Shows the job at `path` until it ends. The first Ctrl-C cancels it, the
/// second one leaves it.
pub(super) async fn watch(
    bus: &Connection,
    path: OwnedObjectPath,
    mut display: Display<'_>,
) -> Result<Watched, CommandError> {
    let job = JobProxy::builder(bus).path(path.clone()).build().await?;
    let properties = PropertiesProxy::builder(bus)
        .destination("io.bistable.Updater1")
        .path(path)
        .build()
        .await?;
    // Signals first, then the first look: nothing falls in between.
    let mut changes = properties.receive_properties_changed().await?;
    let mut finished = job.receive_finished().await?;
    let mut owners = job.inner().receive_owner_changed().await?;
    let mut anyway = interval(LOOK_ANYWAY);
    anyway.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut asked_to_cancel = false;

    loop {
        let now = Job::read(&properties.get_all(JOB).await.map_err(gone)?);
        display.show(&now)?;
        if now.result.is_some() {
            return Ok(Watched::Ended(Box::new(now)));
        }
        tokio::select! {
            _ = changes.next() => {}
            _ = finished.next() => {}
            _ = anyway.tick() => {}
            _ = owners.next() => return Err(CommandError::Vanished),
            _ = interrupts.recv() => {
                if asked_to_cancel {
                    return Ok(Watched::Left);
                }
                asked_to_cancel = true;
                display.say("cancelling; press Ctrl-C again to leave it to the updater")?;
                cancel(&job).await?;
            }
        }
    }
}

/// A job that cannot be asked any more went with its updater: perhaps there is
/// a new one already, which knows nothing of it.
fn gone(error: fdo::Error) -> CommandError {
    let with_the_updater = matches!(
        error,
        fdo::Error::ServiceUnknown(_)
            | fdo::Error::NameHasNoOwner(_)
            | fdo::Error::NoReply(_)
            | fdo::Error::UnknownObject(_)
            | fdo::Error::UnknownInterface(_)
    );
    match with_the_updater {
        true => CommandError::Vanished,
        false => error.into(),
    }
}

/// Asks a job to stop. One that has ended in between needs no asking.
async fn cancel(job: &JobProxy<'_>) -> Result<(), CommandError> {
    match job.cancel().await.map_err(CommandError::from) {
        Err(CommandError::Named {
            name: ErrorName::NoSuchJob,
            ..
        }) => Ok(()),
        result => result,
    }
}

fn plain_style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg}").expect("the template is sound")
}

fn bytes_style() -> ProgressStyle {
    ProgressStyle::with_template(
        "{spinner} {msg:34} [{bar:30}] {percent:>3} %  {binary_bytes} of {binary_total_bytes}  {eta} left",
    )
    .expect("the template is sound")
    .progress_chars("=> ")
}
