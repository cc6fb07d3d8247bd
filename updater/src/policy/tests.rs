use partition_layout::{BootEntry, RootHash, Slot};
use release::Channel;
use release::rollout::Rollout;

use super::*;
use crate::machine::{Going, rest};
use crate::node::{Booted, SlotStatus, Spare, Standing};
use crate::records::Barred;
use crate::totals::Totals;

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A Saturday.
const NOW: &str = "2026-11-21T16:00:00Z";

fn node() -> Node {
    Node {
        booted: Booted {
            slot: Slot::A,
            version: version("1.2"),
            root_hash: RootHash::new([1; 32]),
            standing: Standing::Good,
            entry: Some(BootEntry::good(version("1.2"))),
        },
        spare: Spare {
            slot: Slot::B,
            status: SlotStatus::Empty,
            held: None,
            entry: None,
            root_len: 1 << 20,
            verity_len: 1 << 20,
        },
        has_variables: true,
        boot_id: "this".to_owned(),
        floor: Some(version("1.1")),
        barred: vec![],
        trial: None,
        came_up: false,
        gave_way: None,
        last_start: None,
        last_rollback: None,
        history: vec![],
        totals: Totals::default(),
    }
}

fn with_staged(name: &str) -> Node {
    let mut node = node();
    node.spare.status = SlotStatus::Armed;
    node.spare.held = Some((version(name), RootHash::new([2; 32])));
    node
}

fn offer(name: &str) -> Offer {
    Offer {
        channel: Channel {
            channel: ChannelName::parse("stable").unwrap(),
            release: version(name),
            releases: vec![version(name)],
            rollout: None,
        },
        versions: vec![version(name)],
    }
}

fn rules(automatic: Automatic) -> Rules {
    Rules {
        automatic,
        windows: Windows::default(),
        source: Some(Source {
            repository: Repository::parse("https://one/").unwrap(),
            channel: ChannelName::parse("stable").unwrap(),
        }),
        tries: 3,
        mistake: None,
    }
}

fn night() -> Windows {
    Windows::new(vec![Window {
        days: Days::parse("daily").unwrap(),
        from: TimeOfDay::parse("22:00").unwrap(),
        to: TimeOfDay::parse("04:00").unwrap(),
        zone: Zone::utc(),
    }])
}

/// A node that checked ten minutes ago.
struct Case {
    rules: Rules,
    state: State,
    offer: Option<Offer>,
    last_check: Option<Timestamp>,
    word: Word,
    last_attempt: Option<Attempt>,
    machine_id: MachineId,
    now: Timestamp,
}

impl Case {
    fn new(automatic: Automatic, node: Node, offered: &str) -> Self {
        Self {
            rules: rules(automatic),
            state: rest(Box::new(node)),
            offer: Some(offer(offered)),
            last_check: Some(at("2026-11-21T15:50:00Z")),
            word: Word::Heard,
            last_attempt: None,
            machine_id: MachineId::new("00000000000000000000000000000000\n"),
            now: at(NOW),
        }
    }

    fn decide(&self) -> Decision {
        let situation = Situation {
            state: &self.state,
            offer: self.offer.as_ref(),
            last_check: self.last_check,
            word: self.word,
            last_attempt: self.last_attempt.as_ref(),
            machine_id: &self.machine_id,
        };
        decide(&self.rules, &situation, self.now)
    }

    fn held(&self) -> &'static str {
        match self.decide() {
            Decision::Nothing(held) => held.name(),
            other @ (Decision::Check | Decision::Stage(_) | Decision::Reboot) => {
                panic!("not held: {other:?}")
            }
        }
    }
}

#[test]
fn the_word_of_another_channel_is_none() {
    for node in [node(), with_staged("1.3")] {
        let mut case = Case::new(Automatic::Reboot, node, "1.3");
        if let Some(offer) = &mut case.offer {
            offer.channel.channel = ChannelName::parse("canary").unwrap();
        }
        assert_eq!(case.decide(), Decision::Check);
    }
}

#[test]
fn each_word_goes_as_far_as_it_says() {
    for (automatic, idle, staged) in [
        (Automatic::Off, "off", "off"),
        (Automatic::Check, "only-checks", "only-stages"),
        (Automatic::Stage, "", "only-stages"),
        (Automatic::Reboot, "", ""),
    ] {
        let name = |decision| match decision {
            Decision::Nothing(held) => held.name(),
            Decision::Check => panic!("a check is not due"),
            Decision::Stage(_) | Decision::Reboot => "",
        };
        let from_idle = Case::new(automatic, node(), "1.3").decide();
        let from_staged = Case::new(automatic, with_staged("1.3"), "1.3").decide();
        if idle.is_empty() {
            assert_eq!(from_idle, Decision::Stage(version("1.3")));
        }
        if staged.is_empty() {
            assert_eq!(from_staged, Decision::Reboot);
        }
        assert_eq!((name(from_idle), name(from_staged)), (idle, staged));
    }
}

