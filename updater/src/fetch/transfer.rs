//! One connection's work: asks, holds the answer to what was asked, waits, asks
//! again, and sends on what came in pieces of whole blocks.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::answer::{Answer, Fault};
use super::http::{Failure, Part, Question, chain, check_answer, request};
use super::line::{Event, Line, Way};
use super::missing::Missing;
use super::pieces::{Piece, Pieces};
use crate::ports::{Cause, FetchError, RangeSupport};

/// The least that is asked for at once, if so much is missing in a row: less
/// would be mostly round trips.
const LEAST_PART: u64 = 256 * 1024;
/// The most: what one connection has taken on, no other can.
const MOST_PART: u64 = 8 << 20;
/// How often a server may say that a blob ends too early. A mirror in the
/// middle of a copy may be right a little later; a lie stays one.
const MAX_SHORT_ANSWERS: u32 = 3;
/// How many times what it wants an attempt may read, if it is to count as progress.
const MOST_READ: u64 = 8;
/// How long a piece that is not full waits for more, so that little is lost
/// when the power is.
const HELD: Duration = Duration::from_secs(1);

/// Why an attempt did not bring everything.
#[derive(Debug)]
enum Broken {
    /// Asking again may help.
    TryAgain(FetchError),
    /// It will not.
    GiveUp(FetchError),
    /// A pause was too long to keep the connection.
    Paused,
    /// The whole comes where a part was asked for.
    NoParts,
    /// Nobody listens any more.
    Unheard,
}

/// A connection at work.
#[derive(Debug)]
struct Transfer {
    line: Arc<Line>,
    way: Way,
    events: mpsc::Sender<Event>,
    /// What this connection has taken on, and has not got.
    missing: Missing,
    pieces: Pieces,
    told: RangeSupport,
    short_answers: u32,
    /// Attempts without progress.
    attempts: u32,
    /// The bytes of the last attempt that were wanted, and all of them.
    progress: u64,
    read: u64,
}

/// Works until nothing is left to take on, or the server has failed for good.
pub(super) async fn work(line: Arc<Line>, way: Way, events: mpsc::Sender<Event>) {
    let pieces = Pieces::new(line.grain);
    let mut transfer = Transfer {
        line,
        way,
        events,
        missing: Missing::default(),
        pieces,
        told: RangeSupport::Unknown,
        short_answers: 0,
        attempts: 0,
        progress: 0,
        read: 0,
    };
    while transfer.take_on() {
        if transfer.bring().await.is_err() {
            return;
        }
    }
}

/// All was told that there is to tell.
struct Over;

impl Transfer {
    /// Takes on what is to be brought next, if anything is left.
    fn take_on(&mut self) -> bool {
        let mut queue = self.line.queue();
        self.missing = match self.way {
            Way::Through => std::mem::take(&mut *queue),
            Way::Parts => {
                let most = (queue.bytes() / 16).clamp(LEAST_PART, MOST_PART);
                let part = queue.take(most / self.line.grain * self.line.grain);
                Missing::of(part.as_slice(), self.line.size)
            }
        };
        !self.missing.is_empty()
    }

    /// Brings what was taken on, over as many connections as it takes.
    async fn bring(&mut self) -> Result<(), Over> {
        while let Some(first) = self.missing.first() {
            let attempt = self.attempt(first).await;
            // What came is good, however it ended.
            let sent = self.send_whole().await;
            match attempt.and(sent) {
                Ok(()) => {}
                Err(Broken::Paused) => self.line.stop.resumed().await,
                Err(Broken::NoParts) => {
                    drop(self.tell(RangeSupport::No).await);
                    return Err(Over);
                }
                Err(Broken::Unheard) => return Err(Over),
                Err(Broken::GiveUp(error)) => return self.fail(error).await,
                // Nobody blames a server for what it does during a pause.
                Err(Broken::TryAgain(_)) if self.line.stop.is_paused() => {
                    self.line.stop.resumed().await;
                }
                Err(Broken::TryAgain(error)) => self.wait(error).await?,
            }
        }
        Ok(())
    }

    async fn fail(&self, error: FetchError) -> Result<(), Over> {
        // If nobody listens, nobody has to know.
        drop(self.events.send(Event::Failed(error)).await);
        Err(Over)
    }

