//! Which bytes of which file bring the blocks that are missing, and what that costs.

use std::ops::Range;

use release::limits::BLOCK_SIZE;
use release::pack::PackIndex;

use super::survey::{Class, Survey};
use crate::plan::{Alternative, REQUEST, UNPACK};
use crate::ports::RangeSupport;

/// What is asked of the server. Ranges begin and end on blocks, or at the end of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Recipe {
    /// Of the plain file.
    pub(crate) plain: Vec<Range<u64>>,
    /// Of the pack.
    pub(crate) packed: Vec<Range<u64>>,
    /// The frames in those, by number.
    pub(crate) frames: Vec<usize>,
    /// Bytes that come out of the frames.
    pub(crate) unpack: u64,
}

/// A pack, as recipes know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackView<'a> {
    pub(crate) index: &'a PackIndex,
    /// The bytes of the pack.
    pub(crate) size: u64,
    /// The bytes of its target.
    pub(crate) target_size: u64,
}

impl Recipe {
    /// Fetches all that is missing from the plain file.
    pub(super) fn plain(survey: &Survey) -> Self {
        let runs = survey.runs(Class::Missing, 0);
        Self {
            plain: join(runs.map(|run| bytes(&run))),
            ..Self::default()
        }
    }

    /// Fetches what is missing in frames, where those cost less than the plain
    /// blocks; the rest from the plain file. A server without ranges sends
    /// what lies before in any case, so there every frame serves.
    pub(super) fn packed(survey: &Survey, pack: &PackView<'_>, support: RangeSupport) -> Self {
        let mut rest = survey.clone();
        let mut frames = Vec::new();
        let mut unpack = 0_u64;
        for (number, frame) in pack.index.frames.iter().enumerate() {
            let (mut missing, mut runs, mut last) = (0_u64, 0_u64, None);
            for block in frame
                .blocks()
                .filter(|it| survey.get(*it) == Class::Missing)
            {
                missing = missing.saturating_add(BLOCK_SIZE);
                if last != block.checked_sub(1) {
                    runs = runs.saturating_add(1);
                }
                last = Some(block);
            }
            let unpacked = frame.unpacked_bytes(pack.target_size);
            let plain = missing.saturating_add(runs.saturating_mul(REQUEST));
            let cost = u64::from(frame.len).saturating_add(unpacked / UNPACK);
            if missing > 0 && (support == RangeSupport::No || cost <= plain) {
                frames.push(number);
                unpack = unpack.saturating_add(unpacked);
                frame
                    .blocks()
                    .for_each(|block| rest.set(block, Class::There));
            }
        }
        let chosen = frames
            .iter()
            .filter_map(|number| pack.index.frames.get(*number));
        let packed = chosen.map(|frame| whole_blocks(&frame.range(), pack.size));
        Self {
            packed: join(packed),
            frames,
            unpack,
            ..Self::plain(&rest)
        }
    }

    /// Fetches all frames of a pack.
    pub(crate) fn all_frames(pack: &PackView<'_>) -> Self {
        let frames = &pack.index.frames;
        let ranges = frames
            .iter()
            .map(|frame| whole_blocks(&frame.range(), pack.size));
        let unpacked = frames
            .iter()
            .map(|frame| frame.unpacked_bytes(pack.target_size));
        Self {
            plain: Vec::new(),
            packed: join(ranges),
            frames: (0..frames.len()).collect(),
            unpack: unpacked.fold(0, u64::saturating_add),
        }
    }

    /// Writes down what it costs.
    pub(crate) fn charge(&self, support: RangeSupport, to: &mut Alternative) {
        for ranges in [&self.plain, &self.packed] {
            let (fetch, requests) = price(ranges, support);
            to.fetch = to.fetch.saturating_add(fetch);
            to.requests = to.requests.saturating_add(requests);
        }
        to.unpack = to.unpack.saturating_add(self.unpack);
    }
}

/// What ranges of one file cost, in bytes and requests. A server without ranges sends
/// all that lies before the last byte.
pub(super) fn price(ranges: &[Range<u64>], support: RangeSupport) -> (u64, u64) {
    match support {
        RangeSupport::Yes | RangeSupport::Unknown => {
            let lengths = ranges.iter().map(|it| it.end.saturating_sub(it.start));
            let requests = u64::try_from(ranges.len()).unwrap_or(u64::MAX);
            (lengths.fold(0, u64::saturating_add), requests)
        }
        RangeSupport::No => {
            let end = ranges.last().map_or(0, |it| it.end);
            (end, u64::from(end > 0))
        }
    }
}

