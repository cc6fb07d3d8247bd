//! What of the root image the node has.

use std::ops::Range;

use release::limits::BLOCK_SIZE;
use verity::{CompareError, Match, ReadAt, Stretch, VerifiedTree};

use super::booted::Booted;
use super::index::{BlockDigest, Index};
use super::{block_size, memory};
use crate::ports::Slots;
use crate::stage_error::StageError;

/// Where a block of the image is to be had. The first that is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// In the spare slot, in its place: hashed, and right.
    There,
    /// Nowhere: it is all zero.
    Zero,
    /// In the booted slot.
    Booted,
    /// Elsewhere.
    Missing,
}

/// The class of each block of an image, in a byte each.
#[derive(Debug, Clone)]
pub(crate) struct Survey(Vec<Class>);

impl Survey {
    /// Returns the survey of `blocks` blocks of which nothing is known.
    pub(super) fn unknown(blocks: u64) -> Self {
        Self(vec![Class::Missing; memory(blocks)])
    }

    #[cfg(test)]
    pub(super) fn of(classes: &[Class]) -> Self {
        Self(classes.to_vec())
    }

    pub(super) fn get(&self, block: u64) -> Class {
        let class = usize::try_from(block).ok().and_then(|at| self.0.get(at));
        class.copied().unwrap_or(Class::There)
    }

    pub(super) fn set(&mut self, block: u64, class: Class) {
        let at = usize::try_from(block).ok();
        if let Some(place) = at.and_then(|at| self.0.get_mut(at)) {
            *place = class;
        }
    }

    pub(super) fn set_all(&mut self, blocks: Range<u64>, class: Class) {
        blocks.for_each(|block| self.set(block, class));
    }

    /// Returns the bytes of all blocks of a class.
    pub(super) fn bytes(&self, class: Class) -> u64 {
        let blocks = self.0.iter().filter(|it| **it == class).count();
        u64::try_from(blocks)
            .unwrap_or(u64::MAX)
            .saturating_mul(BLOCK_SIZE)
    }

    /// Returns the runs of a class that begin at `from` or later, in order.
    pub(super) fn runs(&self, class: Class, from: u64) -> impl Iterator<Item = Range<u64>> {
        let mut at = from;
        std::iter::from_fn(move || {
            let run = self.next_run(class, at)?;
            at = run.end;
            Some(run)
        })
    }

    /// Returns the first run of a class from block `from` on.
    pub(super) fn next_run(&self, class: Class, from: u64) -> Option<Range<u64>> {
        let rest = self.0.get(usize::try_from(from).ok()?..)?;
        let skip = rest.iter().position(|it| *it == class)?;
        let run = rest.get(skip..)?.iter().take_while(|it| **it == class);
        let start = from.saturating_add(u64::try_from(skip).ok()?);
        Some(start..start.saturating_add(u64::try_from(run.count()).ok()?))
    }
}

/// Tells for blocks that the spare slot does not hold where else they are.
#[derive(Debug)]
pub(super) struct Search<'a, D> {
    zero: BlockDigest,
    booted: Option<(&'a Booted<'a, D>, &'a Index)>,
    last: Option<u32>,
}

impl<'a, D: Slots> Search<'a, D> {
    pub(super) fn new(
        tree: &VerifiedTree<impl ReadAt>,
        booted: Option<(&'a Booted<'a, D>, &'a Index)>,
    ) -> Self {
        Self {
            zero: tree.digest(&vec![0; block_size()]),
            booted,
            last: None,
        }
    }

    pub(super) fn class_of(&mut self, digest: &BlockDigest) -> Class {
        if *digest == self.zero {
            Class::Zero
        } else if self.place_of(digest).is_some() {
            Class::Booted
        } else {
            Class::Missing
        }
    }

    /// Returns the block of the booted image that has a digest: the one behind
    /// that of the last time, if it can be.
    pub(super) fn place_of(&mut self, digest: &BlockDigest) -> Option<u64> {
        let (booted, index) = self.booted?;
        let next = self.last.and_then(|last| last.checked_add(1));
        let digest_of = |block| booted.block_digest(block);
        let found = index.find(digest, next, digest_of);
        self.last = found.or(self.last);
        found.map(u64::from)
    }

    /// Tells whether a digest is that of the block behind the one of the last
    /// time; if so, it is the one of the last time now.
    pub(super) fn follows(&mut self, digest: &BlockDigest) -> bool {
        let next = self.last.and_then(|last| last.checked_add(1));
        let Some((next, (booted, _))) = next.zip(self.booted) else {
            return false;
        };
        let follows = booted.block_digest(next).as_ref() == Some(digest);
        if follows {
            self.last = Some(next);
        }
        follows
    }
}

/// Reads the spare slot through and says of each block of `tree` where it is.
/// `step` is called after each stretch.
pub(super) fn take_survey<D: Slots>(
    spare: &impl ReadAt,
    tree: &VerifiedTree<impl ReadAt>,
    search: &mut Search<'_, D>,
    step: impl Fn(u64) -> Result<(), StageError> + Sync,
) -> Result<Survey, CompareError<StageError>> {
    let mut survey = Survey::unknown(tree.area().data_blocks());
    let mut tree_failed = None;
    let compared = verity::compare(spare, tree, |stretch: Stretch| {
        let Stretch {
            first,
            blocks,
            found,
        } = stretch;
        // What cannot be read can perhaps be written.
        let found = found.unwrap_or_default();
        for (at, block) in (first..first.saturating_add(blocks)).enumerate() {
            let class = match found.get(at) {
                Some(Match::Same) => Class::There,
                Some(Match::Different) | None => match tree.leaf(block) {
                    Ok(digest) => search.class_of(&digest),
                    Err(error) => {
                        tree_failed = Some(error);
                        return Err(StageError::Stopped);
                    }
                },
            };
            survey.set(block, class);
        }
        step(blocks.saturating_mul(BLOCK_SIZE))
    });
    match (tree_failed, compared) {
        (Some(error), _) => Err(CompareError::Tree(error)),
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Ok(survey),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const CLASSES: [Class; 4] = [Class::There, Class::Zero, Class::Booted, Class::Missing];

    proptest! {
        #[test]
        fn the_runs_of_all_classes_are_the_image(
            classes in vec(select(&CLASSES[..]), 0..100),
            from in 0_u64..100,
        ) {
            let survey = Survey::of(&classes);
            let mut seen = vec![None; classes.len()];
            for class in CLASSES {
                let mut end = None;
                for run in survey.runs(class, 0) {
                    prop_assert!(!run.is_empty());
                    // Neighbours are one run.
                    prop_assert!(end.is_none_or(|end| end < run.start));
                    end = Some(run.end);
                    for block in run {
                        seen[memory(block)] = Some(class);
                    }
                }
                let late = survey.runs(class, from).next().map(|run| run.start);
                let expected = (from..classes.len() as u64).find(|block| survey.get(*block) == class);
                prop_assert_eq!(late, expected);
            }
            let expected: Vec<_> = classes.iter().copied().map(Some).collect();
            prop_assert_eq!(seen, expected);
            let bytes: u64 = CLASSES.into_iter().map(|class| survey.bytes(class)).sum();
            prop_assert_eq!(bytes, classes.len() as u64 * BLOCK_SIZE);
        }
    }
}
