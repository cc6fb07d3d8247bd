//! What ties Bistable to the two ends of systemd's boot: PID 1 of the
//! initramfs, and the health gate that ends a trial.
//!
//! # PID 1, `bistable-init`
//!
//! It owns the way from the kernel to systemd: modules, the watchdog,
//! the two partitions that the root hash names, dm-verity, the switch of roots.
//! It refuses to own policy (which slot: the boot loader decided), repairs
//! (the updater's, but for one: [`torn_count`]) and anything that needs a network.
//!
//! - It never opens an unverified root: the only device it mounts is the
//!   device-mapper device it made from the root hash of the signed command line.
//! - It never waits without a deadline, never panics, never returns. What it cannot
//!   do is told on the console with its whole cause, and the kernel panics: it keeps what was told
//!   in the firmware, and restarts after `panic=` seconds, so that failures do not follow each other
//!   too fast. The boot loader has counted the try, so the other slot gets its turn.
//!
//! **What watches what.** Before PID 1 has loaded the driver of a watchdog and opened
//! it, nothing watches: a hang in the firmware, the boot loader, the kernel's start
//! or in a driver's module hangs the machine until somebody resets it, unless the
//! platform runs its own watchdog. (A *panic* there restarts, by `panic=` on the
//! command line.) From then on it bites after `bistable.watchdog=`
//! seconds: PID 1 never feeds it, systemd takes it over with `RuntimeWatchdogSec=`.
//! The last module is `softdog`, which is a timer of the kernel's: on a machine without a watchdog
//! it ends a userspace that hangs, and cannot end a kernel that does.
//!
//! Start reading at [`plan`]; [`kernel`] is what does it, [`slot_search`] where to look.
//!
//! # The health gate, `bistable-health-gate`
//!
//! It owns the judgement over a booted release: what is checked, for how long it has to
//! hold, until when. It refuses to own slots: it asks the updater's daemon to mark the booted
//! one, and changes nothing itself but a file with its verdict.
//!
//! - Nothing becomes good that did not hold for the whole soak time, read back whole, and
//!   can be updated again.
//! - On a trial every path ends: good, given up, or restarted with the try spent. A dead
//!   daemon, a dead bus, a configuration with mistakes and a restart of the gate all lead there.
//! - A good slot is never given up and never restarted.
//! - The reason is on the disk before anybody is told.
//!
//! **What watches the gate.** systemd restarts it when it dies, and kills it when it
//! says nothing for two minutes. Behind it stands `bistable-undecided.timer`, which needs no
//! code of ours, and behind systemd the hardware watchdog.
//!
//! Start reading at [`health::gate`], the decision; then [`health::watch`].
//!
//! It is built with the feature `gate`. PID 1 is built without: rustix and our own crates only.

pub mod block_devices;
pub mod cmdline;
pub mod console;
#[cfg(feature = "gate")]
pub mod health;
mod initramfs;
pub mod kernel;
pub mod plan;
pub mod report;
mod root_device;
pub mod slot_search;
pub mod torn_count;
pub mod uevents;