/// Joins sorted ranges over gaps that cost less than another request.
pub(super) fn join(ranges: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(REQUEST) => {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// Returns the bytes of a run of blocks.
pub(super) fn bytes(run: &Range<u64>) -> Range<u64> {
    run.start.saturating_mul(BLOCK_SIZE)..run.end.saturating_mul(BLOCK_SIZE)
}

/// Returns the whole blocks of a file of `size` bytes that hold `range`.
pub(super) fn whole_blocks(range: &Range<u64>, size: u64) -> Range<u64> {
    let start = range.start - range.start % BLOCK_SIZE;
    start..range.end.next_multiple_of(BLOCK_SIZE).min(size)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use release::pack::{Extent, Frame};

    use super::*;

    const CLASSES: [Class; 4] = [Class::There, Class::Zero, Class::Booted, Class::Missing];

    /// An image, and a pack whose frames hold some of its blocks.
    fn cases() -> impl Strategy<Value = (Survey, PackIndex, u64)> {
        let block = (select(&CLASSES[..]), 0_u8..6);
        (vec(block, 1..80), vec(1_u32..20_000, 80)).prop_map(|(blocks, lengths)| {
            let classes: Vec<Class> = blocks.iter().map(|(class, _)| *class).collect();
            // Neighbours with the same number are one frame; 0 is in none.
            let mut frames: Vec<Frame> = Vec::new();
            let mut offset = 100;
            let mut before = 0;
            for ((first, (_, number)), len) in (0..).zip(&blocks).zip(lengths) {
                match frames.last_mut() {
                    Some(frame) if *number == before && *number != 0 => {
                        frame.targets[0].blocks += 1;
                    }
                    _ if *number != 0 => {
                        frames.push(Frame {
                            offset,
                            len,
                            targets: vec![Extent { first, blocks: 1 }],
                            bases: vec![],
                        });
                        offset += u64::from(len);
                    }
                    _ => {}
                }
                before = *number;
            }
            (Survey::of(&classes), PackIndex { frames }, offset)
        })
    }

    fn holds(ranges: &[Range<u64>], part: &Range<u64>) -> bool {
        ranges
            .iter()
            .any(|it| it.start <= part.start && part.end <= it.end)
    }

    proptest! {
        #[test]
        fn every_missing_block_comes_and_ranges_are_as_the_network_wants_them(
            (survey, index, size) in cases(),
            support in select(&[RangeSupport::Yes, RangeSupport::No, RangeSupport::Unknown][..]),
        ) {
            let image = survey.runs(Class::Missing, 0).count() as u64;
            let target_size = 80 * BLOCK_SIZE;
            let pack = PackView { index: &index, size, target_size };
            let plain = Recipe::plain(&survey);
            let packed = Recipe::packed(&survey, &pack, support);
            for recipe in [&plain, &packed] {
                for (ranges, size) in [(&recipe.plain, target_size), (&recipe.packed, size)] {
                    for range in ranges {
                        prop_assert!(range.start < range.end && range.end <= size);
                        prop_assert!(range.start % BLOCK_SIZE == 0);
                        prop_assert!(range.end % BLOCK_SIZE == 0 || range.end == size);
                    }
                    for pair in ranges.windows(2) {
                        prop_assert!(pair[0].end + REQUEST < pair[1].start);
                    }
                }
                let chosen: Vec<&Frame> = recipe.frames.iter().map(|number| &index.frames[*number]).collect();
                for frame in &chosen {
                    prop_assert!(holds(&recipe.packed, &frame.range()));
                }
                for run in survey.runs(Class::Missing, 0) {
                    for block in run {
                        let in_frame = chosen.iter().any(|frame| frame.blocks().any(|it| it == block));
                        prop_assert!(in_frame || holds(&recipe.plain, &bytes(&(block..block + 1))));
                    }
                }
            }
            prop_assert_eq!(plain.plain.is_empty(), image == 0);
            if image == 0 {
                prop_assert_eq!(packed, Recipe::default());
            }
        }
    }

    #[test]
    fn a_gap_is_fetched_along_when_it_costs_less_than_a_request() {
        let near = [0..4096, 12_288..16_384];
        let joined = 0..16_384;
        assert_eq!(join(near.into_iter()), std::slice::from_ref(&joined));
        let far = [0..4096, 16_384..20_480];
        assert_eq!(join(far.clone().into_iter()), far);
    }

    #[test]
    fn without_ranges_all_before_the_last_byte_comes_too() {
        let ranges = [8192..12_288, 40_960..45_056];
        assert_eq!(price(&ranges, RangeSupport::Yes), (8192, 2));
        assert_eq!(price(&ranges, RangeSupport::No), (45_056, 1));
        assert_eq!(price(&[], RangeSupport::No), (0, 0));
    }
}
