use crate::readers::{
    boot_entry, channel, command_line, erofs, esp, health_checks, metadata, options, pack,
    partition_table, pstore, release_file, settings, superblock, version,
};

/// A reader of outside bytes, and what it is held to.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// What it is called on command lines, and its folder in the corpora.
    pub name: &'static str,
    /// Reads an input. A promise that is broken is a panic.
    pub read: fn(&[u8]) -> Outcome,
    /// Makes inputs that are accepted.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// What became of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    Refused,
}

/// Every reader, the ones that a stranger reaches most easily first.
pub const TARGETS: [Target; 15] = [
    target("metadata", metadata::read, metadata::seeds),
    target("release", release_file::read, release_file::seeds),
    target("channel", channel::read, channel::seeds),
    target("pack", pack::read, pack::seeds),
    target("superblock", superblock::read, superblock::seeds),
    target(
        "partition-table",
        partition_table::read,
        partition_table::seeds,
    ),
    target("esp", esp::read, esp::seeds),
    target("erofs", erofs::read, erofs::seeds),
    target("options", options::read, options::seeds),
    target("boot-entry", boot_entry::read, boot_entry::seeds),
    target("version", version::read, version::seeds),
    target("settings", settings::read, settings::seeds),
    target("health-checks", health_checks::read, health_checks::seeds),
    target("command-line", command_line::read, command_line::seeds),
    target("pstore", pstore::read, pstore::seeds),
];

const fn target(
    name: &'static str,
    read: fn(&[u8]) -> Outcome,
    seeds: fn() -> Vec<Vec<u8>>,
) -> Target {
    Target { name, read, seeds }
}

impl Target {
    /// Returns the target of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }
}
