//! Adding a release to a repository.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use partition_layout::Version;
use release::{BadDocument, Blob, BlobPath, ChannelName, Release, version_of_target};
use tough::ExpirationEnforcement;
use tough::schema::{RoleType, Root, Signed};

use super::channel_file::{self, ChannelError};
use super::examine::{ExamineError, Examined, examine};
use super::expiry::Expiries;
use super::keys::KeySet;
use super::metadata::{MetadataError, MetadataFile, Renew, Signing, parse_root, put_all};
use super::packs::{PackError, PackOf, PackPlan, Packer, Packs};
use super::release_files::{TakenError, bases, published_before};
use super::share::Share;
use super::store::{Content, METADATA, Store, TARGETS, compare};
use super::target_list::NextTargets;
use super::trusted::{LoadError, Trusted};

/// What to publish.
#[derive(Debug)]
pub struct PublishRequest<'a> {
    /// The keys; those of the targets, snapshot and timestamp roles are needed.
    pub keys: &'a KeySet,
    /// The folder that a build made.
    pub image: &'a Path,
    /// The channel that shall list the release.
    pub channel: &'a ChannelName,
    /// The share of its nodes that may take the release, if it is the one that
    /// they shall run. Without it a new release is for all of them.
    pub share: Option<Share>,
    /// Which packs the release gets.
    pub packs: PackPlan,
    /// How long the new metadata is valid.
    pub expiries: &'a Expiries,
    /// The time now.
    pub now: Timestamp,
}

/// What became of a request to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The version.
    pub version: Version,
    /// The version that the channel's nodes shall run now.
    pub current: Version,
    /// The share of the nodes that may take that one.
    pub share: Share,
    /// Whether anything was new.
    pub outcome: Outcome,
    /// The packs that the release has.
    pub packs: Vec<PackOf>,
    /// The bytes of blobs that were not there before.
    pub bytes_added: u64,
    /// When the metadata that was signed expires, by role.
    pub expires: Vec<(RoleType, Timestamp)>,
    /// What publishing does not renew and expires before something that was
    /// signed: somebody with the keys must renew it by then, or nodes will
    /// refuse the repository.
    pub due: Vec<(RoleType, Timestamp)>,
    /// What has expired, if nothing was new and so nothing was signed: nodes
    /// refuse the repository until it is refreshed.
    pub expired: Vec<(RoleType, Timestamp)>,
}

/// Whether a request to publish changed what the repository offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The release is new.
    Added,
    /// The channel listed the same release already.
    AlreadyThere,
}

