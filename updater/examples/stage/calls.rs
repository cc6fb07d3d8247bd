//! How long callers wait for their answers while an image is staged.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use updater::cli::bus::{JobProxy, ManagerProxy};
use updater::config::{Config, Sources};
use updater::dbus;
use updater::driver::Handle;
use updater::host::SystemClock;
use updater::metrics::Metrics;
use updater::pace::Rests;
use updater::scrub::keeper::Keeper;
use updater::settings::Settings;
use zbus::Connection;
use zbus::fdo::PropertiesProxy;

use crate::Failure;
use crate::node::BenchNode;

/// Between two rounds of calls: as a fleet's agent that asks far too often.
const ROUND: Duration = Duration::from_millis(20);

/// Milliseconds of every call, by its name.
type Answers = BTreeMap<&'static str, Vec<f64>>;

/// Speaks on the bus as the daemon does, has somebody on a connection of his own stage
/// the channel's release, call again and again until that has ended, and writes to
/// `file` how long each answer took.
pub(crate) async fn answer(
    bus: &Connection,
    handle: &Handle,
    node: BenchNode,
    file: &Path,
) -> Result<(), Failure> {
    let keeper = Keeper::new(node, SystemClock, handle.clone());
    let config = watch::Sender::new(Arc::new(Config::default()));
    let settings = Settings::new(Sources::Files(Vec::new()), config, handle.clone());
    let metrics = Metrics::new(handle.clone(), Rests::default());
    let callers = dbus::Callers::new(bus.clone());
    let bell = keeper.bell();
    let manager = dbus::Manager::new(handle.clone(), settings, metrics, bell, callers.clone());
    let bus = dbus::connect(&zbus::Address::system()?).await?;
    bus.object_server().at(dbus::MANAGER_PATH, manager).await?;
    let (speaking, heard) = (bus.clone(), handle.clone());
    let publisher = tokio::spawn(async move { dbus::publish(&speaking, &heard, &callers).await });
    bus.request_name(dbus::BUS_NAME).await?;

    let (told, answers) = tokio::sync::oneshot::channel();
    // Another process would be served no differently, and need a program of its own.
    let caller = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let answers = match runtime {
            Ok(runtime) => runtime.block_on(call()),
            Err(error) => Err(error.into()),
        };
        drop(told.send(answers));
    });
    let answers = answers.await?;
    drop(caller.join());
    publisher.abort();
    std::fs::write(file, serde_json::to_vec(&answers?)?)?;
    Ok(())
}

async fn call() -> Result<Answers, Failure> {
    let bus = Connection::system().await?;
    let manager = ManagerProxy::new(&bus).await?;
    let properties = PropertiesProxy::builder(&bus)
        .destination(dbus::BUS_NAME)
        .path(dbus::MANAGER_PATH)
        .build()
        .await?;
    let job = manager.stage("", HashMap::new()).await?;
    let job = JobProxy::builder(&bus).path(job).build().await?;
    let mut finished = job.receive_finished().await?;
    let mut answers = Answers::new();
    let mut time = |name, begun: Instant| {
        let millis = begun.elapsed().as_secs_f64() * 1e3;
        answers.entry(name).or_default().push(millis);
    };
    let interface = zbus::names::InterfaceName::try_from("io.bistable.Updater1.Manager")?;
    loop {
        if let Some(signal) = finished.next().now_or_never() {
            let signal = signal.ok_or("the bus has gone")?;
            let arguments = signal.args()?;
            if *arguments.result() == "done" {
                return Ok(answers);
            }
            return Err(format!("the stage: {}", arguments.message()).into());
        }
        // An answer is one whatever it says: Busy, or that the job is over by now.
        let begun = Instant::now();
        drop(properties.get_all(interface.clone()).await);
        time("GetAll", begun);
        let begun = Instant::now();
        drop(manager.list_slots().await);
        time("ListSlots", begun);
        let begun = Instant::now();
        drop(manager.history(10).await);
        time("History", begun);
        let begun = Instant::now();
        drop(manager.metrics().await);
        time("Metrics", begun);
        let begun = Instant::now();
        drop(manager.stage("", HashMap::new()).await);
        time("Stage", begun);
        let begun = Instant::now();
        drop(job.pause().await);
        time("Pause", begun);
        let begun = Instant::now();
        drop(job.resume().await);
        time("Resume", begun);
        tokio::time::sleep(ROUND).await;
    }
}
