//! A web server that does as it is told, good or bad.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use release::{Blob, Digest};
use updater::authorities::Authorities;
use updater::config::Repository;
use updater::fetch::{Fetcher, Patience};

use super::gateway::client;

/// A request, as far as a file server cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// The first byte that is asked for, if a range is.
    pub(crate) from: Option<usize>,
    /// The byte after the last, if the range has one.
    pub(crate) to: Option<usize>,
    /// How many requests came before.
    pub(crate) number: usize,
}

/// What answers requests.
pub(crate) type Answer = dyn Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + Sync;

pub(crate) struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Starts a server; each connection serves one request. It lives as long
    /// as the test.
    pub(crate) fn start(
        answer: impl Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Answer> = Arc::new(answer);
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                // A client that goes away in the middle is no error here.
                thread::spawn(move || stream.and_then(|stream| serve(stream, &*answer, &seen)));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, answer: &Answer, seen: &Mutex<Vec<Request>>) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut from, mut to) = (None, None);
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            let (start, last) = range.split_once('-').unwrap();
            from = start.parse().ok();
            to = last.parse().ok().map(|last: usize| last + 1);
        }
    }
    let request = {
        let mut seen = seen.lock().unwrap();
        let request = Request {
            path,
            from,
            to,
            number: seen.len(),
        };
        seen.push(request.clone());
        request
    };
    answer(&request, &mut stream)
}

/// Sends a head with these header lines.
pub(crate) fn head(stream: &mut TcpStream, status: &str, headers: &[String]) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes())
}

/// Answers with a status and an empty body.
pub(crate) fn status(stream: &mut TcpStream, status: &str) -> io::Result<()> {
    head(stream, status, &["Content-Length: 0".to_owned()])
}

/// Sends the head of a sound answer and returns what its body must be.
pub(crate) fn sound_head<'a>(
    request: &Request,
    stream: &mut TcpStream,
    content: &'a [u8],
) -> io::Result<&'a [u8]> {
    let size = content.len();
    match request.from {
        Some(from) if from >= size => {
            let range = format!("Content-Range: bytes */{size}");
            head(
                stream,
                "416 Range Not Satisfiable",
                &[range, "Content-Length: 0".to_owned()],
            )?;
            Ok(&[])
        }
        Some(from) => {
            let to = request.to.unwrap_or(size).min(size);
            let range = format!("Content-Range: bytes {from}-{}/{size}", to - 1);
            let length = format!("Content-Length: {}", to - from);
            head(stream, "206 Partial Content", &[range, length])?;
            Ok(&content[from..to])
        }
        None => {
            head(stream, "200 OK", &[format!("Content-Length: {size}")])?;
            Ok(content)
        }
    }
}

/// Bytes of which no two places look alike.
pub(crate) fn content(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap())
        .collect()
}

/// A blob of that size, whatever is in it.
pub(crate) fn blob(size: usize) -> Blob {
    Blob {
        sha256: Digest::new([0xb1; 32]),
        size: u64::try_from(size).unwrap(),
    }
}

/// A fetcher that asks these servers, and no others.
pub(crate) fn fetcher(addresses: &[&str], patience: Patience) -> Fetcher {
    let client = client(&Authorities::default());
    let servers = addresses
        .iter()
        .map(|address| Repository::parse(address).unwrap());
    Fetcher::new(servers.collect::<Vec<_>>(), client, patience, runtime())
}

/// Answers as a sound server does.
pub(crate) fn sound(request: &Request, stream: &mut TcpStream, content: &[u8]) -> io::Result<()> {
    let body = sound_head(request, stream, content)?;
    stream.write_all(body)
}

/// Keeps the connection open without a word, until the client leaves.
pub(crate) fn silence(stream: &mut TcpStream) -> io::Result<()> {
    io::copy(stream, &mut io::sink()).map(drop)
}

/// A runtime that is driven by a thread of its own, as the daemon's is.
pub(crate) fn runtime() -> tokio::runtime::Handle {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let handle = runtime.handle().clone();
    thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
}

/// Quick to ask again, but slow to take a busy machine for a silent server.
pub(crate) fn patience() -> Patience {
    Patience {
        connect: Duration::from_secs(20),
        idle: Duration::from_secs(20),
        stall: Duration::from_secs(40),
        progress: 1024,
        rate: 0,
        measure: Duration::from_secs(120),
        retries: 4,
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(4),
        metadata: Duration::from_secs(180),
    }
}

/// So little that a test of silence ends before its reader loses his own.
pub(crate) fn haste() -> Patience {
    Patience {
        connect: Duration::from_millis(400),
        idle: Duration::from_millis(400),
        stall: Duration::from_millis(800),
        metadata: Duration::from_secs(3),
        retries: 1,
        ..patience()
    }
}