#[test]
fn a_check_is_due_at_first_and_then_every_six_hours_and_a_share_of_the_nodes_own() {
    let mut case = Case::new(Automatic::Check, node(), "1.2");
    case.last_check = None;
    assert_eq!(case.decide(), Decision::Check);
    case.last_check = Some(at(NOW));
    let first_due = |case: &mut Case| {
        (0..=60).find(|minute| {
            case.now = at(NOW) + SignedDuration::from_mins(6 * 60 + minute);
            case.decide() == Decision::Check
        })
    };
    let mut due = Vec::new();
    for id in ["a", "b", "c", "d"] {
        case.machine_id = MachineId::new(id);
        let minute = first_due(&mut case).expect("within the hour");
        assert_eq!(first_due(&mut case), Some(minute), "it is the node's own");
        due.push(minute);
    }
    due.dedup();
    assert!(due.len() > 1, "{due:?}");
}

#[test]
fn nothing_is_staged_or_rebooted_on_an_old_word_of_the_channel() {
    for node in [node(), with_staged("1.3")] {
        let mut case = Case::new(Automatic::Reboot, node, "1.3");
        case.last_check = Some(case.now - SignedDuration::from_mins(31));
        assert_eq!(case.decide(), Decision::Check);
        case.last_check = Some(case.now - SignedDuration::from_mins(30));
        assert!(matches!(
            case.decide(),
            Decision::Stage(_) | Decision::Reboot
        ));
    }
}

#[test]
fn nothing_is_staged_or_rebooted_on_a_word_that_an_earlier_run_has_heard() {
    for node in [node(), with_staged("1.3")] {
        let mut case = Case::new(Automatic::Reboot, node, "1.3");
        case.word = Word::Remembered;
        assert_eq!(case.decide(), Decision::Check);
    }
    let mut case = Case::new(Automatic::Reboot, node(), "1.2");
    case.word = Word::Remembered;
    assert_eq!(case.held(), "up-to-date", "and it is not asked for again");
}

#[test]
fn a_clock_that_was_set_back_does_not_stop_the_checks() {
    let mut case = Case::new(Automatic::Check, node(), "1.2");
    case.last_check = Some(at("2030-01-01T00:00:00Z"));
    assert_eq!(case.decide(), Decision::Check);
}

#[test]
fn a_check_waits_for_no_window() {
    let mut case = Case::new(Automatic::Reboot, node(), "1.3");
    case.rules.windows = night();
    case.last_check = None;
    assert_eq!(case.decide(), Decision::Check);
}

#[test]
fn outside_a_window_nothing_is_staged_and_nothing_rebooted() {
    for node in [node(), with_staged("1.3")] {
        let mut case = Case::new(Automatic::Reboot, node, "1.3");
        case.rules.windows = night();
        let Decision::Nothing(held) = case.decide() else {
            panic!("it goes on")
        };
        let opens = Some(at("2026-11-21T22:00:00Z"));
        let version = version("1.3");
        assert_eq!(held, Held::WindowClosed { version, opens });
        case.now = at("2026-11-21T22:00:00Z");
        case.last_check = Some(case.now);
        assert!(!matches!(case.decide(), Decision::Nothing(_)));
    }
}

#[test]
fn a_node_takes_part_once_the_share_has_come_to_it() {
    // The places of `0…0` and `f…f` for this seed are 359 and 5599.
    for (id, first_share) in [("0", 360), ("f", 5600)] {
        for staged in [false, true] {
            let node = if staged { with_staged("1.3") } else { node() };
            let mut case = Case::new(Automatic::Reboot, node, "1.3");
            case.machine_id = MachineId::new(&id.repeat(32));
            let mut share = |share| {
                let seed = "1.0".to_owned();
                let rollout = Some(Rollout { share, seed });
                case.offer.as_mut().unwrap().channel.rollout = rollout;
                case.decide()
            };
            assert!(!matches!(share(first_share), Decision::Nothing(_)));
            for less in [0, first_share - 1] {
                // Also a node that has staged: a rollout can be stopped.
                let held = Held::Rollout {
                    version: version("1.3"),
                    share: less,
                    place: first_share - 1,
                };
                assert_eq!(share(less), Decision::Nothing(held));
            }
        }
    }
}

