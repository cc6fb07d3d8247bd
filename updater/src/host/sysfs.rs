//! Which disk the running root stands on, and which of its partitions: told by
//! the kernel, never guessed from names, labels or UUIDs.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Paths;

/// Why the running root's disk is not known.
#[derive(Debug, thiserror::Error)]
pub enum FindDiskError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the root file system does not stand on dm-verity ({} has no partitions under it): \
         this is no Bistable node",
        path.display()
    )]
    NotVerity { path: PathBuf },
    #[error("the partitions under the root file system are on several disks")]
    SeveralDisks,
    #[error("{} holds no partition number", path.display())]
    Number { path: PathBuf },
}

/// The disk under the running root.
#[derive(Debug, Clone)]
pub(super) struct RootDevice {
    /// The disk's name in the kernel, `vda` for instance.
    pub(super) disk: OsString,
    /// Numbers of the partitions that dm-verity holds open.
    pub(super) partitions: Vec<u32>,
}

impl RootDevice {
    pub(super) fn find(paths: &Paths) -> Result<Self, FindDiskError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| FindDiskError::Read { path, source }
        };
        let device = fs::metadata(&paths.root).map_err(read(&paths.root))?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let slaves = paths.sys.join(format!("dev/block/{major}:{minor}/slaves"));
        let mut disks = Vec::new();
        let mut partitions = Vec::new();
        let entries = match fs::read_dir(&slaves) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FindDiskError::NotVerity { path: slaves });
            }
            Err(source) => {
                return Err(FindDiskError::Read {
                    path: slaves,
                    source,
                });
            }
        };
        for entry in entries {
            let link = entry.map_err(read(&slaves))?.path();
            // .../block/vda/vda2
            let place = fs::canonicalize(&link).map_err(read(&link))?;
            let number = place.join("partition");
            let text = fs::read_to_string(&number).map_err(read(&number))?;
            let parsed = text.trim().parse().ok();
            partitions.push(parsed.ok_or(FindDiskError::Number { path: number })?);
            disks.push(place.parent().and_then(Path::file_name).map(OsString::from));
        }
        let [Some(disk), others @ ..] = disks.as_slice() else {
            return Err(FindDiskError::NotVerity { path: slaves });
        };
        if others.iter().any(|other| other.as_ref() != Some(disk)) {
            return Err(FindDiskError::SeveralDisks);
        }
        Ok(Self {
            disk: disk.clone(),
            partitions,
        })
    }

    /// Returns the device node of the whole disk.
    pub(super) fn disk_path(&self, paths: &Paths) -> PathBuf {
        paths.dev.join(&self.disk)
    }

    /// Returns how partition numbers become device nodes.
    pub(super) fn partition_path(&self, paths: &Paths) -> PartitionPath {
        PartitionPath {
            folder: paths.sys.join("block").join(&self.disk),
            disk: self.disk.clone(),
            dev: paths.dev.clone(),
        }
    }
}

/// Finds the device node of a partition, by its number.
#[derive(Debug, Clone)]
pub(super) struct PartitionPath {
    folder: PathBuf,
    disk: OsString,
    dev: PathBuf,
}

impl PartitionPath {
    /// Returns the device node of partition `number`, and its first byte and its
    /// size as the kernel sees them.
    pub(super) fn find(&self, number: u32) -> io::Result<KernelPartition> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let folder = entry.path();
            let Ok(text) = fs::read_to_string(folder.join("partition")) else {
                continue;
            };
            if text.trim() == number.to_string() {
                return Ok(KernelPartition {
                    path: self.dev.join(entry.file_name()),
                    start: bytes_in(&folder.join("start"))?,
                    len: bytes_in(&folder.join("size"))?,
                });
            }
        }
        let message = format!(
            "the kernel knows no partition {number} on {}",
            self.disk.display()
        );
        Err(io::Error::new(io::ErrorKind::NotFound, message))
    }
}

/// A partition as the kernel sees it.
#[derive(Debug)]
pub(super) struct KernelPartition {
    pub(super) path: PathBuf,
    /// Bytes from the start of the disk.
    pub(super) start: u64,
    pub(super) len: u64,
}

/// Sysfs counts in 512 bytes, whatever the disk's sectors.
fn bytes_in(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let sectors = text.trim().parse::<u64>().ok();
    sectors
        .and_then(|sectors| sectors.checked_mul(512))
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is no size", path.display()),
            )
        })
}
