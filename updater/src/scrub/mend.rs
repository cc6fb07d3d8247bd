//! Puts sound blocks in the place of rotten ones.
//!
//! Who has a sound copy does not matter, since the image's tree proves it: the other
//! slot, if one of its blocks is the same, or else the repository and its mirrors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::ops::Range;

use partition_layout::{RootHash, Slot, SlotContent, Version};
use release::limits::BLOCK_SIZE;
use release::{Blob, Release};
use verity::{ReadAt, TreeError};

use super::kernel::KernelFate;
use super::proven::{OpenProverError, Proven, Prover};
use super::{block_len, erofs, read_block};
use crate::history::HistoryLine;
use crate::meter::Meter;
use crate::ports::{
    BootControl, Fetch, FetchError, Pace, Part, Records, Releases, ReleasesError, Slots, Stop,
    Stopped, Verdict,
};
use crate::records::Happened;
use crate::refusal::Chain;

/// What rotten blocks are mended with.
#[derive(Debug)]
pub struct Mender<'a, D, N> {
    pub device: &'a D,
    pub network: &'a mut N,
    pub meter: &'a Meter,
    pub stop: &'a Stop,
    /// The slot to be mended, and what it holds.
    pub slot: Slot,
    pub version: &'a Version,
    pub root_hash: RootHash,
}

/// What became of the blocks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mended {
    /// Sound again, by the block that the other slot has.
    pub from_other: Vec<u64>,
    /// Sound again, by the repository's.
    pub from_repository: Vec<u64>,
    /// Rotten still.
    pub lost: Vec<u64>,
    /// Whose blocks they are, as far as it can be told.
    pub files: BTreeMap<u64, String>,
    /// How many blocks of the hash tree were made again from what they are about.
    pub tree_rebuilt: u64,
    /// How many were fetched.
    pub tree_fetched: u64,
    /// The kernel image.
    pub kernel: KernelFate,
    /// Why blocks could not be put in order at all.
    pub stuck: Option<String>,
    /// Why the repository could not help, if it was asked.
    pub why_not: Option<String>,
}

/// How many blocks are told by their names.
const NAMED: usize = 8;
/// How the history says it.
const ROTTEN_KERNEL: &str = "the kernel image is rotten";

/// Why rotten blocks cannot be mended.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    #[error("cannot read the hash tree of slot {slot}: no block can be proved")]
    Tree { slot: Slot, source: OpenProverError },
    #[error("the hash tree is rotten, and no sound copy is to be had")]
    HashTree(#[from] TreeError),
    #[error("cannot prove blocks of slot {slot}")]
    Prove { slot: Slot, source: TreeError },
    #[error("cannot mend block {block} of slot {slot}")]
    Write {
        slot: Slot,
        block: u64,
        source: io::Error,
    },
    #[error("cannot find the other slot")]
    View { source: io::Error },
    #[error("asked to stop")]
    Stopped,
}

impl From<Stopped> for MendError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// A partition of a slot, read from the medium.
#[derive(Debug)]
pub(crate) struct OnMedium<'a, D> {
    pub(crate) device: &'a D,
    pub(crate) slot: Slot,
    pub(crate) part: Part,
}

impl<D: Slots> ReadAt for OnMedium<'_, D> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.device.read_medium(self.slot, self.part, offset, buf)
    }
}

impl<D: Slots + BootControl + Pace + Records, N: Fetch + Releases> Mender<'_, D, N> {
    /// Mends those of `blocks` that are rotten, and the kernel image. On return, what was
    /// mended has reached the medium, and was read back from it.
    ///
    /// # Errors
    /// It was asked to stop. Whatever else keeps it from mending is told, and no error.
    pub fn mend(&mut self, blocks: &[u64]) -> Result<Mended, Stopped> {
        let mut mended = Mended::default();
        if !blocks.is_empty() {
            match self.mend_image(blocks, &mut mended) {
                Ok(()) => {}
                Err(MendError::Stopped) => return Err(Stopped),
                Err(error) => mended.stuck = Some(Chain(&error).to_string()),
            }
        }
        mended.kernel = self.mend_kernel()?;
        Ok(mended)
    }
}

