use std::collections::BTreeMap;

use super::super::model::{Held, NamedError, Way};
use super::*;

fn at(text: &str) -> Option<Timestamp> {
    Some(text.parse().unwrap())
}

fn idle() -> Status {
    Status {
        state: "idle".to_owned(),
        booted_slot: "A".to_owned(),
        booted_version: "1.2.0".to_owned(),
        booted_root_hash: "5a".repeat(32),
        staged_version: None,
        available_version: None,
        floor: Some("1.1.0".to_owned()),
        last_check: None,
        last_error: None,
        last_rollback: None,
        automatic: "check".to_owned(),
        held: None,
        next_window: None,
        settings_error: None,
        job: None,
        daemon_version: "0.1.0".to_owned(),
    }
}

fn staging() -> Job {
    Job {
        kind: "stage".to_owned(),
        version: Some("1.3.0".to_owned()),
        phase: "root".to_owned(),
        bytes_done: 58_720_256,
        bytes_total: 220_200_960,
        paused_by: None,
        plan: vec![],
        plan_fetch: 0,
        result: None,
        error: None,
    }
}

#[test]
fn an_idle_node_is_told_in_a_few_lines() {
    insta::assert_snapshot!(status(&idle()));
}

#[test]
fn a_node_after_a_rollback_tells_which_check_and_unit_and_shows_the_last_lines() {
    let rolled_back = Status {
        available_version: Some("1.3.0".to_owned()),
        last_check: at("2026-05-02T12:00:00Z"),
        last_error: Some(NamedError {
            name: "io.bistable.Error.Barred".to_owned(),
            message: "release 1.3.0 failed on this node".to_owned(),
        }),
        last_rollback: Some(LastRollback {
            kind: "trial".to_owned(),
            version: "1.3.0".to_owned(),
            root_hash: "a5".repeat(32),
            check: Some("containerd".to_owned()),
            unit: Some("containerd.service".to_owned()),
            reason: "containerd.service is failed".to_owned(),
            panic: None,
            when: at("2026-05-02T11:00:00Z"),
            lines: vec!["exit status 1".to_owned(), "Failed with result".to_owned()],
            tries: 1,
        }),
        ..idle()
    };
    insta::assert_snapshot!(status(&rolled_back));
}

#[test]
fn a_node_at_work_tells_how_far_it_is() {
    let busy = Status {
        state: "staging".to_owned(),
        job: Some(staging()),
        ..idle()
    };
    insta::assert_snapshot!(status(&busy));
}

#[test]
fn a_staged_release_comes_with_what_to_do_next() {
    let staged = Status {
        state: "staged".to_owned(),
        staged_version: Some("1.3.0".to_owned()),
        ..idle()
    };
    insta::assert_snapshot!(status(&staged));
}

#[test]
fn what_a_node_waits_for_is_told() {
    let waiting = Status {
        automatic: "reboot".to_owned(),
        held: Some(Held {
            name: "window-closed".to_owned(),
            message: "1.3.0 waits for a window; the next one opens 2026-05-02 20:00 UTC".to_owned(),
        }),
        next_window: at("2026-05-02T20:00:00Z"),
        settings_error: Some("/etc/bistable/updater.toml:3: tries is not a number".to_owned()),
        job: Some(Job {
            paused_by: Some("window".to_owned()),
            ..staging()
        }),
        ..idle()
    };
    insta::assert_snapshot!(status(&waiting));
}

#[test]
fn a_plan_is_a_table_of_ways_with_the_chosen_one_and_why_not_the_others() {
    let way = |part: &str, method: &str, fetch_bytes, requests, why_not: &str| Way {
        part: part.to_owned(),
        method: method.to_owned(),
        fetch_bytes,
        requests,
        unpack_bytes: 0,
        copy_bytes: 84_000_000,
        zero_bytes: 4096,
        kept_bytes: 0,
        write_bytes: 105_000_000,
        chosen: why_not.is_empty(),
        why_not: Some(why_not.to_owned()).filter(|why| !why.is_empty()),
    };
    let planned = Planned {
        version: Some("1.3.0".to_owned()),
        fetch_bytes: 23_000_000,
        ways: vec![
            way("root", "ranges", 26_400_000, 44, "dearer"),
            way("root", "whole", 105_000_000, 1, "dearer"),
            way("root", "packed", 0, 0, "not-published"),
            way("root", "patch", 22_000_000, 12, ""),
            way("uki", "local", 0, 0, "not-here"),
            way("uki", "whole", 11_700_000, 1, ""),
        ],
    };
    insta::assert_snapshot!(plan(&planned));
}

