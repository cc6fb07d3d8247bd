//! Who calls: what the history keeps of it. It grants no rights; the bus has
//! done that by its own rules.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use zbus::fdo::DBusProxy;
use zbus::message::Header;
use zbus::names::{BusName, OwnedUniqueName};
use zbus::{Connection, Fd, OwnedObjectPath};

use crate::asker::{Asker, Asking};

/// The bus and systemd answer within a millisecond or so, and within a second on a machine
/// with other work. Where one does not, the line in the history is shorter.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many callers are looked up at once: one job is at work at a time, and who else calls
/// is refused and not looked up any further.
const PLACES: usize = 8;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Looks up who calls, over a connection of its own: the answers come while nobody is let
/// in at the other one.
#[derive(Debug, Clone)]
pub struct Callers {
    bus: Connection,
    places: Arc<Semaphore>,
}

impl Callers {
    /// Asks `bus`.
    pub fn new(bus: Connection) -> Self {
        Self {
            bus,
            places: Arc::new(Semaphore::new(PLACES)),
        }
    }

    /// Begins to look up who sent the message with this header; whoever wants to know may
    /// wait for it.
    pub(super) fn look_up(&self, header: &Header<'_>) -> Asking {
        let (learned, learning) = watch::channel(None);
        let place = Arc::clone(&self.places).try_acquire_owned();
        if let (Ok(place), Some(sender)) = (place, header.sender()) {
            let bus = self.bus.clone();
            let sender = OwnedUniqueName::from(sender.to_owned());
            tokio::spawn(async move {
                tokio::select! {
                    // Nobody wants to know it any more: the place is another's.
                    () = learned.closed() => {}
                    caller = caller(&bus, sender) => drop(learned.send_replace(Some(caller))),
                }
                drop(place);
            });
        }
        Asking::LookedUp(learning)
    }
}

async fn caller(bus: &Connection, sender: OwnedUniqueName) -> Asker {
    let (uid, process) = match timeout(PATIENCE, credentials(bus, sender)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the bus does not tell who calls");
            (None, None)
        }
        Err(_) => (None, None),
    };
    let unit = match process {
        None => None,
        Some(process) => match timeout(PATIENCE, unit_of(bus, &process)).await {
            Ok(Ok(unit)) => Some(unit),
            Ok(Err(error)) => {
                tracing::debug!(%error, "systemd does not tell the caller's unit");
                None
            }
            Err(_) => None,
        },
    };
    Asker::Caller { uid, unit }
}

async fn credentials(
    bus: &Connection,
    sender: OwnedUniqueName,
) -> zbus::Result<(Option<u32>, Option<OwnedFd>)> {
    let known = DBusProxy::new(bus)
        .await?
        .get_connection_credentials(BusName::from(sender))
        .await?;
    let (uid, number) = (known.unix_user_id(), known.process_id());
    let process = known.into_process_fd().map(OwnedFd::from);
    // Older buses only tell its number.
    Ok((uid, process.or_else(|| open(number?))))
}

fn open(number: u32) -> Option<OwnedFd> {
    let process = Pid::from_raw(i32::try_from(number).ok()?)?;
    pidfd_open(process, PidfdFlags::empty()).ok()
}

/// Asks by the process itself, not by its number, which may be another's by now.
async fn unit_of(bus: &Connection, process: &impl AsFd) -> zbus::Result<String> {
    let process = Fd::from(process.as_fd());
    let (name, manager) = (Some(SYSTEMD), Some(MANAGER));
    let answer = bus
        .call_method(name, MANAGER_PATH, manager, "GetUnitByPIDFD", &process)
        .await?;
    let (_path, unit, _invocation): (OwnedObjectPath, String, Vec<u8>) =
        answer.body().deserialize()?;
    Ok(unit)
}
