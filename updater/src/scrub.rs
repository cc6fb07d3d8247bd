//! Reads the images of both slots through, gently, while nobody asks for their blocks.
//!
//! ```text
//! raw partition ─▶ each block against the hash tree ─▶ what is rotten ─▶ the hands mend it
//! ```
//! It reads below dm-verity, which restarts the machine at the first rotten
//! block of the booted image that anybody reads: what is found here, before, can be mended in peace. The
//! kernel images, which have no tree, the hands look at themselves when all else is read.
//! Start reading at [`read_through`].

pub mod erofs;
pub mod keeper;
pub mod kernel;
pub mod mend;
pub mod proven;
mod tree;
mod turn;

use std::io;

use jiff::Timestamp;
use partition_layout::RootHash;
use release::limits::BLOCK_SIZE;
use serde::{Deserialize, Serialize};
use verity::{ReadAt, TreeError};

use self::proven::{OpenProverError, Prover};
use crate::ports::Stopped;

/// How many blocks are read at once.
const CHUNK_BLOCKS: u64 = 256;
/// How many rotten blocks are remembered. A disk with more of them is to be replaced.
pub const MOST: usize = 4096;

/// How far the reading is, from boot to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The image that is read.
    pub root_hash: RootHash,
    /// The block that is next.
    pub next: u64,
    /// Its blocks; 0 until it was opened.
    #[serde(default)]
    pub blocks: u64,
    /// Those that were rotten so far.
    #[serde(default)]
    pub rotten: Vec<u64>,
    /// Whether something is left for the hands to do, since they could not: blocks or a kernel
    /// image that nobody could mend, or that nobody had time for.
    #[serde(default)]
    pub left: bool,
    /// When an image was last read to its end.
    #[serde(default)]
    pub finished: Option<Timestamp>,
}

impl Reading {
    /// Begins with the first block; when it was last finished stays.
    pub const fn anew(root_hash: RootHash, finished: Option<Timestamp>) -> Self {
        Self {
            root_hash,
            next: 0,
            blocks: 0,
            rotten: Vec::new(),
            left: false,
            finished,
        }
    }

    /// The same, once nothing is rotten any more.
    fn mended(self) -> Self {
        Self {
            rotten: Vec::new(),
            left: false,
            ..self
        }
    }
}

/// Why the reading did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    #[error("cannot open the hash tree of the image")]
    Open(#[source] OpenProverError),
    #[error("the hash tree is not that of the image")]
    Tree(#[source] TreeError),
    #[error("asked to stop")]
    Stopped,
}

impl From<Stopped> for ScrubError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// Reads on from where `reading` is. `step` is called after each chunk, and may
/// end it.
///
/// # Errors
/// The tree cannot be read or proved, or `step` ends it.
pub fn read_through(
    image: &impl ReadAt,
    prover: &Prover<impl ReadAt>,
    reading: &mut Reading,
    step: &mut impl FnMut(&Reading, u64) -> Result<(), Stopped>,
) -> Result<(), ScrubError> {
    reading.blocks = prover.blocks();
    let mut buffer = Vec::new();
    while reading.next < reading.blocks {
        let first = reading.next;
        let count = reading.blocks.saturating_sub(first).min(CHUNK_BLOCKS);
        let rotten = rotten_in(image, prover, first, count, &mut buffer)?;
        let room = MOST.saturating_sub(reading.rotten.len());
        reading.rotten.extend(rotten.into_iter().take(room));
        reading.next = first.saturating_add(count);
        step(reading, count.saturating_mul(BLOCK_SIZE))?;
    }
    Ok(())
}

/// A medium that gives nothing, or something else, is read once more: what was
/// a passing fault is none.
fn rotten_in(
    image: &impl ReadAt,
    prover: &Prover<impl ReadAt>,
    first: u64,
    count: u64,
    buffer: &mut Vec<u8>,
) -> Result<Vec<u64>, ScrubError> {
    let size = block_len();
    buffer.resize(usize::try_from(count).unwrap_or(0).saturating_mul(size), 0);
    let read = image.read_exact_at(buffer, first.saturating_mul(BLOCK_SIZE));
    let mut rotten = Vec::new();
    for (block, bytes) in (first..).zip(buffer.chunks_exact(size)) {
        let sound = read.is_ok() && is_sound(prover, block, bytes)?;
        if !sound && !is_sound_on_medium(image, prover, block)? {
            rotten.push(block);
        }
    }
    Ok(rotten)
}

fn is_sound(prover: &Prover<impl ReadAt>, block: u64, bytes: &[u8]) -> Result<bool, ScrubError> {
    let proven = prover.prove(block, bytes).map_err(ScrubError::Tree)?;
    Ok(proven.is_some())
}

fn is_sound_on_medium(
    image: &impl ReadAt,
    prover: &Prover<impl ReadAt>,
    block: u64,
) -> Result<bool, ScrubError> {
    match read_block(image, block) {
        Ok(bytes) => is_sound(prover, block, &bytes),
        Err(error) => {
            tracing::warn!(block, %error, "a block of an image cannot be read");
            Ok(false)
        }
    }
}

/// Reads one block.
pub(crate) fn read_block(image: &impl ReadAt, block: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; block_len()];
    image.read_exact_at(&mut bytes, block.saturating_mul(BLOCK_SIZE))?;
    Ok(bytes)
}

pub(crate) fn block_len() -> usize {
    usize::try_from(BLOCK_SIZE).expect("a block fits memory")
}

#[cfg(test)]
pub(crate) mod tests;