impl<D: Slots + Pace, N: Fetch + Releases> Mender<'_, D, N> {
    fn mend_image(&mut self, blocks: &[u64], mended: &mut Mended) -> Result<(), MendError> {
        let (device, slot) = (self.device, self.slot);
        let on = |part| OnMedium { device, slot, part };
        self.mend_tree(mended)?;
        let prover = Prover::open(on(Part::Verity), self.root_hash)
            .map_err(|source| MendError::Tree { slot, source })?;
        let failed = |source| MendError::Prove { slot, source };
        let mut rotten = BTreeMap::new();
        for block in blocks.iter().copied() {
            // It may have been mended, or have been a passing fault.
            let sound = match read_block(&on(Part::Root), block) {
                Ok(bytes) => prover.prove(block, &bytes).map_err(failed)?.is_some(),
                Err(_) => false,
            };
            if !sound {
                rotten.insert(block, prover.digest(block).map_err(failed)?);
            }
        }
        let numbers: BTreeSet<u64> = rotten.keys().copied().collect();
        mended.files = erofs::files_of(&on(Part::Root), &numbers);
        self.copy_from_other(&prover, &mut rotten, mended)?;
        if !rotten.is_empty() {
            self.fetch_from_repository(&prover, &mut rotten, mended)?;
        }
        mended.lost = rotten.into_keys().collect();
        Ok(())
    }

    fn copy_from_other(
        &self,
        prover: &Prover<impl ReadAt>,
        rotten: &mut BTreeMap<u64, [u8; 32]>,
        mended: &mut Mended,
    ) -> Result<(), MendError> {
        let view = self.device.view();
        let view = view.map_err(|source| MendError::View { source })?;
        let slot = self.slot.other();
        let root_hash = match view.slot(slot).map(|it| &it.content) {
            _ if view.booted == slot => view.booted_root_hash,
            Some(SlotContent::Holds { root_hash, .. }) => *root_hash,
            Some(SlotContent::Empty | SlotContent::Unknown { .. }) | None => return Ok(()),
        };
        let on = |part| OnMedium {
            device: self.device,
            slot,
            part,
        };
        let other = match Prover::open(on(Part::Verity), root_hash) {
            Ok(other) => other,
            Err(error) => {
                tracing::warn!(%slot, error = %Chain(&error), "the other slot helps nobody");
                return Ok(());
            }
        };
        let mut wanted: HashMap<[u8; 32], Vec<u64>> = HashMap::new();
        for (block, digest) in rotten.iter() {
            wanted.entry(*digest).or_default().push(*block);
        }
        for candidate in 0..other.blocks() {
            if candidate % 256 == 0 {
                let read = BLOCK_SIZE;
                self.device
                    .step(read, self.stop)
                    .map_err(|_| MendError::Stopped)?;
            }
            // A leaf that is rotten there hides what it is about.
            let Ok(digest) = other.digest(candidate) else {
                continue;
            };
            let Some(blocks) = wanted.get(&digest) else {
                continue;
            };
            let Ok(bytes) = read_block(&on(Part::Root), candidate) else {
                continue;
            };
            for block in blocks {
                if rotten.contains_key(block) && self.put(prover, *block, &bytes)? {
                    rotten.remove(block);
                    mended.from_other.push(*block);
                    self.meter.count(|tally| tally.copied += BLOCK_SIZE);
                }
            }
        }
        Ok(())
    }

    fn fetch_from_repository(
        &mut self,
        prover: &Prover<impl ReadAt>,
        rotten: &mut BTreeMap<u64, [u8; 32]>,
        mended: &mut Mended,
    ) -> Result<(), MendError> {
        let Some(release) = self.release_of_image(mended)? else {
            return Ok(());
        };
        let before = self.network.received();
        let blob = release.blobs.root;
        let ranges = ranges(rotten.keys().copied(), &blob);
        let mut sound = Vec::new();
        let mut failed = None;
        let fetched = self
            .network
            .fetch_ranges(&blob, &ranges, self.stop, &mut |offset, bytes| {
                let mut verdict = Verdict::Taken;
                let first = offset / BLOCK_SIZE;
                for (block, bytes) in (first..).zip(bytes.chunks(block_len())) {
                    match prover.prove(block, bytes) {
                        Ok(Some(proven)) => sound.push(proven),
                        Ok(None) => verdict = Verdict::Bad,
                        Err(error) => {
                            failed = Some(error);
                            return Verdict::Stop;
                        }
                    }
                }
                verdict
            });
        let received = self.network.received().saturating_sub(before);
        self.meter.count(|tally| tally.fetched += received);
        if let Some(source) = failed {
            let slot = self.slot;
            return Err(MendError::Prove { slot, source });
        }
        match fetched {
            Ok(()) => {}
            Err(FetchError::Stopped) => return Err(MendError::Stopped),
            Err(error) => mended.why_not = Some(Chain(&error).to_string()),
        }
        // What has come is good, however the fetching ended.
        for proven in sound {
            if rotten.remove(&proven.block()).is_some() {
                self.write(&proven)?;
                mended.from_repository.push(proven.block());
            }
        }
        Ok(())
    }

    /// Looks up what the repository says of the image, and tells in `mended` why that cannot be known.
    pub(super) fn release_of_image(
        &mut self,
        mended: &mut Mended,
    ) -> Result<Option<Release>, MendError> {
        let found = self.release()?;
        Ok(found.map_err(|why| mended.why_not = Some(why)).ok())
    }

    /// The same; the inner error says why it cannot be known.
    pub(super) fn release(&mut self) -> Result<Result<Release, String>, Stopped> {
        match self.network.release(Some(self.version), self.stop) {
            Ok(release) if release.root_hash == self.root_hash => Ok(Ok(release)),
            Ok(_) => Ok(Err(format!(
                "its release {} is another image",
                self.version
            ))),
            Err(ReleasesError::Stopped) => Err(Stopped),
            Err(error) => Ok(Err(Chain(&error).to_string())),
        }
    }

    fn put(
        &self,
        prover: &Prover<impl ReadAt>,
        block: u64,
        bytes: &[u8],
    ) -> Result<bool, MendError> {
        let slot = self.slot;
        let proven = prover.prove(block, bytes);
        let proven = proven.map_err(|source| MendError::Prove { slot, source })?;
        match proven {
            None => Ok(false),
            Some(proven) => self.write(&proven).map(|()| true),
        }
    }

    pub(super) fn write(&self, proven: &Proven) -> Result<(), MendError> {
        let (slot, block) = (self.slot, proven.block());
        let failed = |source| MendError::Write {
            slot,
            block,
            source,
        };
        self.device.mend(slot, proven).map_err(failed)?;
        self.meter.count(|tally| tally.written += BLOCK_SIZE);
        let medium = OnMedium {
            device: self.device,
            slot,
            part: proven.part(),
        };
        if read_block(&medium, block).map_err(failed)? != proven.bytes() {
            let message = "the medium does not keep what is written to it";
            return Err(failed(io::Error::other(message)));
        }
        Ok(())
    }
}

