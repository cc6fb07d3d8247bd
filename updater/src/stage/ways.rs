//! The ways to the blocks of the root image that are missing, and what each costs.

use release::limits::PACK_FRAME_BLOCKS;
use release::pack::{Pack, PackIndex, PackShape};
use release::{Blob, Release};

use super::booted::Booted;
use super::recipe::{PackView, Recipe, whole_blocks};
use super::survey::{Class, Survey};
use super::{Bench, len, memory};
use crate::plan::{Alternative, Method, PlanPart, REQUEST, WhyNot, choose};
use crate::ports::{Fetch, FetchError, Pace, RangeSupport, Slots, Verdict};
use crate::refusal::Chain;
use crate::stage_error::StageError;

/// A pack whose index was read.
#[derive(Debug)]
pub(crate) struct PackInUse {
    pub(crate) pack: Pack,
    pub(crate) index: PackIndex,
    /// The bytes of its target.
    pub(crate) target_size: u64,
}

impl PackInUse {
    pub(crate) const fn view(&self) -> PackView<'_> {
        PackView {
            index: &self.index,
            size: self.pack.blob.size,
            target_size: self.target_size,
        }
    }
}

/// All ways of the root image. What was tried and did not bring everything is
/// not tried again.
#[derive(Debug)]
pub(super) struct Ways {
    image: Blob,
    /// What every way has in common, as it was before the first byte was written.
    common: Alternative,
    packed: Result<PackInUse, WhyNot>,
    patch: Result<PackInUse, WhyNot>,
    tried: Vec<(Method, String)>,
}

/// A way, and what to ask for.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) method: Method,
    pub(super) recipe: Recipe,
}

impl Ways {
    /// Returns the pack that a way uses.
    pub(super) fn pack(&self, method: Method) -> Option<&PackInUse> {
        match method {
            Method::Packed => self.packed.as_ref().ok(),
            Method::Patch => self.patch.as_ref().ok(),
            Method::Local | Method::Ranges | Method::Whole => None,
        }
    }

    /// Notes that a way did not bring everything.
    pub(super) fn exclude(&mut self, method: Method, why: String) {
        self.tried.push((method, why));
    }

    /// Compares the ways to what is missing now. None is chosen if all were tried.
    pub(super) fn compare(
        &self,
        survey: &Survey,
        support: RangeSupport,
    ) -> (Vec<Alternative>, Option<Choice>) {
        if survey.next_run(Class::Missing, 0).is_none() {
            let mut local = [self.alternative(Method::Local)];
            let chosen = choose(&mut local).map(|method| Choice {
                method,
                recipe: Recipe::default(),
            });
            return (local.into(), chosen);
        }
        let without = RangeSupport::No;
        let mut ways = vec![
            match support {
                RangeSupport::No => Err((Method::Ranges, WhyNot::NoRanges)),
                RangeSupport::Yes | RangeSupport::Unknown => {
                    Ok(self.cost(Method::Ranges, Recipe::plain(survey), support))
                }
            },
            Ok(self.cost(Method::Whole, self.whole(survey, support), without)),
        ];
        for (method, pack) in [(Method::Packed, &self.packed), (Method::Patch, &self.patch)] {
            ways.push(match pack {
                Ok(pack) => {
                    let recipe = Recipe::packed(survey, &pack.view(), support);
                    Ok(self.cost(method, recipe, support))
                }
                Err(why_not) => Err((method, why_not.clone())),
            });
        }
        let (mut alternatives, mut recipes) = (Vec::new(), Vec::new());
        for way in ways {
            let (mut alternative, recipe) = match way {
                Ok(way) => way,
                Err((method, why_not)) => {
                    let mut alternative = self.alternative(method);
                    alternative.why_not = Some(why_not);
                    (alternative, Recipe::default())
                }
            };
            let method = alternative.method;
            let mut tried = self.tried.iter();
            if let Some((_, why)) = tried.find(|(tried, _)| file_of(*tried) == file_of(method)) {
                alternative.why_not = Some(WhyNot::Unusable(why.clone()));
            }
            alternatives.push(alternative);
            recipes.push((method, recipe));
        }
        let chosen = choose(&mut alternatives);
        let mut recipes = recipes.into_iter();
        let choice = recipes.find(|(method, _)| Some(*method) == chosen);
        let choice = choice.map(|(method, recipe)| Choice { method, recipe });
        (alternatives, choice)
    }

    /// The plain image from its first byte: to its last, or, of a server that
    /// cannot begin elsewhere, to the last that is missing.
    fn whole(&self, survey: &Survey, support: RangeSupport) -> Recipe {
        let end = match support {
            RangeSupport::Yes | RangeSupport::Unknown => self.image.size,
            RangeSupport::No => Recipe::plain(survey).plain.last().map_or(0, |it| it.end),
        };
        Recipe {
            plain: std::iter::once(0..end).collect(),
            ..Recipe::default()
        }
    }

