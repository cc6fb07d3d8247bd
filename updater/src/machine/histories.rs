//! Generated histories: whatever is asked for, and whatever the hands report.

use jiff::Timestamp;
use partition_layout::{Architecture, BootEntry, Counter, RootHash, Slot, Version, WATCHED_STARTS};
use proptest::prelude::*;
use release::{Blob, Blobs, COMPATIBLE, Channel, ChannelName, Digest, Release, Salt, Verity};

use super::*;
use crate::admit::{Ask, Force};
use crate::names::ErrorName;
use crate::node::{Booted, GaveWay, Often, Spare};
use crate::ports::{Offer, Restart};
use crate::records::Barred;

fn version(number: u8) -> Version {
    Version::parse(&number.to_string()).unwrap()
}

fn hash(number: u8) -> RootHash {
    RootHash::new([number; 32])
}

fn release(number: u8, image: u8) -> Release {
    let blob = |byte: u8| Blob {
        sha256: Digest::new([byte; 32]),
        size: 4096,
    };
    Release {
        version: version(number),
        architecture: Architecture::of_build(),
        compatible: COMPATIBLE.to_owned(),
        root_hash: hash(image),
        verity: Verity {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: Salt::new([1; 32]).unwrap(),
            data_blocks: 1,
        },
        blobs: Blobs {
            root: blob(1),
            verity: blob(2),
            uki: blob(3),
            sbom: None,
            packed: None,
        },
        patches: Vec::new(),
        uki_patches: Vec::new(),
        created: None,
        notes: None,
    }
}

fn entry(number: u8, counter: Option<(u32, u32)>) -> BootEntry {
    let counter = counter.map(|(left, done)| Counter { left, done });
    BootEntry {
        version: version(number),
        counter,
    }
}

const BOOTED: Slot = Slot::A;

prop_compose! {
    fn nodes()(
        number in 1_u8..4,
        standing in prop_oneof![
            4 => Just(Standing::Good),
            2 => (0_u32..3, 0_u32..3).prop_map(|(left, done)| Standing::Trial { left, done }),
            1 => Just(Standing::LastResort),
            1 => Just(Standing::Condemned),
        ],
        spare in 4_u8..7,
        counter in prop_oneof![Just(None), (0_u32..3, 0_u32..2).prop_map(Some)],
        status in prop_oneof![
            Just(SlotStatus::Good), Just(SlotStatus::Armed), Just(SlotStatus::Bad),
            Just(SlotStatus::Empty), Just(SlotStatus::Demoted), Just(SlotStatus::Unknown),
        ],
        older: bool,
        has_variables: bool,
        watched in prop::option::of(0..WATCHED_STARTS),
        came_up: bool,
        gave_way: bool,
        floor in prop::option::of(1_u8..6),
        barred in prop::option::of(1_u8..8),
    ) -> Box<Node> {
        // The spare's release is newer than the booted one, or older.
        let spare = if older { number.saturating_sub(1) } else { spare };
        // Settling, before anything else, ends a watch that has nothing to give way to.
        let by_right = matches!(status, SlotStatus::Good | SlotStatus::Demoted);
        let watched = watched.filter(|_| by_right);
        let own = match standing {
            Standing::Good => Some(entry(number, watched.map(|done| (WATCHED_STARTS - done, done)))),
            Standing::Trial { left, done } => Some(entry(number, Some((left, done)))),
            Standing::LastResort => Some(entry(number, Some((0, 1)))),
            Standing::Condemned => None,
        };
        let holds = !matches!(status, SlotStatus::Empty | SlotStatus::Unknown);
        let boots = holds && status != SlotStatus::Bad;
        Box::new(Node {
            booted: Booted {
                slot: BOOTED,
                version: version(number),
                root_hash: hash(number),
                standing,
                entry: own,
            },
            spare: Spare {
                slot: BOOTED.other(),
                status,
                held: holds.then(|| (version(spare), hash(spare))),
                entry: boots.then(|| entry(spare, counter)),
                root_len: 1 << 20,
                verity_len: 1 << 20,
            },
            has_variables,
            boot_id: "this".to_owned(),
            floor: floor.map(version),
            barred: barred
                .map(|number| Barred {
                    root_hash: hash(number),
                    version: version(number),
                    reason: "sick".to_owned(),
                    when: Timestamp::UNIX_EPOCH,
                })
                .into_iter()
                .collect(),
            trial: None,
            came_up,
            gave_way: (gave_way && !boots).then(|| GaveWay {
                version: version(9),
                root_hash: hash(9),
                slot: BOOTED.other(),
                starts: 1,
                complaint: Complaint::default(),
                often: Often::Once,
            }),
            last_start: None,
            last_rollback: None,
            history: vec![],
            totals: crate::totals::Totals::default(),
        })
    }
}

