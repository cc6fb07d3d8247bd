//! Histories by chance, on a disk that loses, reorders and tears what was not synced.
//!
//! Everything above the ports is the daemon's own; below them the partition table, the
//! names of boot entries and the order of the boot loader are the real code, on sectors.
//! [`judge`] says what must hold after each cut and at each start; a history ends with an
//! update, which must go in.

// `cfg(test)`, though all of this is: clippy lets tests panic by it.
#[cfg(test)]
#[path = "../wired/barrier.rs"]
#[expect(dead_code, reason = "the wired tests use more of it")]
mod barrier;
#[cfg(test)]
mod dice;
#[cfg(test)]
mod disk;
#[cfg(test)]
#[path = "../wired/esp.rs"]
mod esp;
#[cfg(test)]
#[path = "../wired/fake.rs"]
#[expect(dead_code, reason = "the wired tests use more of it")]
mod fake;
#[cfg(test)]
mod firmware;
#[cfg(test)]
#[path = "../wired/gate.rs"]
#[expect(dead_code, reason = "the wired tests use more of it")]
mod gate;
#[cfg(test)]
mod judge;
#[cfg(test)]
mod life;
#[cfg(test)]
#[path = "../wired/network.rs"]
#[expect(dead_code, reason = "the wired tests use more of it")]
mod network;
#[cfg(test)]
mod node;
#[cfg(test)]
mod shelf;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vfat;
