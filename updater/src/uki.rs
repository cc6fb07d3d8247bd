//! The kernel image on the EFI system partition: copied from the booted one if
//! it is the same, patched if it is like it, fetched otherwise; written under a
//! name that boots nothing, and read back.
//!
//! It has no hash tree: what a patch made is proved by the digest of the whole,
//! and if it is wrong, the whole is fetched. Nor can it go on from what lies on
//! the EFI system partition after a cut. So the pieces that come are [kept]
//! beside it until the release is armed.

mod kept;

use std::ops::Range;

use partition_layout::{BootEntry, RootHash, Version};
use release::limits::{BLOCK_SIZE, MAX_UKI_BYTES};
use release::pack::{Frame, PackShape};
use release::{Blob, Digest, Release};
use sha2::{Digest as _, Sha256};
use verity::Match;

use self::kept::Keeper;
use crate::fetch::Missing;
use crate::kernels;
use crate::meter::Meter;
use crate::plan::{Alternative, Method, PlanPart, WhyNot, choose};
use crate::ports::{
    BootControl, Fetch, KeptPieces, Pace, RangeSupport, Records, Slots, Stop, Verdict,
};
use crate::refusal::Chain;
use crate::stage::{
    Bench, CHUNK, FrameTarget, Frames, PackInUse, Recipe, Source, digest, fetched, len, memory,
    step,
};
use crate::stage_error::StageError;

/// Kept free beside the kernel image: folder entries and the allocation table
/// of the small images that others may put there.
const SLACK: u64 = 64 * 1024;
const KERNEL: &str = "kernel image";

/// Fails if the kernel image of `release` will not fit. Asked once the spare
/// slot's own image has gone, and before hundreds of megabytes are fetched.
pub fn check_room(device: &impl BootControl, release: &Release) -> Result<(), StageError> {
    let doing = "ask the EFI system partition for its room";
    let has = device
        .room()
        .map_err(|source| StageError::Esp { doing, source })?;
    let needed = release.blobs.uki.size.saturating_add(SLACK);
    if has < needed {
        Err(StageError::EspFull { needed, has })
    } else {
        Ok(())
    }
}

/// The booted slot's kernel image.
#[derive(Debug, Clone)]
struct BootedKernel {
    entry: BootEntry,
    size: u64,
    sha256: Digest,
}

/// The ways by which the kernel image can come, one chosen.
#[derive(Debug)]
struct KernelWays {
    method: Method,
    booted: Option<BootedKernel>,
    patch: Option<PackInUse>,
}

fn esp(doing: &'static str) -> impl Fn(std::io::Error) -> StageError {
    move |source| StageError::Esp { doing, source }
}

impl<D: Slots + BootControl + KeptPieces + Pace, N: Fetch> Bench<'_, D, N> {
    /// Writes the kernel image of `release`. On return it is on the medium,
    /// and has been read back from there.
    pub fn write_kernel(&mut self, release: &Release) -> Result<(), StageError> {
        self.count_fetched(|bench| bench.write_kernel_by_all_ways(release))
    }

    fn write_kernel_by_all_ways(&mut self, release: &Release) -> Result<(), StageError> {
        let ways = self.compare_kernel_ways(release)?;
        let blob = &release.blobs.uki;
        let begun = self.device.begin_temporary(blob.size);
        begun.map_err(esp("start the kernel image"))?;
        let had = match (ways.method, &ways.booted, &ways.patch) {
            (Method::Local, Some(booted), _) => self.copy_kernel(booted),
            (Method::Patch, Some(booted), Some(patch)) => self.patch_kernel(booted, patch),
            _ => {
                self.fetch_kernel(release)?;
                return self.keep_kernel(release);
            }
        };
        match had.and_then(|()| self.keep_kernel(release)) {
            Err(error @ (StageError::KernelReadBack { .. } | StageError::Fetch { .. })) => {
                let (method, error) = (ways.method.as_str(), Chain(&error).to_string());
                tracing::warn!(method, error, "the kernel image is fetched whole");
                let begun = self.device.begin_temporary(blob.size);
                begun.map_err(esp("start the kernel image again"))?;
                self.fetch_kernel(release)?;
                self.keep_kernel(release)
            }
            other => other,
        }
    }
}