/// What happens next in a history.
#[derive(Debug, Clone)]
enum Turn {
    Ask(Request),
    /// The hands end their order, if they have one.
    Hands {
        result: Result<(), Stopped>,
        release: Box<Release>,
        now: Option<Box<Node>>,
    },
}

fn requests() -> impl Strategy<Value = Request> {
    let ask =
        (prop::option::of(1_u8..8), any::<bool>(), 0_u32..5).prop_map(|(name, force, tries)| {
            let force = if force { Force::ByName } else { Force::No };
            Ask {
                version: name.map(version),
                force,
                tries,
            }
        });
    prop_oneof![
        1 => Just(Request::Check),
        3 => ask.clone().prop_map(Request::Stage),
        2 => ask.prop_map(Request::Plan),
        2 => Just(Request::Cancel),
        1 => prop_oneof![Just(Holder::Caller), Just(Holder::Window)].prop_map(Request::Pause),
        1 => Just(Request::Resume),
        1 => prop_oneof![Just(Restart::InOrder), Just(Restart::AtOnce)].prop_map(Request::Reboot),
        2 => Just(Request::Rollback { reason: String::new() }),
        2 => Just(Request::MarkGood),
        2 => Just(Request::MarkBad(Complaint::default())),
        1 => (1_u8..8).prop_map(|number| Request::Forgive { root_hash: hash(number) }),
        1 => prop_oneof![Just(hash(1)), Just(hash(2))].prop_map(|root_hash| Request::Mend {
            root_hash,
            blocks: vec![7],
            seen: Seen::Part,
        }),
    ]
}

fn turns() -> impl Strategy<Value = Turn> {
    let failure = Failure {
        name: ErrorName::Internal,
        message: "no".to_owned(),
    };
    let result = prop_oneof![
        3 => Just(Ok(())),
        1 => Just(Err(Stopped::Asked)),
        1 => Just(Err(Stopped::Failed(failure))),
    ];
    let hands = (result, 1_u8..8, 1_u8..8, prop::option::of(nodes())).prop_map(
        |(result, number, image, now)| Turn::Hands {
            result,
            release: Box::new(release(number, image)),
            now,
        },
    );
    prop_oneof![1 => requests().prop_map(Turn::Ask), 2 => hands]
}

/// What the outside of the machine knows.
struct Model {
    order: Option<Vec<Effect>>,
    job: bool,
}

impl Model {
    fn report(&mut self, turn: Turn) -> Option<Event> {
        let (result, release, now) = match turn {
            Turn::Ask(request) => return Some(Event::Request(request)),
            Turn::Hands {
                result,
                release,
                now,
            } => (result, release, now),
        };
        let order = self.order.take()?;
        let report = match (order.first(), &result) {
            (Some(Effect::Refresh), Ok(())) => Report::Refreshed {
                offer: Box::new(Offer {
                    channel: Channel {
                        channel: ChannelName::parse("stable").unwrap(),
                        release: release.version.clone(),
                        releases: vec![release.version.clone()],
                        rollout: None,
                    },
                    versions: vec![release.version.clone()],
                }),
                node: now,
            },
            (Some(Effect::Resolve { .. }), Ok(())) => Report::Resolved(release),
            _ => Report::Ended { result, node: now },
        };
        Some(Event::Report(report))
    }

    fn check(&mut self, before: &State, event: &Event, effects: &[Effect]) {
        for effect in effects {
            if let Effect::EndJob(_) = effect {
                assert!(self.job, "a job ends that never began");
                self.job = false;
            }
        }
        let begins = matches!(
            event,
            Event::Request(
                Request::Check
                    | Request::Stage(_)
                    | Request::Plan(_)
                    | Request::Rollback { .. }
                    | Request::Mend { .. }
            )
        );
        if begins {
            assert!(!self.job, "two jobs at once");
            self.job = true;
        }
        let order: Vec<Effect> = effects
            .iter()
            .filter(|effect| !effect.is_for_the_head())
            .cloned()
            .collect();
        if order.is_empty() {
            return;
        }
        assert!(self.order.is_none(), "two orders at once: {order:?}");
        check_order(before.node(), &order);
        self.order = Some(order);
    }
}

