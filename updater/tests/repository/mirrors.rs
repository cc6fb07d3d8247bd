//! A repository with mirrors, of which some are sound.

use std::io::Write;
use std::ops::Range;
use std::time::Duration;

use updater::fetch::Patience;
use updater::ports::{Fetch, FetchError, RangeSupport, Stopper, Verdict};

use crate::web::{Server, blob, content, fetcher, patience, sound, sound_head, status};

pub(crate) const SIZE: usize = 1_000_000;

pub(crate) fn sound_server() -> Server {
    let served = content(SIZE);
    Server::start(move |request, stream| sound(request, stream, &served))
}

/// Serves the content with one byte changed.
fn liar(at: usize) -> Server {
    let mut served = content(SIZE);
    served[at] ^= 1;
    Server::start(move |request, stream| sound(request, stream, &served))
}

/// Holds each piece to the content, as a hash tree would.
pub(crate) struct Judge {
    content: Vec<u8>,
    taken: Vec<bool>,
}

impl Judge {
    pub(crate) fn new() -> Self {
        Self {
            content: content(SIZE),
            taken: vec![false; SIZE],
        }
    }

    pub(crate) fn judge(&mut self, offset: u64, bytes: &[u8]) -> Verdict {
        let start = usize::try_from(offset).unwrap();
        let range = start..start + bytes.len();
        if self.content[range.clone()] != *bytes {
            return Verdict::Bad;
        }
        for taken in &mut self.taken[range] {
            assert!(!std::mem::replace(taken, true), "a byte came twice");
        }
        Verdict::Taken
    }

    pub(crate) fn has_all(&self) -> bool {
        self.taken.iter().all(|taken| *taken)
    }
}

#[expect(clippy::single_range_in_vec_init, reason = "one range is meant")]
pub(crate) fn whole() -> [Range<u64>; 1] {
    [0..u64::try_from(SIZE).unwrap()]
}

pub(crate) fn nobody() -> String {
    // Bound, and closed again: nobody listens there now.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_mirror_that_lies_loses_its_turn_and_the_blob_comes_all_the_same() {
    let (liar, sound) = (liar(700_000), sound_server());
    let mut fetcher = fetcher(&[liar.address(), sound.address()], patience());
    let (_stopper, stop) = Stopper::new();
    // The second call for the blob does not fall for it again.
    for lies in [1, 0] {
        let (mut judge, mut bad) = (Judge::new(), 0);
        fetcher
            .fetch_ranges(&blob(SIZE), &whole(), &stop, &mut |at, bytes| {
                let verdict = judge.judge(at, bytes);
                bad += usize::from(verdict == Verdict::Bad);
                verdict
            })
            .unwrap();
        assert!(judge.has_all());
        assert_eq!(bad, lies);
    }
}

#[test]
fn in_order_too_the_next_mirror_begins_where_the_lie_did() {
    let (liar, sound) = (liar(700_000), sound_server());
    let mut fetcher = fetcher(&[liar.address(), sound.address()], patience());
    let (mut judge, mut at) = (Judge::new(), 0);
    fetcher
        .fetch(&blob(SIZE), 0, &Stopper::new().1, &mut |bytes| {
            let verdict = judge.judge(at, bytes);
            if verdict == Verdict::Taken {
                at += u64::try_from(bytes.len()).unwrap();
            }
            verdict
        })
        .unwrap();
    assert!(judge.has_all());
    let [request] = &sound.requests()[..] else {
        panic!()
    };
    let begun = request.from.unwrap();
    assert!(begun > 400_000 && begun <= 700_000, "{begun}");
}

#[test]
fn a_digest_that_is_wrong_at_the_end_begins_the_blob_anew_with_the_next_mirror() {
    let (liar, sound) = (liar(0), sound_server());
    let mut fetcher = fetcher(&[liar.address(), sound.address()], patience());
    let (expected, mut taken) = (content(SIZE), Vec::new());
    let mut wrong = 0;
    fetcher
        .fetch(&blob(SIZE), 0, &Stopper::new().1, &mut |bytes| {
            taken.extend_from_slice(bytes);
            if taken.len() == SIZE && taken != expected {
                taken.clear();
                wrong += 1;
                return Verdict::BadWhole;
            }
            Verdict::Taken
        })
        .unwrap();
    assert!(taken == expected);
    assert_eq!(wrong, 1);
}

/// Sends other bytes than it should for a while, and then nothing any more.
fn spoiler() -> Server {
    Server::start(move |request, stream| {
        if request.number > 0 {
            return status(stream, "503 Service Unavailable");
        }
        let spoilt: Vec<_> = content(SIZE).iter().map(|byte| !byte).collect();
        let body = sound_head(request, stream, &spoilt)?;
        stream.write_all(&body[..100_000])
    })
}

