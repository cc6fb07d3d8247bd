use std::io;

use tokio::runtime::Handle;
use zbus::{Connection, Message};

use crate::ports::{Power, Restart};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// What `systemctl reboot` gives: nothing that is started later undoes it.
const NO_WAY_BACK: &str = "replace-irreversibly";

/// Asks systemd to reboot. The orders go to systemd and not to logind, which
/// can be inhibited.
#[derive(Debug)]
pub struct Switch {
    bus: Connection,
}

impl Switch {
    /// Speaks to the systemd that is on `bus`.
    pub const fn new(bus: Connection) -> Self {
        Self { bus }
    }

    async fn ask(&self, restart: Restart) -> zbus::Result<Message> {
        let (name, path, manager) = (Some(SYSTEMD), MANAGER_PATH, Some(MANAGER));
        match restart {
            Restart::InOrder => {
                let unit = ("reboot.target", NO_WAY_BACK);
                self.bus
                    .call_method(name, path, manager, "StartUnit", &unit)
                    .await
            }
            // `systemctl --force reboot`: processes are killed, file systems
            // unmounted, and no service's stop commands run.
            Restart::AtOnce => {
                self.bus
                    .call_method(name, path, manager, "Reboot", &())
                    .await
            }
        }
    }
}

impl Power for Switch {
    fn reboot(&self, restart: Restart) -> io::Result<()> {
        // The hands have a thread of their own, so this waits for nobody else.
        Handle::current()
            .block_on(self.ask(restart))
            .map_err(io::Error::other)?;
        Ok(())
    }
}
