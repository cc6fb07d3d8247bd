//! The connection on which callers come, and how many are let in.
//!
//! ```text
//! bus ─▶ frames: one message after the other, none too long ─▶ door ─▶ object server
//!                                                  at most MOST_INSIDE unanswered
//! ```
//! The object server begins a task for each call and keeps what it answers until the bus
//! takes it. So a caller who floods would fill the memory, but that nothing is read while
//! enough are inside: the bus has the rest, and its own limits for who sent it.
//! Nothing that a call waits for may come over this connection.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use zbus::address::transport::{Transport, UnixSocket};
use zbus::connection::Builder;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;
use zbus::message::{Message, Type};
use zbus::{Address, Connection};

use super::error::BusError;
use super::frames::{Frames, MOST_ARGUMENTS};
use crate::refusal::Refused;

/// How many calls may be unanswered. All but one or two are answered without waiting for
/// anybody; and with the longest answers, of 256 KiB, it is all the memory that calls take.
const MOST_INSIDE: usize = 32;
/// How long a full house keeps the door shut: a call that is never answered, which would be
/// a bug, must not shut it for ever.
const SHUT: Duration = Duration::from_secs(1);

/// Connects to the bus at `address`, as one who is called.
///
/// # Errors
/// It cannot be reached, or is not reached through a unix socket.
pub async fn connect(address: &Address) -> zbus::Result<Connection> {
    let stream = reach(address).await?;
    let (refused, refusals) = mpsc::channel(1);
    let door = Door {
        stream,
        places: Arc::default(),
        refused,
    };
    let bus = Builder::socket(door).build().await?;
    tokio::spawn(refuse(bus.clone(), refusals));
    Ok(bus)
}

async fn reach(address: &Address) -> zbus::Result<UnixStream> {
    let Transport::Unix(unix) = address.transport() else {
        return Err(zbus::Error::Unsupported);
    };
    Ok(match unix.path() {
        UnixSocket::File(path) => UnixStream::connect(path).await?,
        UnixSocket::Abstract(name) => {
            let name = name.as_encoded_bytes();
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)?
        }
        UnixSocket::Dir(_) | UnixSocket::TmpDir(_) => return Err(zbus::Error::Unsupported),
        _ => return Err(zbus::Error::Unsupported),
    })
}

/// Answers the calls that come without their arguments, as these were too long.
async fn refuse(bus: Connection, mut refusals: mpsc::Receiver<Message>) {
    while let Some(call) = refusals.recv().await {
        let why = format!("the arguments of a call have {MOST_ARGUMENTS} bytes at most");
        let error = BusError::from(Refused::BadArgument(why));
        if let Err(error) = bus.reply_dbus_error(&call.header(), error).await {
            tracing::debug!(%error, "a call cannot be refused");
        }
    }
}

/// A place for each call that may come in, until it is answered.
#[derive(Debug)]
struct Places {
    free: Semaphore,
    /// Calls that came in without one, after [`SHUT`]: their answers free none.
    without: AtomicUsize,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            free: Semaphore::new(MOST_INSIDE),
            without: AtomicUsize::new(0),
        }
    }
}

