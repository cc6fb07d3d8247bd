//! Rolling a release out to more of a channel's nodes, or to no more of them.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use partition_layout::Version;
use release::{BadDocument, ChannelName};
use tough::ExpirationEnforcement;
use tough::schema::RoleType;

use super::channel_file::{self, ChannelError};
use super::expiry::Expiries;
use super::keys::KeySet;
use super::metadata::{MetadataError, Renew, Signing, put_all};
use super::share::Share;
use super::store::{METADATA, Store};
use super::target_list::NextTargets;
use super::trusted::{LoadError, Trusted};

/// What became of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledOut {
    /// The release that the channel's nodes shall run.
    pub version: Version,
    /// The share of them that might take it before.
    pub before: Share,
    /// When the metadata that was signed expires, by role; nothing if the
    /// share was the same before.
    pub expires: Vec<(RoleType, Timestamp)>,
}

/// A rollout could not be changed; the repository offers what it did before.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The repository is of other keys, or damaged.
    #[error("the repository {base} does not hold with the root file in {keys}")]
    Load {
        base: PathBuf,
        keys: PathBuf,
        source: LoadError,
    },
    /// The channel's file could not be read.
    #[error("cannot change the rollout of the channel {channel}")]
    Channel {
        channel: ChannelName,
        source: ChannelError,
    },
    /// Nodes would refuse the channel's file.
    #[error("the channel's file would be refused")]
    Refused(#[from] BadDocument),
    /// The target's name is refused.
    #[error("cannot name a target")]
    Target(#[from] Box<tough::error::Error>),
    /// The metadata could not be made.
    #[error("cannot make the new metadata")]
    Metadata(#[from] MetadataError),
    /// A file could not be put in place.
    #[error("cannot put {name} in place")]
    Put { name: String, source: io::Error },
}

/// Lets this share of a channel's nodes take its release. Nodes that took it
/// when the share was larger keep it.
pub fn roll_out(
    store: &mut impl Store,
    keys: &KeySet,
    name: &ChannelName,
    share: Share,
    expiries: &Expiries,
    now: Timestamp,
) -> Result<RolledOut, RolloutError> {
    let base = store.base().to_owned();
    let current = Trusted::load(&base, keys.root_of_trust(), ExpirationEnforcement::Unsafe)
        .map_err(|source| RolloutError::Load {
            base: base.clone(),
            keys: keys.folder().into(),
            source,
        })?;
    let failed = |source| RolloutError::Channel {
        channel: name.clone(),
        source,
    };
    let channel = channel_file::read(Some(&current), name).map_err(failed)?;
    let mut channel = channel.ok_or_else(|| failed(ChannelError::NoSuchChannel))?;
    let before = Share::of(channel.rollout.as_ref());
    channel.rollout = share.rollout(&channel.release);
    let mut done = RolledOut {
        version: channel.release.clone(),
        before,
        expires: Vec::new(),
    };
    let wanted = [(name.target(), channel.to_bytes()?)];
    let Some(targets) = NextTargets::of(Some(&current), wanted)? else {
        return Ok(done);
    };
    // A file is put before the file that names it.
    let failed = |(name, source)| RolloutError::Put { name, source };
    targets.put(store).map_err(failed)?;
    let signing = Signing {
        authorities: vec![(current.root(), keys)],
        expiries,
        now,
    };
    let renew = Renew::Targets(Box::new(targets.list));
    let files = signing.next(&base, Some(&current), renew)?;
    put_all(store, &files).map_err(|source| failed((METADATA.to_owned(), source)))?;
    done.expires = files.iter().map(|file| (file.role, file.expires)).collect();
    Ok(done)
}
