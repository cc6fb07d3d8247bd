//! Scattered parts of blobs, from servers of every kind.

use std::io::Write;
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use updater::fetch::{Bandwidth, Patience, Throttle};
use updater::ports::{Fetch, FetchError, RangeSupport, Stopper, Verdict};

use crate::web::{
    Request, Server, blob, content, fetcher, haste, head, patience, silence, sound, sound_head,
    status,
};

const BLOCK: usize = 4096;

/// What came: the bytes of a blob, and how often each did.
struct Came {
    content: Vec<u8>,
    times: Vec<u8>,
}

impl Came {
    fn none(size: usize) -> Self {
        Self {
            content: vec![0; size],
            times: vec![0; size],
        }
    }

    /// Takes a piece, and holds it to what every piece must be.
    fn take(&mut self, offset: u64, bytes: &[u8]) {
        let start = usize::try_from(offset).unwrap();
        let end = start + bytes.len();
        assert!(!bytes.is_empty() && bytes.len() <= 256 * 1024);
        assert_eq!(start % BLOCK, 0);
        assert!(end.is_multiple_of(BLOCK) || end == self.content.len());
        self.content[start..end].copy_from_slice(bytes);
        for times in &mut self.times[start..end] {
            *times += 1;
        }
    }

    /// Each byte of `ranges` came once, and is right; no other came.
    fn assert_is(&self, ranges: &[Range<u64>], content: &[u8]) {
        let mut expected = vec![0; content.len()];
        for range in ranges {
            let range = place(range);
            expected[range.clone()].fill(1);
            assert!(self.content[range.clone()] == content[range]);
        }
        assert!(self.times == expected);
    }
}

fn place(range: &Range<u64>) -> Range<usize> {
    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
}

fn blocks(blocks: &[Range<u64>]) -> Vec<Range<u64>> {
    let scale = |range: &Range<u64>| range.start * 4096..range.end * 4096;
    blocks.iter().map(scale).collect()
}

/// One run of blocks.
fn run(first: u64, end: u64) -> Vec<Range<u64>> {
    blocks(std::slice::from_ref(&(first..end)))
}

