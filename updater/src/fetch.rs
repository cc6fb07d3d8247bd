//! The bytes of blobs, over HTTP or from a folder.
//!
//! Owns how a transfer survives a bad network: resuming, retrying, giving up.
//! Does not own the truth of the bytes: the caller holds each block against the
//! hash tree. What it promises is that a server, however hostile, can make it
//! neither take more than the declared size, nor wait for ever, nor fill the
//! memory.
//!
//! Start at [`Fetcher`]; one connection's worth is in [`transfer`].

mod http;
mod local;
mod patience;
mod transfer;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use release::Blob;
use reqwest::Client;
use tokio::runtime::Handle;

pub use self::http::{BuildClientError, build_client, chain};
pub(crate) use self::http::{Failure, check_answer, request};
pub use self::patience::Patience;
use self::transfer::{Broken, Transfer};
use crate::config::Repository;
use crate::ports::{Fetch, FetchError, RangeSupport, Stop, Verdict};

/// Fetches blobs from one repository.
#[derive(Debug)]
pub struct Fetcher {
    repository: Option<Repository>,
    client: Client,
    patience: Patience,
    runtime: Handle,
    received: AtomicU64,
}

/// What [`Fetch::fetch`] hands the bytes to.
type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Verdict;

impl Fetcher {
    /// Returns a fetcher whose connections live on `runtime`. It must be used
    /// from a thread that is none of the runtime's own.
    pub fn new(
        repository: Option<Repository>,
        client: Client,
        patience: Patience,
        runtime: Handle,
    ) -> Self {
        Self {
            repository,
            client,
            patience,
            runtime,
            received: AtomicU64::new(0),
        }
    }

    async fn fetch_remote(
        &self,
        transfer: &mut Transfer,
        stop: &Stop,
        sink: Sink<'_>,
    ) -> Result<(), FetchError> {
        let mut waits = self.patience.waits();
        loop {
            let before = transfer.offset();
            let attempt = transfer.attempt(&self.client, &self.patience, &mut *sink);
            let broken = tokio::select! {
                () = stop.wait() => return Err(FetchError::Stopped),
                result = attempt => match result {
                    Ok(()) => return Ok(()),
                    Err(Broken::GiveUp(error)) => return Err(error),
                    Err(Broken::TryAgain(error)) => error,
                },
            };
            // A server that drops the line after every few bytes is not
            // getting anywhere, so only a real piece counts.
            if transfer.offset() - before >= self.patience.progress {
                waits = self.patience.waits();
            }
            let Some(wait) = waits.next() else {
                return Err(broken);
            };
            tracing::debug!(
                url = %transfer.url(),
                offset = transfer.offset(),
                error = %chain(&broken),
                ?wait,
                "transfer broke off, trying again",
            );
            tokio::select! {
                () = stop.wait() => return Err(FetchError::Stopped),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

impl Fetcher {
    /// Hands the bytes `range` of a blob to `sink`, in order.
    fn fetch_part(
        &self,
        blob: &Blob,
        range: Range<u64>,
        stop: &Stop,
        sink: Sink<'_>,
    ) -> Result<(), FetchError> {
        let Some(repository) = &self.repository else {
            return Err(FetchError::RepositoryUnreachable {
                url: blob.path().to_string(),
                source: NO_REPOSITORY.into(),
            });
        };
        if range.is_empty() {
            return Ok(());
        }
        let url = repository.blob(blob);
        let mut counted = |bytes: &[u8]| match stop.checkpoint() {
            Ok(()) => {
                let count = u64::try_from(bytes.len()).expect("a piece is small");
                self.received.fetch_add(count, Ordering::Relaxed);
                sink(bytes)
            }
            Err(_) => Verdict::Stop,
        };
        if repository.is_remote() {
            let mut transfer = Transfer::new(url, range, blob.size);
            self.runtime
                .block_on(self.fetch_remote(&mut transfer, stop, &mut counted))
        } else {
            local::read(&url, range, blob.size, stop, &mut counted)
        }
    }
}

impl Fetch for Fetcher {
    fn fetch(
        &mut self,
        blob: &Blob,
        offset: u64,
        stop: &Stop,
        sink: &mut dyn FnMut(&[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        self.fetch_part(blob, offset..blob.size, stop, sink)
    }

    fn fetch_ranges(
        &mut self,
        blob: &Blob,
        ranges: &[Range<u64>],
        stop: &Stop,
        sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        for range in ranges {
            let mut offset = range.start;
            let mut piece = Vec::new();
            self.fetch_part(blob, range.clone(), stop, &mut |bytes| {
                piece.extend_from_slice(bytes);
                let len = u64::try_from(piece.len()).expect("a piece is small");
                if piece.len() < PIECE && offset + len < range.end {
                    return Verdict::Taken;
                }
                let whole = match offset + len < range.end {
                    true => piece.len() - piece.len() % BLOCK,
                    false => piece.len(),
                };
                let verdict = piece
                    .get(..whole)
                    .map_or(Verdict::Taken, |whole| sink(offset, whole));
                piece.drain(..whole);
                offset += u64::try_from(whole).expect("a piece is small");
                verdict
            })?;
        }
        Ok(())
    }

    fn ranges(&self) -> RangeSupport {
        RangeSupport::Unknown
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// The largest piece that a sink gets, but for a block, in bytes.
const PIECE: usize = 128 * 1024;
/// The bytes of a block.
const BLOCK: usize = 4096;

/// What is said of bytes that the caller refused.
const REFUSED: &str = "its bytes are not those that the release proves";

/// What a node says that was not told where releases come from.
pub(crate) const NO_REPOSITORY: &str = "no repository is set: give `repository` in \
     /etc/bistable/updater.toml or in the credential bistable.updater.toml";
