//! The page is held against the rules of its format by a reader that knows
//! nothing of how it is made.

use std::collections::{BTreeMap, BTreeSet};

use partition_layout::{RootHash, Slot, Version};
use proptest::prelude::*;

use super::*;
use crate::driver::Automation;
use crate::history::{Cost, HistoryLine};
use crate::machine::rest;
use crate::names::ErrorName;
use crate::node::{Booted, Node, Spare, Standing};
use crate::policy::Automatic;
use crate::records::{Barred, Rollback};
use crate::refusal::Failure;
use crate::totals::Totals;

type Labels = BTreeMap<String, String>;

#[derive(Debug, PartialEq)]
struct Read {
    kinds: BTreeMap<String, String>,
    samples: Vec<(String, Labels, f64)>,
}

impl Read {
    /// Reads a page strictly, and panics at the first thing that is not as the
    /// format wants it.
    fn page(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut helps = BTreeSet::new();
        let mut kinds: BTreeMap<String, String> = BTreeMap::new();
        let mut samples: Vec<(String, Labels, f64)> = Vec::new();
        let mut series = BTreeSet::new();
        let mut closed = BTreeSet::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("help has a text");
                assert!(!help.is_empty() && helps.insert(name.to_owned()), "{line}");
                closed.insert(std::mem::replace(&mut current, name.to_owned()));
                assert!(!closed.contains(name), "{name} comes in two places");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type is named");
                assert_eq!(name, current, "the type stands behind the help");
                assert!(["counter", "gauge"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                let known = kinds.insert(name.to_owned(), kind.to_owned());
                assert_eq!(known, None, "{name} has two types");
            } else {
                let (name, labels, value) = sample(line);
                assert_eq!(name, current, "samples stand behind their help and type");
                assert!(kinds.contains_key(&name), "{name} has no type");
                assert!(
                    series.insert((name.clone(), labels.clone())),
                    "{line} comes twice"
                );
                samples.push((name, labels, value));
            }
        }
        for name in kinds.keys() {
            let is_used = samples.iter().any(|(sample, ..)| sample == name);
            assert!(is_used, "{name} has no sample");
        }
        Self { kinds, samples }
    }

    fn value(&self, name: &str, label: &[(&str, &str)]) -> Option<f64> {
        let fits = |labels: &Labels| {
            label
                .iter()
                .all(|(name, value)| labels.get(*name).is_some_and(|it| it == value))
        };
        let mut found = self.samples.iter().filter(|(it, ..)| it == name);
        found.find(|(_, labels, _)| fits(labels)).map(|it| it.2)
    }
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).expect("a name ends");
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inner.split_once("=\"").expect("a label has a value");
            assert!(is_name(label) && !label.starts_with("__"), "{line}");
            let mut value = String::new();
            let mut chars = after.char_indices();
            let close = loop {
                let (at, char) = chars.next().expect("a value ends");
                match char {
                    '"' => break at,
                    '\\' => match chars.next().expect("something is escaped").1 {
                        'n' => value.push('\n'),
                        char @ ('\\' | '"') => value.push(char),
                        other => panic!("\\{other} is no escape"),
                    },
                    char => value.push(char),
                }
            };
            assert_eq!(labels.insert(label.to_owned(), value), None, "{line}");
            inner = &after[close + 1..];
            if let Some(after) = inner.strip_prefix('}') {
                rest = after;
                break;
            }
            inner = inner
                .strip_prefix(',')
                .expect("labels are told apart by commas");
        }
    }
    let value = rest.strip_prefix(' ').expect("a value follows");
    (name.to_owned(), labels, value.parse().expect("a number"))
}

fn hash(byte: u8) -> RootHash {
    RootHash::new([byte; 32])
}

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

