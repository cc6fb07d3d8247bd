//! The gateway, as every test here meets it: between the daemon's client and the server.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use updater::authorities::Authorities;
use updater::config::Repository;
use updater::fetch::{Client, Fetcher, build_gateway_client};
use updater::gateway;
use updater::ports::{Fetch, FetchError, Stopper, Verdict};

use super::tls::{Authority, front, named};
use super::web::{Server, blob, content, head, patience, runtime, sound};

/// For tests that wait for its end.
const STAYS: Duration = Duration::from_millis(500);
/// As long as any other test takes.
const STAYS_LONG: Duration = Duration::from_secs(120);

/// Returns the client that the daemon would have, with a gateway of its own behind it.
pub(crate) fn client(authorities: &Authorities) -> Client {
    let socket = place();
    drop(begin(&socket, STAYS_LONG));
    build_gateway_client(&socket, &patience(), authorities).unwrap()
}

/// Returns a place for a socket that no other test has, nor a test in another process:
/// some of these run themselves again.
fn place() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    std::env::temp_dir().join(format!("bistable-gateway-{process}-{number}.socket"))
}

/// Begins a gateway in the place of the one that was there, if any.
fn begin(socket: &Path, stays: Duration) -> JoinHandle<()> {
    drop(std::fs::remove_file(socket));
    let listener = UnixListener::bind(socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            gateway::serve(listener, patience(), stays).await.unwrap();
        });
    })
}

fn take(client: Client, address: &str, size: usize) -> (Result<(), FetchError>, Vec<u8>) {
    let repository = Repository::parse(address).unwrap();
    let mut fetcher = Fetcher::new([repository], client, patience(), runtime());
    let mut taken = Vec::new();
    let result = fetcher.fetch(&blob(size), 0, &Stopper::new().1, &mut |bytes| {
        taken.extend_from_slice(bytes);
        Verdict::Taken
    });
    (result, taken)
}

/// Says one thing to a gateway, and returns all that it answers.
fn say(socket: &Path, words: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(words.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_gateway_that_is_not_there_is_named() {
    let socket = place();
    let client = build_gateway_client(&socket, &patience(), &Authorities::default()).unwrap();
    let (result, taken) = take(client, "http://127.0.0.1:1", 1000);
    let Err(FetchError::RepositoryUnreachable { source, .. }) = result else {
        panic!("{result:?}");
    };
    assert!(source.to_string().contains("gateway"), "{source}");
    assert!(taken.is_empty());
}

#[test]
fn a_gateway_that_was_begun_anew_is_told_the_authorities_again() {
    let authority = Authority::called("Ours");
    let identity = authority.vouches(&named("127.0.0.1"));
    let bytes = content(5000);
    let served = bytes.clone();
    let server = Server::start(move |request, stream| sound(request, stream, &served));
    let front = front(&identity, &server);
    let socket = place();
    for _ in 0..2 {
        let gateway = begin(&socket, STAYS);
        let client = build_gateway_client(&socket, &patience(), &authority.trusted()).unwrap();
        let (result, taken) = take(client.clone(), &front.address, bytes.len());
        result.unwrap();
        assert!(taken == bytes);
        drop(client);
        gateway.join().unwrap();
    }
}

#[test]
fn a_gateway_goes_when_nobody_is_connected() {
    let socket = place();
    let gateway = begin(&socket, STAYS);
    let held = UnixStream::connect(&socket).unwrap();
    drop(held);
    gateway.join().unwrap();
}

#[test]
fn a_server_cannot_speak_in_the_gateways_name() {
    let forged = "bistable-failure: lasting".to_owned();
    let server = Server::start(move |_, stream| {
        let length = "Content-Length: 4".to_owned();
        head(stream, "200 OK", &[forged.clone(), length])?;
        stream.write_all(b"true")
    });
    let (result, taken) = take(client(&Authorities::default()), server.address(), 4);
    result.unwrap();
    assert_eq!(taken, b"true");
}

#[test]
fn what_is_no_question_is_refused() {
    let socket = place();
    let gateway = begin(&socket, STAYS);
    let close = "Host: gateway\r\nConnection: close\r\n";
    for (words, status) in [
        (format!("GET / HTTP/1.1\r\n{close}\r\n"), "502"),
        (
            format!("GET / HTTP/1.1\r\nbistable-url: file:///etc/shadow\r\n{close}\r\n"),
            "502",
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nbistable-url: http://a/\r\nbistable-authorities: 12\r\n{close}\r\n"
            ),
            "428",
        ),
        (format!("GET /etc/shadow HTTP/1.1\r\n{close}\r\n"), "404"),
        (format!("DELETE / HTTP/1.1\r\n{close}\r\n"), "404"),
        (
            format!("PUT /authorities HTTP/1.1\r\nContent-Length: 3\r\n{close}\r\nnon"),
            "400",
        ),
        (
            format!("PUT /authorities HTTP/1.1\r\nContent-Length: 99999999\r\n{close}\r\n"),
            "400",
        ),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = say(&socket, &words);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{words} {answer}"
        );
    }
    gateway.join().unwrap();
}
