//! The bytes of blobs, over HTTP or from a folder, from a repository or its
//! mirrors.
//!
//! Owns how a transfer survives a bad network and a bad server: resuming,
//! retrying, going on to the next, giving up. Does not own the truth of the
//! bytes: the caller holds each block against the hash tree. What it promises is
//! that a server, however hostile, can make it neither take more than the
//! declared size, nor wait for ever, nor fill the memory.
//!
//! ```text
//! Fetcher      one server after the other          the caller's thread
//!   Crew       the connections to one of them      the caller's thread
//!     transfer one connection                      the runtime
//! ```

mod answer;
mod crew;
mod gateway;
mod http;
mod line;
mod local;
mod missing;
mod patience;
mod pieces;
mod servers;
mod taker;
mod throttle;
mod transfer;

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use release::Blob;
use release::limits::BLOCK_SIZE;
use tokio::runtime::Handle;

use self::crew::Crew;
pub use self::http::{BuildClientError, Client, build_client, build_gateway_client, chain};
pub(crate) use self::http::{Failure, Question, check_answer, request};
use self::line::{Line, Way};
pub(crate) use self::missing::Missing;
pub use self::patience::Patience;
use self::servers::Servers;
use self::taker::{Ended, Share, Taker};
pub use self::throttle::{BadBandwidth, Bandwidth, Throttle};
use crate::config::Repository;
use crate::ports::{Fetch, FetchError, RangeSupport, Stop, Verdict};
use crate::turns::Fit;

/// Fetches blobs from one repository.
#[derive(Debug)]
pub struct Fetcher {
    servers: Servers,
    client: Client,
    patience: Patience,
    throttle: Throttle,
    received: Arc<AtomicU64>,
    runtime: Handle,
}

