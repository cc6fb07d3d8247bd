//! What a node does by itself: a timer asks it to proceed, again and again.

use release::rollout::Rollout;
use updater::asker::Asker;
use updater::config::Repository;
use updater::driver::{Accepted, JobWish};
use updater::job::Job;
use updater::machine::{Holder, Outcome};
use updater::names::ErrorName;
use updater::policy::{Automatic, Days, Rules, TimeOfDay, Window, Windows, Zone};
use updater::ports::Restart;

use super::fake::{FakeNode, HandClock};
use super::gate::{Daemon, outcome, rules, stage};
use super::network::{FakeRepository, Lie, Which, image};
use super::stages::failed;

struct Stand {
    node: FakeNode,
    repository: FakeRepository,
    clock: HandClock,
    daemon: Daemon,
}

/// The night of a Saturday.
const NIGHT: &str = "2026-11-21T23:00:00Z";

fn at_night(automatic: Automatic) -> Rules {
    let window = Window {
        days: Days::parse("daily").unwrap(),
        from: TimeOfDay::parse("22:00").unwrap(),
        to: TimeOfDay::parse("04:00").unwrap(),
        zone: Zone::utc(),
    };
    Rules {
        windows: Windows::new(vec![window]),
        ..rules(automatic)
    }
}

/// Two windows, with twenty minutes between them.
fn twice_a_night(automatic: Automatic) -> Rules {
    let window = |from, to| Window {
        days: Days::parse("daily").unwrap(),
        from: TimeOfDay::parse(from).unwrap(),
        to: TimeOfDay::parse(to).unwrap(),
        zone: Zone::utc(),
    };
    Rules {
        windows: Windows::new(vec![window("22:00", "23:10"), window("23:30", "23:50")]),
        ..rules(automatic)
    }
}

impl Stand {
    async fn new(rules: Rules) -> Self {
        let (one, two) = (image("1", 1, 300), image("2", 2, 300));
        let node = FakeNode::running(&one.1);
        let repository = FakeRepository::with(&[&one, &two]);
        let clock = HandClock::at(NIGHT);
        let daemon = Daemon::with(&node, &repository, clock.clone(), rules).await;
        Self {
            node,
            repository,
            clock,
            daemon: daemon.unwrap(),
        }
    }

    /// Lets it proceed, to the end of the job that it begins.
    async fn proceed(&self) -> &'static str {
        match self.daemon.handle.proceed().await.unwrap() {
            Accepted::Job(mut job) => {
                outcome(&mut job).await;
                job.kind.as_str()
            }
            Accepted::Done => "reboot",
            Accepted::Nothing => "nothing",
        }
    }

    /// Lets it begin to stage, until the hands are held by a write.
    async fn stage_into_the_barrier(&self) -> Job {
        assert_eq!(self.proceed().await, "check");
        self.node.barrier.close();
        let Accepted::Job(job) = self.daemon.handle.proceed().await.unwrap() else {
            panic!("nothing is staged")
        };
        self.node.barrier.holds().await;
        job
    }

    async fn at(&self, time: &str) {
        self.clock.set(time);
        self.daemon.handle.look_at_clock().await;
        // Whatever was asked before has been heard when this is answered.
        self.daemon
            .handle
            .ask_of_job(0, JobWish::Resume)
            .await
            .unwrap_err();
    }

    fn held(&self) -> &'static str {
        let view = self.daemon.handle.view();
        view.automation.held.as_ref().map_or("", |held| held.name())
    }
}

fn holder(job: &Job) -> Option<Holder> {
    job.work.borrow().holder
}

#[tokio::test]
async fn a_node_checks_stages_and_reboots_by_itself_and_in_a_window_only() {
    let stand = Stand::new(at_night(Automatic::Reboot)).await;
    stand.at("2026-11-21T12:00:00Z").await;
    // To look is allowed at any time.
    assert_eq!(stand.proceed().await, "check");
    assert_eq!(
        (stand.proceed().await, stand.held()),
        ("nothing", "window-closed")
    );
    stand.at("2026-11-21T22:00:00Z").await;
    assert_eq!(stand.proceed().await, "check");
    assert_eq!(stand.proceed().await, "stage");
    stand.at("2026-11-22T04:00:00Z").await;
    assert_eq!(
        (stand.proceed().await, stand.held()),
        ("nothing", "window-closed")
    );
    assert_eq!(stand.node.reboots(), []);
    stand.at("2026-11-22T22:00:00Z").await;
    assert_eq!(stand.proceed().await, "check");
    assert_eq!(stand.held(), "");
    assert_eq!(stand.proceed().await, "reboot");
    assert_eq!(stand.node.reboots(), [Restart::InOrder]);
    stand.daemon.stop().await;
}

