//! All checks of a node, and one round of them.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Client, Url};
use tokio::time::timeout;
use zbus::Connection;

use super::bus::{Bus, BusError, Networkd, Systemd};
use super::configuration::Configuration;
use super::declaration::{Check, Declaration};
use super::gate::{Finding, Importance};
use super::image_check::ImageReading;
use super::look::Look;
use super::network::{self, NetworkMemory};
use super::units::{UnitWatch, look_for_failed, look_for_starting};
use super::updater::{BootedSlot, Standing, Updater};
use super::{command_check, containerd, http_check};

/// How long a built-in check may take.
const BUILT_IN_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the built-in checks look.
#[derive(Debug, Clone)]
pub struct Places {
    /// containerd's socket.
    pub containerd: PathBuf,
    /// The device of the booted image, or why there is none; `None` where it is never read.
    pub image: Option<Result<PathBuf, String>>,
    /// Made when the image has been read in this boot.
    pub image_mark: PathBuf,
    /// What is remembered of the network.
    pub network: NetworkMemory,
    /// The root hash on the kernel command line; empty when there is none.
    pub root_hash: String,
}

/// The checks of a node.
#[derive(Debug)]
pub struct Checks {
    http: Client,
    root_hash: String,
    all: Vec<NamedProbe>,
    /// The check that reads the booted image, until it is among them.
    image: Option<Probe>,
}

/// What one round found.
#[derive(Debug)]
pub struct Round {
    /// By the name of the check.
    pub findings: Vec<(String, Finding)>,
    /// What the updater says, if it does.
    pub booted: Option<BootedSlot>,
}

#[derive(Debug)]
struct NamedProbe {
    name: String,
    importance: Importance,
    timeout: Duration,
    probe: Probe,
}

#[derive(Debug)]
enum Probe {
    FailedUnits,
    StartingUnits,
    Network,
    Containerd(PathBuf),
    Image(ImageReading),
    Unit(UnitWatch),
    Http {
        url: Url,
        status: Option<u16>,
        unit: Option<String>,
    },
    Command {
        argv: Vec<String>,
        unit: Option<String>,
    },
    /// It cannot hold, whatever is looked at.
    Lost(String),
}

impl Checks {
    /// Returns the built-in checks and those of `configuration`.
    pub fn new(configuration: &Configuration, places: Places) -> Result<Self, reqwest::Error> {
        let image = places.image.map(|image| match image {
            Ok(device) => Probe::Image(ImageReading::new(device, places.image_mark)),
            Err(why) => Probe::Lost(why),
        });
        let mut all = vec![
            NamedProbe::built_in("failed-units", Probe::FailedUnits),
            NamedProbe::built_in("starting-units", Probe::StartingUnits),
            NamedProbe {
                importance: places.network.importance(),
                ..NamedProbe::built_in("network", Probe::Network)
            },
            NamedProbe::built_in("containerd-api", Probe::Containerd(places.containerd)),
        ];
        if let Some(mistake) = configuration.mistakes.first() {
            let why = crate::report::Chain(mistake).to_string();
            all.push(NamedProbe::built_in("configuration", Probe::Lost(why)));
        }
        for (name, check) in &configuration.checks {
            all.push(match check {
                Ok(declaration) => NamedProbe::declared(name, declaration),
                Err(mistake) => NamedProbe::built_in(
                    name,
                    Probe::Lost(crate::report::Chain(mistake).to_string()),
                ),
            });
        }
        Ok(Self {
            http: http_check::client()?,
            root_hash: places.root_hash,
            all,
            image,
        })
    }

    /// Has the booted image read from the next round on, which is for a trial. Tells whether it was not before.
    pub fn read_image(&mut self) -> bool {
        let image = self.image.take();
        let is_new = image.is_some();
        self.all
            .extend(image.map(|image| NamedProbe::built_in("image", image)));
        is_new
    }

