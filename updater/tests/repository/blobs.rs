//! Blobs from servers of every kind.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use updater::authorities::Authorities;
use updater::fetch::Fetcher;

use super::gateway::client;
use updater::ports::{Fetch, FetchError, Stopper, Verdict};

use crate::web::{
    Request, Server, blob, content, fetcher, haste, head, patience, runtime, silence, sound,
    sound_head, status,
};

/// Fetches `offset..size` and returns how that ended and what came.
fn fetch(address: &str, size: usize, offset: u64) -> (Result<(), FetchError>, Vec<u8>) {
    let mut taken = Vec::new();
    let (_stopper, stop) = Stopper::new();
    let mut sink = |bytes: &[u8]| {
        taken.extend_from_slice(bytes);
        Verdict::Taken
    };
    let result = fetcher(&[address], patience()).fetch(&blob(size), offset, &stop, &mut sink);
    (result, taken)
}

#[test]
fn a_whole_blob_comes_in_order_and_once() {
    let content = content(3_000_000);
    let served = content.clone();
    let server = Server::start(move |request, stream| sound(request, stream, &served));
    let (result, taken) = fetch(server.address(), content.len(), 0);
    result.unwrap();
    assert!(taken == content);
    let [request] = &server.requests()[..] else {
        panic!()
    };
    assert_eq!(request.path, format!("/blobs/{}", "b1".repeat(32)));
    assert_eq!(request.from, None);
}

#[test]
fn only_what_is_missing_is_asked_for() {
    let content = content(100_000);
    let served = content.clone();
    let server = Server::start(move |request, stream| sound(request, stream, &served));
    let (result, taken) = fetch(server.address(), content.len(), 60_000);
    result.unwrap();
    assert!(taken == content[60_000..]);
    assert_eq!(server.requests()[0].from, Some(60_000));

    let (result, taken) = fetch(server.address(), content.len(), 100_000);
    result.unwrap();
    assert!(taken.is_empty());
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let content = content(400_000);
    let served = content.clone();
    // Each answer breaks off after 50 000 bytes, without a word.
    let server = Server::start(move |request, stream| {
        let body = sound_head(request, stream, &served)?;
        stream.write_all(&body[..body.len().min(50_000)])
    });
    let (result, taken) = fetch(server.address(), content.len(), 0);
    result.unwrap();
    assert!(taken == content);
    let requests = server.requests();
    assert!(requests.len() >= 8);
    // Every one starts later than the one before.
    assert!(
        requests.windows(2).all(|pair| pair[0].from < pair[1].from),
        "{requests:?}"
    );
}

#[test]
fn a_server_without_ranges_is_read_from_the_start_and_handed_over_once() {
    let content = content(200_000);
    let served = content.clone();
    let server = Server::start(move |request, stream| {
        let whole = Request {
            from: None,
            ..request.clone()
        };
        let body = sound_head(&whole, stream, &served)?;
        let part = if request.number == 0 {
            &body[..120_000]
        } else {
            body
        };
        stream.write_all(part)
    });
    let (result, taken) = fetch(server.address(), content.len(), 0);
    result.unwrap();
    assert!(taken == content);
}

#[test]
fn a_server_that_is_busy_for_a_while_is_asked_again() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |request, stream| match request.number {
        0 => status(stream, "503 Service Unavailable"),
        1 => status(stream, "429 Too Many Requests"),
        _ => sound(request, stream, &served),
    });
    let (result, taken) = fetch(server.address(), content.len(), 0);
    result.unwrap();
    assert!(taken == content);
}

#[test]
fn a_server_that_is_always_busy_is_given_up() {
    let server = Server::start(|_, stream| status(stream, "503 Service Unavailable"));
    let (result, taken) = fetch(server.address(), 10_000, 0);
    let error = result.unwrap_err();
    assert!(
        matches!(error, FetchError::RepositoryUnreachable { .. }),
        "{error:?}"
    );
    assert!(taken.is_empty());
    assert_eq!(server.requests().len(), 5);
}