    async fn wait(&mut self, broken: FetchError) -> Result<(), Over> {
        // A server that drops the line after every few bytes is not getting
        // anywhere, so only a real piece counts. Nor is one that sends the same again
        // and again before it: half a terabyte would come for an image of half a gigabyte.
        let is_real = self.progress >= self.line.patience.progress;
        if is_real && self.progress >= self.read / MOST_READ {
            self.attempts = 0;
        }
        (self.progress, self.read) = (0, 0);
        let Some(wait) = self.line.patience.wait(self.attempts) else {
            return self.fail(broken).await;
        };
        self.attempts += 1;
        tracing::debug!(
            url = %self.line.url,
            offset = self.missing.first(),
            error = %chain(&broken),
            ?wait,
            "transfer broke off, trying again",
        );
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Asks once, and sends on what comes.
    async fn attempt(&mut self, first: u64) -> Result<(), Broken> {
        let last = self.missing.parts().last().map_or(first, |part| part.end);
        let part = match self.way {
            Way::Parts => Part::Within(first..last),
            Way::Through if first > 0 => Part::From(first),
            Way::Through => Part::Whole,
        };
        let patience = &self.line.patience;
        let limit = patience.connect + patience.idle;
        let range = part.header();
        let question = Question {
            url: &self.line.url,
            range: range.as_deref(),
        };
        let begun = Instant::now();
        let asked = timeout(limit, request(&self.line.client, &question)).await;
        self.note(begun.elapsed(), 0)?;
        let response = match asked {
            Ok(Ok(response)) => response,
            Ok(Err(failure)) => return Err(self.failed(failure, first)),
            Err(_) => return Err(self.passing(silent(limit))),
        };
        if let Err(failure) = check_answer(&response) {
            return Err(self.failed(failure, first));
        }
        if self.way == Way::Parts && response.status() == StatusCode::OK {
            return Err(Broken::NoParts);
        }
        let answer = Answer::of(&response, &part, self.line.size).map_err(|fault| match fault {
            Fault::Other(why) => self.corrupt(why),
            Fault::Short(found) => self.short(found),
        })?;
        self.tell(answer.ranges).await?;
        self.receive(response, answer.body).await
    }

    /// Notes how long the server was waited for. One that is too slow is left.
    fn note(&self, waited: Duration, bytes: u64) -> Result<(), Broken> {
        if self.line.stop.is_paused() {
            return Ok(());
        }
        let noted = self.line.note(waited, bytes);
        noted.map_err(|source| Broken::GiveUp(self.unreachable(source)))
    }

    async fn tell(&mut self, ranges: RangeSupport) -> Result<(), Broken> {
        if ranges == RangeSupport::Unknown || ranges == self.told {
            return Ok(());
        }
        self.told = ranges;
        let sent = self.events.send(Event::Ranges(ranges)).await;
        sent.map_err(|_| Broken::Unheard)
    }

    /// Takes a body, which holds the bytes `place`.
    async fn receive(&mut self, response: Response, place: Range<u64>) -> Result<(), Broken> {
        let mut body = response.bytes_stream();
        let mut at = place.start;
        let (mut waited, mut arrived) = (Duration::ZERO, 0);
        loop {
            if self.line.stop.is_paused() {
                let resumed = timeout(self.line.patience.idle, self.line.stop.resumed());
                if resumed.await.is_err() {
                    return Err(Broken::Paused);
                }
            }
            let asked = Instant::now();
            let chunk = self.next(&mut body).await;
            // Only the wait for the network counts: whoever takes the pieces writes to
            // a disk.
            let took = asked.elapsed();
            let count = chunk
                .as_ref()
                .map_or(0, |chunk| chunk.as_deref().map_or(0, len));
            self.note(took, count)?;
            let Some(chunk) = chunk? else {
                return Err(self.ended(at));
            };
            self.line.received.fetch_add(count, Ordering::Relaxed);
            self.read += count;
            waited += took;
            arrived += count;
            if arrived >= self.line.patience.progress {
                (waited, arrived) = (Duration::ZERO, 0);
            } else if waited >= self.line.patience.stall {
                let why = format!("only {arrived} bytes came in {} s", waited.as_secs());
                return Err(self.passing(why.into()));
            }
            self.line.throttle.pass(count).await;

            if count > place.end - at {
                let why = format!("it goes on after its byte {}", place.end);
                return Err(self.corrupt(why));
            }
            self.take(at, &chunk).await?;
            at += count;
            // Not a read further: what comes now may never end.
            if self.missing.is_empty() {
                return Ok(());
            }
        }
    }

    /// Waits for a chunk of the body, but does not keep what came before it.
    async fn next(
        &mut self,
        body: &mut (impl Stream<Item = reqwest::Result<Bytes>> + Unpin),
    ) -> Result<Option<Bytes>, Broken> {
        let idle = self.line.patience.idle;
        let held = HELD.min(idle / 2);
        let chunk = match timeout(held, body.next()).await {
            Ok(chunk) => chunk,
            Err(_) => {
                self.send_whole().await?;
                let late = timeout(idle.saturating_sub(held), body.next()).await;
                late.map_err(|_| self.passing(silent(idle)))?
            }
        };
        chunk
            .transpose()
            .map_err(|error| self.passing(chain(&error).into()))
    }

    /// Takes what is wanted of bytes that lie at `at`.
    async fn take(&mut self, at: u64, chunk: &[u8]) -> Result<(), Broken> {
        let end = at + len(chunk);
        let mut from = at;
        while let Some(part) = self.missing.next_from(from).filter(|part| part.start < end) {
            let part = part.start..part.end.min(end);
            from = part.start;
            let mut bytes = within(chunk, part.start - at..part.end - at);
            self.missing.remove(part.clone());
            self.progress += len(bytes);
            while !bytes.is_empty() {
                let (piece, taken) = self.pieces.push(from, bytes);
                bytes = bytes.get(taken..).unwrap_or_default();
                from += u64::try_from(taken).expect("a piece is small");
                self.send(piece).await?;
            }
        }
        let came = self.pieces.end();
        if self
            .missing
            .next_from(came)
            .is_none_or(|next| next.start > came)
        {
            // The end of a part: it may end within a block, if the blob does.
            let rest = self.pieces.take_all();
            self.send(rest).await?;
        }
        Ok(())
    }

    /// Sends on the whole blocks that have come.
    async fn send_whole(&mut self) -> Result<(), Broken> {
        let whole = self.pieces.take_whole();
        self.send(whole).await
    }

    async fn send(&self, pieces: impl IntoIterator<Item = Piece>) -> Result<(), Broken> {
        for piece in pieces {
            let sent = self.events.send(Event::Piece(piece)).await;
            sent.map_err(|_| Broken::Unheard)?;
        }
        Ok(())
    }

    /// Says why a body may end at `at`, though bytes are missing.
    fn ended(&mut self, at: u64) -> Broken {
        match self.way {
            Way::Through => self.short(self.missing.first().unwrap_or(at)),
            // Servers may send less than was asked for.
            Way::Parts => self.passing(format!("the answer ends at byte {at}").into()),
        }
    }

    fn failed(&mut self, failure: Failure, first: u64) -> Broken {
        match failure {
            Failure::Passing(source) => self.passing(source),
            Failure::Lasting(source) | Failure::NotFound(source) => {
                Broken::GiveUp(self.unreachable(source))
            }
            Failure::PastEnd(Some(size)) if size > first => {
                self.corrupt(format!("it has {size} bytes, but none from {first} on"))
            }
            Failure::PastEnd(size) => self.short(size.unwrap_or(first)),
        }
    }

    fn passing(&self, source: Cause) -> Broken {
        Broken::TryAgain(self.unreachable(source))
    }

    fn unreachable(&self, source: Cause) -> FetchError {
        FetchError::RepositoryUnreachable {
            url: self.line.url.to_string(),
            source,
        }
    }

    fn corrupt(&self, why: String) -> Broken {
        Broken::GiveUp(FetchError::BlobCorrupt {
            url: self.line.url.to_string(),
            why,
        })
    }

    fn short(&mut self, found: u64) -> Broken {
        self.short_answers += 1;
        let error = FetchError::BlobTruncated {
            url: self.line.url.to_string(),
            found,
            expected: self.line.size,
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

fn within(bytes: &[u8], range: Range<u64>) -> &[u8] {
    let place = |at| usize::try_from(at).ok();
    place(range.start)
        .zip(place(range.end))
        .and_then(|(start, end)| bytes.get(start..end))
        .expect("a part that was clipped to the bytes lies in them")
}