impl<D: Slots + BootControl + KeptPieces + Pace, N: Fetch> Bench<'_, D, N> {
    /// Shows the ways by which the kernel image can come.
    pub(crate) fn plan_kernel(&mut self, release: &Release) -> Result<(), StageError> {
        self.compare_kernel_ways(release).map(drop)
    }

    fn compare_kernel_ways(&mut self, release: &Release) -> Result<KernelWays, StageError> {
        let blob = &release.blobs.uki;
        let booted = self.booted_kernel()?;
        let way = |method| Alternative {
            write: blob.size,
            ..Alternative::new(PlanPart::Uki, method)
        };
        let mut whole = way(Method::Whole);
        (whole.fetch, whole.requests) = (blob.size, 1);
        let keeper = Keeper::new(self.device, blob);
        let kept = keeper.replay_beginning(blob.size, &mut |_, _| Verdict::Taken);
        self.take_off(kept, &mut whole);
        let mut local = way(Method::Local);
        local.copy = blob.size;
        if booted.as_ref().is_none_or(|it| it.sha256 != blob.sha256) {
            local.why_not = Some(WhyNot::NotHere);
        }
        let mut patch = way(Method::Patch);
        let opened = match &booted {
            // The copy is there for nothing.
            _ if local.why_not.is_none() => Err(WhyNot::Dearer),
            Some(booted) => self.open_kernel_patch(release, booted, whole.cost())?,
            None => Err(WhyNot::NotPublished),
        };
        let support = self.network.ranges();
        let opened = match opened {
            Ok(pack) => {
                let recipe = Recipe::all_frames(&pack.view());
                recipe.charge(support, &mut patch);
                let kept = self.kept_pieces(&pack.pack.blob, &recipe.packed);
                self.take_off(kept, &mut patch);
                Some(pack)
            }
            Err(why_not) => {
                patch.why_not = Some(why_not);
                None
            }
        };
        let mut ways = Vec::from([local, whole, patch]);
        let method = choose(&mut ways).unwrap_or(Method::Whole);
        self.meter.plan(PlanPart::Uki, ways);
        Ok(KernelWays {
            method,
            booted,
            patch: opened,
        })
    }

    fn open_kernel_patch(
        &mut self,
        release: &Release,
        booted: &BootedKernel,
        otherwise: u64,
    ) -> Result<Result<PackInUse, WhyNot>, StageError> {
        let mut patches = release.uki_patches.iter();
        let pack = patches.find(|patch| patch.from == booted.sha256);
        let size = release.blobs.uki.size;
        let shape = PackShape {
            target_blocks: size.div_ceil(BLOCK_SIZE),
            base_blocks: booted.size.div_ceil(BLOCK_SIZE),
        };
        let opened = self.open_pack(pack.map(|it| &it.pack), &shape, size, otherwise)?;
        Ok(opened.and_then(|pack| {
            // There is no tree to tell what else the booted one has.
            if pack.index.held_blocks() == shape.target_blocks {
                Ok(pack)
            } else {
                let why = "it does not hold every block of the kernel image";
                Err(WhyNot::Unusable(why.to_owned()))
            }
        }))
    }

    /// Takes off what need not come any more, as far as servers can be asked for the rest.
    fn take_off(&self, kept: u64, way: &mut Alternative) {
        if self.network.ranges() == RangeSupport::No {
            return;
        }
        way.there = kept.min(way.fetch);
        way.fetch -= way.there;
        if way.fetch == 0 {
            way.requests = 0;
        }
    }

    /// Returns how much of `ranges` of `blob` an earlier stage has kept.
    fn kept_pieces(&self, blob: &Blob, ranges: &[Range<u64>]) -> u64 {
        let mut missing = Missing::of(ranges, blob.size);
        let all = missing.bytes();
        Keeper::new(self.device, blob).replay(&mut |offset, bytes| {
            let end = offset.saturating_add(len(bytes));
            if lies_on_blocks(offset, end, blob) {
                missing.remove(offset..end);
            }
            Verdict::Taken
        });
        all.saturating_sub(missing.bytes())
    }
}

