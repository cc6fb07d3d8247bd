//! Servers of every bad kind: each alone is refused by name and in time, and with a sound
//! one behind it the node gets what it wants.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use updater::authorities::Authorities;
use updater::config::Repository;
use updater::fetch::{Fetcher, Patience, chain};
use updater::ports::{Fetch, FetchError, Releases, Stopper};

use super::gateway::client;
use super::metadata::{Node, told};
use super::mirrors::{Judge, SIZE, nobody, sound_server, whole};
use super::publisher::Publisher;
use super::web::{
    Request, Server, blob, content, fetcher, head, patience, runtime, silence, sound, status,
};

/// Far above what any of them takes, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(40);

/// Soon tired of a server, but not of a busy machine.
fn short() -> Patience {
    Patience {
        connect: Duration::from_secs(1),
        idle: Duration::from_secs(2),
        stall: Duration::from_secs(4),
        metadata: Duration::from_secs(8),
        retries: 1,
        ..patience()
    }
}

/// A server, and what is said of it.
struct Kind {
    name: &'static str,
    /// Nothing, where that hangs on how much was said before.
    told: &'static str,
    answer: fn(&Request, &mut TcpStream) -> io::Result<()>,
}

/// Writes `bytes` again and again, until the client has enough.
fn endless(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let many = bytes.repeat(64);
    loop {
        stream.write_all(&many)?;
    }
}

/// Writes `bytes` one by one, by a clock of its own: nobody ever sends here.
fn drip(stream: &mut TcpStream, bytes: impl Iterator<Item = u8>) -> io::Result<()> {
    let (_never, hears) = mpsc::channel::<()>();
    for byte in bytes {
        stream.write_all(&[byte])?;
        assert!(hears.recv_timeout(Duration::from_millis(50)).is_err());
    }
    Ok(())
}

fn chunked(stream: &mut TcpStream) -> io::Result<()> {
    head(stream, "200 OK", &["Transfer-Encoding: chunked".to_owned()])
}

/// Of a blob the size is known, of metadata a bound.
const WITHOUT_END: &str = "another file, without end";

const KINDS: [Kind; 15] = [
    Kind {
        name: "headers without end",
        told: "head is too large",
        answer: |_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
            endless(stream, b"X-More: and more\r\n")
        },
    },
    Kind {
        name: "a header without end",
        told: "head is too large",
        answer: |_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\nX-Long: ")?;
            endless(stream, b"long")
        },
    },
    Kind {
        name: "headers that drip",
        told: "the server was silent",
        answer: |_, stream| drip(stream, b"HTTP/1.1 200 OK\r\nX: ".iter().copied().cycle()),
    },
    Kind {
        name: "hints without an answer",
        told: "the server was silent",
        answer: |_, stream| {
            loop {
                stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")?;
                drip(stream, std::iter::empty())?;
                thread::yield_now();
            }
        },
    },
    Kind {
        name: "nothing at all",
        told: "the server was silent",
        answer: |_, stream| silence(stream),
    },
    Kind {
        name: "no HTTP",
        told: "invalid HTTP",
        answer: |_, stream| stream.write_all(b"220 ftp.example ready\r\n\r\n"),
    },
    Kind {
        name: "two lengths",
        told: "invalid content-length",
        answer: |_, stream| {
            let lengths = ["Content-Length: 10", "Content-Length: 20"].map(str::to_owned);
            head(stream, "200 OK", &lengths)
        },
    },
    Kind {
        name: "a loop of redirects",
        told: "too many redirects",
        answer: |request, stream| {
            let location = format!("Location: {}", request.path);
            head(stream, "302 Found", &[location])
        },
    },
    Kind {
        name: "redirects to ever other places",
        told: "too many redirects",
        answer: |request, stream| {
            let location = format!("Location: {}/on", request.path);
            head(stream, "307 Temporary Redirect", &[location])
        },
    },
    Kind {
        name: "a redirect to another kind of server",
        told: "redirected to what is no web server",
        answer: |_, stream| {
            let location = "Location: ftp://127.0.0.1/file".to_owned();
            head(stream, "302 Found", &[location])
        },
    },
    Kind {
        name: "a redirect to a file of the node",
        told: "the server answers 302",
        answer: |_, stream| {
            let location = "Location: file:///etc/hostname".to_owned();
            head(stream, "302 Found", &[location])
        },
    },
    Kind {
        name: "a packed body",
        told: "the server packs the file",
        answer: |_, stream| {
            head(stream, "200 OK", &["Content-Encoding: gzip".to_owned()])?;
            endless(stream, &[0x1f, 0x8b, 8, 0])
        },
    },
    Kind {
        name: "a chunk with a comment without end",
        told: "",
        answer: |_, stream| {
            chunked(stream)?;
            stream.write_all(b"10;comment=")?;
            endless(stream, b"long")
        },
    },
    Kind {
        name: "a chunk of impossible size",
        told: "",
        answer: |_, stream| {
            chunked(stream)?;
            stream.write_all(b"fffffffffffffffff\r\nshort")
        },
    },
    Kind {
        name: WITHOUT_END,
        told: "",
        answer: |_, stream| {
            chunked(stream)?;
            endless(stream, b"10\r\n0123456789abcdef\r\n")
        },
    },
];

/// Checks all kinds at once, as nearly all of the time goes into waiting for three of them.
fn for_each_kind(check: impl Fn(&Kind) + Sync) {
    thread::scope(|scope| {
        for kind in &KINDS {
            let check = &check;
            scope.spawn(move || check(kind));
        }
    });
}

