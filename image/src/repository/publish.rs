//! Adding a release to a repository.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use partition_layout::Version;
use release::limits::{MAX_CHANNEL_BYTES, MAX_CHANNEL_RELEASES};
use release::{BadDocument, Blob, Channel, ChannelName, Digest, version_of_target};
use sha2::{Digest as _, Sha256};
use tough::schema::{Hashes, RoleType, Root, Signed, Target, Targets};
use tough::{ExpirationEnforcement, TargetName};

use super::examine::{ExamineError, Examined, examine};
use super::expiry::Expiries;
use super::keys::KeySet;
use super::metadata::{
    MetadataError, MetadataFile, Renew, SPEC_VERSION, Signing, parse_root, put_all,
};
use super::store::{Content, METADATA, Store, TARGETS, compare};
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
    /// Whether it was new.
    pub outcome: Outcome,
    /// The bytes of blobs that were not there before.
    pub bytes_added: u64,
    /// When the metadata that was signed expires, by role.
    pub expires: Vec<(RoleType, Timestamp)>,
    /// What publishing does not renew and expires before something that was
    /// signed: somebody with the keys must renew it by then, or nodes will
    /// refuse the repository.
    pub due: Vec<(RoleType, Timestamp)>,
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
    #[error(
        "version {version} was published with other content; a version is published once, so give the image a new one"
    )]
    VersionTaken { version: Version },
    /// An equal version is taken.
    #[error("version {version} is the same as {existing}, which was published already")]
    VersionEqual { version: Version, existing: Version },
    /// The channel file in the repository is broken.
    #[error("the file of the channel {channel} is broken")]
    Channel {
        channel: ChannelName,
        source: BadDocument,
    },
    /// The metadata could not be made.
    #[error("cannot make the new metadata")]
    Metadata(#[from] MetadataError),
    /// The target's name is refused.
    #[error("cannot name a target")]
    Target(#[source] Box<tough::error::Error>),
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
/// nothing, except that blobs that were lost are put in place again.
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
    check_version(current.as_ref(), &examined)?;
    let channel = next_channel(&base, current.as_ref(), request, &examined.release.version)?;
    let targets = next_targets(current.as_ref(), &channel, &examined)?;

    // The order is the promise: a file is put before the file that names it.
    let bytes_added = put_blobs(store, &examined.sources)?;
    let mut published = Published {
        version: examined.release.version.clone(),
        current: channel.current,
        outcome: Outcome::AlreadyThere,
        bytes_added,
        expires: Vec::new(),
        due: Vec::new(),
    };
    let Some(targets) = targets else {
        return Ok(published);
    };
    for (name, bytes) in &targets.files {
        put(store, name, bytes)?;
    }
    if let Some(root) = &first_root {
        put(store, &root.name, &root.bytes)?;
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
    put_all(store, &files).map_err(|source| PublishError::Put {
        name: METADATA.to_owned(),
        source,
    })?;
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

/// Refuses to give a version that was published another content.
fn check_version(current: Option<&Trusted>, examined: &Examined) -> Result<(), PublishError> {
    let Some(current) = current else {
        return Ok(());
    };
    let version = &examined.release.version;
    for name in current.target_names() {
        let Some(existing) = version_of_target(name).filter(|existing| existing == version) else {
            continue;
        };
        if existing.as_str() != version.as_str() {
            return Err(PublishError::VersionEqual {
                version: version.clone(),
                existing,
            });
        }
        let listed = current
            .targets()
            .targets
            .iter()
            .find(|(target, _)| target.raw() == name);
        if listed.is_none_or(|(_, target)| *target != describe(&examined.file)) {
            return Err(PublishError::VersionTaken {
                version: version.clone(),
            });
        }
    }
    Ok(())
}

struct NextChannel {
    name: String,
    current: Version,
    bytes: Vec<u8>,
}

fn next_channel(
    base: &Path,
    current: Option<&Trusted>,
    request: &PublishRequest<'_>,
    version: &Version,
) -> Result<NextChannel, PublishError> {
    let name = request.channel;
    let broken = |source| PublishError::Channel {
        channel: name.clone(),
        source,
    };
    let target = name.target();
    let existing = match current.filter(|current| current.target_names().contains(&&*target)) {
        None => None,
        Some(current) => {
            let bytes = current
                .read_target(&target, MAX_CHANNEL_BYTES)
                .map_err(|source| load_error(base, request.keys, source))?;
            Some(Channel::parse(&bytes).map_err(broken)?)
        }
    };
    let mut channel = existing.unwrap_or_else(|| Channel {
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
    let bytes = channel.to_bytes().map_err(broken)?;
    Ok(NextChannel {
        name: target,
        current: release,
        bytes,
    })
}

struct NextTargets {
    list: Targets,
    files: Vec<(String, Vec<u8>)>,
}

/// Returns the new list of targets and the files that are new in it, or
/// nothing if nothing is new.
fn next_targets(
    current: Option<&Trusted>,
    channel: &NextChannel,
    examined: &Examined,
) -> Result<Option<NextTargets>, PublishError> {
    let mut list = match current {
        Some(current) => current.targets().clone(),
        None => Targets {
            delegations: None,
            ..Targets::new(
                SPEC_VERSION.to_owned(),
                NonZeroU64::MIN,
                Timestamp::UNIX_EPOCH,
            )
        },
    };
    let mut files = Vec::new();
    let wanted = [
        (examined.release.target(), &examined.file),
        (channel.name.clone(), &channel.bytes),
    ];
    for (name, bytes) in wanted {
        let target = TargetName::new(&name).map_err(|error| PublishError::Target(error.into()))?;
        let described = describe(bytes);
        let file = format!("{TARGETS}/{}.{name}", digest(bytes));
        if list.targets.insert(target, described.clone()).as_ref() != Some(&described) {
            files.push((file, bytes.clone()));
        }
    }
    Ok((!files.is_empty()).then_some(NextTargets { list, files }))
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

fn put(store: &mut impl Store, name: &str, bytes: &[u8]) -> Result<(), PublishError> {
    store.put(name, bytes).map_err(|source| PublishError::Put {
        name: name.to_owned(),
        source,
    })
}

fn describe(bytes: &[u8]) -> Target {
    Target {
        length: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        hashes: Hashes {
            sha256: Sha256::digest(bytes).to_vec().into(),
            _extra: HashMap::new(),
        },
        custom: HashMap::new(),
        _extra: HashMap::new(),
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::digest(bytes).into())
}
