//! What a channel says, and what it says next.

use partition_layout::Version;
use release::limits::{MAX_CHANNEL_BYTES, MAX_CHANNEL_RELEASES};
use release::{BadDocument, Channel, ChannelName};

use super::share::Share;
use super::trusted::{LoadError, Trusted};

/// A channel's file could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The file is missing or altered.
    #[error("cannot read the channel's file")]
    Load(#[source] LoadError),
    /// The file is there, and broken.
    #[error("the channel's file is broken")]
    Broken(#[source] BadDocument),
    /// The channel is not among the targets.
    #[error("the repository has no such channel")]
    NoSuchChannel,
    /// A share of the nodes takes what the channel offers, and nothing else.
    #[error(
        "a share was given for version {version}, but the channel's nodes run {current}, which is newer"
    )]
    ShareOfAnother { version: Version, current: Version },
}

/// Returns what a channel says, if there is such a channel.
pub(crate) fn read(
    current: Option<&Trusted>,
    name: &ChannelName,
) -> Result<Option<Channel>, ChannelError> {
    let target = name.target();
    let Some(current) = current.filter(|current| current.target_names().contains(&&*target)) else {
        return Ok(None);
    };
    let bytes = current.read_target(&target, MAX_CHANNEL_BYTES);
    let bytes = bytes.map_err(ChannelError::Load)?;
    Channel::parse(&bytes)
        .map(Some)
        .map_err(ChannelError::Broken)
}

/// Returns the channel with a version listed. It becomes the one to run unless
/// the channel offers a newer one already.
pub(crate) fn list(
    before: Option<Channel>,
    name: &ChannelName,
    version: &Version,
    share: Option<Share>,
) -> Result<Channel, ChannelError> {
    let mut channel = before.unwrap_or_else(|| Channel {
        channel: name.clone(),
        release: version.clone(),
        releases: Vec::new(),
        rollout: None,
    });
    if !channel.releases.contains(version) {
        channel.releases.push(version.clone());
        channel.releases.sort_by(|a, b| b.cmp(a));
    }
    if *version > channel.release {
        channel.release = version.clone();
        // It was that of the release before.
        channel.rollout = None;
    }
    if let Some(share) = share {
        if channel.release != *version {
            return Err(ChannelError::ShareOfAnother {
                version: version.clone(),
                current: channel.release,
            });
        }
        channel.rollout = share.rollout(version);
    }
    let release = channel.release.clone();
    let mut room = MAX_CHANNEL_RELEASES.saturating_sub(1);
    channel.releases.retain(|one| {
        let keep = *one == release || room > 0;
        if keep && *one != release {
            room -= 1;
        }
        keep
    });
    Ok(channel)
}
