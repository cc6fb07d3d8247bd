use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Unit};
use tough::schema::RoleType;

/// When a piece of metadata stops being valid.
#[derive(Debug, Clone, Copy)]
pub enum Expiry {
    /// This long after it was signed.
    After(Span),
    /// At this moment.
    At(Timestamp),
}

/// A text or a span says no moment.
#[derive(Debug, thiserror::Error)]
pub enum BadExpiry {
    /// The text is neither a duration nor a moment.
    #[error(
        "{0:?} is neither a duration such as 7d or 12h nor a moment such as 2030-01-31T12:00:00Z"
    )]
    Text(String),
    /// The moment is outside the calendar.
    #[error("the expiry is out of the calendar's range")]
    Range(#[source] jiff::Error),
}

impl Expiry {
    /// Returns the moment for something signed at `now`, in whole seconds, as
    /// TUF writes moments.
    pub fn moment(&self, now: Timestamp) -> Result<Timestamp, BadExpiry> {
        let moment = match self {
            Self::At(moment) => Ok(*moment),
            // Days are days of UTC.
            Self::After(span) => now
                .to_zoned(TimeZone::UTC)
                .checked_add(*span)
                .map(|zoned| zoned.timestamp()),
        };
        moment
            .and_then(|moment| moment.round(Unit::Second))
            .map_err(BadExpiry::Range)
    }
}

impl FromStr for Expiry {
    type Err = BadExpiry;

    fn from_str(text: &str) -> Result<Self, BadExpiry> {
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Ok(Self::At(moment));
        }
        match text.parse::<Span>() {
            Ok(span) => Ok(Self::After(span)),
            Err(_) => Err(BadExpiry::Text(text.to_owned())),
        }
    }
}

/// When each role's metadata stops being valid.
///
/// The shorter-lived a role, the sooner a node notices that it is being held
/// back, and the more often somebody must sign; so only the roles whose keys
/// are online are short.
#[derive(Debug, Clone, Copy)]
pub struct Expiries {
    /// The keys of all roles.
    pub root: Expiry,
    /// The list of releases.
    pub targets: Expiry,
    /// The version of that list.
    pub snapshot: Expiry,
    /// The statement that this is the newest state.
    pub timestamp: Expiry,
}

impl Default for Expiries {
    fn default() -> Self {
        let days = |days: i64| Expiry::After(Span::new().days(days));
        Self {
            root: days(365),
            targets: days(90),
            snapshot: days(30),
            timestamp: days(7),
        }
    }
}

impl Expiries {
    pub(crate) fn moment(&self, role: RoleType, now: Timestamp) -> Result<Timestamp, BadExpiry> {
        let expiry = match role {
            RoleType::Root => &self.root,
            RoleType::Targets | RoleType::DelegatedTargets => &self.targets,
            RoleType::Snapshot => &self.snapshot,
            RoleType::Timestamp => &self.timestamp,
        };
        expiry.moment(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> String {
        let now = "2026-02-28T10:00:00.75Z".parse().expect("a moment");
        let expiry: Expiry = text.parse().expect(text);
        expiry.moment(now).expect(text).to_string()
    }

    #[test]
    fn an_expiry_is_a_duration_or_a_moment() {
        assert_eq!(moment("2020-01-01T00:00:00Z"), "2020-01-01T00:00:00Z");
        assert_eq!(moment("7d"), "2026-03-07T10:00:01Z");
        assert_eq!(moment("2w"), "2026-03-14T10:00:01Z");
        assert_eq!(moment("90m"), "2026-02-28T11:30:01Z");
        assert_eq!(moment("P1Y"), "2027-02-28T10:00:01Z");
        assert_eq!(moment("-1h"), "2026-02-28T09:00:01Z");
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        for text in ["", "soon", "7", "2020-13-01T00:00:00Z"] {
            let error = text.parse::<Expiry>().expect_err(text);
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_moment_beyond_the_calendar_is_refused() {
        let expiry: Expiry = "9000y".parse().expect("a span");
        let now = "2026-02-28T10:00:00Z".parse().expect("a moment");
        assert!(matches!(expiry.moment(now), Err(BadExpiry::Range(_))));
    }
}
