//! What systemd is asked for.

use std::sync::{Arc, Mutex};

use updater::host::Switch;
use updater::ports::{Power, Restart};
use zbus::{ObjectPath, interface};

use super::bus::PrivateBus;

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
