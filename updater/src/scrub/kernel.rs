//! An image's kernel image: whether it is what it should be, and mended where it is not.
//!
//! No hash tree proves its blocks. So it is held to the digest that its release names
//! ([`crate::kernels`]). One that has another digest is fetched, and what comes, being proved as a whole,
//! takes the place of the blocks that differ.

use std::io;

use partition_layout::BootEntry;
use release::limits::BLOCK_SIZE;
use release::{Blob, Digest};
use sha2::{Digest as _, Sha256};

use super::mend::Mender;
use crate::kernels::{self, Ground};
use crate::ports::{
    BootControl, Fetch, FetchError, Pace, Records, Releases, Slots, Stopped, Verdict,
};
use crate::refusal::Chain;
use crate::stage::{Bench, block_size, digest, len};
use crate::uki::unreadable;

/// How many blocks are mended: 4 MiB are kept in memory until the whole has come. A disk
/// on which more have rotten is to be replaced.
const MOST: usize = 1024;

/// What became of a kernel image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum KernelFate {
    #[default]
    Sound,
    /// So many of its blocks were mended.
    Mended(usize),
    /// It is not what the release says, and stays so.
    Rotten { why: String },
    /// Nobody can tell.
    Unknown { why: String },
}

/// Blocks of a kernel image that, with the rest of it, have the digest that its release
/// names: the only thing that is ever written over one. They cannot be made in another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelBlocks(Vec<(u64, Vec<u8>)>);

impl KernelBlocks {
    /// Returns them, each with its offset.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let blocks = self.0.iter();
        blocks.map(|(offset, bytes)| (*offset, bytes.as_slice()))
    }
}

impl<D: Slots + BootControl + Pace + Records, N: Fetch + Releases> Mender<'_, D, N> {
    /// Mends the image's kernel image, if it is not what it should be. One that is not there is no
    /// affair of the mender's.
    ///
    /// Only what is known to have been what its release says is written over. Another one, of
    /// another build perhaps, starts all the same: half of each, as a power cut would leave it, would not.
    pub(super) fn mend_kernel(&mut self) -> Result<KernelFate, Stopped> {
        let (version, root_hash) = (self.version, self.root_hash);
        let entry = match self.bench().entry_of(version) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(KernelFate::Sound),
            Err(error) => return Ok(unknown(&error)),
        };
        let expected = match kernels::of(self.device, &root_hash) {
            Ok(expected) => expected,
            Err(error) => return Ok(unknown(&error)),
        };
        // Twice, if need be: what was a passing fault is none.
        let found = match self.read_kernel(&entry)? {
            None => self.read_kernel(&entry)?,
            found @ Some(_) => found,
        };
        let is_expected = |sha256: &Digest| expected.as_ref().is_none_or(|it| it.is(sha256));
        let unchanged = found.filter(|(_, sha256)| is_expected(sha256));
        let ground = expected.as_ref().map(|it| it.ground);
        if let (Some((_, sha256)), Some(Ground::Release)) = (unchanged, ground) {
            kernels::learn(self.device, root_hash, sha256, Ground::Release);
            return Ok(KernelFate::Sound);
        }
        let blob = match (self.release()?, unchanged) {
            (Ok(release), _) => release.blobs.uki,
            (Err(_), Some((_, sha256))) => {
                kernels::learn(self.device, root_hash, sha256, Ground::Reading);
                return Ok(KernelFate::Sound);
            }
            (Err(why), None) => {
                let why = format!("nobody says what it should be: {why}");
                return Ok(KernelFate::Rotten { why });
            }
        };
        let was_right = expected.is_some_and(|it| it.is(&blob.sha256));
        let fate = match found {
            Some((_, sha256)) if sha256 == blob.sha256 => KernelFate::Sound,
            Some((size, _)) if size != blob.size => {
                let why = format!("it has {size} bytes, the release says {}", blob.size);
                KernelFate::Rotten { why }
            }
            Some(_) | None if !was_right => {
                let why = "it is not what its release says, and is not known to have ever been";
                KernelFate::Rotten { why: why.into() }
            }
            Some(_) | None => self.put_right(&entry, &blob)?,
        };
        if !matches!(fate, KernelFate::Rotten { .. }) {
            kernels::learn(self.device, root_hash, blob.sha256, Ground::Release);
        }
        Ok(fate)
    }

    fn put_right(&mut self, entry: &BootEntry, blob: &Blob) -> Result<KernelFate, Stopped> {
        let rotten = |why: String| Ok(KernelFate::Rotten { why });
        let sound = match self.fetch_kernel_blocks(entry, blob) {
            Ok(sound) => sound,
            Err(FetchError::Stopped) if self.stop.is_set() => return Err(Stopped),
            Err(FetchError::Stopped) => {
                return rotten(format!("more than {MOST} of its blocks are"));
            }
            Err(error) => return rotten(Chain(&error).to_string()),
        };
        if let Err(error) = self.device.mend_entry(entry, &sound) {
            return rotten(format!("it cannot be written to: {error}"));
        }
        let blocks = sound.0.len();
        let written = sound.iter().map(|(_, bytes)| len(bytes)).sum::<u64>();
        self.meter.count(|tally| tally.written += written);
        if self.read_kernel(entry)? != Some((blob.size, blob.sha256)) {
            return rotten("it does not keep what is written to it".to_owned());
        }
        Ok(match blocks {
            0 => KernelFate::Sound,
            blocks => KernelFate::Mended(blocks),
        })
    }

    /// Fetches the whole, and returns what of it is not on the medium.
    fn fetch_kernel_blocks(
        &mut self,
        entry: &BootEntry,
        blob: &Blob,
    ) -> Result<KernelBlocks, FetchError> {
        let (device, stop) = (self.device, self.stop);
        let before = self.network.received();
        let mut comparison = Comparison::new(device, entry);
        let mut sound = None;
        let fetched = self.network.fetch(blob, 0, stop, &mut |bytes| {
            comparison.push(bytes);
            if device.step(len(bytes), stop).is_err() || comparison.differing.len() > MOST {
                return Verdict::Stop;
            }
            if comparison.received < blob.size {
                return Verdict::Taken;
            }
            let whole = std::mem::replace(&mut comparison, Comparison::new(device, entry));
            sound = whole.finish(blob);
            if sound.is_some() {
                Verdict::Taken
            } else {
                Verdict::BadWhole
            }
        });
        let received = self.network.received().saturating_sub(before);
        self.meter.count(|tally| tally.fetched += received);
        fetched?;
        sound.ok_or(FetchError::Stopped)
    }

    /// Returns its size and digest, `None` if it cannot be read.
    fn read_kernel(&mut self, entry: &BootEntry) -> Result<Option<(u64, Digest)>, Stopped> {
        let read = self.bench().read_kernel(entry);
        let read = read.map_err(|_| Stopped)?;
        Ok(read.inspect_err(unreadable).ok())
    }

    fn bench(&mut self) -> Bench<'_, D, N> {
        Bench {
            device: self.device,
            network: self.network,
            meter: self.meter,
            stop: self.stop,
        }
    }
}

