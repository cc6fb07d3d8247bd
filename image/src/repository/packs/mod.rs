//! The packs of a release: the compressed whole of its root image, and patches
//! from the releases before it, for the root image and for the UKI.
//!
//! What a release *is* never changes once it is published; the packs are only
//! other ways to it, so they may be added later, and be made again when they
//! were lost.

mod blocks;
mod check;
mod plan;
mod writer;

pub use check::BadContent;
pub(crate) use check::{Coverage, check};
pub use writer::PackError;

use std::io;
use std::path::{Path, PathBuf};

use partition_layout::Version;
use release::limits::{BLOCK_SIZE, MAX_PATCHES};
use release::{Blob, Pack, Patch, Release, UkiPatch};
use tempfile::NamedTempFile;

use self::blocks::Blocks;
use self::writer::{Written, write};
use super::store::{Content, compare};

/// Which packs a release gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackPlan {
    /// From how many of the channel's releases before it there shall be patches.
    pub patches: usize,
    /// zstd's level, 1 to 22.
    pub level: i32,
}

impl Default for PackPlan {
    fn default() -> Self {
        Self {
            patches: 3,
            level: 19,
        }
    }
}

/// A pack of a published release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackOf {
    /// What it makes.
    pub kind: PackKind,
    /// Its size, in bytes.
    pub bytes: u64,
}

/// What a pack makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackKind {
    /// The whole root image.
    Whole,
    /// The root image, of that of this version.
    Root(Version),
    /// The UKI, of that of this version.
    Uki(Version),
}

/// Makes the packs of a release, or finds those that were made before.
#[derive(Debug)]
pub(crate) struct Packer<'a> {
    /// The base of the repository.
    pub(crate) repository: &'a Path,
    pub(crate) plan: PackPlan,
    /// Where new packs are written, on the repository's disk.
    pub(crate) scratch: PathBuf,
}

/// The packs of a release, and the files of those that are new.
#[derive(Debug, Default)]
pub(crate) struct Packs {
    packed: Option<Pack>,
    patches: Vec<Patch>,
    uki_patches: Vec<UkiPatch>,
    new: Vec<(Blob, NamedTempFile)>,
    pub(crate) list: Vec<PackOf>,
}

impl Packs {
    /// Names the packs in the release.
    pub(crate) fn add_to(&self, release: &mut Release) {
        release.blobs.packed = self.packed;
        release.patches.clone_from(&self.patches);
        release.uki_patches.clone_from(&self.uki_patches);
    }

    /// Returns the packs that are new, each with its file.
    pub(crate) fn sources(&self) -> Vec<(Blob, PathBuf)> {
        let new = self.new.iter();
        new.map(|(blob, file)| (*blob, file.path().to_owned()))
            .collect()
    }

    fn take(&mut self, kind: PackKind, made: Made) -> Pack {
        let pack = match made {
            Made::Before(pack) => pack,
            Made::Now(Written { pack, file }) => {
                self.new.push((pack.blob, file));
                pack
            }
        };
        let bytes = pack.blob.size;
        self.list.push(PackOf { kind, bytes });
        pack
    }
}

/// Where a pack comes from.
enum Made {
    Before(Pack),
    Now(Written),
}

