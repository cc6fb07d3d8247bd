//! The update daemon: it checks for releases, stages one in the spare slot,
//! keeps watch over its trial, and remembers what failed.
//!
//! It owns the change of slot state on a running node. It does not own the
//! bytes of a release (crate `image` makes them), the format of the disk
//! (`partition-layout`, `verity`), nor the judgement whether a booted release
//! is healthy (`init-integration`'s health gate, which calls us).
//!
//! Invariants: the booted slot is never written; nothing is written while the
//! booted slot is not good; the spare slot is unbootable from before its first
//! byte changes until after its last byte was read back from the medium.
//!
//! Start reading at [`machine`], which decides, and [`stage`], which does.

// The daemon's head and its decisions.
pub mod admit;
pub mod asker;
pub mod backstop;
pub mod checks;
pub mod derive;
pub mod history;
pub mod machine;
pub mod names;
pub mod node;
pub mod policy;
pub mod pstore;
pub mod records;
pub mod refusal;
pub mod totals;

// Its hands.
pub mod driver;
pub mod hands;
pub mod host;
pub mod meter;
pub mod observe;
pub mod pace;
pub mod plan;
pub mod ports;
pub mod scrub;
pub mod stage;
pub mod stage_error;
pub mod tally;
pub mod uki;

// Its faces to the network.
pub mod authorities;
pub mod config;
pub mod fetch;
pub mod gateway;
pub mod network;
pub mod settings;
pub mod trust;
mod turns;

// Its faces to people and programs.
pub mod cli;
pub mod dbus;
pub mod job;
pub mod journal;
mod kernels;
pub mod metrics;
mod plain;
