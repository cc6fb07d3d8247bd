//! Kernel images that rot: of the slot that runs, and of the other one.

use std::sync::Arc;

use partition_layout::{BootEntry, Slot};
use updater::machine::{Outcome, Request};
use updater::names::ErrorName;
use updater::ports::Record;
use updater::scrub::keeper::Keeper;

use super::fake::{FakeClock, FakeNode};
use super::gate::Daemon;
use super::network::{FakeRepository, Lie, Which, image};
use super::scrub::{last_event, read, read_by, try_again};
use super::stages::Stand;

/// The booted kernel image, where release 1 runs and is good.
const KERNEL: &str = "bistable_1.efi";

#[tokio::test]
async fn a_kernel_image_that_rots_is_mended_from_the_repository_which_need_not_be_believed() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let sound = stand.node.kernel(KERNEL);
    read(&stand.node, &daemon).await;
    assert_eq!(last_event(&daemon), None);

    stand.node.rot_kernel(KERNEL, 5);
    stand.node.rot_kernel(KERNEL, sound.len() - 1);
    stand.repository.lie(Lie::FlipOnce(Which::Uki, 9));
    read(&stand.node, &daemon).await;
    assert!(stand.node.kernel(KERNEL) == sound, "it is as it was");
    let (event, message) = last_event(&daemon).unwrap();
    assert_eq!(event, "mended", "{message}");
    assert!(message.contains("kernel image mended"), "{message}");
    // Another reading finds nothing to do.
    let lines = daemon.handle.view().node.history.len();
    read(&stand.node, &daemon).await;
    assert_eq!(daemon.handle.view().node.history.len(), lines);
    daemon.stop().await;
}

