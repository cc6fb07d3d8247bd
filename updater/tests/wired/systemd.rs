//! What systemd is asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use updater::asker::Asker;
use updater::cli::bus::{JobProxy, ManagerProxy};
use updater::dbus;
use updater::host::Switch;
use updater::metrics::Metrics;
use updater::pace::Rests;
use updater::ports::{Power, Record, Restart};
use updater::scrub::keeper::Bell;
use zbus::{ObjectPath, interface};

use super::bus::{PrivateBus, Stand, answered, settings};
use super::fake::FakeNode;
use super::gate::Daemon;
use super::network::{FakeRepository, image};

/// The two methods of systemd's manager that reboot a machine.
struct Systemd(Arc<Mutex<Vec<String>>>);

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    fn start_unit(&self, name: &str, mode: &str) -> ObjectPath<'static> {
        self.0.lock().unwrap().push(format!("{name} {mode}"));
        ObjectPath::from_static_str_unchecked("/org/freedesktop/systemd1/job/1")
    }

    fn reboot(&self) {
        self.0.lock().unwrap().push("force".to_owned());
    }
}

#[tokio::test]
async fn a_reboot_in_order_stops_services_and_one_at_once_does_not_wait_for_them() {
    let bus = PrivateBus::start();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let systemd = bus.connect().await;
    systemd
        .object_server()
        .at("/org/freedesktop/systemd1", Systemd(asked.clone()))
        .await
        .unwrap();
    systemd
        .request_name("org.freedesktop.systemd1")
        .await
        .unwrap();
    let node = bus.connect().await;
    for (restart, expected) in [
        (Restart::InOrder, "reboot.target replace-irreversibly"),
        (Restart::AtOnce, "force"),
    ] {
        let switch = Switch::new(node.clone());
        // As the hands do: on a thread that may wait.
        tokio::task::spawn_blocking(move || switch.reboot(restart))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(asked.lock().unwrap().pop().as_deref(), Some(expected));
    }
    drop(systemd);
}

/// The method of systemd's manager that knows a process's unit.
struct Units;

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Units {
    #[zbus(name = "GetUnitByPIDFD")]
    fn unit_of(&self, process: zbus::OwnedFd) -> (ObjectPath<'static>, String, Vec<u8>) {
        drop(process);
        let path = "/org/freedesktop/systemd1/unit/fleet_2eservice";
        let path = ObjectPath::from_static_str_unchecked(path);
        (path, "fleet.service".to_owned(), vec![])
    }
}

#[tokio::test]
async fn the_history_names_the_callers_user_and_unit_as_far_as_they_are_known() {
    let image = image("1", 1, 300);
    let node = FakeNode::running(&image.1);
    let barred = |hash: &str| {
        format!(
            r#"{{"root_hash":"{hash}","version":"2","reason":"","when":"2026-05-02T12:00:00Z"}}"#
        )
    };
    let hashes = ["5a", "a5"].map(|byte| byte.repeat(32));
    let list = hashes.each_ref().map(|hash| barred(hash)).join(",");
    node.put_record(Record::Barred, &format!("[{list}]"));
    let bus = PrivateBus::start();
    let daemon = Daemon::start(&node, &FakeRepository::with(&[&image])).await;
    let server = bus.connect().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&daemon.handle, folder.path());
    let metrics = Metrics::new(daemon.handle.clone(), Rests::default());
    let manager = dbus::Manager::new(
        daemon.handle.clone(),
        settings,
        metrics,
        Bell::default(),
        bus.callers().await,
    );
    let objects = server.object_server();
    objects.at(dbus::MANAGER_PATH, manager).await.unwrap();
    server.request_name(dbus::BUS_NAME).await.unwrap();
    let client = bus.connect().await;
    let manager = ManagerProxy::new(&client).await.unwrap();
    for (hash, unit) in hashes.iter().zip([None, Some("fleet.service")]) {
        let systemd = bus.connect().await;
        if unit.is_some() {
            let objects = systemd.object_server();
            objects
                .at("/org/freedesktop/systemd1", Units)
                .await
                .unwrap();
            systemd
                .request_name("org.freedesktop.systemd1")
                .await
                .unwrap();
        }
        manager.forgive(hash).await.unwrap();
        let line = daemon.handle.view().node.history.last().cloned().unwrap();
        let uid = Some(rustix::process::getuid().as_raw());
        let unit = unit.map(str::to_owned);
        assert_eq!(line.by, Some(Asker::Caller { uid, unit }));
    }
    daemon.stop().await;
}

/// The same, and it never answers.
struct Mute;

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Mute {
    #[zbus(name = "GetUnitByPIDFD")]
    async fn unit_of(&self, process: zbus::OwnedFd) -> String {
        drop(process);
        std::future::pending().await
    }
}

#[tokio::test]
async fn no_call_waits_until_it_is_known_who_called() {
    let stand = Stand::new().await;
    let systemd = stand.bus.connect().await;
    let objects = systemd.object_server();
    objects.at("/org/freedesktop/systemd1", Mute).await.unwrap();
    let name = "org.freedesktop.systemd1";
    systemd.request_name(name).await.unwrap();
    stand.node.barrier.close();
    let client = stand.bus.connect().await;
    let path = stand.manager().await.stage("2", HashMap::new()).await;
    let job = JobProxy::builder(&client).path(path.unwrap()).build();
    let job = job.await.unwrap();
    let begun = Instant::now();
    for _ in 0..10 {
        job.pause().await.unwrap();
        job.resume().await.unwrap();
    }
    // Systemd is given 2 s each time.
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    stand.node.barrier.open();
    let mut view = stand.daemon.handle.follow();
    answered(view.wait_for(|view| view.state == "staged"))
        .await
        .unwrap();
    let line = view.borrow().node.history.last().cloned().unwrap();
    let uid = Some(rustix::process::getuid().as_raw());
    assert_eq!(line.by, Some(Asker::Caller { uid, unit: None }));
    stand.stop().await;
}

#[tokio::test]
async fn a_bus_without_systemd_is_told_as_such() {
    let bus = PrivateBus::start();
    let switch = Switch::new(bus.connect().await);
    let error = tokio::task::spawn_blocking(move || switch.reboot(Restart::InOrder))
        .await
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("systemd1"), "{error}");
}