/// A release could not be published. Unless it says otherwise, the repository
/// offers what it did before.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The image is unfit.
    #[error("{image} cannot be released")]
    Examine {
        image: PathBuf,
        source: ExamineError,
    },
    /// The repository is of other keys, or damaged.
    #[error("the repository {base} cannot be built upon with the keys in {keys}")]
    Load {
        base: PathBuf,
        keys: PathBuf,
        source: LoadError,
    },
    /// A first root file of other keys is there.
    #[error("the repository {base} has a root file, {name}, that is not the one in {keys}")]
    OtherRoot {
        base: PathBuf,
        name: String,
        keys: PathBuf,
    },
    /// Releases are there, and nothing that says which of them are offered.
    #[error(
        "{missing} is gone, and the repository has releases ({versions}): put back the copy that nodes are served, expired or not; beginning anew would take the releases from the list, and nodes would refuse the new list as older than what they have seen. If no node ever saw this repository, remove {targets}",
        versions = list(.versions)
    )]
    LostList {
        missing: PathBuf,
        targets: PathBuf,
        versions: Vec<Version>,
    },
    /// The version is taken.
    #[error(transparent)]
    Taken(#[from] TakenError),
    /// The channel's file could not be read or made.
    #[error("cannot list the release in the channel {channel}")]
    Channel {
        channel: ChannelName,
        source: ChannelError,
    },
    /// A pack could not be made.
    #[error("cannot make the packs of version {version}")]
    Packs { version: Version, source: PackError },
    /// Nodes would refuse a file.
    #[error("a file that nodes would refuse")]
    Refused(#[from] BadDocument),
    /// The metadata could not be made.
    #[error("cannot make the new metadata")]
    Metadata(#[from] MetadataError),
    /// The target's name is refused.
    #[error("cannot name a target")]
    Target(#[from] Box<tough::error::Error>),
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    /// A file could not be put in place.
    #[error("cannot put {name} in place")]
    Put { name: String, source: io::Error },
}

/// Adds the release that an image makes to the repository.
///
/// The release becomes the one that the channel's nodes shall run, unless the
/// channel offers a newer one already. Publishing the same again changes
/// nothing, except that blobs that were lost are put in place again, and that
/// patches are added from what another channel, say, had before.
pub fn publish(
    store: &mut impl Store,
    request: &PublishRequest<'_>,
) -> Result<Published, PublishError> {
    let base = store.base().to_owned();
    let examined = examine(request.image).map_err(|source| PublishError::Examine {
        image: request.image.into(),
        source,
    })?;
    let current = load(&base, request.keys)?;
    let first_root = match &current {
        Some(_) => None,
        None => {
            let root = first_root(&base, request.keys)?;
            check_nothing_was_offered(&base, &examined.release.version)?;
            Some(root)
        }
    };
    let mut release = examined.release.clone();
    let before = published_before(current.as_ref(), &release)?;
    let channel = channel_file::read(current.as_ref(), request.channel)
        .and_then(|it| channel_file::list(it, request.channel, &release.version, request.share))
        .map_err(|source| PublishError::Channel {
            channel: request.channel.clone(),
            source,
        })?;
    let count = request.packs.patches;
    let bases = bases(current.as_ref(), &channel, &release, before.as_ref(), count);
    let packs = packs(&base, request, &examined, before.as_ref(), &bases)?;
    packs.add_to(&mut release);
    let targets = NextTargets::of(
        current.as_ref(),
        [
            (release.target(), release.to_bytes()?),
            (channel.channel.target(), channel.to_bytes()?),
        ],
    )?;

    // The order is the promise: a file is put before the file that names it.
    let bytes_added = put_blobs(store, &examined.sources)? + put_blobs(store, &packs.sources())?;
    let mut published = Published {
        version: release.version.clone(),
        share: Share::of(channel.rollout.as_ref()),
        current: channel.release,
        outcome: Outcome::AlreadyThere,
        packs: packs.list,
        bytes_added,
        expires: Vec::new(),
        due: Vec::new(),
        expired: Vec::new(),
    };
    let Some(targets) = targets else {
        published.expired = current.as_ref().map_or_else(Vec::new, Trusted::expiries);
        published.expired.retain(|(_, end)| *end <= request.now);
        return Ok(published);
    };
    let failed = |(name, source)| PublishError::Put { name, source };
    targets.put(store).map_err(failed)?;
    if let Some(root) = &first_root {
        let put = store.put(&root.name, &root.bytes);
        put.map_err(|source| failed((root.name.clone(), source)))?;
    }
    let root: &Root = match &current {
        Some(current) => current.root(),
        None => &request.keys.root().signed,
    };
    let signing = Signing {
        authorities: vec![(root, request.keys)],
        expiries: request.expiries,
        now: request.now,
    };
    let files = signing.next(
        &base,
        current.as_ref(),
        Renew::Targets(Box::new(targets.list)),
    )?;
    put_all(store, &files).map_err(|source| failed((METADATA.to_owned(), source)))?;
    published.outcome = Outcome::Added;
    published.expires = files.iter().map(|file| (file.role, file.expires)).collect();
    if published.expires.iter().any(|(_, end)| root.expires < *end) {
        published.due.push((RoleType::Root, root.expires));
    }
    Ok(published)
}

/// Reads the repository's metadata, expired or not: a publisher is who renews
/// it. There is none before the first release.
fn load(base: &Path, keys: &KeySet) -> Result<Option<Trusted>, PublishError> {
    let newest = base.join(METADATA).join("timestamp.json");
    match newest.try_exists() {
        Ok(false) => return Ok(None),
        Ok(true) => {}
        Err(source) => {
            return Err(PublishError::Read {
                path: newest,
                source,
            });
        }
    }
    Trusted::load(base, keys.root_of_trust(), ExpirationEnforcement::Unsafe)
        .map(Some)
        .map_err(|source| load_error(base, keys, source))
}

fn load_error(base: &Path, keys: &KeySet, source: LoadError) -> PublishError {
    PublishError::Load {
        base: base.into(),
        keys: keys.folder().into(),
        source,
    }
}

/// Returns the root file that a new repository begins with.
fn first_root(base: &Path, keys: &KeySet) -> Result<MetadataFile, PublishError> {
    let own = MetadataFile::new(keys.root())?;
    let path = base.join(&own.name);
    match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(own),
        Err(source) => Err(PublishError::Read { path, source }),
        // Left by a publisher that was interrupted before its first release.
        Ok(bytes) if is_same_root(&bytes, keys.root()) => Ok(own),
        Ok(_) => Err(PublishError::OtherRoot {
            base: base.into(),
            name: own.name,
            keys: keys.folder().into(),
        }),
    }
}

/// Refuses to begin anew where other releases are. The one that is to be
/// published may be there: a first publisher was interrupted.
fn check_nothing_was_offered(base: &Path, version: &Version) -> Result<(), PublishError> {
    let targets = base.join(TARGETS);
    let failed = |source| PublishError::Read {
        path: targets.clone(),
        source,
    };
    let mut versions = Vec::new();
    for entry in std::fs::read_dir(&targets).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        // `<digest>.<target>`
        let target = name.to_str().and_then(|name| name.split_once('.'));
        let found = target.and_then(|(_, target)| version_of_target(target));
        versions.extend(found.filter(|found| found != version));
    }
    if versions.is_empty() {
        return Ok(());
    }
    versions.sort();
    versions.dedup();
    Err(PublishError::LostList {
        missing: base.join(METADATA).join("timestamp.json"),
        targets,
        versions,
    })
}

fn list(versions: &[Version]) -> String {
    let versions: Vec<_> = versions.iter().map(Version::as_str).collect();
    versions.join(", ")
}

fn is_same_root(bytes: &[u8], own: &Signed<Root>) -> bool {
    parse_root(bytes).is_ok_and(|root| root.signed == own.signed)
}

/// Makes the packs of the release, or finds those that were made before.
fn packs(
    base: &Path,
    request: &PublishRequest<'_>,
    examined: &Examined,
    before: Option<&Release>,
    bases: &[Release],
) -> Result<Packs, PublishError> {
    let packer = Packer {
        repository: base,
        plan: request.packs,
        scratch: base.join(BlobPath::FOLDER),
    };
    let release = &examined.release;
    packer
        .packs(release, before, [&examined.root, &examined.uki], bases)
        .map_err(|source| PublishError::Packs {
            version: release.version.clone(),
            source,
        })
}

/// Puts the blobs in place that are not there, or not whole; returns their
/// size in bytes.
fn put_blobs(store: &mut impl Store, sources: &[(Blob, PathBuf)]) -> Result<u64, PublishError> {
    let mut added = 0;
    for (blob, source) in sources {
        let name = blob.path().to_string();
        let path = store.base().join(&name);
        match compare(&path, blob) {
            Ok(Content::Same) => continue,
            Ok(Content::Missing) => {}
            Ok(Content::Other | Content::OtherSize(_)) => {
                tracing::warn!(%name, "replacing a damaged blob");
            }
            Err(source) => return Err(PublishError::Read { path, source }),
        }
        store
            .put_blob(blob, source)
            .map_err(|source| PublishError::Put { name, source })?;
        added += blob.size;
    }
    Ok(added)
}
