use super::refresh::RefreshError;
use super::remote::FetchFileError;
use super::untrusted::Untrusted;
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

    /// Tells whose fault it is: the clock's or the publisher's, the network's,
    /// this machine's. Whatever is none of these is that of a liar.
    pub(super) fn of(&self, error: RefreshError) -> ReleasesError {
        match error {
            RefreshError::Untrusted(error @ Untrusted::Expired { .. }) => {
                self.expired(error.to_string())
            }
            RefreshError::Untrusted(error) => self.untrusted(error.to_string()),
            RefreshError::Fetch(error @ FetchFileError::TooLarge { .. }) => {
                self.untrusted(error.to_string())
            }
            RefreshError::Fetch(
                error @ (FetchFileError::NotFound { .. } | FetchFileError::Unreachable { .. }),
            ) => self.unreachable(chain(&error)),
            RefreshError::Local { doing, source } => ReleasesError::Local {
                doing,
                source: source.into(),
            },
        }
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
