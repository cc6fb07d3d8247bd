//! The harness: virtual machines that boot the shipped image from firmware.
//!
//! It owns the machine and everything around it: [`machine`] (switched off),
//! [`node`] (switched on), its [`console`], its hypervisor ([`qmp`]), its own
//! D-Bus ([`bus`]), a web server for repositories ([`server`]) that can be
//! told to lie, and the disk as it looks from [`outside`], now or whenever the power
//! might have failed ([`cuts`]). It refuses to own
//! any knowledge of how an update works: the stories in `tests/` state that,
//! and read every state twice, over D-Bus and from the disk.
//!
//! Invariants: the image has no hole for tests (all that reaches in comes
//! through the firmware's tables, see [`smbios`]); every wait is for a state
//! and has a deadline; what a story starts ends with it, however it ends.
//!
//! Start reading at [`story`], then `tests/stories/`.

mod block_nodes;
pub mod bus;
pub mod call;
pub mod console;
pub mod container;
pub mod cuts;
pub mod deadline;
mod emulator;
pub mod faults;
mod firmware;
pub mod fixtures;
pub mod harm;
pub mod journal;
pub mod json;
pub mod machine;
pub mod memory;
pub mod node;
pub mod outside;
pub mod probe;
pub mod publisher;
pub mod qmp;
pub mod room;
pub mod seat;
pub mod server;
pub mod smbios;
pub mod story;
