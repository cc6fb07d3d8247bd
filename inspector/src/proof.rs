//! Whether what a boot entry names is whole: its kernel image, and its slot.

use std::io;
use std::ops::Range;

use partition_layout::{Device, Partition, RootHash, SlotPartitions};
use sha2::{Digest, Sha256};
use verity::{HashArea, Match, ReadAreaError, ReadAt, VerifiedTree, VerifyError, verify};

/// How much of a kernel image is read at a time.
const CHUNK: u64 = 1 << 20;

/// Why a slot does not hold the image of a root hash.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum SlotFault {
    #[error("cannot read where its hash tree lies")]
    Area { source: ReadAreaError },
    #[error("its hash tree describes {data} bytes of data, the root partition has {root}")]
    Small { data: u64, root: u64 },
    #[error("it is not the image of this root hash")]
    Image { source: VerifyError },
    #[error("it is not the image of this root hash, and later blocks are not either: {more}")]
    Blocks { more: u64, source: VerifyError },
}

/// What is asked about a disk for a verdict.
///
/// Whoever looks at thousands of states of one disk remembers what it was told, as these
/// two questions are the expensive ones.
pub trait Proofs {
    /// Tells whether `slot` holds the image of `root_hash`, every block of it.
    ///
    /// # Errors
    /// [`SlotFault`], in words.
    fn prove_slot(&mut self, slot: &SlotPartitions, root_hash: &RootHash) -> Result<(), String>;

    /// Returns the SHA-256 of the bytes of the disk in `extents`, in their order.
    ///
    /// # Errors
    /// What the medium said, in words.
    fn digest(&mut self, extents: &[Range<u64>]) -> Result<String, String>;
}

/// Proofs that read the disk for every question.
#[derive(Debug)]
pub struct DiskProofs<'d, D>(pub &'d D);

impl<D: Device + Sync> Proofs for DiskProofs<'_, D> {
    fn prove_slot(&mut self, slot: &SlotPartitions, root_hash: &RootHash) -> Result<(), String> {
        prove_slot(self.0, slot, root_hash).map_err(|fault| crate::chain(&fault))
    }

    fn digest(&mut self, extents: &[Range<u64>]) -> Result<String, String> {
        digest(self.0, extents).map_err(|error| format!("cannot read it: {error}"))
    }
}

fn prove_slot(
    device: &(impl Device + Sync),
    slot: &SlotPartitions,
    root_hash: &RootHash,
) -> Result<(), SlotFault> {
    let of = |partition| Part { device, partition };
    let (root, hashes) = (of(&slot.root), of(&slot.verity));
    // As PID 1 does.
    let area = HashArea::read(&hashes, 0).map_err(|source| SlotFault::Area { source })?;
    let (data, root_len) = (area.data_len(), slot.root.len);
    if data > root_len {
        let root = root_len;
        return Err(SlotFault::Small { data, root });
    }
    let Err(source) = verify(&root, &hashes, &area, root_hash) else {
        return Ok(());
    };
    // One block that has rotten is something else than an image of which a part was written.
    let more = match source {
        VerifyError::Data { block, .. } => VerifiedTree::open(hashes, area, root_hash)
            .map_or(u64::MAX, |tree| later(&root, &tree, block)),
        VerifyError::ReadData { .. } | VerifyError::Tree(_) => 0,
    };
    Err(match more {
        0 => SlotFault::Image { source },
        more => SlotFault::Blocks { more, source },
    })
}

/// Returns how many blocks of an image are wrong behind the block `first`.
fn later(root: &impl ReadAt, tree: &VerifiedTree<impl ReadAt>, first: u64) -> u64 {
    let (blocks, size) = (
        tree.area().data_blocks(),
        tree.area().params().data_block_size,
    );
    let mut chunk = vec![0; usize::try_from(CHUNK).unwrap_or_default()];
    let in_chunk = CHUNK / u64::from(size);
    let mut wrong = 0;
    let mut next = first.saturating_add(1);
    while next < blocks {
        let count = in_chunk.min(blocks - next);
        let length = usize::try_from(count * u64::from(size)).unwrap_or_default();
        let bytes = chunk.get_mut(..length).unwrap_or_default();
        let read = root.read_exact_at(bytes, next * u64::from(size));
        wrong += match read.map(|()| tree.check_blocks(next, bytes)) {
            Ok(Ok(matches)) => matches.iter().filter(|it| **it == Match::Different).count() as u64,
            Ok(Err(_)) | Err(_) => count,
        };
        next += count;
    }
    wrong
}

fn digest(device: &impl Device, extents: &[Range<u64>]) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = Vec::new();
    for extent in extents {
        let mut at = extent.start;
        while at < extent.end {
            let length = CHUNK.min(extent.end - at);
            buffer.resize(usize::try_from(length).unwrap_or_default(), 0);
            device.read_at(at, &mut buffer)?;
            hasher.update(&buffer);
            at += length;
        }
    }
    Ok(hex::encode(hasher.finalize()))
}

/// A partition of a disk, and nothing around it.
struct Part<'d, D> {
    device: &'d D,
    partition: &'d Partition,
}

impl<D: Device + Sync> ReadAt for Part<'_, D> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.partition.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.device
            .read_at(self.partition.start.saturating_add(offset), buffer)
    }
}
