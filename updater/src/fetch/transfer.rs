use std::ops::Range;
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::{Instant, timeout};

use super::http::{ContentRange, Failure, chain, check_answer, request};
use super::{Patience, REFUSED, Sink};
use crate::ports::{Cause, FetchError, Verdict};

/// The largest piece that a sink gets, in bytes.
const PIECE: usize = 256 * 1024;
/// How often a server may say that a blob ends too early. A mirror in the
/// middle of a copy may be right a little later; a lie stays one.
const MAX_SHORT_ANSWERS: u32 = 3;

/// One blob on its way, over as many connections as it takes.
#[derive(Debug)]
pub(super) struct Transfer {
    url: Url,
    offset: u64,
    end: u64,
    size: u64,
    short_answers: u32,
}

/// How an attempt ended that did not bring everything.
#[derive(Debug)]
pub(super) enum Broken {
    /// Asking again may help.
    TryAgain(FetchError),
    /// It will not.
    GiveUp(FetchError),
}

impl Transfer {
    /// Returns a transfer of the bytes `range` of a file of `size`.
    pub(super) const fn new(url: Url, range: Range<u64>, size: u64) -> Self {
        Self {
            url,
            offset: range.start,
            end: range.end,
            size,
            short_answers: 0,
        }
    }

    pub(super) const fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the next byte that the sink waits for.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Asks once, and hands over what comes.
    pub(super) async fn attempt(
        &mut self,
        client: &Client,
        patience: &Patience,
        sink: Sink<'_>,
    ) -> Result<(), Broken> {
        let limit = patience.connect + patience.idle;
        let response = match timeout(limit, request(client, &self.url, self.offset)).await {
            Ok(Ok(response)) => response,
            Ok(Err(failure)) => return Err(self.failed(failure)),
            Err(_) => return Err(self.passing(silent(limit))),
        };
        check_answer(&response).map_err(|failure| self.failed(failure))?;
        let skip = self.check_place(&response)?;
        self.receive(response, skip, patience, sink).await
    }

    /// Holds the answer's headers against the blob, and returns how many bytes
    /// of the body lie before the offset.
    fn check_place(&mut self, response: &Response) -> Result<u64, Broken> {
        let start = if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = ContentRange::of(response)
                .ok_or_else(|| self.corrupt("a part comes without saying which".to_owned()))?;
            if range.start != Some(self.offset) {
                return Err(self.corrupt(format!(
                    "bytes from {} were asked for, those from {} come",
                    self.offset,
                    range
                        .start
                        .map_or_else(|| "nowhere".to_owned(), |start| start.to_string()),
                )));
            }
            if let Some(found) = range.size {
                self.check_size(found)?;
            }
            self.offset
        } else {
            // A server without ranges starts from the beginning.
            0
        };
        if let Some(length) = response.content_length() {
            self.check_size(start.saturating_add(length))?;
        }
        Ok(self.offset - start)
    }

    fn check_size(&mut self, found: u64) -> Result<(), Broken> {
        match found.cmp(&self.size) {
            std::cmp::Ordering::Less => Err(self.short(found)),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(self.corrupt(format!(
                "it has {found} bytes, the release says {}",
                self.size
            ))),
        }
    }

    async fn receive(
        &mut self,
        response: Response,
        mut skip: u64,
        patience: &Patience,
        sink: Sink<'_>,
    ) -> Result<(), Broken> {
        let mut body = response.bytes_stream();
        let (mut waited, mut arrived) = (Duration::ZERO, 0);
        loop {
            let asked = Instant::now();
            let chunk = match timeout(patience.idle, body.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(error))) => return Err(self.passing(chain(&error).into())),
                Ok(None) => return Err(self.short(self.offset)),
                Err(_) => return Err(self.passing(silent(patience.idle))),
            };
            // Only the wait for the network counts: the sink writes to a disk.
            waited += asked.elapsed();
            arrived += len(&chunk);
            if arrived >= patience.progress {
                (waited, arrived) = (Duration::ZERO, 0);
            } else if waited >= patience.stall {
                let why = format!("only {arrived} bytes came in {} s", waited.as_secs());
                return Err(self.passing(why.into()));
            }

            let dropped = skip.min(len(&chunk));
            skip -= dropped;
            let new = usize::try_from(dropped)
                .ok()
                .and_then(|dropped| chunk.get(dropped..));
            let new = new.expect("no more is dropped than the chunk has");
            if len(new) > self.size - self.offset {
                return Err(self.corrupt(format!("it goes on after its {} bytes", self.size)));
            }
            let wanted = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
            for piece in new.get(..wanted).unwrap_or(new).chunks(PIECE) {
                match sink(piece) {
                    Verdict::Taken => {}
                    Verdict::Bad | Verdict::BadWhole => {
                        return Err(self.corrupt(REFUSED.to_owned()));
                    }
                    Verdict::Stop => return Err(Broken::GiveUp(FetchError::Stopped)),
                }
                self.offset += len(piece);
            }
            // Not a read further: what comes now may never end.
            if self.offset == self.end {
                return Ok(());
            }
        }
    }

    fn failed(&mut self, failure: Failure) -> Broken {
        match failure {
            Failure::Passing(source) => self.passing(source),
            Failure::Lasting(source) | Failure::NotFound(source) => {
                Broken::GiveUp(self.unreachable(source))
            }
            Failure::PastEnd(size) => match size {
                Some(size) if size > self.offset => self.corrupt(format!(
                    "it has {size} bytes, but none from {} on",
                    self.offset
                )),
                size => self.short(size.unwrap_or(self.offset)),
            },
        }
    }

    fn passing(&self, source: Cause) -> Broken {
        Broken::TryAgain(self.unreachable(source))
    }

    fn unreachable(&self, source: Cause) -> FetchError {
        FetchError::RepositoryUnreachable {
            url: self.url.to_string(),
            source,
        }
    }

    fn corrupt(&self, why: String) -> Broken {
        Broken::GiveUp(FetchError::BlobCorrupt {
            url: self.url.to_string(),
            why,
        })
    }

    fn short(&mut self, found: u64) -> Broken {
        self.short_answers += 1;
        let error = FetchError::BlobTruncated {
            url: self.url.to_string(),
            found,
            expected: self.size,
        };
        if self.short_answers < MAX_SHORT_ANSWERS {
            Broken::TryAgain(error)
        } else {
            Broken::GiveUp(error)
        }
    }
}

fn silent(limit: Duration) -> Cause {
    format!("the server was silent for {} s", limit.as_secs()).into()
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("memory is smaller than 2^64 bytes")
}
