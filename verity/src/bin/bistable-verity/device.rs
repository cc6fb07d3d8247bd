//! The files and block devices that the command works on.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use verity::HashArea;

use crate::failure::Failure;

/// A device or file that is only read.
#[derive(Debug)]
pub(crate) struct Device {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Device {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let open = |source| Failure::Open {
            path: path.to_owned(),
            source,
        };
        // Asked before opening, which would wait for the other end of a pipe.
        let kind = path.metadata().map_err(open)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Failure::Kind {
                path: path.to_owned(),
            });
        }
        let mut file = File::open(path).map_err(open)?;
        // A block device's metadata has no size; its end does.
        let size = file
            .seek(SeekFrom::End(0))
            .map_err(|source| Failure::Size {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
        })
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Bytes.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Fails unless the device holds `needed` bytes.
    pub(crate) fn must_hold(&self, needed: u64) -> Result<(), Failure> {
        if self.size >= needed {
            return Ok(());
        }
        Err(Failure::Small {
            path: self.path.clone(),
            size: self.size,
            needed,
        })
    }

    /// Refuses a hash area at `offset` of `hash` that would overwrite this
    /// device's data. By any path: links and device nodes are seen through.
    pub(crate) fn must_not_overlap(
        &self,
        hash: &Path,
        offset: u64,
        area: &HashArea,
    ) -> Result<(), Failure> {
        if offset >= area.data_len() {
            return Ok(());
        }
        let open = |source| Failure::Open {
            path: hash.to_owned(),
            source,
        };
        let same = match hash.metadata() {
            Ok(other) => identity(&other) == identity(&self.file.metadata().map_err(open)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(open(error)),
        };
        if !same {
            return Ok(());
        }
        Err(Failure::Overlap {
            path: hash.to_owned(),
            offset,
            data_len: area.data_len(),
        })
    }
}

/// Opens a hash device for writing: what it holds stays, a file is made when
/// there is none.
pub(crate) fn create(path: &Path) -> Result<File, Failure> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| Failure::Open {
            path: path.to_owned(),
            source,
        })
}

/// What two paths to the same bytes have in common.
fn identity(metadata: &std::fs::Metadata) -> (bool, u64, u64) {
    if metadata.file_type().is_block_device() {
        (true, metadata.rdev(), 0)
    } else {
        (false, metadata.dev(), metadata.ino())
    }
}
