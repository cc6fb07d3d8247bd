//! What people read. Pure: data in, text out, so that snapshots hold it.

use std::fmt::Write;

use jiff::Timestamp;

use super::failure::hint_for;
use super::model::{Barred, Entry, Job, LastRollback, Listed, Planned, Slot, Status};
use crate::names::ErrorName;
use crate::plain::plain;

/// How many digits of a root hash a table shows.
const SHORT_HASH: usize = 12;

pub(super) fn status(status: &Status) -> String {
    let mut lines = Lines::default();
    lines.row(
        "running",
        &format!("{} in slot {}", status.booted_version, status.booted_slot),
    );
    lines.row("state", &state(status));
    if let Some(version) = &status.staged_version {
        lines.row("staged", &format!("{version}; `bistable reboot` tries it"));
    }
    let checked = match status.last_check {
        Some(when) => format!("checked {}", time(when)),
        None => "never checked".to_owned(),
    };
    lines.row(
        "available",
        &match &status.available_version {
            Some(version) => format!("{version} ({checked})"),
            None if status.last_check.is_none() => format!("unknown ({checked})"),
            None => format!("nothing new ({checked})"),
        },
    );
    if let Some(floor) = &status.floor {
        lines.row("floor", floor);
    }
    lines.row("root hash", &status.booted_root_hash);
    automatic(&mut lines, status);
    if let Some(job) = &status.job {
        lines.row("job", &progress(job));
    }
    if let Some(error) = &status.last_error {
        lines.row("last error", &error.message);
        lines.row("", &error.name);
        if let Some(name) = ErrorName::from_bus(&error.name) {
            lines.row("", &format!("hint: {}", hint_for(name)));
        }
    }
    if let Some(rollback) = &status.last_rollback {
        last_rollback(&mut lines, rollback);
    }
    lines.text
}

fn automatic(lines: &mut Lines, status: &Status) {
    let meaning = match status.automatic.as_str() {
        "off" => "nothing is done without being asked",
        "check" => "looks what there is",
        "stage" => "looks, and stages what is newer",
        "reboot" => "looks, stages what is newer, and reboots into it",
        _ => "",
    };
    let window = status
        .next_window
        .map(|when| format!("; next window {}", time(when)));
    let window = window.unwrap_or_default();
    lines.row(
        "automatic",
        &format!("{}: {meaning}{window}", status.automatic),
    );
    if let Some(held) = &status.held
        && held.name != "off"
    {
        lines.row("held", &held.message);
    }
    if let Some(error) = &status.settings_error {
        lines.row("settings", &format!("wrong, not in force: {error}"));
    }
}

fn state(status: &Status) -> String {
    let meaning = match status.state.as_str() {
        "idle" => "nothing to do",
        "checking" => "asking the repository",
        "planning" => "looking what a release would take",
        "staging" => "writing a release to the spare slot",
        "clearing" => "emptying the spare slot",
        "staged" => "a release waits for the reboot",
        "trial" => "the running release has yet to pass its health gate",
        "last-resort" => {
            "the running release has failed, and no other one boots; stage one by name, with force"
        }
        "condemned" => "the running release has failed; the next reboot leads back",
        "rebooting" => "the node is going down",
        _ => return status.state.clone(),
    };
    format!("{}: {meaning}", status.state)
}

fn last_rollback(lines: &mut Lines, rollback: &LastRollback) {
    let when = rollback
        .when
        .map_or_else(|| "at an unknown time".to_owned(), time);
    // A release that was good has starts, and one on trial has tries.
    let (what, from, one, more) = match rollback.kind.as_str() {
        "gave-way" => ("gave way", "", "start", "starts"),
        _ => ("rolled back", "from ", "try", "tries"),
    };
    let tries = match rollback.tries {
        0 => String::new(),
        1 => format!(", after 1 {one}"),
        tries => format!(", after {tries} {more}"),
    };
    lines.row(what, &format!("{from}{} {when}{tries}", rollback.version));
    lines.row("", &rollback.reason);
    for (what, name) in [("check", &rollback.check), ("unit", &rollback.unit)] {
        if let Some(name) = name {
            lines.row("", &format!("{what}: {name}"));
        }
    }
    for line in &rollback.lines {
        lines.row("", &format!("| {line}"));
    }
}

