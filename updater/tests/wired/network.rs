//! A repository in memory, honest or not.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use partition_layout::{Architecture, Version};
use release::rollout::Rollout;
use release::{Blob, Blobs, COMPATIBLE, Channel, ChannelName, Digest, Release, Salt, Verity};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use updater::ports::{
    Fetch, FetchError, Offer, RangeSupport, Releases, ReleasesError, Stop, Verdict,
};
use verity::{HashArea, HashType, Params, Superblock};

use super::barrier::Barrier;
use super::fake::Image;

const BLOCK: usize = 4096;
const SALT: [u8; 32] = [7; 32];

/// What a server does to the blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    /// Flips a bit of this blob at this offset.
    Flip(Which, usize),
    /// The same, but the mirror that is asked after a complaint is honest.
    FlipOnce(Which, usize),
    /// Ends this blob here.
    Truncate(Which, usize),
    /// Says nothing more once this much of this blob was sent.
    Silence(Which, usize),
    MetadataExpired,
    MetadataUntrusted,
    /// The same, with words of a stranger in the reason.
    MetadataGarbled,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Root,
    Verity,
    Uki,
    Packed,
    Patch,
    UkiPatch,
}

#[derive(Debug)]
struct Shelf {
    releases: Vec<Release>,
    blobs: HashMap<Digest, (Which, Vec<u8>)>,
    lie: Lie,
    channel: Version,
    ranges: RangeSupport,
    received: u64,
    rollout: Option<Rollout>,
    /// Before the metadata.
    barrier: Barrier,
    /// What was sent, piece by piece.
    sent: Vec<(Which, Range<u64>)>,
}

/// A repository; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct FakeRepository(Arc<Mutex<Shelf>>);

pub(crate) fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

/// Returns a block that only this seed and number have.
pub(crate) fn block(seed: u8, number: usize) -> Vec<u8> {
    let [low, high, ..] = number.to_le_bytes();
    let digest = Sha256::digest([seed, low, high]);
    digest.repeat(BLOCK / 32)
}

/// Makes a release of `blocks` blocks, all of them different from any other release's.
pub(crate) fn image(name: &str, seed: u8, blocks: usize) -> (Release, Image) {
    let root = (0..blocks).flat_map(|number| block(seed, number));
    image_of(name, seed, root.collect())
}

/// Makes the release whose root image these bytes are.
pub(crate) fn image_of(name: &str, seed: u8, root: Vec<u8>) -> (Release, Image) {
    let version = version(name);
    let blocks = root.len() / BLOCK;
    let params = Params {
        data_block_size: 4096,
        hash_block_size: 4096,
        salt: SALT.to_vec(),
        hash_type: HashType::Normal,
    };
    let superblock = Superblock::new(
        params,
        blocks as u64,
        partition_layout::Uuid::from_bytes([seed; 16]),
    )
    .unwrap();
    let area = HashArea::with_superblock(&superblock, 0).unwrap();
    let mut tree = Vec::new();
    let root_hash = verity::format(&root, &area, &mut tree).unwrap();
    let uki = format!("kernel image of {name} ({seed}) roothash={root_hash} ")
        .repeat(60)
        .into_bytes();
    let release = Release {
        version: version.clone(),
        architecture: Architecture::of_build(),
        compatible: COMPATIBLE.to_owned(),
        root_hash,
        verity: Verity {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: Salt::new(SALT).unwrap(),
            data_blocks: blocks as u64,
        },
        blobs: Blobs {
            root: blob(&root),
            verity: blob(&tree),
            uki: blob(&uki),
            sbom: None,
            packed: None,
        },
        patches: Vec::new(),
        uki_patches: Vec::new(),
        created: None,
        notes: None,
    };
    (
        release,
        Image {
            version,
            root_hash,
            root,
            verity: tree,
            uki,
        },
    )
}

pub(crate) fn blob(bytes: &[u8]) -> Blob {
    Blob {
        sha256: Digest::new(Sha256::digest(bytes).into()),
        size: bytes.len() as u64,
    }
}