#[test]
fn a_blob_comes_from_the_next_server_whatever_the_first_one_does() {
    for_each_kind(|kind| {
        let bad = Server::start(kind.answer);
        let begun = Instant::now();
        let fetch = |servers: &[&str]| {
            let mut judge = Judge::new();
            let stop = Stopper::new().1;
            let fetched = fetcher(servers, short()).fetch_ranges(
                &blob(SIZE),
                &whole(),
                &stop,
                &mut |at, bytes| judge.judge(at, bytes),
            );
            fetched.map(|()| judge.has_all())
        };
        let error = fetch(&[bad.address()]).unwrap_err();
        let words = chain(&error);
        assert!(words.contains(kind.told), "{}: {words}", kind.name);
        assert!(words.contains(bad.address()), "{}: {words}", kind.name);
        assert!(bad.requests().len() <= 12, "{}", kind.name);

        let good = sound_server();
        assert_eq!(
            fetch(&[bad.address(), good.address()]).ok(),
            Some(true),
            "{}",
            kind.name
        );
        assert!(
            begun.elapsed() < LIMIT,
            "{}: {:?}",
            kind.name,
            begun.elapsed()
        );
    });
}

#[test]
fn metadata_comes_from_the_next_repository_whatever_the_first_one_does() {
    for_each_kind(|kind| {
        let folder = tempfile::tempdir().unwrap();
        let publisher = Publisher::of(folder.path(), &["1"]);
        publisher.publish();
        let bad = Server::start(kind.answer);
        let mut node = Node::trusting(&publisher);
        let sound = node.settings.repositories.clone();
        let begun = Instant::now();
        node.settings.repositories = vec![Repository::parse(bad.address()).unwrap()];
        let refresh = |node: &Node| {
            let client = client(&Authorities::default());
            node.releases_by(client, short()).refresh(&Stopper::new().1)
        };
        let (name, words) = told(refresh(&node));
        let expected = match kind.name {
            WITHOUT_END => ("untrusted", "is larger than"),
            _ => ("unreachable", kind.told),
        };
        assert_eq!(name, expected.0, "{}: {words}", kind.name);
        assert!(words.contains(expected.1), "{}: {words}", kind.name);
        assert!(words.contains(bad.address()), "{}: {words}", kind.name);

        node.settings.repositories.extend(sound);
        let offer = refresh(&node);
        assert!(offer.is_ok(), "{}: {offer:?}", kind.name);
        assert!(
            begun.elapsed() < LIMIT,
            "{}: {:?}",
            kind.name,
            begun.elapsed()
        );
    });
}

#[test]
fn metadata_that_drips_is_given_up_in_its_time_and_the_next_repository_asked() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let server = Server::start(|_, stream| {
        head(stream, "200 OK", &["Content-Length: 60000".to_owned()])?;
        drip(stream, b" ".iter().copied().cycle())
    });
    let mut node = Node::trusting(&publisher);
    let dripping = Repository::parse(server.address()).unwrap();
    let sound = node.settings.repositories.clone();
    let begun = Instant::now();
    let refresh = |node: &Node| {
        let client = client(&Authorities::default());
        node.releases_by(client, short()).refresh(&Stopper::new().1)
    };
    node.settings.repositories = vec![dripping];
    let (name, words) = told(refresh(&node));
    assert_eq!(name, "unreachable");
    assert!(words.contains("did not come within 8 s"), "{words}");
    node.settings.repositories.extend(sound);
    refresh(&node).unwrap();
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
}

#[test]
fn many_mirrors_leave_a_repository_on_a_slow_line_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let served = folder.path().to_owned();
    // Five files, and more than half a second for each.
    let slow = Server::start(move |request, stream| {
        let (_never, hears) = mpsc::channel::<()>();
        assert!(hears.recv_timeout(Duration::from_millis(600)).is_err());
        match std::fs::read(served.join(request.path.trim_start_matches('/'))) {
            Ok(content) => sound(request, stream, &content),
            Err(_) => status(stream, "404 Not Found"),
        }
    });
    let mut node = Node::trusting(&publisher);
    let servers = std::iter::once(slow.address().to_owned()).chain((0..16).map(|_| nobody()));
    node.settings.repositories = servers
        .map(|address| Repository::parse(&address).unwrap())
        .collect();
    let patience = Patience {
        metadata: Duration::from_secs(40),
        ..short()
    };
    let client = client(&Authorities::default());
    let mut releases = node.releases_by(client, patience);
    releases.refresh(&Stopper::new().1).unwrap();
}

#[test]
fn questions_that_nobody_answers_take_no_place_in_the_gateway() {
    // More than the gateway has places.
    let silent = Server::start(|_, stream| silence(stream));
    let client = client(&Authorities::default());
    let ask = |address: &str, patience: Patience| {
        let repository = Repository::parse(address).unwrap();
        let mut fetcher = Fetcher::new([repository], client.clone(), patience, runtime());
        let mut judge = Judge::new();
        fetcher.fetch_ranges(
            &blob(SIZE),
            &whole(),
            &Stopper::new().1,
            &mut |at, bytes| judge.judge(at, bytes),
        )
    };
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let patience = Patience {
                    retries: 0,
                    ..short()
                };
                let result = ask(silent.address(), patience);
                assert!(
                    matches!(result, Err(FetchError::RepositoryUnreachable { .. })),
                    "{result:?}"
                );
            });
        }
    });
    let served = content(SIZE);
    let server = Server::start(move |request, stream| sound(request, stream, &served));
    ask(server.address(), patience()).unwrap();
}
