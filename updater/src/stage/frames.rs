//! The frames of a pack, put together from the pieces that come.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use release::pack::{Frame, PackIndex};
use verity::Match;

use super::{len, memory};
use crate::ports::Verdict;
use crate::stage_error::StageError;

/// What frames unpack to.
pub(crate) trait FrameTarget {
    /// Returns the size of the whole target, in bytes.
    fn size(&self) -> u64;

    /// Returns the blocks that a frame refers to; `None` if they cannot be read, which
    /// is no fault of the server's. They may have rotten.
    fn base(&mut self, frame: &Frame) -> Option<Vec<u8>>;

    /// Tells whether the blocks that a bad frame refers to are what they should be. It is
    /// asked late because a good frame proves them.
    fn is_sound(&mut self, frame: &Frame, base: &[u8]) -> bool;

    /// Takes the blocks of a frame, and tells whether they are right.
    fn take(&mut self, frame: &Frame, blocks: &[u8]) -> Result<Match, StageError>;
}

/// The frames that are on their way. A frame that cannot be had is given up:
/// its blocks stay missing, and come from elsewhere.
#[derive(Debug)]
pub(crate) struct Frames<'a> {
    index: &'a PackIndex,
    wanted: &'a [usize],
    /// Had, or given up.
    done: BTreeSet<usize>,
    partial: BTreeMap<usize, Partial>,
    /// The last of them that was bad, and is kept in case a part of it comes once more.
    doubted: Option<usize>,
    unpacked: Vec<u8>,
}

/// A frame of which some bytes have come.
#[derive(Debug)]
struct Partial {
    bytes: Vec<u8>,
    missing: Vec<Range<usize>>,
    was_bad: bool,
}

/// How a whole frame was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unpacked {
    Good,
    Bad,
    WithoutBase,
}

impl<'a> Frames<'a> {
    /// Waits for the frames whose numbers are `wanted`, in ascending order.
    pub(crate) fn new(index: &'a PackIndex, wanted: &'a [usize]) -> Self {
        Self {
            index,
            wanted,
            done: BTreeSet::new(),
            partial: BTreeMap::new(),
            doubted: None,
            unpacked: Vec::new(),
        }
    }

    /// Takes a piece of the pack, and unpacks the frames that it completes.
    pub(crate) fn push(
        &mut self,
        offset: u64,
        bytes: &[u8],
        target: &mut impl FrameTarget,
    ) -> Result<Verdict, StageError> {
        let piece = offset..offset.saturating_add(len(bytes));
        let (index, wanted) = (self.index, self.wanted);
        let is_before = |at: &usize| {
            let frame = index.frames.get(*at);
            frame.is_none_or(|frame| frame.range().end <= piece.start)
        };
        let later = wanted.get(wanted.partition_point(is_before)..);
        let here = later
            .unwrap_or_default()
            .iter()
            .filter_map(|at| Some((*at, index.frames.get(*at)?)))
            .take_while(|(_, frame)| frame.range().start < piece.end);
        let mut verdict = Verdict::Taken;
        for (number, frame) in here {
            if self.done.contains(&number) {
                continue;
            }
            let whole = frame.range();
            let part = whole.start.max(piece.start)..whole.end.min(piece.end);
            let in_piece = within(&part, piece.start);
            let part_bytes = bytes.get(in_piece).expect("the part lies in the piece");
            let (unpacked, blame) = if part == whole {
                (self.unpack(frame, part_bytes, target)?, Verdict::Bad)
            } else {
                let Some(unpacked) = self.add(number, frame, &part, part_bytes, target)? else {
                    continue;
                };
                (unpacked, Verdict::BadTogether)
            };
            match unpacked {
                Unpacked::Good => drop(self.done.insert(number)),
                Unpacked::Bad if verdict == Verdict::Bad => {}
                Unpacked::Bad => verdict = blame,
                Unpacked::WithoutBase => {
                    tracing::debug!(frame = number, "what it refers to is no more");
                    self.done.insert(number);
                }
            }
        }
        Ok(verdict)
    }