impl Packer<'_> {
    /// Returns the packs of a release, whose root image and UKI are these files.
    /// `before` is the same release as it was published; patches are made from
    /// `bases`, the newest first.
    pub(crate) fn packs(
        &self,
        release: &Release,
        before: Option<&Release>,
        [root, uki]: [&Path; 2],
        bases: &[Release],
    ) -> Result<Packs, PackError> {
        let mut packs = Packs::default();
        let root = Blocks::read(root).map_err(PackError::Read)?;
        let known = before.and_then(|before| before.blobs.packed);
        if let Some(made) = self.whole(&root, known)? {
            packs.packed = Some(packs.take(PackKind::Whole, made));
        }
        for base in bases
            .iter()
            .filter(|base| base.root_hash != release.root_hash)
        {
            let from = base.root_hash;
            if packs.patches.len() == MAX_PATCHES || packs.patches.iter().any(|it| it.from == from)
            {
                continue;
            }
            let known = before.and_then(|it| it.patches.iter().find(|it| it.from == from));
            let known = known.map(|patch| patch.root);
            if let Some(made) = self.patch(&root, base, known)? {
                let root = packs.take(PackKind::Root(base.version.clone()), made);
                packs.patches.push(Patch { from, root });
            }
        }
        let blob = release.blobs.uki;
        let uki = Blocks::read(uki).map_err(PackError::Read)?;
        for base in bases
            .iter()
            .filter(|base| base.blobs.uki.sha256 != blob.sha256)
        {
            let from = base.blobs.uki.sha256;
            if packs.uki_patches.len() == MAX_PATCHES
                || packs.uki_patches.iter().any(|it| it.from == from)
            {
                continue;
            }
            let known = before.and_then(|it| it.uki_patches.iter().find(|it| it.from == from));
            let known = known.map(|patch| patch.pack);
            if let Some(made) = self.uki_patch(&uki, base, known)? {
                let pack = packs.take(PackKind::Uki(base.version.clone()), made);
                packs.uki_patches.push(UkiPatch { from, pack });
            }
        }
        Ok(packs)
    }

    fn whole(&self, root: &Blocks, known: Option<Pack>) -> Result<Option<Made>, PackError> {
        if let Some(pack) = self.still_there(known)? {
            return Ok(Some(Made::Before(pack)));
        }
        let written = write(
            plan::whole(root),
            root,
            None,
            self.plan.level,
            &self.scratch,
        )?;
        Ok(smaller(written, root.size()))
    }

    fn patch(
        &self,
        root: &Blocks,
        base: &Release,
        known: Option<Pack>,
    ) -> Result<Option<Made>, PackError> {
        if let Some(pack) = self.still_there(known)? {
            return Ok(Some(Made::Before(pack)));
        }
        let Some(path) = self.sound(base, &base.blobs.root)? else {
            return Ok(None);
        };
        let base = Blocks::read(&path).map_err(PackError::Read)?;
        let parts = plan::missing(root, &base);
        let blocks = parts.iter().flat_map(|part| &part.targets);
        let blocks: u64 = blocks.map(|extent| u64::from(extent.blocks)).sum();
        let written = write(parts, root, Some(&base), self.plan.level, &self.scratch)?;
        Ok(smaller(written, blocks * BLOCK_SIZE))
    }

    fn uki_patch(
        &self,
        uki: &Blocks,
        base: &Release,
        known: Option<Pack>,
    ) -> Result<Option<Made>, PackError> {
        if let Some(pack) = self.still_there(known)? {
            return Ok(Some(Made::Before(pack)));
        }
        let Some(path) = self.sound(base, &base.blobs.uki)? else {
            return Ok(None);
        };
        let base = Blocks::read(&path).map_err(PackError::Read)?;
        let parts = plan::every(uki, &base);
        let written = write(parts, uki, Some(&base), self.plan.level, &self.scratch)?;
        Ok(smaller(written, uki.size()))
    }

    fn still_there(&self, known: Option<Pack>) -> Result<Option<Pack>, PackError> {
        match known {
            Some(pack) if self.holds(&pack.blob).map_err(PackError::Read)? => Ok(Some(pack)),
            Some(_) | None => Ok(None),
        }
    }

    /// Returns the blob of a release that a patch starts from. A patch spares
    /// nodes some bytes; for the lack of its base no release stays unpublished.
    fn sound(&self, release: &Release, blob: &Blob) -> Result<Option<PathBuf>, PackError> {
        if self.holds(blob).map_err(PackError::Read)? {
            return Ok(Some(self.repository.join(blob.path().to_string())));
        }
        let (version, path) = (&release.version, blob.path());
        tracing::warn!(%version, %path, "no patch from a release with a lost or damaged blob");
        Ok(None)
    }

    fn holds(&self, blob: &Blob) -> io::Result<bool> {
        let path = self.repository.join(blob.path().to_string());
        Ok(matches!(compare(&path, blob)?, Content::Same))
    }
}

/// Returns a pack that is smaller than the bytes which it spares a node.
fn smaller(written: Written, plain: u64) -> Option<Made> {
    (written.pack.blob.size < plain).then_some(Made::Now(written))
}