#[tokio::test]
async fn a_stage_waits_while_no_window_is_open_and_goes_on_when_one_opens_soon() {
    let stand = Stand::new(twice_a_night(Automatic::Stage)).await;
    let mut job = stand.stage_into_the_barrier().await;
    stand.at("2026-11-21T23:09:59Z").await;
    assert_eq!(holder(&job), None);
    stand.at("2026-11-21T23:10:00Z").await;
    assert_eq!(holder(&job), Some(Holder::Window));
    assert_eq!(stand.held(), "window-closed");
    stand.node.barrier.open();
    assert_eq!(stand.node.entry_names(), ["bistable_1.efi"]);
    stand.at("2026-11-21T23:30:00Z").await;
    assert_eq!(holder(&job), None);
    assert_eq!(outcome(&mut job).await, Outcome::Done);
    stand.daemon.stop().await;
}

#[tokio::test]
async fn a_stage_that_waited_long_is_given_up_and_begun_again_on_a_fresh_word() {
    let stand = Stand::new(at_night(Automatic::Stage)).await;
    let mut job = stand.stage_into_the_barrier().await;
    stand.at("2026-11-22T04:00:00Z").await;
    stand.node.barrier.open();
    stand.at("2026-11-22T22:00:00Z").await;
    assert_eq!(outcome(&mut job).await, Outcome::Cancelled);
    // Nobody is to blame, and nothing is waited for.
    assert_eq!(stand.proceed().await, "check");
    assert_eq!(stand.proceed().await, "stage");
    assert_eq!(stand.daemon.state(), "staged");
    stand.daemon.stop().await;
}

#[tokio::test]
async fn a_rollout_that_was_stopped_while_a_stage_waited_arms_nothing() {
    let stand = Stand::new(at_night(Automatic::Reboot)).await;
    let mut job = stand.stage_into_the_barrier().await;
    stand.at("2026-11-22T04:00:00Z").await;
    let seed = "2".to_owned();
    stand.repository.roll_out(Rollout { share: 0, seed });
    stand.node.barrier.open();
    stand.at("2026-11-22T22:00:00Z").await;
    assert_eq!(outcome(&mut job).await, Outcome::Cancelled);
    assert_eq!(stand.proceed().await, "check");
    assert_eq!(
        (stand.proceed().await, stand.held()),
        ("nothing", "rollout")
    );
    assert_eq!(stand.node.entry_names(), ["bistable_1.efi"]);
    stand.daemon.stop().await;
}

#[tokio::test]
async fn whoever_resumes_a_stage_overrules_the_windows() {
    let stand = Stand::new(at_night(Automatic::Stage)).await;
    let mut job = stand.stage_into_the_barrier().await;
    stand.at("2026-11-22T04:00:00Z").await;
    let resumed = stand.daemon.handle.ask_of_job(job.id, JobWish::Resume);
    resumed.await.unwrap();
    stand.at("2026-11-22T05:00:00Z").await;
    assert_eq!(holder(&job), None);
    stand.node.barrier.open();
    assert_eq!(outcome(&mut job).await, Outcome::Done);
    stand.daemon.stop().await;
}

#[tokio::test]
async fn a_window_that_opens_takes_no_pause_from_who_asked_for_it() {
    let stand = Stand::new(at_night(Automatic::Stage)).await;
    let job = stand.stage_into_the_barrier().await;
    stand.at("2026-11-22T04:00:00Z").await;
    let paused = stand.daemon.handle.ask_of_job(job.id, JobWish::Pause);
    paused.await.unwrap();
    stand.at("2026-11-22T22:00:00Z").await;
    assert_eq!(holder(&job), Some(Holder::Caller));
    assert_eq!(stand.held(), "paused");
    stand.node.barrier.open();
    stand.daemon.stop().await;
}

#[tokio::test]
async fn what_an_operator_asks_for_waits_for_no_window() {
    let stand = Stand::new(at_night(Automatic::Stage)).await;
    stand.at("2026-11-22T12:00:00Z").await;
    let asker = Asker::Caller {
        uid: Some(0),
        unit: None,
    };
    stand.node.barrier.close();
    let asked = stand.daemon.handle.request_by(asker, stage("2")).await;
    let Ok(Accepted::Job(mut job)) = asked else {
        panic!("{asked:?}")
    };
    stand.node.barrier.holds().await;
    stand.at("2026-11-22T12:00:30Z").await;
    assert_eq!(holder(&job), None);
    stand.node.barrier.open();
    assert_eq!(outcome(&mut job).await, Outcome::Done);
    stand.daemon.stop().await;
}

