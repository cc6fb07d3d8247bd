//! Wherever the power fails, what is armed is whole, a good slot boots, and the
//! node updates afterwards.

use partition_layout::{Slot, SlotContent, Version};
use release::Release;
use serde_json::json;
use updater::machine::{Outcome, Request};
use updater::ports::{Part, Record};
use updater::records::Departure;

use super::fake::{FakeNode, Image, TornCount, Trouble};
use super::gate::{Daemon, bad, outcome, stage};
use super::network::{FakeRepository, Lie, Which, image, version};

const BLOCKS: usize = 300;

/// A node with a repository of four releases, which runs the first.
pub(super) struct Stand {
    releases: Vec<(Release, Image)>,
    pub(super) repository: FakeRepository,
    pub(super) node: FakeNode,
}

impl Stand {
    pub(super) fn new() -> Self {
        let releases: Vec<_> = (1..=4)
            .map(|number: u8| image(&number.to_string(), number, BLOCKS))
            .collect();
        let repository = FakeRepository::with(&releases.iter().collect::<Vec<_>>());
        let node = FakeNode::running(&releases[0].1);
        Self {
            releases,
            repository,
            node,
        }
    }

    pub(super) fn images(&self) -> Vec<&Image> {
        self.releases.iter().map(|(_, image)| image).collect()
    }

    pub(super) async fn stage(&self, name: &str) {
        let daemon = Daemon::start(&self.node, &self.repository).await;
        assert_eq!(daemon.stage(name).await, Outcome::Done);
        daemon.stop().await;
    }

    /// Leaves the word of the health gate about this boot.
    pub(super) fn put_verdict(&self, word: &str) {
        let (slot, _) = self.node.booted();
        let SlotContent::Holds { root_hash, .. } = self.node.content(slot) else {
            panic!("slot {slot} is empty")
        };
        let boot_id = self.node.boot_id_now();
        let verdict =
            json!({"boot_id": boot_id, "root_hash": root_hash, "verdict": word, "reason": "sick"});
        self.node.put_record(Record::Verdict, &verdict.to_string());
    }

    /// Brings the node to a trial of `name`.
    async fn try_out(&self, name: &str) {
        self.stage(name).await;
        assert_eq!(self.node.power_cycle(&self.images()).1, version(name));
    }

    pub(super) async fn update_to(&self, name: &str) {
        self.try_out(name).await;
        let daemon = Daemon::start(&self.node, &self.repository).await;
        daemon.handle.request(Request::MarkGood).await.unwrap();
        daemon.stop().await;
    }

    /// Cuts the power after every operation of `act`, and looks at what is left.
    /// Tells what ran after each cut, in the order of the cuts.
    pub(super) async fn cut_everywhere(&self, act: impl AsyncFn(&Daemon)) -> Vec<Version> {
        let whole = self.node.twin();
        let operations = {
            let daemon = Daemon::start(&whole, &self.repository).await;
            whole.expect(Trouble::None);
            act(&daemon).await;
            daemon.stop().await;
            whole.operations()
        };
        assert!(operations > 10, "only {operations} operations");
        let mut ran = Vec::new();
        for cut in 0..=operations {
            for trouble in [Trouble::Cut(cut), Trouble::CutAndReordered(cut)] {
                let node = self.node.twin();
                let daemon = Daemon::start(&node, &self.repository).await;
                node.expect(trouble);
                act(&daemon).await;
                daemon.stop().await;
                ran.push(self.look_at(&node, trouble).await);
            }
        }
        ran
    }

    async fn look_at(&self, node: &FakeNode, trouble: Trouble) -> Version {
        let images = self.images();
        let context = || format!("{trouble:?} after {:?}", node.operation_kinds().last());
        assert_eq!(node.armed_but_broken(&images), None, "{}", context());
        assert_eq!(node.watched_alone(&images), None, "{}", context());
        assert!(
            node.boots_properly(&images),
            "{}: {:?}",
            context(),
            node.entry_names()
        );
        let context = context();
        node.power_cycle(&images);
        let daemon = Daemon::start(node, &self.repository).await;
        if daemon.state() == "trial" {
            daemon.handle.request(Request::MarkGood).await.unwrap();
        }
        assert!(node.is_settled(), "{context}");
        let (_, version) = node.booted();
        // Whatever the cut has left, the next release goes in.
        assert_eq!(
            daemon.stage("4").await,
            Outcome::Done,
            "{context}, on {version}"
        );
        daemon.stop().await;
        assert_eq!(node.armed_but_broken(&images), None, "{context}");
        assert_eq!(node.watched_alone(&images), None, "{context}");
        assert_eq!(
            node.power_cycle(&images).1,
            super::network::version("4"),
            "{context}"
        );
        version
    }
}

#[tokio::test]
async fn while_staging_into_an_empty_slot() {
    let stand = Stand::new();
    stand
        .cut_everywhere(async |daemon| {
            daemon.stage("2").await;
        })
        .await;
}