fn unknown(error: &(dyn std::error::Error + 'static)) -> KernelFate {
    let why = Chain(error).to_string();
    KernelFate::Unknown { why }
}

/// What comes, block by block beside what is on the medium.
struct Comparison<'a, D> {
    device: &'a D,
    entry: &'a BootEntry,
    hasher: Sha256,
    received: u64,
    /// The beginning of a block.
    rest: Vec<u8>,
    differing: Vec<(u64, Vec<u8>)>,
}

impl<'a, D: BootControl> Comparison<'a, D> {
    fn new(device: &'a D, entry: &'a BootEntry) -> Self {
        Self {
            device,
            entry,
            hasher: Sha256::new(),
            received: 0,
            rest: Vec::new(),
            differing: Vec::new(),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        let start = self.received - self.received % BLOCK_SIZE;
        self.received = self.received.saturating_add(len(bytes));
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let whole = all.len() - all.len() % block_size();
        self.rest = all.split_off(whole);
        self.compare(start, &all);
    }

    /// Returns what differs, if all that has come is `blob`.
    fn finish(mut self, blob: &Blob) -> Option<KernelBlocks> {
        let rest = std::mem::take(&mut self.rest);
        self.compare(self.received.saturating_sub(len(&rest)), &rest);
        (digest(self.hasher) == blob.sha256).then_some(KernelBlocks(self.differing))
    }

    fn compare(&mut self, start: u64, sound: &[u8]) {
        if self.is_there(start, sound).unwrap_or(false) {
            return;
        }
        for (index, block) in (0_u64..).zip(sound.chunks(block_size())) {
            let offset = start.saturating_add(index.saturating_mul(BLOCK_SIZE));
            // What cannot be read is written too: a disk may put another sector in its place.
            if !self.is_there(offset, block).unwrap_or(false) {
                self.differing.push((offset, block.to_vec()));
            }
        }
    }

    fn is_there(&self, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let mut found = vec![0; bytes.len()];
        let count = self.device.read_entry(self.entry, offset, &mut found)?;
        Ok(count == bytes.len() && found == bytes)
    }
}
