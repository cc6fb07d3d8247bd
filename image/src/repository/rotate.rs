//! Replacing the root file: new keys, new thresholds, or only a later expiry.

use std::io;
use std::num::NonZeroU64;
use std::path::PathBuf;

use jiff::Timestamp;
use tough::ExpirationEnforcement;
use tough::schema::{RoleType, Root, Signed};

use super::expiry::{BadExpiry, Expiries};
use super::keys::{KeySet, SignError};
use super::metadata::{MetadataError, MetadataFile, Renew, Signing, put_all};
use super::store::Store;
use super::trusted::{LoadError, Trusted};

/// A root file could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The repository is of other keys, or damaged.
    #[error("the repository {base} does not hold with the root file in {keys}")]
    Load {
        base: PathBuf,
        keys: PathBuf,
        source: LoadError,
    },
    /// There is no number left.
    #[error("no number is left for the next root file")]
    NoNumber,
    /// The new expiry is no moment.
    #[error("cannot say when the root file expires")]
    Expiry(#[from] BadExpiry),
    /// Too few keys are there.
    #[error("cannot sign the new root file")]
    Sign(#[from] SignError),
    /// The metadata could not be made.
    #[error("cannot make the new metadata")]
    Metadata(#[from] MetadataError),
    /// A file could not be put in place.
    #[error("cannot put the metadata in place")]
    Put(#[source] io::Error),
    /// The repository has the new root file, the key folder has not.
    #[error(
        "the repository has the new root file, but it cannot be written to {keys}; copy it there"
    )]
    KeepRoot { keys: PathBuf, source: io::Error },
}

/// Makes `new` the keys of the repository in place of `old`, and returns the
/// number of the new root file, which is also written to the folder of `new`.
/// With the same keys for both, only the expiry and the number change, and
/// the root keys are enough.
///
/// Nodes follow from the root file they have to this one, because both the old
/// and the new root keys sign it. All other metadata is signed by both sets
/// before the new root file appears, so that it holds under either.
pub fn rotate_root(
    store: &mut impl Store,
    old: &KeySet,
    new: &KeySet,
    expiries: &Expiries,
    now: Timestamp,
) -> Result<NonZeroU64, RotateError> {
    let base = store.base().to_owned();
    let current = Trusted::load(&base, old.root_of_trust(), ExpirationEnforcement::Unsafe)
        .map_err(|source| RotateError::Load {
            base: base.clone(),
            keys: old.folder().into(),
            source,
        })?;
    let number = current
        .root()
        .version
        .checked_add(1)
        .ok_or(RotateError::NoNumber)?;
    let root = Root {
        version: number,
        expires: expiries.moment(RoleType::Root, now)?,
        ..new.root().signed.clone()
    };
    let signed: Signed<Root> = new.sign(&root, root.clone())?;
    let signed = old.add_signatures(current.root(), signed)?;
    let root_file = MetadataFile::new(&signed)?;

    if !same_signers(current.root(), &root) {
        let signing = Signing {
            authorities: vec![(current.root(), old), (&root, new)],
            expiries,
            now,
        };
        let list = Box::new(current.targets().clone());
        let files = signing.next(&base, Some(&current), Renew::Targets(list))?;
        put_all(store, &files).map_err(RotateError::Put)?;
    }
    store
        .put(&root_file.name, &root_file.bytes)
        .map_err(RotateError::Put)?;
    new.replace_root(&root_file.bytes)
        .map_err(|source| RotateError::KeepRoot {
            keys: new.folder().into(),
            source,
        })?;
    Ok(number)
}

/// Returns whether what is signed under one root holds under the other.
fn same_signers(one: &Root, other: &Root) -> bool {
    [RoleType::Targets, RoleType::Snapshot, RoleType::Timestamp]
        .iter()
        .all(|role| one.roles.get(role) == other.roles.get(role))
}
