//! Messages as they come from the bus, none of them longer than it may be.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::{AsyncRead, AsyncReadExt};
use zbus::connection::socket::ReadHalf;
use zbus::export::async_trait::async_trait;

/// The longest arguments of a call. The longest that make sense are the journal lines of
/// `MarkBad`.
pub(super) const MOST_ARGUMENTS: usize = 256 << 10;
/// The longest fields of a header: names have 255 bytes, and our paths are short.
const MOST_FIELDS: usize = 16 << 10;

/// The length of what every message begins with.
const HEADER: usize = 16;
const METHOD_CALL: u8 = 1;
/// The flag of a caller who does not want to hear.
const NO_REPLY_EXPECTED: u8 = 1;

/// Hands over one message after the other. A call whose arguments are too long comes
/// without them; any other message that is too long does not come at all, since either
/// nobody waits for it or nobody can be answered. Every call that comes wants an answer.
#[derive(Debug)]
pub(super) struct Frames<R> {
    stream: R,
    /// What came with the handshake.
    early: Vec<u8>,
    header: [u8; HEADER],
    /// Of the header, what is still to be handed over.
    header_left: usize,
    /// The same of the rest.
    rest_left: usize,
    /// What comes then, and nobody gets.
    over: usize,
    is_cut: bool,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) const fn new(stream: R) -> Self {
        Self {
            stream,
            early: Vec::new(),
            header: [0; HEADER],
            header_left: 0,
            rest_left: 0,
            over: 0,
            is_cut: false,
        }
    }

    pub(super) const fn stream(&mut self) -> &mut R {
        &mut self.stream
    }

    /// Takes what was read too early.
    pub(super) fn begin_with(&mut self, early: &mut Vec<u8>) {
        self.early.append(early);
    }

    /// Returns whether the message that was handed over lacks its arguments.
    pub(super) const fn take_cut(&mut self) -> bool {
        std::mem::replace(&mut self.is_cut, false)
    }

    /// Reads as much as there is, `most` bytes at the most.
    async fn read(&mut self, buffer: &mut [u8], most: usize) -> io::Result<usize> {
        let most = most.min(buffer.len());
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        if self.early.is_empty() {
            return self.stream.read(buffer).await;
        }
        let count = self.early.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(self.early.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }

    /// Reads on to the next message that is handed over. Returns whether there is one.
    async fn begin(&mut self) -> io::Result<bool> {
        loop {
            if !self.pass_over().await? || !self.read_header().await? {
                return Ok(false);
            }
            let (fields, body) = (self.number(12)?, self.number(4)?);
            let padded = fields.next_multiple_of(8);
            let kind = self.header[1];
            if fields > MOST_FIELDS || (body > MOST_ARGUMENTS && kind != METHOD_CALL) {
                tracing::warn!(fields, body, "a message on the bus is too long");
                self.over = padded.saturating_add(body);
                continue;
            }
            if kind == METHOD_CALL {
                // So that it is answered, and its place is free then. The bus throws the answer
                // away, and says so, as it does when a caller has gone.
                self.header[2] &= !NO_REPLY_EXPECTED;
            }
            self.header_left = HEADER;
            self.rest_left = padded.saturating_add(body);
            if body > MOST_ARGUMENTS {
                self.rest_left = padded;
                self.over = body;
                self.is_cut = true;
                self.header[4..8].fill(0);
            }
            return Ok(true);
        }
    }

    async fn pass_over(&mut self) -> io::Result<bool> {
        let mut scratch = [0; 4096];
        while self.over > 0 {
            match self.read(&mut scratch, self.over).await? {
                0 => return Ok(false),
                count => self.over -= count,
            }
        }
        Ok(true)
    }

    async fn read_header(&mut self) -> io::Result<bool> {
        let mut header = [0; HEADER];
        let mut have = 0;
        while let Some(rest) = header.get_mut(have..)
            && !rest.is_empty()
        {
            match self.read(rest, HEADER).await? {
                0 => return Ok(false),
                count => have += count,
            }
        }
        self.header = header;
        Ok(true)
    }

    /// Returns the number at `at` of the header, in the message's own order of bytes.
    fn number(&self, at: usize) -> io::Result<usize> {
        let rest = self.header.get(at..).unwrap_or_default();
        let Some(bytes) = rest.first_chunk::<4>().copied() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let number = match self.header[0] {
            b'l' => u32::from_le_bytes(bytes),
            b'B' => u32::from_be_bytes(bytes),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        usize::try_from(number).map_err(io::Error::other)
    }
}

#[async_trait]
impl<R> ReadHalf for Frames<R>
where
    R: AsyncRead + Unpin + std::fmt::Debug + Send + Sync + 'static,
{
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        if self.header_left == 0 && self.rest_left == 0 && !self.begin().await? {
            return Ok((0, vec![]));
        }
        if self.header_left > 0 {
            let rest = self.header.iter().skip(HEADER - self.header_left);
            let mut count = 0;
            for (to, from) in buffer.iter_mut().zip(rest) {
                *to = *from;
                count += 1;
            }
            self.header_left -= count;
            return Ok((count, vec![]));
        }
        let count = self.read(buffer, self.rest_left).await?;
        self.rest_left -= count;
        Ok((count, vec![]))
    }
}

