//! Fills the spare slot's partitions, and proves what is on the medium.
//!
//! ```text
//! write_tree   superblock and upper levels ──root hash──▶ leaf hash blocks, each by its parent ──▶ verity partition
//! write_root   survey ──▶ plan ──▶ fill, each block against that tree ──▶ root partition
//! read_back    both partitions, from the medium, whole: tree's digest, root hash
//! ```
//! The hash tree is the one index. Each block that is to be in the spare slot
//! has a digest that leads to the signed root hash, so it does not matter who
//! gives the block: it may be there already, be zero, lie in the booted slot,
//! or come from any server, plain or in a frame of a pack. What is not right is
//! simply still missing.
//!
//! Nothing is remembered of how far a stage got: the next one reads what is
//! there. The slot cannot boot meanwhile. Memory: 8 bytes for each booted block
//! ([`index`]), one for each block of the release ([`survey`]), a frame of a
//! pack per connection, and a few chunks.
//!
//! Start reading at [`tree`], then [`fill`].

mod booted;
mod copy;
mod fill;
mod frames;
mod index;
mod medium;
mod preview;
mod recipe;
mod survey;
mod target;
pub(crate) mod tree;
mod ways;

use partition_layout::{RootHash, Slot};
use release::limits::BLOCK_SIZE;
use release::{Digest, Release};
use sha2::{Digest as _, Sha256};
use verity::{CompareError, HashArea, Match, ReadAreaError, Stretch, VerifiedTree};

pub(crate) use self::frames::{FrameTarget, Frames};
use self::medium::{Medium, TreeMedium};
pub(crate) use self::recipe::Recipe;
pub(crate) use self::ways::PackInUse;
use crate::meter::Meter;
use crate::ports::{Fetch, FetchError, Pace, Part, Slots, Stop};
pub use crate::stage_error::StageError;

/// What is written and read back at once: large enough that a disk is not
/// asked thousands of times a second, small beside the 40 MiB that the daemon may take.
pub(crate) const CHUNK: usize = 1 << 20;

/// What filling a slot works with.
#[derive(Debug)]
pub struct Bench<'a, D, N> {
    pub device: &'a D,
    pub network: &'a mut N,
    pub meter: &'a Meter,
    pub stop: &'a Stop,
}

/// Where a part of the release came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The spare slot has it, in its place.
    There,
    Booted,
    Network,
}

pub(crate) fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("memory is smaller than 2^64 bytes")
}

pub(crate) fn digest(hasher: Sha256) -> Digest {
    Digest::new(hasher.finalize().into())
}

/// A length that memory has room for: no chunk, block or frame is larger than a few MiB.
pub(crate) fn memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("it is a few MiB")
}

pub(crate) fn block_size() -> usize {
    memory(BLOCK_SIZE)
}

/// How a fetch ended whose sink may have failed, or complained: its reason says
/// more than that of the network, which only heard that it should stop, or go elsewhere.
pub(crate) fn fetched(
    what: &'static str,
    result: Result<(), FetchError>,
    failed: Option<StageError>,
    stop: &Stop,
) -> Result<(), StageError> {
    match (result, failed) {
        (Ok(()), _) => Ok(()),
        (Err(FetchError::Stopped), _) if stop.is_set() => Err(StageError::Stopped),
        (Err(FetchError::Stopped | FetchError::BlobCorrupt { .. }), Some(error)) => Err(error),
        (Err(FetchError::Stopped), None) => Err(StageError::Stopped),
        (Err(source), _) => Err(StageError::Fetch { what, source }),
    }
}

