//! The node's own D-Bus, from outside.
//!
//! A socket unit and `systemd-socket-proxyd`, both handed in through the
//! firmware, stand in front of the node's system bus. The proxy runs as root,
//! so the bus takes the caller for root; nothing of this is in the image.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use zbus::connection::AuthMechanism;
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Proxy, Variant, connection};

use crate::deadline::{Deadline, Look};
use crate::json;
use crate::smbios::Handed;

/// The node's port behind which its bus is.
pub(crate) const BUSWAY_PORT: u16 = 7411;

/// How long one attempt to connect may take: QEMU accepts at once, on behalf
/// of a node that may not even have a network yet, and what it then sends
/// into the void is lost. A new attempt is cheaper than a long one.
const ATTEMPT: Duration = Duration::from_secs(4);

/// How long a method may take to answer: the daemon promises at once, an
/// emulated node under load is slow to keep that.
const METHOD: Duration = Duration::from_secs(60);

const UPDATER: &str = "io.bistable.Updater1";
const UPDATER_PATH: &str = "/io/bistable/Updater1";
const MANAGER: &str = "io.bistable.Updater1.Manager";
const JOB: &str = "io.bistable.Updater1.Job";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const SYSTEMD_PATH: &str = "/org/freedesktop/systemd1";
const SYSTEMD_MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Adds the way in to the node's bus to what is handed in.
#[must_use]
pub fn hand_in(handed: Handed) -> Handed {
    let socket = format!(
        "[Unit]\nDescription=The way in to the node's D-Bus\n\
         [Socket]\nListenStream=0.0.0.0:{BUSWAY_PORT}\n"
    );
    let service = "[Unit]\nDescription=The way in to the node's D-Bus\nRequires=dbus.socket\nAfter=dbus.socket\n\
         [Service]\nExecStart=/usr/lib/systemd/systemd-socket-proxyd /run/dbus/system_bus_socket\n";
    handed
        .unit("busway.socket", &socket)
        .unit("busway.service", service)
        .wanted_by("sockets.target", "busway.socket")
}

/// A connection to the node's system bus, as root.
#[derive(Clone, Debug)]
pub struct Bus {
    connection: Connection,
}

/// A method that was refused with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The last part of the error's name, such as `Barred`.
    pub name: String,
    /// What it says to people.
    pub message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.name, self.message)
    }
}

impl std::error::Error for Refused {}

/// The updater's properties.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Updater {
    /// What it does.
    pub state: String,
    /// The slot that the root stands on.
    pub booted_slot: String,
    /// The version that is booted.
    pub booted_version: String,
    /// The root hash that is booted.
    pub booted_root_hash: String,
    /// The version that the next boot tries.
    pub staged_version: String,
    /// The channel's version, when it differs from the booted one.
    pub available_version: String,
    /// The oldest version taken.
    pub floor: String,
    /// Name and message of the last failed job.
    pub last_error: (String, String),
    /// Why the node does nothing by itself now, in a word; empty when it would.
    pub held: String,
    /// Why the node last left a trial.
    pub last_rollback: Rollback,
}

/// Why a trial ended badly; all empty when none ever did.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rollback {
    /// `trial`, or `gave-way`.
    pub kind: String,
    /// The release that failed.
    pub version: String,
    /// Its root hash.
    pub root_hash: String,
    /// The check that failed.
    pub check: String,
    /// The unit that failed.
    pub unit: String,
    /// What happened, for people.
    pub reason: String,
    /// Why the kernel panicked, in its own words.
    pub panic: String,
    /// The last lines of the journal, or of the log of a kernel that panicked.
    pub lines: Vec<String>,
    /// How often it was tried.
    pub tries: u32,
}

/// One slot, as the updater sees it.
#[derive(Clone, Debug, Deserialize)]
pub struct SlotReport {
    /// `A` or `B`.
    pub slot: String,
    /// Whether the root stands on it.
    pub booted: bool,
    /// The version that it holds.
    pub version: String,
    /// The root hash that it holds.
    pub root_hash: String,
    /// `good`, `trial`, `armed`, `bad`, `empty`, `demoted` or `unknown`.
    pub status: String,
    /// How many starts its boot entry has left, if it counts them.
    pub tries_left: u32,
}

/// A job, at one moment.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct JobReport {
    /// The release that it is about.
    pub version: String,
    /// The step at work.
    pub phase: String,
    /// Work done.
    pub bytes_done: u64,
    /// All work.
    pub bytes_total: u64,
    /// Whether it is held still.
    pub paused: bool,
    /// Empty while it runs; then `done`, `failed` or `cancelled`.
    pub result: String,
    /// Name and message of what failed.
    pub error: (String, String),
}

