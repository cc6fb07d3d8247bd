//! Windows: hours of the week, by a clock on some wall.
//!
//! A window is held by the wall's clock. On the two days a year when that clock
//! is changed: an hour that is left out is taken to be the one after it, and of
//! an hour that comes twice the first is meant.

use std::fmt;
use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::{Date, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};

/// How many days ahead the next opening is looked for: a week, and one more in
/// case that the clock's change swallows a window.
const DAYS_AHEAD: usize = 15;

/// Hours at which something may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The days on which it opens.
    pub days: Days,
    pub from: TimeOfDay,
    /// When it closes; on the day after if that is not later than `from`.
    pub to: TimeOfDay,
    pub zone: Zone,
}

impl Window {
    /// Returns when it opens and closes that opens on `day`.
    fn opening_on(&self, day: Date) -> Option<Range<Timestamp>> {
        if !self.days.contain(day.weekday()) {
            return None;
        }
        let last = if self.to > self.from {
            day
        } else {
            day.tomorrow().ok()?
        };
        let start = self.zone.moment(day, self.from)?;
        let end = self.zone.moment(last, self.to)?;
        (start < end).then_some(start..end)
    }

    /// Returns the openings from the day before that of `now` on.
    fn openings(&self, now: Timestamp) -> impl Iterator<Item = Range<Timestamp>> {
        let today = self.zone.0.to_datetime(now).date();
        let yesterday = today.yesterday().unwrap_or(today);
        let days = std::iter::successors(Some(yesterday), |day| day.tomorrow().ok());
        days.take(DAYS_AHEAD).filter_map(|day| self.opening_on(day))
    }
}

/// All windows of a node; none at all means that it is always open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Windows(Vec<Window>);

impl Windows {
    /// Something may happen in any of `windows`.
    pub const fn new(windows: Vec<Window>) -> Self {
        Self(windows)
    }

    /// Returns whether something may happen at `now`.
    pub fn is_open(&self, now: Timestamp) -> bool {
        let open = |window: &Window| window.openings(now).any(|time| time.contains(&now));
        self.0.is_empty() || self.0.iter().any(open)
    }

    /// Returns when the next window opens after `now`, whether or not one is open.
    pub fn next_opening(&self, now: Timestamp) -> Option<Timestamp> {
        let starts = self.0.iter().flat_map(|window| window.openings(now));
        starts
            .map(|time| time.start)
            .filter(|start| *start > now)
            .min()
    }
}

/// Days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Days(u8);

/// A text is no day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is {0:?}; mon, tue, wed, thu, fri, sat, sun and daily are known")]
pub struct BadDays(String);

impl Days {
    const DAILY: Self = Self(0b111_1111);

    /// Returns the day, or the days, that `text` names.
    pub fn parse(text: &str) -> Result<Self, BadDays> {
        let day = match text {
            "daily" => return Ok(Self::DAILY),
            "mon" => Weekday::Monday,
            "tue" => Weekday::Tuesday,
            "wed" => Weekday::Wednesday,
            "thu" => Weekday::Thursday,
            "fri" => Weekday::Friday,
            "sat" => Weekday::Saturday,
            "sun" => Weekday::Sunday,
            other => return Err(BadDays(other.to_owned())),
        };
        Ok(Self(bit(day)))
    }

    /// Returns these days and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn contain(self, day: Weekday) -> bool {
        self.0 & bit(day) != 0
    }
}

fn bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

/// Hours and minutes by the clock on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay {
    hour: i8,
    minute: i8,
}

/// A text is no time of day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is {0:?}, which is no time of day, as \"22:00\" is")]
pub struct BadTimeOfDay(String);

impl TimeOfDay {
    /// The end of the day.
    const MIDNIGHT: Self = Self {
        hour: 24,
        minute: 0,
    };

    /// Returns the time that `text` names: `00:00` to `23:59`.
    pub fn parse(text: &str) -> Result<Self, BadTimeOfDay> {
        let bad = || BadTimeOfDay(text.to_owned());
        let (hour, minute) = text.split_once(':').ok_or_else(bad)?;
        let number = |digits: &str, limit: i8| {
            let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = plain.then(|| digits.parse::<i8>().ok()).flatten();
            number.filter(|number| *number < limit).ok_or_else(bad)
        };
        Ok(Self {
            hour: number(hour, 24)?,
            minute: number(minute, 60)?,
        })
    }

    /// The same, and `24:00` for the end of the day.
    pub fn parse_end(text: &str) -> Result<Self, BadTimeOfDay> {
        match text {
            "24:00" => Ok(Self::MIDNIGHT),
            _ => Self::parse(text),
        }
    }
}

/// A time zone, by the rules that came with this program: a node needs no
/// `/usr/share/zoneinfo`, and has the same rules as all others of its release.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// A text is no time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is {0:?}, which is no time zone, as \"Europe/Berlin\" is")]
pub struct BadZone(String);

impl Zone {
    /// Returns Coordinated Universal Time.
    pub const fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// Returns the zone that the IANA calls `name`.
    pub fn parse(name: &str) -> Result<Self, BadZone> {
        let zone = TimeZoneDatabase::bundled().get(name);
        zone.map(Self).map_err(|_| BadZone(name.to_owned()))
    }

    /// Returns when the clock on the wall shows `time` on `day`.
    fn moment(&self, day: Date, time: TimeOfDay) -> Option<Timestamp> {
        let (day, hour) = match time.hour {
            24 => (day.tomorrow().ok()?, 0),
            hour => (day, hour),
        };
        let shown = day.at(hour, time.minute, 0, 0);
        self.0.to_ambiguous_timestamp(shown).compatible().ok()
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.0.iana_name().unwrap_or("?"))
    }
}

#[cfg(test)]
mod tests;
