//! A web server for a repository of static files, honest until told otherwise.

use std::collections::HashMap;
use std::io::SeekFrom;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How a file is served wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One bit of the byte at this offset is not as it should be.
    FlipAt(u64),
    /// One bit is wrong in the first byte of every answer.
    Lies,
    /// The file ends here, as if an upload had been cut short.
    TruncateAt(u64),
    /// The connection is closed here, with more announced.
    HangUpAt(u64),
    /// Nothing more is sent from here on, with the connection open, until [`Server::heal`].
    StallAt(u64),
    /// The file is not there.
    Absent,
}

/// How the server treats all files alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// As HTTP has it.
    #[default]
    Well,
    /// Whoever asks for a part of a file gets all of it.
    WithoutRanges,
    /// The connection is closed after so many bytes of each answer.
    HangsUpAfter(u64),
    /// One bit is wrong in the first byte of every answer from below this folder.
    LiesBelow(&'static str),
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The path, without the leading slash.
    pub path: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// Where in the file the answer begins.
    pub from: u64,
    /// How many bytes of the file were sent.
    pub bytes: u64,
}

/// A server on a port of this host, for a node behind QEMU's network.
///
/// It serves while it lives.
#[derive(Debug)]
pub struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    folder: PathBuf,
    faults: HashMap<String, Fault>,
    manner: Manner,
    served: Vec<Served>,
    /// Counts up whenever everything is healed: what stalls waits for that.
    healed: watch::Sender<u64>,
}

impl Server {
    /// Serves `folder` on a port that the host chooses.
    ///
    /// # Errors
    ///
    /// Fails when no port can be had.
    pub async fn start(folder: &Path) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("cannot listen")?;
        let port = listener
            .local_addr()
            .context("the listener has no address")?
            .port();
        let state = State {
            folder: folder.into(),
            faults: HashMap::new(),
            manner: Manner::Well,
            served: Vec::new(),
            healed: watch::Sender::new(0),
        };
        let state = Arc::new(Mutex::new(state));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            port,
            state,
            accepting,
        })
    }

    /// Returns the server's URL, as a node behind QEMU's network reaches it.
    pub fn url_for_node(&self) -> String {
        format!("http://10.0.2.2:{}", self.port)
    }

    /// Serves another folder from now on.
    pub fn serve(&self, folder: &Path) {
        lock(&self.state).folder = folder.into();
    }

    /// Serves `path` wrongly from now on.
    pub fn spoil(&self, path: &str, fault: Fault) {
        lock(&self.state).faults.insert(path.into(), fault);
    }

    /// Treats all files so from now on.
    pub fn behave(&self, manner: Manner) {
        lock(&self.state).manner = manner;
    }

    /// Serves everything as it is again.
    pub fn heal(&self) {
        let mut state = lock(&self.state);
        state.faults.clear();
        state.manner = Manner::Well;
        state.healed.send_modify(|times| *times += 1);
    }

    /// Returns all requests so far.
    pub fn served(&self) -> Vec<Served> {
        lock(&self.state).served.clone()
    }

    /// Returns how many bytes were sent so far.
    pub fn bytes_sent(&self) -> u64 {
        lock(&self.state)
            .served
            .iter()
            .map(|served| served.bytes)
            .sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        // A node that hangs up in the middle is everyday business.
        tokio::spawn(async move { drop(converse(stream, &state).await) });
    }
}

/// Answers the requests of one connection, one after the other.
async fn converse(stream: TcpStream, state: &Mutex<State>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(request) = Request::read(&mut stream).await? {
        let (how, healed) = {
            let state = lock(state);
            let how = How {
                folder: state.folder.clone(),
                fault: state.faults.get(&request.path).copied(),
                manner: state.manner,
            };
            (how, state.healed.subscribe())
        };
        let (served, verdict) = answer(&request, &how, stream.get_mut()).await?;
        lock(state).served.push(served);
        match verdict {
            Verdict::KeepOpen => {}
            Verdict::HangUp => break,
            Verdict::Stall => {
                stalled(healed).await;
                break;
            }
        }
    }
    Ok(())
}

/// Waits until everything is healed.
async fn stalled(mut healed: watch::Receiver<u64>) {
    // Fails when the server is gone: then nobody waits for more either.
    drop(healed.changed().await);
}

