//! A repository's metadata, read and verified as a node does it.

use std::fs::File;
use std::future::{Future, ready};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use release::limits::{
    MAX_TUF_ROOT_BYTES, MAX_TUF_ROOT_UPDATES, MAX_TUF_SNAPSHOT_BYTES, MAX_TUF_TARGETS_BYTES,
    MAX_TUF_TIMESTAMP_BYTES,
};
use tough::schema::{RoleType, Root, Snapshot, Targets, Timestamp};
use tough::{
    Bytes, ExpirationEnforcement, IntoVec, Limits, Repository, RepositoryLoader, TargetName,
    Transport, TransportError, TransportErrorKind, TransportStream, async_trait,
};
use url::Url;

use super::store::{METADATA, TARGETS};

/// The limits that nodes hold metadata to.
const LIMITS: Limits = Limits {
    max_root_size: MAX_TUF_ROOT_BYTES,
    max_targets_size: MAX_TUF_TARGETS_BYTES,
    max_timestamp_size: MAX_TUF_TIMESTAMP_BYTES,
    max_snapshot_size: MAX_TUF_SNAPSHOT_BYTES,
    max_root_updates: MAX_TUF_ROOT_UPDATES,
};

/// A repository's metadata could not be read, or does not hold.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder is not there.
    #[error("cannot open the repository {base}")]
    Base { base: PathBuf, source: io::Error },
    /// The runtime for reading could not be started.
    #[error("cannot start reading")]
    Start(#[source] io::Error),
    /// A file is missing, was altered, is signed by others, or has expired.
    #[error("the metadata does not hold")]
    Metadata(#[source] Box<tough::error::Error>),
    /// A target has no place in the list, or too large a one.
    #[error("the target {name} is not in the list of targets, or larger than {max} bytes")]
    NoTarget { name: String, max: u64 },
}

/// Verified metadata.
#[derive(Debug)]
pub(crate) struct Trusted(Repository);

impl Trusted {
    /// Reads the metadata of the repository at `base`, beginning from a root
    /// file that is trusted.
    pub(crate) fn load(
        base: &Path,
        root_of_trust: &[u8],
        expiration: ExpirationEnforcement,
    ) -> Result<Self, LoadError> {
        let failed = |source| LoadError::Base {
            base: base.into(),
            source,
        };
        let folder = base.canonicalize().map_err(failed)?;
        let url = |name| {
            Url::from_directory_path(folder.join(name))
                .expect("a canonical path is absolute, which is all this needs")
        };
        let loader = RepositoryLoader::new(&root_of_trust, url(METADATA), url(TARGETS))
            .transport(Folder(folder.clone()))
            .limits(LIMITS)
            .expiration_enforcement(expiration);
        let repository = block_on(loader.load())?;
        Ok(Self(repository.map_err(metadata_error)?))
    }

    pub(crate) fn root(&self) -> &Root {
        &self.0.root().signed
    }

    pub(crate) fn targets(&self) -> &Targets {
        &self.0.targets().signed
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.0.snapshot().signed
    }

    pub(crate) fn timestamp(&self) -> &Timestamp {
        &self.0.timestamp().signed
    }

    /// Returns when the metadata expires, by role.
    pub(crate) fn expiries(&self) -> Vec<(RoleType, jiff::Timestamp)> {
        vec![
            (RoleType::Root, self.root().expires),
            (RoleType::Targets, self.targets().expires),
            (RoleType::Snapshot, self.snapshot().expires),
            (RoleType::Timestamp, self.timestamp().expires),
        ]
    }

    /// Returns the names of all targets, sorted.
    pub(crate) fn target_names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.targets().targets.keys().map(TargetName::raw).collect();
        names.sort_unstable();
        names
    }

    /// Returns the content of a target that is no larger than `max` bytes.
    pub(crate) fn read_target(&self, name: &str, max: u64) -> Result<Vec<u8>, LoadError> {
        let missing = || LoadError::NoTarget {
            name: name.to_owned(),
            max,
        };
        let target = TargetName::new(name).map_err(metadata_error)?;
        let listed = self.targets().targets.get(&target).ok_or_else(missing)?;
        if listed.length > max {
            return Err(missing());
        }
        let content = block_on(async {
            match self.0.read_target(&target).await? {
                Some(stream) => stream.into_vec().await.map(Some),
                None => Ok(None),
            }
        })?;
        content.map_err(metadata_error)?.ok_or_else(missing)
    }
}

fn metadata_error(error: tough::error::Error) -> LoadError {
    LoadError::Metadata(Box::new(error))
}

/// Waits for a future on a thread of its own, so that a caller may be inside a
/// runtime itself.
fn block_on<F>(future: F) -> Result<F::Output, LoadError>
where
    F: Future + Send,
    F::Output: Send,
{
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            Ok(runtime.block_on(future))
        });
        match reader.join() {
            Ok(result) => result.map_err(LoadError::Start),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Reads files below one folder, names decoded as a web server decodes them.
///
/// `tough`'s own transport for files takes the URL's path for a file name
/// without decoding it, so that it finds no file whose name has a `^` in it.
#[derive(Debug, Clone)]
struct Folder(PathBuf);

#[async_trait]
impl Transport for Folder {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let content = self.read(&url).map_err(|error| {
            let kind = if error.kind() == io::ErrorKind::NotFound {
                TransportErrorKind::FileNotFound
            } else {
                TransportErrorKind::Other
            };
            TransportError::new_with_cause(kind, url.as_str(), error)
        })?;
        Ok(Box::pin(futures_util::stream::once(ready(Ok(
            Bytes::from(content),
        )))))
    }
}

impl Folder {
    fn read(&self, url: &Url) -> io::Result<Vec<u8>> {
        let path = url
            .to_file_path()
            .map_err(|()| io::ErrorKind::InvalidFilename)?;
        // With symbolic links resolved, nothing above the folder is read.
        let path = path.canonicalize()?;
        if !path.starts_with(&self.0) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut content = Vec::new();
        // One byte more than the largest file there may be: `tough` then sees
        // that the limit is exceeded.
        File::open(path)?
            .take(MAX_TUF_TARGETS_BYTES + 1)
            .read_to_end(&mut content)?;
        Ok(content)
    }
}