#[test]
fn what_the_channel_offers_may_be_nothing_to_take() {
    assert_eq!(
        Case::new(Automatic::Reboot, node(), "1.2").held(),
        "up-to-date"
    );
    assert_eq!(
        Case::new(Automatic::Reboot, node(), "1.1.5").held(),
        "older"
    );
    assert_eq!(
        Case::new(Automatic::Reboot, node(), "1.0").held(),
        "below-floor"
    );
    let mut failed = node();
    failed.barred = vec![Barred {
        root_hash: RootHash::new([3; 32]),
        version: version("1.3"),
        reason: "sick".to_owned(),
        when: Timestamp::UNIX_EPOCH,
    }];
    let case = Case::new(Automatic::Reboot, failed, "1.3");
    assert_eq!(case.held(), "barred");
}

#[test]
fn a_newer_offer_takes_the_place_of_what_is_staged_and_an_older_one_does_not() {
    let newer = Case::new(Automatic::Stage, with_staged("1.3"), "1.4");
    assert_eq!(newer.decide(), Decision::Stage(version("1.4")));
    let older = Case::new(Automatic::Reboot, with_staged("1.4"), "1.3");
    assert_eq!(older.held(), "other-staged");
}

#[test]
fn what_could_not_be_staged_is_left_alone_for_a_while() {
    let failed = AttemptEnd::Failed {
        message: "no route".to_owned(),
    };
    for (end, name, minutes) in [
        (failed, "failed", 60),
        (AttemptEnd::Cancelled, "cancelled", 24 * 60),
    ] {
        let mut case = Case::new(Automatic::Reboot, node(), "1.3");
        let tried = |version| Attempt {
            version,
            when: at(NOW),
            end: end.clone(),
        };
        case.last_attempt = Some(tried(version("1.3")));
        case.last_check = Some(at(NOW));
        assert_eq!(case.held(), name);
        case.now = at(NOW) + SignedDuration::from_mins(minutes - 1);
        case.last_check = Some(case.now);
        assert_eq!(case.held(), name);
        case.now = at(NOW) + SignedDuration::from_mins(minutes);
        assert_eq!(case.decide(), Decision::Stage(version("1.3")));
        // Another release has done nothing wrong.
        case.now = at(NOW);
        case.last_check = Some(case.now);
        case.last_attempt = Some(tried(version("1.2.9")));
        assert_eq!(case.decide(), Decision::Stage(version("1.3")));
    }
}

#[test]
fn a_node_that_is_not_good_or_at_work_is_left_alone() {
    for (standing, name) in [
        (Standing::Trial { left: 1, done: 1 }, "not-good"),
        (Standing::LastResort, "not-good"),
        (Standing::Condemned, "not-good"),
    ] {
        let mut node = node();
        node.booted.standing = standing;
        assert_eq!(Case::new(Automatic::Reboot, node, "1.3").held(), name);
    }
    let mut case = Case::new(Automatic::Reboot, node(), "1.3");
    case.state = State::Checking {
        node: Box::new(node()),
        going: Going::On,
    };
    case.last_check = None;
    assert_eq!(case.held(), "busy");
}

#[test]
fn settings_that_cannot_be_read_are_the_reason_that_is_given() {
    let mut case = Case::new(Automatic::Off, node(), "1.3");
    case.rules.mistake = Some("updater.toml:2: tries".to_owned());
    assert_eq!(case.held(), "bad-settings");
    // The last good ones go on.
    case.rules.automatic = Automatic::Stage;
    assert_eq!(case.decide(), Decision::Stage(version("1.3")));
}

#[test]
fn without_a_repository_nobody_is_asked() {
    let mut case = Case::new(Automatic::Check, node(), "1.3");
    case.rules.source = None;
    case.last_check = None;
    assert_eq!(case.held(), "no-repository");
}

#[test]
fn reasons_are_sentences() {
    let held = |held: Held| held.to_string();
    assert_eq!(
        held(Held::Rollout {
            version: version("1.3"),
            share: 2500,
            place: 6105
        }),
        "1.3 is rolled out to 25 % of the nodes, and this one comes at 61.05 %"
    );
    assert_eq!(
        held(Held::WindowClosed {
            version: version("1.3"),
            opens: Some(at("2026-11-21T22:00:00Z"))
        }),
        "1.3 waits for a window; the next one opens 2026-11-21 22:00 UTC"
    );
    assert_eq!(
        held(Held::Attempt {
            version: version("1.3"),
            end: AttemptEnd::Failed {
                message: "no route".to_owned()
            },
            again: at(NOW)
        }),
        "1.3 could not be staged (no route); tried again from 2026-11-21 16:00 UTC"
    );
}