fn bytes(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

fn fetch(address: &str, size: usize, ranges: &[Range<u64>]) -> (Result<(), FetchError>, Came) {
    let mut came = Came::none(size);
    let mut fetcher = fetcher(&[address], patience());
    let result = fetcher.fetch_ranges(&blob(size), ranges, &Stopper::new().1, &mut |at, bytes| {
        came.take(at, bytes);
        Verdict::Taken
    });
    (result, came)
}

#[test]
fn only_the_parts_that_were_asked_for_come() {
    let content = content(10_000_001);
    let served = content.clone();
    let server = Server::start(move |request, stream| sound(request, stream, &served));
    let mut ranges = blocks(&[0..1, 7..9, 100..1200, 1201..1202, 2000..2400]);
    ranges.push(2441 * 4096..10_000_001);
    let mut fetcher = fetcher(&[server.address()], patience());
    assert_eq!(fetcher.ranges(), RangeSupport::Unknown);
    let mut came = Came::none(content.len());
    let (blob, (_stopper, stop)) = (blob(content.len()), Stopper::new());
    fetcher
        .fetch_ranges(&blob, &ranges, &stop, &mut |at, bytes| {
            came.take(at, bytes);
            Verdict::Taken
        })
        .unwrap();
    came.assert_is(&ranges, &content);
    assert_eq!(fetcher.ranges(), RangeSupport::Yes);
    assert_eq!(fetcher.received(), bytes(&ranges));
    for request in server.requests() {
        let asked = request.from.unwrap()..request.to.unwrap();
        assert!(
            ranges
                .iter()
                .map(place)
                .any(|range| range.start <= asked.start && asked.end <= range.end)
        );
    }
    fetcher
        .fetch_ranges(&blob, &[], &stop, &mut |_, _| Verdict::Stop)
        .unwrap();
}

/// Counts who is inside.
#[derive(Default)]
struct Crowd {
    inside: Mutex<usize>,
    changed: Condvar,
    most: AtomicUsize,
}

impl Crowd {
    fn enter(&self) {
        let mut inside = self.inside.lock().unwrap();
        *inside += 1;
        self.most.fetch_max(*inside, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn leave(&self) {
        *self.inside.lock().unwrap() -= 1;
    }

    fn wait_for(&self, number: usize) {
        let inside = self.inside.lock().unwrap();
        let limit = Duration::from_secs(20);
        let enough =
            |inside: &mut usize| *inside < number && self.most.load(Ordering::Relaxed) < number;
        let (_inside, waited) = self
            .changed
            .wait_timeout_while(inside, limit, enough)
            .unwrap();
        assert!(!waited.timed_out(), "no {number} requests at the same time");
    }
}

#[test]
fn four_connections_are_at_work_and_no_more() {
    let content = content(6 << 20);
    let (served, crowd) = (content.clone(), Arc::new(Crowd::default()));
    let seen = Arc::clone(&crowd);
    let server = Server::start(move |request, stream| {
        seen.enter();
        let body = sound_head(request, stream, &served)?;
        seen.wait_for(4);
        // The client may ask again once it has the last byte.
        seen.leave();
        stream.write_all(body)
    });
    let ranges = run(0, 1536);
    let (result, came) = fetch(server.address(), content.len(), &ranges);
    result.unwrap();
    came.assert_is(&ranges, &content);
    assert_eq!(crowd.most.load(Ordering::Relaxed), 4);
}

/// Ranges of blocks, sorted and apart.
fn scattered() -> impl Strategy<Value = Vec<Range<u64>>> {
    proptest::collection::vec((1_u64..40, 1_u64..60), 1..6).prop_map(|gaps| {
        let mut at = 0;
        let mut ranges = Vec::new();
        for (gap, len) in gaps {
            at += gap;
            ranges.push(at..at + len);
            at += len;
        }
        blocks(&ranges)
    })
}

proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(24))]
    #[test]
    fn wherever_connections_break_no_byte_is_sent_twice(
        ranges in scattered(), cut in 1_500_usize..90_000,
    ) {
        let size = 600 * BLOCK;
        let content = content(size);
        let (served, sent) = (content.clone(), Arc::new(Mutex::new(vec![0_u8; size])));
        let log = Arc::clone(&sent);
        let server = Server::start(move |request, stream| {
            let body = sound_head(request, stream, &served)?;
            let body = &body[..cut.min(body.len())];
            let from = request.from.unwrap();
            for times in &mut log.lock().unwrap()[from..from + body.len()] {
                *times += 1;
            }
            stream.write_all(body)
        });
        let (result, came) = fetch(server.address(), size, &ranges);
        result.unwrap();
        came.assert_is(&ranges, &content);
        prop_assert!(*sent.lock().unwrap() == came.times);
    }

    #[test]
    fn a_server_without_ranges_is_read_through_for_what_is_missing(
        ranges in scattered(), breaks in 0_usize..3,
    ) {
        let size = 600 * BLOCK;
        let content = content(size);
        let served = content.clone();
        let server = Server::start(move |request, stream| {
            let whole = Request { from: None, ..request.clone() };
            let body = sound_head(&whole, stream, &served)?;
            // It breaks a little later each time.
            let part = match request.number.checked_sub(1) {
                Some(number) if number < breaks => (number + 1) * 300_001,
                _ => body.len(),
            };
            stream.write_all(&body[..part])
        });
        let mut fetcher = fetcher(&[server.address()], patience());
        let (_stopper, stop) = Stopper::new();
        let mut came = Came::none(size);
        fetcher
            .fetch_ranges(&blob(size), &ranges, &stop, &mut |at, bytes| {
                came.take(at, bytes);
                Verdict::Taken
            })
            .unwrap();
        came.assert_is(&ranges, &content);
        assert_eq!(fetcher.ranges(), RangeSupport::No);
        // From now on it is known: one request is enough.
        let before = server.requests().len();
        let mut came = Came::none(size);
        fetcher
            .fetch_ranges(&blob(size), &ranges, &stop, &mut |at, bytes| {
                came.take(at, bytes);
                Verdict::Taken
            })
            .unwrap();
        came.assert_is(&ranges, &content);
        if before > breaks + 1 {
            prop_assert_eq!(server.requests().len(), before + 1);
        }
    }
}

