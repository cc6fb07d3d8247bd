//! The real network: trusted metadata and fetched blobs, as one.

mod named;

use std::ops::Range;

use partition_layout::Version;
use release::{Blob, Release};

pub use self::named::NamedRepository;
use crate::fetch::Fetcher;
use crate::ports::{
    Clock, Fetch, FetchError, Offer, RangeSupport, Releases, ReleasesError, Stop, Verdict,
};
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
        sink: &mut dyn FnMut(&[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        self.fetcher.fetch(blob, offset, stop, sink)
    }

    fn fetch_ranges(
        &mut self,
        blob: &Blob,
        ranges: &[Range<u64>],
        stop: &Stop,
        sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        self.fetcher.fetch_ranges(blob, ranges, stop, sink)
    }

    fn ranges(&self) -> RangeSupport {
        self.fetcher.ranges()
    }

    fn received(&self) -> u64 {
        self.fetcher.received()
    }
}
