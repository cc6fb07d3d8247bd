//! Every combination of labels, entries and records.

use jiff::Timestamp;
use partition_layout::Slot;

use super::*;
use crate::machine::rest;
use crate::pstore;

const BOOTED: Slot = Slot::A;
const SPARE: Slot = Slot::B;

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

fn hash(byte: u8) -> RootHash {
    RootHash::new([byte; 32])
}

fn entry(name: &str) -> BootEntry {
    BootEntry::parse_file_name(&format!("bistable_{name}.efi")).unwrap()
}

fn when(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Release 2 runs from slot A, release 3 is in slot B.
fn seen(entries: &[&str]) -> Observed {
    let slot = |name: &str, byte| SlotOnDisk {
        content: SlotContent::Holds {
            version: version(name),
            root_hash: hash(byte),
        },
        root_len: 100,
        verity_len: 10,
    };
    Observed {
        disk: DiskView {
            booted: BOOTED,
            booted_version: version("2"),
            booted_root_hash: hash(2),
            a: slot("2", 2),
            b: Some(slot("3", 3)),
        },
        entries: entries.iter().map(|name| entry(name)).collect(),
        leftover: Leftover::Nothing,
        has_variables: true,
        boot_id: "now".to_owned(),
        settled: false,
        trial: None,
        last_good: None,
        dumps: vec![],
        boots: vec![],
        verdict: None,
        last_rollback: None,
        barred: vec![],
        floor: None,
        history: vec![],
        totals: Totals::default(),
    }
}

fn trial(slot: Slot, boot_id: &str, way: Way) -> Trial {
    let (version, root_hash) = match slot {
        BOOTED => (version("2"), hash(2)),
        SPARE => (version("3"), hash(3)),
    };
    Trial {
        boot_id: boot_id.to_owned(),
        armed_at: when(100),
        slot,
        version,
        root_hash,
        tries: 3,
        way,
        older_verdict: Some("long ago".to_owned()),
        older_dumps: vec![],
    }
}

fn verdict(boot_id: &str) -> GateVerdict {
    GateVerdict {
        boot_id: boot_id.to_owned(),
        root_hash: hash(3),
        verdict: Passed::Fail,
        check: "check".to_owned(),
        unit: "unit".to_owned(),
        reason: "the gate's reason".to_owned(),
        lines: vec![],
    }
}

fn told(armed_at: i64) -> Rollback {
    Rollback {
        kind: Departure::Trial,
        version: version("3"),
        root_hash: hash(3),
        check: String::new(),
        unit: String::new(),
        reason: "told".to_owned(),
        panic: String::new(),
        when: when(200),
        lines: vec![],
        tries: 1,
        armed_at: Some(when(armed_at)),
        boot_id: "the trial".to_owned(),
    }
}

fn state_of(entries: &[&str]) -> &'static str {
    rest(Box::new(derive(&seen(entries)))).name()
}

