//! A repository that makes up what it sends.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use partition_layout::Version;
use release::{Blob, Channel, ChannelName, Release};
use updater::ports::{
    Fetch, FetchError, Offer, RangeSupport, Releases, ReleasesError, Stop, Verdict,
};
use verity::ReadAt;

use crate::image::{BLOCK, Image};

/// What is sent at once, as the real one does.
const PIECE: u64 = 256 << 10;

#[derive(Debug, Clone)]
pub(crate) struct Repository {
    pub(crate) release: Release,
    pub(crate) image: Image,
    pub(crate) tree: Arc<File>,
    pub(crate) uki: Vec<u8>,
    pub(crate) received: Arc<AtomicU64>,
}

impl Repository {
    fn piece(&self, blob: &Blob, range: Range<u64>) -> Vec<u8> {
        let mut piece = vec![0; usize::try_from(range.end - range.start).unwrap()];
        let blobs = &self.release.blobs;
        let read = if blob.sha256 == blobs.root.sha256 {
            self.image.read_exact_at(&mut piece, range.start)
        } else if blob.sha256 == blobs.verity.sha256 {
            self.tree.read_exact_at(&mut piece, range.start)
        } else {
            self.uki.as_slice().read_exact_at(&mut piece, range.start)
        };
        read.unwrap();
        piece
    }

    fn send(
        &mut self,
        blob: &Blob,
        range: Range<u64>,
        stop: &Stop,
        sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at + PIECE) / BLOCK * BLOCK);
            let piece = self.piece(blob, at..end);
            self.received.fetch_add(end - at, Ordering::Relaxed);
            if stop.checkpoint().is_err() || sink(at, &piece) != Verdict::Taken {
                return Err(FetchError::Stopped);
            }
            at = end;
        }
        Ok(())
    }
}

impl Releases for Repository {
    fn refresh(&mut self, _stop: &Stop) -> Result<Offer, ReleasesError> {
        let versions = vec![self.release.version.clone()];
        Ok(Offer {
            channel: Channel {
                channel: ChannelName::parse("stable").unwrap(),
                release: self.release.version.clone(),
                releases: versions.clone(),
                rollout: None,
            },
            versions,
        })
    }

    fn release(
        &mut self,
        _version: Option<&Version>,
        _stop: &Stop,
    ) -> Result<Release, ReleasesError> {
        Ok(self.release.clone())
    }
}

impl Fetch for Repository {
    fn fetch(
        &mut self,
        blob: &Blob,
        offset: u64,
        stop: &Stop,
        sink: &mut dyn FnMut(&[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        self.send(blob, offset..blob.size, stop, &mut |_, bytes| sink(bytes))
    }

    fn fetch_ranges(
        &mut self,
        blob: &Blob,
        ranges: &[Range<u64>],
        stop: &Stop,
        sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        let mut ranges = ranges.iter().cloned();
        ranges.try_for_each(|range| self.send(blob, range, stop, sink))
    }

    fn ranges(&self) -> RangeSupport {
        RangeSupport::Yes
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}