#[test]
fn a_server_that_sends_a_few_bytes_per_connection_is_given_up() {
    let content = content(1_000_000);
    let server = Server::start(move |request, stream| {
        let body = sound_head(request, stream, &content)?;
        stream.write_all(&body[..body.len().min(100)])
    });
    let (result, taken) = fetch(server.address(), 1_000_000, 0);
    assert!(
        matches!(result, Err(FetchError::RepositoryUnreachable { .. })),
        "{result:?}"
    );
    assert!(taken.len() <= 500);
    assert_eq!(server.requests().len(), 5);
}

#[test]
fn a_server_that_sends_all_again_for_each_little_piece_is_given_up() {
    let content = content(1_000_000);
    let server = Server::start(move |request, stream| {
        let whole = Request {
            from: None,
            ..request.clone()
        };
        let body = sound_head(&whole, stream, &content)?;
        // As much more as counts as progress.
        stream.write_all(&body[..1024 * (request.number + 1)])
    });
    let (result, taken) = fetch(server.address(), 1_000_000, 0);
    assert!(
        matches!(result, Err(FetchError::RepositoryUnreachable { .. })),
        "{result:?}"
    );
    assert!(taken.len() < 20_000, "{} bytes", taken.len());
    assert!(server.requests().len() < 20);
}