    /// Adds to a frame that comes in several pieces. If it is bad, and all of one
    /// server, the last of them is asked for once more, from another; if that does
    /// not mend it, another piece was bad, and the frame is given up. So it is, to
    /// keep no more than one, if the next bad one comes first.
    fn add(
        &mut self,
        number: usize,
        frame: &Frame,
        part: &Range<u64>,
        bytes: &[u8],
        target: &mut impl FrameTarget,
    ) -> Result<Option<Unpacked>, StageError> {
        let mut partial = self.partial.remove(&number).unwrap_or_else(|| {
            let size = memory(u64::from(frame.len));
            Partial {
                bytes: vec![0; size],
                missing: std::iter::once(0..size).collect(),
                was_bad: false,
            }
        });
        let part = within(part, frame.offset);
        partial.add(&part, bytes);
        if !partial.missing.is_empty() {
            self.partial.insert(number, partial);
            return Ok(None);
        }
        let unpacked = self.unpack(frame, &partial.bytes, target)?;
        if unpacked != Unpacked::Bad {
            return Ok(Some(unpacked));
        }
        if partial.was_bad {
            tracing::debug!(frame = number, "given up");
            self.done.insert(number);
            return Ok(None);
        }
        partial.was_bad = true;
        partial.missing.push(part);
        self.partial.insert(number, partial);
        if let Some(earlier) = self.doubted.replace(number) {
            self.partial.remove(&earlier);
            self.done.insert(earlier);
        }
        Ok(Some(Unpacked::Bad))
    }

    fn unpack(
        &mut self,
        frame: &Frame,
        bytes: &[u8],
        target: &mut impl FrameTarget,
    ) -> Result<Unpacked, StageError> {
        let Some(base) = target.base(frame) else {
            return Ok(Unpacked::WithoutBase);
        };
        match frame.unpack(bytes, &base, target.size(), &mut self.unpacked) {
            Ok(()) if target.take(frame, &self.unpacked)? == Match::Same => {
                return Ok(Unpacked::Good);
            }
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "a frame is not what its pack says"),
        }
        Ok(if target.is_sound(frame, &base) {
            Unpacked::Bad
        } else {
            Unpacked::WithoutBase
        })
    }
}

impl Partial {
    fn add(&mut self, part: &Range<usize>, bytes: &[u8]) {
        let place = self.bytes.get_mut(part.clone());
        place
            .expect("the part lies in the frame")
            .copy_from_slice(bytes);
        let missing = std::mem::take(&mut self.missing).into_iter();
        let left = missing.flat_map(|gap| {
            let before = gap.start..gap.end.min(part.start);
            let after = gap.start.max(part.end)..gap.end;
            [before, after]
        });
        self.missing = left.filter(|gap| !gap.is_empty()).collect();
    }
}

