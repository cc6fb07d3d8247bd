//! Known answers for version order and boot counting; the vectors name their sources.
use std::collections::BTreeMap;

use partition_layout::{
    BootEntry, CountedName, Counter, LoaderEntry, choose_entry, compare_versions,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct VersionVectors {
    vectors: Vec<VersionVector>,
}

#[derive(Deserialize)]
struct VersionVector {
    a: Option<String>,
    b: Option<String>,
    cmp: i8,
    source: String,
}

#[test]
fn versions_are_ordered_as_the_specification_systemd_and_rpm_order_them() {
    let json = include_str!("vectors/version.json");
    let known: VersionVectors = serde_json::from_str(json).expect("the vectors are JSON");
    assert!(known.vectors.len() > 200, "{} vectors", known.vectors.len());
    for VersionVector { a, b, cmp, source } in known.vectors {
        // An absent version counts as an empty one.
        let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
        let found = compare_versions(&a, &b);
        assert_eq!(found as i8, cmp, "{a:?} <=> {b:?} ({source})");
        assert_eq!(
            compare_versions(&b, &a),
            found.reverse(),
            "{b:?} <=> {a:?} ({source})"
        );
    }
}

#[derive(Deserialize)]
struct BootVectors {
    parse: Vec<ParseVector>,
    boot_series: Vec<SeriesVector>,
    bless: Vec<BlessVector>,
    spec_newer_padding: Vec<PaddingVector>,
    observed: Vec<ObservedVector>,
}

#[derive(Deserialize)]
struct ParseVector {
    file: String,
    error: Option<String>,
    id: Option<String>,
    tries_left: Option<u32>,
    tries_done: Option<u32>,
}

#[derive(Deserialize)]
struct SeriesVector {
    series: Vec<String>,
}

#[derive(Deserialize)]
struct BlessVector {
    verb: String,
    before: Option<String>,
    after: String,
}

#[derive(Deserialize)]
struct PaddingVector {
    before: String,
    after: String,
}

#[derive(Deserialize)]
struct ObservedVector {
    systemd: String,
    states: Vec<Vec<String>>,
}

fn boot_vectors() -> BootVectors {
    serde_json::from_str(include_str!("vectors/bootcount.json")).expect("the vectors are JSON")
}

#[test]
fn names_are_taken_apart_as_systemd_does() {
    let known = boot_vectors().parse;
    assert_eq!(known.len(), 29);
    for ParseVector {
        file,
        error,
        id,
        tries_left,
        tries_done,
    } in known
    {
        let name = CountedName::parse(&file);
        match error.as_deref() {
            None => {
                assert_eq!(Some(&name.id), id.as_ref(), "{file}");
                // An absent DONE is equivalent to 0, say the vectors' notes.
                let counter = tries_left.map(|left| Counter {
                    left,
                    done: tries_done.unwrap_or(0),
                });
                assert_eq!(name.counter, counter, "{file}");
            }
            // Out of range: systemd-boot goes on as if there were no counter.
            Some("ERANGE") => {
                assert_eq!(name.counter, None, "{file}");
                assert_eq!(name.id, file);
            }
            Some(other) => panic!("{file}: unknown error {other}"),
        }
    }
}

#[test]
fn every_boot_spends_a_try_as_in_the_documented_series() {
    let known = boot_vectors().boot_series;
    assert_eq!(known.len(), 3);
    for SeriesVector { series } in known {
        for pair in series.windows(2) {
            let after = CountedName::parse(&pair[0]).spent().file_name();
            assert_eq!(after, pair[1], "after booting {}", pair[0]);
        }
        let last = CountedName::parse(series.last().expect("a series is not empty"));
        assert_eq!(last.counter.map(|counter| counter.left), Some(0));
    }
}

#[test]
fn entries_are_blessed_as_systemd_bless_boot_does() {
    let known = boot_vectors().bless;
    assert_eq!(known.len(), 7);
    // Our entries have names of their own, so that of the vectors' the counter is taken.
    let entry = |file: &str| {
        let name = CountedName::parse(file);
        let version = partition_layout::Version::parse("1").expect("good");
        BootEntry {
            version,
            counter: name.counter,
        }
    };
    for BlessVector {
        verb,
        before,
        after,
    } in known
    {
        let wanted = entry(&after).file_name();
        let found = match (verb.as_str(), before) {
            ("good", Some(before)) => BootEntry::good(entry(&before).version),
            ("bad", Some(before)) => entry(&before).demoted(),
            // Nothing is renamed back here: a verdict is given once.
            ("indeterminate", None) => entry(&after),
            (verb, before) => panic!("unknown vector {verb} {before:?}"),
        };
        assert_eq!(found.file_name(), wanted, "{verb}");
    }
}

#[test]
fn names_padded_by_newer_loaders_are_read_as_the_same_counters() {
    let known = boot_vectors().spec_newer_padding;
    assert_eq!(known.len(), 3);
    for PaddingVector { before, after } in known {
        let expected = CountedName::parse(&before).spent();
        let found = CountedName::parse(&after);
        assert_eq!(found.id, expected.id);
        let (found, expected) = (
            found.counter.expect("counted"),
            expected.counter.expect("counted"),
        );
        assert_eq!(found.left, expected.left, "{before} -> {after}");
        // A newer loader stops counting what is done when its digits are used up.
        let used_up = before.contains("-99.");
        assert!(
            found.done == expected.done || used_up,
            "{before} -> {after}"
        );
    }
}

#[test]
fn the_model_boots_and_renames_what_systemd_boot_was_seen_to() {
    let known = boot_vectors().observed;
    assert_eq!(known.len(), 21);
    let mut seen = BTreeMap::<String, usize>::new();
    for ObservedVector { systemd, states } in known {
        for pair in states.windows(2) {
            let entries: Vec<_> = pair[0]
                .iter()
                .map(|name| LoaderEntry::by_name(name))
                .collect();
            let chosen = choose_entry(&entries)
                .expect("there are entries")
                .name
                .clone();
            let rename = |name: &String| match CountedName::parse(name) == chosen {
                // Without a counter nothing is renamed.
                true if chosen.counter.is_some() => chosen.spent().file_name(),
                true | false => name.clone(),
            };
            let mut after: Vec<_> = pair[0].iter().map(rename).collect();
            after.sort();
            assert_eq!(after, pair[1], "systemd {systemd} with {:?}", pair[0]);
            *seen.entry(systemd.clone()).or_default() += 1;
        }
    }
    assert!(seen.values().all(|&boots| boots >= 10), "{seen:?}");
}
