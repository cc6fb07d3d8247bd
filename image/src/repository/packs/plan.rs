//! Which blocks go into which frame of a pack.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use release::limits::{BLOCK_SIZE, PACK_BASE_BLOCKS, PACK_FRAME_BLOCKS};
use release::pack::Extent;

use super::blocks::{Blocks, Key, key};

/// The blocks of a frame of the compressed whole: 128 KiB. Measured on the
/// security update of ADR 0006: a node without a patch then fetches 19.4 MB,
/// where frames of 1 MiB cost 26.1.
const WHOLE_FRAME_BLOCKS: u64 = 32;
/// How much of the base around the place that a frame's neighbours came from
/// is its prefix, in blocks on either side: 1 MiB. Measured there too; twice
/// as much gains nothing.
const SLACK: u64 = 256;

/// A frame that is to be packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) targets: Vec<Extent>,
    pub(crate) bases: Vec<Extent>,
}

/// Returns the frames of the compressed whole.
pub(crate) fn whole(target: &Blocks) -> Vec<Part> {
    let all: Vec<u64> = numbers(target.keys()).collect();
    let frames = all.chunk_by(|one, next| one / WHOLE_FRAME_BLOCKS == next / WHOLE_FRAME_BLOCKS);
    frames
        .map(|blocks| Part {
            targets: extents(blocks),
            bases: Vec::new(),
        })
        .collect()
}

/// Returns the frames of a patch that holds the blocks which the base does not
/// hold and which are not all zeros.
pub(crate) fn missing(target: &Blocks, base: &Blocks) -> Vec<Part> {
    let blocks = missing_blocks(target.keys(), base.keys());
    against(target.keys(), base.keys(), &blocks)
}

/// Returns the frames of a patch that holds every block.
pub(crate) fn every(target: &Blocks, base: &Blocks) -> Vec<Part> {
    let blocks: Vec<u64> = numbers(target.keys()).collect();
    against(target.keys(), base.keys(), &blocks)
}

/// Returns the blocks of the target that the base holds nowhere and that are
/// not all zeros.
pub(crate) fn missing_blocks(target: &[Key], base: &[Key]) -> Vec<u64> {
    let zeros = key(&vec![0; usize::try_from(BLOCK_SIZE).unwrap_or_default()]);
    let mut known: HashSet<&Key> = base.iter().collect();
    known.insert(&zeros);
    let missing = numbers(target).zip(target);
    let missing = missing.filter(|(_, key)| !known.contains(key));
    missing.map(|(number, _)| number).collect()
}

/// Puts these blocks of the target into frames: a frame for each MiB of it, with
/// the part of the base for a prefix that its neighbours came from.
fn against(target: &[Key], base: &[Key], blocks: &[u64]) -> Vec<Part> {
    let alignment = Alignment::of(target, base);
    let frames = blocks.chunk_by(|one, next| one / PACK_FRAME_BLOCKS == next / PACK_FRAME_BLOCKS);
    let mut parts = Vec::new();
    for blocks in frames {
        let first = blocks.first().copied().unwrap_or_default();
        let start = first - first % PACK_FRAME_BLOCKS;
        let end = (start + PACK_FRAME_BLOCKS).min(alignment.target);
        let region = alignment.region(start, end);
        let bases: Vec<u64> = region.collect();
        parts.push(Part {
            targets: extents(blocks),
            bases: extents(&bases),
        });
    }
    parts
}

/// Where the blocks of the target come from in the base.
#[derive(Debug)]
struct Alignment {
    /// Blocks of the target that lie in the base too, and where; both rise.
    anchors: Vec<(u64, u64)>,
    /// The blocks of both.
    target: u64,
    base: u64,
}

impl Alignment {
    fn of(target: &[Key], base: &[Key]) -> Self {
        let mut once: HashMap<&Key, Option<u64>> = HashMap::with_capacity(base.len());
        for (number, key) in numbers(base).zip(base) {
            match once.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(Some(number));
                }
                // What lies in several places says nothing about the place.
                Entry::Occupied(mut entry) => *entry.get_mut() = None,
            }
        }
        let found = |(number, key)| Some((number, once.get(key).copied().flatten()?));
        let pairs: Vec<_> = numbers(target).zip(target).filter_map(found).collect();
        Self {
            anchors: longest_rising(&pairs),
            target: count(target),
            base: count(base),
        }
    }

    /// Returns the blocks of the base around where the blocks `start..end` of
    /// the target came from; no more than a frame may refer to.
    fn region(&self, start: u64, end: u64) -> std::ops::Range<u64> {
        let (from, to) = (self.place(start), self.place(end));
        let (low, high) = (from.saturating_sub(SLACK), to.saturating_add(SLACK));
        let high = high.max(low).min(self.base);
        let low = low.min(high);
        // Where much was taken out or put in, the middle of it.
        let excess = (high - low).saturating_sub(PACK_BASE_BLOCKS);
        low + excess / 2..high - excess.div_ceil(2)
    }

    /// Returns where a block would lie in the base, judged by the nearest
    /// anchors on both sides.
    fn place(&self, block: u64) -> u64 {
        let after = self.anchors.partition_point(|(at, _)| *at <= block);
        let before = after.checked_sub(1).and_then(|it| self.anchors.get(it));
        let (x0, y0) = before.copied().unwrap_or((0, 0));
        let next = self.anchors.get(after).copied();
        let (x1, y1) = next.unwrap_or((self.target, self.base));
        if x1 <= x0 || y1 <= y0 {
            return y0;
        }
        // Blocks of an image are fewer than 2^32.
        y0 + (block - x0) * (y1 - y0) / (x1 - x0)
    }
}

