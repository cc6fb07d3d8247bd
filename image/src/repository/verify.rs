//! Checking a repository as a node would, and beyond: every release, every
//! blob, every block.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use partition_layout::Version;
use release::limits::{MAX_CHANNEL_BYTES, MAX_RELEASE_BYTES};
use release::{BadDocument, Blob, Channel, ChannelName, Pack, Release, version_of_target};
use tough::schema::RoleType;
use tough::{ExpirationEnforcement, TransportErrorKind};

use super::examine::{TreeMismatch, check_tree, uki_boots};
use super::packs::{BadContent, Coverage, check};
use super::store::{Content, compare};
use super::trusted::{LoadError, Trusted};

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// The channels, each with the version its nodes shall run.
    pub channels: BTreeMap<ChannelName, Version>,
    /// The releases whose every byte is as it must be.
    pub sound: Vec<Version>,
    /// When the metadata expires, by role.
    pub expires: Vec<(RoleType, Timestamp)>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// A check could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The repository could not be opened.
    #[error("cannot check the repository")]
    Load(#[source] LoadError),
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
}

/// Something in a repository that a node would refuse.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The metadata is too old.
    #[error("the {role} metadata has expired")]
    MetadataExpired { role: RoleType },
    /// The metadata is not there.
    #[error("a metadata file is missing")]
    MetadataMissing(#[source] LoadError),
    /// The metadata was altered, or is signed by others.
    #[error("the metadata is not to be trusted")]
    MetadataUntrusted(#[source] LoadError),
    /// A target is missing or altered.
    #[error("the target {name} is missing or altered")]
    TargetCorrupt { name: String, source: LoadError },
    /// A target is not what its name says.
    #[error("the target {name} is broken")]
    TargetBroken { name: String, source: BadDocument },
    /// A target is another's.
    #[error("the target {name} is that of {found}")]
    TargetMisnamed { name: String, found: String },
    /// A channel lists what is not there.
    #[error("the channel {channel} lists version {version}, which has no release file")]
    ReleaseMissing {
        channel: ChannelName,
        version: Version,
    },
    /// A blob is not there.
    #[error("the {kind} of version {version} is missing: {path}")]
    BlobMissing {
        version: Version,
        kind: &'static str,
        path: PathBuf,
    },
    /// A blob is too short.
    #[error("the {kind} of version {version} is truncated: {path} has {found} of {expected} bytes")]
    BlobTruncated {
        version: Version,
        kind: &'static str,
        path: PathBuf,
        found: u64,
        expected: u64,
    },
    /// A blob has other content.
    #[error(
        "the {kind} of version {version} is corrupt: {path} has not the content it is named after"
    )]
    BlobCorrupt {
        version: Version,
        kind: &'static str,
        path: PathBuf,
    },
    /// The blobs of a release do not belong together.
    #[error("the hash tree of version {version} is not that of its root image")]
    RootHashMismatch {
        version: Version,
        source: TreeMismatch,
    },
    /// A pack makes something else.
    #[error("the {kind} of version {version} does not make what it is said to make")]
    PackBroken {
        version: Version,
        kind: &'static str,
        source: BadContent,
    },
    /// The UKI of a release boots something else.
    #[error("the UKI of version {version} does not boot its root hash")]
    UkiMismatch { version: Version },
}

impl Problem {
    /// Returns the name of the kind of problem, for scripts.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::MetadataExpired { .. } => "MetadataExpired",
            Self::MetadataMissing(_) => "MetadataMissing",
            Self::MetadataUntrusted(_) => "MetadataUntrusted",
            Self::TargetCorrupt { .. } => "TargetCorrupt",
            Self::TargetBroken { .. } => "TargetBroken",
            Self::TargetMisnamed { .. } => "TargetMisnamed",
            Self::ReleaseMissing { .. } => "ReleaseMissing",
            Self::BlobMissing { .. } => "BlobMissing",
            Self::BlobTruncated { .. } => "BlobTruncated",
            Self::BlobCorrupt { .. } => "BlobCorrupt",
            Self::RootHashMismatch { .. } => "RootHashMismatch",
            Self::PackBroken { .. } => "PackBroken",
            Self::UkiMismatch { .. } => "UkiMismatch",
        }
    }
}

