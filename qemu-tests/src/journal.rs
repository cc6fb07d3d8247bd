//! The node's journal, copied to its second serial port while it is written.
//!
//! The console says that a unit failed, the journal says why; after a failed
//! story, or a node that reset itself, there is nobody left to ask.

use crate::smbios::Handed;

/// The file in the machine's folder that the journal goes to.
pub const LOG: &str = "journal.log";

const UNIT: &str = "[Unit]\nDescription=The journal, for the second serial port\nDefaultDependencies=no\n\
    After=systemd-journald.service systemd-journal-flush.service\nConflicts=shutdown.target\nBefore=shutdown.target\n\
    [Service]\nExecStart=/usr/bin/journalctl --follow --boot --lines=all --output=short-monotonic --no-hostname\n\
    StandardOutput=file:/dev/ttyS1\n";

/// Adds the copying of the journal to what is handed in.
#[must_use]
pub fn hand_in(handed: Handed) -> Handed {
    handed
        .unit("journal-copy.service", UNIT)
        .wanted_by("sysinit.target", "journal-copy.service")
}