/// What the caller wants of a blob, and how.
#[derive(Debug, Clone, Copy)]
enum Order<'a> {
    InOrder(&'a Missing),
    InParts(&'a Missing),
}

impl Fetcher {
    /// Returns a fetcher that asks `repositories`, the later ones when the
    /// earlier fail, and whose connections live on `runtime`. It must be used
    /// from a thread that is none of the runtime's own.
    pub fn new(
        repositories: impl IntoIterator<Item = Repository>,
        client: Client,
        patience: Patience,
        runtime: Handle,
    ) -> Self {
        Self {
            servers: Servers::new(repositories),
            client,
            patience,
            throttle: Throttle::new(None),
            received: Arc::default(),
            runtime,
        }
    }

    /// Holds its connections to what `throttle` lets through.
    #[must_use]
    pub fn throttled(self, throttle: Throttle) -> Self {
        Self { throttle, ..self }
    }

    fn bring(
        &mut self,
        blob: &Blob,
        order: Order<'_>,
        stop: &Stop,
        sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        let (Order::InOrder(wanted) | Order::InParts(wanted)) = order;
        let mut taker = Taker::new(wanted.clone(), stop, sink);
        let mut failures = Vec::new();
        let mut turns = self.servers.turns(blob);
        turns.reverse();
        while let Some(server) = turns.pop() {
            let patience = match turns.is_empty() {
                true => self.patience.clone(),
                false => self.patience.with_another(),
            };
            let asked = taker.begin(wanted);
            let lied = match self.ask(server, blob, order, &patience, &mut taker) {
                Ok(()) => {
                    self.servers.judge(server, Fit::Yes);
                    return Ok(());
                }
                Err(Ended::Stopped) => return Err(FetchError::Stopped),
                Err(Ended::Failed(error @ FetchError::BlobCorrupt { .. })) => error,
                Err(Ended::Failed(error)) => {
                    tracing::warn!(error = %chain(&error), left = turns.len(), "a server failed");
                    self.servers.judge(server, Fit::No);
                    failures.push(error);
                    continue;
                }
                Err(Ended::BadWhole) => {
                    taker.missing = wanted.clone();
                    if asked == Share::Rest {
                        // Who sent the beginning may have spoilt it, and has left. Alone, this one
                        // can prove itself.
                        tracing::warn!(
                            left = turns.len(),
                            "what several servers sent is begun anew"
                        );
                        turns.push(server);
                        continue;
                    }
                    self.refused(server, blob)
                }
                Err(Ended::Bad | Ended::NoParts) => self.refused(server, blob),
            };
            tracing::warn!(error = %chain(&lied), left = turns.len(), "a server loses its turn");
            self.servers.distrust(server, blob);
            failures.push(lied);
        }
        self.servers.forgive();
        Err(
            sum(failures).unwrap_or_else(|| FetchError::RepositoryUnreachable {
                url: blob.path().to_string(),
                source: NO_REPOSITORY.into(),
            }),
        )
    }

    /// Asks one server for what is missing.
    fn ask(
        &mut self,
        server: usize,
        blob: &Blob,
        order: Order<'_>,
        patience: &Patience,
        taker: &mut Taker<'_>,
    ) -> Result<(), Ended> {
        let Some(repository) = self.servers.repository(server) else {
            return Ok(());
        };
        let url = repository.blob(blob);
        if !repository.is_remote() {
            return local::read(&url, blob.size, &self.received, taker);
        }
        loop {
            let ranges = self.servers.ranges(Some(server));
            let (way, grain) = match (order, ranges) {
                (Order::InOrder(_), _) => (Way::Through, 1),
                (Order::InParts(_), RangeSupport::No) => (Way::Through, BLOCK_SIZE),
                (Order::InParts(_), _) => (Way::Parts, BLOCK_SIZE),
            };
            let line = Line {
                client: self.client.clone(),
                url: url.clone(),
                size: blob.size,
                grain,
                patience: patience.clone(),
                stop: taker.stop.clone(),
                throttle: self.throttle.clone(),
                received: Arc::clone(&self.received),
                queue: Mutex::new(taker.missing.clone()),
                flow: Mutex::default(),
            };
            let mut crew = Crew::start(line, way, ranges, &self.runtime);
            let servers = &mut self.servers;
            let brought = crew.bring(taker, &mut |ranges| servers.learn(server, ranges));
            match brought {
                // Only the parts' way ends so, and it is not taken twice.
                Err(Ended::NoParts) if way == Way::Parts => {}
                brought => return brought,
            }
        }
    }

    fn refused(&self, server: usize, blob: &Blob) -> FetchError {
        let repository = self.servers.repository(server);
        FetchError::BlobCorrupt {
            url: repository.map_or_else(String::new, |server| server.blob(blob).to_string()),
            why: "its bytes are not those that the release proves".to_owned(),
        }
    }
}

/// Makes one failure of those of all servers. What it is called goes after the worst that was
/// found: that somebody lies, that a blob ends too early, that nobody answers.
fn sum(mut failures: Vec<FetchError>) -> Option<FetchError> {
    let worst = (0..failures.len()).max_by_key(|number| {
        let severity = failures.get(*number).map_or(0, severity);
        // Of equals, the one that was asked first.
        (severity, Reverse(*number))
    })?;
    let worst = failures.remove(worst);
    if failures.is_empty() {
        return Some(worst);
    }
    let others: Vec<_> = failures.iter().map(|failure| chain(failure)).collect();
    let others = others.join("; ");
    Some(match worst {
        FetchError::BlobCorrupt { url, why } => {
            let why = format!("{why}; also, {others}");
            FetchError::BlobCorrupt { url, why }
        }
        FetchError::BlobTruncated {
            url,
            found,
            expected,
        } => FetchError::BlobTruncated {
            url: format!("{url} (also, {others})"),
            found,
            expected,
        },
        FetchError::RepositoryUnreachable { url, source } => {
            let source = format!("{}; also, {others}", chain(&*source)).into();
            FetchError::RepositoryUnreachable { url, source }
        }
        FetchError::Stopped => FetchError::Stopped,
    })
}

const fn severity(failure: &FetchError) -> u8 {
    match failure {
        FetchError::BlobCorrupt { .. } => 3,
        FetchError::BlobTruncated { .. } => 2,
        FetchError::RepositoryUnreachable { .. } => 1,
        FetchError::Stopped => 0,
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
        let wanted = Missing::of(std::slice::from_ref(&(offset..blob.size)), blob.size);
        if wanted.is_empty() {
            return Ok(());
        }
        self.bring(blob, Order::InOrder(&wanted), stop, &mut |_, bytes| {
            sink(bytes)
        })
    }

    fn fetch_ranges(
        &mut self,
        blob: &Blob,
        ranges: &[Range<u64>],
        stop: &Stop,
        sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> Result<(), FetchError> {
        let wanted = Missing::of(ranges, blob.size);
        if wanted.is_empty() {
            return Ok(());
        }
        self.bring(blob, Order::InParts(&wanted), stop, sink)
    }

    fn ranges(&self) -> RangeSupport {
        self.servers.ranges(None)
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// What a node says that was not told where releases come from.
pub(crate) const NO_REPOSITORY: &str = "no repository is set: give `repository` in \
     /etc/bistable/updater.toml or in the credential bistable.updater.toml";

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::time::Duration;

    use release::Digest;

    use super::*;
    use crate::authorities::Authorities;
    use crate::ports::Stopper;

    const SIZE: u64 = 64 << 20;

    /// Answers every request for a part, as long as the client likes.
    fn serve(stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        while let Some(line) = lines.next().transpose()? {
            let Some(range) = line.strip_prefix("range: bytes=").map(str::to_owned) else {
                continue;
            };
            while lines
                .next()
                .transpose()?
                .is_some_and(|line| !line.is_empty())
            {}
            let (from, last) = range.split_once('-').unwrap();
            let len = last.parse::<usize>().unwrap() - from.parse::<usize>().unwrap() + 1;
            let mut stream = stream;
            write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {len}\r\n\
                 Content-Range: bytes {range}/{SIZE}\r\n\r\n"
            )?;
            stream.write_all(&vec![7; len])?;
        }
        Ok(())
    }

    #[test]
    fn a_disk_that_does_not_keep_up_fills_no_memory() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || serve(&stream?));
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        let client = build_client(&Patience::default(), &Authorities::default()).unwrap();
        let repository = Repository::parse(&address).unwrap();
        let mut fetcher = Fetcher::new([repository], client, Patience::default(), handle);
        let received = Arc::clone(&fetcher.received);
        let blob = Blob {
            sha256: Digest::new([0xb1; 32]),
            size: SIZE,
        };
        let mut taken = 0;
        let mut sink = |_, bytes: &[u8]| {
            let before = taken;
            taken += u64::try_from(bytes.len()).unwrap();
            // Now and then the disk is busy until nothing comes any more.
            if before / (16 << 20) < taken / (16 << 20) {
                let (_never, hears) = mpsc::channel::<()>();
                let mut seen = u64::MAX;
                while seen != received.load(Ordering::Relaxed) {
                    seen = received.load(Ordering::Relaxed);
                    hears.recv_timeout(Duration::from_millis(200)).unwrap_err();
                }
                // With what hyper reads ahead (0.4 MiB for each of the four
                // connections), that is less than 4 MiB in all.
                assert!(seen - before < 5 << 19, "{} bytes wait", seen - before);
            }
            Verdict::Taken
        };
        let (_stopper, stop) = Stopper::new();
        let whole = std::slice::from_ref(&(0..SIZE)).to_vec();
        fetcher
            .fetch_ranges(&blob, &whole, &stop, &mut sink)
            .unwrap();
        assert_eq!((taken, fetcher.received()), (SIZE, SIZE));
    }
}
