//! The hash tree, by parts: what the root hash proves first, then what that proves.
//!
//! ```text
//! superblock │ upper levels │ leaf hash blocks ………………………………………
//! its shape  │ root hash    │ each by its parent: in its place in the spare
//! is signed  │              │ slot, anywhere in the booted one's tree, or fetched
//! ```
//! Of the superblock only the shape is proved by what the release says, so in
//! the end the digest of the whole has the last word.

use std::ops::Range;
use std::slice::from_ref;

use partition_layout::Slot;
use release::Release;
use release::limits::BLOCK_SIZE;
use verity::{HashArea, HashType, Match, Params, ReadAt, VerifiedTree};

use super::booted::Booted;
use super::medium::Medium;
use super::recipe::{join, price};
use super::{
    Bench, CHUNK, Source, block_size, fetched, flush, len, memory, open_tree, same_shape,
    tree_digest, write,
};
use crate::plan::{Alternative, Method, PlanPart, choose};
use crate::ports::{Fetch, Pace, Part, RangeSupport, Slots, Verdict};
use crate::stage_error::StageError;

const TREE: &str = "hash tree";

/// A tree of which the upper levels are known.
pub(super) type Upper = VerifiedTree<Vec<u8>>;

/// A part of the tree, proved.
#[derive(Debug, Clone, Copy)]
pub(super) struct TreePart<'a> {
    /// Where it lies in the tree, in bytes.
    pub(super) offset: u64,
    pub(super) bytes: &'a [u8],
    pub(super) source: Source,
    /// Which leaf hash block it is; the part before those has no number.
    pub(super) leaf: Option<u64>,
}