impl<D: Slots + Pace, N: Fetch> Bench<'_, D, N> {
    /// Reads both partitions back from the medium, whole: the tree's digest is
    /// the release's, and every block of the image leads to the root hash.
    pub fn read_back(&mut self, slot: Slot, release: &Release) -> Result<(), StageError> {
        let expected = release.blobs.verity.sha256;
        let found = tree_digest(self.device, self.stop, slot, release, &[])?;
        self.meter.read_back(release.blobs.verity.size);
        if found != expected {
            return Err(StageError::ReadBackDigest {
                slot,
                found,
                expected,
            });
        }
        self.check_image(slot, release.root_hash, &mut |area| {
            same_shape(area, release)?;
            Ok(())
        })
    }

    /// Reads a slot that was filled in the past: every block of its image leads
    /// to `root_hash`.
    pub fn check_whole(&mut self, slot: Slot, root_hash: RootHash) -> Result<(), StageError> {
        let meter = self.meter;
        self.check_image(slot, root_hash, &mut |area| {
            meter.expect(area.data_len());
            Ok(())
        })
    }

    fn check_image(
        &self,
        slot: Slot,
        root_hash: RootHash,
        look: &mut impl FnMut(&HashArea) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        // Not the whole bench: the network is no other thread's.
        let (device, meter, stop) = (self.device, self.meter, self.stop);
        let medium = TreeMedium::new(device, slot);
        let area =
            HashArea::read(&medium, 0).map_err(|source| StageError::NoTree { slot, source })?;
        look(&area)?;
        let failed = |source| StageError::ReadBackTree {
            slot,
            root_hash,
            source,
        };
        let tree = VerifiedTree::open(medium, area, &root_hash).map_err(failed)?;
        let image = Medium::new(device, slot, Part::Root);
        let compared = verity::compare(&image, &tree, |stretch: Stretch| {
            let Stretch {
                first,
                blocks,
                found,
            } = stretch;
            let found = found.map_err(|source| StageError::ReadBack {
                slot,
                part: Part::Root,
                offset: first.saturating_mul(BLOCK_SIZE),
                source,
            })?;
            let same = |found: &Match| *found == Match::Same;
            if let Some((block, _)) = (first..).zip(&found).find(|(_, found)| !same(found)) {
                return Err(StageError::ReadBackBlock {
                    slot,
                    root_hash,
                    block,
                });
            }
            let bytes = blocks.saturating_mul(BLOCK_SIZE);
            meter.read_back(bytes);
            step(device, stop, bytes)
        });
        compared.map_err(|error| match error {
            CompareError::Tree(source) => failed(source),
            CompareError::Ended(error) => error,
        })
    }

    /// Does a piece of work, and counts what it fetched, however it ends.
    pub(crate) fn count_fetched<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.network.received();
        let done = work(self);
        let fetched = self.network.received().saturating_sub(before);
        self.meter.fetched(fetched);
        done
    }

    /// To be called between two chunks of work: others may want the machine, or
    /// somebody the hands.
    pub(crate) fn step(&self, bytes: u64) -> Result<(), StageError> {
        step(self.device, self.stop, bytes)
    }
}

pub(crate) fn step(pace: &impl Pace, stop: &Stop, bytes: u64) -> Result<(), StageError> {
    pace.step(bytes, stop).map_err(|_| StageError::Stopped)
}

/// Returns the digest of the hash tree on the medium, with `start` in place of
/// its first bytes.
fn tree_digest(
    device: &(impl Slots + Pace),
    stop: &Stop,
    slot: Slot,
    release: &Release,
    start: &[u8],
) -> Result<Digest, StageError> {
    let medium = Medium::new(device, slot, Part::Verity);
    let mut hasher = Sha256::new();
    hasher.update(start);
    medium.read_through(len(start)..release.blobs.verity.size, |bytes| {
        hasher.update(bytes);
        step(device, stop, len(bytes))
    })?;
    Ok(digest(hasher))
}

/// Opens the hash tree that was written for `release`.
fn open_tree<'a, D: Slots>(
    device: &'a D,
    slot: Slot,
    release: &Release,
) -> Result<VerifiedTree<TreeMedium<'a, D>>, StageError> {
    let medium = TreeMedium::new(device, slot);
    let area = HashArea::read(&medium, 0).map_err(|source| match source {
        ReadAreaError::Read { .. } => StageError::NoTree { slot, source },
        ReadAreaError::Superblock { .. } | ReadAreaError::Area { .. } => {
            StageError::Superblock { source }
        }
    })?;
    same_shape(&area, release)?;
    let root_hash = release.root_hash;
    VerifiedTree::open(medium, area, &root_hash)
        .map_err(|source| StageError::Tree { root_hash, source })
}

fn write(
    device: &impl Slots,
    meter: &Meter,
    slot: Slot,
    part: Part,
    offset: u64,
    bytes: &[u8],
) -> Result<(), StageError> {
    device
        .write(slot, part, offset, bytes)
        .map_err(|source| StageError::Write { slot, part, source })?;
    meter.wrote(len(bytes));
    Ok(())
}

fn flush(device: &impl Slots, slot: Slot, part: Part) -> Result<(), StageError> {
    device
        .flush(slot, part)
        .map_err(|source| StageError::Flush { slot, part, source })
}

/// The kernel reads the superblock's shape from the table that PID 1 makes of
/// it, so it has to be the signed one.
fn same_shape(area: &HashArea, release: &Release) -> Result<(), StageError> {
    let params = area.params();
    let verity = &release.verity;
    let found = (
        u64::from(params.data_block_size),
        u64::from(params.hash_block_size),
        area.data_blocks(),
        params.salt.as_slice(),
    );
    let expected = (
        verity.data_block_size,
        verity.hash_block_size,
        verity.data_blocks,
        verity.salt.as_bytes(),
    );
    if found == expected {
        return Ok(());
    }
    let show = |(data, hash, blocks, salt): (u64, u64, u64, &[u8])| {
        format!(
            "{blocks} blocks of {data} bytes, hashed into {hash}, salt {}",
            hex::encode(salt)
        )
    };
    Err(StageError::TreeShape {
        found: show(found),
        expected: show(expected),
    })
}