/// What an order does to the spare slot, in the order that it must have.
fn rank(effect: &Effect) -> Option<u32> {
    match effect {
        Effect::Disarm { .. } => Some(0),
        Effect::CheckRoom { .. } => Some(1),
        Effect::WriteTree { .. } => Some(2),
        Effect::WriteRoot { .. } => Some(3),
        Effect::ReadBack { .. } | Effect::CheckWhole { .. } => Some(4),
        Effect::Label { .. } => Some(5),
        Effect::WriteKernel { .. } => Some(6),
        Effect::RecordTrial { .. } => Some(7),
        Effect::Arm { .. } | Effect::Rearm { .. } => Some(8),
        Effect::Interrupt
        | Effect::Hold
        | Effect::LetGo
        | Effect::EndJob(_)
        | Effect::Refresh
        | Effect::Resolve { .. }
        | Effect::Survey { .. }
        | Effect::Mend { .. }
        | Effect::PutBack { .. }
        | Effect::AskFor { .. }
        | Effect::Demote { .. }
        | Effect::Bless { .. }
        | Effect::Watch { .. }
        | Effect::RemoveBooted { .. }
        | Effect::MarkSettled
        | Effect::Announce(_)
        | Effect::RecordGood { .. }
        | Effect::RecordRollback(_)
        | Effect::Bar { .. }
        | Effect::Forgive { .. }
        | Effect::RaiseFloor { .. }
        | Effect::Remember(_)
        | Effect::ForgetTrial
        | Effect::Reboot(_) => None,
    }
}

fn target(effect: &Effect) -> Option<Slot> {
    match effect {
        Effect::Disarm { spare, .. }
        | Effect::Survey { spare, .. }
        | Effect::WriteTree { spare, .. }
        | Effect::WriteRoot { spare, .. }
        | Effect::ReadBack { spare, .. }
        | Effect::Label { spare, .. }
        | Effect::CheckWhole { spare, .. }
        | Effect::RecordTrial { spare, .. } => Some(*spare),
        Effect::CheckRoom { .. }
        | Effect::WriteKernel { .. }
        | Effect::Arm { .. }
        | Effect::Rearm { .. }
        | Effect::Interrupt
        | Effect::Hold
        | Effect::LetGo
        | Effect::EndJob(_)
        | Effect::Refresh
        | Effect::Resolve { .. }
        | Effect::Mend { .. }
        | Effect::PutBack { .. }
        | Effect::AskFor { .. }
        | Effect::Demote { .. }
        | Effect::Bless { .. }
        | Effect::Watch { .. }
        | Effect::RemoveBooted { .. }
        | Effect::MarkSettled
        | Effect::Announce(_)
        | Effect::RecordGood { .. }
        | Effect::RecordRollback(_)
        | Effect::Bar { .. }
        | Effect::Forgive { .. }
        | Effect::RaiseFloor { .. }
        | Effect::Remember(_)
        | Effect::ForgetTrial
        | Effect::Reboot(_) => None,
    }
}

/// A counted name may be torn by the firmware, so of two good slots at most the first may have
/// one, and only while the other boots whatever becomes of it.
fn check_watch(node: &Node, order: &[Effect]) {
    let own = node.booted.entry.as_ref();
    let mut watched =
        own.is_some_and(|entry| node.booted.standing == Standing::Good && entry.is_watched());
    let mut by_right = node.spare_boots_by_right();
    for effect in order {
        if let Effect::Bless { entry } | Effect::Watch { entry } = effect
            && Some(entry) == own
        {
            watched = matches!(effect, Effect::Watch { .. });
        } else if matches!(effect, Effect::Demote { entry } if Some(entry) != own) {
            by_right = true;
        } else if let Effect::Disarm { .. } | Effect::Rearm { .. } | Effect::Arm { .. } = effect {
            by_right = false;
        }
        assert!(by_right || !watched, "{effect:?} in {order:?}");
    }
}