#[cfg(test)]
mod tests {
    use zbus::message::Type;
    use zbus::{Message, message};

    use super::*;

    fn call(number: u32, argument: &str) -> Message {
        let call = Message::method_call("/a", "B").destination("io.bistable.Test");
        let serial = std::num::NonZeroU32::new(number).unwrap();
        call.serial(serial).build(&argument).unwrap()
    }

    fn serials(messages: &[Message]) -> Vec<u32> {
        let serial = |it: &Message| it.primary_header().serial_num().get();
        messages.iter().map(serial).collect()
    }

    /// Returns what comes of these bytes, and which of it was cut.
    async fn read(bytes: Vec<u8>, early: usize) -> (Vec<Message>, Vec<bool>) {
        let (early, stream) = bytes.split_at(early);
        let mut frames = Frames::new(io::Cursor::new(stream.to_vec()));
        frames.begin_with(&mut early.to_vec());
        let (mut came, mut cut) = (Vec::new(), Vec::new());
        while let Ok(message) = frames
            .receive_message(1, &mut Vec::new(), &mut Vec::new())
            .await
        {
            came.push(message);
            cut.push(frames.take_cut());
        }
        (came, cut)
    }

    #[tokio::test]
    async fn a_call_with_arguments_that_are_too_long_comes_without_them_and_the_next_is_whole() {
        let long = "x".repeat(MOST_ARGUMENTS);
        let calls = [call(1, "short"), call(2, &long), call(3, "short")];
        let bytes: Vec<u8> = calls.iter().flat_map(|it| it.data().to_vec()).collect();
        for early in [0, 3, 16, 40, bytes.len()] {
            let (came, cut) = read(bytes.clone(), early).await;
            assert_eq!(
                (serials(&came), cut),
                (vec![1, 2, 3], vec![false, true, false])
            );
            assert_eq!(came[2].body().deserialize::<&str>().unwrap(), "short");
            assert!(came[1].body().deserialize::<&str>().is_err());
            assert_eq!(came[1].header().member().unwrap().as_str(), "B");
        }
    }

    #[tokio::test]
    async fn other_messages_that_are_too_long_do_not_come() {
        let long = "x".repeat(MOST_ARGUMENTS);
        let signal = Message::signal("/a", "a.b", "C").build(&long).unwrap();
        assert_eq!(signal.message_type(), Type::Signal);
        let path = format!("/{}", "x".repeat(MOST_FIELDS));
        let odd: message::Builder<'_> = Message::method_call(path.as_str(), "B");
        let odd = odd.build(&()).unwrap();
        let messages = [signal, odd, call(7, "short")];
        let bytes: Vec<u8> = messages.iter().flat_map(|it| it.data().to_vec()).collect();
        let (came, _) = read(bytes, 0).await;
        assert_eq!(serials(&came), [7]);
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_connection() {
        let (came, _) = read(vec![b'x'; 100], 0).await;
        assert!(came.is_empty());
    }
}
