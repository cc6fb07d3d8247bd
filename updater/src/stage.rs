//! Fills the spare slot's partitions, and proves what is on the medium.
//!
//! ```text
//! write_tree   tree ──sha256 as the release says──▶ verity partition ──▶ medium
//! write_root   image ──each block against that tree──▶ root partition ──▶ medium
//! read_back    both partitions, from the medium, whole: tree's digest, root hash
//! ```
//! The slot cannot boot meanwhile, so a tree that turns out to be another one
//! harms nobody. Memory does not grow with the image: one chunk is held, and
//! one block per level of the tree.

use std::io;

use partition_layout::{RootHash, Slot};
use release::limits::BLOCK_SIZE;
use release::{Blob, Digest, Release};
use sha2::{Digest as _, Sha256};
use verity::{HashArea, Match, ReadAreaError, ReadAt, TreeError, VerifiedTree};

use crate::meter::Meter;
use crate::ports::{Fetch, FetchError, Part, Slots, Stop, Verdict};
pub use crate::stage_error::StageError;

/// What is written and read back at once: large enough that a disk is not
/// asked thousands of times a second, small beside the 48 MiB that staging may take.
pub(crate) const CHUNK: usize = 1 << 20;

/// What filling a slot works with.
#[derive(Debug)]
pub struct Bench<'a, D, N> {
    pub device: &'a D,
    pub network: &'a mut N,
    pub meter: &'a Meter,
    pub stop: &'a Stop,
}

/// A partition, read from the medium.
struct Medium<'a, D> {
    device: &'a D,
    slot: Slot,
    part: Part,
}

impl<D: Slots> ReadAt for Medium<'_, D> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.device.read_medium(self.slot, self.part, offset, buf)
    }
}

/// Collects a stream into chunks of one size.
pub(crate) struct Chunks {
    buffer: Vec<u8>,
    offset: u64,
}

impl Chunks {
    pub(crate) fn new() -> Self {
        Self {
            buffer: Vec::with_capacity(CHUNK),
            offset: 0,
        }
    }

    /// Takes `bytes`, and hands every chunk that they fill to `sink`, with the
    /// offset at which it lies.
    pub(crate) fn push<E>(
        &mut self,
        mut bytes: &[u8],
        sink: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let room = CHUNK.saturating_sub(self.buffer.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == CHUNK {
                self.flush(sink)?;
            }
        }
        Ok(())
    }

    /// Hands on what is left.
    pub(crate) fn flush<E>(
        &mut self,
        sink: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.buffer.is_empty() {
            sink(self.offset, &self.buffer)?;
            self.offset = self.offset.saturating_add(len(&self.buffer));
            self.buffer.clear();
        }
        Ok(())
    }
}

pub(crate) fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("memory is smaller than 2^64 bytes")
}

pub(crate) fn digest(hasher: Sha256) -> Digest {
    Digest::new(hasher.finalize().into())
}

impl<D: Slots, N: Fetch> Bench<'_, D, N> {
    /// Streams a blob through `sink` in chunks, counting what was fetched.
    pub(crate) fn pour(
        &mut self,
        what: &'static str,
        blob: &Blob,
        sink: &mut impl FnMut(u64, &[u8]) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        let mut chunks = Chunks::new();
        let mut failed = None;
        let (meter, stop) = (self.meter, self.stop);
        let fetched = self.network.fetch(blob, 0, stop, &mut |bytes| {
            meter.add(len(bytes));
            match chunks.push(bytes, sink) {
                Ok(()) => Verdict::Taken,
                Err(error) => {
                    failed = Some(error);
                    Verdict::Stop
                }
            }
        });
        match (failed, fetched) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => chunks.flush(sink),
            (None, Err(FetchError::Stopped)) => Err(StageError::Stopped),
            (None, Err(source)) => Err(StageError::Fetch { what, source }),
        }
    }

    /// Writes the hash tree. On return it has reached the medium, and leads to
    /// the release's root hash.
    pub fn write_tree(&mut self, slot: Slot, release: &Release) -> Result<(), StageError> {
        const WHAT: &str = "hash tree";
        let (device, meter) = (self.device, self.meter);
        let mut hasher = Sha256::new();
        let blob = &release.blobs.verity;
        self.pour(WHAT, blob, &mut |offset, bytes| {
            hasher.update(bytes);
            write(device, meter, slot, Part::Verity, offset, bytes)
        })?;
        let found = digest(hasher);
        if found != blob.sha256 {
            return Err(StageError::BlobDigest {
                what: WHAT,
                found,
                expected: blob.sha256,
            });
        }
        flush(device, slot, Part::Verity)?;
        open_tree(device, slot, release).map(drop)
    }

    /// Writes the root image, block by block as the hash tree allows. On return
    /// it has reached the medium.
    pub fn write_root(&mut self, slot: Slot, release: &Release) -> Result<(), StageError> {
        let (device, meter) = (self.device, self.meter);
        let root_hash = release.root_hash;
        let tree = open_tree(device, slot, release)?;
        let blob = &release.blobs.root;
        self.pour("root image", blob, &mut |offset, bytes| {
            check(&tree, offset, bytes, |block| StageError::Block { block })
                .map_err(|error| error.or(|source| StageError::Tree { root_hash, source }))?;
            write(device, meter, slot, Part::Root, offset, bytes)
        })?;
        flush(device, slot, Part::Root)
    }

    /// Reads both partitions back from the medium, whole: the tree's digest is
    /// the release's, and every block of the image leads to the root hash.
    pub fn read_back(&mut self, slot: Slot, release: &Release) -> Result<(), StageError> {
        let mut hasher = Sha256::new();
        let expected = release.blobs.verity.sha256;
        self.read_whole(
            slot,
            Part::Verity,
            release.blobs.verity.size,
            &mut |_, bytes| {
                hasher.update(bytes);
                Ok(())
            },
        )?;
        let found = digest(hasher);
        if found != expected {
            return Err(StageError::ReadBackDigest {
                slot,
                found,
                expected,
            });
        }
        self.check_image(slot, release.root_hash, &mut |area| {
            same_shape(area, release)?;
            Ok(())
        })
    }

    /// Reads a slot that was filled in the past: every block of its image leads
    /// to `root_hash`.
    pub fn check_whole(&mut self, slot: Slot, root_hash: RootHash) -> Result<(), StageError> {
        let meter = self.meter;
        self.check_image(slot, root_hash, &mut |area| {
            meter.expect(area.data_len());
            Ok(())
        })
    }

    fn check_image(
        &self,
        slot: Slot,
        root_hash: RootHash,
        look: &mut impl FnMut(&HashArea) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        let medium = Medium {
            device: self.device,
            slot,
            part: Part::Verity,
        };
        let area =
            HashArea::read(&medium, 0).map_err(|source| StageError::NoTree { slot, source })?;
        look(&area)?;
        let size = area.data_len();
        let failed = |source| StageError::ReadBackTree {
            slot,
            root_hash,
            source,
        };
        let tree = VerifiedTree::open(medium, area, &root_hash).map_err(failed)?;
        self.read_whole(slot, Part::Root, size, &mut |offset, bytes| {
            check(&tree, offset, bytes, |block| StageError::ReadBackBlock {
                slot,
                root_hash,
                block,
            })
            .map_err(|error| error.or(failed))
        })
    }

    fn read_whole(
        &self,
        slot: Slot,
        part: Part,
        size: u64,
        sink: &mut impl FnMut(u64, &[u8]) -> Result<(), StageError>,
    ) -> Result<(), StageError> {
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        while offset < size {
            self.stop.checkpoint().map_err(|_| StageError::Stopped)?;
            let rest = usize::try_from(size - offset).unwrap_or(CHUNK).min(CHUNK);
            let bytes = buffer
                .get_mut(..rest)
                .expect("no chunk is larger than the buffer");
            self.device
                .read_medium(slot, part, offset, bytes)
                .map_err(|source| StageError::ReadBack {
                    slot,
                    part,
                    offset,
                    source,
                })?;
            sink(offset, bytes)?;
            self.meter.add(len(bytes));
            offset = offset.saturating_add(len(bytes));
        }
        Ok(())
    }
}

