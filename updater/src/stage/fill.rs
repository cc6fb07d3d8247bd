//! The root partition: what is there stays, zeros are made, the booted slot's
//! blocks are copied, and the rest comes by the cheapest way.

use partition_layout::Slot;
use release::Release;
use release::limits::BLOCK_SIZE;
use release::pack::Frame;
use verity::{CompareError, Match};

use super::booted::Booted;
use super::copy::copy;
use super::frames::{FrameTarget, Frames};
use super::medium::Medium;
use super::recipe::Recipe;
use super::survey::{Class, Search, take_survey};
use super::target::Target;
use super::ways::{PackInUse, Ways};
use super::{Bench, Source, block_size, fetched, flush, len, memory, open_tree};
use crate::plan::PlanPart;
use crate::ports::{Fetch, Pace, Part, Slots, Verdict};
use crate::refusal::Chain;
use crate::stage_error::StageError;

const IMAGE: &str = "root image";

impl<D: Slots + Pace, N: Fetch> Bench<'_, D, N> {
    /// Writes what is missing of the root image, block by block as the hash
    /// tree allows. On return it has reached the medium.
    pub fn write_root(&mut self, slot: Slot, release: &Release) -> Result<(), StageError> {
        self.count_fetched(|bench| bench.write_missing_root(slot, release))
    }

    fn write_missing_root(&mut self, slot: Slot, release: &Release) -> Result<(), StageError> {
        let device = self.device;
        let tree = open_tree(device, slot, release)?;
        let booted = Booted::open(device, slot, release);
        let index = booted.as_ref().map(Booted::index_blocks);
        let mut search = Search::new(&tree, booted.as_ref().zip(index.as_ref()));
        let spare = Medium::new(device, slot, Part::Root);
        let (stop, root_hash) = (self.stop, release.root_hash);
        let survey = take_survey(&spare, &tree, &mut search, |bytes| {
            super::step(device, stop, bytes)
        });
        let survey = survey.map_err(|error| match error {
            CompareError::Tree(source) => StageError::Tree { root_hash, source },
            CompareError::Ended(error) => error,
        })?;
        self.meter.kept(survey.bytes(Class::There));
        let mut target = Target {
            device,
            slot,
            meter: self.meter,
            stop,
            root_hash,
            tree,
            survey,
            refused: None,
        };
        let mut ways = self.look_at_ways(release, booted.as_ref(), &target.survey)?;
        let (alternatives, _) = ways.compare(&target.survey, self.network.ranges());
        self.meter.plan(PlanPart::Root, alternatives);
        let mut filled = target.write_zeros();
        if let (Ok(()), Some(booted)) = (&filled, &booted) {
            filled = copy(&mut target, booted, &mut search);
        }
        // What comes now needs the memory.
        drop(index);
        let filled =
            filled.and_then(|()| self.fill(&mut target, &mut ways, release, booted.as_ref()));
        // What has come so far need not come again, whatever ended the work.
        let flushed = flush(device, slot, Part::Root);
        filled.and(flushed)
    }

    /// Brings what is missing: by the cheapest way, and what that does not
    /// bring by the next.
    fn fill(
        &mut self,
        target: &mut Target<'_, D>,
        ways: &mut Ways,
        release: &Release,
        booted: Option<&Booted<'_, D>>,
    ) -> Result<(), StageError> {
        let mut reason = None;
        while !target.is_full() {
            let (alternatives, choice) = ways.compare(&target.survey, self.network.ranges());
            self.meter.plan(PlanPart::Root, alternatives);
            let Some(choice) = choice else {
                return Err(reason.unwrap_or(StageError::NoWay { what: IMAGE }));
            };
            let (method, pack) = (choice.method, ways.pack(choice.method));
            match self.bring(target, &choice.recipe, pack, release, booted) {
                Ok(()) => ways.exclude(method, "it did not bring all blocks".to_owned()),
                Err(error @ (StageError::Fetch { .. } | StageError::Block { .. })) => {
                    let why = Chain(&error).to_string();
                    tracing::warn!(
                        method = method.as_str(),
                        error = why,
                        "another way is tried"
                    );
                    ways.exclude(method, why);
                    reason = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn bring(
        &mut self,
        target: &mut Target<'_, D>,
        recipe: &Recipe,
        pack: Option<&PackInUse>,
        release: &Release,
        booted: Option<&Booted<'_, D>>,
    ) -> Result<(), StageError> {
        let stop = self.stop;
        if let Some(pack) = pack.filter(|_| !recipe.frames.is_empty()) {
            let mut frames = Frames::new(&pack.index, &recipe.frames);
            let size = pack.target_size;
            let mut into = RootFrames {
                target: &mut *target,
                booted,
                size,
            };
            let (blob, mut failed) = (&pack.pack.blob, None);
            let ranges = &recipe.packed;
            let result = self
                .network
                .fetch_ranges(blob, ranges, stop, &mut |offset, bytes| {
                    let verdict = frames.push(offset, bytes, &mut into);
                    verdict.unwrap_or_else(|error| {
                        failed = Some(error);
                        Verdict::Stop
                    })
                });
            fetched("packed root image", result, failed, stop)?;
        }
        if recipe.plain.is_empty() {
            return Ok(());
        }
        let (blob, mut failed) = (&release.blobs.root, None);
        let ranges = &recipe.plain;
        let result =
            self.network
                .fetch_ranges(blob, ranges, stop, &mut |offset, bytes| match target.offer(
                    offset / BLOCK_SIZE,
                    bytes,
                    Source::Network,
                ) {
                    Ok(Match::Same) => Verdict::Taken,
                    Ok(Match::Different) => {
                        failed = target.refused.map(|block| StageError::Block { block });
                        Verdict::Bad
                    }
                    Err(error) => {
                        failed = Some(error);
                        Verdict::Stop
                    }
                });
        fetched(IMAGE, result, failed, stop)
    }
}

/// Frames of a pack of the root image.
struct RootFrames<'a, 'b, D> {
    target: &'a mut Target<'b, D>,
    booted: Option<&'a Booted<'a, D>>,
    size: u64,
}

impl<D: Slots + Pace> FrameTarget for RootFrames<'_, '_, D> {
    fn size(&self) -> u64 {
        self.size
    }

    fn base(&mut self, frame: &Frame) -> Option<Vec<u8>> {
        let mut base = Vec::new();
        for extent in &frame.bases {
            let start = base.len();
            let bytes = memory(u64::from(extent.blocks)).saturating_mul(block_size());
            base.resize(start.saturating_add(bytes), 0);
            let place = base.get_mut(start..)?;
            self.booted?.read(extent.first.into(), place)?;
            // Nobody has proved that so much must be read. If it is to stop, the next
            // piece hears so.
            super::step(self.target.device, self.target.stop, len(place)).ok()?;
        }
        Some(base)
    }

    fn is_sound(&mut self, frame: &Frame, base: &[u8]) -> bool {
        let mut rest = base;
        frame.bases.iter().all(|extent| {
            let bytes = memory(u64::from(extent.blocks)).saturating_mul(block_size());
            let (now, later) = rest.split_at_checked(bytes).unwrap_or_default();
            rest = later;
            let booted = self.booted;
            booted.is_some_and(|booted| booted.proves(extent.first.into(), now))
        })
    }

    fn take(&mut self, frame: &Frame, blocks: &[u8]) -> Result<Match, StageError> {
        let (mut rest, mut all) = (blocks, Match::Same);
        for extent in &frame.targets {
            let place = extent.bytes(self.size);
            let (now, later) = rest
                .split_at_checked(memory(place.end - place.start))
                .expect("a frame unpacks to its blocks");
            rest = later;
            if self
                .target
                .offer(u64::from(extent.first), now, Source::Network)?
                == Match::Different
            {
                all = Match::Different;
            }
        }
        Ok(all)
    }
}
