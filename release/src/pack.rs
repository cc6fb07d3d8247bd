//! The one compressed form of an image: a file of zstd frames, each of which
//! holds some blocks of a *target*, and may be compressed against blocks of a
//! *base* that the reader has. Without a base it is the compressed whole; with
//! one, a patch.
//!
//! ```text
//! "BSTPACK1" | u32 length of the packed index | u32 length of the index | packed index | frame 0 | frame 1 | …
//! index        u32 frames, and for each of them
//!              u32 length | u16 targets | u16 bases | (u32 first, u32 blocks) × targets | (u32 first, u32 blocks) × bases
//! ```
//! Numbers are little-endian. Blocks have [`BLOCK_SIZE`] bytes; the last one of
//! target and base ends with them. The packed index is one zstd frame. A frame
//! unpacks to its target blocks, one extent after the other; its base blocks,
//! joined likewise, are the prefix (`ZSTD_DCtx_refPrefix`) that it refers to.
//!
//! Frames are independent of each other, so a frame is what a reader fetches,
//! and where it goes on after a break.
//!
//! Nothing in a pack is to be believed: what it unpacks to is held against a
//! hash by whoever uses it. What is promised here is that a hostile pack makes
//! its reader neither reach outside target and base nor use more memory than
//! [`limits`](crate::limits) say: a frame is at most 1 MiB packed (and 8 KiB),
//! 1 MiB unpacked and 4 MiB of base, however large a window it asks for.
//!
//! Start at [`PackIndex::read`] and [`Frame::unpack`].

mod frame;
mod index;

pub use frame::{BadFrame, Extent, Frame};
pub use index::{BadPack, PACK_HEADER_BYTES, PACK_MAGIC, PackHeader, PackIndex, PackShape};

use partition_layout::RootHash;
use serde::Serialize;

use crate::blob::{Blob, Digest};
use crate::document::{BadDocument, Fields, Problem};
use crate::limits::{BLOCK_SIZE, MAX_PACK_BYTES, MAX_PACK_HEAD_BYTES, MAX_PATCHES};

/// A pack, and how much of it to read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Pack {
    /// The file.
    #[serde(flatten)]
    pub blob: Blob,
    /// The bytes of header and packed index, with which it starts.
    pub index_bytes: u64,
}

/// A pack that makes this release's root image of another release's.
///
/// It holds the blocks that the other image has nowhere and that are not all
/// zeros; the hash tree tells of the rest where the other image has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Patch {
    /// The root hash of the base.
    pub from: RootHash,
    /// The pack.
    pub root: Pack,
}

/// A pack that makes this release's UKI of another release's.
///
/// It holds every block: no tree vouches for single blocks of a UKI, only its
/// digest for the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct UkiPatch {
    /// The digest of the base.
    pub from: Digest,
    /// The pack.
    pub pack: Pack,
}

impl Pack {
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, BadDocument> {
        Ok(Self {
            blob: Blob::read(fields)?,
            index_bytes: fields.number("index_bytes")?,
        })
    }

    pub(crate) fn check(&self, field: &str) -> Result<(), BadDocument> {
        self.blob.check(&format!("{field}.size"), MAX_PACK_BYTES)?;
        let found = self.index_bytes;
        let bad = |problem| Err(BadDocument::field(format!("{field}.index_bytes"), problem));
        let max = MAX_PACK_HEAD_BYTES.min(self.blob.size);
        if found > max {
            return bad(Problem::TooLarge { found, max });
        }
        if found <= PACK_HEADER_BYTES {
            let problem = format!("is {found}, but a header alone has {PACK_HEADER_BYTES}");
            return bad(Problem::Malformed(problem));
        }
        Ok(())
    }
}

impl Patch {
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, BadDocument> {
        Ok(Self {
            from: fields.parsed("from", RootHash::parse)?,
            root: Pack::read(&fields.object("root")?)?,
        })
    }
}

impl UkiPatch {
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, BadDocument> {
        Ok(Self {
            from: fields.parsed("from", Digest::parse)?,
            pack: Pack::read(&fields.object("pack")?)?,
        })
    }
}

pub(crate) fn check_patches(patches: &[Patch]) -> Result<(), BadDocument> {
    let packs = patches.iter().map(|patch| (patch.from, &patch.root));
    check_all("patches", "root", packs)
}

pub(crate) fn check_uki_patches(patches: &[UkiPatch]) -> Result<(), BadDocument> {
    let packs = patches.iter().map(|patch| (patch.from, &patch.pack));
    check_all("uki_patches", "pack", packs)
}

fn check_all<'a, T: PartialEq + ToString>(
    list: &str,
    field: &str,
    packs: impl ExactSizeIterator<Item = (T, &'a Pack)>,
) -> Result<(), BadDocument> {
    if packs.len() > MAX_PATCHES {
        let problem = Problem::too_many(packs.len(), MAX_PATCHES);
        return Err(BadDocument::field(list, problem));
    }
    let mut bases = Vec::new();
    for (number, (base, pack)) in packs.enumerate() {
        pack.check(&format!("{list}[{number}].{field}"))?;
        if bases.contains(&base) {
            return Err(BadDocument::field(list, Problem::Twice(base.to_string())));
        }
        bases.push(base);
    }
    Ok(())
}