/// Returns one line about a job.
pub(super) fn progress(job: &Job) -> String {
    let mut text = job.kind.clone();
    if let Some(version) = &job.version {
        write!(text, " {version}").expect(MEMORY);
    }
    if let Some(result) = &job.result {
        write!(text, ": {result}").expect(MEMORY);
        return text;
    }
    if !job.phase.is_empty() {
        write!(text, ": {}", phase(&job.phase)).expect(MEMORY);
    }
    match job.paused_by.as_deref() {
        None => {}
        Some("window") => text.push_str(", paused until a window opens"),
        Some(_) => text.push_str(", paused (`bistable resume`)"),
    }
    if let Some(percent) = percent(job) {
        write!(
            text,
            ", {percent} % ({} of {})",
            mebibytes(job.bytes_done),
            mebibytes(job.bytes_total)
        )
        .expect(MEMORY);
    }
    text
}

/// Returns a phase of a job in words; one of a newer updater as it is.
pub(super) fn phase(phase: &str) -> &str {
    match phase {
        "check" => "reading the metadata",
        "resolve" => "reading the release",
        "survey" => "comparing with what is here",
        "disarm" => "emptying the spare slot",
        "tree" => "writing the hash tree",
        "root" => "writing the root image",
        "verify" => "reading back",
        "label" => "labelling the slot",
        "kernel" => "writing the kernel",
        "arm" => "arming",
        "clear" => "undoing",
        other => other,
    }
}

/// Returns how much of the work is done, never 100 before all of it is.
pub(super) fn percent(job: &Job) -> Option<u64> {
    let percent = u128::from(job.bytes_done) * 100 / u128::from(job.bytes_total).max(1);
    let shown = u64::try_from(percent.min(100)).ok()?;
    (job.bytes_total > 0).then_some(shown)
}