#[test]
fn progress_is_100_only_when_all_is_done() {
    let mut job = staging();
    job.bytes_done = job.bytes_total - 1;
    assert_eq!(percent(&job), Some(99));
    job.bytes_done = job.bytes_total;
    assert_eq!(percent(&job), Some(100));
    job.bytes_total = 0;
    assert_eq!(percent(&job), None);
    (job.bytes_done, job.bytes_total) = (u64::MAX - 1, u64::MAX);
    assert_eq!(percent(&job), Some(99));
}

#[test]
fn slots_are_a_table_with_what_matters() {
    let a = Slot {
        slot: "A".to_owned(),
        booted: true,
        version: Some("1.2.0".to_owned()),
        root_hash: Some("5a".repeat(32)),
        status: "good".to_owned(),
        tries_left: 0,
        tries_done: 0,
    };
    let b = Slot {
        slot: "B".to_owned(),
        booted: false,
        version: Some("1.3.0".to_owned()),
        root_hash: Some("a5".repeat(32)),
        status: "armed".to_owned(),
        tries_left: 3,
        tries_done: 0,
    };
    let empty = Slot {
        slot: "B".to_owned(),
        booted: false,
        version: None,
        root_hash: None,
        status: "empty".to_owned(),
        tries_left: 0,
        tries_done: 0,
    };
    insta::assert_snapshot!(slots(&[a.clone(), b]));
    insta::assert_snapshot!(slots(&[a, empty]));
}

#[test]
fn lists_say_so_when_they_are_empty() {
    assert_eq!(history(&[]), "nothing has happened yet\n");
    assert_eq!(barred(&[]), "no image has failed on this node\n");
    assert_eq!(
        releases(&[]),
        "no releases known; ask with `bistable check`\n"
    );
}

#[test]
fn the_history_is_a_table_newest_first() {
    let entry = |when, event: &str, version: &str, message: &str| Entry {
        when: at(when),
        event: event.to_owned(),
        version: Some(version.to_owned()),
        root_hash: None,
        slot: Some("B".to_owned()),
        message: Some(message.to_owned()).filter(|message| !message.is_empty()),
        error: None,
        who: None,
        uid: None,
        unit: None,
        bytes: BTreeMap::new(),
        millis: BTreeMap::new(),
    };
    let staged = Entry {
        who: Some("caller".to_owned()),
        uid: Some(1000),
        bytes: [
            ("fetched", 9_437_184),
            ("copied", 94_371_840),
            ("zero", 4096),
        ]
        .map(|(source, bytes)| (source.to_owned(), bytes))
        .into(),
        millis: [("tree", 700), ("root", 40_100)]
            .map(|(phase, millis)| (phase.to_owned(), millis))
            .into(),
        ..entry("2026-05-02T11:00:00Z", "staged", "1.3.0", "")
    };
    let entries = [
        entry(
            "2026-05-02T12:00:00Z",
            "rolled-back",
            "1.3.0",
            "check containerd failed",
        ),
        staged,
        Entry {
            unit: Some("bistable-health-gate.service".to_owned()),
            ..entry("2026-05-01T11:00:00Z", "good", "1.2.0", "")
        },
        Entry {
            version: None,
            slot: None,
            who: Some("policy".to_owned()),
            ..entry(
                "2026-05-01T10:00:00Z",
                "check-recovered",
                "",
                "after 37 checks that failed, the first 2026-05-01 00:45 UTC (RepositoryUnreachable)",
            )
        },
        Entry {
            version: None,
            slot: None,
            who: Some("policy".to_owned()),
            error: Some("RepositoryUnreachable".to_owned()),
            ..entry(
                "2026-05-01T00:45:00Z",
                "check-failed",
                "",
                "https://updates.example.net/bistable/ cannot be reached: no route to host",
            )
        },
    ];
    insta::assert_snapshot!(history(&entries));
}

#[test]
fn barred_images_are_shown_with_the_whole_hash_that_forgive_takes() {
    let image = Barred {
        root_hash: "a5".repeat(32),
        version: "1.3.0".to_owned(),
        reason: "containerd.service is failed".to_owned(),
        when: at("2026-05-02T11:00:00Z"),
    };
    assert!(barred(&[image]).contains(&"a5".repeat(32)));
}

#[test]
fn releases_are_marked_with_what_the_node_thinks_of_them() {
    let listed = |version: &str, newest, below_floor| Listed {
        version: version.to_owned(),
        newest,
        below_floor,
    };
    let all = [listed("1.3.0", true, false), listed("1.0.0", false, true)];
    insta::assert_snapshot!(releases(&all));
}

#[test]
fn a_reason_cannot_steer_the_terminal() {
    let mut rolled_back = idle();
    rolled_back.booted_version = "1\u{1b}[2J".to_owned();
    assert!(!status(&rolled_back).contains('\u{1b}'));
}
