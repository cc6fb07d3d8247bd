//! Restarting the machine when the updater cannot.

use std::io;

use rustix::system::{RebootCommand, reboot};

/// The way to restart a machine that is left when nobody answers.
pub trait LastResort {
    /// Restarts at once. Returns only when that is refused.
    fn restart(&mut self) -> io::Error;
}

/// reboot(2): no unit is stopped, but what was written reaches the disk.
#[derive(Debug, Clone, Copy)]
pub struct RebootCall;

impl LastResort for RebootCall {
    fn restart(&mut self) -> io::Error {
        rustix::fs::sync();
        match reboot(RebootCommand::Restart) {
            Ok(()) => io::Error::other("the kernel says that it restarts, and goes on"),
            Err(errno) => errno.into(),
        }
    }
}