#[test]
fn the_state_is_told_by_the_entries() {
    for (entries, state, spare) in [
        (&["2", "3"] as &[&str], "idle", SlotStatus::Good),
        (&["2", "3+3"], "staged", SlotStatus::Armed),
        (&["2", "3+2-1"], "staged", SlotStatus::Armed),
        (&["2", "3+0-3"], "idle", SlotStatus::Bad),
        (&["2", "3+0"], "idle", SlotStatus::Demoted),
        (&["2"], "idle", SlotStatus::Bad),
        (&["2+2-1", "3"], "trial", SlotStatus::Good),
        // On its last try the booted entry says +0 already.
        (&["2+0-1", "3"], "trial", SlotStatus::Good),
        // Everything is out of tries, and the newest bad one runs again.
        (&["2+0-4", "3+0-3"], "trial", SlotStatus::Bad),
        (&["2+0-5"], "trial", SlotStatus::Bad),
        (&["3"], "condemned", SlotStatus::Good),
        (&[], "condemned", SlotStatus::Bad),
        // An armed spare beside a trial is not what the next boot is for.
        (&["2+1-1", "3+3"], "trial", SlotStatus::Armed),
        // A rename that was torn has left both names.
        (&["2", "2+2-1", "3"], "idle", SlotStatus::Good),
        (&["2", "3+0-3", "3+1-2"], "staged", SlotStatus::Armed),
        // Not padded, or padded.
        (&["2", "3+03"], "staged", SlotStatus::Armed),
        // No counter at all: part of no version of ours, so nobody's entry.
        (&["2", "4"], "idle", SlotStatus::Bad),
        // On watch, from the first start to the last but one.
        (&["2+15", "3+0"], "idle", SlotStatus::Demoted),
        (&["2+1-14", "3"], "idle", SlotStatus::Good),
        (&["2", "3+15"], "idle", SlotStatus::Good),
        (&["2", "3+1-14"], "idle", SlotStatus::Good),
        // On the last it is a trial again, and one that was started in vain so often is bad.
        (&["2+0-15", "3"], "trial", SlotStatus::Good),
        (&["2", "3+0-15"], "idle", SlotStatus::Bad),
        (&["2+0-99", "3+0-15"], "trial", SlotStatus::Bad),
        // The most tries that a trial has.
        (&["2+9-1", "3"], "trial", SlotStatus::Good),
        (&["2", "3+10"], "staged", SlotStatus::Armed),
        (&["2+14-1", "3+3"], "staged", SlotStatus::Armed),
    ] {
        assert_eq!(state_of(entries), state, "{entries:?}");
        assert_eq!(derive(&seen(entries)).spare.status, spare, "{entries:?}");
    }
}

#[test]
fn an_entry_belongs_to_the_booted_slot_when_both_slots_have_its_version() {
    let mut seen = seen(&["2"]);
    seen.disk.b.as_mut().unwrap().content = SlotContent::Holds {
        version: version("2.0"),
        root_hash: hash(9),
    };
    let node = derive(&seen);
    // 2 and 2.0 are not the same version, 2.0 and 2.00 are.
    assert_eq!(node.spare.status, SlotStatus::Bad);
    seen.disk.b.as_mut().unwrap().content = SlotContent::Holds {
        version: version("2"),
        root_hash: hash(9),
    };
    let node = derive(&seen);
    assert_eq!(node.spare.status, SlotStatus::Unknown);
    assert_eq!(
        (node.spare.entry, node.booted.standing),
        (None, Standing::Good)
    );
}

#[test]
fn a_disk_as_shipped_has_one_slot() {
    let mut seen = seen(&["2"]);
    seen.disk.b = None;
    let node = derive(&seen);
    assert_eq!(
        (node.spare.status, node.spare.root_len),
        (SlotStatus::Empty, 0)
    );
    // What was shipped is the first floor: an older release must not set a lower one.
    let version = version("2");
    assert_eq!(
        settle(&seen, &node),
        [
            Effect::MarkSettled,
            Effect::RaiseFloor {
                version: version.clone()
            }
        ]
    );
    assert_eq!(node.floor, Some(version));
}

fn reason_of(effects: &[Effect]) -> Option<&str> {
    effects.iter().find_map(|effect| {
        if let Effect::RecordRollback(blame) = effect {
            Some(blame.complaint.reason.as_str())
        } else {
            None
        }
    })
}

