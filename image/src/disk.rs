//! A disk image as it is shipped: ESP and slot A. The rest of the disk is made on a node's first boot.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use partition_layout::{
    Architecture, BootEntry, CreateError, DiskPlan, Form, Partition, RootHash, SectorSize, Version,
};

use crate::esp::{self, EspError};
use crate::toolbox::Toolbox;

const PIECE: usize = 1 << 20;

/// What goes onto a disk.
#[derive(Debug)]
pub struct Parts<'a> {
    pub version: &'a Version,
    pub root_hash: &'a RootHash,
    pub root: &'a Path,
    pub verity: &'a Path,
    pub uki: &'a Path,
    pub entry: &'a BootEntry,
}

/// Why there is no disk image.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot use {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot make the EFI system partition")]
    Esp(#[from] EspError),
    #[error("cannot lay out the disk")]
    Create(#[from] CreateError),
    #[error("{path} has {size} bytes, its partition {room}")]
    TooLarge { path: PathBuf, size: u64, room: u64 },
}

/// Makes an image of a disk with such sectors at `image`, replacing what is there. It is sparse: blocks of nothing but zeros take no room.
///
/// # Errors
/// When a part does not fit or a file cannot be written.
pub fn make(
    toolbox: &Toolbox,
    parts: &Parts<'_>,
    sectors: SectorSize,
    scratch: &Path,
    image: &Path,
) -> Result<(), DiskError> {
    let failed = |source| DiskError::File {
        path: image.to_owned(),
        source,
    };
    let mut plan = DiskPlan::new(Architecture::X86_64, Form::Shipped);
    plan.sector_size = sectors;
    plan.slot_a = Some((parts.version.clone(), *parts.root_hash));
    let esp = scratch.join("esp.img");
    let shape = esp::Shape {
        size: plan.sizes.esp,
        sectors,
    };
    esp::make(toolbox, parts.uki, parts.entry, &shape, scratch, &esp)?;

    // Built beside and renamed: a disk image is whole or not there.
    let partial = image.with_extension("partial");
    let mut disk = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&partial)
        .map_err(failed)?;
    disk.set_len(plan.smallest_disk()).map_err(failed)?;
    let layout = partition_layout::create(&mut disk, &plan)?;
    copy(&esp, &disk, &layout.esp)?;
    copy(parts.root, &disk, &layout.slot_a.root)?;
    copy(parts.verity, &disk, &layout.slot_a.verity)?;
    fs::rename(&partial, image).map_err(failed)
}

fn copy(from: &Path, disk: &File, partition: &Partition) -> Result<(), DiskError> {
    let failed = |source| DiskError::File {
        path: from.to_owned(),
        source,
    };
    let mut file = File::open(from).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size > partition.len {
        return Err(DiskError::TooLarge {
            path: from.to_owned(),
            size,
            room: partition.len,
        });
    }
    let mut at = partition.start;
    let mut buffer = vec![0; PIECE];
    loop {
        let n = file.read(&mut buffer).map_err(failed)?;
        let Some(piece) = buffer.get(..n).filter(|piece| !piece.is_empty()) else {
            return Ok(());
        };
        if piece.iter().any(|byte| *byte != 0) {
            disk.write_all_at(piece, at).map_err(failed)?;
        }
        at += n as u64;
    }
}