    /// Looks at everything once, all at the same time.
    pub async fn round(&mut self, bus: &mut Bus) -> Round {
        let connection = bus.connection().await;
        let (http, root_hash) = (&self.http, self.root_hash.as_str());
        let bus = &connection;
        let looks = self.all.iter_mut().map(|named| async move {
            let look = timeout(named.timeout, named.probe.look(bus, http)).await;
            let look = look.unwrap_or_else(|_| {
                Look::ill(format!(
                    "takes longer than {} ms",
                    named.timeout.as_millis()
                ))
            });
            let outcome = look.outcome(&named.name);
            (
                named.name.clone(),
                Finding {
                    importance: named.importance,
                    outcome,
                },
            )
        });
        let (mut findings, asked) =
            tokio::join!(join_all(looks), ask_updater(&connection, root_hash));
        let (look, booted) = asked;
        let outcome = look
            .blaming(Some("bistable-updater.service"))
            .outcome("updater");
        findings.push((
            "updater".to_owned(),
            Finding {
                importance: Importance::Required,
                outcome,
            },
        ));
        Round { findings, booted }
    }
}

/// Looks whether the updater answers, and can read its slots.
async fn ask_updater(
    connection: &Result<Connection, BusError>,
    root_hash: &str,
) -> (Look, Option<BootedSlot>) {
    let connection = match connection {
        Ok(connection) => connection.clone(),
        Err(error) => return (Look::failed(error), None),
    };
    match timeout(BUILT_IN_TIMEOUT, Updater::new(connection).booted_slot()).await {
        Err(_) => (Look::ill("the updater does not answer"), None),
        Ok(Err(error)) => (Look::failed(&error), None),
        Ok(Ok(None)) => (Look::ill("the updater finds no booted slot"), None),
        Ok(Ok(Some(booted))) => (judge_slot(&booted, root_hash), Some(booted)),
    }
}

fn judge_slot(booted: &BootedSlot, root_hash: &str) -> Look {
    if !root_hash.is_empty() && !booted.root_hash.eq_ignore_ascii_case(root_hash) {
        return Look::ill(format!(
            "the updater takes {:?} for the booted image, it is {root_hash}",
            booted.root_hash
        ));
    }
    match &booted.standing {
        Standing::Good | Standing::Trial => Look::Well,
        Standing::Other(word) => {
            Look::ill(format!("the updater says that the booted slot is {word}"))
        }
    }
}

impl NamedProbe {
    fn built_in(name: &str, probe: Probe) -> Self {
        Self {
            name: name.to_owned(),
            importance: Importance::Required,
            timeout: BUILT_IN_TIMEOUT,
            probe,
        }
    }

    fn declared(name: &str, declaration: &Declaration) -> Self {
        let probe = match &declaration.check {
            Check::Unit { unit } => Probe::Unit(UnitWatch::new(unit.clone())),
            Check::Http { url, status, unit } => Probe::Http {
                url: url.clone(),
                status: *status,
                unit: unit.clone(),
            },
            Check::Command { argv, unit } => Probe::Command {
                argv: argv.clone(),
                unit: unit.clone(),
            },
        };
        Self {
            name: name.to_owned(),
            importance: declaration.importance,
            timeout: declaration.timeout,
            probe,
        }
    }
}

impl Probe {
    async fn look(&mut self, bus: &Result<Connection, BusError>, http: &Client) -> Look {
        match self {
            Self::FailedUnits => match bus {
                Ok(bus) => look_for_failed(&Systemd::new(bus.clone())).await,
                Err(error) => Look::failed(error),
            },
            Self::StartingUnits => match bus {
                Ok(bus) => look_for_starting(&Systemd::new(bus.clone())).await,
                Err(error) => Look::failed(error),
            },
            Self::Unit(watch) => match bus {
                Ok(bus) => watch.look(&Systemd::new(bus.clone())).await,
                Err(error) => Look::failed(error),
            },
            Self::Network => match bus {
                Ok(bus) => network::look(&Networkd::new(bus.clone())).await,
                Err(error) => Look::failed(error),
            },
            Self::Containerd(socket) => containerd::look(socket).await,
            Self::Image(reading) => reading.look(),
            Self::Http { url, status, unit } => http_check::look(http, url, *status)
                .await
                .blaming(unit.as_deref()),
            Self::Command { argv, unit } => {
                command_check::look(argv).await.blaming(unit.as_deref())
            }
            Self::Lost(why) => Look::ill(why.clone()),
        }
    }
}
