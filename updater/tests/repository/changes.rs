//! Content that changes while it is fetched, and repositories that publish meanwhile.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::Path;

use updater::fetch::chain;
use updater::ports::{Fetch, FetchError, Stopper, Verdict};

use super::metadata::{Node, told};
use super::mirrors::{Judge, SIZE, sound_server, whole};
use super::publisher::Publisher;
use super::web::{Request, Server, blob, content, fetcher, head, patience, sound, status};
use updater::config::Repository;

/// How often the old content is served before the change.
const SOUND_ANSWERS: usize = 2;

type Serve = fn(&Request, &mut TcpStream, &[u8]) -> io::Result<()>;

/// What becomes of the blob, and what is said of it.
const CHANGES: [(&str, &str, Serve); 6] = [
    (
        "a longer file",
        "it has 1000001 bytes, the release says 1000000",
        |request, stream, old| {
            let longer = [old, &[0]].concat();
            sound(request, stream, &longer)
        },
    ),
    ("a shorter file", "999999", |request, stream, old| {
        sound(request, stream, &old[1..])
    }),
    (
        "another file of the same size",
        "its bytes are not those that the release proves",
        |request, stream, old| {
            let other: Vec<_> = old.iter().map(|byte| !byte).collect();
            sound(request, stream, &other)
        },
    ),
    ("no file any more", "404", |_, stream, _| {
        status(stream, "404 Not Found")
    }),
    ("another part", "bytes from", |request, stream, old| {
        let from = request.from.unwrap_or_default();
        let part = &old[from..request.to.unwrap_or(SIZE)];
        let range = format!(
            "Content-Range: bytes {}-{}/{SIZE}",
            from + 1,
            from + part.len()
        );
        let length = format!("Content-Length: {}", part.len());
        head(stream, "206 Partial Content", &[range, length])?;
        io::Write::write_all(stream, part)
    }),
    (
        "the whole of another file where a part was asked for",
        "ends after 10 of 1000000 bytes",
        |_, stream, old| {
            head(stream, "200 OK", &["Content-Length: 10".to_owned()])?;
            io::Write::write_all(stream, &old[..10])
        },
    ),
];

fn changing(serve: Serve) -> Server {
    let old = content(SIZE);
    Server::start(move |request, stream| match request.number {
        number if number < SOUND_ANSWERS => sound(request, stream, &old),
        _ => serve(request, stream, &old),
    })
}

fn fetch(servers: &[&str], judge: &mut Judge) -> Result<(), FetchError> {
    let mut fetcher = fetcher(servers, patience());
    fetcher.fetch_ranges(
        &blob(SIZE),
        &whole(),
        &Stopper::new().1,
        &mut |at, bytes| judge.judge(at, bytes),
    )
}

#[test]
fn a_blob_that_changes_while_it_is_fetched_is_refused_and_the_next_server_ends_it() {
    for (name, expected, serve) in CHANGES {
        let server = changing(serve);
        let error = fetch(&[server.address()], &mut Judge::new()).unwrap_err();
        let words = chain(&error);
        assert!(words.contains(expected), "{name}: {words}");
        // The judge lets no byte come twice.
        let (server, next) = (changing(serve), sound_server());
        let mut judge = Judge::new();
        fetch(&[server.address(), next.address()], &mut judge).unwrap();
        assert!(judge.has_all(), "{name}");
        assert!(!next.requests().is_empty(), "{name}");
    }
}

#[test]
fn a_server_that_stops_sending_parts_is_read_through_for_what_is_missing() {
    let server = changing(|_, stream, old| {
        let length = format!("Content-Length: {SIZE}");
        head(stream, "200 OK", &[length])?;
        io::Write::write_all(stream, old)
    });
    let mut judge = Judge::new();
    fetch(&[server.address()], &mut judge).unwrap();
    assert!(judge.has_all());
}

#[test]
fn in_order_too_a_file_that_was_replaced_costs_its_server_the_turn() {
    // The connection breaks in the middle, and behind it is another file.
    let old = content(SIZE);
    let server = Server::start(move |request, stream| match request.number {
        0 => {
            head(stream, "200 OK", &[format!("Content-Length: {SIZE}")])?;
            io::Write::write_all(stream, &old[..400_000])
        }
        _ => sound(request, stream, &vec![7; SIZE]),
    });
    let next = sound_server();
    let (mut judge, mut at) = (Judge::new(), 0);
    fetcher(&[server.address(), next.address()], patience())
        .fetch(&blob(SIZE), 0, &Stopper::new().1, &mut |bytes| {
            let verdict = judge.judge(at, bytes);
            if verdict == Verdict::Taken {
                at += u64::try_from(bytes.len()).unwrap();
            }
            verdict
        })
        .unwrap();
    assert!(judge.has_all());
}

fn serve_folder(folder: &Path, request: &Request, stream: &mut TcpStream) -> io::Result<()> {
    match fs::read(folder.join(request.path.trim_start_matches('/'))) {
        Ok(content) => sound(request, stream, &content),
        Err(_) => status(stream, "404 Not Found"),
    }
}

/// Returns the repository of release 1, and what it is after release 2: with the files of
/// release 1, or without.
fn publish_twice(folder: &Path, keep_old: bool) -> Publisher {
    let (old, new) = (folder.join("old"), folder.join("new"));
    Publisher::of(&old, &["1"]).publish();
    for kind in ["metadata", "targets"] {
        fs::create_dir_all(new.join(kind)).unwrap();
        for file in fs::read_dir(old.join(kind)).unwrap().filter(|_| keep_old) {
            let file = file.unwrap();
            fs::copy(file.path(), new.join(kind).join(file.file_name())).unwrap();
        }
    }
    let publisher = Publisher {
        timestamp_version: 2,
        snapshot_version: 2,
        targets_version: 2,
        ..Publisher::of(&new, &["1", "2"])
    };
    publisher.publish();
    publisher
}

#[test]
fn a_release_that_is_published_in_the_middle_of_a_check_is_found_by_the_next() {
    for keep_old in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let publisher = publish_twice(folder.path(), keep_old);
        let served = folder.path().to_owned();
        // The first timestamp is the last of the old repository's files.
        let server = Server::start(move |request, stream| {
            let is_old = request.number < 2;
            serve_folder(
                &served.join(if is_old { "old" } else { "new" }),
                request,
                stream,
            )
        });
        let mut node = Node::trusting(&publisher);
        node.settings.repositories = vec![Repository::parse(server.address()).unwrap()];
        let first = node.refresh();
        assert_eq!(server.requests()[1].path, "/metadata/timestamp.json");
        match keep_old {
            true => assert_eq!(first.unwrap().channel.release.as_str(), "1"),
            false => {
                let (name, words) = told(first);
                assert_eq!(name, "unreachable");
                assert!(words.contains("1.snapshot.json"), "{words}");
            }
        }
        assert_eq!(node.refresh().unwrap().channel.release.as_str(), "2");
    }
}
