//! Programs of a Debian tree that is unpacked and not installed, run through that tree's own
//! dynamic loader: no chroot, no namespace, no privilege, whatever the host has.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Where Debian's libraries for x86-64 lie.
const LIBRARIES: [&str; 2] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/systemd",
];
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

/// Returns the words that start `program` (`usr/bin/mkfs.erofs`) of the tree at `root`; its
/// own arguments follow them.
pub fn unpacked(root: &Path, program: &str) -> [OsString; 4] {
    let libraries = LIBRARIES
        .map(|path| root.join(path).into_os_string())
        .join(OsStr::new(":"));
    [
        root.join(LOADER).into(),
        "--library-path".into(),
        libraries,
        root.join(program).into(),
    ]
}
