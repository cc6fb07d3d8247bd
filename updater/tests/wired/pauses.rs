//! Jobs that are held still, and stopped, at any moment.

use partition_layout::Slot;
use updater::driver::{JobWish, RequestError};
use updater::job::Job;
use updater::machine::{Holder, Outcome, Request};
use updater::names::ErrorName;

use super::fake::{FakeNode, Image};
use super::gate::{Daemon, outcome, stage};
use super::network::{FakeRepository, image, version};

struct Stand {
    node: FakeNode,
    repository: FakeRepository,
    daemon: Daemon,
    images: [Image; 2],
}

impl Stand {
    async fn new() -> Self {
        let (one, two) = (image("1", 1, 300), image("2", 2, 300));
        let node = FakeNode::running(&one.1);
        let repository = FakeRepository::with(&[&one, &two]);
        let daemon = Daemon::start(&node, &repository).await;
        Self {
            node,
            repository,
            daemon,
            images: [one.1, two.1],
        }
    }

    /// Begins to stage, and waits until the hands are held by a write.
    async fn stage_into_the_barrier(&self) -> Job {
        self.node.barrier.close();
        let job = self.daemon.begin(stage("2")).await.unwrap();
        self.node.barrier.holds().await;
        job
    }

    async fn ask(&self, job: &Job, wish: JobWish) -> Result<(), ErrorName> {
        match self.daemon.handle.ask_of_job(job.id, wish).await {
            Ok(_) => Ok(()),
            Err(RequestError::Refused(refused)) => Err(refused.name()),
            Err(RequestError::Failed(failure)) => Err(failure.name),
        }
    }
}

fn holder(job: &Job) -> Option<Holder> {
    job.work.borrow().holder
}

#[tokio::test]
async fn a_stage_that_is_paused_has_the_spare_disarmed_and_then_goes_on_to_its_end() {
    let stand = Stand::new().await;
    let mut job = stand.stage_into_the_barrier().await;
    stand.ask(&job, JobWish::Pause).await.unwrap();
    assert_eq!(holder(&job), Some(Holder::Caller));
    stand.node.barrier.open();
    assert_eq!(stand.node.entry_names(), ["bistable_1.efi"]);
    // A second word changes nothing.
    stand.ask(&job, JobWish::Pause).await.unwrap();
    stand.ask(&job, JobWish::Resume).await.unwrap();
    assert_eq!(holder(&job), None);
    assert_eq!(outcome(&mut job).await, Outcome::Done);
    assert_eq!(
        stand.node.entry_names(),
        ["bistable_1.efi", "bistable_2+3.efi"]
    );
    stand.daemon.stop().await;
}

#[tokio::test]
async fn a_paused_stage_waits_until_it_is_cancelled() {
    let stand = Stand::new().await;
    let mut job = stand.stage_into_the_barrier().await;
    stand.ask(&job, JobWish::Pause).await.unwrap();
    stand.node.barrier.open();
    // If it did not hold still, it would be done about now.
    stand.ask(&job, JobWish::Cancel).await.unwrap();
    assert_eq!(outcome(&mut job).await, Outcome::Cancelled);
    assert_eq!(stand.node.entry_names(), ["bistable_1.efi"]);
    assert_eq!(
        stand.ask(&job, JobWish::Pause).await,
        Err(ErrorName::NoSuchJob)
    );
    assert_eq!(
        stand.ask(&job, JobWish::Resume).await,
        Err(ErrorName::NoSuchJob)
    );
    stand.daemon.stop().await;
}

#[tokio::test]
async fn a_pause_while_the_release_is_looked_up_holds_the_stage_that_follows() {
    let stand = Stand::new().await;
    stand.repository.barrier().close();
    let mut job = stand.daemon.begin(stage("2")).await.unwrap();
    stand.repository.barrier().holds().await;
    stand.ask(&job, JobWish::Pause).await.unwrap();
    stand.repository.barrier().open();
    // The stage's order is with the hands, which have taken the first note off.
    let begun = job.work.wait_for(|work| work.phase == "clear");
    drop(begun.await.unwrap());
    stand.ask(&job, JobWish::Cancel).await.unwrap();
    assert_eq!(outcome(&mut job).await, Outcome::Cancelled);
    assert_eq!(stand.node.entry_names(), ["bistable_1.efi"]);
    stand.daemon.stop().await;
}

#[tokio::test]
async fn a_power_cut_in_a_pause_leaves_the_old_release() {
    let stand = Stand::new().await;
    let job = stand.stage_into_the_barrier().await;
    stand.ask(&job, JobWish::Pause).await.unwrap();
    let images: Vec<&Image> = stand.images.iter().collect();
    let found = stand.node.twin().power_cycle(&images);
    assert_eq!(found, (Slot::A, version("1")));
    stand.node.barrier.open();
    stand.daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_that_goes_down_does_not_wait_out_a_pause() {
    let stand = Stand::new().await;
    let job = stand.stage_into_the_barrier().await;
    stand.ask(&job, JobWish::Pause).await.unwrap();
    stand.node.barrier.open();
    stand.daemon.stop().await;
    assert_eq!(stand.node.entry_names(), ["bistable_1.efi"]);
}

#[tokio::test]
async fn a_check_is_cancelled_rather_than_paused() {
    let stand = Stand::new().await;
    stand.repository.barrier().close();
    let job = stand.daemon.begin(Request::Check).await.unwrap();
    stand.repository.barrier().holds().await;
    assert_eq!(
        stand.ask(&job, JobWish::Pause).await,
        Err(ErrorName::NotPausable)
    );
    stand.repository.barrier().open();
    stand.daemon.stop().await;
}