/// Returns a range as seen from `start`.
fn within(range: &Range<u64>, start: u64) -> Range<usize> {
    memory(range.start - start)..memory(range.end - start)
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "sizes of files that are made here"
)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use release::limits::BLOCK_SIZE;
    use release::pack::Extent;

    use super::*;

    const BLOCK: usize = 4096;

    /// A target in memory; `right` is what a tree would know.
    struct Image<'a> {
        right: &'a [u8],
        bytes: Vec<u8>,
    }

    impl FrameTarget for Image<'_> {
        fn size(&self) -> u64 {
            self.right.len() as u64
        }

        fn base(&mut self, frame: &Frame) -> Option<Vec<u8>> {
            // A base that has rotten.
            Some(vec![0; frame.bases.len() * BLOCK])
        }

        fn is_sound(&mut self, frame: &Frame, _base: &[u8]) -> bool {
            frame.bases.is_empty()
        }

        fn take(&mut self, frame: &Frame, blocks: &[u8]) -> Result<Match, StageError> {
            let [extent] = frame.targets[..] else {
                panic!("every frame here has one extent");
            };
            let place = extent.bytes(self.size());
            let place = place.start as usize..place.end as usize;
            if self.right[place.clone()] != *blocks {
                return Ok(Match::Different);
            }
            self.bytes[place].copy_from_slice(blocks);
            Ok(Match::Same)
        }
    }

    /// A pack of an image whose last block is short, in frames of `each` blocks.
    fn pack(image: &[u8], each: u32) -> (PackIndex, Vec<u8>) {
        let mut index = PackIndex::default();
        let mut bytes = vec![0xaa; 100];
        let blocks = (image.len() as u64).div_ceil(BLOCK_SIZE) as u32;
        for first in (0..blocks).step_by(each as usize) {
            let extent = Extent {
                first,
                blocks: each.min(blocks - first),
            };
            let place = extent.bytes(image.len() as u64);
            let part = &image[place.start as usize..place.end as usize];
            let packed = zstd::bulk::compress(part, 1).unwrap();
            index.frames.push(Frame {
                offset: bytes.len() as u64,
                len: packed.len() as u32,
                targets: vec![extent],
                bases: vec![],
            });
            bytes.extend(packed);
        }
        (index, bytes)
    }

    fn image(blocks: &[u8]) -> Vec<u8> {
        let mut image: Vec<u8> = (0..blocks.len() * BLOCK)
            .map(|at| ((at * at) >> 7) as u8 ^ blocks[at / BLOCK])
            .collect();
        image.truncate(image.len() - 1000);
        image
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn in_whatever_pieces_and_order_a_pack_comes_its_blocks_are_unpacked(
            blocks in vec(any::<u8>(), 1..20),
            each in 1_u32..5,
            cuts in vec(any::<Index>(), 0..20),
            order in any::<Index>(),
        ) {
            let right = image(&blocks);
            let (index, packed) = pack(&right, each);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(packed.len())).collect();
            cuts.extend([0, packed.len()]);
            cuts.sort_unstable();
            let mut pieces: Vec<Range<usize>> = cuts.windows(2).map(|pair| pair[0]..pair[1]).collect();
            let turn = order.index(pieces.len());
            pieces.rotate_left(turn);
            let wanted: Vec<usize> = (0..index.frames.len()).collect();
            let mut target = Image { right: &right, bytes: vec![0; right.len()] };
            let mut frames = Frames::new(&index, &wanted);
            for piece in pieces {
                let verdict = frames.push(piece.start as u64, &packed[piece], &mut target).unwrap();
                prop_assert_eq!(verdict, Verdict::Taken);
            }
            prop_assert!(target.bytes == right);
            prop_assert!(frames.partial.is_empty());
        }

        #[test]
        fn a_flipped_byte_is_blamed_on_its_sender_and_another_mends_it(
            blocks in vec(any::<u8>(), 1..12),
            each in 1_u32..5,
            piece in 100_usize..9000,
            at: Index,
        ) {
            let right = image(&blocks);
            let (index, packed) = pack(&right, each);
            let mut spoilt = packed.clone();
            let at = 100 + at.index(packed.len() - 100);
            spoilt[at] ^= 0x55;
            let wanted: Vec<usize> = (0..index.frames.len()).collect();
            let mut target = Image { right: &right, bytes: vec![0; right.len()] };
            let mut frames = Frames::new(&index, &wanted);
            let mut sender = &spoilt;
            let mut start = 0;
            while start < packed.len() {
                let end = packed.len().min(start + piece);
                match frames.push(start as u64, &sender[start..end], &mut target).unwrap() {
                    Verdict::Taken => start = end,
                    Verdict::Bad | Verdict::BadTogether => sender = &packed,
                    Verdict::BadWhole | Verdict::Stop => prop_assert!(false, "neither was said"),
                }
            }
            // Some bytes of a frame say nothing about its content.
            let hit = index.frames.iter().find(|frame| frame.range().contains(&(at as u64)));
            let hit = hit.expect("all behind the head is in frames").targets[0].bytes(right.len() as u64);
            let hit = hit.start as usize..hit.end as usize;
            for (at, (found, expected)) in target.bytes.iter().zip(&right).enumerate() {
                prop_assert!(found == expected || hit.contains(&at), "byte {}", at);
            }
            // In one piece, it was mended.
            let frame = index.frames.iter().find(|frame| frame.range().contains(&(at as u64))).unwrap();
            if frame.range().start as usize / piece == (frame.range().end as usize - 1) / piece {
                prop_assert!(target.bytes == right);
            }
        }
    }

    #[test]
    fn a_frame_whose_base_is_no_more_is_nobodys_fault() {
        let right = image(&[1, 2, 3]);
        let (mut index, mut packed) = pack(&right, 1);
        index.frames[1].bases = vec![Extent {
            first: 0,
            blocks: 1,
        }];
        // As a frame is that was packed against what the base was once.
        let frame = index.frames[1].range();
        packed[frame.start as usize + 8..frame.end as usize].fill(0x55);
        let mut target = Image {
            right: &right,
            bytes: vec![0; right.len()],
        };
        let verdict = Frames::new(&index, &[0, 1, 2]).push(0, &packed, &mut target);
        assert_eq!(verdict.unwrap(), Verdict::Taken);
        assert!(target.bytes[..BLOCK] == right[..BLOCK]);
        assert!(target.bytes[BLOCK..2 * BLOCK] == [0; BLOCK]);
        assert!(target.bytes[2 * BLOCK..] == right[2 * BLOCK..]);
    }
}