fn check_order(node: &Node, order: &[Effect]) {
    check_watch(node, order);
    for effect in order {
        if let Some(slot) = target(effect) {
            assert_ne!(slot, node.booted.slot, "{effect:?}");
            assert!(
                node.may_write_spare(),
                "{effect:?} on no good slot, and there may be one to lose"
            );
        }
        if let Effect::Disarm { booted, .. } = effect {
            assert_eq!(*booted, node.booted.version);
        }
        if let Effect::Mend {
            slot,
            version,
            root_hash,
            ..
        } = effect
        {
            assert_eq!(node.startable(root_hash), Some((*slot, version)));
            assert_eq!(node.booted.standing, Standing::Good);
        }
        if let Effect::WriteTree { release, .. } = effect {
            assert_ne!(release.root_hash, node.booted.root_hash);
            assert_ne!(release.version, node.booted.version);
        }
    }
    let ranks: Vec<u32> = order.iter().filter_map(rank).collect();
    assert!(ranks.is_sorted(), "{ranks:?}");
    let arms = |effect: &Effect| matches!(effect, Effect::Arm { .. } | Effect::Rearm { .. });
    if let Some(place) = order.iter().position(arms) {
        assert!(
            order.iter().skip(place + 1).all(Effect::is_note),
            "something follows: {order:?}"
        );
        assert!(ranks.contains(&4), "armed unread");
        assert!(ranks.contains(&7), "armed unrecorded");
    }
    let writes =
        |effect: &Effect| matches!(effect, Effect::WriteTree { .. } | Effect::Label { .. });
    if order.iter().any(writes) {
        assert_eq!(ranks, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    if let Some(Effect::RemoveBooted { .. }) = order.first() {
        assert!(node.spare_boots(), "nothing would boot");
        assert_ne!(node.booted.standing, Standing::Good);
    }
}

const fn has_job(state: &State) -> bool {
    match state {
        State::Checking { .. }
        | State::Resolving { .. }
        | State::Planning { .. }
        | State::Staging { .. }
        | State::Clearing { .. }
        | State::RollingBack { .. }
        | State::Marking {
            job: Job::Waits, ..
        } => true,
        State::Settling { .. }
        | State::Idle { .. }
        | State::Staged { .. }
        | State::Trial { .. }
        | State::LastResort { .. }
        | State::Condemned { .. }
        | State::Marking { job: Job::None, .. }
        | State::Watching { .. }
        | State::Forgiving { .. }
        | State::Rebooting { .. } => false,
    }
}

const fn rests(state: &State) -> bool {
    match state {
        State::Idle { .. }
        | State::Staged { .. }
        | State::Trial { .. }
        | State::LastResort { .. }
        | State::Condemned { .. } => true,
        State::Settling { .. }
        | State::Checking { .. }
        | State::Resolving { .. }
        | State::Planning { .. }
        | State::Staging { .. }
        | State::Clearing { .. }
        | State::RollingBack { .. }
        | State::Marking { .. }
        | State::Watching { .. }
        | State::Forgiving { .. }
        | State::Rebooting { .. } => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn in_every_history_one_job_one_order_and_no_effect_on_the_booted_slot(
        node in nodes(),
        turns in prop::collection::vec(turns(), 1..40),
    ) {
        let mut state = rest(node);
        let mut model = Model { order: None, job: false };
        for turn in turns {
            let Some(event) = model.report(turn) else { continue };
            let before = state.clone();
            match step(state, event.clone()) {
                Ok((next, effects)) => {
                    // The facts of an ended order are those that its successor acts on.
                    let acted_on = if effects.is_empty() { &before } else { &next };
                    model.check(acted_on, &event, &effects);
                    state = next;
                }
                Err(rejection) => {
                    prop_assert_eq!(&rejection.state, &before, "a refusal changes something");
                    state = rejection.state;
                }
            }
            prop_assert_eq!(has_job(&state), model.job);
            if rests(&state) {
                prop_assert!(model.order.is_none(), "at rest with an order out");
            } else if !matches!(state, State::Rebooting { .. }) {
                prop_assert!(model.order.is_some(), "nobody works in {}", state.name());
            }
        }
    }

    #[test]
    fn a_barred_image_and_one_below_the_floor_are_written_only_by_force(
        node in nodes(),
        number in 1_u8..8,
        image in 1_u8..8,
    ) {
        let release = release(number, image);
        let refused = node.barred(&release.root_hash).is_some()
            || node.floor.as_ref().is_some_and(|floor| release.version < *floor);
        let admitted = admit::admit(&node, &release, Force::No);
        prop_assert!(!(refused && admitted.is_ok()));
    }
}