impl<D: Slots + BootControl + Pace, N: Fetch> Bench<'_, D, N> {
    /// Reads the booted slot's kernel image through. One that cannot be read is
    /// of no use, and no more than that.
    fn booted_kernel(&self) -> Result<Option<BootedKernel>, StageError> {
        let Some(entry) = self.booted_entry() else {
            return Ok(None);
        };
        let read = self.read_kernel(&entry)?.inspect_err(unreadable);
        Ok(read.ok().map(|(size, sha256)| BootedKernel {
            entry,
            size,
            sha256,
        }))
    }

    /// Returns the boot entry of the release that runs, unless there is none.
    fn booted_entry(&self) -> Option<BootEntry> {
        let view = self.device.view();
        let found = view.and_then(|view| self.entry_of(&view.booted_version));
        found.inspect_err(unreadable).ok().flatten()
    }

    /// Returns the boot entry of a release, unless there is none.
    pub(crate) fn entry_of(&self, version: &Version) -> std::io::Result<Option<BootEntry>> {
        let mut entries = self.device.entries()?.into_iter();
        Ok(entries.find(|entry| entry.version == *version))
    }

    /// Reads a kernel image that was written in the past: it is what it should be, as far as
    /// that is known.
    pub fn check_kernel(&self, entry: &BootEntry, root_hash: &RootHash) -> Result<(), StageError>
    where
        D: Records,
    {
        let read = self.read_kernel(entry)?;
        let (_, sha256) = read.map_err(esp("read the kernel image of the other slot"))?;
        match kernels::of(self.device, root_hash) {
            Ok(Some(expected)) if !expected.is(&sha256) => Err(StageError::KernelRotten {
                version: entry.version.clone(),
            }),
            Ok(Some(_) | None) => Ok(()),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "nothing is known of the kernel image");
                Ok(())
            }
        }
    }

    /// Reads a kernel image through, and returns its size and digest, or why it cannot be
    /// read; what else there is to fail is a stop.
    pub(crate) fn read_kernel(
        &self,
        entry: &BootEntry,
    ) -> Result<std::io::Result<(u64, Digest)>, StageError> {
        let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0_u64, vec![0; CHUNK]);
        loop {
            let count = match self.device.read_entry(entry, size, &mut buffer) {
                Ok(count) => count,
                Err(error) => return Ok(Err(error)),
            };
            let bytes = buffer.get(..count).unwrap_or_default();
            hasher.update(bytes);
            size = size.saturating_add(len(bytes));
            self.step(len(bytes))?;
            if size > MAX_UKI_BYTES {
                return Ok(Err(std::io::ErrorKind::FileTooLarge.into()));
            }
            if count < CHUNK {
                return Ok(Ok((size, digest(hasher))));
            }
        }
    }
}

