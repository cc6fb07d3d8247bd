//! The connections to one server that bring what is missing of one blob.
//!
//! They live on the runtime and send pieces; the caller's thread takes them, one
//! at a time, and keeps the list of what is still missing. So whatever ends a
//! connection, nothing that was taken is asked for again.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::line::{Event, Line, Way};
use super::taker::{Ended, Taker};
use super::transfer::work;
use crate::ports::{FetchError, RangeSupport};

/// How many connections bring parts at the same time. With two a line with a
/// long round trip stays half empty; more than a handful is rude to a server.
const CONNECTIONS: usize = 4;
/// How many pieces may wait to be taken. With those that are being filled, and
/// twice the 0.4 MiB that each connection reads at once, all stays below 4 MiB.
const WAITING: usize = 2;

/// The connections, and what they bring.
#[derive(Debug)]
pub(super) struct Crew {
    line: Arc<Line>,
    way: Way,
    runtime: Handle,
    connections: JoinSet<()>,
    inbox: mpsc::Receiver<Event>,
    /// Gone when the last connection is.
    events: mpsc::WeakSender<Event>,
}

impl Crew {
    /// Begins with one connection: who sends no parts would send the whole over
    /// each.
    pub(super) fn start(line: Line, way: Way, ranges: RangeSupport, runtime: &Handle) -> Self {
        let (sender, inbox) = mpsc::channel(WAITING);
        let mut crew = Self {
            line: Arc::new(line),
            way,
            runtime: runtime.clone(),
            connections: JoinSet::new(),
            inbox,
            events: sender.downgrade(),
        };
        crew.send_one(sender);
        if ranges == RangeSupport::Yes {
            crew.complete();
        }
        crew
    }

    fn send_one(&mut self, events: mpsc::Sender<Event>) {
        let work = work(Arc::clone(&self.line), self.way, events);
        self.connections.spawn_on(work, &self.runtime);
    }

    /// Brings the crew to its full strength.
    fn complete(&mut self) {
        let most = match self.way {
            Way::Through => 1,
            Way::Parts => CONNECTIONS,
        };
        while self.connections.len() < most {
            let Some(events) = self.events.upgrade() else {
                return;
            };
            self.send_one(events);
        }
    }

    /// Lets `taker` take what comes, until nothing is missing. Tells what is
    /// learned of the server through `learn`.
    pub(super) fn bring(
        &mut self,
        taker: &mut Taker<'_>,
        learn: &mut dyn FnMut(RangeSupport),
    ) -> Result<(), Ended> {
        while !taker.missing.is_empty() {
            let event = self.next()?;
            match event {
                Some(Event::Piece(piece)) => {
                    let taken = taker.take(piece.offset, &piece.bytes);
                    if matches!(taken, Err(Ended::Bad)) && self.way == Way::Parts {
                        self.leave(taker)?;
                    }
                    taken?;
                }
                Some(Event::Ranges(ranges)) => {
                    learn(ranges);
                    match (self.way, ranges) {
                        (Way::Parts, RangeSupport::No) => {
                            self.leave(taker)?;
                            return Err(Ended::NoParts);
                        }
                        (Way::Parts, RangeSupport::Yes) => self.complete(),
                        (Way::Parts, RangeSupport::Unknown) | (Way::Through, _) => {}
                    }
                }
                Some(Event::Failed(error)) => {
                    self.leave(taker)?;
                    return Err(Ended::Failed(error));
                }
                None => return Err(Ended::Failed(self.died())),
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Event>, Ended> {
        let (line, inbox) = (&self.line, &mut self.inbox);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = line.stop.wait() => Err(Ended::Stopped),
                event = inbox.recv() => Ok(event),
            }
        })
    }

    /// Takes what has come already, before the server is left. Each piece is
    /// judged by itself.
    fn leave(&mut self, taker: &mut Taker<'_>) -> Result<(), Ended> {
        self.connections.abort_all();
        while let Ok(event) = self.inbox.try_recv() {
            if let Event::Piece(piece) = event {
                match taker.take(piece.offset, &piece.bytes) {
                    Err(Ended::Bad) if self.way == Way::Parts => {}
                    taken => taken?,
                }
            }
        }
        Ok(())
    }

    fn died(&self) -> FetchError {
        FetchError::RepositoryUnreachable {
            url: self.line.url.to_string(),
            source: "its connections have died".into(),
        }
    }
}