#[test]
fn why_a_trial_was_left_is_told_from_what_it_left_behind() {
    for (entries, boot, verdict_of, way, leftover, expected) in [
        (
            &["2", "3+0-3"] as &[&str],
            "old",
            None,
            Way::Order,
            Leftover::Nothing,
            Some("3 times"),
        ),
        (
            &["2", "3+0-3"],
            "old",
            Some("the trial"),
            Way::Order,
            Leftover::Nothing,
            Some("the gate's"),
        ),
        (
            &["2", "3+1-2"],
            "old",
            Some("the trial"),
            Way::Order,
            Leftover::Nothing,
            Some("the gate's"),
        ),
        (
            &["2"],
            "old",
            Some("the trial"),
            Way::Order,
            Leftover::Nothing,
            Some("the gate's"),
        ),
        (
            &["2"],
            "old",
            None,
            Way::Order,
            Leftover::Nothing,
            Some("entry has gone"),
        ),
        // Its removal was cut short.
        (
            &["2"],
            "old",
            Some("the trial"),
            Way::Order,
            Leftover::Removed,
            Some("the gate's"),
        ),
        (
            &["2"],
            "old",
            None,
            Way::Order,
            Leftover::Removed,
            Some("entry has gone"),
        ),
        // A verdict of an earlier trial, of the boot that armed it, of this one.
        (
            &["2", "3+1-2"],
            "old",
            Some("long ago"),
            Way::Order,
            Leftover::Nothing,
            None,
        ),
        (
            &["2", "3+3"],
            "old",
            Some("old"),
            Way::Order,
            Leftover::Nothing,
            None,
        ),
        (
            &["2", "3+1-2"],
            "old",
            Some("now"),
            Way::Order,
            Leftover::Nothing,
            None,
        ),
        // Still to be tried.
        (
            &["2", "3+3"],
            "now",
            None,
            Way::Order,
            Leftover::Nothing,
            None,
        ),
        (
            &["2", "3+3"],
            "old",
            None,
            Way::Order,
            Leftover::Nothing,
            None,
        ),
        (
            &["2", "3+2-1"],
            "old",
            None,
            Way::Order,
            Leftover::Nothing,
            None,
        ),
        (
            &["2", "3+2"],
            "old",
            None,
            Way::OneShot,
            Leftover::Nothing,
            None,
        ),
        // A wish works once.
        (
            &["2", "3+1-1"],
            "old",
            None,
            Way::OneShot,
            Leftover::Nothing,
            Some("once"),
        ),
        // Cut before arming: there never was a trial.
        (&["2"], "old", None, Way::Order, Leftover::Unfinished, None),
        (&["2"], "now", None, Way::Order, Leftover::Nothing, None),
        (
            &["2", "3"],
            "old",
            None,
            Way::OneShot,
            Leftover::Nothing,
            None,
        ),
        (
            &["2", "3+0"],
            "old",
            None,
            Way::Order,
            Leftover::Nothing,
            None,
        ),
    ] {
        let mut seen = seen(entries);
        seen.trial = Some(trial(SPARE, boot, way));
        seen.verdict = verdict_of.map(verdict);
        seen.leftover = leftover;
        let effects = settle(&seen, &derive(&seen));
        let reason = reason_of(&effects);
        let context = format!("{entries:?} {boot} {verdict_of:?} {way:?} {leftover:?}: {reason:?}");
        match expected {
            Some(part) => assert!(
                reason.is_some_and(|reason| reason.contains(part)),
                "{context}"
            ),
            None => assert_eq!(reason, None, "{context}"),
        }
    }
}

/// Release 3 was started once or more, and release 2 runs again.
fn left_in_silence(entry: &str, way: Way) -> Observed {
    let mut seen = seen(&["2", entry]);
    seen.trial = Some(trial(SPARE, "old", way));
    seen
}

fn panic_of_release_3() -> Vec<Dump> {
    let text = format!(
        "Panic#1 Part1\n<6>[    1.1] slot B is opened as dm-0 with root hash {}\n\
         <0>[    2.2] Kernel panic - not syncing: Attempted to kill init!\n",
        hash(3)
    );
    pstore::assemble(&[pstore::DumpFile {
        name: "dmesg-efi_pstore-20001001".to_owned(),
        content: text.into_bytes(),
    }])
}

fn complaint_of(seen: &Observed) -> Complaint {
    let effects = settle(seen, &derive(seen));
    let blamed = effects.into_iter().find_map(|effect| {
        if let Effect::RecordRollback(blame) = effect {
            Some(blame.complaint)
        } else {
            None
        }
    });
    blamed.expect("it was left")
}