#[test]
fn a_blob_that_is_not_there_is_not_asked_for_again() {
    let server = Server::start(|_, stream| status(stream, "404 Not Found"));
    let (result, _) = fetch(server.address(), 10_000, 0);
    assert!(
        matches!(result, Err(FetchError::RepositoryUnreachable { .. })),
        "{result:?}"
    );
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_blob_that_is_too_short_is_called_truncated() {
    let short = content(7_000);
    for offset in [0, 5_000, 7_000, 8_000] {
        let served = short.clone();
        let server = Server::start(move |request, stream| sound(request, stream, &served));
        let (result, taken) = fetch(server.address(), 10_000, offset);
        let Err(FetchError::BlobTruncated {
            found, expected, ..
        }) = result
        else {
            panic!("from {offset}: {result:?}");
        };
        assert_eq!((found, expected), (7_000, 10_000));
        assert!(taken.is_empty());
        assert_eq!(server.requests().len(), 3);
    }
}

#[test]
fn a_body_without_a_length_that_ends_early_is_called_truncated() {
    let short = content(7_000);
    let server = Server::start(move |request, stream| {
        head(stream, "200 OK", &[])?;
        stream.write_all(if request.from.is_some() { &[] } else { &short })
    });
    let (result, taken) = fetch(server.address(), 10_000, 0);
    let Err(FetchError::BlobTruncated { found, .. }) = result else {
        panic!("{result:?}")
    };
    assert_eq!(found, 7_000);
    assert_eq!(taken.len(), 7_000);
}

#[test]
fn a_blob_that_is_too_long_is_called_corrupt() {
    let long = content(10_001);
    for offset in [0, 5_000] {
        let served = long.clone();
        let server = Server::start(move |request, stream| sound(request, stream, &served));
        let (result, taken) = fetch(server.address(), 10_000, offset);
        assert!(
            matches!(result, Err(FetchError::BlobCorrupt { .. })),
            "{result:?}"
        );
        assert!(taken.is_empty());
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_body_without_end_never_brings_more_than_the_declared_size() {
    let server = Server::start(|_, stream| {
        head(stream, "200 OK", &["Transfer-Encoding: chunked".to_owned()])?;
        loop {
            write!(stream, "1000\r\n{}\r\n", "x".repeat(0x1000))?;
        }
    });
    // It may end in the middle of a piece, or between two.
    for size in [10_000, 0x2000] {
        let begun = Instant::now();
        let (result, taken) = fetch(server.address(), size, 0);
        assert!(
            matches!(result, Ok(()) | Err(FetchError::BlobCorrupt { .. })),
            "{result:?}"
        );
        assert!(taken.len() <= size);
        assert!(begun.elapsed().as_secs() < 5);
    }
}

#[test]
fn another_part_than_was_asked_for_is_called_corrupt() {
    let content = content(10_000);
    for lie in [
        "bytes 0-9999/10000",
        "bytes 5001-9999/10000",
        "bytes 5000-9999/20000",
        "nonsense",
    ] {
        let served = content.clone();
        let server = Server::start(move |_, stream| {
            head(
                stream,
                "206 Partial Content",
                &[format!("Content-Range: {lie}")],
            )?;
            stream.write_all(&served)
        });
        let (result, taken) = fetch(server.address(), content.len(), 5_000);
        assert!(
            matches!(result, Err(FetchError::BlobCorrupt { .. })),
            "{lie}: {result:?}"
        );
        assert!(taken.is_empty());
    }
}

#[test]
fn a_packed_body_is_refused() {
    let server = Server::start(|_, stream| {
        head(stream, "200 OK", &["Content-Encoding: gzip".to_owned()])?;
        stream.write_all(&[0x1f, 0x8b])
    });
    let (result, taken) = fetch(server.address(), 10_000, 0);
    assert!(
        matches!(result, Err(FetchError::RepositoryUnreachable { .. })),
        "{result:?}"
    );
    assert!(taken.is_empty());
}

#[test]
fn a_silent_server_is_left_in_time() {
    for speaks in [0, 1_000] {
        let content = content(10_000);
        let server = Server::start(move |request, stream| {
            if speaks > 0 {
                let body = sound_head(request, stream, &content)?;
                stream.write_all(&body[..speaks.min(body.len())])?;
            }
            silence(stream)
        });
        let mut fetcher = fetcher(&[server.address()], haste());
        let (_stopper, stop) = Stopper::new();
        let begun = Instant::now();
        let result = fetcher.fetch(&blob(10_000), 0, &stop, &mut |_| Verdict::Taken);
        assert!(
            matches!(result, Err(FetchError::RepositoryUnreachable { .. })),
            "{result:?}"
        );
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    }
}

#[test]
fn a_server_that_drips_is_left_in_time() {
    let content = content(100_000);
    let server = Server::start(move |request, stream| {
        let body = sound_head(request, stream, &content)?;
        // A clock of this server's own: nobody ever sends here.
        let (_never, hears) = std::sync::mpsc::channel::<()>();
        for byte in body {
            stream.write_all(&[*byte])?;
            assert!(hears.recv_timeout(haste().idle / 8).is_err());
        }
        Ok(())
    });
    let (_stopper, stop) = Stopper::new();
    let mut taken = 0;
    let begun = Instant::now();
    let result =
        fetcher(&[server.address()], haste()).fetch(&blob(100_000), 0, &stop, &mut |bytes| {
            taken += bytes.len();
            Verdict::Taken
        });
    let error = result.unwrap_err();
    assert!(
        matches!(error, FetchError::RepositoryUnreachable { .. }),
        "{error:?}"
    );
    assert!(taken < 1_000);
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
}

#[test]
fn a_loop_of_redirects_ends() {
    let server = Server::start(|request, stream| {
        head(
            stream,
            "302 Found",
            &[format!("Location: {}", request.path)],
        )
    });
    let (result, _) = fetch(server.address(), 10_000, 0);
    let Err(FetchError::RepositoryUnreachable { source, .. }) = result else {
        panic!("{result:?}");
    };
    assert!(
        source.to_string().contains("too many redirects"),
        "{source}"
    );
    assert!(server.requests().len() <= 8);
}

#[test]
fn a_redirect_is_followed() {
    let content = content(10_000);
    let served = content.clone();
    let server = Server::start(move |request, stream| match request.path.as_str() {
        "/elsewhere" => sound(request, stream, &served),
        _ => head(
            stream,
            "307 Temporary Redirect",
            &["Location: /elsewhere".to_owned()],
        ),
    });
    let (result, taken) = fetch(server.address(), content.len(), 2_000);
    result.unwrap();
    assert!(taken == content[2_000..]);
}

#[test]
fn nobody_at_the_address_is_called_unreachable() {
    // Bound, and closed again: nobody listens there now.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (result, _) = fetch(&format!("http://{address}"), 10_000, 0);
    let Err(FetchError::RepositoryUnreachable { source, .. }) = result else {
        panic!("{result:?}");
    };
    assert!(source.to_string().contains("refused"), "{source}");
}

#[test]
fn a_node_without_a_repository_says_how_to_set_one() {
    let client = client(&Authorities::default());
    let mut fetcher = Fetcher::new(None, client, patience(), runtime());
    let (_stopper, stop) = Stopper::new();
    let result = fetcher.fetch(&blob(1), 0, &stop, &mut |_| Verdict::Taken);
    let Err(FetchError::RepositoryUnreachable { source, .. }) = result else {
        panic!("{result:?}");
    };
    assert!(
        source.to_string().contains("/etc/bistable/updater.toml"),
        "{source}"
    );
}

#[test]
fn a_transfer_stops_when_it_is_told_to_even_by_a_silent_server() {
    let server = Server::start(|_, stream| silence(stream));
    let (stopper, stop) = Stopper::new();
    let mut fetcher = fetcher(&[server.address()], patience());
    let fetching =
        std::thread::spawn(move || fetcher.fetch(&blob(10), 0, &stop, &mut |_| Verdict::Taken));
    while server.requests().is_empty() {
        std::thread::yield_now();
    }
    stopper.stop();
    let result = fetching.join().unwrap();
    assert!(matches!(result, Err(FetchError::Stopped)), "{result:?}");
}

#[test]
fn a_transfer_stops_when_its_sink_has_enough() {
    let content = content(3_000_000);
    let server = Server::start(move |request, stream| sound(request, stream, &content));
    let (_stopper, stop) = Stopper::new();
    let mut pieces = 0;
    let result =
        fetcher(&[server.address()], patience()).fetch(&blob(3_000_000), 0, &stop, &mut |_| {
            pieces += 1;
            if pieces == 2 {
                Verdict::Stop
            } else {
                Verdict::Taken
            }
        });
    assert!(matches!(result, Err(FetchError::Stopped)), "{result:?}");
    assert_eq!(pieces, 2);
}

fn from_folder(content: &[u8], size: usize, offset: u64) -> (Result<(), FetchError>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("blobs")).unwrap();
    std::fs::write(folder.path().join("blobs").join("b1".repeat(32)), content).unwrap();
    fetch(&format!("file://{}", folder.path().display()), size, offset)
}

#[test]
fn a_folder_serves_as_a_repository() {
    let content = content(700_000);
    let (result, taken) = from_folder(&content, content.len(), 100_000);
    result.unwrap();
    assert!(taken == content[100_000..]);
    let (result, _) = from_folder(&content, 700_001, 0);
    assert!(matches!(
        result,
        Err(FetchError::BlobTruncated { found: 700_000, .. })
    ));
    let (result, _) = from_folder(&content, 699_999, 0);
    assert!(matches!(result, Err(FetchError::BlobCorrupt { .. })));
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(24))]
    #[test]
    fn wherever_connections_break_each_byte_comes_once_and_in_order(
        cuts in proptest::collection::vec(2_000_usize..60_000, 0..6),
        ranges: bool,
    ) {
        let content = content(150_000);
        let served = content.clone();
        let turn = AtomicUsize::new(0);
        let server = Server::start(move |request, stream| {
            let mut request = request.clone();
            if !ranges {
                request.from = None;
            }
            let body = sound_head(&request, stream, &served)?;
            // After the cuts, it holds.
            let cut = cuts.get(turn.fetch_add(1, Ordering::Relaxed)).copied();
            stream.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())])
        });
        let (result, taken) = fetch(server.address(), content.len(), 0);
        // Without ranges, a shorter answer than the last brings nothing new,
        // and it may have to give up; what came is sound in any case.
        proptest::prop_assert!(taken == content[..taken.len()]);
        if ranges {
            proptest::prop_assert!(result.is_ok(), "{result:?}");
        }
    }
}
