//! The head and the hands against a node that remembers, and the daemon on a
//! private bus: rung 2.

// `cfg(test)`, though all of this is: clippy lets tests panic by it.
#[cfg(test)]
mod automatic;
#[cfg(test)]
mod barrier;
#[cfg(test)]
mod bus;
#[cfg(test)]
mod checks;
#[cfg(test)]
mod clock;
#[cfg(test)]
mod cuts;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod esp;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod flood;
#[cfg(test)]
mod followed;
#[cfg(test)]
mod gate;
#[cfg(test)]
mod introspection;
mod kernels;
#[cfg(test)]
mod last_resort;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod network;
#[cfg(test)]
mod packs;
#[cfg(test)]
mod pauses;
#[cfg(test)]
mod pieces;
mod scrub;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod stages;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod wishes;
