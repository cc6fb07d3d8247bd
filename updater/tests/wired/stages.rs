use partition_layout::{Slot, SlotContent};
use release::Release;
use updater::admit::{Ask, Force};
use updater::driver::RequestError;
use updater::machine::{Outcome, Request};
use updater::names::ErrorName;
use updater::ports::{Record, Restart};
use updater::refusal::Refused;

use super::fake::{FakeNode, Image, Trouble};
use super::gate::{Daemon, bad, force, outcome, stage};
use super::network::{FakeRepository, Lie, Which, image, version};

const BLOCKS: usize = 300;

/// A node that runs release 1, and a repository that has 2 and 3 too.
pub(crate) struct Stand {
    pub(crate) one: (Release, Image),
    pub(crate) two: (Release, Image),
    pub(crate) three: (Release, Image),
    pub(crate) node: FakeNode,
    pub(crate) repository: FakeRepository,
}

impl Stand {
    pub(crate) fn new() -> Self {
        let [one, two, three] =
            [("1", 1), ("2", 2), ("3", 3)].map(|(name, seed)| image(name, seed, BLOCKS));
        let node = FakeNode::running(&one.1);
        let repository = FakeRepository::with(&[&one, &two, &three]);
        Self {
            one,
            two,
            three,
            node,
            repository,
        }
    }

    pub(crate) fn images(&self) -> [&Image; 3] {
        [&self.one.1, &self.two.1, &self.three.1]
    }

    pub(crate) async fn daemon(&self) -> Daemon {
        Daemon::start(&self.node, &self.repository).await
    }

    /// Stages `name`, reboots into it, and has it pass its gate.
    pub(crate) async fn update_to(&self, name: &str) {
        let daemon = self.daemon().await;
        assert_eq!(daemon.stage(name).await, Outcome::Done);
        daemon.stop().await;
        assert_eq!(self.node.power_cycle(&self.images()).1, version(name));
        let daemon = self.daemon().await;
        daemon.handle.request(Request::MarkGood).await.unwrap();
        daemon.stop().await;
    }

    fn nothing_is_armed(&self) -> bool {
        self.node.entry_names() == ["bistable_1.efi"]
    }
}

pub(crate) fn failed(outcome: Outcome) -> ErrorName {
    match outcome {
        Outcome::Failed(failure) => failure.name,
        Outcome::Done | Outcome::Cancelled => panic!("the job did not fail: {outcome:?}"),
    }
}

#[tokio::test]
async fn a_release_is_staged_tried_and_good_and_so_is_the_next_in_the_other_slot() {
    let stand = Stand::new();
    stand.update_to("2").await;
    assert_eq!(stand.node.booted(), (Slot::B, version("2")));
    assert_eq!(
        stand.node.entry_names(),
        ["bistable_1.efi", "bistable_2+15.efi"]
    );
    assert!(stand.node.is_settled());
    stand.update_to("3").await;
    assert_eq!(stand.node.booted(), (Slot::A, version("3")));
    assert_eq!(
        stand.node.entry_names(),
        ["bistable_2.efi", "bistable_3+15.efi"]
    );
    let daemon = stand.daemon().await;
    let node = daemon.handle.view().node.clone();
    assert_eq!(node.floor, Some(version("3")));
    let events: Vec<&str> = node
        .history
        .iter()
        .map(|line| line.event.as_str())
        .collect();
    assert_eq!(events, ["staged", "good", "staged", "good"]);
    daemon.stop().await;
}

#[tokio::test]
async fn progress_never_goes_down_and_is_complete_only_when_the_slot_is_armed() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let mut job = daemon.begin(stage("2")).await.unwrap();
    let mut done = 0;
    // How many steps are seen is a matter of who runs when: a watch shows the newest.
    loop {
        let work = job.work.borrow_and_update().clone();
        assert!(work.done >= done, "from {done} to {}", work.done);
        assert!(work.done <= work.total);
        if work.total > 0 && work.done == work.total {
            assert!(
                stand
                    .node
                    .entry_names()
                    .contains(&"bistable_2+3.efi".to_owned())
            );
        }
        done = work.done;
        tokio::select! {
            _ = job.work.changed() => {}
            ended = job.outcome.wait_for(Option::is_some) => {
                assert_eq!(ended.unwrap().clone(), Some(Outcome::Done));
                break;
            }
        }
    }
    let work = job.work.borrow().clone();
    let blobs = &stand.two.0.blobs;
    assert_eq!(
        work.total,
        3 * (blobs.root.size + blobs.verity.size + blobs.uki.size)
    );
    assert_eq!(work.done, work.total);
    daemon.stop().await;
}