#[test]
fn a_trial_that_panicked_is_told_with_the_kernels_words() {
    let mut seen = left_in_silence("3+0-2", Way::Order);
    seen.dumps = panic_of_release_3();
    let complaint = complaint_of(&seen);
    assert_eq!(complaint.panic, "Attempted to kill init!");
    assert_eq!(
        complaint.reason,
        "it was started 2 times, and the kernel panicked: Attempted to kill init!"
    );
    let [line] = &complaint.lines[..] else {
        panic!("{complaint:?}")
    };
    assert!(line.contains("Kernel panic"), "{line}");
    // What was lying there when it was armed was another's.
    seen.trial.as_mut().unwrap().older_dumps = seen.dumps.iter().map(Dump::id).collect();
    assert_eq!(complaint_of(&seen).panic, "");
}

#[test]
fn a_release_that_panicked_in_its_one_start_is_no_victim_of_a_power_cut() {
    let mut seen = left_in_silence("3+1-1", Way::OneShot);
    let bars = |seen: &Observed| {
        let effects = settle(seen, &derive(seen));
        effects.iter().any(|it| matches!(it, Effect::Bar { .. }))
    };
    assert!(!bars(&seen));
    seen.dumps = panic_of_release_3();
    assert!(bars(&seen));
}

#[test]
fn a_trial_without_a_word_is_told_by_how_far_it_got() {
    let arming = "01d 2";
    for (boots, expected) in [
        (&[arming, "f00 3"] as &[&str], "reached userspace, and"),
        (&[arming], "never reached userspace"),
        // This boot, and one of the old release in between.
        (&[arming, "f01 2", "40c 2"], "never reached userspace"),
        // An earlier trial of the same release.
        (&["f00 3", arming], "never reached userspace"),
        // The list was lost, or begins later.
        (&[], "no verdict was recorded"),
        (&["f00 3"], "no verdict was recorded"),
    ] {
        let mut seen = left_in_silence("3+0-3", Way::Order);
        seen.trial.as_mut().unwrap().boot_id = "0-1d".to_owned();
        seen.boot_id = "4-0c".to_owned();
        seen.boots = boots.iter().filter_map(|line| Boot::parse(line)).collect();
        let reason = complaint_of(&seen).reason;
        assert!(reason.starts_with("it was started 3 times; "), "{reason}");
        assert!(reason.contains(expected), "{boots:?}: {reason}");
    }
}

#[test]
fn what_failed_in_this_boot_is_a_last_resort_while_nothing_else_was_good() {
    for (entries, state) in [
        (&["2+0-1"] as &[&str], "last-resort"),
        (&["2+0-5", "3+0-3"], "last-resort"),
        // Staged by force meanwhile.
        (&["2+0-1", "3+3"], "last-resort"),
        (&["2+0-1", "3"], "trial"),
        (&["2"], "idle"),
        (&["3"], "condemned"),
    ] {
        let mut seen = seen(entries);
        seen.settled = true;
        let node = derive(&seen);
        assert_eq!(rest(Box::new(node.clone())).name(), state, "{entries:?}");
        if state == "last-resort" {
            assert_eq!(node.booted_status(), SlotStatus::Bad);
            assert_eq!(node.way_to(&version("1")), Way::Order);
            assert_eq!(settle(&seen, &node), []);
        }
    }
}

#[test]
fn a_trial_that_was_asked_for_once_is_barred_by_a_verdict_or_by_its_last_try_alone() {
    for (entries, verdict_of, way, barred) in [
        // The power may have failed.
        (&["2", "3+1-1"], None, Way::OneShot, false),
        (&["2", "3+1-1"], Some("long ago"), Way::OneShot, false),
        (&["2", "3+1-1"], Some("the trial"), Way::OneShot, true),
        (&["2", "3+0-2"], None, Way::OneShot, true),
        (&["2", "3+0-3"], None, Way::Order, true),
    ] {
        for told in [None, Some(told(100))] {
            let mut seen = seen(entries);
            seen.trial = Some(trial(SPARE, "old", way));
            seen.verdict = verdict_of.map(verdict);
            seen.last_rollback = told;
            let effects = settle(&seen, &derive(&seen));
            let context = format!("{entries:?} {verdict_of:?} {way:?}: {effects:?}");
            let bars = |effect: &Effect| matches!(effect, Effect::Bar { .. });
            assert_eq!(effects.iter().any(bars), barred, "{context}");
            let remembers = |effect: &Effect| matches!(effect, Effect::Remember(_));
            assert!(effects.iter().any(remembers), "{context}");
            assert!(effects.contains(&Effect::ForgetTrial), "{context}");
        }
    }
}

