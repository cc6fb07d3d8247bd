//! The targets, a file each: `read`, and `seeds` that it accepts.

pub(crate) mod boot_entry;
pub(crate) mod channel;
pub(crate) mod command_line;
pub(crate) mod erofs;
pub(crate) mod esp;
pub(crate) mod health_checks;
pub(crate) mod metadata;
pub(crate) mod options;
pub(crate) mod pack;
pub(crate) mod partition_table;
pub(crate) mod pstore;
pub(crate) mod release_file;
pub(crate) mod settings;
pub(crate) mod superblock;
pub(crate) mod version;