#[tokio::test]
async fn a_trial_that_fails_its_gate_is_left_barred_and_can_be_forgiven() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
    stand.node.power_cycle(&stand.images());
    let daemon = stand.daemon().await;
    assert_eq!(daemon.state(), "trial");
    daemon
        .handle
        .request(bad("containerd is not active"))
        .await
        .unwrap();
    assert_eq!(daemon.state(), "condemned");
    assert_eq!(stand.node.entry_names(), ["bistable_1.efi"]);
    // The booted slot's own bytes and labels are nobody's to change.
    assert!(matches!(
        stand.node.content(Slot::B),
        SlotContent::Holds { .. }
    ));
    daemon
        .handle
        .request(Request::Reboot(Restart::InOrder))
        .await
        .unwrap();
    assert_eq!(stand.node.reboots(), [Restart::InOrder]);
    daemon.stop().await;

    assert_eq!(
        stand.node.power_cycle(&stand.images()),
        (Slot::A, version("1"))
    );
    let daemon = stand.daemon().await;
    let view = daemon.handle.view();
    let rollback = view.node.last_rollback.clone().unwrap();
    assert_eq!(rollback.version, version("2"));
    assert_eq!(
        (rollback.check.as_str(), rollback.unit.as_str()),
        ("containerd", "containerd.service")
    );
    assert_eq!(
        (rollback.lines.as_slice(), rollback.tries),
        (["it died".to_owned()].as_slice(), 1)
    );
    assert_eq!(stand.node.content(Slot::B), SlotContent::Empty);
    assert_eq!(stand.node.record(Record::Trial), None);
    assert_eq!(failed(daemon.stage("2").await), ErrorName::Barred);
    assert_eq!(
        daemon.handle.view().last_error.as_ref().unwrap().name,
        ErrorName::Barred
    );

    let root_hash = stand.two.0.root_hash;
    daemon
        .handle
        .request(Request::Forgive { root_hash })
        .await
        .unwrap();
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    assert_eq!(daemon.handle.view().last_error, None);
    daemon.stop().await;
}

#[tokio::test]
async fn a_trial_that_spends_all_its_tries_in_silence_is_a_rollback() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
    for _ in 0..3 {
        assert_eq!(stand.node.start_and_hang(&stand.images()).1, version("2"));
    }
    assert_eq!(stand.node.power_cycle(&stand.images()).1, version("1"));
    let daemon = stand.daemon().await;
    let node = daemon.handle.view().node.clone();
    let rollback = node.last_rollback.unwrap();
    assert_eq!((rollback.version, rollback.tries), (version("2"), 3));
    assert!(rollback.reason.contains("3 times"), "{}", rollback.reason);
    assert_eq!(node.barred.len(), 1);
    assert!(stand.nothing_is_armed());
    daemon.stop().await;
}

#[tokio::test]
async fn the_gates_word_is_heard_on_the_other_slot_when_the_daemon_was_dead() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
    for _ in 0..3 {
        stand.node.start_and_hang(&stand.images());
    }
    let verdict = format!(
        r#"{{"boot_id":"{}","root_hash":"{}","verdict":"fail","check":"updater","unit":"bistable-updater.service","reason":"it is dead","lines":["x"]}}"#,
        stand.node.boot_id_now(),
        stand.two.0.root_hash
    );
    stand.node.put_record(Record::Verdict, &verdict);
    stand.node.power_cycle(&stand.images());
    let daemon = stand.daemon().await;
    let rollback = daemon.handle.view().node.last_rollback.clone().unwrap();
    assert_eq!(
        (rollback.check.as_str(), rollback.reason.as_str()),
        ("updater", "it is dead")
    );

    // The same word is not believed of the next trial of that image.
    daemon
        .handle
        .request(Request::Forgive {
            root_hash: stand.two.0.root_hash,
        })
        .await
        .unwrap();
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
    let staged = stand.node.twin();
    let daemon = Daemon::start(&staged, &stand.repository).await;
    assert_eq!(daemon.state(), "staged");
    daemon.stop().await;
}

