//! The health gate: it ends a trial, one way or the other.
//!
//! [`gate`] is the decision, pure. [`checks`] is what it decides on, [`watch`] the loop
//! that carries the decision out. The gate never changes a slot: it asks the
//! updater's daemon to.

pub mod bus;
pub mod checks;
mod command_check;
pub mod configuration;
mod containerd;
pub mod declaration;
mod durable;
pub mod gate;
mod http_check;
pub mod image_check;
mod journal;
pub mod keys;
mod look;
pub mod network;
pub mod power;
pub mod this_boot;
pub mod time_span;
mod units;
mod updater;
mod verdict_file;
pub mod watch;