impl JobReport {
    /// Says whether all work is said to be done.
    pub fn at_100_percent(&self) -> bool {
        self.bytes_total > 0 && self.bytes_done == self.bytes_total
    }

    /// Says whether `percent` of the work is done.
    pub fn reached(&self, percent: u64) -> bool {
        self.bytes_total > 0
            && self.bytes_done.saturating_mul(100) >= self.bytes_total.saturating_mul(percent)
    }
}

/// How to stage.
#[derive(Clone, Copy, Debug, Default)]
pub struct StageOptions {
    /// How many trials it gets; the node's own number when absent.
    pub tries: Option<u32>,
}

impl Bus {
    /// Connects to the bus behind the host's `port`, trying again until the deadline.
    ///
    /// # Errors
    ///
    /// Fails at the deadline, with what the last attempt met.
    pub async fn connect(port: u16, deadline: Deadline) -> Result<Self> {
        deadline
            .until("the node's D-Bus", async || {
                Ok(
                    match tokio::time::timeout(ATTEMPT, Self::attempt(port)).await {
                        Ok(Ok(connection)) => Look::Found(Self { connection }),
                        Ok(Err(error)) => Look::NotYet(format!("{error:#}")),
                        Err(_elapsed) => Look::NotYet("the node does not answer".into()),
                    },
                )
            })
            .await
    }