#[tokio::test]
async fn a_kernel_image_that_nobody_has_is_told_left_as_it_is_and_mended_later() {
    for lie in [Lie::Gone, Lie::Flip(Which::Uki, 5)] {
        let stand = Stand::new();
        let daemon = stand.daemon().await;
        let sound = stand.node.kernel(KERNEL);
        read(&stand.node, &daemon).await;
        stand.node.rot_kernel(KERNEL, 5);
        let rotten = stand.node.kernel(KERNEL);
        stand.repository.lie(lie);
        read(&stand.node, &daemon).await;
        assert!(stand.node.kernel(KERNEL) == rotten, "nothing is written");
        let (event, message) = last_event(&daemon).unwrap();
        assert_eq!(event, "rotten");
        assert!(message.contains("the kernel image is rotten"), "{message}");
        let name = daemon.handle.view().last_error.clone().map(|it| it.name);
        assert_eq!(name, Some(ErrorName::ReadBackMismatch));

        stand.repository.lie(Lie::None);
        read(&stand.node, &daemon).await;
        assert!(stand.node.kernel(KERNEL) == sound, "it is as it was");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_kernel_image_that_came_with_the_disk_is_believed_until_somebody_says_what_it_should_be()
{
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let sound = stand.node.kernel(KERNEL);
    stand.node.rot_kernel(KERNEL, 5);
    stand.repository.lie(Lie::Gone);
    read(&stand.node, &daemon).await;
    assert_eq!(last_event(&daemon), None);

    // It starts: nobody writes over it what may be quite another one.
    stand.repository.lie(Lie::None);
    let lines = || daemon.handle.view().node.history.len();
    for changed in [false, true] {
        if changed {
            stand.node.rot_kernel(KERNEL, 9);
        }
        let found = stand.node.kernel(KERNEL);
        read(&stand.node, &daemon).await;
        assert!(stand.node.kernel(KERNEL) == found);
        let (event, message) = last_event(&daemon).unwrap();
        assert_eq!((event, lines()), ("rotten", 1), "{message}");
        assert!(
            message.contains("is not known to have ever been"),
            "{message}"
        );
    }

    // Somebody has put the right one there: that is known now, also without a network.
    stand.node.put_kernel(KERNEL, sound);
    read(&stand.node, &daemon).await;
    let (event, message) = last_event(&daemon).unwrap();
    assert_eq!(
        (event, message.as_str()),
        ("mended", "what was rotten is sound again")
    );
    stand.repository.lie(Lie::Gone);
    stand.node.rot_kernel(KERNEL, 5);
    read(&stand.node, &daemon).await;
    assert_eq!((last_event(&daemon).unwrap().0, lines()), ("rotten", 3));
    daemon.stop().await;
}

#[tokio::test]
async fn what_keeps_a_kernel_image_from_being_mended_may_change_and_is_told_once() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    read(&stand.node, &daemon).await;
    stand.node.rot_kernel(KERNEL, 5);
    let lines = || daemon.handle.view().node.history.len();
    let error = || daemon.handle.view().last_error.clone().unwrap().message;
    let mut errors = Vec::new();
    for lie in [Lie::Gone, Lie::Flip(Which::Uki, 5), Lie::Gone] {
        stand.repository.lie(lie);
        read(&stand.node, &daemon).await;
        assert_eq!(lines(), 1);
        errors.push(error());
    }
    assert_ne!(errors[0], errors[1]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_kernel_image_that_nobody_can_judge_is_looked_at_again() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let keeper = Keeper::new(stand.node.clone(), FakeClock, daemon.handle.clone());
    let keeper = Arc::new(keeper);
    read_by(&keeper).await;
    stand.node.rot_kernel(KERNEL, 5);
    stand.node.refuse(&["kernels"]);
    read_by(&keeper).await;
    assert_eq!(last_event(&daemon), None);
    let failure = daemon.handle.view().last_error.clone().unwrap();
    assert!(failure.message.contains("nobody can tell"), "{failure}");
    stand.node.refuse(&[]);
    try_again(&keeper).await;
    let (event, message) = last_event(&daemon).unwrap();
    assert_eq!(event, "mended", "{message}");
    daemon.stop().await;
}

#[tokio::test]
async fn the_spare_slots_kernel_image_is_mended_before_anybody_starts_it() {
    let stand = Stand::new();
    stand.update_to("2").await;
    let daemon = stand.daemon().await;
    let (spare, booted) = (kernel_of(&stand.node, "1"), kernel_of(&stand.node, "2"));
    let sound = [stand.node.kernel(&spare), stand.node.kernel(&booted)];
    // It came with the disk.
    read(&stand.node, &daemon).await;
    stand.node.rot_kernel(&spare, 5);
    read(&stand.node, &daemon).await;
    assert!([stand.node.kernel(&spare), stand.node.kernel(&booted)] == sound);
    let (event, message) = last_event(&daemon).unwrap();
    assert_eq!(event, "mended", "{message}");
    assert!(message.contains("the kernel image mended"), "{message}");

    stand.repository.lie(Lie::Gone);
    stand.node.rot_kernel(&spare, 5);
    read(&stand.node, &daemon).await;
    let (event, message) = last_event(&daemon).unwrap();
    assert_eq!(event, "rotten", "{message}");
    assert!(message.contains("the kernel image is rotten"), "{message}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_kernel_image_that_could_not_be_mended_is_tried_again_without_another_reading() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let keeper = Keeper::new(stand.node.clone(), FakeClock, daemon.handle.clone());
    let keeper = Arc::new(keeper);
    let sound = stand.node.kernel(KERNEL);
    read_by(&keeper).await;
    let lines = || daemon.handle.view().node.history.len();
    try_again(&keeper).await;
    assert_eq!(lines(), 0, "nothing is left");

    stand.node.rot_kernel(KERNEL, 5);
    stand.repository.lie(Lie::Gone);
    read_by(&keeper).await;
    try_again(&keeper).await;
    assert_eq!(lines(), 1, "told once");
    let blocks = || keeper.progress().borrow().next;
    let before = blocks();
    stand.repository.lie(Lie::None);
    try_again(&keeper).await;
    assert!(stand.node.kernel(KERNEL) == sound, "it is as it was");
    assert_eq!((lines(), blocks()), (2, before));
    let reading = stand.node.record(Record::Reading).unwrap();
    assert!(reading.contains("\"left\": false"), "{reading}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_kernel_image_of_another_length_is_told_and_not_written_to() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    read(&stand.node, &daemon).await;
    let mut longer = stand.node.kernel(KERNEL);
    longer.push(0);
    stand.node.put_kernel(KERNEL, longer.clone());
    read(&stand.node, &daemon).await;
    let (event, message) = last_event(&daemon).unwrap();
    assert_eq!(event, "rotten");
    assert!(message.contains("the release says"), "{message}");
    assert!(stand.node.kernel(KERNEL) == longer);
    daemon.stop().await;
}

#[tokio::test]
async fn a_disk_that_takes_no_block_of_a_kernel_image_is_told_and_the_next_reading_mends() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let sound = stand.node.kernel(KERNEL);
    read(&stand.node, &daemon).await;
    stand.node.rot_kernel(KERNEL, 5);
    stand.node.refuse(&["mend-entry"]);
    read(&stand.node, &daemon).await;
    let (event, message) = last_event(&daemon).unwrap();
    assert_eq!(event, "rotten");
    assert!(message.contains("it cannot be written to"), "{message}");
    stand.node.refuse(&[]);
    read(&stand.node, &daemon).await;
    assert!(stand.node.kernel(KERNEL) == sound, "it is as it was");
    daemon.stop().await;
}

#[tokio::test]
async fn a_kernel_image_that_rots_before_it_was_first_read_is_known_from_its_stage() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
    stand.node.power_cycle(&stand.images());
    let started = kernel_of(&stand.node, "2");
    let sound = stand.node.kernel(&started);
    stand.node.rot_kernel(&started, 5);
    let daemon = stand.daemon().await;
    daemon.handle.request(Request::MarkGood).await.unwrap();
    read(&stand.node, &daemon).await;
    let (event, message) = last_event(&daemon).unwrap();
    assert_eq!(event, "mended", "{message}");
    assert!(stand.node.kernel(&kernel_of(&stand.node, "2")) == sound);
    daemon.stop().await;
}

fn kernel_of(node: &FakeNode, version: &str) -> String {
    let mut names = node.entry_names().into_iter();
    let is_meant = |name: &String| {
        BootEntry::parse_file_name(name).is_ok_and(|entry| entry.version.as_str() == version)
    };
    names.find(is_meant).expect("it has an entry")
}

#[tokio::test]
async fn a_rollback_to_a_kernel_image_that_has_rotten_is_refused_with_nothing_changed() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    read(&stand.node, &daemon).await;
    daemon.stop().await;
    stand.update_to("2").await;
    let older = kernel_of(&stand.node, "1");
    stand.node.rot_kernel(&older, 5);
    let names = stand.node.entry_names();
    let slot = stand.node.slot_bytes(Slot::A);

    let daemon = stand.daemon().await;
    let rollback = || Request::Rollback {
        reason: String::new(),
    };
    let Outcome::Failed(failure) = daemon.run(rollback()).await else {
        panic!("the rollback did not fail");
    };
    assert_eq!(failure.name, ErrorName::ReadBackMismatch);
    assert!(
        failure.message.contains("the kernel image of 1 has rotten"),
        "{failure}"
    );
    assert_eq!(stand.node.entry_names(), names);
    assert_eq!(stand.node.slot_bytes(Slot::A), slot);

    stand.node.rot_kernel(&older, 5);
    assert_eq!(daemon.run(rollback()).await, Outcome::Done);
    daemon.stop().await;
}

#[tokio::test]
async fn a_spare_slot_of_the_booted_slots_version_has_no_kernel_image_of_its_own() {
    let (booted, other) = (image("1", 1, 300), image("1", 2, 300));
    let node = FakeNode::running(&booted.1);
    node.hold_in_spare(&other.1, "1");
    node.put_kernel(KERNEL, booted.1.uki.clone());
    // It says what the other one's should be.
    let repository = FakeRepository::with(&[&other]);
    let daemon = Daemon::start(&node, &repository).await;
    read(&node, &daemon).await;
    assert!(node.kernel(KERNEL) == booted.1.uki, "it starts what it did");
    assert_eq!(last_event(&daemon), None);
    daemon.stop().await;
}

#[tokio::test]
async fn a_disk_that_takes_no_block_of_the_image_keeps_no_kernel_image_from_being_mended() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let sound = stand.node.kernel(KERNEL);
    read(&stand.node, &daemon).await;
    stand.node.rot(Slot::A, 5 * 4096);
    stand.node.rot_kernel(KERNEL, 5);
    stand.node.refuse(&["mend"]);
    read(&stand.node, &daemon).await;
    assert!(stand.node.kernel(KERNEL) == sound, "it is as it was");
    let (event, message) = last_event(&daemon).unwrap();
    assert_eq!(event, "rotten", "{message}");
    assert!(message.contains("cannot mend block 5"), "{message}");

    // The same rot for other reasons is told once.
    let lines = || daemon.handle.view().node.history.len();
    for lie in [Lie::Gone, Lie::None, Lie::Gone] {
        stand.repository.lie(lie);
        read(&stand.node, &daemon).await;
    }
    assert!(lines() <= 2, "{}", lines());
    let before = lines();
    for lie in [Lie::None, Lie::Gone] {
        stand.repository.lie(lie);
        read(&stand.node, &daemon).await;
    }
    assert_eq!(lines(), before);
    daemon.stop().await;
}