/// Checks the repository at `base` against a root file that is trusted.
///
/// # Errors
/// Only when no verdict can be given; what a node would refuse is a
/// [`Problem`] in the report.
pub fn verify(base: &Path, root_of_trust: &[u8]) -> Result<Report, VerifyError> {
    let mut check = Check {
        base,
        report: Report::default(),
        releases: BTreeSet::new(),
    };
    match Trusted::load(base, root_of_trust, ExpirationEnforcement::Safe) {
        Ok(trusted) => check.all(&trusted)?,
        Err(error) => check.report.problems.push(metadata_problem(error)?),
    }
    Ok(check.report)
}

struct Check<'a> {
    base: &'a Path,
    report: Report,
    /// The versions that have a release file.
    releases: BTreeSet<Version>,
}

impl Check<'_> {
    fn all(&mut self, trusted: &Trusted) -> Result<(), VerifyError> {
        self.report.expires = trusted.expiries();
        let names = trusted.target_names();
        let mut releases = Vec::new();
        for (name, version) in names
            .iter()
            .filter_map(|name| Some((*name, version_of_target(name)?)))
        {
            releases.extend(self.release(trusted, name, &version));
            self.releases.insert(version);
        }
        for release in &releases {
            // Nodes take blocks from packs, so a broken one is the release's fault.
            if self.blobs(release)? && self.packs(release, &releases)? {
                self.report.sound.push(release.version.clone());
            }
        }
        self.report.sound.sort();
        for name in names {
            if let Some(channel) = ChannelName::of_target(name) {
                self.channel(trusted, name, &channel);
            }
        }
        Ok(())
    }

    fn target(&mut self, trusted: &Trusted, name: &str, max: u64) -> Option<Vec<u8>> {
        match trusted.read_target(name, max) {
            Ok(bytes) => Some(bytes),
            Err(source) => {
                self.found(Problem::TargetCorrupt {
                    name: name.to_owned(),
                    source,
                });
                None
            }
        }
    }

    fn release(&mut self, trusted: &Trusted, name: &str, version: &Version) -> Option<Release> {
        let bytes = self.target(trusted, name, MAX_RELEASE_BYTES)?;
        match Release::parse(&bytes) {
            Ok(release) if release.version.as_str() == version.as_str() => Some(release),
            Ok(other) => {
                let found = format!("version {}", other.version);
                self.found(Problem::TargetMisnamed {
                    name: name.to_owned(),
                    found,
                });
                None
            }
            Err(source) => {
                self.found(Problem::TargetBroken {
                    name: name.to_owned(),
                    source,
                });
                None
            }
        }
    }

    fn channel(&mut self, trusted: &Trusted, name: &str, channel: &ChannelName) {
        let Some(bytes) = self.target(trusted, name, MAX_CHANNEL_BYTES) else {
            return;
        };
        match Channel::parse(&bytes) {
            Ok(file) if file.channel == *channel => {
                for version in file.releases {
                    if !self.releases.contains(&version) {
                        let channel = channel.clone();
                        self.found(Problem::ReleaseMissing { channel, version });
                    }
                }
                self.report.channels.insert(channel.clone(), file.release);
            }
            Ok(other) => {
                let found = format!("the channel {}", other.channel);
                self.found(Problem::TargetMisnamed {
                    name: name.to_owned(),
                    found,
                });
            }
            Err(source) => {
                self.found(Problem::TargetBroken {
                    name: name.to_owned(),
                    source,
                });
            }
        }
    }

    /// Returns whether all blobs of a release are as they must be.
    fn blobs(&mut self, release: &Release) -> Result<bool, VerifyError> {
        let before = self.report.problems.len();
        for (kind, blob) in release.blobs.each() {
            if let Some(problem) = self.blob(&release.version, kind, blob)? {
                self.found(problem);
            }
        }
        // Blocks of a damaged blob would only say the same again.
        if self.report.problems.len() == before {
            let path = |blob: &Blob| self.base.join(blob.path().to_string());
            let (root, area) = (path(&release.blobs.root), path(&release.blobs.verity));
            let uki = path(&release.blobs.uki);
            let version = || release.version.clone();
            if let Err(source) = check_tree(&root, &area, release) {
                self.found(Problem::RootHashMismatch {
                    version: version(),
                    source,
                });
            }
            let boots = uki_boots(&uki, &release.root_hash);
            if !boots.map_err(|source| VerifyError::Read { path: uki, source })? {
                self.found(Problem::UkiMismatch { version: version() });
            }
        }
        Ok(self.report.problems.len() == before)
    }

    /// Returns whether all packs of a release, whose blobs are sound, make what
    /// they are said to make.
    fn packs(&mut self, release: &Release, all: &[Release]) -> Result<bool, VerifyError> {
        let before = self.report.problems.len();
        let root = &release.blobs.root;
        if let Some(pack) = &release.blobs.packed {
            self.pack(release, "packed root", pack, root, None, Coverage::Every)?;
        }
        for patch in &release.patches {
            let base = all.iter().find(|base| base.root_hash == patch.from);
            let base = Some(base.map(|base| &base.blobs.root));
            self.pack(release, "patch", &patch.root, root, base, Coverage::Missing)?;
        }
        for patch in &release.uki_patches {
            let mut ukis = all.iter().map(|base| &base.blobs.uki);
            let base = Some(ukis.find(|uki| uki.sha256 == patch.from));
            let uki = &release.blobs.uki;
            self.pack(
                release,
                "UKI patch",
                &patch.pack,
                uki,
                base,
                Coverage::Every,
            )?;
        }
        Ok(self.report.problems.len() == before)
    }

    /// Checks a pack, whose base is none, unknown, or a blob.
    fn pack(
        &mut self,
        release: &Release,
        kind: &'static str,
        pack: &Pack,
        target: &Blob,
        base: Option<Option<&Blob>>,
        coverage: Coverage,
    ) -> Result<(), VerifyError> {
        if let Some(problem) = self.blob(&release.version, kind, &pack.blob)? {
            self.found(problem);
            return Ok(());
        }
        let path = |blob: &Blob| self.base.join(blob.path().to_string());
        let result = match base {
            Some(None) => Err(BadContent::NoBase),
            // That blob's release says so itself.
            Some(Some(base)) if !self.is_sound(base)? => Ok(()),
            Some(Some(base)) => check(
                pack,
                &path(&pack.blob),
                &path(target),
                Some(&path(base)),
                coverage,
            ),
            None => check(pack, &path(&pack.blob), &path(target), None, coverage),
        };
        if let Err(source) = result {
            self.found(Problem::PackBroken {
                version: release.version.clone(),
                kind,
                source,
            });
        }
        Ok(())
    }

    fn is_sound(&self, blob: &Blob) -> Result<bool, VerifyError> {
        let path = self.base.join(blob.path().to_string());
        match compare(&path, blob) {
            Ok(found) => Ok(found == Content::Same),
            Err(source) => Err(VerifyError::Read { path, source }),
        }
    }

    fn blob(
        &self,
        version: &Version,
        kind: &'static str,
        blob: &Blob,
    ) -> Result<Option<Problem>, VerifyError> {
        let path = self.base.join(blob.path().to_string());
        let version = version.clone();
        let found = match compare(&path, blob) {
            Ok(found) => found,
            Err(source) => return Err(VerifyError::Read { path, source }),
        };
        let expected = blob.size;
        Ok(match found {
            Content::Same => None,
            Content::Missing => Some(Problem::BlobMissing {
                version,
                kind,
                path,
            }),
            Content::OtherSize(found) if found < expected => Some(Problem::BlobTruncated {
                version,
                kind,
                path,
                found,
                expected,
            }),
            Content::OtherSize(_) | Content::Other => Some(Problem::BlobCorrupt {
                version,
                kind,
                path,
            }),
        })
    }

    fn found(&mut self, problem: Problem) {
        self.report.problems.push(problem);
    }
}

/// Sorts what a node refuses from what leaves the question open.
fn metadata_problem(error: LoadError) -> Result<Problem, VerifyError> {
    let LoadError::Metadata(cause) = &error else {
        return Err(VerifyError::Load(error));
    };
    if let tough::error::Error::ExpiredMetadata { role, .. } = &**cause {
        return Ok(Problem::MetadataExpired { role: *role });
    }
    if let tough::error::Error::Transport { source, .. } = &**cause
        && source.kind() == TransportErrorKind::FileNotFound
    {
        return Ok(Problem::MetadataMissing(error));
    }
    Ok(Problem::MetadataUntrusted(error))
}