#[tokio::test]
async fn what_the_network_spoils_is_named_and_leaves_nothing_armed() {
    let stand = Stand::new();
    let before = stand.node.slot_bytes(Slot::A);
    for (lie, expected) in [
        (Lie::Flip(Which::Root, 700_000), ErrorName::BlobCorrupt),
        (Lie::Flip(Which::Root, 0), ErrorName::BlobCorrupt),
        (Lie::Flip(Which::Verity, 5000), ErrorName::BlobCorrupt),
        (Lie::Flip(Which::Verity, 20), ErrorName::BlobCorrupt),
        (Lie::Flip(Which::Uki, 100), ErrorName::BlobCorrupt),
        (
            Lie::Truncate(Which::Root, 1_000_000),
            ErrorName::BlobTruncated,
        ),
        (Lie::Truncate(Which::Verity, 0), ErrorName::BlobTruncated),
        (Lie::Truncate(Which::Uki, 10), ErrorName::BlobTruncated),
        (Lie::MetadataExpired, ErrorName::MetadataExpired),
        (Lie::MetadataUntrusted, ErrorName::MetadataUntrusted),
        (Lie::Gone, ErrorName::RepositoryUnreachable),
    ] {
        // One that has nothing yet: what came before a lie is not asked for again.
        let node = stand.node.twin();
        let daemon = Daemon::start(&node, &stand.repository).await;
        stand.repository.lie(lie);
        assert_eq!(failed(daemon.stage("2").await), expected, "{lie:?}");
        assert_eq!(node.entry_names(), ["bistable_1.efi"], "{lie:?}");
        assert_eq!(node.content(Slot::B), SlotContent::Empty, "{lie:?}");
        assert_eq!(daemon.state(), "idle");
        assert_eq!(node.slot_bytes(Slot::A), before);
        stand.repository.lie(Lie::None);
        assert_eq!(daemon.stage("2").await, Outcome::Done);
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_medium_that_keeps_something_else_is_found_out_before_arming() {
    let stand = Stand::new();
    stand.node.set_bad_sector(Some(900_000));
    let daemon = stand.daemon().await;
    assert_eq!(failed(daemon.stage("2").await), ErrorName::ReadBackMismatch);
    assert!(stand.nothing_is_armed());
    stand.node.set_bad_sector(None);
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
}

#[tokio::test]
async fn a_full_esp_is_named_before_anything_is_fetched() {
    let stand = Stand::new();
    stand.node.set_esp_room(1000);
    let daemon = stand.daemon().await;
    assert_eq!(failed(daemon.stage("2").await), ErrorName::EspFull);
    assert!(stand.nothing_is_armed());
    assert!(!stand.node.operation_kinds().contains(&"write"));
    daemon.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_this_node_is_refused_before_the_spare_is_touched() {
    let stand = Stand::new();
    stand.update_to("2").await;
    let spare = stand.node.slot_bytes(Slot::A);
    let entries = stand.node.entry_names();
    let daemon = stand.daemon().await;
    let three = stand.three.0.clone();
    let foreign = match three.architecture {
        partition_layout::Architecture::X86_64 => partition_layout::Architecture::Aarch64,
        partition_layout::Architecture::Aarch64 => partition_layout::Architecture::X86_64,
    };
    let mut large = three.clone();
    large.blobs.root.size = super::fake::ROOT_LEN + 4096;
    let mut twin = stand.three.0.clone();
    twin.version = version("2");
    for (release, expected) in [
        (
            Release {
                architecture: foreign,
                ..three.clone()
            },
            ErrorName::WrongArchitecture,
        ),
        (
            Release {
                compatible: "toaster-1".into(),
                ..three.clone()
            },
            ErrorName::Incompatible,
        ),
        (large, ErrorName::TooLarge),
        (twin, ErrorName::VersionInUse),
    ] {
        let name = release.version.to_string();
        stand.repository.replace(release);
        assert_eq!(failed(daemon.stage(&name).await), expected);
    }
    stand.repository.replace(stand.two.0.clone());
    assert_eq!(failed(daemon.stage("2").await), ErrorName::AlreadyBooted);
    assert_eq!(failed(daemon.stage("1").await), ErrorName::BelowFloor);
    assert_eq!(failed(daemon.stage("7").await), ErrorName::UnknownVersion);
    assert_eq!(stand.node.slot_bytes(Slot::A), spare);
    assert_eq!(stand.node.entry_names(), entries);
    daemon.stop().await;
}

#[tokio::test]
async fn nothing_is_staged_while_the_booted_slot_is_on_trial() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
    stand.node.power_cycle(&stand.images());
    let daemon = stand.daemon().await;
    let refused = daemon.begin(stage("3")).await.unwrap_err();
    assert_eq!(refused, RequestError::Refused(Refused::BootedSlotNotGood));
    assert!(!stand.node.is_settled());
    daemon.stop().await;
}

#[tokio::test]
async fn force_needs_a_name_and_tries_a_sane_number() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let named = |version, force, tries| {
        Request::Stage(Ask {
            version,
            force,
            tries,
        })
    };
    for ask in [
        named(None, Force::ByName, 3),
        named(None, Force::No, 0),
        named(None, Force::No, 11),
    ] {
        let refused = daemon.begin(ask).await.unwrap_err();
        assert!(
            matches!(refused, RequestError::Refused(Refused::BadArgument(_))),
            "{refused:?}"
        );
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_cancelled_stage_leaves_the_spare_disarmed_and_can_be_done_again() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    for (which, at) in [(Which::Verity, 0), (Which::Root, 800_000), (Which::Uki, 10)] {
        stand.repository.lie(Lie::Silence(which, at));
        let mut job = daemon.begin(stage("2")).await.unwrap();
        let busy = daemon.begin(Request::Check).await.unwrap_err();
        assert_eq!(busy, RequestError::Refused(Refused::Busy));
        let phase = match which {
            Which::Verity => "tree",
            Which::Root | Which::Packed | Which::Patch => "root",
            Which::Uki | Which::UkiPatch => "kernel",
        };
        job.work.wait_for(|work| work.phase == phase).await.unwrap();
        daemon.handle.cancel(job.id).await.unwrap();
        assert_eq!(outcome(&mut job).await, Outcome::Cancelled);
        assert!(stand.nothing_is_armed());
        assert_eq!(stand.node.content(Slot::B), SlotContent::Empty);
        assert_eq!(stand.node.record(Record::Trial), None);
        let late = daemon.handle.cancel(job.id).await.unwrap_err();
        assert_eq!(late, RequestError::Refused(Refused::NoSuchJob));
    }
    stand.repository.lie(Lie::None);
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
}

#[tokio::test]
async fn a_rollback_on_request_is_a_trial_of_the_older_slot_which_stays_when_it_is_good() {
    let stand = Stand::new();
    stand.update_to("2").await;
    let daemon = stand.daemon().await;
    let rollback = Request::Rollback {
        reason: "2 is slow".to_owned(),
    };
    assert_eq!(daemon.run(rollback).await, Outcome::Done);
    assert_eq!(daemon.state(), "staged");
    daemon
        .handle
        .request(Request::Reboot(Restart::InOrder))
        .await
        .unwrap();
    daemon.stop().await;
    assert_eq!(
        stand.node.power_cycle(&stand.images()),
        (Slot::A, version("1"))
    );
    let daemon = stand.daemon().await;
    assert_eq!(daemon.state(), "trial");
    daemon.handle.request(Request::MarkGood).await.unwrap();
    // The newer one is a last resort now; the floor has not sunk.
    assert_eq!(
        stand.node.entry_names(),
        ["bistable_1+15.efi", "bistable_2+0.efi"]
    );
    assert_eq!(daemon.handle.view().node.floor, Some(version("2")));
    daemon.stop().await;
    assert_eq!(
        stand.node.power_cycle(&stand.images()),
        (Slot::A, version("1"))
    );

    // And there again: the newer one needs no wish to be first.
    let daemon = stand.daemon().await;
    let rollback = Request::Rollback {
        reason: "1 is old".to_owned(),
    };
    assert_eq!(daemon.run(rollback).await, Outcome::Done);
    daemon.stop().await;
    assert_eq!(
        stand.node.power_cycle(&stand.images()),
        (Slot::B, version("2"))
    );
}

#[tokio::test]
async fn a_rollback_whose_target_fails_ends_on_the_newer_slot_again() {
    let stand = Stand::new();
    stand.update_to("2").await;
    let daemon = stand.daemon().await;
    assert_eq!(
        daemon
            .run(Request::Rollback {
                reason: String::new()
            })
            .await,
        Outcome::Done
    );
    daemon.stop().await;
    assert_eq!(stand.node.start_and_hang(&stand.images()).1, version("1"));
    assert_eq!(stand.node.power_cycle(&stand.images()).1, version("2"));
    let daemon = stand.daemon().await;
    let node = daemon.handle.view().node.clone();
    assert_eq!(node.last_rollback.unwrap().version, version("1"));
    assert_eq!(daemon.state(), "idle");
    // No gate has spoken: the power may have failed, and the operator may ask again.
    assert_eq!(node.barred, []);
    assert_eq!(daemon.run(force("1")).await, Outcome::Done);
    daemon.stop().await;
}

#[tokio::test]
async fn a_wish_that_the_firmware_lost_is_made_again_at_the_reboot() {
    let stand = Stand::new();
    stand.update_to("2").await;
    let daemon = stand.daemon().await;
    assert_eq!(
        daemon
            .run(Request::Rollback {
                reason: String::new()
            })
            .await,
        Outcome::Done
    );
    stand.node.forget_wishes();
    daemon.stop().await;
    assert_eq!(stand.node.power_cycle(&stand.images()).1, version("2"));
    let daemon = stand.daemon().await;
    assert_eq!(daemon.state(), "staged");
    daemon
        .handle
        .request(Request::Reboot(Restart::InOrder))
        .await
        .unwrap();
    daemon.stop().await;
    assert_eq!(stand.node.power_cycle(&stand.images()).1, version("1"));
}

#[tokio::test]
async fn without_firmware_variables_nothing_older_is_tried() {
    let stand = Stand::new();
    stand.update_to("2").await;
    stand.node.lose_variables();
    let daemon = stand.daemon().await;
    let refused = daemon
        .begin(Request::Rollback {
            reason: String::new(),
        })
        .await
        .unwrap_err();
    let RequestError::Refused(refused) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refused.name(), ErrorName::NoFirmwareVariables);
    assert_eq!(
        failed(daemon.run(force("1")).await),
        ErrorName::NoFirmwareVariables
    );
    daemon.stop().await;
}

#[tokio::test]
async fn an_older_release_staged_by_force_becomes_good_and_stays() {
    let stand = Stand::new();
    stand.update_to("2").await;
    stand.update_to("3").await;
    let daemon = stand.daemon().await;
    assert_eq!(failed(daemon.stage("1").await), ErrorName::BelowFloor);
    assert_eq!(daemon.run(force("1")).await, Outcome::Done);
    daemon.stop().await;
    assert_eq!(stand.node.power_cycle(&stand.images()).1, version("1"));
    let daemon = stand.daemon().await;
    daemon.handle.request(Request::MarkGood).await.unwrap();
    daemon.stop().await;
    assert_eq!(stand.node.power_cycle(&stand.images()).1, version("1"));
}

#[tokio::test]
async fn a_slot_keeps_its_labels_while_the_boot_loader_may_have_a_kernel_image_of_it() {
    let stand = Stand::new();
    stand.update_to("2").await;
    stand.node.refuse(&["remove-others"]);
    let daemon = stand.daemon().await;
    assert_eq!(failed(daemon.stage("3").await), ErrorName::SlotWriteFailed);
    daemon.stop().await;
    let SlotContent::Holds { version: held, .. } = stand.node.content(Slot::A) else {
        panic!("its root would not be found any more")
    };
    assert_eq!(held, version("1"));
    stand.node.refuse(&[]);
    stand.update_to("3").await;
}

#[tokio::test]
async fn a_full_var_keeps_no_bad_slot_bootable() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
    stand.node.power_cycle(&stand.images());
    stand.node.fill_var();
    let daemon = stand.daemon().await;
    daemon.handle.request(bad("whatever")).await.unwrap();
    assert_eq!(stand.node.entry_names(), ["bistable_1.efi"]);
    daemon.stop().await;
    assert_eq!(stand.node.power_cycle(&stand.images()).1, version("1"));
}