/// What takes the parts, each once.
type Take<'a> = &'a mut dyn FnMut(&Upper, TreePart<'_>) -> Result<(), StageError>;

impl<D: Slots + Pace, N: Fetch> Bench<'_, D, N> {
    /// Writes what is missing of the hash tree. On return it has reached the
    /// medium, and leads to the release's root hash.
    pub fn write_tree(&mut self, slot: Slot, release: &Release) -> Result<(), StageError> {
        self.count_fetched(|bench| bench.write_missing_tree(slot, release))
    }

    fn write_missing_tree(&mut self, slot: Slot, release: &Release) -> Result<(), StageError> {
        let (device, meter, stop) = (self.device, self.meter, self.stop);
        let brought = self.bring_tree(slot, release, &mut |_, part| {
            if part.source == Source::There {
                meter.kept(len(part.bytes));
                return Ok(());
            }
            write(device, meter, slot, Part::Verity, part.offset, part.bytes)?;
            meter.came_from(part.source, len(part.bytes));
            super::step(device, stop, len(part.bytes))
        });
        // What has come so far need not come again, whatever ended the work.
        let flushed = flush(device, slot, Part::Verity);
        brought.and(flushed)?;
        let tree = open_tree(device, slot, release)?;
        if tree_digest(device, stop, slot, release, &[])? != release.blobs.verity.sha256 {
            let per_leaf = tree.area().blocks_per_leaf();
            for block in (0..release.verity.data_blocks).step_by(memory(per_leaf)) {
                let root_hash = release.root_hash;
                let failed = |source| StageError::Tree { root_hash, source };
                tree.leaf(block).map_err(failed)?;
            }
            self.mend_superblock(slot, release)?;
        }
        Ok(())
    }

    /// Hands every part of the tree to `take`: first what lies before the leaf
    /// hash blocks, then these, in any order.
    pub(super) fn bring_tree(
        &mut self,
        slot: Slot,
        release: &Release,
        take: Take<'_>,
    ) -> Result<(), StageError> {
        let (upper, start, source) = self.bring_upper(slot, release)?;
        let first = TreePart {
            offset: 0,
            bytes: &start,
            source,
            leaf: None,
        };
        take(&upper, first)?;
        let mut wanted = self.take_known_leaves(slot, release, &upper, take)?;
        let leaves = upper.area().leaves();
        let place = |leaf: u64| leaves.start.saturating_add(leaf.saturating_mul(BLOCK_SIZE));
        let missing = (0..).zip(&wanted).filter(|(_, wanted)| **wanted);
        let ranges = join(missing.map(|(leaf, _)| place(leaf)..place(leaf.saturating_add(1))));
        let alternative = cost(&ranges, &first, release, self.network.ranges());
        self.meter.plan(PlanPart::Tree, Vec::from([alternative]));
        if ranges.is_empty() {
            return Ok(());
        }
        let (blob, stop, mut failed) = (&release.blobs.verity, self.stop, None);
        let result = self
            .network
            .fetch_ranges(blob, &ranges, stop, &mut |offset, bytes| {
                let leaf = offset.saturating_sub(leaves.start) / BLOCK_SIZE;
                match take_fetched(&upper, leaf, bytes, &mut wanted, take) {
                    Ok(Match::Same) => Verdict::Taken,
                    Ok(Match::Different) => Verdict::Bad,
                    Err(error) => {
                        failed = Some(error);
                        Verdict::Stop
                    }
                }
            });
        fetched(TREE, result, failed, stop)
    }

    /// Returns superblock and upper levels: the spare slot's, if they are the
    /// release's, or else the network's.
    fn bring_upper(
        &mut self,
        slot: Slot,
        release: &Release,
    ) -> Result<(Upper, Vec<u8>, Source), StageError> {
        let size = area_of(release)?.leaves().start;
        let mut bytes = vec![0; memory(size)];
        let medium = Medium::new(self.device, slot, Part::Verity);
        if medium.read_exact_at(&mut bytes, 0).is_ok()
            && let Ok(upper) = open_upper(&bytes, release)
        {
            return Ok((upper, bytes, Source::There));
        }
        let (mut upper, mut left, mut failed) = (None, size, None);
        let (blob, stop) = (&release.blobs.verity, self.stop);
        let range = 0..size;
        let result =
            self.network
                .fetch_ranges(blob, from_ref(&range), stop, &mut |offset, piece| {
                    let place = memory(offset)..memory(offset).saturating_add(piece.len());
                    match bytes.get_mut(place) {
                        Some(place) => place.copy_from_slice(piece),
                        None => return Verdict::Bad,
                    }
                    left = left.saturating_sub(len(piece));
                    if left > 0 {
                        return Verdict::Taken;
                    }
                    match open_upper(&bytes, release) {
                        Ok(opened) => {
                            upper = Some(opened);
                            Verdict::Taken
                        }
                        Err(error) => {
                            failed = Some(error);
                            left = size;
                            match len(piece) == size {
                                true => Verdict::Bad,
                                // Any of the pieces may be the bad one.
                                false => Verdict::BadWhole,
                            }
                        }
                    }
                });
        fetched(TREE, result, failed, stop)?;
        let upper = upper.ok_or(StageError::NoWay { what: TREE })?;
        Ok((upper, bytes, Source::Network))
    }

    /// Hands on the leaf hash blocks that a slot of this node holds, and returns
    /// which ones none does.
    fn take_known_leaves(
        &self,
        slot: Slot,
        release: &Release,
        upper: &Upper,
        take: Take<'_>,
    ) -> Result<Vec<bool>, StageError> {
        let leaves = upper.area().leaves();
        let root_hash = release.root_hash;
        let failed = |source| StageError::Tree { root_hash, source };
        let spare = Medium::new(self.device, slot, Part::Verity);
        let booted = Booted::open(self.device, slot, release);
        let index = booted.as_ref().map(Booted::index_leaves);
        let mut wanted = Vec::new();
        let mut last = None;
        let mut buffer = vec![0; CHUNK];
        let mut offset = leaves.start;
        while offset < leaves.end {
            let size = memory((leaves.end - offset).min(len(&buffer)));
            let chunk = buffer
                .get_mut(..size)
                .expect("it is no larger than a chunk");
            let readable = spare.read_exact_at(chunk, offset).is_ok();
            for bytes in chunk.chunks(block_size()) {
                let number = (offset - leaves.start) / BLOCK_SIZE;
                let mut part = TreePart {
                    offset,
                    bytes,
                    source: Source::There,
                    leaf: Some(number),
                };
                offset = offset.saturating_add(BLOCK_SIZE);
                if readable && upper.check_leaf_block(number, bytes).map_err(failed)? == Match::Same
                {
                    take(upper, part)?;
                    wanted.push(false);
                    continue;
                }
                let digest = upper.leaf_block(number).map_err(failed)?;
                let found = booted
                    .as_ref()
                    .zip(index.as_ref())
                    .and_then(|(booted, index)| {
                        let next = last.and_then(|last: u32| last.checked_add(1));
                        let found = index.find(&digest, next, |leaf| booted.leaf_digest(leaf))?;
                        last = Some(found);
                        booted.read_leaf(found)
                    });
                if let Some(found) = &found {
                    part.bytes = found;
                    part.source = Source::Booted;
                    take(upper, part)?;
                }
                wanted.push(found.is_none());
            }
            self.step(len(&buffer))?;
        }
        Ok(wanted)
    }

    /// Fetches the superblock's block until the whole tree has its digest: all
    /// the rest was proved by the root hash.
    fn mend_superblock(&mut self, slot: Slot, release: &Release) -> Result<(), StageError> {
        let (device, meter, stop) = (self.device, self.meter, self.stop);
        let blob = &release.blobs.verity;
        let mut failed = None;
        let take = |bytes: &[u8]| {
            if tree_digest(device, stop, slot, release, bytes)? != blob.sha256 {
                return Ok(Verdict::Bad);
            }
            write(device, meter, slot, Part::Verity, 0, bytes)?;
            Ok(Verdict::Taken)
        };
        let range = 0..BLOCK_SIZE.min(blob.size);
        let result = self
            .network
            .fetch_ranges(blob, from_ref(&range), stop, &mut |_, bytes| {
                take(bytes).unwrap_or_else(|error| {
                    failed = Some(error);
                    Verdict::Stop
                })
            });
        fetched(TREE, result, failed, stop)?;
        flush(device, slot, Part::Verity)
    }
}

