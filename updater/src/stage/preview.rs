//! What an update would cost, without a byte written.
//!
//! Every leaf hash block passes by once, from wherever it is to be had, and
//! says of 128 blocks where those are: memory does not grow with the tree.

use partition_layout::Slot;
use release::Release;
use release::limits::BLOCK_SIZE;
use verity::ReadAt;

use super::booted::Booted;
use super::medium::Medium;
use super::survey::{Class, Search, Survey};
use super::tree::{TreePart, Upper};
use super::{Bench, block_size, len, memory};
use crate::plan::{Plan, PlanPart};
use crate::ports::{BootControl, Fetch, KeptPieces, Pace, Part, Slots};
use crate::stage_error::StageError;

impl<D: Slots + BootControl + KeptPieces + Pace, N: Fetch> Bench<'_, D, N> {
    /// Returns the ways by which `release` would come into `slot`. What it
    /// fetches for that (the hash tree, the indexes of packs) is not kept.
    pub fn preview(&mut self, slot: Slot, release: &Release) -> Result<Plan, StageError> {
        self.count_fetched(|bench| bench.look_through(slot, release))?;
        Ok(self.meter.known_plan())
    }

    fn look_through(&mut self, slot: Slot, release: &Release) -> Result<(), StageError> {
        let (device, stop) = (self.device, self.stop);
        let booted = Booted::open(device, slot, release);
        let index = booted.as_ref().map(Booted::index_blocks);
        let known = booted.as_ref().zip(index.as_ref());
        let spare = Medium::new(device, slot, Part::Root);
        let mut survey = Survey::unknown(release.verity.data_blocks);
        let mut search = None;
        self.bring_tree(slot, release, &mut |upper, part| {
            let search = search.get_or_insert_with(|| Search::new(upper, known));
            let bytes = classify(upper, &part, release, &spare, search, &mut survey);
            super::step(device, stop, bytes)
        })?;
        let ways = self.look_at_ways(release, booted.as_ref(), &survey)?;
        let (alternatives, _) = ways.compare(&survey, self.network.ranges());
        self.meter.plan(PlanPart::Root, alternatives);
        self.plan_kernel(release)
    }
}

/// Says where the blocks are whose digests a part of the tree has, and returns
/// how many bytes were read for that.
fn classify<D: Slots>(
    upper: &Upper,
    part: &TreePart<'_>,
    release: &Release,
    spare: &Medium<'_, D>,
    search: &mut Search<'_, D>,
    survey: &mut Survey,
) -> u64 {
    let per_leaf = upper.area().blocks_per_leaf();
    let only = [*release.root_hash.as_bytes()];
    let (first, digests) = match part.leaf {
        Some(leaf) => (leaf.saturating_mul(per_leaf), part.bytes.as_chunks().0),
        // A tree over one block has no leaves: the root hash is that block's.
        None if upper.area().leaves().is_empty() => (0, only.as_slice()),
        None => return 0,
    };
    let end = first
        .saturating_add(len(part.bytes))
        .min(release.verity.data_blocks);
    let count = memory(end.saturating_sub(first)).min(digests.len());
    let mut bytes = vec![0; count.saturating_mul(block_size())];
    let readable = spare
        .read_exact_at(&mut bytes, first.saturating_mul(BLOCK_SIZE))
        .is_ok();
    for ((block, digest), bytes) in (first..).zip(digests).zip(bytes.chunks(block_size())) {
        let class = if readable && upper.digest(bytes) == *digest {
            Class::There
        } else {
            search.class_of(digest)
        };
        survey.set(block, class);
    }
    len(&bytes)
}
