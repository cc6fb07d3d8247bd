//! Unpacking a published pack, and holding each block against the image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use release::Pack;
use release::pack::{BadFrame, BadPack, PackIndex, PackShape};

use super::blocks::Blocks;
use super::plan::missing_blocks;

/// Which blocks a pack must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coverage {
    Every,
    /// Those that the base does not hold and that are not all zeros.
    Missing,
}

/// A pack does not make what it is said to make.
#[derive(Debug, thiserror::Error)]
pub enum BadContent {
    /// A file could not be read.
    #[error("cannot read it, or what it is to be held against")]
    Read(#[source] io::Error),
    /// Its head is broken.
    #[error("it is no sound pack")]
    Index(#[source] BadPack),
    /// A frame is broken.
    #[error("frame {frame} is broken")]
    Frame { frame: usize, source: BadFrame },
    /// A frame is a sound frame of another image.
    #[error("frame {frame} holds other blocks than the image has there")]
    Blocks { frame: usize },
    /// A node would find no source for a block.
    #[error("it lacks block {block}, and its base does too")]
    Lacks { block: u64 },
    /// There is no release that it is a patch from.
    #[error("no release of the repository is what it is a patch from")]
    NoBase,
}

/// Checks a pack whose file is sound.
pub(crate) fn check(
    pack: &Pack,
    file: &Path,
    target: &Path,
    base: Option<&Path>,
    coverage: Coverage,
) -> Result<(), BadContent> {
    let read = BadContent::Read;
    let file = File::open(file).map_err(read)?;
    let target = Blocks::read(target).map_err(read)?;
    let base = base.map(Blocks::read).transpose().map_err(read)?;
    let blocks = |file: &Blocks| u64::try_from(file.keys().len()).unwrap_or(u64::MAX);
    let shape = PackShape {
        target_blocks: blocks(&target),
        base_blocks: base.as_ref().map_or(0, blocks),
    };
    // Within the limits of the release file.
    let head = piece(&file, 0, pack.index_bytes).map_err(read)?;
    let index = PackIndex::read(&head, pack, &shape).map_err(BadContent::Index)?;
    let mut unpacked = Vec::new();
    let mut held = vec![false; target.keys().len()];
    for (number, frame) in index.frames.iter().enumerate() {
        let packed = piece(&file, frame.offset, frame.len.into()).map_err(read)?;
        let prefix = match &base {
            Some(base) => base.gather(&frame.bases).map_err(read)?,
            None => Vec::new(),
        };
        frame
            .unpack(&packed, &prefix, target.size(), &mut unpacked)
            .map_err(|source| BadContent::Frame {
                frame: number,
                source,
            })?;
        if unpacked != target.gather(&frame.targets).map_err(read)? {
            return Err(BadContent::Blocks { frame: number });
        }
        for block in frame.blocks() {
            let place = usize::try_from(block).ok();
            if let Some(held) = place.and_then(|place| held.get_mut(place)) {
                *held = true;
            }
        }
    }
    let wanted = match (coverage, &base) {
        (Coverage::Missing, Some(base)) => missing_blocks(target.keys(), base.keys()),
        (Coverage::Every, _) | (Coverage::Missing, None) => (0..shape.target_blocks).collect(),
    };
    let held = |block: &u64| usize::try_from(*block).is_ok_and(|it| held.get(it) == Some(&true));
    match wanted.into_iter().find(|block| !held(block)) {
        Some(block) => Err(BadContent::Lacks { block }),
        None => Ok(()),
    }
}

fn piece(file: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