#[tokio::test]
async fn while_staging_over_the_previous_release() {
    let stand = Stand::new();
    stand.update_to("2").await;
    stand
        .cut_everywhere(async |daemon| {
            daemon.stage("3").await;
        })
        .await;
}

#[tokio::test]
async fn while_a_stage_is_cancelled() {
    let stand = Stand::new();
    stand.repository.lie(Lie::Silence(Which::Root, 800_000));
    let cancel = async |daemon: &Daemon| {
        stand.repository.lie(Lie::Silence(Which::Root, 800_000));
        let mut job = daemon.begin(stage("2")).await.unwrap();
        tokio::select! {
            _ = job.work.wait_for(|work| work.phase == "root") => {}
            _ = job.outcome.wait_for(Option::is_some) => {}
        }
        // It may have ended by itself, without power.
        drop(daemon.handle.cancel(job.id).await);
        outcome(&mut job).await;
        stand.repository.lie(Lie::None);
    };
    stand.cut_everywhere(cancel).await;
}

#[tokio::test]
async fn while_the_boot_loader_counts_a_try() {
    for torn in [TornCount::Empty, TornCount::Shared] {
        let stand = Stand::new();
        stand.stage("2").await;
        stand.node.cut_the_count(torn, &stand.images());
        // The next start is of release 2 again, which then is good, and gives way to 4.
        assert_eq!(
            stand.look_at(&stand.node, Trouble::None).await,
            version("2"),
            "{torn:?}"
        );
    }
}

#[tokio::test]
async fn while_a_trial_is_marked_good() {
    let stand = Stand::new();
    stand.try_out("2").await;
    stand
        .cut_everywhere(async |daemon| {
            drop(daemon.handle.request(Request::MarkGood).await);
        })
        .await;
}

#[tokio::test]
async fn while_a_trial_is_marked_bad() {
    let stand = Stand::new();
    stand.try_out("2").await;
    stand
        .cut_everywhere(async |daemon| {
            drop(daemon.handle.request(bad("sick")).await);
        })
        .await;
}

/// The gate has left its word on the disk, or an operator has none to leave.
#[tokio::test]
async fn once_a_trial_that_was_marked_bad_has_left_that_is_told_and_its_image_barred() {
    for has_spoken in [true, false] {
        let stand = Stand::new();
        stand.try_out("2").await;
        if has_spoken {
            stand.put_verdict("fail");
        }
        let whole = stand.node.twin();
        let daemon = Daemon::start(&whole, &stand.repository).await;
        whole.expect(Trouble::None);
        daemon.handle.request(bad("sick")).await.unwrap();
        daemon.stop().await;
        let mut left = 0;
        for cut in 0..=whole.operations() {
            for trouble in [Trouble::Cut(cut), Trouble::Error(cut)] {
                let node = stand.node.twin();
                let daemon = Daemon::start(&node, &stand.repository).await;
                node.expect(trouble);
                drop(daemon.handle.request(bad("sick")).await);
                daemon.stop().await;
                let kinds = node.operation_kinds();
                if node.power_cycle(&stand.images()) != (Slot::A, version("1")) {
                    continue;
                }
                left += 1;
                let daemon = Daemon::start(&node, &stand.repository).await;
                let seen = daemon.handle.view().node.clone();
                daemon.stop().await;
                let context = format!("{trouble:?} after {kinds:?}, spoken: {has_spoken}");
                let told = seen.last_rollback.expect(&context);
                assert_eq!(told.version, version("2"), "{context}");
                assert_eq!(seen.barred.len(), 1, "{context}");
                assert!(!has_spoken || told.reason == "sick", "{context}");
            }
        }
        assert!(left > 4, "it was left only {left} times");
    }
}

#[tokio::test]
async fn while_a_rollback_is_armed() {
    let stand = Stand::new();
    stand.update_to("2").await;
    stand
        .cut_everywhere(async |daemon| {
            daemon
                .run(Request::Rollback {
                    reason: String::new(),
                })
                .await;
        })
        .await;
}

#[tokio::test]
async fn while_an_older_release_is_marked_good() {
    let stand = Stand::new();
    stand.update_to("2").await;
    let daemon = Daemon::start(&stand.node, &stand.repository).await;
    daemon
        .run(Request::Rollback {
            reason: String::new(),
        })
        .await;
    daemon.stop().await;
    assert_eq!(
        stand.node.power_cycle(&stand.images()),
        (Slot::A, version("1"))
    );
    let ran = stand
        .cut_everywhere(async |daemon| {
            drop(daemon.handle.request(Request::MarkGood).await);
        })
        .await;
    // Before its first change is on the disk, the cut has cost the trial its one
    // start; from there on nothing brings the newer release back.
    let first = ran.iter().position(|it| *it == version("1")).unwrap();
    assert!(first < 6, "{ran:?}");
    assert!(
        ran.iter().skip(first).all(|it| *it == version("1")),
        "{ran:?}"
    );
}

