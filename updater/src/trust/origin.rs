//! The root of trust in the image, and what was reached from it.
//!
//! A refresh begins at the image's root each time: that one cannot be tampered
//! with. The newest root that was seen counts only under the same root of trust:
//! an image with another one has the last word.

use sha2::{Digest, Sha256};

use super::refresh::{RefreshError, Start};
use super::store::Store;

/// The digest of the root of trust from which the kept root was reached.
const ORIGIN: &str = "root-of-trust";

/// Returns where a refresh begins. Afterwards what `store` keeps was reached
/// from `root_of_trust`.
pub(super) fn start(store: &Store, root_of_trust: Vec<u8>) -> Result<Start, RefreshError> {
    let digest = hex::encode(Sha256::digest(&root_of_trust));
    let origin = store.read(ORIGIN)?;
    if origin.as_deref() != Some(digest.as_bytes()) {
        // In this order: a cut in between must not leave a root that belongs to
        // another origin, as its versions would be held against this one's.
        store.forget("root.json")?;
        store.keep(ORIGIN, digest.as_bytes())?;
    }
    Ok(Start {
        root: root_of_trust,
        seen: store.read("root.json")?,
    })
}