/// Neighbours are fetched together.
fn ranges(blocks: impl Iterator<Item = u64>, blob: &Blob) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for block in blocks {
        let start = block.saturating_mul(BLOCK_SIZE);
        let end = start.saturating_add(BLOCK_SIZE).min(blob.size);
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            Some(_) | None if start < end => ranges.push(start..end),
            Some(_) | None => {}
        }
    }
    ranges
}

impl Mended {
    /// Returns whether nothing is rotten any more, as far as anybody could tell of all of it.
    pub fn is_whole(&self) -> bool {
        let is_known = matches!(self.kernel, KernelFate::Sound | KernelFate::Mended(_));
        self.lost.is_empty() && self.stuck.is_none() && is_known
    }

    /// Returns what is to be told of it, if anything is.
    pub fn event(&self) -> Option<Happened> {
        let is_rotten = matches!(self.kernel, KernelFate::Rotten { .. });
        if !self.lost.is_empty() || self.stuck.is_some() || is_rotten {
            return Some(Happened::Rotten);
        }
        let blocks = self.from_other.len() + self.from_repository.len();
        let is_kernel = matches!(self.kernel, KernelFate::Mended(_));
        let is_tree = self.tree_rebuilt + self.tree_fetched > 0;
        (blocks > 0 || is_tree || is_kernel).then_some(Happened::Mended)
    }

    /// Returns whether an earlier line says of all that is rotten that it is. Why nobody could mend
    /// it may be another reason each time.
    pub fn is_told_by(&self, line: &HistoryLine) -> bool {
        let told = line.message.as_str();
        let is_named = |block: &u64| {
            let name = format!("block {block}");
            let mut ends = told.match_indices(&name).map(|(at, _)| at + name.len());
            ends.any(|end| {
                told.get(end..)
                    .is_some_and(|rest| rest.starts_with([' ', ',']))
            })
        };
        let is_kernel_told = match &self.kernel {
            KernelFate::Rotten { .. } => told.contains(ROTTEN_KERNEL),
            KernelFate::Sound | KernelFate::Mended(_) | KernelFate::Unknown { .. } => true,
        };
        let is_image_told = match &self.stuck {
            Some(_) => told.contains("block"),
            // Of a long one the history has the beginning.
            None => line.is_cut() || self.lost.iter().take(NAMED).all(is_named),
        };
        is_kernel_told && is_image_told
    }

    /// Says what became of them, for people. Of what was sound there is nothing to say.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        match &self.kernel {
            KernelFate::Sound => {}
            KernelFate::Mended(blocks) => {
                parts.push(format!(
                    "blocks of the kernel image mended from the repository: {blocks}"
                ));
            }
            KernelFate::Rotten { why } => parts.push(format!("{ROTTEN_KERNEL}: {why}")),
            KernelFate::Unknown { why } => {
                parts.push(format!("nobody can tell what the kernel image is: {why}"));
            }
        }
        for (count, fate) in [
            (self.tree_rebuilt, "made again from what they are about"),
            (self.tree_fetched, "mended from the repository"),
        ] {
            if count > 0 {
                parts.push(format!("blocks of the hash tree {fate}: {count}"));
            }
        }
        for (blocks, fate) in [
            (&self.from_other, "mended from the other slot"),
            (&self.from_repository, "mended from the repository"),
            (&self.lost, "rotten, and no sound copy is to be had"),
        ] {
            if !blocks.is_empty() {
                parts.push(format!("{} {fate}", self.names(blocks)));
            }
        }
        parts.extend(self.stuck.clone());
        parts.extend(
            self.why_not
                .as_ref()
                .map(|why| format!("the repository: {why}")),
        );
        parts.join("; ")
    }

    fn names(&self, blocks: &[u64]) -> String {
        let name = |block: &u64| match self.files.get(block) {
            Some(file) => format!("block {block} ({file})"),
            None => format!("block {block}"),
        };
        let mut names: Vec<String> = blocks.iter().take(NAMED).map(name).collect();
        let more = blocks.len().saturating_sub(NAMED);
        if more > 0 {
            names.push(format!("{more} more"));
        }
        names.join(", ")
    }
}
