//! The updater's daemon, which alone changes what a slot is.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use zbus::{Connection, OwnedVariant, Variant, proxy};

use super::bus::BusError;
use super::gate::Failure;

const BUSY: &str = "io.bistable.Error.Busy";
const NOT_IN_TRIAL: &str = "io.bistable.Error.NotInTrial";
const NOTHING_ELSE_BOOTS: &str = "io.bistable.Error.NothingElseBoots";

/// How long a daemon that is busy with another slot change is asked again. Such
/// a change takes a fraction of a second.
const RETRY: Duration = Duration::from_millis(250);

#[proxy(
    interface = "io.bistable.Updater1.Manager",
    default_service = "io.bistable.Updater1",
    default_path = "/io/bistable/Updater1"
)]
trait Manager {
    async fn list_slots(&self) -> zbus::Result<Vec<HashMap<String, OwnedVariant>>>;
    async fn mark_good(&self) -> zbus::Result<()>;
    async fn mark_bad(&self, reason: &str, details: HashMap<&str, Variant<'_>>)
    -> zbus::Result<()>;
}

/// What the daemon says of the slot that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootedSlot {
    pub root_hash: String,
    pub standing: Standing,
}

/// How the booted slot stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Good,
    Trial,
    /// Anything else, in the daemon's word for it.
    Other(String),
}

/// What came of asking the daemon to give the booted slot up.
#[derive(Debug)]
pub(super) enum MarkedBad {
    /// It is disarmed, and the daemon restarts the machine.
    Done,
    /// It is not on trial: it was good all the time, or has been given up before.
    NotInTrial,
    /// It is bad, and the machine is not restarted, as nothing else would start.
    NothingElseBoots,
    /// There was no answer, or the daemon could not do it.
    Failed(BusError),
}

/// The daemon.
#[derive(Debug, Clone)]
pub(super) struct Updater {
    connection: Connection,
}

impl Updater {
    /// Returns the daemon on `connection`.
    pub(super) const fn new(connection: Connection) -> Self {
        Self { connection }
    }

    async fn manager(&self) -> zbus::Result<ManagerProxy<'_>> {
        ManagerProxy::new(&self.connection).await
    }

    /// Returns the booted one of the daemon's slots; none when it knows of none.
    pub(super) async fn booted_slot(&self) -> Result<Option<BootedSlot>, BusError> {
        let ask = async { self.manager().await?.list_slots().await };
        let slots = ask.await.map_err(of_updater)?;
        let is_booted = |slot: &&HashMap<String, OwnedVariant>| {
            slot.get("booted")
                .is_some_and(|booted| bool::try_from(booted).is_ok_and(|booted| booted))
        };
        Ok(slots.iter().find(is_booted).map(|slot| BootedSlot {
            root_hash: text(slot, "root_hash"),
            standing: match text(slot, "status").as_str() {
                "good" => Standing::Good,
                "trial" => Standing::Trial,
                other => Standing::Other(other.to_owned()),
            },
        }))
    }

    /// Makes the booted slot good, within `patience`.
    pub(super) async fn mark_good(&self, patience: Duration) -> Result<(), BusError> {
        self.insist(patience, async |manager| manager.mark_good().await)
            .await
    }

    /// Gives the booted slot up, within `patience`.
    pub(super) async fn mark_bad(&self, failure: &Failure, patience: Duration) -> MarkedBad {
        let outcome = self
            .insist(patience, async |manager| {
                let unit = failure.unit.as_deref().unwrap_or_default();
                let details = HashMap::from([
                    ("check", Variant::from(failure.check.as_str())),
                    ("unit", Variant::from(unit)),
                    ("lines", Variant::from(failure.lines.clone())),
                ]);
                manager.mark_bad(&failure.reason, details).await
            })
            .await;
        match outcome {
            Ok(()) => MarkedBad::Done,
            Err(error) if error.name() == Some(NOT_IN_TRIAL) => MarkedBad::NotInTrial,
            Err(error) if error.name() == Some(NOTHING_ELSE_BOOTS) => MarkedBad::NothingElseBoots,
            Err(error) => MarkedBad::Failed(error),
        }
    }

    /// Calls, and calls again while the daemon is busy with another slot change.
    async fn insist(
        &self,
        patience: Duration,
        call: impl AsyncFn(&ManagerProxy<'_>) -> zbus::Result<()>,
    ) -> Result<(), BusError> {
        let deadline = Instant::now() + patience;
        loop {
            let attempt = async { call(&self.manager().await?).await };
            let outcome = timeout_at(deadline, attempt)
                .await
                .map_err(|_| BusError::Silent {
                    whom: "the updater",
                    within: patience,
                })?;
            match outcome.map_err(of_updater) {
                Err(error) if error.name() == Some(BUSY) && Instant::now() + RETRY < deadline => {
                    sleep(RETRY).await
                }
                outcome => return outcome,
            }
        }
    }
}

const fn of_updater(source: zbus::Error) -> BusError {
    BusError::Call {
        whom: "the updater",
        source,
    }
}

fn text(slot: &HashMap<String, OwnedVariant>, key: &str) -> String {
    slot.get(key)
        .and_then(|value| <&str>::try_from(value).ok())
        .unwrap_or_default()
        .to_owned()
}