impl FakeRepository {
    /// A repository that offers the last of `releases`.
    pub(crate) fn with(releases: &[&(Release, Image)]) -> Self {
        let mut blobs = HashMap::new();
        for (release, image) in releases {
            blobs.insert(release.blobs.root.sha256, (Which::Root, image.root.clone()));
            blobs.insert(
                release.blobs.verity.sha256,
                (Which::Verity, image.verity.clone()),
            );
            blobs.insert(release.blobs.uki.sha256, (Which::Uki, image.uki.clone()));
        }
        let releases: Vec<Release> = releases
            .iter()
            .map(|(release, _)| release.clone())
            .collect();
        let channel = releases.last().unwrap().version.clone();
        Self(Arc::new(Mutex::new(Shelf {
            releases,
            blobs,
            lie: Lie::None,
            channel,
            ranges: RangeSupport::Yes,
            received: 0,
            rollout: None,
            barrier: Barrier::default(),
            sent: vec![],
        })))
    }

    /// Says whether the server sends parts of files.
    pub(crate) fn serve_ranges(&self, ranges: RangeSupport) {
        self.0.lock().unwrap().ranges = ranges;
    }

    /// What was sent since the last time that it was asked.
    pub(crate) fn take_sent(&self) -> Vec<(Which, Range<u64>)> {
        std::mem::take(&mut self.0.lock().unwrap().sent)
    }

    /// Puts a file in, and returns it as releases name it.
    pub(crate) fn add(&self, which: Which, bytes: Vec<u8>) -> Blob {
        let blob = blob(&bytes);
        self.0
            .lock()
            .unwrap()
            .blobs
            .insert(blob.sha256, (which, bytes));
        blob
    }

    pub(crate) fn lie(&self, lie: Lie) {
        self.0.lock().unwrap().lie = lie;
    }

    pub(crate) fn roll_out(&self, rollout: Rollout) {
        self.0.lock().unwrap().rollout = Some(rollout);
    }

    pub(crate) fn barrier(&self) -> Barrier {
        self.0.lock().unwrap().barrier.clone()
    }

    pub(crate) fn replace(&self, release: Release) {
        let mut shelf = self.0.lock().unwrap();
        shelf
            .releases
            .retain(|other| other.version != release.version);
        shelf.releases.push(release);
    }

    fn reach(&self) -> Result<(), ReleasesError> {
        let repository = "http://fake".to_owned();
        match self.0.lock().unwrap().lie {
            Lie::MetadataExpired => Err(ReleasesError::MetadataExpired {
                repository,
                source: "expired last week".into(),
            }),
            Lie::MetadataUntrusted => Err(ReleasesError::MetadataUntrusted {
                repository,
                source: "signed by a stranger".into(),
            }),
            Lie::MetadataGarbled => Err(ReleasesError::MetadataUntrusted {
                repository,
                source: "unknown variant `ed\0\x1b25519`".into(),
            }),
            Lie::Gone => Err(ReleasesError::RepositoryUnreachable {
                repository,
                source: "no route to host".into(),
            }),
            Lie::None
            | Lie::Flip(..)
            | Lie::FlipOnce(..)
            | Lie::Truncate(..)
            | Lie::Silence(..) => Ok(()),
        }
    }
}

impl Releases for FakeRepository {
    fn refresh(&mut self, _stop: &Stop) -> Result<Offer, ReleasesError> {
        self.barrier().pass();
        self.reach()?;
        let shelf = self.0.lock().unwrap();
        let mut versions: Vec<Version> = shelf
            .releases
            .iter()
            .map(|release| release.version.clone())
            .collect();
        versions.sort();
        versions.reverse();
        Ok(Offer {
            channel: Channel {
                channel: ChannelName::parse("stable").unwrap(),
                release: shelf.channel.clone(),
                releases: versions.clone(),
                rollout: shelf.rollout.clone(),
            },
            versions,
        })
    }

    fn release(
        &mut self,
        version: Option<&Version>,
        _stop: &Stop,
    ) -> Result<Release, ReleasesError> {
        self.barrier().pass();
        self.reach()?;
        let shelf = self.0.lock().unwrap();
        let version = version.unwrap_or(&shelf.channel);
        let found = shelf
            .releases
            .iter()
            .find(|release| release.version == *version);
        found.cloned().ok_or_else(|| ReleasesError::UnknownVersion {
            repository: "http://fake".to_owned(),
            version: version.to_string(),
        })
    }
}