#[tokio::test]
async fn while_the_watch_on_a_good_slot_is_renewed() {
    let stand = Stand::new();
    stand.update_to("2").await;
    stand.node.power_cycle(&stand.images());
    assert!(
        stand
            .node
            .entry_names()
            .contains(&"bistable_2+14-1.efi".to_owned())
    );
    let ran = stand
        .cut_everywhere(async |daemon| {
            drop(daemon.handle.request(Request::MarkGood).await);
        })
        .await;
    assert!(ran.iter().all(|it| *it == version("2")), "{ran:?}");
}

#[tokio::test]
async fn while_the_boot_loader_counts_a_start_of_a_good_slot() {
    for torn in [TornCount::Empty, TornCount::Shared] {
        let stand = Stand::new();
        stand.update_to("2").await;
        stand.node.cut_the_count(torn, &stand.images());
        let ran = stand.look_at(&stand.node, Trouble::None).await;
        assert_eq!(ran, version("2"), "{torn:?}");
    }
}

/// A trial and a watch whose count was cut short, and then the release never gets as far as
/// the updater.
#[tokio::test]
async fn and_then_a_release_that_never_comes_up_still_gives_way() {
    for torn in [TornCount::Empty, TornCount::Shared] {
        let trial = Stand::new();
        trial.stage("2").await;
        let watched = Stand::new();
        watched.update_to("2").await;
        for stand in [trial, watched] {
            stand.node.cut_the_count(torn, &stand.images());
            stand
                .node
                .alter(Slot::B, Part::Root, |root| root[4096] ^= 1);
            let booted = stand.node.power_cycle(&stand.images());
            assert_eq!(booted, (Slot::A, version("1")), "{torn:?}");
        }
    }
}

#[tokio::test]
async fn after_a_count_that_was_cut_short_the_next_start_is_counted() {
    for torn in [TornCount::Empty, TornCount::Shared] {
        let stand = Stand::new();
        stand.update_to("2").await;
        stand.node.cut_the_count(torn, &stand.images());
        // It is PID 1 that mends, and the updater where that could not.
        stand.node.hinder_pid_1(true);
        for expected in ["bistable_2+15.efi", "bistable_2+14-1.efi"] {
            let booted = stand.node.power_cycle(&stand.images());
            assert_eq!(booted, (Slot::B, version("2")));
            let daemon = Daemon::start(&stand.node, &stand.repository).await;
            let names = stand.node.entry_names();
            assert_eq!(names, ["bistable_1.efi", expected], "{torn:?}");
            daemon.handle.request(Request::MarkGood).await.unwrap();
            daemon.stop().await;
        }
    }
}

#[tokio::test]
async fn while_it_is_told_that_a_good_release_gave_way() {
    let stand = Stand::new();
    stand.update_to("2").await;
    stand
        .node
        .alter(Slot::B, Part::Root, |root| root[4096] ^= 1);
    let booted = stand.node.power_cycle(&stand.images());
    assert_eq!(booted, (Slot::A, version("1")));
    let node = stand.node.twin();
    node.expect(Trouble::None);
    Daemon::start(&node, &stand.repository).await.stop().await;
    let operations = node.operations();
    assert!(operations > 10, "only {operations} operations");
    for cut in 0..=operations {
        let node = stand.node.twin();
        node.expect(Trouble::Cut(cut));
        // Without power there may be nothing to start on.
        if let Ok(daemon) = Daemon::try_start(&node, &stand.repository).await {
            daemon.stop().await;
        }
        node.power_cycle(&stand.images());
        let daemon = Daemon::start(&node, &stand.repository).await;
        let seen = daemon.handle.view().node.clone();
        let told = seen.last_rollback.unwrap();
        assert_eq!(
            (told.kind, told.version),
            (Departure::GaveWay, version("2")),
            "cut after {cut}"
        );
        assert!(seen.barred.is_empty(), "cut after {cut}");
        daemon.stop().await;
        stand.look_at(&node, Trouble::Cut(cut)).await;
    }
}

#[tokio::test]
async fn while_a_rollback_is_settled() {
    let stand = Stand::new();
    stand.stage("2").await;
    for _ in 0..4 {
        stand.node.start_and_hang(&stand.images());
    }
    let node = stand.node.twin();
    node.expect(Trouble::None);
    Daemon::start(&node, &stand.repository).await.stop().await;
    let told = node.record(updater::ports::Record::LastRollback);
    assert!(told.is_some());
    for cut in 0..=node.operations() {
        let node = stand.node.twin();
        node.expect(Trouble::Cut(cut));
        // Without power there may be nothing to start on.
        if let Ok(daemon) = Daemon::try_start(&node, &stand.repository).await {
            daemon.stop().await;
        }
        let images = stand.images();
        node.power_cycle(&images);
        let daemon = Daemon::start(&node, &stand.repository).await;
        let seen = daemon.handle.view().node.clone();
        assert_eq!(
            seen.last_rollback.unwrap().version,
            version("2"),
            "cut after {cut}"
        );
        assert_eq!(seen.barred.len(), 1, "cut after {cut}");
        daemon.stop().await;
        stand.look_at(&node, Trouble::Cut(cut)).await;
    }
}
