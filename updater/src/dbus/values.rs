use std::collections::HashMap;

use jiff::Timestamp;
use partition_layout::Slot;
use zbus::{ObjectPath, Variant};

use super::job_object::job_path;
use crate::asker::Asker;
use crate::driver::View;
use crate::history::HistoryLine;
use crate::node::{Node, SlotStatus};
use crate::plain::plain;
use crate::policy::Held;

/// `a{sv}`.
pub(super) type Dictionary = HashMap<&'static str, Variant<'static>>;

/// Returns every property of the manager that can change, by its name.
pub(super) fn properties(view: &View) -> Dictionary {
    HashMap::from([
        ("State", state(view).into()),
        ("BootedSlot", booted_slot(view).into()),
        ("BootedVersion", booted_version(view).into()),
        ("BootedRootHash", booted_root_hash(view).into()),
        ("StagedVersion", staged_version(view).into()),
        ("AvailableVersion", available_version(view).into()),
        ("Floor", floor(view).into()),
        ("LastCheck", last_check(view).into()),
        ("LastError", last_error(view).into()),
        ("LastRollback", last_rollback(view).into()),
        ("CurrentJob", current_job(view).into()),
        ("Automatic", automatic(view).into()),
        ("Held", held(view).into()),
        ("HeldMessage", held_message(view).into()),
        ("NextWindow", next_window(view).into()),
        ("SettingsError", settings_error(view).into()),
    ])
}

pub(super) fn state(view: &View) -> String {
    view.state.to_owned()
}

pub(super) fn booted_slot(view: &View) -> String {
    view.node.booted.slot.to_string()
}

pub(super) fn booted_version(view: &View) -> String {
    view.node.booted.version.to_string()
}

pub(super) fn booted_root_hash(view: &View) -> String {
    view.node.booted.root_hash.to_string()
}

pub(super) fn staged_version(view: &View) -> String {
    view.node
        .staged()
        .map(|(version, _)| version.to_string())
        .unwrap_or_default()
}

pub(super) fn available_version(view: &View) -> String {
    let offered = view.offer.as_ref().map(|offer| &offer.channel.release);
    offered
        .filter(|offered| **offered != view.node.booted.version)
        .map(ToString::to_string)
        .unwrap_or_default()
}

pub(super) fn floor(view: &View) -> String {
    view.node
        .floor
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default()
}

pub(super) fn last_check(view: &View) -> u64 {
    view.last_check.map_or(0, micros)
}

pub(super) fn last_error(view: &View) -> (String, String) {
    view.last_error
        .as_ref()
        .map(|failure| (failure.name.to_string(), plain(&failure.message)))
        .unwrap_or_default()
}

pub(super) fn last_rollback(view: &View) -> Dictionary {
    let Some(rollback) = &view.node.last_rollback else {
        return Dictionary::new();
    };
    let lines = rollback.lines.iter().map(|line| plain(line));
    let lines: Vec<String> = lines.collect();
    HashMap::from([
        ("version", rollback.version.to_string().into()),
        ("root_hash", rollback.root_hash.to_string().into()),
        ("kind", rollback.kind.as_str().into()),
        ("check", plain(&rollback.check).into()),
        ("unit", plain(&rollback.unit).into()),
        ("reason", plain(&rollback.reason).into()),
        ("panic", plain(&rollback.panic).into()),
        ("when", micros(rollback.when).into()),
        ("lines", lines.into()),
        ("tries", rollback.tries.into()),
    ])
}

pub(super) fn current_job(view: &View) -> ObjectPath<'static> {
    view.current_job
        .map_or_else(|| ObjectPath::from_static_str_unchecked("/"), job_path)
}

pub(super) fn automatic(view: &View) -> String {
    view.automation.automatic.as_str().to_owned()
}

pub(super) fn held(view: &View) -> String {
    let held = view.automation.held.as_ref();
    held.map_or("", Held::name).to_owned()
}

pub(super) fn held_message(view: &View) -> String {
    let held = view.automation.held.as_ref();
    held.map(|held| plain(&held.to_string()))
        .unwrap_or_default()
}

pub(super) fn next_window(view: &View) -> u64 {
    view.automation.next_window.map_or(0, micros)
}

pub(super) fn settings_error(view: &View) -> String {
    let mistake = view.automation.mistake.as_deref();
    mistake.map(plain).unwrap_or_default()
}