fn rename(seen: &mut Observed, from: &BootEntry, to: BootEntry) {
    let found = seen.entries.iter_mut().find(|entry| *entry == from);
    *found.expect("the entry is there") = to;
}

/// Does to what was seen what the hands do to the node.
fn apply(seen: &mut Observed, effects: &[Effect]) {
    for effect in effects {
        match effect {
            Effect::Disarm { booted, .. } => {
                seen.entries.retain(|entry| entry.version == *booted);
                seen.leftover = Leftover::Nothing;
                if let Some(spare) = &mut seen.disk.b {
                    spare.content = SlotContent::Empty;
                }
            }
            Effect::RecordRollback(blame) => {
                seen.last_rollback = Some(Rollback {
                    version: blame.version.clone(),
                    root_hash: blame.root_hash,
                    armed_at: blame.armed_at,
                    ..told(0)
                });
            }
            Effect::Bar {
                version,
                root_hash,
                reason,
            } => seen.barred.push(Barred {
                root_hash: *root_hash,
                version: version.clone(),
                reason: reason.clone(),
                when: when(1),
            }),
            Effect::Forgive { root_hash } => {
                seen.barred.retain(|barred| barred.root_hash != *root_hash);
            }
            Effect::RaiseFloor { version } => seen.floor = Some(version.clone()),
            Effect::RecordGood {
                version, root_hash, ..
            } => {
                seen.last_good = Some(good(version.as_str(), *root_hash));
            }
            Effect::Bless { entry } => rename(seen, entry, BootEntry::good(entry.version.clone())),
            Effect::Watch { entry } => {
                rename(seen, entry, BootEntry::watched(entry.version.clone()));
            }
            Effect::ForgetTrial => seen.trial = None,
            Effect::MarkSettled => seen.settled = true,
            Effect::Remember(_) | Effect::Announce(_) => {}
            Effect::Interrupt
            | Effect::Hold
            | Effect::LetGo
            | Effect::EndJob(_)
            | Effect::Refresh
            | Effect::Resolve { .. }
            | Effect::Survey { .. }
            | Effect::CheckRoom { .. }
            | Effect::WriteTree { .. }
            | Effect::WriteRoot { .. }
            | Effect::ReadBack { .. }
            | Effect::Label { .. }
            | Effect::WriteKernel { .. }
            | Effect::CheckWhole { .. }
            | Effect::Mend { .. }
            | Effect::RecordTrial { .. }
            | Effect::Arm { .. }
            | Effect::Rearm { .. }
            | Effect::PutBack { .. }
            | Effect::AskFor { .. }
            | Effect::Demote { .. }
            | Effect::RemoveBooted { .. }
            | Effect::Reboot(_) => panic!("settling does not {}", effect.name()),
        }
    }
}