#[test]
fn a_part_that_is_not_the_one_asked_for_is_called_corrupt() {
    let content = content(100 * BLOCK);
    let lies: [&[&str]; 8] = [
        &["Content-Range: bytes 0-8191/409600", "Content-Length: 8192"],
        &[
            "Content-Range: bytes 4097-8191/409600",
            "Content-Length: 4095",
        ],
        &[
            "Content-Range: bytes 4096-12288/409600",
            "Content-Length: 8193",
        ],
        &[
            "Content-Range: bytes 4096-12287/409601",
            "Content-Length: 8192",
        ],
        &[
            "Content-Range: bytes 4096-12287/409600",
            "Content-Length: 8191",
        ],
        &["Content-Range: bytes */409600", "Content-Length: 0"],
        &["Content-Type: multipart/byteranges; boundary=x"],
        &["Content-Range: nonsense"],
    ];
    for lie in lies {
        let served = content.clone();
        let server = Server::start(move |_, stream| {
            let headers: Vec<String> = lie.iter().map(ToString::to_string).collect();
            head(stream, "206 Partial Content", &headers)?;
            stream.write_all(&served[..8192])
        });
        let (result, came) = fetch(server.address(), content.len(), &run(1, 3));
        assert!(
            matches!(result, Err(FetchError::BlobCorrupt { .. })),
            "{lie:?}: {result:?}"
        );
        came.assert_is(&[], &content);
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_part_without_end_never_brings_more_than_was_asked_for() {
    let server = Server::start(|_, stream| {
        let headers = [
            "Content-Range: bytes 4096-12287/409600",
            "Transfer-Encoding: chunked",
        ];
        head(stream, "206 Partial Content", &headers.map(str::to_owned))?;
        loop {
            write!(stream, "1001\r\n{}\r\n", "x".repeat(0x1001))?;
        }
    });
    let (result, came) = fetch(server.address(), 100 * BLOCK, &run(1, 3));
    assert!(
        matches!(result, Err(FetchError::BlobCorrupt { .. })),
        "{result:?}"
    );
    assert!(
        came.times[..4096]
            .iter()
            .chain(&came.times[8192..])
            .all(|times| *times == 0)
    );
}

#[test]
fn a_server_that_sends_less_than_was_asked_for_is_asked_for_the_rest() {
    let content = content(300 * BLOCK);
    let served = content.clone();
    let server = Server::start(move |request, stream| {
        // No more than 10 000 bytes at once, says this one.
        let to = request.to.map(|to| to.min(request.from.unwrap() + 10_000));
        sound(
            &Request {
                to,
                ..request.clone()
            },
            stream,
            &served,
        )
    });
    let ranges = run(3, 200);
    let (result, came) = fetch(server.address(), content.len(), &ranges);
    result.unwrap();
    came.assert_is(&ranges, &content);
}

#[test]
fn a_packed_part_is_refused() {
    let server = Server::start(|_, stream| {
        let headers = [
            "Content-Range: bytes 4096-8191/409600",
            "Content-Encoding: gzip",
            "Content-Length: 4096",
        ];
        head(stream, "206 Partial Content", &headers.map(str::to_owned))?;
        stream.write_all(&[0; 4096])
    });
    let (result, came) = fetch(server.address(), 100 * BLOCK, &run(1, 2));
    assert!(
        matches!(result, Err(FetchError::RepositoryUnreachable { .. })),
        "{result:?}"
    );
    assert!(came.times.iter().all(|times| *times == 0));
}

#[test]
fn parts_of_a_blob_that_ends_too_early_are_called_truncated() {
    let short = content(7_000);
    let server = Server::start(move |request, stream| sound(request, stream, &short));
    for ranges in [run(0, 1), run(2, 3)] {
        let (result, _) = fetch(server.address(), 12_288, &ranges);
        let Err(FetchError::BlobTruncated { found, .. }) = result else {
            panic!("{result:?}");
        };
        assert_eq!(found, 7_000);
    }
}

#[test]
fn a_server_that_falls_silent_within_parts_is_left_in_time() {
    let content = content(4 << 20);
    let server = Server::start(move |request, stream| {
        let body = sound_head(request, stream, &content)?;
        stream.write_all(&body[..body.len() / 2])?;
        silence(stream)
    });
    let mut fetcher = fetcher(&[server.address()], haste());
    let begun = Instant::now();
    let result = fetcher.fetch_ranges(
        &blob(4 << 20),
        &run(0, 1024),
        &Stopper::new().1,
        &mut |_, _| Verdict::Taken,
    );
    assert!(
        matches!(result, Err(FetchError::RepositoryUnreachable { .. })),
        "{result:?}"
    );
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[test]
fn what_came_before_a_silence_is_handed_over_meanwhile() {
    let content = content(100 * BLOCK);
    let served = content.clone();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let server = Server::start(move |request, stream| {
        let body = sound_head(request, stream, &served)?;
        let (now, later) = body.split_at(3 * BLOCK + 77);
        stream.write_all(now)?;
        may_go
            .lock()
            .unwrap()
            .recv_timeout(Duration::from_secs(20))
            .unwrap();
        stream.write_all(later)
    });
    let ranges = run(0, 50);
    let mut came = Came::none(content.len());
    fetcher(&[server.address()], patience())
        .fetch_ranges(
            &blob(content.len()),
            &ranges,
            &Stopper::new().1,
            &mut |at, bytes| {
                if came.times[0] == 0 {
                    // The server goes on only because of this.
                    assert_eq!((at, bytes.len()), (0, 3 * BLOCK));
                    go.send(()).unwrap();
                }
                came.take(at, bytes);
                Verdict::Taken
            },
        )
        .unwrap();
    came.assert_is(&ranges, &content);
}

#[test]
fn parts_stop_when_they_are_told_to_even_by_a_silent_server() {
    let server = Server::start(|_, stream| silence(stream));
    let (stopper, stop) = Stopper::new();
    let mut fetcher = fetcher(&[server.address()], patience());
    let fetching = std::thread::spawn(move || {
        fetcher.fetch_ranges(&blob(BLOCK), &run(0, 1), &stop, &mut |_, _| Verdict::Taken)
    });
    while server.requests().is_empty() {
        std::thread::yield_now();
    }
    stopper.stop();
    let result = fetching.join().unwrap();
    assert!(matches!(result, Err(FetchError::Stopped)), "{result:?}");
}

/// Waits until the client has hung up.
fn hangs_up(stream: &mut TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // A reset is a way to hang up too.
    silence(stream).is_ok() || !stream.peek(&mut [0]).is_ok_and(|read| read > 0)
}

#[test]
fn a_long_pause_lets_go_of_the_server_and_goes_on_where_it_was() {
    let content = content(200 * BLOCK);
    let served = content.clone();
    let (stopper, stop) = Stopper::new();
    let stopper = Arc::new(stopper);
    let paused = Arc::new(AtomicBool::new(false));
    let (begun, has_begun) = mpsc::channel();
    let has_begun = Mutex::new(has_begun);
    let server = {
        let (stopper, paused) = (Arc::clone(&stopper), Arc::clone(&paused));
        Server::start(move |request, stream| {
            let body = sound_head(request, stream, &served)?;
            if request.number > 0 {
                assert!(!paused.load(Ordering::SeqCst));
                return stream.write_all(body);
            }
            let (now, later) = body.split_at(20 * BLOCK);
            stream.write_all(now)?;
            let limit = Duration::from_secs(20);
            has_begun.lock().unwrap().recv_timeout(limit).unwrap();
            paused.store(true, Ordering::SeqCst);
            stopper.pause();
            // The client notices with the next bytes.
            stream.write_all(&later[..BLOCK])?;
            assert!(hangs_up(stream));
            paused.store(false, Ordering::SeqCst);
            stopper.resume();
            Ok(())
        })
    };
    let ranges = run(0, 60);
    let mut came = Came::none(content.len());
    let short = Patience {
        idle: Duration::from_secs(2),
        // To be let go of is no failure.
        retries: 0,
        ..patience()
    };
    fetcher(&[server.address()], short)
        .fetch_ranges(&blob(content.len()), &ranges, &stop, &mut |at, bytes| {
            assert!(
                !paused.load(Ordering::SeqCst),
                "a piece came during the pause"
            );
            if came.times[0] == 0 {
                begun.send(()).unwrap();
            }
            came.take(at, bytes);
            Verdict::Taken
        })
        .unwrap();
    came.assert_is(&ranges, &content);
    // What had come was not asked for again.
    let again = server
        .requests()
        .iter()
        .skip(1)
        .map(|request| request.from.unwrap())
        .min();
    assert!(again.unwrap() >= 20 * BLOCK, "{again:?}");
}

#[test]
fn all_connections_together_keep_to_the_bandwidth() {
    let content = content(400 * BLOCK);
    let served = content.clone();
    let server = Server::start(move |request, stream| sound(request, stream, &served));
    let throttle = Throttle::new(Some(Bandwidth::parse("4 MB/s").unwrap()));
    let mut fetcher = fetcher(&[server.address()], patience()).throttled(throttle.clone());
    let (_stopper, stop) = Stopper::new();
    let ranges = run(0, 400);
    let begun = Instant::now();
    let mut came = Came::none(content.len());
    fetcher
        .fetch_ranges(&blob(content.len()), &ranges, &stop, &mut |at, bytes| {
            came.take(at, bytes);
            Verdict::Taken
        })
        .unwrap();
    // 1.64 MB, of which a tenth of a second's worth is free.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    came.assert_is(&ranges, &content);

    // A quarter of an hour's worth, had nobody lifted the cap on the way.
    throttle.set(Some(Bandwidth::parse("2 kB/s").unwrap()));
    let mut came = Came::none(content.len());
    let lift = std::thread::spawn({
        let server_seen = server.requests().len();
        move || {
            while server.requests().len() == server_seen {
                std::thread::yield_now();
            }
            throttle.set(None);
        }
    });
    fetcher
        .fetch_ranges(&blob(content.len()), &ranges, &stop, &mut |at, bytes| {
            came.take(at, bytes);
            Verdict::Taken
        })
        .unwrap();
    lift.join().unwrap();
    came.assert_is(&ranges, &content);
}

#[test]
fn a_server_that_is_busy_for_a_while_is_asked_for_the_part_again() {
    let content = content(50 * BLOCK);
    let served = content.clone();
    let server = Server::start(move |request, stream| match request.number {
        0 | 2 => status(stream, "503 Service Unavailable"),
        _ => sound(request, stream, &served),
    });
    let ranges = blocks(&[0..1, 3..40]);
    let (result, came) = fetch(server.address(), content.len(), &ranges);
    result.unwrap();
    came.assert_is(&ranges, &content);
}
