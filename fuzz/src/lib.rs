//! What comes from outside, read as if it had been written to do harm.
//!
//! Owns a *target* for each reader of outside bytes: it reads an input, and holds
//! what was accepted to what the reader promises of it. That nothing panics is the
//! least of it: what was read is written and read again, a partition lies on its
//! disk, a frame unpacks to no more than it may, a mistake is named by its line.
//! Does not own the search for inputs that break a promise: that is libFuzzer's,
//! which `cargo xtask fuzz` drives by what code an input reached.
//!
//! Each target begins with *seeds*, made by the very builders whose output the
//! reader is for. What a search has found beyond them, and every input that once
//! broke a promise, lies in `corpus/TARGET` and is tried by `cargo test`.
//!
//! Start reading at [`TARGETS`].

mod disk;
mod files;
mod readers;
mod script;
mod target;

pub use target::{Outcome, TARGETS, Target};
