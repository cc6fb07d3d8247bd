//! What the kernel images on this node should be. No hash tree proves them, and nothing else here says it:
//! so it is written down when a release is staged. Of an image that came with the disk it is what its
//! release says, once that is known; until then it is believed to be what it was when it was first read.

use partition_layout::RootHash;
use release::Digest;
use serde::{Deserialize, Serialize};

use crate::ports::{Record, Records};
use crate::records::{self, RecordError};
use crate::refusal::Chain;

/// Those of both slots, which each reading puts first again, and of many that did not stay.
const MOST: usize = 16;

/// What the kernel image of one release should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    root_hash: RootHash,
    /// In hexadecimal, since it is compared and nothing else.
    sha256: String,
    /// Whether a release says so.
    #[serde(default)]
    proven: bool,
}

/// Why a kernel image should have a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ground {
    /// Its release says so.
    Release,
    /// It had it when it was read, and nobody says anything else.
    Reading,
}

/// What is known of a kernel image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    sha256: String,
    pub(crate) ground: Ground,
}

impl Expected {
    /// Returns whether a kernel image of this digest is the one.
    pub(crate) fn is(&self, sha256: &Digest) -> bool {
        self.sha256 == sha256.to_string()
    }
}

/// Returns what is known of the kernel image that belongs to a root hash.
///
/// # Errors
/// The record cannot be read. One that is damaged knows nothing.
pub(crate) fn of(
    records: &impl Records,
    root_hash: &RootHash,
) -> Result<Option<Expected>, RecordError> {
    let mut known = read(records)?.into_iter();
    let known = known.find(|it| it.root_hash == *root_hash);
    Ok(known.map(|it| Expected {
        sha256: it.sha256,
        ground: match it.proven {
            true => Ground::Release,
            false => Ground::Reading,
        },
    }))
}

/// Writes down what a kernel image should be. A disk that takes no record only loses the
/// means to find out that it has rotten.
pub(crate) fn learn(records: &impl Records, root_hash: RootHash, sha256: Digest, ground: Ground) {
    let learned = read(records).and_then(|mut known| {
        let now = Known {
            root_hash,
            sha256: sha256.to_string(),
            proven: ground == Ground::Release,
        };
        // Both slots' are looked at in each reading, and stay the first: nothing is to be
        // written for that.
        if known.iter().take(2).any(|known| *known == now) {
            return Ok(());
        }
        known.retain(|it| it.root_hash != root_hash);
        known.insert(0, now);
        known.truncate(MOST);
        records::write(records, Record::Kernels, &known)
    });
    if let Err(error) = learned {
        tracing::warn!(error = %Chain(&error), "cannot write down what a kernel image should be");
    }
}

/// The last learned first.
fn read(records: &impl Records) -> Result<Vec<Known>, RecordError> {
    Ok(records::read(records, Record::Kernels)?.unwrap_or_default())
}
