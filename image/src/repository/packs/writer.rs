use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

use release::Pack;
use release::pack::{BadPack, Frame, PackHeader, PackIndex, PackShape};
use tempfile::NamedTempFile;
use zstd::zstd_safe::{CCtx, CParameter, compress_bound, get_error_name};

use super::blocks::{Blocks, cores};
use super::plan::Part;
use crate::repository::store::{UNFINISHED, hash_file};

/// A pack could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The image or the base could not be read.
    #[error("cannot read the blocks")]
    Read(#[source] io::Error),
    /// The pack could not be written.
    #[error("cannot write the pack")]
    Write(#[source] io::Error),
    /// zstd refused.
    #[error("cannot compress a frame: {0}")]
    Zstd(&'static str),
    /// zstd made something that does not unpack to what went in.
    #[error(
        "a frame does not unpack to what was packed; nothing that this machine makes can be trusted"
    )]
    NotTheSame,
    /// Nodes would refuse it.
    #[error("nodes would refuse the pack")]
    Refused(#[source] BadPack),
}

/// A pack that was made.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) pack: Pack,
    pub(crate) file: NamedTempFile,
}

/// Makes a pack of these frames in a file of `folder` that is gone if nobody
/// keeps it. The same frames give the same bytes, however many cores there are.
pub(crate) fn write(
    parts: Vec<Part>,
    target: &Blocks,
    base: Option<&Blocks>,
    level: i32,
    folder: &Path,
) -> Result<Written, PackError> {
    let mut content = new_file(folder)?;
    let mut lengths = Vec::new();
    verity::in_order(
        cores(),
        u64::try_from(parts.len()).unwrap_or(u64::MAX),
        || (),
        |(), number| {
            let part = usize::try_from(number).ok().and_then(|it| parts.get(it));
            let Some(part) = part else {
                return Ok(Vec::new());
            };
            let bytes = target.gather(&part.targets).map_err(PackError::Read)?;
            let prefix = base.map_or(Ok(Vec::new()), |base| base.gather(&part.bases));
            let prefix = prefix.map_err(PackError::Read)?;
            let packed = compress(&bytes, &prefix, level)?;
            check(part, target.size(), &packed, &prefix, &bytes)?;
            Ok(packed)
        },
        |bytes| {
            lengths.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            content.write_all(&bytes).map_err(PackError::Write)
        },
    )?;
    let frames = parts.into_iter().zip(lengths).map(|(part, len)| Frame {
        offset: 0,
        len,
        targets: part.targets,
        bases: part.bases,
    });
    let index = PackIndex {
        frames: frames.collect(),
    };
    let head = head(&index, level)?;
    let file = join(&head, content.as_file_mut(), folder).map_err(PackError::Write)?;
    let pack = Pack {
        blob: hash_file(file.path()).map_err(PackError::Write)?,
        index_bytes: u64::try_from(head.len()).unwrap_or(u64::MAX),
    };
    let blocks = |file: &Blocks| u64::try_from(file.keys().len()).unwrap_or(u64::MAX);
    let shape = PackShape {
        target_blocks: blocks(target),
        base_blocks: base.map_or(0, blocks),
    };
    PackIndex::read(&head, &pack, &shape).map_err(PackError::Refused)?;
    Ok(Written { pack, file })
}

/// Where a publisher that is killed leaves it, the next one removes it.
fn new_file(folder: &Path) -> Result<NamedTempFile, PackError> {
    let file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(folder);
    file.map_err(PackError::Write)
}

fn head(index: &PackIndex, level: i32) -> Result<Vec<u8>, PackError> {
    let bytes = index.to_bytes();
    let packed = zstd::bulk::compress(&bytes, level).map_err(PackError::Write)?;
    let header = PackHeader {
        packed: u32::try_from(packed.len()).unwrap_or(u32::MAX),
        index: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
    };
    Ok([header.to_bytes().as_slice(), &packed].concat())
}

fn join(head: &[u8], content: &mut File, folder: &Path) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(folder)?;
    file.write_all(head)?;
    content.rewind()?;
    io::copy(content, file.as_file_mut())?;
    Ok(file)
}

fn compress(bytes: &[u8], prefix: &[u8], level: i32) -> Result<Vec<u8>, PackError> {
    let failed = |code| PackError::Zstd(get_error_name(code));
    let mut context = CCtx::create();
    let mut set = |parameter| context.set_parameter(parameter).map(drop).map_err(failed);
    set(CParameter::CompressionLevel(level))?;
    if !prefix.is_empty() {
        // At low levels, zstd would make its tables too small for the prefix: 18.8 MB at level 3
        // for the update of ADR 0006, which are 8.3 MB with these. At level 19 it makes no difference.
        let reach = window_log(bytes.len().saturating_add(prefix.len()));
        set(CParameter::WindowLog(reach))?;
        set(CParameter::HashLog(reach))?;
        set(CParameter::ChainLog(reach + 1))?;
        context.ref_prefix(prefix).map_err(failed)?;
    }
    let mut packed = Vec::with_capacity(compress_bound(bytes.len()));
    context.compress2(&mut packed, bytes).map_err(failed)?;
    Ok(packed)
}

/// Unpacks what was packed: it is signed and given to a fleet next.
fn check(
    part: &Part,
    size: u64,
    packed: &[u8],
    prefix: &[u8],
    expected: &[u8],
) -> Result<(), PackError> {
    let frame = Frame {
        offset: 0,
        len: 0,
        targets: part.targets.clone(),
        bases: Vec::new(),
    };
    let mut found = Vec::new();
    match frame.unpack(packed, prefix, size, &mut found) {
        Ok(()) if found == expected => Ok(()),
        Ok(()) | Err(_) => Err(PackError::NotTheSame),
    }
}

/// Returns the logarithm of the smallest window that holds this many bytes.
fn window_log(bytes: usize) -> u32 {
    const LEAST: u32 = 17;
    (usize::BITS - bytes.leading_zeros()).max(LEAST)
}
