//! The system bus, and systemd on it.

use std::time::Duration;

use tokio::time::timeout;
use zbus::connection::Builder;
use zbus::fdo::PropertiesProxy;
use zbus::names::InterfaceName;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, proxy};

/// How long connecting may take, and being told that a restart begins. Other calls
/// are bounded by who makes them.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the bus is of no use right now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    #[error("cannot connect to the system bus")]
    Connect { source: zbus::Error },
    #[error("{whom} does not answer within {} s", within.as_secs())]
    Silent {
        whom: &'static str,
        within: Duration,
    },
    #[error("{whom} does not answer as it should")]
    Call {
        whom: &'static str,
        source: zbus::Error,
    },
}

/// Where the bus is.
#[derive(Debug, Clone)]
pub enum BusAddress {
    System,
    /// A bus of its own, as tests have it.
    At(String),
}

/// A connection to the bus, made anew whenever it was lost: a node whose bus was
/// restarted is not thereby sick for ever.
#[derive(Debug)]
pub struct Bus {
    address: BusAddress,
    connection: Option<Connection>,
}

impl Bus {
    /// Returns a bus that is not connected yet.
    pub const fn new(address: BusAddress) -> Self {
        Self {
            address,
            connection: None,
        }
    }

    /// Returns the connection, after making one if there is none.
    pub async fn connection(&mut self) -> Result<Connection, BusError> {
        if let Some(connection) = &self.connection
            && !connection.is_closed()
        {
            return Ok(connection.clone());
        }
        let builder = match &self.address {
            BusAddress::System => Builder::system(),
            BusAddress::At(address) => Builder::address(address.as_str()),
        };
        let connecting = timeout(PATIENCE, builder.build());
        let connection = connecting
            .await
            .map_err(|_| BusError::Silent {
                whom: "the system bus",
                within: PATIENCE,
            })?
            .map_err(|source| BusError::Connect { source })?;
        Ok(self.connection.insert(connection).clone())
    }
}

/// A unit as `ListUnitsByPatterns` has it: name, description, load, active and sub
/// state, followed unit, path, job, job type, job path.
type ListedUnit = (
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

/// A job as `ListJobs` has it: number, unit, type, state, path, the unit's path.
type ListedJob = (
    u32,
    String,
    String,
    String,
    OwnedObjectPath,
    OwnedObjectPath,
);

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    async fn list_units_by_patterns(
        &self,
        states: &[&str],
        patterns: &[&str],
    ) -> zbus::Result<Vec<ListedUnit>>;
    async fn list_jobs(&self) -> zbus::Result<Vec<ListedJob>>;
    async fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    async fn reboot(&self) -> zbus::Result<()>;
}

/// A unit that systemd lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedState {
    pub unit: String,
    pub active: String,
    pub sub: String,
}

/// How a unit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    pub active: String,
    pub sub: String,
    /// Which of its runs this is; empty when there was none.
    pub invocation: Vec<u8>,
}

/// systemd.
#[derive(Debug, Clone)]
pub struct Systemd {
    connection: Connection,
}

impl Systemd {
    /// Returns the systemd on `connection`.
    pub const fn new(connection: Connection) -> Self {
        Self { connection }
    }

    async fn manager(&self) -> zbus::Result<ManagerProxy<'_>> {
        ManagerProxy::new(&self.connection).await
    }

    /// Returns the units that are in one of `states`, sorted by name.
    pub async fn units_in(&self, states: &[&str]) -> Result<Vec<ListedState>, BusError> {
        let ask = async {
            self.manager()
                .await?
                .list_units_by_patterns(states, &[])
                .await
        };
        let listed = ask.await.map_err(of_systemd)?;
        let mut units: Vec<ListedState> = listed
            .into_iter()
            .map(|listed| ListedState {
                unit: listed.0,
                active: listed.3,
                sub: listed.4,
            })
            .collect();
        units.sort_by(|one, other| one.unit.cmp(&other.unit));
        Ok(units)
    }

    /// Returns the units whose job is at work, sorted; not those whose job waits for another one.
    pub async fn units_at_work(&self) -> Result<Vec<String>, BusError> {
        let ask = async { self.manager().await?.list_jobs().await };
        let jobs = ask.await.map_err(of_systemd)?;
        let at_work = jobs.into_iter().filter(|job| job.3 == "running");
        let mut units: Vec<String> = at_work.map(|job| job.1).collect();
        units.sort();
        Ok(units)
    }

    /// Returns how `unit` stands. A unit that does not exist is inactive.
    pub async fn unit(&self, unit: &str) -> Result<UnitState, BusError> {
        self.read_unit(unit).await.map_err(of_systemd)
    }

    async fn read_unit(&self, unit: &str) -> zbus::Result<UnitState> {
        let path = self.manager().await?.load_unit(unit).await?;
        let properties = PropertiesProxy::builder(&self.connection)
            .destination("org.freedesktop.systemd1")
            .path(path)
            .build()
            .await?;
        let interface = InterfaceName::from_static_str("org.freedesktop.systemd1.Unit")?;
        let get = async |name| -> zbus::Result<OwnedVariant> {
            Ok(properties.get(interface.clone(), name).await?)
        };
        Ok(UnitState {
            active: get("ActiveState").await?.try_into()?,
            sub: get("SubState").await?.try_into()?,
            invocation: get("InvocationID").await?.try_into()?,
        })
    }

    /// Asks for an orderly restart of the machine. It has only begun on return.
    pub async fn restart_machine(&self) -> Result<(), BusError> {
        let ask = async { self.manager().await?.reboot().await };
        match timeout(PATIENCE, ask).await {
            Ok(answer) => answer.map_err(of_systemd),
            Err(_) => Err(BusError::Silent {
                whom: "systemd",
                within: PATIENCE,
            }),
        }
    }
}

/// Asks for properties of systemd-networkd, and never starts it: a network that
/// only our asking brings up is none.
#[proxy(
    interface = "org.freedesktop.DBus.Properties",
    default_service = "org.freedesktop.network1",
    default_path = "/org/freedesktop/network1"
)]
trait NetworkProperties {
    #[zbus(no_autostart)]
    async fn get(&self, interface: &str, name: &str) -> zbus::Result<OwnedVariant>;
}

/// systemd-networkd.
#[derive(Debug, Clone)]
pub struct Networkd {
    connection: Connection,
}

impl Networkd {
    /// Returns the systemd-networkd on `connection`.
    pub const fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Returns whether the links that it was told to bring up are up: `online`, `partial`,
    /// `offline`, or nothing when there are none.
    pub async fn online_state(&self) -> Result<String, BusError> {
        let ask = async {
            let properties = NetworkPropertiesProxy::new(&self.connection).await?;
            let interface = "org.freedesktop.network1.Manager";
            let state = properties.get(interface, "OnlineState").await?;
            String::try_from(state)
        };
        ask.await.map_err(|source| BusError::Call {
            whom: "systemd-networkd",
            source,
        })
    }
}

const fn of_systemd(source: zbus::Error) -> BusError {
    BusError::Call {
        whom: "systemd",
        source,
    }
}

impl BusError {
    /// Whether the other side refused, rather than being out of reach.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Call {
                source: zbus::Error::MethodError(name, _, _),
                ..
            } => Some(name.as_str()),
            Self::Call { .. } | Self::Connect { .. } | Self::Silent { .. } => None,
        }
    }
}