fn every_combination(mut look: impl FnMut(Observed)) {
    let booted = [
        None,
        Some("2"),
        Some("2+14-1"),
        Some("2+2-1"),
        Some("2+0-3"),
        Some("2+0"),
    ];
    let spare = [
        None,
        Some("3"),
        Some("3+3"),
        Some("3+2-1"),
        Some("3+0-3"),
        Some("3+0"),
        Some("3+14-1"),
    ];
    let contents = [
        SlotContent::Empty,
        SlotContent::Unknown {
            why: "torn".to_owned(),
        },
        SlotContent::Holds {
            version: version("3"),
            root_hash: hash(3),
        },
        SlotContent::Holds {
            version: version("1"),
            root_hash: hash(1),
        },
    ];
    let mut trials = vec![None];
    for slot in [BOOTED, SPARE] {
        for boot in ["now", "old"] {
            for way in [Way::Order, Way::OneShot] {
                trials.push(Some(trial(slot, boot, way)));
            }
        }
    }
    let verdicts = [
        None,
        Some(verdict("the trial")),
        Some(verdict("long ago")),
        Some(verdict("now")),
    ];
    let tellings = [None, Some(told(100)), Some(told(99))];
    for (own, other) in booted
        .iter()
        .flat_map(|own| spare.iter().map(move |other| (own, other)))
    {
        let names: Vec<&str> = own.iter().chain(other).copied().collect();
        for (content, trial) in contents
            .iter()
            .flat_map(|content| trials.iter().map(move |trial| (content, trial)))
        {
            for (verdict, told) in verdicts
                .iter()
                .flat_map(|verdict| tellings.iter().map(move |told| (verdict, told)))
            {
                for (leftover, barred, last) in [
                    (Leftover::Nothing, false, None),
                    (Leftover::Unfinished, false, None),
                    (Leftover::Removed, false, None),
                    (Leftover::Nothing, true, None),
                    (Leftover::Nothing, false, Some(2)),
                    (Leftover::Nothing, false, Some(3)),
                ] {
                    let mut seen = seen(&names);
                    seen.disk.b.as_mut().unwrap().content = content.clone();
                    seen.trial.clone_from(trial);
                    seen.verdict.clone_from(verdict);
                    seen.last_rollback.clone_from(told);
                    seen.leftover = leftover;
                    seen.last_good = last.map(|number| good(&number.to_string(), hash(number)));
                    if barred {
                        seen.barred.push(Barred {
                            root_hash: hash(3),
                            version: version("3"),
                            reason: String::new(),
                            when: when(1),
                        });
                    }
                    look(seen);
                }
            }
        }
    }
}

#[test]
fn settling_writes_only_beside_a_good_slot_and_is_done_the_first_time() {
    every_combination(|seen| {
        let node = derive(&seen);
        let effects = settle(&seen, &node);
        let context = || format!("{seen:?}\n{effects:?}");
        for effect in &effects {
            if let Effect::Disarm { spare, booted } = effect {
                assert_eq!((*spare, booted), (SPARE, &version("2")), "{}", context());
                assert_eq!(node.booted.standing, Standing::Good, "{}", context());
                // What boots by right stays, unless its trial was left.
                assert_ne!(node.spare.status, SlotStatus::Good, "{}", context());
                let own = seen.entries.iter().filter(|it| it.version == version("2"));
                let place = effects.iter().position(|it| it == effect);
                let ended = |it: &&BootEntry| {
                    let bless = Effect::Bless {
                        entry: (*it).clone(),
                    };
                    effects.iter().position(|effect| *effect == bless) < place
                };
                assert!(
                    own.filter(|it| it.counter.is_some())
                        .all(|it| ended(&it) && it.is_good()),
                    "{}",
                    context()
                );
                if node.spare.status == SlotStatus::Demoted {
                    assert!(seen.verdict.is_some() || seen.last_rollback.is_some());
                }
                if node.spare.status == SlotStatus::Armed {
                    assert!(
                        seen.trial
                            .as_ref()
                            .is_some_and(|trial| trial.boot_id == "old")
                    );
                }
            }
        }
        let blames = effects
            .iter()
            .filter(|it| matches!(it, Effect::RecordRollback(_)))
            .count();
        assert!(blames <= 1, "{}", context());
        if blames == 1 && node.gave_way.is_none() {
            assert!(
                seen.trial
                    .as_ref()
                    .is_some_and(|it| it.slot == SPARE && it.boot_id == "old")
            );
        }
        let settled = effects.contains(&Effect::MarkSettled);
        assert_eq!(
            settled,
            node.booted.standing == Standing::Good,
            "{}",
            context()
        );

        let mut after = seen.clone();
        apply(&mut after, &effects);
        let again: Vec<Effect> = settle(&after, &derive(&after))
            .into_iter()
            .filter(|effect| *effect != Effect::MarkSettled)
            .collect();
        assert_eq!(again, [], "{}", context());
        // A verdict, or the last of several tries; what was started once may be innocent.
        let several = |it: &Trial| it.way == Way::Order;
        let came_true = derive(&after);
        assert!(
            came_true.gave_way.is_none() || came_true.booted.standing != Standing::Good,
            "{}",
            context()
        );
        let is_alone = !came_true.spare_boots_by_right();
        if node.booted.standing == Standing::Good && is_alone {
            let entry = came_true.booted.entry.as_ref();
            assert!(
                entry.is_some_and(|it| it.counter.is_none()),
                "{}",
                context()
            );
        }
        if blames == 1 && seen.trial.as_ref().is_some_and(several) {
            assert!(derive(&after).barred(&hash(3)).is_some(), "{}", context());
        }
    });
}