#[tokio::test]
async fn a_rollout_that_was_stopped_holds_the_reboot_too() {
    let stand = Stand::new(rules(Automatic::Reboot)).await;
    assert_eq!(stand.proceed().await, "check");
    assert_eq!(stand.proceed().await, "stage");
    let seed = "2".to_owned();
    stand.repository.roll_out(Rollout { share: 0, seed });
    stand.at("2026-11-22T12:00:00Z").await;
    assert_eq!(stand.proceed().await, "check");
    assert_eq!(
        (stand.proceed().await, stand.held()),
        ("nothing", "rollout")
    );
    assert_eq!(stand.node.reboots(), []);
    stand.daemon.stop().await;
}

#[tokio::test]
async fn what_cannot_be_staged_is_not_tried_again_at_once() {
    let stand = Stand::new(rules(Automatic::Stage)).await;
    stand.repository.lie(Lie::Flip(Which::Root, 5000));
    assert_eq!(stand.proceed().await, "check");
    assert_eq!(stand.proceed().await, "stage");
    assert_eq!((stand.proceed().await, stand.held()), ("nothing", "failed"));
    stand.repository.lie(Lie::None);
    stand.at("2026-11-22T00:00:00Z").await;
    assert_eq!(stand.held(), "");
    assert_eq!(stand.proceed().await, "check");
    assert_eq!(stand.proceed().await, "stage");
    assert_eq!(stand.daemon.state(), "staged");
    stand.daemon.stop().await;
}

#[tokio::test]
async fn what_fails_each_hour_in_the_same_way_is_told_once_and_anything_else_again() {
    let stand = Stand::new(rules(Automatic::Stage)).await;
    let attempt = async |hour: u32, lie: Lie| {
        stand.repository.lie(lie);
        stand.at(&format!("2026-11-22T{hour:02}:00:00Z")).await;
        assert_eq!(stand.proceed().await, "check");
        assert_eq!(stand.proceed().await, "stage");
        stand.daemon.handle.view().node.history.len()
    };
    for hour in [0, 2, 4] {
        assert_eq!(attempt(hour, Lie::Flip(Which::Root, 5000)).await, 1);
    }
    assert_eq!(attempt(6, Lie::Truncate(Which::Uki, 5000)).await, 2);
    // Another one asks, and that is told too.
    assert_eq!(
        failed(stand.daemon.stage("2").await),
        ErrorName::BlobTruncated
    );
    assert_eq!(attempt(8, Lie::Truncate(Which::Uki, 5000)).await, 4);
    stand.daemon.stop().await;
}

#[tokio::test]
async fn a_stage_that_somebody_cancelled_is_not_begun_again_at_once() {
    let stand = Stand::new(rules(Automatic::Stage)).await;
    let mut job = stand.stage_into_the_barrier().await;
    let cancelled = stand.daemon.handle.ask_of_job(job.id, JobWish::Cancel);
    cancelled.await.unwrap();
    stand.node.barrier.open();
    assert_eq!(outcome(&mut job).await, Outcome::Cancelled);
    assert_eq!(
        (stand.proceed().await, stand.held()),
        ("nothing", "cancelled")
    );
    stand.daemon.stop().await;
}

/// The same rules for another repository.
fn elsewhere(automatic: Automatic) -> Rules {
    let mut other = rules(automatic);
    if let Some(source) = &mut other.source {
        source.repository = Repository::parse("http://other/").unwrap();
    }
    other
}

#[tokio::test]
async fn a_check_that_is_under_way_while_the_repository_is_changed_brings_no_old_offer() {
    let stand = Stand::new(rules(Automatic::Stage)).await;
    stand.repository.barrier().close();
    let Accepted::Job(mut job) = stand.daemon.handle.proceed().await.unwrap() else {
        panic!("nothing is checked")
    };
    stand.repository.barrier().holds().await;
    stand.daemon.handle.obey(elsewhere(Automatic::Stage)).await;
    stand.at(NIGHT).await;
    stand.repository.barrier().open();
    assert_eq!(outcome(&mut job).await, Outcome::Done);
    let view = stand.daemon.handle.view();
    assert_eq!((view.offer.clone(), view.last_check), (None, None));
    // What the next one brings counts.
    assert_eq!(stand.proceed().await, "check");
    assert_eq!(stand.proceed().await, "stage");
    stand.daemon.stop().await;
}

#[tokio::test]
async fn another_repository_is_asked_at_once() {
    let stand = Stand::new(rules(Automatic::Check)).await;
    assert_eq!(stand.proceed().await, "check");
    assert_eq!(
        (stand.proceed().await, stand.held()),
        ("nothing", "only-checks")
    );
    stand.daemon.handle.obey(elsewhere(Automatic::Check)).await;
    assert_eq!(stand.proceed().await, "check");
    stand.daemon.stop().await;
}