    fn alternative(&self, method: Method) -> Alternative {
        Alternative {
            method,
            ..self.common.clone()
        }
    }

    fn cost(&self, method: Method, recipe: Recipe, support: RangeSupport) -> (Alternative, Recipe) {
        let mut alternative = self.alternative(method);
        recipe.charge(support, &mut alternative);
        (alternative, recipe)
    }
}

/// The file that a way is about. One that failed as ranges is not better as a whole.
const fn file_of(method: Method) -> Method {
    match method {
        Method::Ranges | Method::Whole => Method::Whole,
        Method::Local | Method::Packed | Method::Patch => method,
    }
}

impl<D: Slots + Pace, N: Fetch> Bench<'_, D, N> {
    /// Looks at the ways to what is missing: reads the indexes of the packs that
    /// could serve.
    pub(super) fn look_at_ways(
        &mut self,
        release: &Release,
        booted: Option<&Booted<'_, D>>,
        survey: &Survey,
    ) -> Result<Ways, StageError> {
        let there = survey.bytes(Class::There);
        let image = release.blobs.root;
        let common = Alternative {
            there,
            zero: survey.bytes(Class::Zero),
            copy: survey.bytes(Class::Booted),
            write: image.size.saturating_sub(there),
            ..Alternative::new(PlanPart::Root, Method::Local)
        };
        let mut plain = common.clone();
        Recipe::plain(survey).charge(RangeSupport::Yes, &mut plain);
        let target_blocks = release.verity.data_blocks;
        let packed = release.blobs.packed.as_ref();
        let shape = PackShape {
            target_blocks,
            base_blocks: 0,
        };
        let packed = self.open_pack(packed, &shape, image.size, plain.cost())?;
        let patch = booted.and_then(|booted| {
            let mut patches = release.patches.iter();
            let patch = patches.find(|patch| patch.from == booted.root_hash())?;
            Some((booted.blocks(), &patch.root))
        });
        let shape = PackShape {
            target_blocks,
            base_blocks: patch.map_or(0, |(blocks, _)| blocks),
        };
        let patch = patch.map(|(_, pack)| pack);
        let patch = self.open_pack(patch, &shape, image.size, plain.cost())?;
        Ok(Ways {
            image,
            common,
            packed,
            patch,
            tried: Vec::new(),
        })
    }

    /// Reads the index of a pack, if it can be cheaper than `otherwise`.
    pub(crate) fn open_pack(
        &mut self,
        pack: Option<&Pack>,
        shape: &PackShape,
        target_size: u64,
        otherwise: u64,
    ) -> Result<Result<PackInUse, WhyNot>, StageError> {
        let Some(pack) = pack else {
            return Ok(Err(WhyNot::NotPublished));
        };
        // The index, a frame, and a request for each.
        if pack.index_bytes.saturating_add(2 * REQUEST) >= otherwise {
            return Ok(Err(WhyNot::Dearer));
        }
        match self.read_index(pack, shape) {
            Ok(index) => Ok(Ok(PackInUse {
                pack: *pack,
                index,
                target_size,
            })),
            Err(FetchError::Stopped) => Err(StageError::Stopped),
            Err(error) => {
                let why = Chain(&error).to_string();
                tracing::warn!(error = why, "a pack is left alone");
                Ok(Err(WhyNot::Unusable(why)))
            }
        }
    }

    fn read_index(&mut self, pack: &Pack, shape: &PackShape) -> Result<PackIndex, FetchError> {
        let head = memory(pack.index_bytes);
        let range = whole_blocks(&(0..pack.index_bytes), pack.blob.size);
        let mut bytes = vec![0; memory(range.end)];
        let (mut left, mut index) = (range.end, None);
        let meter = self.meter;
        let before = self.network.received();
        let result = self.network.fetch_ranges(
            &pack.blob,
            std::slice::from_ref(&range),
            self.stop,
            &mut |offset, piece| {
                let place = memory(offset)..memory(offset).saturating_add(piece.len());
                match bytes.get_mut(place) {
                    Some(place) => place.copy_from_slice(piece),
                    None => return Verdict::Bad,
                }
                left = left.saturating_sub(len(piece));
                if left > 0 {
                    return Verdict::Taken;
                }
                let read = PackIndex::read(bytes.get(..head).unwrap_or_default(), pack, shape);
                let read = read.map_err(|error| Chain(&error).to_string());
                match read.and_then(|index| with_few_bases(index, shape)) {
                    Ok(read) => {
                        index = Some(read);
                        Verdict::Taken
                    }
                    Err(error) => {
                        tracing::warn!(error, "the index of a pack is not what it should be");
                        if len(piece) == range.end {
                            left = range.end;
                            Verdict::Bad
                        } else {
                            left = range.end;
                            Verdict::BadWhole
                        }
                    }
                }
            },
        );
        meter.read_index(self.network.received().saturating_sub(before));
        result?;
        index.ok_or_else(|| FetchError::BlobTruncated {
            url: pack.blob.path().to_string(),
            found: range.end.saturating_sub(left),
            expected: range.end,
        })
    }
}

