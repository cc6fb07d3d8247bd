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
use zbus::message::{Flags, Message, Type};
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
    let inside = Arc::new(Semaphore::new(MOST_INSIDE));
    let door = Door {
        stream,
        inside,
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

#[derive(Debug)]
struct Door {
    stream: UnixStream,
    /// A place for each call that may come in.
    inside: Arc<Semaphore>,
    refused: mpsc::Sender<Message>,
}

impl Socket for Door {
    type ReadHalf = Inward;
    type WriteHalf = Outward;

    fn split(self) -> Split<Inward, Outward> {
        let (read, write) = self.stream.into_split();
        let inward = Inward {
            frames: Frames::new(read),
            inside: Arc::clone(&self.inside),
            refused: self.refused,
        };
        let outward = Outward {
            stream: write,
            inside: self.inside,
        };
        Split::new(inward, outward)
    }
}

#[derive(Debug)]
struct Inward {
    frames: Frames<OwnedReadHalf>,
    inside: Arc<Semaphore>,
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
            if !wants_answer(&message) {
                match is_cut {
                    true => continue,
                    false => return Ok(message),
                }
            }
            if let Ok(Ok(place)) = timeout(SHUT, self.inside.acquire()).await {
                // Given back with the answer.
                place.forget();
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
    inside: Arc<Semaphore>,
}

#[async_trait]
impl WriteHalf for Outward {
    async fn send_message(&mut self, message: &Message) -> zbus::Result<()> {
        self.stream.write_all(message.data()).await?;
        if matches!(message.message_type(), Type::MethodReturn | Type::Error) {
            self.inside.add_permits(1);
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

fn wants_answer(message: &Message) -> bool {
    message.message_type() == Type::MethodCall
        && !message
            .primary_header()
            .flags()
            .contains(Flags::NO_REPLY_EXPECTED)
}
