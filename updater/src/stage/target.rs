//! The root partition while it is filled.

use std::ops::Range;

use partition_layout::Slot;
use release::limits::BLOCK_SIZE;
use verity::{Match, TreeError, VerifiedTree};

use super::medium::TreeMedium;
use super::survey::{Class, Survey};
use super::{CHUNK, Source, block_size, len, memory, step, write};
use crate::meter::Meter;
use crate::ports::{Pace, Part, Slots, Stop};
use crate::stage_error::StageError;
use partition_layout::RootHash;

/// A root partition, what of it is right already, and the tree that says so.
pub(super) struct Target<'a, D> {
    pub(super) device: &'a D,
    pub(super) slot: Slot,
    pub(super) meter: &'a Meter,
    pub(super) stop: &'a Stop,
    pub(super) root_hash: RootHash,
    pub(super) tree: VerifiedTree<TreeMedium<'a, D>>,
    pub(super) survey: Survey,
    /// The last block that was offered and is another.
    pub(super) refused: Option<u64>,
}

impl<D: Slots + Pace> Target<'_, D> {
    /// Takes blocks from `first` on, whoever they come from: those that are
    /// right and not there yet are written. Tells whether all that were wanted
    /// are right.
    pub(super) fn offer(
        &mut self,
        first: u64,
        bytes: &[u8],
        source: Source,
    ) -> Result<Match, StageError> {
        let blocks = first..first.saturating_add(len(bytes).div_ceil(BLOCK_SIZE));
        let wanted = |block: u64| self.survey.get(block) != Class::There;
        if !blocks.clone().any(wanted) {
            return Ok(Match::Same);
        }
        let found = self.tree.check_blocks(first, bytes);
        let found = found.map_err(|source| self.tree_failed(source))?;
        let (mut all, mut run) = (Match::Same, first..first);
        for (block, found) in blocks.clone().zip(found) {
            let wanted = self.survey.get(block) != Class::There;
            if wanted && found == Match::Same {
                run.end = block.saturating_add(1);
                continue;
            }
            if wanted {
                all = Match::Different;
                self.refused = Some(block);
            }
            self.put(&run, first, bytes, source)?;
            run = block.saturating_add(1)..block.saturating_add(1);
        }
        self.put(&run, first, bytes, source)?;
        step(self.device, self.stop, len(bytes))?;
        Ok(all)
    }

    /// Writes a run of blocks that were found right among those from `first` on.
    fn put(
        &mut self,
        run: &Range<u64>,
        first: u64,
        bytes: &[u8],
        source: Source,
    ) -> Result<(), StageError> {
        let place = |block: u64| memory(block.saturating_sub(first)).saturating_mul(block_size());
        let bytes = bytes.get(place(run.start)..place(run.end));
        let bytes = bytes.unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        let offset = run.start.saturating_mul(BLOCK_SIZE);
        write(
            self.device,
            self.meter,
            self.slot,
            Part::Root,
            offset,
            bytes,
        )?;
        self.meter.came_from(source, len(bytes));
        self.survey.set_all(run.clone(), Class::There);
        Ok(())
    }

    /// Writes the blocks that are zero: it is not believed of any medium that it is
    /// zero where nothing was written.
    pub(super) fn write_zeros(&mut self) -> Result<(), StageError> {
        let zeros = vec![0; CHUNK];
        while let Some(run) = self.survey.next_run(Class::Zero, 0) {
            for chunk in chunks(&run) {
                let bytes = chunk
                    .end
                    .saturating_sub(chunk.start)
                    .saturating_mul(BLOCK_SIZE);
                let zeros = zeros.get(..memory(bytes)).unwrap_or(&zeros);
                let offset = chunk.start.saturating_mul(BLOCK_SIZE);
                write(
                    self.device,
                    self.meter,
                    self.slot,
                    Part::Root,
                    offset,
                    zeros,
                )?;
                self.meter.made_zero(bytes);
                self.survey.set_all(chunk, Class::There);
                step(self.device, self.stop, bytes)?;
            }
        }
        Ok(())
    }

    pub(super) fn digest_of(&self, block: u64) -> Result<[u8; 32], StageError> {
        self.tree
            .leaf(block)
            .map_err(|source| self.tree_failed(source))
    }

    pub(super) fn is_full(&self) -> bool {
        self.survey.next_run(Class::Missing, 0).is_none()
    }

    pub(super) const fn tree_failed(&self, source: TreeError) -> StageError {
        let root_hash = self.root_hash;
        StageError::Tree { root_hash, source }
    }
}

/// Divides a run of blocks into chunks.
pub(super) fn chunks(run: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let blocks = CHUNK / block_size();
    let end = run.end;
    run.clone()
        .step_by(blocks)
        .map(move |start| start..start.saturating_add(blocks as u64).min(end))
}
