//! `[[window]]`: when the node may stage and reboot by itself.

use super::value::{BadValue, Entry};
use crate::policy::{Days, TimeOfDay, Window, Windows, Zone};

/// More windows than a week has hours are somebody's program gone wrong.
const MAX_WINDOWS: usize = 168;

pub(super) fn parse(entry: &Entry<'_>) -> Result<Windows, BadValue> {
    let windows = entry.list()?;
    if windows.len() > MAX_WINDOWS {
        return Err(entry.bad(&format!("is there more than {MAX_WINDOWS} times")));
    }
    let windows: Result<_, _> = windows.iter().map(window).collect();
    Ok(Windows::new(windows?))
}

fn window(entry: &Entry<'_>) -> Result<Window, BadValue> {
    let mut days = None;
    let mut from = None;
    let mut to = None;
    let mut zone = Zone::utc();
    for field in entry.table()? {
        match field.key() {
            "window.days" => days = Some(parse_days(&field)?),
            "window.from" => from = Some(field.parsed(TimeOfDay::parse)?),
            "window.to" => to = Some(field.parsed(TimeOfDay::parse_end)?),
            "window.time_zone" => zone = field.parsed(Zone::parse)?,
            // Elsewhere such a key is told and ignored. Here it may be one that
            // would have kept the window shut.
            _ => return Err(field.bad("is not known: a window has days, from, to and time_zone")),
        }
    }
    let missing = |key: &str| entry.bad(&format!("has no {key}"));
    let (from, to) = (
        from.ok_or_else(|| missing("from"))?,
        to.ok_or_else(|| missing("to"))?,
    );
    if from == to {
        let problem = "ends when it begins; a whole day is from \"00:00\" to \"24:00\"";
        return Err(entry.bad(problem));
    }
    Ok(Window {
        days: days.ok_or_else(|| missing("days"))?,
        from,
        to,
        zone,
    })
}

fn parse_days(field: &Entry<'_>) -> Result<Days, BadValue> {
    let names = field.list()?;
    if names.is_empty() {
        return Err(field.bad("names no day"));
    }
    let days: Result<Vec<_>, _> = names.iter().map(|name| name.parsed(Days::parse)).collect();
    Ok(days?.into_iter().fold(Days::default(), Days::and))
}
