//! What the updater says, as plain data: read from the bus, printed as JSON,
//! or rendered for people by [`super::text`].

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::Serialize;
use zbus::OwnedVariant;

use super::bus::Dictionary;

/// An error by its name and message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct NamedError {
    pub(super) name: String,
    pub(super) message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Status {
    pub(super) state: String,
    pub(super) booted_slot: String,
    pub(super) booted_version: String,
    pub(super) booted_root_hash: String,
    pub(super) staged_version: Option<String>,
    pub(super) available_version: Option<String>,
    pub(super) floor: Option<String>,
    pub(super) last_check: Option<Timestamp>,
    pub(super) last_error: Option<NamedError>,
    pub(super) last_rollback: Option<LastRollback>,
    pub(super) automatic: String,
    pub(super) held: Option<Held>,
    pub(super) next_window: Option<Timestamp>,
    pub(super) settings_error: Option<String>,
    pub(super) job: Option<Job>,
    pub(super) daemon_version: String,
}

/// Why the node does nothing by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Held {
    pub(super) name: String,
    pub(super) message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct LastRollback {
    pub(super) kind: String,
    pub(super) version: String,
    pub(super) root_hash: String,
    pub(super) check: Option<String>,
    pub(super) unit: Option<String>,
    pub(super) reason: String,
    pub(super) panic: Option<String>,
    pub(super) when: Option<Timestamp>,
    pub(super) lines: Vec<String>,
    pub(super) tries: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Job {
    pub(super) kind: String,
    pub(super) version: Option<String>,
    pub(super) phase: String,
    pub(super) bytes_done: u64,
    pub(super) bytes_total: u64,
    /// `caller` or `window`.
    pub(super) paused_by: Option<String>,
    /// Not a matter of each step.
    #[serde(skip)]
    pub(super) plan: Vec<Way>,
    #[serde(skip)]
    pub(super) plan_fetch: u64,
    /// `None` while it runs.
    pub(super) result: Option<String>,
    pub(super) error: Option<NamedError>,
}

/// What staging a release would take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Planned {
    pub(super) version: Option<String>,
    pub(super) fetch_bytes: u64,
    pub(super) ways: Vec<Way>,
}