/// Opens the hash tree that was written for `release`.
fn open_tree<'a, D: Slots>(
    device: &'a D,
    slot: Slot,
    release: &Release,
) -> Result<VerifiedTree<Medium<'a, D>>, StageError> {
    let medium = Medium {
        device,
        slot,
        part: Part::Verity,
    };
    let area = HashArea::read(&medium, 0).map_err(|source| match source {
        ReadAreaError::Read { .. } => StageError::NoTree { slot, source },
        ReadAreaError::Superblock { .. } | ReadAreaError::Area { .. } => {
            StageError::Superblock { source }
        }
    })?;
    same_shape(&area, release)?;
    let root_hash = release.root_hash;
    VerifiedTree::open(medium, area, &root_hash)
        .map_err(|source| StageError::Tree { root_hash, source })
}

/// A block that is not the tree's, or a tree that cannot be asked.
enum CheckError {
    Block(StageError),
    Tree(TreeError),
}

impl CheckError {
    fn or(self, tree: impl FnOnce(TreeError) -> StageError) -> StageError {
        match self {
            Self::Block(error) => error,
            Self::Tree(error) => tree(error),
        }
    }
}

fn check(
    tree: &VerifiedTree<impl ReadAt>,
    offset: u64,
    bytes: &[u8],
    wrong: impl Fn(u64) -> StageError,
) -> Result<(), CheckError> {
    let size = usize::try_from(BLOCK_SIZE).expect("a block fits memory");
    for (number, bytes) in (offset / BLOCK_SIZE..).zip(bytes.chunks(size)) {
        match tree.check_block(number, bytes).map_err(CheckError::Tree)? {
            Match::Same => {}
            Match::Different => return Err(CheckError::Block(wrong(number))),
        }
    }
    Ok(())
}

fn write(
    device: &impl Slots,
    meter: &Meter,
    slot: Slot,
    part: Part,
    offset: u64,
    bytes: &[u8],
) -> Result<(), StageError> {
    device
        .write(slot, part, offset, bytes)
        .map_err(|source| StageError::Write {
            slot,
            part,
            offset,
            source,
        })?;
    meter.add(len(bytes));
    Ok(())
}

fn flush(device: &impl Slots, slot: Slot, part: Part) -> Result<(), StageError> {
    device
        .flush(slot, part)
        .map_err(|source| StageError::Flush { slot, part, source })
}

/// The kernel reads the superblock's shape from the table that PID 1 makes of
/// it, so it has to be the signed one.
fn same_shape(area: &HashArea, release: &Release) -> Result<(), StageError> {
    let params = area.params();
    let verity = &release.verity;
    let found = (
        u64::from(params.data_block_size),
        u64::from(params.hash_block_size),
        area.data_blocks(),
        params.salt.as_slice(),
    );
    let expected = (
        verity.data_block_size,
        verity.hash_block_size,
        verity.data_blocks,
        verity.salt.as_bytes(),
    );
    if found == expected {
        return Ok(());
    }
    let show = |(data, hash, blocks, salt): (u64, u64, u64, &[u8])| {
        format!(
            "{blocks} blocks of {data} bytes, hashed into {hash}, salt {}",
            hex::encode(salt)
        )
    };
    Err(StageError::TreeShape {
        found: show(found),
        expected: show(expected),
    })
}
