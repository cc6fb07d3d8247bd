//! The hash tree of an image, put right where it rots.
//!
//! A hash block is made again from what it is about, as far as that is sound, or else
//! fetched; its parent proves it in both cases. The superblock, which no hash block is
//! about, is the one with which the whole file has the digest that the release gives.

use std::ops::Range;

use release::Blob;
use release::limits::BLOCK_SIZE;
use verity::{HashArea, RottenBlock, repair};

use super::mend::{MendError, Mended, Mender, OnMedium};
use super::proven::{OpenProverError, Proven};
use crate::ports::{Fetch, FetchError, Pace, Part, Releases, Slots, Verdict};
use crate::refusal::Chain;
use crate::stage::tree::area_of;

impl<'a, D: Slots + Pace, N: Fetch + Releases> Mender<'a, D, N> {
    /// Mends the hash tree, if it is rotten, and tells so in `mended`. On return it leads to
    /// the root hash, all of it.
    pub(super) fn mend_tree(&mut self, mended: &mut Mended) -> Result<(), MendError> {
        let tree = self.on(Part::Verity);
        let area = HashArea::read(&tree, 0).map_err(OpenProverError::Area);
        let rotten = match area.map_err(|source| self.no_tree(source)) {
            Ok(area) => match self.mend_blocks(&area, mended) {
                Err(rotten @ MendError::HashTree { .. }) => rotten,
                result => return result,
            },
            Err(rotten) => rotten,
        };
        // Everything seems rotten to who begins at a wrong superblock.
        match self.fetch_superblock(mended)? {
            Some(()) => Ok(()),
            None => Err(rotten),
        }
    }

    fn no_tree(&self, source: OpenProverError) -> MendError {
        let slot = self.slot;
        MendError::Tree { slot, source }
    }

    fn mend_blocks(&mut self, area: &HashArea, mended: &mut Mended) -> Result<(), MendError> {
        let size = area.params().hash_block_size;
        if u64::from(size) != BLOCK_SIZE {
            return Err(self.no_tree(OpenProverError::BlockSize(size)));
        }
        let (tree, root) = (self.on(Part::Verity), self.on(Part::Root));
        let root_hash = self.root_hash;
        repair(&tree, area, &root_hash, &mut |rotten| {
            let rebuilt = rotten.rebuild(&tree, &root);
            let found = rebuilt.and_then(|bytes| Proven::of_tree(root_hash, rotten, bytes));
            let proven = match found {
                Some(proven) => {
                    mended.tree_rebuilt += 1;
                    Some(proven)
                }
                None => {
                    let fetched = self.fetch_hash_block(rotten, mended)?;
                    mended.tree_fetched += u64::from(fetched.is_some());
                    fetched
                }
            };
            proven.map_or(Ok(()), |proven| self.write(&proven))
        })
    }

    fn fetch_hash_block(
        &mut self,
        rotten: &RottenBlock<'_>,
        mended: &mut Mended,
    ) -> Result<Option<Proven>, MendError> {
        let Some(release) = self.release_of_image(mended)? else {
            return Ok(None);
        };
        let root_hash = self.root_hash;
        let start = rotten.offset();
        let range = start..start.saturating_add(BLOCK_SIZE);
        self.fetch_proven(&release.blobs.verity, range, mended, &mut |bytes| {
            Proven::of_tree(root_hash, rotten, bytes.to_vec())
        })
    }

    /// Fetches the superblock, by which the tree is then mended. `None` if that cannot be had.
    fn fetch_superblock(&mut self, mended: &mut Mended) -> Result<Option<()>, MendError> {
        let Some(release) = self.release_of_image(mended)? else {
            return Ok(None);
        };
        let blob = release.blobs.verity;
        // It is proved by the digest of the whole, so the rest has to be sound first.
        // Where the tree lies is what the signed release says.
        let Ok(area) = area_of(&release) else {
            return Ok(None);
        };
        self.mend_blocks(&area, mended)?;
        let (root_hash, tree) = (self.root_hash, self.on(Part::Verity));
        let range = 0..BLOCK_SIZE.min(blob.size);
        let proven = self.fetch_proven(&blob, range, mended, &mut |bytes| {
            Proven::superblock(root_hash, bytes.to_vec(), &tree, &blob)
        })?;
        let Some(proven) = proven else {
            return Ok(None);
        };
        self.write(&proven)?;
        mended.tree_fetched += 1;
        Ok(Some(()))
    }

    /// Fetches one block, until a server sends the one that `prove` takes.
    fn fetch_proven(
        &mut self,
        blob: &Blob,
        range: Range<u64>,
        mended: &mut Mended,
        prove: &mut dyn FnMut(&[u8]) -> Option<Proven>,
    ) -> Result<Option<Proven>, MendError> {
        let before = self.network.received();
        let mut found = None;
        let ranges = std::slice::from_ref(&range);
        let fetched = self.network.fetch_ranges(
            blob,
            ranges,
            self.stop,
            &mut |_, bytes| match prove(bytes) {
                Some(proven) => {
                    found = Some(proven);
                    Verdict::Taken
                }
                None => Verdict::Bad,
            },
        );
        let received = self.network.received().saturating_sub(before);
        self.meter.count(|tally| tally.fetched += received);
        match fetched {
            Ok(()) => {}
            Err(FetchError::Stopped) => return Err(MendError::Stopped),
            Err(error) => mended.why_not = Some(Chain(&error).to_string()),
        }
        Ok(found)
    }

    const fn on(&self, part: Part) -> OnMedium<'a, D> {
        OnMedium {
            device: self.device,
            slot: self.slot,
            part,
        }
    }
}