/// One way for one part of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Way {
    pub(super) part: String,
    pub(super) method: String,
    pub(super) fetch_bytes: u64,
    pub(super) requests: u64,
    pub(super) unpack_bytes: u64,
    pub(super) copy_bytes: u64,
    pub(super) zero_bytes: u64,
    pub(super) kept_bytes: u64,
    pub(super) write_bytes: u64,
    pub(super) chosen: bool,
    pub(super) why_not: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Slot {
    pub(super) slot: String,
    pub(super) booted: bool,
    pub(super) version: Option<String>,
    pub(super) root_hash: Option<String>,
    pub(super) status: String,
    pub(super) tries_left: u64,
    pub(super) tries_done: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Listed {
    pub(super) version: String,
    pub(super) newest: bool,
    pub(super) below_floor: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Barred {
    pub(super) root_hash: String,
    pub(super) version: String,
    pub(super) reason: String,
    pub(super) when: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    pub(super) when: Option<Timestamp>,
    pub(super) event: String,
    pub(super) version: Option<String>,
    pub(super) root_hash: Option<String>,
    pub(super) slot: Option<String>,
    pub(super) message: Option<String>,
    pub(super) error: Option<String>,
    /// `caller`, `policy` or `updater`.
    pub(super) who: Option<String>,
    pub(super) uid: Option<u64>,
    pub(super) unit: Option<String>,
    /// By source.
    pub(super) bytes: BTreeMap<String, u64>,
    /// By phase.
    pub(super) millis: BTreeMap<String, u64>,
}

impl Status {
    pub(super) fn read(properties: &Dictionary, job: Option<Job>) -> Self {
        let last_rollback = properties
            .get("LastRollback")
            .and_then(|value| Dictionary::try_from(value.try_clone().ok()?).ok())
            .filter(|fields| !fields.is_empty());
        Self {
            state: properties.text("State"),
            booted_slot: properties.text("BootedSlot"),
            booted_version: properties.text("BootedVersion"),
            booted_root_hash: properties.text("BootedRootHash"),
            staged_version: properties.some_text("StagedVersion"),
            available_version: properties.some_text("AvailableVersion"),
            floor: properties.some_text("Floor"),
            last_check: properties.time("LastCheck"),
            last_error: properties.error("LastError"),
            last_rollback: last_rollback.as_ref().map(LastRollback::read),
            automatic: properties.text("Automatic"),
            held: properties.some_text("Held").map(|name| Held {
                name,
                message: properties.text("HeldMessage"),
            }),
            next_window: properties.time("NextWindow"),
            settings_error: properties.some_text("SettingsError"),
            job,
            daemon_version: properties.text("DaemonVersion"),
        }
    }
}

impl LastRollback {
    fn read(fields: &Dictionary) -> Self {
        Self {
            kind: fields.text("kind"),
            version: fields.text("version"),
            root_hash: fields.text("root_hash"),
            check: fields.some_text("check"),
            unit: fields.some_text("unit"),
            reason: fields.text("reason"),
            panic: fields.some_text("panic"),
            when: fields.time("when"),
            lines: fields.texts("lines"),
            tries: fields.number("tries"),
        }
    }
}

impl Job {
    pub(super) fn read(properties: &Dictionary) -> Self {
        Self {
            kind: properties.text("Kind"),
            version: properties.some_text("Version"),
            phase: properties.text("Phase"),
            bytes_done: properties.number("BytesDone"),
            bytes_total: properties.number("BytesTotal"),
            paused_by: properties.some_text("PausedBy"),
            plan: properties
                .dictionaries("Plan")
                .iter()
                .map(Way::read)
                .collect(),
            plan_fetch: properties.number("PlanFetch"),
            result: properties.some_text("Result"),
            error: properties.error("Error"),
        }
    }
}

impl Way {
    fn read(fields: &Dictionary) -> Self {
        Self {
            part: fields.text("part"),
            method: fields.text("method"),
            fetch_bytes: fields.number("fetch_bytes"),
            requests: fields.number("requests"),
            unpack_bytes: fields.number("unpack_bytes"),
            copy_bytes: fields.number("copy_bytes"),
            zero_bytes: fields.number("zero_bytes"),
            kept_bytes: fields.number("kept_bytes"),
            write_bytes: fields.number("write_bytes"),
            chosen: fields.flag("chosen"),
            why_not: fields.some_text("why_not"),
        }
    }
}

impl Slot {
    pub(super) fn read(fields: &Dictionary) -> Self {
        Self {
            slot: fields.text("slot"),
            booted: fields.flag("booted"),
            version: fields.some_text("version"),
            root_hash: fields.some_text("root_hash"),
            status: fields.text("status"),
            tries_left: fields.number("tries_left"),
            tries_done: fields.number("tries_done"),
        }
    }
}

impl Listed {
    pub(super) fn read(fields: &Dictionary) -> Self {
        Self {
            version: fields.text("version"),
            newest: fields.flag("newest"),
            below_floor: fields.flag("below_floor"),
        }
    }
}

impl Barred {
    pub(super) fn read(fields: &Dictionary) -> Self {
        Self {
            root_hash: fields.text("root_hash"),
            version: fields.text("version"),
            reason: fields.text("reason"),
            when: fields.time("when"),
        }
    }
}

impl Entry {
    pub(super) fn read(fields: &Dictionary) -> Self {
        Self {
            when: fields.time("when"),
            event: fields.text("event"),
            version: fields.some_text("version"),
            root_hash: fields.some_text("root_hash"),
            slot: fields.some_text("slot"),
            message: fields.some_text("message"),
            error: fields.some_text("error"),
            who: fields.some_text("who"),
            uid: fields.value("uid").map(|_| fields.number("uid")),
            unit: fields.some_text("unit"),
            bytes: fields.numbers("bytes"),
            millis: fields.numbers("millis"),
        }
    }
}

/// Reads fields. One that is missing is empty, as an older or a newer updater
/// may say less or more than this command knows.
trait Fields {
    fn value(&self, name: &str) -> Option<OwnedVariant>;

    fn text(&self, name: &str) -> String {
        self.value(name)
            .and_then(|value| value.try_into().ok())
            .unwrap_or_default()
    }

    fn some_text(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    fn flag(&self, name: &str) -> bool {
        self.value(name)
            .and_then(|value| value.try_into().ok())
            .unwrap_or_default()
    }

    fn number(&self, name: &str) -> u64 {
        let Some(value) = self.value(name) else {
            return 0;
        };
        let narrow = || u32::try_from(&value).ok().map(u64::from);
        u64::try_from(&value)
            .ok()
            .or_else(narrow)
            .unwrap_or_default()
    }

    fn time(&self, name: &str) -> Option<Timestamp> {
        let micros = self.number(name);
        let known = i64::try_from(micros).ok().filter(|micros| *micros > 0)?;
        Timestamp::from_microsecond(known).ok()
    }

    fn texts(&self, name: &str) -> Vec<String> {
        self.value(name)
            .and_then(|value| value.try_into().ok())
            .unwrap_or_default()
    }

    fn numbers(&self, name: &str) -> BTreeMap<String, u64> {
        let numbers: Option<HashMap<String, u64>> =
            self.value(name).and_then(|value| value.try_into().ok());
        numbers.unwrap_or_default().into_iter().collect()
    }

    fn dictionaries(&self, name: &str) -> Vec<Dictionary> {
        self.value(name)
            .and_then(|value| value.try_into().ok())
            .unwrap_or_default()
    }

    fn error(&self, name: &str) -> Option<NamedError> {
        let (name, message): (String, String) = self.value(name)?.try_into().ok()?;
        (!name.is_empty()).then_some(NamedError { name, message })
    }
}

impl Fields for Dictionary {
    fn value(&self, name: &str) -> Option<OwnedVariant> {
        self.get(name)?.try_clone().ok()
    }
}