    async fn attempt(port: u16) -> Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?.into_std()?;
        stream.set_nodelay(true)?;
        // What the bus goes by is the proxy's user; the name given must be the same one.
        Ok(connection::Builder::tcp_stream(stream)
            .auth_mechanism(AuthMechanism::External)
            .user_id(0)
            .method_timeout(METHOD)
            .build()
            .await?)
    }

    /// Returns the updater's properties.
    ///
    /// # Errors
    ///
    /// Fails when the updater does not answer.
    pub async fn updater(&self) -> Result<Updater> {
        self.properties(UPDATER, UPDATER_PATH, MANAGER).await
    }

    /// Waits until the updater is in `state`.
    ///
    /// # Errors
    ///
    /// Fails at the deadline, with the state that it is in.
    pub async fn in_state(&self, state: &str, deadline: Deadline) -> Result<Updater> {
        deadline
            .until(format_args!("the updater to be {state}"), async || {
                let updater = self.updater().await?;
                Ok(if updater.state == state {
                    Look::Found(updater)
                } else {
                    Look::NotYet(format!("it is {}", updater.state))
                })
            })
            .await
    }

    /// Returns both slots, A first.
    ///
    /// # Errors
    ///
    /// Fails when the updater does not answer.
    pub async fn slots(&self) -> Result<[SlotReport; 2]> {
        let slots: Vec<SlotReport> = self.list("ListSlots", &()).await?;
        slots
            .try_into()
            .map_err(|slots: Vec<_>| anyhow!("{} slots", slots.len()))
    }

    /// Returns what happened to the node, newest first.
    ///
    /// # Errors
    ///
    /// Fails when the updater does not answer.
    pub async fn history(&self) -> Result<Vec<Value>> {
        self.list("History", &0u32).await
    }

    /// Returns the images that failed here.
    ///
    /// # Errors
    ///
    /// Fails when the updater does not answer.
    pub async fn barred(&self) -> Result<Vec<Value>> {
        self.list("ListBarred", &()).await
    }

    /// Asks for `version`, or for what the channel names when that is empty.
    ///
    /// # Errors
    ///
    /// Fails with [`Refused`] when the updater does not take the order.
    pub async fn stage(&self, version: &str, options: StageOptions) -> Result<Job<'_>> {
        let mut dict: HashMap<&str, Variant<'_>> = HashMap::new();
        if let Some(tries) = options.tries {
            dict.insert("tries", tries.into());
        }
        let path: OwnedObjectPath = self.manager("Stage", &(version, dict)).await?;
        Ok(Job { bus: self, path })
    }

    /// Asks what the channel offers.
    ///
    /// # Errors
    ///
    /// Fails with [`Refused`] when the updater does not take the order.
    pub async fn check_for_update(&self) -> Result<Job<'_>> {
        let path: OwnedObjectPath = self.manager("CheckForUpdate", &()).await?;
        Ok(Job { bus: self, path })
    }

    /// Has the node do what its settings allow it to do by itself now, and returns that.
    ///
    /// # Errors
    ///
    /// Fails when the updater does not answer.
    pub async fn proceed(&self) -> Result<String> {
        self.manager("Proceed", &()).await
    }

    /// Asks for a reboot.
    ///
    /// # Errors
    ///
    /// Fails with [`Refused`] when the updater does not take the order.
    pub async fn reboot(&self) -> Result<()> {
        match self.manager::<_, ()>("Reboot", &()).await {
            // The node may be gone before its answer is out.
            Err(error) if error.downcast_ref::<Refused>().is_none() => Ok(()),
            other => other,
        }
    }

    /// Asks for the other slot, because of `reason`.
    ///
    /// # Errors
    ///
    /// Fails with [`Refused`] when the updater does not take the order.
    pub async fn roll_back(&self, reason: &str) -> Result<Job<'_>> {
        let path: OwnedObjectPath = self.manager("Rollback", &reason).await?;
        Ok(Job { bus: self, path })
    }

    /// Has the images in both slots read through.
    ///
    /// # Errors
    ///
    /// Fails with [`Refused`] when the booted slot is not good.
    pub async fn scrub(&self) -> Result<()> {
        self.manager("Scrub", &()).await
    }

    /// Waits until no start job is left, and returns the units that failed.
    ///
    /// # Errors
    ///
    /// Fails when the node is still starting at the deadline.
    pub async fn failed_units_once_started(&self, deadline: Deadline) -> Result<Vec<String>> {
        let systemd = self.proxy(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER).await?;
        deadline
            .until("all units to have started", async || {
                let state: String = systemd.get_property("SystemState").await?;
                Ok(match state.as_str() {
                    "running" | "degraded" => Look::Found(()),
                    _ => Look::NotYet(format!(
                        "the system is {state}; waiting: {}",
                        self.waiting_jobs().await?.join(", ")
                    )),
                })
            })
            .await?;
        let (states, patterns): (Vec<&str>, Vec<&str>) = (vec!["failed"], vec![]);
        let units: Vec<UnitRow> = systemd
            .call("ListUnitsByPatterns", &(states, patterns))
            .await?;
        Ok(units.into_iter().map(|unit| unit.0).collect())
    }

    /// Returns the units that systemd has a job for.
    async fn waiting_jobs(&self) -> Result<Vec<String>> {
        let systemd = self.proxy(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER).await?;
        let jobs: Vec<JobRow> = systemd.call("ListJobs", &()).await?;
        Ok(jobs.into_iter().map(|job| job.1).collect())
    }

    /// Returns the properties of a unit, those of `interface`: `Unit`, `Service` …
    ///
    /// # Errors
    ///
    /// Fails when there is no such unit.
    pub async fn unit(&self, name: &str, interface: &str) -> Result<Value> {
        let systemd = self.proxy(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER).await?;
        let path: OwnedObjectPath = systemd.call("LoadUnit", &name).await?;
        self.properties(
            SYSTEMD,
            path.as_str(),
            &format!("org.freedesktop.systemd1.{interface}"),
        )
        .await
    }

    /// Waits until a unit that is to remain after it has exited has run well.
    ///
    /// Without `RemainAfterExit=` systemd would forget the unit as soon as it ends.
    ///
    /// # Errors
    ///
    /// Fails when the unit fails, or has not run at the deadline.
    pub async fn unit_has_run(&self, name: &str, deadline: Deadline) -> Result<()> {
        deadline
            .until(format_args!("{name} to run"), async || {
                let unit = self.unit(name, "Unit").await?;
                let state = unit
                    .get("ActiveState")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if state == "failed" {
                    let service = self.unit(name, "Service").await?;
                    bail!(
                        "{name} failed: {:?}",
                        service.get("Result").and_then(Value::as_str)
                    );
                }
                Ok(if state == "active" {
                    Look::Found(())
                } else {
                    Look::NotYet(format!("it is {state}"))
                })
            })
            .await
    }

    /// Returns the process number of a service's main process, 0 when it does not run.
    ///
    /// # Errors
    ///
    /// Fails when there is no such service.
    pub async fn main_process(&self, name: &str) -> Result<u64> {
        let service = self.unit(name, "Service").await?;
        service
            .get("MainPID")
            .and_then(Value::as_u64)
            .with_context(|| format!("{name} has no main process"))
    }

    /// Sends a signal to a service's main process.
    ///
    /// # Errors
    ///
    /// Fails when there is no such process.
    pub async fn kill_main_process(&self, name: &str, signal: i32) -> Result<()> {
        let systemd = self.proxy(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER).await?;
        let () = systemd.call("KillUnit", &(name, "main", signal)).await?;
        Ok(())
    }

    /// Starts a unit.
    ///
    /// # Errors
    ///
    /// Fails when systemd refuses.
    pub async fn start_unit(&self, name: &str) -> Result<()> {
        let systemd = self.proxy(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER).await?;
        let _job: OwnedObjectPath = systemd.call("StartUnit", &(name, "replace")).await?;
        Ok(())
    }

    /// Asks systemd to switch the node off.
    pub(crate) async fn power_off(&self) -> Result<()> {
        let systemd = self.proxy(SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER).await?;
        // A unit's job can be refused; the method of that name would skip the orderly shutdown.
        let _job: OwnedObjectPath = systemd
            .call("StartUnit", &("poweroff.target", "replace-irreversibly"))
            .await?;
        Ok(())
    }

    async fn proxy<'a>(
        &self,
        service: &'a str,
        path: &'a str,
        interface: &'a str,
    ) -> Result<Proxy<'a>> {
        Ok(zbus::proxy::Builder::<Proxy<'_>>::new(&self.connection)
            .destination(service)
            .path(path)
            .interface(interface)
            .cache_properties(CacheProperties::No)
            .build()
            .await?)
    }

    async fn properties<T: DeserializeOwned>(
        &self,
        service: &str,
        path: &str,
        interface: &str,
    ) -> Result<T> {
        let properties = self
            .proxy(service, path, "org.freedesktop.DBus.Properties")
            .await?;
        let all: HashMap<String, OwnedVariant> = properties
            .call("GetAll", &interface)
            .await
            .map_err(named)
            .with_context(|| format!("cannot read {interface} of {path}"))?;
        let object: Value = all
            .iter()
            .map(|(name, value)| (name.clone(), json::of(value)))
            .collect();
        serde_json::from_value(object.clone())
            .with_context(|| format!("{interface} of {path} is {object}"))
    }

    async fn list<B, T>(&self, method: &str, body: &B) -> Result<Vec<T>>
    where
        B: serde::Serialize + zbus::DynamicType,
        T: DeserializeOwned,
    {
        let rows: Vec<HashMap<String, OwnedVariant>> = self.manager(method, body).await?;
        let rows = rows.iter().map(|row| {
            let object: Value = row
                .iter()
                .map(|(name, value)| (name.clone(), json::of(value)))
                .collect();
            serde_json::from_value(object.clone())
                .with_context(|| format!("{method} returned {object}"))
        });
        rows.collect()
    }

    async fn manager<B, R>(&self, method: &str, body: &B) -> Result<R>
    where
        B: serde::Serialize + zbus::DynamicType,
        R: for<'d> zbus::wire::DynamicDeserialize<'d>,
    {
        let manager = self.proxy(UPDATER, UPDATER_PATH, MANAGER).await?;
        manager
            .call(method, body)
            .await
            .map_err(named)
            .with_context(|| format!("{method} failed"))
    }
}