fn when(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn view(check: &str) -> View {
    let events = [("staged", 4), ("rolled-back", 2)];
    let node = Node {
        booted: Booted {
            slot: Slot::A,
            version: version("1.2"),
            root_hash: hash(1),
            standing: Standing::Good,
            entry: None,
        },
        spare: Spare {
            slot: Slot::B,
            status: SlotStatus::Armed,
            held: Some((version("1.3"), hash(3))),
            entry: None,
            root_len: 1,
            verity_len: 1,
        },
        has_variables: true,
        boot_id: "boot".to_owned(),
        floor: None,
        barred: vec![Barred {
            root_hash: hash(2),
            version: version("1.1"),
            reason: "sick".to_owned(),
            when: when(5),
        }],
        trial: None,
        came_up: false,
        gave_way: None,
        last_start: None,
        last_rollback: Some(Rollback {
            kind: crate::records::Departure::Trial,
            version: version("1.1"),
            root_hash: hash(2),
            check: check.to_owned(),
            unit: String::new(),
            reason: String::new(),
            panic: String::new(),
            when: when(7),
            lines: vec![],
            tries: 1,
            armed_at: None,
            boot_id: String::new(),
        }),
        history: [10, 20]
            .map(|second| HistoryLine {
                when: when(second),
                event: Happened::Staged,
                version: None,
                root_hash: None,
                slot: None,
                message: String::new(),
                by: None,
                error: None,
                cost: Cost::default(),
            })
            .to_vec(),
        totals: Totals {
            events: events
                .map(|(event, count)| (event.to_owned(), count))
                .into(),
            cost: Cost {
                fetched: 123,
                millis: [("root".to_owned(), 1500)].into(),
                ..Cost::default()
            },
        },
    };
    let state = rest(Box::new(node.clone())).name();
    View {
        state,
        node,
        offer: None,
        last_check: Some(when(100)),
        last_error: Some(Failure {
            name: ErrorName::Barred,
            message: "no".to_owned(),
        }),
        jobs: vec![],
        current_job: None,
        automation: Automation {
            automatic: Automatic::Stage,
            tries: 3,
            held: None,
            next_window: None,
            mistake: None,
        },
    }
}

#[test]
fn a_node_is_shown_in_numbers_that_prometheus_can_read() {
    let read = Read::page(&render(
        &view("containerd"),
        &Rests::default(),
        &Progress::default(),
    ));
    for (name, label, value) in [
        ("bistable_booted_info", ("version", "1.2"), Some(1.0)),
        ("bistable_staged_info", ("version", "1.3"), Some(1.0)),
        ("bistable_offered_info", ("version", "1.3"), None),
        ("bistable_state", ("state", "staged"), Some(1.0)),
        ("bistable_state", ("state", "idle"), Some(0.0)),
        ("bistable_spare_slot_status", ("status", "armed"), Some(1.0)),
        ("bistable_last_error_info", ("error", "Barred"), Some(1.0)),
        ("bistable_events_total", ("event", "rolled-back"), Some(2.0)),
        ("bistable_events_total", ("event", "good"), Some(0.0)),
        (
            "bistable_work_bytes_total",
            ("kind", "fetched"),
            Some(123.0),
        ),
        ("bistable_work_seconds_total", ("phase", "root"), Some(1.5)),
        (
            "bistable_last_event_timestamp_seconds",
            ("event", "staged"),
            Some(20.0),
        ),
        (
            "bistable_last_rollback_timestamp_seconds",
            ("check", "containerd"),
            Some(7.0),
        ),
    ] {
        assert_eq!(read.value(name, &[label]), value, "{name} {label:?}");
    }
    assert_eq!(read.value("bistable_barred_images", &[]), Some(1.0));
    let check = read.value("bistable_last_check_timestamp_seconds", &[]);
    assert_eq!(check, Some(100.0));
}

#[test]
fn exactly_one_state_holds() {
    let read = Read::page(&render(&view(""), &Rests::default(), &Progress::default()));
    for family in ["bistable_state", "bistable_spare_slot_status"] {
        let values = read.samples.iter().filter(|(name, ..)| name == family);
        assert_eq!(values.map(|it| it.2).sum::<f64>(), 1.0, "{family}");
    }
}

#[test]
fn the_file_is_replaced_whole_and_everybody_may_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metrics.prom");
    for text in ["a 1\n", "b 2\n"] {
        write(&file, text).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

proptest! {
    #[test]
    fn whatever_a_check_is_called_the_page_can_be_read(check in "\\PC*|[\\\\\"\n\0\x1b{}, =]*") {
        let page = render(&view(&check), &Rests::default(), &Progress::default());
        prop_assert!(!page.contains(|char: char| char.is_control() && char != '\n'));
        let read = Read::page(&page);
        let name = "bistable_last_rollback_timestamp_seconds";
        let check = check.replace(['\0', '\x1b'], " ");
        prop_assert_eq!(read.value(name, &[("check", &check)]), Some(7.0));
    }
}