/// Fetches the blob, whose digest is known when all of it has come, and returns how often
/// that was wrong.
fn fetch_whole(servers: &[&str], in_order: bool) -> (Result<(), FetchError>, usize) {
    let mut fetcher = fetcher(servers, patience());
    let (expected, mut taken) = (content(SIZE), vec![0; SIZE]);
    let (mut left, mut wrong) = (SIZE, 0);
    let mut take = |at: u64, bytes: &[u8]| {
        let at = usize::try_from(at).unwrap();
        taken[at..at + bytes.len()].copy_from_slice(bytes);
        left -= bytes.len();
        if left == 0 && taken != expected {
            (left, wrong) = (SIZE, wrong + 1);
            return Verdict::BadWhole;
        }
        Verdict::Taken
    };
    let (blob, (_stopper, stop)) = (blob(SIZE), Stopper::new());
    let mut at = 0;
    let result = match in_order {
        true => fetcher.fetch(&blob, 0, &stop, &mut |bytes| {
            let verdict = take(at, bytes);
            at += u64::try_from(bytes.len()).unwrap();
            if verdict != Verdict::Taken {
                at = 0;
            }
            verdict
        }),
        false => fetcher.fetch_ranges(&blob, &whole(), &stop, &mut take),
    };
    assert!(result.is_err() || taken == expected);
    (result, wrong)
}

#[test]
fn a_beginning_that_another_has_spoilt_costs_a_sound_mirror_no_turn() {
    for in_order in [true, false] {
        let (spoiler, sound) = (spoiler(), sound_server());
        let (result, wrong) = fetch_whole(&[spoiler.address(), sound.address()], in_order);
        result.unwrap();
        assert_eq!(wrong, 1);
    }
}

#[test]
fn who_spoils_the_whole_by_himself_too_is_refused() {
    let (spoiler, liar) = (spoiler(), liar(900_000));
    let (result, wrong) = fetch_whole(&[spoiler.address(), liar.address()], true);
    let words = updater::fetch::chain(&result.unwrap_err());
    assert!(
        words.contains("not those that the release proves"),
        "{words}"
    );
    assert_eq!(wrong, 2);
}

#[test]
fn what_is_bad_together_is_the_fault_of_who_sent_all_of_it_or_of_nobody() {
    let sound = sound_server();
    for (first, at_fault) in [(nobody(), true), (spoiler().address().to_owned(), false)] {
        let mut fetcher = fetcher(&[&first, sound.address()], patience());
        let (mut left, mut said) = (SIZE, false);
        let result =
            fetcher.fetch_ranges(&blob(SIZE), &whole(), &Stopper::new().1, &mut |_, bytes| {
                left -= bytes.len();
                if left == 0 && !std::mem::replace(&mut said, true) {
                    return Verdict::BadTogether;
                }
                Verdict::Taken
            });
        assert_eq!(result.is_err(), at_fault, "{result:?}");
        assert!(said);
    }
}

#[test]
fn when_every_mirror_lies_all_are_named() {
    let (one, other) = (liar(10), liar(900_000));
    let mut fetcher = fetcher(&[one.address(), other.address()], patience());
    let mut judge = Judge::new();
    let result = fetcher.fetch_ranges(
        &blob(SIZE),
        &whole(),
        &Stopper::new().1,
        &mut |at, bytes| {
            // Neither can mend what the other has wrong.
            match at > 800_000 {
                true => Verdict::Bad,
                false => judge.judge(at, bytes),
            }
        },
    );
    let error = result.unwrap_err();
    assert!(matches!(error, FetchError::BlobCorrupt { .. }), "{error:?}");
    let told = updater::fetch::chain(&error);
    assert!(
        told.contains(one.address()) && told.contains(other.address()),
        "{told}"
    );
    // They may have been mended since: both are asked anew.
    let mut bad = 0;
    let result = fetcher.fetch(&blob(SIZE), 0, &Stopper::new().1, &mut |_| {
        bad += 1;
        Verdict::Bad
    });
    assert!(
        matches!(result, Err(FetchError::BlobCorrupt { .. })),
        "{result:?}"
    );
    assert_eq!(bad, 2);
}

#[test]
fn what_a_server_sent_before_it_failed_is_not_asked_of_the_next() {
    let served = content(SIZE);
    let failing = Server::start(move |request, stream| {
        if request.number > 0 {
            return status(stream, "503 Service Unavailable");
        }
        let body = sound_head(request, stream, &served)?;
        stream.write_all(&body[..body.len().min(100_000)])
    });
    let sound = sound_server();
    let mut fetcher = fetcher(&[failing.address(), sound.address()], patience());
    let mut judge = Judge::new();
    fetcher
        .fetch_ranges(
            &blob(SIZE),
            &whole(),
            &Stopper::new().1,
            &mut |at, bytes| judge.judge(at, bytes),
        )
        .unwrap();
    assert!(judge.has_all());
    // Whole blocks count: half of one is no piece.
    let first = sound
        .requests()
        .iter()
        .map(|request| request.from.unwrap())
        .min();
    assert_eq!(first, Some(100_000 / 4096 * 4096));
}