impl<D: Slots + BootControl + KeptPieces + Pace, N: Fetch> Bench<'_, D, N> {
    fn copy_kernel(&self, booted: &BootedKernel) -> Result<(), StageError> {
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        while offset < booted.size {
            let read = self.device.read_entry(&booted.entry, offset, &mut buffer);
            let count = read.map_err(esp("copy the booted kernel image"))?;
            let bytes = buffer.get(..count).filter(|bytes| !bytes.is_empty());
            let Some(bytes) = bytes else { break };
            let (device, meter, stop) = (self.device, self.meter, self.stop);
            put(device, meter, stop, offset, bytes, Source::Booted)?;
            offset = offset.saturating_add(len(bytes));
        }
        Ok(())
    }

    fn patch_kernel(&mut self, booted: &BootedKernel, pack: &PackInUse) -> Result<(), StageError> {
        let recipe = Recipe::all_frames(&pack.view());
        let mut frames = Frames::new(&pack.index, &recipe.frames);
        let (device, meter, stop) = (self.device, self.meter, self.stop);
        let size = pack.target_size;
        let mut into = KernelFrames {
            device,
            meter,
            stop,
            booted,
            size,
            source: Source::There,
        };
        let (blob, mut failed) = (&pack.pack.blob, None);
        let mut missing = Missing::of(&recipe.packed, blob.size);
        let mut keeper = Keeper::new(device, blob);
        let mut take = |offset, bytes: &[u8], into: &mut KernelFrames<'_, D>| {
            let verdict = frames.push(offset, bytes, into);
            verdict.unwrap_or_else(|error| {
                failed = Some(error);
                Verdict::Stop
            })
        };
        keeper.replay(&mut |offset, bytes| {
            let end = offset.saturating_add(len(bytes));
            let verdict = take(offset, bytes, &mut into);
            // A frame that is bad is asked for again, with all that is not whole blocks.
            if verdict == Verdict::Taken && lies_on_blocks(offset, end, blob) {
                missing.remove(offset..end);
            }
            verdict
        });
        into.source = Source::Network;
        let ranges: Vec<_> = missing.parts().collect();
        let result = match ranges.is_empty() {
            true => Ok(()),
            false => self
                .network
                .fetch_ranges(blob, &ranges, stop, &mut |offset, bytes| {
                    let verdict = take(offset, bytes, &mut into);
                    if verdict == Verdict::Taken {
                        keeper.keep(offset, bytes);
                    }
                    verdict
                }),
        };
        fetched("patch of the kernel image", result, failed, stop)
    }

    fn fetch_kernel(&mut self, release: &Release) -> Result<(), StageError> {
        let blob = &release.blobs.uki;
        let begun = self.put_kept(blob)?;
        if begun.offset > 0 {
            match self.fetch_rest(blob, begun) {
                Err(error @ StageError::BlobDigest { .. }) => {
                    tracing::warn!(%error, "what was kept of the kernel image is of no use");
                    Keeper::new(self.device, blob).forget();
                }
                done => return done,
            }
        }
        self.fetch_rest(blob, Begun::default())
    }

    /// Puts what is kept of the kernel image's beginning in its place.
    fn put_kept(&self, blob: &Blob) -> Result<Begun, StageError> {
        let (device, meter, stop) = (self.device, self.meter, self.stop);
        let (mut hasher, mut failed) = (Sha256::new(), None);
        let keeper = Keeper::new(device, blob);
        let offset = keeper.replay_beginning(blob.size, &mut |offset, bytes| {
            if let Err(error) = put(device, meter, stop, offset, bytes, Source::There) {
                failed = Some(error);
                return Verdict::Stop;
            }
            hasher.update(bytes);
            Verdict::Taken
        });
        let begun = Begun { hasher, offset };
        failed.map_or(Ok(begun), Err)
    }

    fn fetch_rest(&mut self, blob: &Blob, begun: Begun) -> Result<(), StageError> {
        let (device, meter, stop) = (self.device, self.meter, self.stop);
        let start = begun.offset;
        let (mut hasher, mut offset, mut failed) = (begun.hasher, start, None);
        let mut keeper = Keeper::new(device, blob);
        let check = |hasher: &mut Sha256| {
            let found = digest(std::mem::take(hasher));
            if found == blob.sha256 {
                return Ok(());
            }
            Err(StageError::BlobDigest {
                what: KERNEL,
                found,
                expected: blob.sha256,
            })
        };
        if start == blob.size {
            return check(&mut hasher);
        }
        let result = self.network.fetch(blob, start, stop, &mut |bytes| {
            hasher.update(bytes);
            keeper.keep(offset, bytes);
            if let Err(error) = put(device, meter, stop, offset, bytes, Source::Network) {
                failed = Some(error);
                return Verdict::Stop;
            }
            offset = offset.saturating_add(len(bytes));
            if offset < blob.size {
                return Verdict::Taken;
            }
            offset = start;
            let Err(error) = check(&mut hasher) else {
                return Verdict::Taken;
            };
            failed = Some(error);
            if start > 0 {
                // Whoever gave the beginning may be to blame.
                return Verdict::Stop;
            }
            keeper.forget();
            Verdict::BadWhole
        });
        fetched(KERNEL, result, failed, stop)
    }

    /// On return what was written is on the medium, and is the kernel image of `release`.
    fn keep_kernel(&self, release: &Release) -> Result<(), StageError> {
        let flushed = self.device.flush_temporary();
        flushed.map_err(esp("bring the kernel image to the medium"))?;
        let (size, expected) = (release.blobs.uki.size, release.blobs.uki.sha256);
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        while offset < size {
            let rest = memory((size - offset).min(len(&buffer)));
            let bytes = buffer
                .get_mut(..rest)
                .expect("no chunk is larger than the buffer");
            let read = self.device.read_temporary(offset, bytes);
            read.map_err(esp("read the kernel image back"))?;
            hasher.update(&*bytes);
            self.meter.read_back(len(bytes));
            offset = offset.saturating_add(len(bytes));
            self.step(len(bytes))?;
        }
        let found = digest(hasher);
        if found == expected {
            Ok(())
        } else {
            Err(StageError::KernelReadBack { found, expected })
        }
    }
}

