//! Whether the clock can be used to tell what has expired.
//!
//! The time of the last refresh that went well is remembered, and no earlier
//! one believed. That keeps a clock that was turned back from reviving old
//! metadata, but a clock that was once far ahead would then stop updates until
//! that day.

use jiff::{SignedDuration, Timestamp};

use super::refresh::RefreshError;
use super::store::Store;

/// The file that keeps the time.
pub(super) const LATEST_TIME: &str = "latest_known_time.json";

/// How far the clock may be behind. A machine whose clock stops while it is
/// off starts with the time that timesyncd last saved, and metadata that is so
/// much older does no harm.
const TOLERANCE: SignedDuration = SignedDuration::from_hours(24);

/// Refuses a clock that reads a time before the image was built: with it,
/// nothing ever expires.
pub(super) fn check_built(now: Timestamp, built: Option<Timestamp>) -> Result<(), String> {
    match built {
        Some(built) if built.duration_since(now) > TOLERANCE => Err(format!(
            "the clock reads {now}, but this image was built at {built}; {ADVICE}"
        )),
        _ => Ok(()),
    }
}

/// Refuses a clock that is far behind what it was, and that nobody has set.
pub(super) fn review(known: Option<Timestamp>, now: Timestamp, set: Set) -> Result<(), String> {
    let Some(known) = known else {
        return Ok(());
    };
    match judge(now, known, set) {
        Verdict::Keep => Ok(()),
        Verdict::Forget => {
            tracing::warn!(%now, %known, "the clock is behind what it was; taking it as it is");
            Ok(())
        }
        Verdict::Refuse => Err(format!(
            "the clock reads {now}, but it has read {known} before; {ADVICE}"
        )),
    }
}

/// Returns the time of the last refresh that went well.
pub(super) fn latest(store: &Store) -> Result<Option<Timestamp>, RefreshError> {
    let bytes = store.read(LATEST_TIME)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Remembers that a refresh has gone well at this time.
pub(super) fn remember(store: &Store, now: Timestamp) -> Result<(), RefreshError> {
    store.keep(LATEST_TIME, format!("\"{now}\"").as_bytes())
}

const ADVICE: &str = "set the time (is a time server in reach?)";

/// Whether a time server has set the clock in this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    ByServer,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    Forget,
    Refuse,
}

fn judge(now: Timestamp, known: Timestamp, set: Set) -> Verdict {
    let behind = known.duration_since(now);
    if behind <= SignedDuration::ZERO {
        Verdict::Keep
    } else if behind <= TOLERANCE || set == Set::ByServer {
        Verdict::Forget
    } else {
        Verdict::Refuse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_clock_is_judged_by_what_it_read_before_and_who_set_it() {
        let known = at("2026-05-02T12:00:00Z");
        for (now, set, expected) in [
            ("2026-05-02T12:00:00Z", Set::Unknown, Verdict::Keep),
            ("2026-06-01T00:00:00Z", Set::Unknown, Verdict::Keep),
            ("2026-05-02T11:59:59Z", Set::Unknown, Verdict::Forget),
            ("2026-05-01T12:00:00Z", Set::Unknown, Verdict::Forget),
            ("2026-05-01T11:59:59Z", Set::Unknown, Verdict::Refuse),
            ("1970-01-01T00:00:00Z", Set::Unknown, Verdict::Refuse),
            ("1970-01-01T00:00:00Z", Set::ByServer, Verdict::Forget),
        ] {
            assert_eq!(judge(at(now), known, set), expected, "{now}");
        }
    }

    #[test]
    fn a_clock_from_before_the_image_was_built_is_refused() {
        let built = Some(at("2026-05-02T12:00:00Z"));
        assert_eq!(check_built(at("2026-05-01T12:00:00Z"), built), Ok(()));
        assert_eq!(check_built(at("1970-01-01T00:00:00Z"), None), Ok(()));
        let refused = check_built(at("1970-01-01T00:00:00Z"), built).unwrap_err();
        assert!(
            refused.contains("this image was built at 2026-05-02T12:00:00Z"),
            "{refused}"
        );
    }
}
