use std::collections::HashMap;
use std::time::Duration;

use zbus::message::Header;
use zbus::object_server::{InterfaceRef, SignalEmitter};
use zbus::{Connection, ObjectPath, Variant, interface};

use super::caller::Callers;
use super::error::BusError;
use super::publisher::emit_changes;
use super::values::Dictionary;
use crate::driver::{Handle, JobWish};
use crate::job::Job;
use crate::machine::{Holder, Outcome};
use crate::plain::plain;
use crate::plan::{Alternative, Plan};

/// How often progress is told: five times a second is as fast as people read,
/// and keeps a bus with many listeners quiet.
const BEAT: Duration = Duration::from_millis(200);

/// Returns where a job lies on the bus.
pub fn job_path(id: u64) -> ObjectPath<'static> {
    ObjectPath::try_from(format!("/io/bistable/Updater1/job/{id}"))
        .expect("digits and words make an object path")
}

/// A job on the bus.
#[derive(Debug)]
pub(super) struct JobObject {
    handle: Handle,
    callers: Callers,
    job: Job,
}

impl JobObject {
    async fn ask(&self, wish: JobWish, header: &Header<'_>) -> Result<(), BusError> {
        let asker = self.callers.look_up(header);
        self.handle.ask_of_job_by(asker, self.job.id, wish).await?;
        Ok(())
    }
}

#[interface(name = "io.bistable.Updater1.Job", introspection_docs = false)]
impl JobObject {
    async fn cancel(&self, #[zbus(header)] header: Header<'_>) -> Result<(), BusError> {
        self.ask(JobWish::Cancel, &header).await
    }

    async fn pause(&self, #[zbus(header)] header: Header<'_>) -> Result<(), BusError> {
        self.ask(JobWish::Pause, &header).await
    }

    async fn resume(&self, #[zbus(header)] header: Header<'_>) -> Result<(), BusError> {
        self.ask(JobWish::Resume, &header).await
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn kind(&self) -> String {
        self.job.kind.as_str().to_owned()
    }

    #[zbus(property)]
    fn version(&self) -> String {
        version(&self.job)
    }

    #[zbus(property)]
    fn phase(&self) -> String {
        self.job.work.borrow().phase.to_owned()
    }

    #[zbus(property)]
    fn bytes_done(&self) -> u64 {
        self.job.work.borrow().done
    }

    #[zbus(property)]
    fn bytes_total(&self) -> u64 {
        self.job.work.borrow().total
    }

    #[zbus(property)]
    fn paused(&self) -> bool {
        self.job.work.borrow().holder.is_some()
    }

    #[zbus(property)]
    fn paused_by(&self) -> String {
        paused_by(self.job.work.borrow().holder).to_owned()
    }

    #[zbus(property)]
    fn plan(&self) -> Vec<Dictionary> {
        plan(&self.job.work.borrow().plan)
    }

    #[zbus(property)]
    fn plan_fetch(&self) -> u64 {
        self.job.work.borrow().plan.fetch()
    }

    #[zbus(property)]
    fn result(&self) -> String {
        result(&self.job).to_owned()
    }

    #[zbus(property)]
    fn error(&self) -> (String, String) {
        error(&self.job)
    }

    #[zbus(signal)]
    async fn finished(
        emitter: &SignalEmitter<'_>,
        result: &str,
        error: &str,
        message: &str,
    ) -> zbus::Result<()>;
}

fn version(job: &Job) -> String {
    job.work
        .borrow()
        .version
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default()
}

const fn paused_by(holder: Option<Holder>) -> &'static str {
    match holder {
        None => "",
        Some(Holder::Caller) => "caller",
        Some(Holder::Window) => "window",
    }
}

fn plan(plan: &Plan) -> Vec<Dictionary> {
    let way = |way: &Alternative| {
        let why_not = way.why_not.as_ref();
        HashMap::from([
            ("part", way.part.as_str().into()),
            ("method", way.method.as_str().into()),
            ("fetch_bytes", way.fetch.into()),
            ("requests", way.requests.into()),
            ("unpack_bytes", way.unpack.into()),
            ("copy_bytes", way.copy.into()),
            ("zero_bytes", way.zero.into()),
            ("kept_bytes", way.there.into()),
            ("write_bytes", way.write.into()),
            ("chosen", way.chosen.into()),
            (
                "why_not",
                why_not
                    .map(|why_not| plain(why_not.as_str()))
                    .unwrap_or_default()
                    .into(),
            ),
        ])
    };
    plan.alternatives.iter().map(way).collect()
}

fn result(job: &Job) -> &'static str {
    match &*job.outcome.borrow() {
        None => "",
        Some(Outcome::Done) => "done",
        Some(Outcome::Failed(_)) => "failed",
        Some(Outcome::Cancelled) => "cancelled",
    }
}

fn error(job: &Job) -> (String, String) {
    match &*job.outcome.borrow() {
        Some(Outcome::Failed(failure)) => (failure.name.to_string(), plain(&failure.message)),
        None | Some(Outcome::Done | Outcome::Cancelled) => (String::new(), String::new()),
    }
}

fn properties(job: &Job) -> Dictionary {
    let work = job.work.borrow().clone();
    HashMap::from([
        ("Version", version(job).into()),
        ("Phase", work.phase.into()),
        ("BytesDone", work.done.into()),
        ("BytesTotal", work.total.into()),
        ("Plan", plan(&work.plan).into()),
        ("PlanFetch", work.plan.fetch().into()),
        ("Paused", work.holder.is_some().into()),
        ("PausedBy", paused_by(work.holder).into()),
        ("Result", result(job).into()),
        ("Error", Variant::from(error(job))),
    ])
}

/// Puts a job on the bus, unless it is there, and keeps its listeners told.
pub(super) async fn export(
    bus: &Connection,
    handle: &Handle,
    callers: &Callers,
    job: &Job,
) -> zbus::Result<()> {
    let path = job_path(job.id);
    let object = JobObject {
        handle: handle.clone(),
        callers: callers.clone(),
        job: job.clone(),
    };
    if bus.object_server().at(&path, object).await?.is_some() {
        return Ok(());
    }
    let object = bus.object_server().interface::<_, JobObject>(&path).await?;
    let job = job.clone();
    tokio::spawn(async move {
        if let Err(error) = follow(&object, job).await {
            tracing::debug!(%error, "cannot tell a job's progress");
        }
    });
    Ok(())
}

/// Takes a job off the bus.
pub(super) async fn withdraw(bus: &Connection, id: u64) -> zbus::Result<()> {
    bus.object_server()
        .remove::<JobObject, _>(job_path(id))
        .await?;
    Ok(())
}

async fn follow(object: &InterfaceRef<JobObject>, mut job: Job) -> zbus::Result<()> {
    let emitter = object.signal_emitter();
    let mut told = Dictionary::new();
    while job.outcome.borrow_and_update().is_none() {
        emit_changes(emitter, INTERFACE, &mut told, properties(&job)).await?;
        tokio::time::sleep(BEAT).await;
        // The outcome first: a job that ends closes its progress in the same moment.
        tokio::select! {
            biased;
            changed = job.outcome.changed() => if changed.is_err() { return Ok(()) },
            changed = job.work.changed() => {
                if changed.is_err() && job.outcome.changed().await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    emit_changes(emitter, INTERFACE, &mut told, properties(&job)).await?;
    let (name, message) = error(&job);
    JobObject::finished(emitter, result(&job), &name, &message).await
}

const INTERFACE: &str = "io.bistable.Updater1.Job";
