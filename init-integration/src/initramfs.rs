//! Frees the memory of the initramfs before the root file system takes its place.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// `RAMFS_MAGIC` of linux/magic.h.
const RAMFS: u64 = 0x8584_58f6;

/// `TMPFS_MAGIC` of linux/magic.h: what the initramfs is unpacked into where it is configured.
const TMPFS: u64 = 0x0102_1994;

/// Removes what `/` holds, if it lives in memory: anything else is somebody's disk.
pub(crate) fn free() -> io::Result<()> {
    let kind = u64::try_from(rustix::fs::statfs("/")?.f_type).map_err(io::Error::other)?;
    if kind != RAMFS && kind != TMPFS {
        return Err(io::Error::other(format!(
            "/ is no initramfs but of type {kind:#x}"
        )));
    }
    remove_contents(Path::new("/"))
}

/// Removes everything below `root` that lives on the same file system.
///
/// Other file systems mounted below it are left alone, and links are removed,
/// not followed. The first error is returned, after all the rest was tried.
fn remove_contents(root: &Path) -> io::Result<()> {
    let device = fs::symlink_metadata(root)?.dev();
    remove_below(root, device)
}

fn remove_below(directory: &Path, device: u64) -> io::Result<()> {
    let mut first_error = Ok(());
    for entry in fs::read_dir(directory)? {
        let outcome = entry.and_then(|entry| remove(&entry.path(), device));
        first_error = first_error.and(outcome);
    }
    first_error
}

fn remove(path: &Path, device: u64) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.dev() != device {
        return Ok(());
    }
    if !metadata.is_dir() {
        return fs::remove_file(path);
    }
    remove_below(path, device)?;
    match fs::remove_dir(path) {
        // Something else is mounted somewhere below it.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_goes_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("precious"), "stays").unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/lib/modules")).unwrap();
        fs::write(root.path().join("usr/lib/modules/a.ko"), "module").unwrap();
        fs::write(root.path().join("init"), "program").unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        remove_contents(root.path()).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        assert!(outside.path().join("precious").exists());
    }
}
