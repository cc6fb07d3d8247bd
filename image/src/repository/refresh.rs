//! Renewing metadata before it expires.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use tough::ExpirationEnforcement;
use tough::schema::RoleType;

use super::expiry::{BadExpiry, Expiries};
use super::keys::KeySet;
use super::metadata::{MetadataError, Renew, Signing, put_all};
use super::store::Store;
use super::trusted::{LoadError, Trusted};

/// What was renewed, and what is left to renew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refreshed {
    /// When the metadata that was signed expires, by role.
    pub renewed: Vec<(RoleType, Timestamp)>,
    /// What expires before the new timestamp does, by role: somebody with the
    /// keys must renew it by then, or nodes will refuse the repository.
    pub due: Vec<(RoleType, Timestamp)>,
}

/// A repository could not be refreshed; it is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The repository is of other keys, or damaged.
    #[error("the repository {base} does not hold with the root file in {keys}")]
    Load {
        base: PathBuf,
        keys: PathBuf,
        source: LoadError,
    },
    /// The new expiry is no moment.
    #[error("cannot say when the metadata expires")]
    Expiry(#[from] BadExpiry),
    /// The metadata could not be made.
    #[error("cannot make the new metadata")]
    Metadata(#[from] MetadataError),
    /// A file could not be put in place.
    #[error("cannot put the metadata in place")]
    Put(#[source] io::Error),
}

/// Renews the timestamp; and, where the keys for it are there, also what would
/// expire before that new timestamp does.
pub fn refresh(
    store: &mut impl Store,
    keys: &KeySet,
    expiries: &Expiries,
    now: Timestamp,
) -> Result<Refreshed, RefreshError> {
    let base = store.base().to_owned();
    // Expired metadata is what this is for.
    let current = Trusted::load(&base, keys.root_of_trust(), ExpirationEnforcement::Unsafe)
        .map_err(|source| RefreshError::Load {
            base: base.clone(),
            keys: keys.folder().into(),
            source,
        })?;
    let root = current.root();
    let horizon = expiries.timestamp.moment(now)?;
    let wanted = |role, expires| expires < horizon && keys.can_sign(root, role);
    let renew = if wanted(RoleType::Targets, current.targets().expires)
        && keys.can_sign(root, RoleType::Snapshot)
    {
        Renew::Targets(Box::new(current.targets().clone()))
    } else if wanted(RoleType::Snapshot, current.snapshot().expires) {
        Renew::Snapshot
    } else {
        Renew::Timestamp
    };
    let signing = Signing {
        authorities: vec![(root, keys)],
        expiries,
        now,
    };
    let files = signing.next(&base, Some(&current), renew)?;
    put_all(store, &files).map_err(RefreshError::Put)?;

    let renewed: Vec<_> = files.iter().map(|file| (file.role, file.expires)).collect();
    let mut due = vec![
        (RoleType::Root, root.expires),
        (RoleType::Targets, current.targets().expires),
        (RoleType::Snapshot, current.snapshot().expires),
    ];
    due.retain(|(role, expires)| {
        *expires < horizon && renewed.iter().all(|(renewed, _)| renewed != role)
    });
    Ok(Refreshed { renewed, due })
}