fn good(name: &str, root_hash: RootHash) -> LastGood {
    LastGood {
        boot_id: "came-up".to_owned(),
        when: when(100),
        slot: SPARE,
        version: version(name),
        root_hash,
        older_dumps: vec![],
    }
}

/// Release 3 was good last, and release 2 runs.
fn left_by_good(entries: &[&str]) -> Observed {
    let mut seen = seen(entries);
    seen.last_good = Some(good("3", hash(3)));
    seen
}

#[test]
fn a_good_release_that_boots_no_more_is_told_by_what_the_disk_has_of_it() {
    let empty = SlotContent::Empty;
    for (entries, content, expected) in [
        (
            &["2", "3+0-15"] as &[&str],
            None,
            Some("started 15 times without coming up"),
        ),
        (&["2", "3+0-16"], None, Some("started 16 times")),
        (&["2"], None, Some("its kernel image has gone")),
        (
            &["2"],
            Some(empty.clone()),
            Some("its slot does not hold it"),
        ),
        (
            &["2", "3+0-15"],
            Some(empty),
            Some("its slot does not hold it"),
        ),
        // It boots, or would: somebody has chosen this one.
        (&["2", "3"], None, None),
        (&["2", "3+4-11"], None, None),
        (&["2", "3+0"], None, None),
        // Nothing is told, nor cleared, before the running one is good.
        (&["2+0-1", "3+0-15"], None, None),
        (&["2+2-1", "3+0-15"], None, None),
    ] {
        let mut seen = left_by_good(entries);
        if let Some(content) = content {
            seen.disk.b.as_mut().unwrap().content = content;
        }
        let effects = settle(&seen, &derive(&seen));
        let reason = reason_of(&effects);
        let context = format!("{entries:?}: {effects:?}");
        match expected {
            Some(part) => {
                assert!(
                    reason.is_some_and(|reason| reason.contains(part)),
                    "{context}"
                );
                assert!(
                    !effects.iter().any(|it| matches!(it, Effect::Bar { .. })),
                    "{context}"
                );
            }
            None => assert_eq!(reason, None, "{context}"),
        }
    }
}

#[test]
fn what_ended_a_good_release_is_told_from_what_it_left_behind() {
    let mut seen = left_by_good(&["2", "3+0-15"]);
    seen.dumps = panic_of_release_3();
    let complaint = complaint_of(&seen);
    assert_eq!(complaint.panic, "Attempted to kill init!");
    assert!(
        complaint
            .reason
            .ends_with("the kernel panicked: Attempted to kill init!")
    );
    // It has panicked once, long ago, and came up after that.
    seen.last_good.as_mut().unwrap().older_dumps = seen.dumps.iter().map(Dump::id).collect();
    assert_eq!(complaint_of(&seen).panic, "");
    seen.last_good.as_mut().unwrap().boot_id = "0-1d".to_owned();
    for (boots, expected) in [
        (&["01d 3"] as &[&str], "never reached userspace"),
        (&["01d 3", "f00 3"], "it reached userspace"),
    ] {
        seen.boots = boots.iter().filter_map(|line| Boot::parse(line)).collect();
        let reason = complaint_of(&seen).reason;
        assert!(reason.ends_with(expected), "{reason}");
    }
}

