//! A node to watch: everything real but systemd, the updater and the power.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use init_integration::health::bus::{Bus, BusAddress};
use init_integration::health::checks::{Checks, Places};
use init_integration::health::configuration::Configuration;
use init_integration::health::gate::Policy;
use init_integration::health::network::NetworkMemory;
use init_integration::health::power::LastResort;
use init_integration::health::this_boot::{BootFiles, since_boot};
use init_integration::health::watch::{Ended, Patience, Watch};
use tempfile::TempDir;
use zbus::Connection;

use crate::bus::PrivateBus;
use crate::services::{
    Answers, Call, Networkd, Shared, Systemd, Unit, Updater, serve_containerd, serve_web,
};

pub(crate) const ROOT_HASH: &str = "abcd";

pub(crate) struct Node {
    pub(crate) answers: Shared,
    pub(crate) folder: TempDir,
    bus: Option<PrivateBus>,
    connections: Vec<Connection>,
    /// From now on until the deadline.
    pub(crate) deadline: Duration,
}

/// Writes down that it was asked, and restarts nothing.
struct Remembering(Shared);

impl LastResort for Remembering {
    fn restart(&mut self) -> io::Error {
        self.0.lock().unwrap().calls.push(Call::LastResort);
        io::Error::other("this is a test")
    }
}