impl Places {
    async fn take(&self) {
        match timeout(SHUT, self.free.acquire()).await {
            // Given back with the answer.
            Ok(Ok(place)) => place.forget(),
            Ok(Err(_)) | Err(_) => drop(self.without.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Whichever call is answered: who came in without a place has the one that is free now.
    fn give_back(&self) {
        let one_less = |without: usize| without.checked_sub(1);
        let was_owed = self
            .without
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if was_owed.is_err() {
            self.free.add_permits(1);
        }
    }
}

#[derive(Debug)]
struct Door {
    stream: UnixStream,
    places: Arc<Places>,
    refused: mpsc::Sender<Message>,
}

impl Socket for Door {
    type ReadHalf = Inward;
    type WriteHalf = Outward;

    fn split(self) -> Split<Inward, Outward> {
        let (read, write) = self.stream.into_split();
        let inward = Inward {
            frames: Frames::new(read),
            places: Arc::clone(&self.places),
            refused: self.refused,
        };
        let outward = Outward {
            stream: write,
            places: self.places,
        };
        Split::new(inward, outward)
    }
}

#[derive(Debug)]
struct Inward {
    frames: Frames<OwnedReadHalf>,
    places: Arc<Places>,
    refused: mpsc::Sender<Message>,
}

#[async_trait]
impl ReadHalf for Inward {
    async fn receive_message(
        &mut self,
        seq: u64,
        early: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        self.frames.begin_with(early);
        loop {
            let message = self
                .frames
                .receive_message(seq, &mut Vec::new(), fds)
                .await?;
            let is_cut = self.frames.take_cut();
            if message.message_type() == Type::MethodCall {
                self.places.take().await;
            }
            if !is_cut {
                return Ok(message);
            }
            // The connection is going if nobody takes it.
            drop(self.refused.send(message).await);
        }
    }

    /// The handshake, before there are messages.
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        Ok((self.frames.stream().read(buffer).await?, vec![]))
    }
}

#[derive(Debug)]
struct Outward {
    stream: OwnedWriteHalf,
    places: Arc<Places>,
}

#[async_trait]
impl WriteHalf for Outward {
    async fn send_message(&mut self, message: &Message) -> zbus::Result<()> {
        self.stream.write_all(message.data()).await?;
        if matches!(message.message_type(), Type::MethodReturn | Type::Error) {
            self.places.give_back();
        }
        Ok(())
    }

    async fn sendmsg(&mut self, buffer: &[u8], _fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.stream.write(buffer).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use zbus::message::Flags;

    use super::*;

    fn door() -> (Inward, Outward, Arc<Places>, UnixStream) {
        let (stream, bus) = UnixStream::pair().unwrap();
        let places = Arc::<Places>::default();
        let door = Door {
            stream,
            places: Arc::clone(&places),
            refused: mpsc::channel(1).0,
        };
        let (inward, outward) = door.split().take();
        (inward, outward, places, bus)
    }

    fn call(flags: Option<Flags>) -> Message {
        let mut call = Message::method_call("/a", "B").destination("io.bistable.Test");
        if let Some(flags) = flags {
            call = call.with_flags(flags);
        }
        call.build(&()).unwrap()
    }

    async fn receive(inward: &mut Inward) -> Message {
        let (mut early, mut fds) = (Vec::new(), Vec::new());
        let received = inward.receive_message(1, &mut early, &mut fds);
        received.await.unwrap()
    }

    #[tokio::test]
    async fn a_call_that_wants_no_answer_has_a_place_and_is_answered() {
        let (mut inward, mut outward, places, mut bus) = door();
        let silent = call(Some(Flags::NO_REPLY_EXPECTED));
        bus.write_all(silent.data()).await.unwrap();
        let came = receive(&mut inward).await;
        let flags = came.primary_header().flags();
        assert!(!flags.contains(Flags::NO_REPLY_EXPECTED));
        assert_eq!(places.free.available_permits(), MOST_INSIDE - 1);
        let header = came.header();
        let answer = Message::method_return(&header).build(&()).unwrap();
        outward.send_message(&answer).await.unwrap();
        assert_eq!(places.free.available_permits(), MOST_INSIDE);
    }

    #[tokio::test]
    async fn who_was_let_in_without_a_place_leaves_none() {
        let (mut inward, mut outward, places, mut bus) = door();
        let mut calls = Vec::new();
        for _ in 0..=MOST_INSIDE {
            bus.write_all(call(None).data()).await.unwrap();
            calls.push(receive(&mut inward).await);
        }
        assert_eq!(places.free.available_permits(), 0);
        for call in calls {
            let header = call.header();
            let answer = Message::error(&header, "a.B").build(&()).unwrap();
            outward.send_message(&answer).await.unwrap();
        }
        assert_eq!(places.free.available_permits(), MOST_INSIDE);
    }
}