/// A row of systemd's `ListUnitsByPatterns`; the first field is the unit's name.
type UnitRow = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// A row of systemd's `ListJobs`; the second field is the unit's name.
type JobRow = (
    u32,
    String,
    String,
    String,
    OwnedObjectPath,
    OwnedObjectPath,
);

/// Turns an error with one of our names into [`Refused`].
fn named(error: zbus::Error) -> anyhow::Error {
    if let zbus::Error::MethodError(name, message, _) = &error
        && let Some(name) = name.as_str().strip_prefix("io.bistable.Error.")
    {
        return Refused {
            name: name.into(),
            message: message.clone().unwrap_or_default(),
        }
        .into();
    }
    error.into()
}

/// Returns the name with which `result` was refused.
///
/// # Errors
///
/// Fails when it was not refused, or failed in another way.
pub fn refusal<T>(result: Result<T>) -> Result<Refused> {
    match result {
        Ok(_) => bail!("it was not refused"),
        Err(error) => error.downcast::<Refused>(),
    }
}

/// A job of the updater.
#[derive(Debug)]
pub struct Job<'a> {
    bus: &'a Bus,
    path: OwnedObjectPath,
}

impl Job<'_> {
    /// Reads the job as it is now.
    ///
    /// # Errors
    ///
    /// Fails when the updater does not answer.
    pub async fn report(&self) -> Result<JobReport> {
        self.bus.properties(UPDATER, self.path.as_str(), JOB).await
    }

    /// Waits until `enough` says so or the job has ended; returns it as it is then.
    ///
    /// # Errors
    ///
    /// Fails at the deadline, or when the updater does not answer.
    pub async fn until(
        &self,
        deadline: Deadline,
        mut enough: impl AsyncFnMut(&JobReport) -> Result<bool>,
    ) -> Result<JobReport> {
        deadline
            .until(format_args!("the job {}", self.path.as_str()), async || {
                let report = self.report().await?;
                Ok(if enough(&report).await? || !report.result.is_empty() {
                    Look::Found(report)
                } else {
                    Look::NotYet(format!(
                        "{} of {} bytes, {}",
                        report.bytes_done, report.bytes_total, report.phase
                    ))
                })
            })
            .await
    }

    /// Waits until the job has ended.
    ///
    /// # Errors
    ///
    /// Fails at the deadline, or when the updater does not answer.
    pub async fn ended(&self, deadline: Deadline) -> Result<JobReport> {
        self.until(deadline, async |_| Ok(false)).await
    }
}