pub(crate) fn unreadable(error: &std::io::Error) {
    tracing::warn!(%error, "a kernel image cannot be read");
}

fn put(
    device: &(impl BootControl + Pace),
    meter: &Meter,
    stop: &Stop,
    offset: u64,
    bytes: &[u8],
    source: Source,
) -> Result<(), StageError> {
    let written = device.write_temporary(offset, bytes);
    written.map_err(esp("write the kernel image"))?;
    meter.came_from(source, len(bytes));
    meter.wrote(len(bytes));
    step(device, stop, len(bytes))
}

/// How much of the kernel image is in its place.
#[derive(Debug, Default)]
struct Begun {
    hasher: Sha256,
    offset: u64,
}

/// Returns whether a piece is such as servers are asked for.
fn lies_on_blocks(start: u64, end: u64, blob: &Blob) -> bool {
    let end_is_one = end.is_multiple_of(BLOCK_SIZE) || end == blob.size;
    start.is_multiple_of(BLOCK_SIZE) && end_is_one
}

/// Frames of a patch of the booted slot's kernel image.
struct KernelFrames<'a, D> {
    device: &'a D,
    meter: &'a Meter,
    stop: &'a Stop,
    booted: &'a BootedKernel,
    size: u64,
    /// Where what comes now comes from.
    source: Source,
}

impl<D: BootControl + Pace> FrameTarget for KernelFrames<'_, D> {
    fn size(&self) -> u64 {
        self.size
    }

    fn base(&mut self, frame: &Frame) -> Option<Vec<u8>> {
        let mut base = Vec::new();
        for extent in &frame.bases {
            let place = extent.bytes(self.booted.size);
            let mut bytes = vec![0; memory(place.end - place.start)];
            let read = self
                .device
                .read_entry(&self.booted.entry, place.start, &mut bytes);
            if !read.is_ok_and(|count| count == bytes.len()) {
                return None;
            }
            // As for the root image, nobody has proved that so much must be read.
            step(self.device, self.stop, len(&bytes)).ok()?;
            base.append(&mut bytes);
        }
        Some(base)
    }

    fn is_sound(&mut self, _frame: &Frame, _base: &[u8]) -> bool {
        // Nothing vouches for its single blocks; its digest was right for the whole.
        true
    }

    fn take(&mut self, frame: &Frame, blocks: &[u8]) -> Result<Match, StageError> {
        let mut rest = blocks;
        for extent in &frame.targets {
            let place = extent.bytes(self.size);
            let (now, later) = rest
                .split_at_checked(memory(place.end - place.start))
                .expect("a frame unpacks to its blocks");
            rest = later;
            let (device, meter, stop) = (self.device, self.meter, self.stop);
            put(device, meter, stop, place.start, now, self.source)?;
        }
        Ok(Match::Same)
    }
}