#[test]
fn a_mirror_that_lacks_the_blob_or_packs_it_or_is_not_there_is_passed_over() {
    let empty = Server::start(|_, stream| status(stream, "404 Not Found"));
    let packs = Server::start(|_, stream| {
        let headers = ["Content-Encoding: gzip".to_owned()];
        crate::web::head(stream, "206 Partial Content", &headers)
    });
    let long = Server::start(|request, stream| sound(request, stream, &content(SIZE + 1)));
    let (nobody, last) = (nobody(), sound_server());
    let servers = [
        empty.address(),
        packs.address(),
        long.address(),
        &nobody,
        last.address(),
    ];
    let mut judge = Judge::new();
    fetcher(&servers, patience())
        .fetch_ranges(
            &blob(SIZE),
            &whole(),
            &Stopper::new().1,
            &mut |at, bytes| judge.judge(at, bytes),
        )
        .unwrap();
    assert!(judge.has_all());
}

#[test]
fn failures_of_several_kinds_are_told_together_and_called_after_the_worst() {
    let short = Server::start(|request, stream| sound(request, stream, &content(4096)));
    let (liar, nobody) = (liar(10), nobody());
    for (servers, worst) in [
        ([liar.address(), &nobody], "corrupt"),
        ([&nobody, liar.address()], "corrupt"),
        ([short.address(), liar.address()], "corrupt"),
        ([short.address(), &nobody], "truncated"),
        ([&nobody, short.address()], "truncated"),
    ] {
        let mut judge = Judge::new();
        let error = fetcher(&servers, patience())
            .fetch_ranges(
                &blob(SIZE),
                &whole(),
                &Stopper::new().1,
                &mut |at, bytes| judge.judge(at, bytes),
            )
            .unwrap_err();
        let name = match error {
            FetchError::BlobCorrupt { .. } => "corrupt",
            FetchError::BlobTruncated { .. } => "truncated",
            FetchError::RepositoryUnreachable { .. } => "unreachable",
            FetchError::Stopped => "stopped",
        };
        assert_eq!(name, worst, "{servers:?}");
        let told = updater::fetch::chain(&error);
        assert!(servers.iter().all(|server| told.contains(server)), "{told}");
        assert!(
            !servers.contains(&&*nobody) || told.contains("refused"),
            "{told}"
        );
    }
}

/// Sends 1 KiB at a time, ten times a second: never silent, and never done.
fn slow() -> Server {
    let served = content(SIZE);
    Server::start(move |request, stream| {
        let body = sound_head(request, stream, &served)?;
        // A clock of this server's own: nobody ever sends here.
        let (_never, hears) = std::sync::mpsc::channel::<()>();
        for bytes in body.chunks(1024) {
            stream.write_all(bytes)?;
            assert!(hears.recv_timeout(Duration::from_millis(100)).is_err());
        }
        Ok(())
    })
}

fn measuring() -> Patience {
    Patience {
        measure: Duration::from_secs(2),
        ..patience()
    }
}

#[test]
fn a_mirror_that_is_slow_and_sound_is_left_while_there_is_another() {
    let (slow, sound) = (slow(), sound_server());
    let mut judge = Judge::new();
    fetcher(&[slow.address(), sound.address()], measuring())
        .fetch_ranges(
            &blob(SIZE),
            &whole(),
            &Stopper::new().1,
            &mut |at, bytes| judge.judge(at, bytes),
        )
        .unwrap();
    assert!(judge.has_all());
    assert!(!sound.requests().is_empty());
}

#[test]
fn the_last_server_may_be_slow() {
    let slow = slow();
    let mut judge = Judge::new();
    // Takes three seconds, and more than it would be given as one of two.
    let part = 0..32_768;
    fetcher(&[&nobody(), slow.address()], measuring())
        .fetch_ranges(
            &blob(SIZE),
            std::slice::from_ref(&part),
            &Stopper::new().1,
            &mut |at, bytes| judge.judge(at, bytes),
        )
        .unwrap();
}

#[test]
fn a_folder_is_a_mirror_as_a_url_and_as_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = folder.path().join("blobs");
    std::fs::create_dir(&blobs).unwrap();
    std::fs::write(blobs.join("b1".repeat(32)), content(SIZE)).unwrap();
    let path = folder.path().display().to_string();
    for mirror in [format!("file://{path}"), path] {
        let mut fetcher = fetcher(&[&nobody(), &mirror], patience());
        let mut judge = Judge::new();
        let ranges = [4096..8192, 409_600..u64::try_from(SIZE).unwrap()];
        fetcher
            .fetch_ranges(&blob(SIZE), &ranges, &Stopper::new().1, &mut |at, bytes| {
                assert!(at % 4096 == 0 && bytes.len() <= 256 * 1024);
                judge.judge(at, bytes)
            })
            .unwrap();
        let taken = judge.taken.iter().filter(|taken| **taken).count();
        assert_eq!(taken, 4096 + SIZE - 409_600);
        // The one that did not answer rests.
        assert_eq!(fetcher.ranges(), RangeSupport::Yes);
        assert_eq!(fetcher.received(), u64::try_from(taken).unwrap());
    }
}