/// How often the frames of a pack may refer to as many blocks as their target has. A patch of
/// ours has a frame for each MiB of the target, with 4 MiB of the base at most. The index is
/// nobody's word: with a block in each frame, it would buy a thousand times that in reads.
const MOST_BASES: u64 = 16;

fn with_few_bases(index: PackIndex, shape: &PackShape) -> Result<PackIndex, String> {
    let bases = index.frames.iter().flat_map(|frame| &frame.bases);
    let blocks = bases
        .map(|extent| u64::from(extent.blocks))
        .fold(0, u64::saturating_add);
    let whole = shape.target_blocks.next_multiple_of(PACK_FRAME_BLOCKS);
    match blocks <= whole.saturating_mul(MOST_BASES) {
        true => Ok(index),
        false => Err(format!("its frames refer to {blocks} blocks")),
    }
}

#[cfg(test)]
mod tests {
    use release::limits::{BLOCK_SIZE, PACK_BASE_BLOCKS};
    use release::pack::{Extent, Frame};

    use super::*;

    #[test]
    fn an_index_that_would_have_the_base_read_again_and_again_is_refused() {
        let extent = |first, blocks| Extent { first, blocks };
        let bases = u32::try_from(PACK_BASE_BLOCKS).unwrap();
        let index = |frames: u32, each: u32| PackIndex {
            frames: (0..frames)
                .map(|number| Frame {
                    offset: 0,
                    len: 1,
                    targets: vec![extent(number * each, each)],
                    bases: vec![extent(0, bases)],
                })
                .collect(),
        };
        let shape = PackShape {
            target_blocks: 100_000,
            base_blocks: 100_000,
        };
        // As a publisher makes it, and as a liar does.
        assert!(with_few_bases(index(390, 256), &shape).is_ok());
        let told = with_few_bases(index(100_000, 1), &shape).unwrap_err();
        assert_eq!(told, "its frames refer to 102400000 blocks");
    }

    const MISSING: u64 = 40;

    fn ways() -> (Ways, Survey) {
        let mut survey = Survey::unknown(100);
        survey.set_all(MISSING..100, Class::Booted);
        let image = Blob {
            sha256: release::Digest::new([0; 32]),
            size: 100 * BLOCK_SIZE,
        };
        let ways = Ways {
            image,
            common: Alternative::new(PlanPart::Root, Method::Local),
            packed: Err(WhyNot::NotPublished),
            patch: Err(WhyNot::NotPublished),
            tried: vec![],
        };
        (ways, survey)
    }

    fn fetch(alternatives: &[Alternative]) -> Option<(Method, u64)> {
        let chosen = alternatives.iter().find(|it| it.chosen)?;
        Some((chosen.method, chosen.fetch))
    }

    #[test]
    fn without_ranges_the_image_is_read_to_the_last_missing_byte() {
        let (ways, survey) = ways();
        for (support, method) in [
            (RangeSupport::Yes, Method::Ranges),
            (RangeSupport::Unknown, Method::Ranges),
            (RangeSupport::No, Method::Whole),
        ] {
            let (alternatives, choice) = ways.compare(&survey, support);
            assert_eq!(fetch(&alternatives), Some((method, MISSING * BLOCK_SIZE)));
            let choice = choice.unwrap();
            assert_eq!(choice.method, method);
            let all = 0..MISSING * BLOCK_SIZE;
            assert_eq!(choice.recipe.plain, std::slice::from_ref(&all));
        }
    }

    #[test]
    fn a_file_that_was_tried_in_vain_is_not_tried_again() {
        let (mut ways, survey) = ways();
        ways.exclude(Method::Ranges, "it lied".to_owned());
        let (alternatives, choice) = ways.compare(&survey, RangeSupport::Yes);
        assert!(choice.is_none(), "{choice:?}");
        let why = WhyNot::Unusable("it lied".to_owned());
        assert_eq!(alternatives[0].why_not, Some(why));
    }

    #[test]
    fn where_nothing_is_missing_nothing_is_asked_for() {
        let (ways, mut survey) = ways();
        survey.set_all(0..MISSING, Class::There);
        let (alternatives, choice) = ways.compare(&survey, RangeSupport::No);
        assert_eq!(fetch(&alternatives), Some((Method::Local, 0)));
        assert_eq!(choice.unwrap().recipe, Recipe::default());
    }
}