impl Node {
    /// Returns a healthy node on trial, whose services all run and whose web server is checked.
    pub(crate) async fn on_trial() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let units = ["web.service", "containerd.service"].map(|unit| {
            (
                unit.to_owned(),
                Unit {
                    active: "active",
                    sub: "running",
                    invocation: 1,
                },
            )
        });
        let answers = Arc::new(Mutex::new(Answers {
            units: BTreeMap::from(units),
            at_work: Vec::new(),
            queued: Vec::new(),
            online_state: "online",
            booted_status: "trial",
            root_hash: ROOT_HASH.to_owned(),
            refusals: Vec::new(),
            grpc_status: "0",
            http_status: 200,
            calls: Vec::new(),
            verdict: folder.path().join("gate/verdict.json"),
        }));
        let mut node = Self {
            answers,
            folder,
            bus: None,
            connections: Vec::new(),
            deadline: Duration::from_secs(20),
        };
        let bus = PrivateBus::start();
        let name = |name: &'static str| {
            zbus::connection::Builder::address(bus.address.as_str()).name(name)
        };
        let systemd = Systemd(Arc::clone(&node.answers));
        let networkd = Networkd(Arc::clone(&node.answers));
        let updater = Updater(Arc::clone(&node.answers));
        node.connections = vec![
            name("org.freedesktop.systemd1")
                .serve_at("/org/freedesktop/systemd1", systemd)
                .build()
                .await
                .unwrap(),
            name("org.freedesktop.network1")
                .serve_at("/org/freedesktop/network1", networkd)
                .build()
                .await
                .unwrap(),
            name("io.bistable.Updater1")
                .serve_at("/io/bistable/Updater1", updater)
                .build()
                .await
                .unwrap(),
        ];
        node.bus = Some(bus);
        serve_containerd(&node.path("containerd.sock"), Arc::clone(&node.answers));
        let url = serve_web(Arc::clone(&node.answers)).await;
        fs::create_dir(node.path("health.d")).unwrap();
        node.declare("web", "kind = 'unit'\nunit = 'web.service'\n");
        node.declare(
            "page",
            &format!("kind = 'http'\nurl = '{url}'\nunit = 'web.service'\n"),
        );
        node.declare("command", "kind = 'command'\nargv = ['/bin/true']\n");
        fs::write(node.path("image"), vec![1; 1 << 20]).unwrap();
        fs::write(node.path("boot_id"), "this-boot\n").unwrap();
        fs::write(node.path("cmdline"), format!("gpt roothash={ROOT_HASH}\n")).unwrap();
        fs::write(node.path("os-release"), "IMAGE_VERSION=2\n").unwrap();
        fs::write(node.path("LoaderBootCountPath"), "").unwrap();
        let journalctl = node.path("journalctl");
        fs::write(&journalctl, "#!/bin/sh\necho starting\necho cannot bind\n").unwrap();
        fs::set_permissions(journalctl, fs::Permissions::from_mode(0o755)).unwrap();
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn declare(&self, name: &str, text: &str) {
        fs::write(self.path("health.d").join(format!("{name}.toml")), text).unwrap();
    }

    pub(crate) fn set_unit(&self, name: &str, active: &'static str) {
        self.set_unit_in(name, active, "made-up");
    }

    pub(crate) fn set_unit_in(&self, name: &str, active: &'static str, sub: &'static str) {
        self.answers.lock().unwrap().units.insert(
            name.to_owned(),
            Unit {
                active,
                sub,
                invocation: 1,
            },
        );
    }

    /// Starts the node anew: of what was there, the disk is left.
    pub(crate) fn boots_again(&self, boot_id: &str) {
        fs::write(self.path("boot_id"), format!("{boot_id}\n")).unwrap();
        for of_one_boot in ["image-read", "settled"] {
            drop(fs::remove_file(self.path(of_one_boot)));
        }
        self.answers.lock().unwrap().calls.clear();
    }

    /// Takes the updater off the bus.
    pub(crate) async fn kill_updater(&mut self) {
        let updater = self.connections.pop().expect("the updater is the last");
        updater.close().await.unwrap();
    }

    /// Takes systemd-networkd off the bus.
    pub(crate) async fn kill_networkd(&mut self) {
        let networkd = self.connections.remove(self.connections.len() - 2);
        networkd.close().await.unwrap();
    }

    /// Ends the bus, and with it the way to everybody.
    pub(crate) fn kill_bus(&mut self) {
        self.connections.clear();
        self.bus = None;
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.answers.lock().unwrap().calls.clone()
    }

    pub(crate) fn verdict(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path("gate/verdict.json")).unwrap()).unwrap()
    }

    pub(crate) fn network(&self) -> NetworkMemory {
        NetworkMemory {
            folder: self.path("gate"),
            pause: Duration::from_millis(20),
        }
    }

    pub(crate) fn connect(&self) -> Bus {
        let address = self.bus.as_ref().map_or_else(
            || format!("unix:path={}", self.path("no-bus").display()),
            |bus| bus.address.clone(),
        );
        Bus::new(BusAddress::At(address))
    }

    /// Returns a gate that has just been started on this node.
    pub(crate) fn gate(&self) -> impl Future<Output = Ended> + use<> {
        let configuration = Configuration::read(&[self.folder.path().to_owned()]);
        let places = Places {
            containerd: self.path("containerd.sock"),
            image: Some(Ok(self.path("image"))),
            image_mark: self.path("image-read"),
            network: self.network(),
            root_hash: ROOT_HASH.to_owned(),
        };
        let watch = Watch {
            bus: self.connect(),
            checks: Checks::new(&configuration, places).unwrap(),
            policy: Policy {
                soak: Duration::from_millis(200),
                deadline: since_boot() + self.deadline,
            },
            patience: Patience {
                trial: Duration::from_millis(20),
                settled: Duration::from_millis(20),
                mark: Duration::from_secs(2),
                restart: Duration::from_millis(50),
            },
            boot_files: BootFiles {
                boot_id: self.path("boot_id"),
                cmdline: self.path("cmdline"),
                os_release: self.path("os-release"),
                boot_count_variable: self.path("LoaderBootCountPath"),
                settled: self.path("settled"),
                trial: self.path("trial.json"),
                uncounted: self.path("uncounted-trial"),
            },
            verdicts: self.path("gate"),
            journalctl: self.path("journalctl"),
            last_resort: Remembering(Arc::clone(&self.answers)),
        };
        watch.run()
    }
}
