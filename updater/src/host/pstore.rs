use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::pstore::DumpFile;

/// A part has the size of a firmware variable, unpacked.
const PART_BYTES: u64 = 64 * 1024;
/// 32 dumps of as many parts; what is over that is not looked at.
const FILES: usize = 1024;
/// systemd keeps them in a folder per time and, in it, one per count.
const DEPTH: usize = 2;

/// Reads the parts of dumps that lie in `folders` and below. What cannot be
/// read is left out: they only tell why, and the first folder is often empty.
pub(super) fn read(folders: &[PathBuf]) -> Vec<DumpFile> {
    let mut found = Vec::new();
    for folder in folders {
        if let Err(error) = collect(folder, DEPTH, &mut found) {
            tracing::debug!(folder = %folder.display(), %error, "no dumps of a kernel");
        }
    }
    found
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<DumpFile>) -> io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    // The newest first, in case there are too many.
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
    for entry in entries {
        if found.len() >= FILES {
            return Ok(());
        }
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            collect(&entry.path(), depth - 1, found)?;
        } else if kind.is_file()
            && let Ok(name) = entry.file_name().into_string()
            && name.starts_with("dmesg-")
        {
            let mut content = Vec::new();
            File::open(entry.path())?
                .take(PART_BYTES)
                .read_to_end(&mut content)?;
            found.push(DumpFile { name, content });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_are_found_in_the_firmware_and_in_systemds_archive() {
        let folder = tempfile::tempdir().unwrap();
        let [firmware, archive] = ["firmware", "archive"].map(|name| folder.path().join(name));
        let deep = archive.join("1780000000").join("001");
        for (folder, name) in [
            (&firmware, "dmesg-efi_pstore-178000000001001"),
            (&deep, "dmesg-efi_pstore-178000000002001"),
            (&deep, "dmesg.txt"),
        ] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join(name), name).unwrap();
        }
        let gone = folder.path().join("gone");
        let found = read(&[gone, firmware, archive]);
        let names: Vec<_> = found.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "dmesg-efi_pstore-178000000001001",
                "dmesg-efi_pstore-178000000002001"
            ]
        );
    }
}
