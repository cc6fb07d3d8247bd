//! What the kernel images on this node should be. No hash tree proves them, and nothing else here says it:
//! so it is written down when a release is staged, and of an image that came with the disk when it is
//! first read.

use partition_layout::RootHash;
use release::Digest;
use serde::{Deserialize, Serialize};

use crate::ports::{Record, Records};
use crate::records::{self, RecordError};
use crate::refusal::Chain;

/// Those of both slots, and of many that did not stay: each reading puts that of the image that
/// runs first again.
const MOST: usize = 16;

/// What the kernel image of one release should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    root_hash: RootHash,
    /// In hexadecimal, since it is compared and nothing else.
    sha256: String,
}

/// Tells whether a kernel image of the digest `sha256` is the one that belongs to a root hash; `None` if
/// nothing is known of it.
///
/// # Errors
/// The record cannot be read. One that is damaged knows nothing.
pub(crate) fn is_known(
    records: &impl Records,
    root_hash: &RootHash,
    sha256: &Digest,
) -> Result<Option<bool>, RecordError> {
    let known = read(records)?.into_iter();
    let mut known = known.filter(|it| it.root_hash == *root_hash);
    Ok(known.next().map(|it| it.sha256 == sha256.to_string()))
}

/// Writes down what a kernel image should be. A disk that takes no record only loses the
/// means to find out that it has rotten.
pub(crate) fn learn(records: &impl Records, root_hash: RootHash, sha256: Digest) {
    let learned = read(records).and_then(|mut known| {
        let now = Known {
            root_hash,
            sha256: sha256.to_string(),
        };
        if known.first() == Some(&now) {
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