impl FakeRepository {
    /// Hands over the bytes of `range` that the lie leaves, in pieces that are
    /// a multiple of `grain` long.
    fn send(
        &self,
        blob: &Blob,
        range: Range<u64>,
        grain: usize,
        stop: &Stop,
        sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        let place = |at: u64| usize::try_from(at).unwrap();
        let (mut from, to) = (place(range.start), place(range.end));
        let corrupt = || FetchError::BlobCorrupt {
            url: "http://fake/blob".to_owned(),
            why: "the caller says so".to_owned(),
        };
        loop {
            let (lie, which, bytes, end) = self.told(blob);
            let sent = match end {
                Some(end) if end < to => from + end.saturating_sub(from) / grain * grain,
                _ => to,
            };
            if from >= sent {
                return match (lie, end) {
                    (_, Some(end)) if end >= to => Ok(()),
                    (Lie::Silence(..), Some(_)) => {
                        Handle::current().block_on(stop.wait());
                        Err(FetchError::Stopped)
                    }
                    (_, Some(found)) => Err(FetchError::BlobTruncated {
                        url: "http://fake/blob".to_owned(),
                        found: found as u64,
                        expected: blob.size,
                    }),
                    (_, None) => Ok(()),
                };
            }
            // Odd pieces, as networks make them.
            let piece = &bytes[from..sent.min(from + 70_001 / grain * grain)];
            if stop.checkpoint().is_err() {
                return Err(FetchError::Stopped);
            }
            let at = from as u64;
            self.note(which, at..at + piece.len() as u64);
            match sink(at, piece) {
                Verdict::Taken => from += piece.len(),
                Verdict::Stop => return Err(FetchError::Stopped),
                bad @ (Verdict::Bad | Verdict::BadTogether | Verdict::BadWhole) => {
                    let mut shelf = self.0.lock().unwrap();
                    let Lie::FlipOnce(..) = shelf.lie else {
                        return Err(corrupt());
                    };
                    shelf.lie = Lie::None;
                    if bad == Verdict::BadWhole {
                        from = place(range.start);
                    }
                }
            }
        }
    }

    /// A blob as the server has it: with its lie, and where it ends for that.
    fn told(&self, blob: &Blob) -> (Lie, Which, Vec<u8>, Option<usize>) {
        let shelf = self.0.lock().unwrap();
        let (which, mut bytes) = shelf.blobs[&blob.sha256].clone();
        let mut end = None;
        match shelf.lie {
            Lie::Flip(of, at) | Lie::FlipOnce(of, at) if of == which => bytes[at] ^= 1,
            Lie::Truncate(of, at) | Lie::Silence(of, at) if of == which => end = Some(at),
            Lie::None
            | Lie::Flip(..)
            | Lie::FlipOnce(..)
            | Lie::Truncate(..)
            | Lie::Silence(..)
            | Lie::MetadataExpired
            | Lie::MetadataUntrusted
            | Lie::MetadataGarbled
            | Lie::Gone => {}
        }
        (shelf.lie, which, bytes, end)
    }

    fn note(&self, which: Which, range: Range<u64>) {
        let mut shelf = self.0.lock().unwrap();
        shelf.received += range.end - range.start;
        shelf.sent.push((which, range));
    }
}

impl Fetch for FakeRepository {
    fn fetch(
        &mut self,
        blob: &Blob,
        offset: u64,
        stop: &Stop,
        sink: &mut dyn FnMut(&[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        self.send(blob, offset..blob.size, 1, stop, &mut |_, bytes| {
            sink(bytes)
        })
    }

    fn fetch_ranges(
        &mut self,
        blob: &Blob,
        ranges: &[Range<u64>],
        stop: &Stop,
        sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        for range in ranges {
            assert!(range.start < range.end && range.end <= blob.size);
            assert!(range.start.is_multiple_of(BLOCK as u64));
            assert!(range.end.is_multiple_of(BLOCK as u64) || range.end == blob.size);
        }
        assert!(ranges.is_sorted_by(|a, b| a.end < b.start), "{ranges:?}");
        if self.ranges() == RangeSupport::No {
            let mut sent = 0;
            for range in ranges {
                let (_, which, ..) = self.told(blob);
                if sent < range.start {
                    self.note(which, sent..range.start);
                }
                self.send(blob, range.clone(), BLOCK, stop, sink)?;
                sent = range.end;
            }
            return Ok(());
        }
        // Order is nobody's right.
        for range in ranges.iter().rev() {
            self.send(blob, range.clone(), BLOCK, stop, sink)?;
        }
        Ok(())
    }

    fn ranges(&self) -> RangeSupport {
        self.0.lock().unwrap().ranges
    }

    fn received(&self) -> u64 {
        self.0.lock().unwrap().received
    }
}
