//! The real network: trusted metadata and fetched blobs, as one.

use std::ops::ControlFlow;

use partition_layout::Version;
use release::{Blob, Release};

use crate::fetch::Fetcher;
use crate::ports::{Clock, Fetch, FetchError, Offer, Releases, ReleasesError, Stop};
use crate::trust::TrustedReleases;

/// A repository as the hands use it.
#[derive(Debug)]
pub struct RemoteRepository<C> {
    pub releases: TrustedReleases<C>,
    pub fetcher: Fetcher,
}

impl<C: Clock> Releases for RemoteRepository<C> {
    fn refresh(&mut self, stop: &Stop) -> Result<Offer, ReleasesError> {
        self.releases.refresh(stop)
    }

    fn release(
        &mut self,
        version: Option<&Version>,
        stop: &Stop,
    ) -> Result<Release, ReleasesError> {
        self.releases.release(version, stop)
    }
}

impl<C: Clock> Fetch for RemoteRepository<C> {
    fn fetch(
        &mut self,
        blob: &Blob,
        offset: u64,
        stop: &Stop,
        sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), FetchError> {
        self.fetcher.fetch(blob, offset, stop, sink)
    }
}