#[tokio::test]
async fn a_rollback_asked_for_on_a_trial_ends_it_and_waits_for_the_reboot() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
    stand.node.power_cycle(&stand.images());
    let daemon = stand.daemon().await;
    let rollback = Request::Rollback {
        reason: "I do not like it".to_owned(),
    };
    assert_eq!(daemon.run(rollback).await, Outcome::Done);
    assert_eq!(
        (daemon.state(), stand.node.reboots()),
        ("condemned", vec![])
    );
    assert_eq!(stand.node.entry_names(), ["bistable_1.efi"]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_release_whose_kernel_panics_is_left_with_the_kernels_own_words() {
    let stand = Stand::new();
    let text = format!(
        "<6>[    1.5] slot B is opened as dm-0 with root hash {}\n\
         <0>[    2.5] Kernel panic - not syncing: Attempted to kill init!\n",
        stand.two.0.root_hash
    );
    // One of long ago, of the same image.
    stand.node.leave_dump(&text);
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
    stand.node.start_and_hang(&stand.images());
    stand.node.start_and_hang(&stand.images());
    let hung = stand.node.twin();
    stand.node.start_and_hang(&stand.images());
    stand.node.leave_dump(&text);
    hung.start_and_hang(&stand.images());
    for (node, panic) in [(stand.node.clone(), "Attempted to kill init!"), (hung, "")] {
        assert_eq!(node.power_cycle(&stand.images()).1, version("1"));
        let daemon = Daemon::start(&node, &stand.repository).await;
        let rollback = daemon.handle.view().node.last_rollback.clone().unwrap();
        assert_eq!((rollback.panic.as_str(), rollback.tries), (panic, 3));
        assert!(rollback.reason.starts_with("it was started 3 times"));
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_damaged_record_does_not_stop_the_daemon() {
    let stand = Stand::new();
    for record in [
        Record::Trial,
        Record::LastRollback,
        Record::Barred,
        Record::Floor,
        Record::History,
        Record::Verdict,
        Record::Totals,
        Record::Reading,
        Record::Checks,
        Record::Kernels,
        Record::Boots,
    ] {
        stand.node.put_record(record, "{\"boot_id\": \u{0}");
    }
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
}

#[tokio::test]
async fn an_error_of_any_operation_while_staging_is_named_and_leaves_the_spare_disarmed() {
    let stand = Stand::new();
    let start = stand.node.twin();
    let daemon = Daemon::start(&start, &stand.repository).await;
    start.expect(Trouble::None);
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    let operations = start.operations();
    daemon.stop().await;
    assert!(operations > 30, "only {operations} operations");
    let before = stand.node.slot_bytes(Slot::A);
    for number in 0..operations {
        for trouble in [Trouble::Error(number), Trouble::Broken(number)] {
            let node = stand.node.twin();
            let daemon = Daemon::start(&node, &stand.repository).await;
            node.expect(trouble);
            let outcome = daemon.stage("2").await;
            let kinds = node.operation_kinds();
            let armed = node.entry_names().contains(&"bistable_2+3.efi".to_owned());
            match &outcome {
                // What is written down after arming, and what is looked up then.
                Outcome::Done => assert!(armed, "{trouble:?} {:?}", kinds.get(number)),
                Outcome::Failed(failure) => {
                    assert!(!armed, "{trouble:?} {:?}: {failure}", kinds.get(number));
                    assert!(!failure.message.is_empty());
                }
                Outcome::Cancelled => panic!("nobody cancelled"),
            }
            assert_eq!(node.slot_bytes(Slot::A), before);
            assert_eq!(node.armed_but_broken(&stand.images()), None, "{trouble:?}");
            node.expect(Trouble::None);
            if !armed {
                assert_eq!(daemon.stage("2").await, Outcome::Done, "after {trouble:?}");
            }
            daemon.stop().await;
        }
    }
}
