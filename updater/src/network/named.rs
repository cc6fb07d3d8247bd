use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use partition_layout::Version;
use release::{Blob, Release};
use tokio::sync::watch;

use crate::config::Config;
use crate::fetch::BuildClientError;
use crate::ports::{
    Fetch, FetchError, Offer, RangeSupport, Releases, ReleasesError, Stop, Verdict,
};
use crate::refusal::Chain;

/// The repository that the settings name, whichever that is: made anew when they
/// have changed. It looks when metadata is asked for, so that a job keeps to the
/// servers with which it began.
pub struct NamedRepository<R, M> {
    config: watch::Receiver<Arc<Config>>,
    make: M,
    current: R,
    /// What came from those before.
    received: u64,
}

impl<R: fmt::Debug, M> fmt::Debug for NamedRepository<R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedRepository")
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

impl<R, M> NamedRepository<R, M>
where
    R: Releases + Fetch,
    M: Fn(&Config) -> Result<R, BuildClientError> + Send,
{
    /// Makes the one that `config` names now.
    pub fn new(
        mut config: watch::Receiver<Arc<Config>>,
        make: M,
    ) -> Result<Self, BuildClientError> {
        let current = make(&config.borrow_and_update())?;
        Ok(Self {
            config,
            make,
            current,
            received: 0,
        })
    }

    fn follow(&mut self) {
        // Nobody changes them any more if this fails.
        if !self.config.has_changed().unwrap_or(false) {
            return;
        }
        let config = Arc::clone(&self.config.borrow_and_update());
        match (self.make)(&config) {
            Ok(new) => {
                self.received = self.received();
                self.current = new;
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "cannot use the repository that is set; the old one stays");
            }
        }
    }
}

impl<R, M> Releases for NamedRepository<R, M>
where
    R: Releases + Fetch,
    M: Fn(&Config) -> Result<R, BuildClientError> + Send,
{
    fn refresh(&mut self, stop: &Stop) -> Result<Offer, ReleasesError> {
        self.follow();
        self.current.refresh(stop)
    }

    fn release(
        &mut self,
        version: Option<&Version>,
        stop: &Stop,
    ) -> Result<Release, ReleasesError> {
        self.follow();
        self.current.release(version, stop)
    }
}

impl<R, M> Fetch for NamedRepository<R, M>
where
    R: Releases + Fetch,
    M: Fn(&Config) -> Result<R, BuildClientError> + Send,
{
    fn fetch(
        &mut self,
        blob: &Blob,
        offset: u64,
        stop: &Stop,
        sink: &mut dyn FnMut(&[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        self.current.fetch(blob, offset, stop, sink)
    }

    fn fetch_ranges(
        &mut self,
        blob: &Blob,
        ranges: &[Range<u64>],
        stop: &Stop,
        sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        self.current.fetch_ranges(blob, ranges, stop, sink)
    }

    fn ranges(&self) -> RangeSupport {
        self.current.ranges()
    }

    fn received(&self) -> u64 {
        self.received.saturating_add(self.current.received())
    }
}