#[test]
fn an_image_is_barred_when_it_gives_way_after_it_had_been_made_good_again() {
    use Happened::{Forgiven, GaveWay, Good, Staged};
    for (history, barred) in [
        (&[] as &[Happened], false),
        (&[Good], false),
        // The telling was cut short, and comes again.
        (&[Good, GaveWay], false),
        (&[Good, GaveWay, Staged], false),
        (&[Good, GaveWay, Staged, Good], true),
        (&[Good, GaveWay, Good, GaveWay], true),
        (&[Good, GaveWay, Good, GaveWay, Forgiven, Good], false),
    ] {
        let mut seen = left_by_good(&["2", "3+0-15"]);
        let line = |event: &Happened, byte| HistoryLine {
            when: when(1),
            event: *event,
            version: None,
            root_hash: Some(hash(byte)),
            slot: None,
            message: String::new(),
            by: None,
            error: None,
            cost: crate::history::Cost::default(),
        };
        // What another image did is not this one's.
        let others = [line(&GaveWay, 2), line(&Good, 2)];
        seen.history = history
            .iter()
            .map(|event| line(event, 3))
            .chain(others)
            .collect();
        let effects = settle(&seen, &derive(&seen));
        let bars = effects.iter().any(|it| matches!(it, Effect::Bar { .. }));
        assert_eq!(bars, barred, "{history:?}");
    }
}

#[test]
fn a_good_slot_is_watched_while_it_comes_first_and_the_other_boots_by_right() {
    let pass = |boot_id: &str| GateVerdict {
        root_hash: hash(2),
        verdict: Passed::Pass,
        ..verdict(boot_id)
    };
    let watch = |name: &str| Effect::Watch { entry: entry(name) };
    let bless = |name: &str| Effect::Bless { entry: entry(name) };
    for (entries, held, boot, expected) in [
        // The boot has come up.
        (&["2", "1"] as &[&str], "1", "now", vec![watch("2")]),
        (&["2+14-1", "1"], "1", "now", vec![watch("2+14-1")]),
        (&["2+15", "1"], "1", "now", vec![]),
        (&["2+14-1", "3+0"], "3", "now", vec![watch("2+14-1")]),
        // What it would give way to is never counted.
        (
            &["2+14-1", "1+15"],
            "1",
            "now",
            vec![bless("1+15"), watch("2+14-1")],
        ),
        // It has not, or another one did.
        (&["2+14-1", "1"], "1", "old", vec![]),
        (&["2", "1"], "1", "old", vec![]),
        // The boot loader takes the other one first.
        (&["2", "3"], "3", "now", vec![]),
        (&["2", "3+15"], "3", "now", vec![]),
        (&["2+14-1", "3"], "3", "old", vec![bless("2+14-1")]),
        // There is nothing to give way to: at once, not when the boot has come up.
        (&["2+14-1"], "1", "old", vec![bless("2+14-1")]),
        (&["2+14-1", "1+0-3"], "1", "old", vec![bless("2+14-1")]),
        (&["2+14-1", "3+3"], "3", "old", vec![bless("2+14-1")]),
        (&["2+14-1", "1+3"], "1", "now", vec![bless("2+14-1")]),
    ] {
        let mut seen = seen(entries);
        let number = held.parse().unwrap();
        seen.disk.b.as_mut().unwrap().content = SlotContent::Holds {
            version: version(held),
            root_hash: hash(number),
        };
        seen.verdict = Some(pass(boot));
        let effects = settle(&seen, &derive(&seen));
        let names: Vec<_> = effects
            .into_iter()
            .filter(|it| matches!(it, Effect::Watch { .. } | Effect::Bless { .. }))
            .collect();
        assert_eq!(names, expected, "{entries:?} {boot}");
    }
}
