//! The publisher end to end: real keys, real trees, real files.

mod command;
mod damage;
mod fixture;
mod interruption;
mod keys;
mod packs;
mod publishing;
mod renewal;
mod rollout;
mod rotation;
