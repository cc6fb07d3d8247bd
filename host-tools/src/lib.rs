//! The programs of the machine that builds and tests: where they are, and which
//! Debian package brings each.
//!
//! It owns that knowledge for all: the front door installs by it, the image
//! builder and the harness start programs by it, and a test that needs an oracle
//! fails by it. It refuses to own what is done with a program, and nothing of it
//! is on a node. Start reading at [`PACKAGES`].

mod packages;
mod search;
mod unpacked;

pub use packages::{BENCH_PACKAGES, FUZZ_PACKAGES, PACKAGES, Package};
pub use search::{Missing, command, find, oracle, search_path};
pub use unpacked::unpacked;