/// Returns the longest selection of pairs whose second numbers rise as their
/// first ones do: what moved elsewhere drops out.
fn longest_rising(pairs: &[(u64, u64)]) -> Vec<(u64, u64)> {
    // For each length, the pair that ends a selection of it with the smallest number.
    let mut ends: Vec<(u64, usize)> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (index, (_, place)) in pairs.iter().enumerate() {
        let length = ends.partition_point(|(end, _)| end < place);
        let previous = length.checked_sub(1).and_then(|it| ends.get(it));
        before.push(previous.map(|(_, index)| *index));
        match ends.get_mut(length) {
            Some(end) => *end = (*place, index),
            None => ends.push((*place, index)),
        }
    }
    let mut chosen = Vec::new();
    let mut next = ends.last().map(|(_, index)| *index);
    while let Some(index) = next {
        chosen.extend(pairs.get(index));
        next = before.get(index).copied().flatten();
    }
    chosen.reverse();
    chosen
}

/// Joins rising numbers of blocks to extents.
fn extents(blocks: &[u64]) -> Vec<Extent> {
    let runs = blocks.chunk_by(|one, next| one + 1 == *next);
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    runs.map(|run| Extent {
        first: run.first().map_or(0, |first| number(*first)),
        blocks: u32::try_from(run.len()).unwrap_or(u32::MAX),
    })
    .collect()
}

fn count(keys: &[Key]) -> u64 {
    u64::try_from(keys.len()).unwrap_or(u64::MAX)
}

fn numbers(keys: &[Key]) -> std::ops::Range<u64> {
    0..count(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks named by letters; a dot is one of zeros.
    fn keys(text: &str) -> Vec<Key> {
        let block = |letter: u8| {
            if letter == b'.' {
                vec![0; 4096]
            } else {
                vec![letter; 7]
            }
        };
        text.bytes().map(|letter| key(&block(letter))).collect()
    }

    #[test]
    fn what_the_base_has_anywhere_and_zeros_are_not_missing() {
        let missing = missing_blocks(&keys("xa.bcyz."), &keys("cqba"));
        assert_eq!(missing, [0, 5, 6]);
    }

    #[test]
    fn what_moved_elsewhere_is_no_anchor() {
        let chosen = longest_rising(&[(0, 5), (1, 90), (2, 6), (3, 7), (4, 1), (5, 9)]);
        assert_eq!(chosen, [(0, 5), (2, 6), (3, 7), (5, 9)]);
        assert_eq!(longest_rising(&[]), []);
    }

    #[test]
    fn a_place_between_anchors_is_found_in_proportion() {
        let alignment = Alignment {
            anchors: vec![(10, 110), (20, 130)],
            target: 40,
            base: 150,
        };
        let places = [0, 5, 10, 15, 20, 30, 40].map(|block| alignment.place(block));
        assert_eq!(places, [0, 55, 110, 120, 130, 140, 150]);
    }

    #[test]
    fn a_region_keeps_to_the_base_and_to_what_a_frame_may_refer_to() {
        let alignment = Alignment {
            anchors: vec![(256, 1000), (512, 9000)],
            target: 1000,
            base: 9100,
        };
        assert_eq!(alignment.region(0, 10), 0..295);
        assert_eq!(alignment.region(256, 512), 4410..5434);
        assert_eq!(alignment.region(512, 768), 8744..9100);
        let nothing = Alignment {
            anchors: Vec::new(),
            target: 1000,
            base: 0,
        };
        assert_eq!(nothing.region(256, 512), 0..0);
    }

    #[test]
    fn neighbours_share_a_frame_within_a_mebibyte() {
        let blocks = [1, 2, 3, 255, 256, 300, 800];
        let target = vec![key(b"new"); 900];
        let parts = against(&target, &[], &blocks);
        let targets: Vec<Vec<(u32, u32)>> = parts
            .iter()
            .map(|part| {
                part.targets
                    .iter()
                    .map(|it| (it.first, it.blocks))
                    .collect()
            })
            .collect();
        assert_eq!(
            targets,
            [
                vec![(1, 3), (255, 1)],
                vec![(256, 1), (300, 1)],
                vec![(800, 1)]
            ]
        );
    }
}