fn mebibytes(bytes: u64) -> String {
    const TENTH: u64 = 1024 * 1024 / 10;
    let tenths = bytes / TENTH;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

pub(super) fn plan(planned: &Planned) -> String {
    let rows = planned.ways.iter().map(|way| {
        let verdict = match (way.chosen, way.why_not.as_deref()) {
            (true, _) => "chosen",
            (false, Some("dearer")) => "costs more",
            (false, Some("not-published")) => "the publisher made none for this node",
            (false, Some("no-ranges")) => "the server sends no parts of files",
            (false, Some("not-here")) => "this node does not have it",
            (false, Some(other)) => other,
            (false, None) => "",
        };
        // What cannot be done has no cost to show.
        let possible = way.chosen || way.why_not.as_deref() == Some("dearer");
        let shown = |text: String| if possible { text } else { "-".to_owned() };
        [
            way.part.clone(),
            way.method.clone(),
            shown(mebibytes(way.fetch_bytes)),
            shown(way.requests.to_string()),
            shown(mebibytes(way.copy_bytes)),
            shown(mebibytes(way.write_bytes)),
            verdict.to_owned(),
        ]
    });
    let headers = [
        "PART", "METHOD", "FETCHED", "REQUESTS", "COPIED", "WRITTEN", "",
    ];
    let version = planned.version.as_deref().unwrap_or("the release");
    let fetched = mebibytes(planned.fetch_bytes);
    format!(
        "{}{version} takes {fetched} from the network; nothing was written\n",
        table(headers, rows)
    )
}

pub(super) fn slots(slots: &[Slot]) -> String {
    table(
        ["SLOT", "VERSION", "STATUS", "TRIES", "ROOT HASH"],
        slots.iter().map(|slot| {
            let booted = if slot.booted { " (running)" } else { "" };
            let tries = match (slot.tries_left, slot.tries_done) {
                (0, 0) => "-".to_owned(),
                (left, done) => format!("{left} left, {done} done"),
            };
            [
                format!("{}{booted}", slot.slot),
                or_dash(slot.version.as_deref()),
                slot.status.clone(),
                tries,
                or_dash(slot.root_hash.as_deref().map(short)),
            ]
        }),
    )
}

pub(super) fn releases(releases: &[Listed]) -> String {
    if releases.is_empty() {
        return "no releases known; ask with `bistable check`\n".to_owned();
    }
    table(
        ["VERSION", ""],
        releases.iter().map(|release| {
            let mut notes = Vec::new();
            if release.newest {
                notes.push("the channel's");
            }
            if release.below_floor {
                notes.push("below the floor");
            }
            [release.version.clone(), notes.join(", ")]
        }),
    )
}

pub(super) fn barred(barred: &[Barred]) -> String {
    if barred.is_empty() {
        return "no image has failed on this node\n".to_owned();
    }
    // In full: `forgive` wants it so.
    table(
        ["ROOT HASH", "VERSION", "WHEN", "REASON"],
        barred.iter().map(|image| {
            [
                image.root_hash.clone(),
                image.version.clone(),
                image.when.map_or_else(|| "-".to_owned(), time),
                image.reason.clone(),
            ]
        }),
    )
}

pub(super) fn history(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "nothing has happened yet\n".to_owned();
    }
    table(
        ["WHEN", "EVENT", "VERSION", "SLOT", "BY", ""],
        entries.iter().map(|entry| {
            [
                entry.when.map_or_else(|| "-".to_owned(), time),
                entry.event.clone(),
                or_dash(entry.version.as_deref()),
                or_dash(entry.slot.as_deref()),
                by(entry),
                what_of(entry),
            ]
        }),
    )
}

fn by(entry: &Entry) -> String {
    match (&entry.who, &entry.unit, entry.uid) {
        (_, Some(unit), _) => unit.clone(),
        (_, None, Some(uid)) => format!("uid {uid}"),
        (who, None, None) => or_dash(who.as_deref()),
    }
}

/// Returns what was said about it, and what it took.
fn what_of(entry: &Entry) -> String {
    let mut parts: Vec<String> = match (&entry.error, &entry.message) {
        (Some(error), Some(message)) => vec![format!("{error}: {message}")],
        (error, message) => error.iter().chain(message).cloned().collect(),
    };
    for (source, word) in [
        ("fetched", "fetched"),
        ("copied", "copied"),
        ("kept", "already there"),
    ] {
        if let Some(bytes) = entry.bytes.get(source) {
            parts.push(format!("{} {word}", mebibytes(*bytes)));
        }
    }
    let millis = entry
        .millis
        .values()
        .fold(0, |sum: u64, it| sum.saturating_add(*it));
    if millis > 0 {
        parts.push(format!("{} s", millis.div_ceil(1000)));
    }
    parts.join(", ")
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

fn short(hash: &str) -> &str {
    hash.get(..SHORT_HASH).unwrap_or(hash)
}

fn time(when: Timestamp) -> String {
    when.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Lines with a name in front.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn row(&mut self, name: &str, value: &str) {
        writeln!(self.text, "{name:<12} {}", plain(value)).expect(MEMORY);
    }
}

/// Returns columns under headers; the last one is as wide as it is.
fn table<const N: usize>(headers: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut all = vec![headers.map(str::to_owned)];
    all.extend(rows.map(|row| row.map(|cell| plain(&cell))));
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = all.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    });
    let mut text = String::new();
    for row in &all {
        let cells: Vec<_> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

const MEMORY: &str = "writing to memory cannot fail";

#[cfg(test)]
mod tests;