/// Takes the leaf hash blocks from `leaf` on that are wanted, and tells whether
/// all of those are right.
fn take_fetched(
    upper: &Upper,
    leaf: u64,
    bytes: &[u8],
    wanted: &mut [bool],
    take: Take<'_>,
) -> Result<Match, StageError> {
    let mut all = Match::Same;
    for (leaf, bytes) in (leaf..).zip(bytes.chunks(block_size())) {
        let wanted = usize::try_from(leaf).ok().and_then(|at| wanted.get_mut(at));
        let Some(wanted) = wanted.filter(|wanted| **wanted) else {
            continue;
        };
        // The levels above are in memory, and were proved.
        if !matches!(upper.check_leaf_block(leaf, bytes), Ok(Match::Same)) {
            all = Match::Different;
            continue;
        }
        let start = upper.area().leaves().start;
        take(
            upper,
            TreePart {
                offset: start.saturating_add(leaf.saturating_mul(BLOCK_SIZE)),
                bytes,
                source: Source::Network,
                leaf: Some(leaf),
            },
        )?;
        *wanted = false;
    }
    Ok(all)
}

/// What the tree costs. There is no choice: a server without ranges sends what
/// lies between too.
fn cost(
    ranges: &[Range<u64>],
    start: &TreePart<'_>,
    release: &Release,
    support: RangeSupport,
) -> Alternative {
    let (fetch, requests) = price(ranges, support);
    let (first, more) = match start.source {
        Source::There | Source::Booted => (0, 0),
        Source::Network => (len(start.bytes), 1),
    };
    let method = match (support, fetch.saturating_add(first)) {
        (_, 0) => Method::Local,
        (RangeSupport::No, _) => Method::Whole,
        (RangeSupport::Yes | RangeSupport::Unknown, _) => Method::Ranges,
    };
    let fetch = fetch.saturating_add(first);
    let kept = release.blobs.verity.size.saturating_sub(fetch);
    let mut cost = [Alternative {
        fetch,
        requests: requests.saturating_add(more),
        // What of it is in which slot makes no difference to anybody.
        there: kept,
        write: release.blobs.verity.size,
        ..Alternative::new(PlanPart::Tree, method)
    }];
    choose(&mut cost);
    let [cost] = cost;
    cost
}

/// Where the parts of the release's tree lie: behind a block for the superblock.
pub(crate) fn area_of(release: &Release) -> Result<HashArea, StageError> {
    let verity = &release.verity;
    let size = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
    let params = Params {
        data_block_size: size(verity.data_block_size),
        hash_block_size: size(verity.hash_block_size),
        salt: verity.salt.as_bytes().to_vec(),
        hash_type: HashType::Normal,
    };
    HashArea::bare(params, verity.data_blocks, BLOCK_SIZE)
        .map_err(|source| StageError::Area { source })
}

/// Opens what lies before the leaf hash blocks.
fn open_upper(bytes: &[u8], release: &Release) -> Result<Upper, StageError> {
    let bytes = bytes.to_vec();
    let area = HashArea::read(&bytes, 0).map_err(|source| StageError::Superblock { source })?;
    same_shape(&area, release)?;
    let root_hash = release.root_hash;
    VerifiedTree::open(bytes, area, &root_hash)
        .map_err(|source| StageError::Tree { root_hash, source })
}
