//! The kernel's own announcements of new devices.
//!
//! systemd-udevd does not run in the initramfs, so the messages are the raw
//! ones of `NETLINK_KOBJECT_UEVENT`. Their content is not looked at: each is a
//! reason to look at the disks again, and `/sys` is the truth.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// The multicast group that the kernel itself speaks in; udevd's is 2.
const KERNEL_GROUP: u32 = 1;

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    ByChange,
    ByDeadline,
}

/// Something that tells when it is worth looking again.
pub trait Changes {
    /// Waits until something changed or `deadline` has passed.
    fn wait(&mut self, deadline: Instant) -> io::Result<Woken>;
}

/// A socket that the kernel announces devices on. What happens after
/// [`Uevents::listen`] is not missed, so listen first and look then.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// Starts to listen.
    pub fn listen() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::KOBJECT_UEVENT);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Self { socket })
    }

    /// Takes all waiting messages, so that a burst costs one look at the disks.
    fn drain(&self) -> io::Result<()> {
        let mut message = [0_u8; 4096];
        loop {
            match recv(&self.socket, &mut message, RecvFlags::empty()) {
                // ENOBUFS: messages were lost, which too means that something changed.
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Changes for Uevents {
    fn wait(&mut self, deadline: Instant) -> io::Result<Woken> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Woken::ByDeadline);
            }
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut waiting = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut waiting, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => {
                    self.drain()?;
                    return Ok(Woken::ByChange);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_wait_without_events_ends_at_the_deadline() {
        // A socket without the multicast membership: nothing is ever sent to it.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::KOBJECT_UEVENT);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol).unwrap();
        let mut silent = Uevents { socket };
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(silent.wait(deadline).unwrap(), Woken::ByDeadline);
        assert!(Instant::now() >= deadline);
    }
}
