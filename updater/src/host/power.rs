use std::io;

use tokio::runtime::Handle;
use zbus::Connection;

/// Asks systemd to reboot.
#[derive(Debug)]
pub(super) struct Switch {
    bus: Connection,
}

impl Switch {
    pub(super) const fn new(bus: Connection) -> Self {
        Self { bus }
    }

    /// The order goes to systemd and not to logind, which can be inhibited.
    pub(super) fn reboot(&self) -> io::Result<()> {
        let call = self.bus.call_method(
            Some("org.freedesktop.systemd1"),
            "/org/freedesktop/systemd1",
            Some("org.freedesktop.systemd1.Manager"),
            "Reboot",
            &(),
        );
        // The hands have a thread of their own, so this waits for nobody else.
        Handle::current().block_on(call).map_err(io::Error::other)?;
        Ok(())
    }
}
