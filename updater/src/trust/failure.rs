use std::error::Error;

use tough::error::Error as TufError;

use super::transport::MetadataFailure;
use crate::config::Repository;
use crate::fetch::chain;
use crate::ports::{Cause, ReleasesError};

/// Tells the failures of one repository apart.
#[derive(Debug, Clone)]
pub(super) struct Failures {
    repository: String,
}

impl Failures {
    pub(super) fn new(repository: &Repository) -> Self {
        Self {
            repository: repository.to_string(),
        }
    }

    pub(super) fn expired(&self, why: impl Into<String>) -> ReleasesError {
        let repository = self.repository.clone();
        ReleasesError::MetadataExpired {
            repository,
            source: why.into().into(),
        }
    }

    pub(super) fn untrusted(&self, why: impl Into<String>) -> ReleasesError {
        let repository = self.repository.clone();
        ReleasesError::MetadataUntrusted {
            repository,
            source: why.into().into(),
        }
    }

    pub(super) fn unknown(&self, version: String) -> ReleasesError {
        ReleasesError::UnknownVersion {
            repository: self.repository.clone(),
            version,
        }
    }

    fn unreachable(&self, why: String) -> ReleasesError {
        let repository = self.repository.clone();
        ReleasesError::RepositoryUnreachable {
            repository,
            source: why.into(),
        }
    }

    /// Sorts what `tough` says. Its texts hold their causes already, so they
    /// are taken as texts.
    ///
    /// Whatever is not known to be the clock's, the network's or this
    /// machine's fault is the metadata's.
    pub(super) fn of(&self, error: &TufError) -> ReleasesError {
        if let TufError::ExpiredMetadata { role, .. } = error {
            return self.expired(format!(
                "{role} is past its date; publish it anew (`refresh`)"
            ));
        }
        if let TufError::SystemTimeSteppedBackward {
            sys_time,
            latest_known_time,
        } = error
        {
            return self.expired(format!(
                "the clock went back while it was read, from {latest_known_time} to {sys_time}"
            ));
        }
        if let TufError::Transport { url, source, .. } = error {
            return match find::<MetadataFailure>(source) {
                Some(MetadataFailure::TooLarge(max)) => {
                    self.untrusted(format!("{url} is larger than {max} bytes"))
                }
                Some(MetadataFailure::Unreachable(cause)) => {
                    self.unreachable(format!("{url}: {cause}"))
                }
                // A hash or a size that `tough` found to be wrong on the way.
                None => self.untrusted(format!("{url}: {source}")),
            };
        }
        if is_local(error) {
            return ReleasesError::Local {
                doing: "keep the trusted metadata".to_owned(),
                source: error.to_string().into(),
            };
        }
        self.untrusted(error.to_string())
    }
}

/// Makes one failure of those of all repositories. What it is called goes after
/// the worst that was found: that somebody lies, that a date has passed, that
/// nobody answers.
pub(super) fn sum(mut failures: Vec<ReleasesError>) -> Option<ReleasesError> {
    let worst = (0..failures.len()).max_by_key(|number| {
        let severity = failures.get(*number).map_or(0, severity);
        // Of equals, the one that was asked first.
        (severity, std::cmp::Reverse(*number))
    })?;
    let worst = failures.remove(worst);
    if failures.is_empty() {
        return Some(worst);
    }
    let others: Vec<_> = failures.iter().map(|failure| chain(failure)).collect();
    let also = |source: Cause| -> Cause {
        format!("{}; also, {}", chain(&*source), others.join("; ")).into()
    };
    Some(match worst {
        ReleasesError::MetadataExpired { repository, source } => {
            let source = also(source);
            ReleasesError::MetadataExpired { repository, source }
        }
        ReleasesError::MetadataUntrusted { repository, source } => {
            let source = also(source);
            ReleasesError::MetadataUntrusted { repository, source }
        }
        ReleasesError::RepositoryUnreachable { repository, source } => {
            let source = also(source);
            ReleasesError::RepositoryUnreachable { repository, source }
        }
        worst @ (ReleasesError::UnknownVersion { .. }
        | ReleasesError::Local { .. }
        | ReleasesError::Stopped) => worst,
    })
}

fn severity(failure: &ReleasesError) -> u8 {
    match failure {
        ReleasesError::MetadataUntrusted { .. } => 3,
        ReleasesError::MetadataExpired { .. } => 2,
        ReleasesError::RepositoryUnreachable { .. } => 1,
        ReleasesError::UnknownVersion { .. }
        | ReleasesError::Local { .. }
        | ReleasesError::Stopped => 0,
    }
}

fn is_local(error: &TufError) -> bool {
    matches!(
        error,
        TufError::DatastoreInit { .. }
            | TufError::DatastoreCreate { .. }
            | TufError::DatastoreOpen { .. }
            | TufError::DatastoreRemove { .. }
            | TufError::DatastoreSerialize { .. }
    )
}

/// Returns the first cause of `error` that is a `T`.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        next = cause.source();
    }
    None
}