pub(super) fn slots(node: &Node) -> Vec<Dictionary> {
    let booted = &node.booted;
    let spare = &node.spare;
    let booted_line = slot_line(
        booted.slot,
        true,
        Some((booted.version.to_string(), booted.root_hash.to_string())),
        node.booted_status(),
        booted.entry.as_ref().and_then(|entry| entry.counter),
    );
    // A disk as shipped has one slot only.
    if spare.root_len == 0 {
        return vec![booted_line];
    }
    let held = spare.held.as_ref();
    let spare_line = slot_line(
        spare.slot,
        false,
        held.map(|(version, hash)| (version.to_string(), hash.to_string())),
        spare.status,
        spare.entry.as_ref().and_then(|entry| entry.counter),
    );
    match booted.slot {
        Slot::A => vec![booted_line, spare_line],
        Slot::B => vec![spare_line, booted_line],
    }
}

fn slot_line(
    slot: Slot,
    booted: bool,
    held: Option<(String, String)>,
    status: SlotStatus,
    counter: Option<partition_layout::Counter>,
) -> Dictionary {
    let (version, root_hash) = held.unwrap_or_default();
    HashMap::from([
        ("slot", slot.to_string().into()),
        ("booted", booted.into()),
        ("version", version.into()),
        ("root_hash", root_hash.into()),
        ("status", status.as_str().into()),
        (
            "tries_left",
            counter.map_or(0, |counter| counter.left).into(),
        ),
        (
            "tries_done",
            counter.map_or(0, |counter| counter.done).into(),
        ),
    ])
}

pub(super) fn releases(view: &View) -> Vec<Dictionary> {
    let Some(offer) = &view.offer else {
        return vec![];
    };
    let floor = view.node.floor.as_ref();
    let line = |version: &partition_layout::Version| {
        HashMap::from([
            ("version", version.to_string().into()),
            ("newest", (*version == offer.channel.release).into()),
            (
                "below_floor",
                floor.is_some_and(|floor| version < floor).into(),
            ),
        ])
    };
    offer.versions.iter().map(line).collect()
}

pub(super) fn barred(node: &Node) -> Vec<Dictionary> {
    let line = |barred: &crate::records::Barred| {
        HashMap::from([
            ("root_hash", barred.root_hash.to_string().into()),
            ("version", barred.version.to_string().into()),
            ("reason", plain(&barred.reason).into()),
            ("when", micros(barred.when).into()),
        ])
    };
    node.barred.iter().map(line).collect()
}

pub(super) fn history(node: &Node, limit: u32) -> Vec<Dictionary> {
    let limit = match limit {
        0 => usize::MAX,
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    node.history
        .iter()
        .rev()
        .take(limit)
        .map(history_line)
        .collect()
}

fn history_line(line: &HistoryLine) -> Dictionary {
    fn text(value: Option<impl ToString>) -> Variant<'static> {
        value
            .map(|value| value.to_string())
            .unwrap_or_default()
            .into()
    }
    let mut fields = HashMap::from([
        ("when", micros(line.when).into()),
        ("event", line.event.as_str().into()),
        ("version", text(line.version.as_ref())),
        ("root_hash", text(line.root_hash)),
        ("slot", text(line.slot)),
        ("message", plain(&line.message).into()),
        ("error", text(line.error.as_ref())),
        ("who", text(line.by.as_ref().map(Asker::as_str))),
    ]);
    if let Some(Asker::Caller { uid, unit }) = &line.by {
        fields.insert("unit", text(unit.as_ref()));
        if let Some(uid) = uid {
            fields.insert("uid", (*uid).into());
        }
    }
    let bytes = line
        .cost
        .bytes()
        .into_iter()
        .filter(|(_, bytes)| *bytes > 0);
    let bytes: HashMap<String, u64> = bytes
        .map(|(kind, bytes)| (kind.to_owned(), bytes))
        .collect();
    fields.insert("bytes", bytes.into());
    let millis: HashMap<String, u64> = line.cost.millis.clone().into_iter().collect();
    fields.insert("millis", millis.into());
    fields
}

/// Times on the bus: microseconds since 1970. A clock before that reads 0.
fn micros(time: Timestamp) -> u64 {
    u64::try_from(time.as_microsecond()).unwrap_or(0)
}