/// How one request is answered.
#[derive(Debug)]
struct How {
    folder: PathBuf,
    fault: Option<Fault>,
    manner: Manner,
}

#[derive(Debug)]
struct Request {
    method: String,
    path: String,
    range: Option<(u64, Option<u64>)>,
}

impl Request {
    /// Reads one request, `None` at the end of the connection.
    async fn read(stream: &mut BufReader<TcpStream>) -> Result<Option<Self>> {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let method = words.next().context("a request without a method")?.into();
        let path = words
            .next()
            .context("a request without a path")?
            .trim_start_matches('/')
            .into();
        let mut range = None;
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).await?;
            let header = header.trim_end();
            if header.is_empty() {
                return Ok(Some(Self {
                    method,
                    path,
                    range,
                }));
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("range")
            {
                range = parse_range(value.trim());
            }
        }
    }
}

/// Reads `bytes=FROM-` or `bytes=FROM-LAST`; anything else is answered whole.
fn parse_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (from, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let last = if last.is_empty() {
        None
    } else {
        Some(last.parse().ok()?)
    };
    Some((from.parse().ok()?, last))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    KeepOpen,
    HangUp,
    /// Neither send nor hang up.
    Stall,
}

async fn answer(request: &Request, how: &How, stream: &mut TcpStream) -> Result<(Served, Verdict)> {
    let fault = how.fault;
    let range = match how.manner {
        Manner::WithoutRanges => None,
        Manner::Well | Manner::HangsUpAfter(_) | Manner::LiesBelow(_) => request.range,
    };
    let refuse = |status| Served {
        path: request.path.clone(),
        status,
        from: 0,
        bytes: 0,
    };
    let inside = Path::new(&request.path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let file = match fault {
        Some(Fault::Absent) => None,
        _ if !inside => None,
        _ => File::open(how.folder.join(&request.path)).await.ok(),
    };
    let Some(mut file) = file else {
        stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            .await?;
        return Ok((refuse(404), Verdict::KeepOpen));
    };
    let whole = file.metadata().await?.len();
    let size = if let Some(Fault::TruncateAt(end)) = fault {
        whole.min(end)
    } else {
        whole
    };
    let (from, to) = match range {
        None => (0, size),
        Some((from, last)) => (
            from,
            last.map_or(size, |last| size.min(last.saturating_add(1))),
        ),
    };
    if from > to || (from == size && range.is_some()) {
        let head = format!(
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{size}\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        return Ok((refuse(416), Verdict::KeepOpen));
    }
    let (status, reason) = if range.is_some() {
        (206, "Partial Content")
    } else {
        (200, "OK")
    };
    let mut head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Length: {}\r\n",
        to - from
    );
    if how.manner != Manner::WithoutRanges {
        head += "Accept-Ranges: bytes\r\n";
    }
    if status == 206 {
        head += &format!(
            "Content-Range: bytes {from}-{}/{size}\r\n",
            to.saturating_sub(1)
        );
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut served = Served {
        path: request.path.clone(),
        status,
        from,
        bytes: 0,
    };
    if request.method == "HEAD" {
        return Ok((served, Verdict::KeepOpen));
    }
    let (end, verdict) = match (fault, how.manner) {
        (Some(Fault::HangUpAt(at)), _) => (at.max(from), Verdict::HangUp),
        (Some(Fault::StallAt(at)), _) => (at.max(from), Verdict::Stall),
        (_, Manner::HangsUpAfter(bytes)) => (from.saturating_add(bytes), Verdict::HangUp),
        _ => (to, Verdict::KeepOpen),
    };
    let cut = to.min(end);
    let flipped = match (fault, how.manner) {
        (Some(Fault::FlipAt(offset)), _) => Some(offset),
        (Some(Fault::Lies), _) => Some(from),
        (_, Manner::LiesBelow(folder)) => request.path.starts_with(folder).then_some(from),
        _ => None,
    };
    served.bytes = send(&mut file, from, cut, flipped, stream).await?;
    Ok((served, if cut < to { verdict } else { Verdict::KeepOpen }))
}

/// Sends the file's bytes `from..to`, one bit of that at `flipped` not as it should be, and
/// returns how many that were.
async fn send(
    file: &mut File,
    from: u64,
    to: u64,
    flipped: Option<u64>,
    stream: &mut TcpStream,
) -> Result<u64> {
    file.seek(SeekFrom::Start(from)).await?;
    let mut reader = file.take(to - from);
    let mut chunk = vec![0; 256 << 10];
    let mut at = from;
    loop {
        let got = reader.read(&mut chunk).await?;
        let bytes = chunk.get_mut(..got).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(at - from);
        }
        if let Some(offset) = flipped
            && let Some(index) = offset
                .checked_sub(at)
                .and_then(|index| usize::try_from(index).ok())
            && let Some(byte) = bytes.get_mut(index)
        {
            *byte ^= 1;
        }
        stream.write_all(bytes).await?;
        at += got as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn get(server: &Server, head: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port))
            .await
            .expect("connected");
        stream
            .write_all(format!("{head}\r\n\r\n").as_bytes())
            .await
            .expect("sent");
        stream.shutdown().await.expect("shut down");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    async fn server() -> (Server, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("file"), "0123456789").expect("a file");
        (
            Server::start(folder.path()).await.expect("a server"),
            folder,
        )
    }

    #[tokio::test]
    async fn a_range_is_that_part_of_the_file() {
        let (server, _folder) = server().await;
        let answer = get(&server, "GET /file HTTP/1.1\r\nRange: bytes=2-4").await;
        assert!(answer.starts_with("HTTP/1.1 206 "), "{answer}");
        assert!(
            answer.contains("Content-Range: bytes 2-4/10\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n234"), "{answer}");
        assert_eq!(
            server.served(),
            [Served {
                path: "file".into(),
                status: 206,
                from: 2,
                bytes: 3
            }]
        );
    }

    #[tokio::test]
    async fn a_spoiled_file_is_wrong_where_it_should_be_and_heals() {
        let (server, _folder) = server().await;
        server.spoil("file", Fault::FlipAt(3));
        assert!(
            get(&server, "GET /file HTTP/1.1\r\nRange: bytes=2-4")
                .await
                .ends_with("\r\n\r\n224")
        );
        server.spoil("file", Fault::TruncateAt(4));
        let answer = get(&server, "GET /file HTTP/1.1").await;
        assert!(
            answer.contains("Content-Length: 4\r\n") && answer.ends_with("\r\n\r\n0123"),
            "{answer}"
        );
        server.spoil("file", Fault::HangUpAt(4));
        let answer = get(&server, "GET /file HTTP/1.1").await;
        assert!(
            answer.contains("Content-Length: 10\r\n") && answer.ends_with("\r\n\r\n0123"),
            "{answer}"
        );
        server.spoil("file", Fault::Absent);
        assert!(
            get(&server, "GET /file HTTP/1.1")
                .await
                .starts_with("HTTP/1.1 404 ")
        );
        server.heal();
        assert!(
            get(&server, "GET /file HTTP/1.1")
                .await
                .ends_with("\r\n\r\n0123456789")
        );
    }

    #[tokio::test]
    async fn each_manner_is_that_of_every_answer() {
        let (server, _folder) = server().await;
        server.behave(Manner::WithoutRanges);
        let answer = get(&server, "GET /file HTTP/1.1\r\nRange: bytes=2-4").await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n0123456789"),
            "{answer}"
        );
        server.behave(Manner::LiesBelow("f"));
        let answer = get(&server, "GET /file HTTP/1.1\r\nRange: bytes=2-4").await;
        assert!(answer.ends_with("\r\n\r\n334"), "{answer}");
        server.behave(Manner::HangsUpAfter(2));
        let answer = get(&server, "GET /file HTTP/1.1\r\nRange: bytes=2-8").await;
        assert!(
            answer.contains("Content-Length: 7\r\n") && answer.ends_with("\r\n\r\n23"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn what_stalls_says_nothing_more_until_it_is_healed() {
        let (server, _folder) = server().await;
        server.spoil("file", Fault::StallAt(4));
        let mut stream = TcpStream::connect(("127.0.0.1", server.port))
            .await
            .expect("connected");
        stream
            .write_all(b"GET /file HTTP/1.1\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n0123") {
            answer.push(stream.read_u8().await.expect("a byte"));
        }
        server.heal();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("the end");
        assert_eq!(rest, b"");
    }

    #[tokio::test]
    async fn nothing_outside_the_folder_is_served() {
        let (server, _folder) = server().await;
        assert!(
            get(&server, "GET /../../../../etc/passwd HTTP/1.1")
                .await
                .starts_with("HTTP/1.1 404 ")
        );
    }
}
