//! The stories: a node, from firmware to the last word on its disk.
//!
//! Each reads the states it claims twice: over the node's own D-Bus, and from
//! the disk from outside when the node is off. `cargo xtask test` makes what
//! they stand on (see `qemu_tests::fixtures`) and runs them, several at a time. Those that
//! are ignored are told by `cargo xtask torture`, and by their names: together they take as
//! long as all others, which show the main job and one of each kind of its enemies.

#[path = "stories/bad_network.rs"]
mod bad_network;
#[path = "stories/boot.rs"]
mod boot;
#[path = "stories/broken_var.rs"]
mod broken_var;
#[path = "stories/cuts.rs"]
mod cuts;
#[path = "stories/damaged_disk.rs"]
mod damaged_disk;
#[path = "stories/encodings.rs"]
mod encodings;
#[path = "stories/failing_disk.rs"]
mod failing_disk;
#[path = "stories/flipped_byte.rs"]
mod flipped_byte;
#[path = "stories/gives_way.rs"]
mod gives_way;
#[path = "stories/hostile_repository.rs"]
mod hostile_repository;
#[path = "stories/interrupted_demo.rs"]
mod interrupted_demo;
#[path = "stories/large_sectors.rs"]
mod large_sectors;
#[path = "stories/never_up.rs"]
mod never_up;
#[path = "stories/operator.rs"]
mod operator;
#[path = "stories/patient.rs"]
mod patient;
#[path = "stories/power_cut.rs"]
mod power_cut;
#[path = "stories/rotten_block.rs"]
mod rotten_block;
#[path = "stories/sick_unit.rs"]
mod sick_unit;
#[path = "stories/stuck.rs"]
mod stuck;
#[path = "stories/tale.rs"]
mod tale;
#[path = "stories/torture.rs"]
mod torture;
#[path = "stories/update.rs"]
mod update;
