//! Blocks of the images in the slots that rot.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use partition_layout::Slot;
use updater::machine::{Outcome, Request, Seen};
use updater::names::ErrorName;
use updater::ports::{Clock, Part, Record};
use updater::scrub::keeper::{Keeper, Looks};

use super::barrier::Barrier;
use super::fake::{FakeClock, FakeNode};
use super::gate::Daemon;
use super::network::{FakeRepository, Lie, Which, image, version};
use super::stages::{Stand, failed};

const BLOCK: usize = 4096;

/// Reads both images to their ends, and waits for what is done about them.
pub(crate) async fn read(node: &FakeNode, daemon: &Daemon) {
    let keeper = Keeper::new(node.clone(), FakeClock, daemon.handle.clone());
    read_by(&Arc::new(keeper)).await;
}

/// The same by a keeper that is there.
pub(crate) async fn read_by<C: Clock>(keeper: &Arc<Keeper<FakeNode, C>>) {
    let always = Some(Duration::ZERO);
    Looks::new(Arc::clone(keeper)).look(always).await;
}

/// Has mended what could not be mended before.
pub(crate) async fn try_again<C: Clock>(keeper: &Arc<Keeper<FakeNode, C>>) {
    Looks::new(Arc::clone(keeper)).look(None).await;
}

pub(crate) fn last_event(daemon: &Daemon) -> Option<(&'static str, String)> {
    let view = daemon.handle.view();
    let line = view.node.history.last()?;
    Some((line.event.as_str(), line.message.clone()))
}

#[tokio::test]
async fn a_sound_image_is_read_and_nothing_is_done_about_it() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let before = stand.node.slot_bytes(Slot::A);
    read(&stand.node, &daemon).await;
    assert_eq!(stand.node.slot_bytes(Slot::A), before);
    assert_eq!(last_event(&daemon), None);
    let reading = stand.node.record(Record::Reading).unwrap();
    assert!(reading.contains("\"finished\": \"20"), "{reading}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_bell_has_the_image_read_though_no_reading_is_ever_due() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    stand.node.rot(Slot::A, 5 * BLOCK);
    let keeper = Keeper::new(stand.node.clone(), FakeClock, daemon.handle.clone());
    let (bell, mut progress) = (keeper.bell(), keeper.progress());
    let keeping = tokio::spawn(keeper.keep(|| None));
    bell.ring();
    let read = progress.wait_for(|now| now.finished.is_some());
    assert_eq!(read.await.unwrap().rotten, 1);
    keeping.abort();
    daemon.stop().await;
}

#[tokio::test]
async fn a_disk_that_is_slow_to_forget_a_reading_holds_nobody_else_up() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let keeper = Keeper::new(stand.node.clone(), FakeClock, daemon.handle.clone());
    let (bell, mut progress) = (keeper.bell(), keeper.progress());
    stand.node.record_barrier.close();
    bell.ring();
    let begun = Instant::now();
    let keeping = tokio::spawn(keeper.keep(|| None));
    tokio::task::yield_now().await;
    assert_eq!(daemon.run(Request::Check).await, Outcome::Done);
    // The barrier opens by itself after a minute.
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(progress.borrow().finished, None);
    stand.node.record_barrier.open();
    let read = progress.wait_for(|now| now.finished.is_some());
    drop(read.await.unwrap());
    keeping.abort();
    daemon.stop().await;
}

#[tokio::test]
async fn rotten_blocks_are_mended_from_the_repository_which_need_not_be_believed() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let whole = stand.node.slot_bytes(Slot::A);
    for block in [0, 7, 8, 299] {
        stand.node.rot(Slot::A, block * BLOCK + 99);
    }
    read(&stand.node, &daemon).await;
    assert!(
        stand.node.slot_bytes(Slot::A) == whole,
        "the image is as it was"
    );
    let (event, message) = last_event(&daemon).unwrap();
    assert_eq!(event, "mended");
    assert!(message.contains("block 7, block 8"), "{message}");
    assert!(message.contains("from the repository"), "{message}");
    // Another reading finds nothing to do.
    let lines = daemon.handle.view().node.history.len();
    stand.node.put_record(Record::Reading, "{}");
    read(&stand.node, &daemon).await;
    assert_eq!(daemon.handle.view().node.history.len(), lines);
    daemon.stop().await;
}

#[tokio::test]
async fn a_block_that_the_spare_slot_has_is_taken_from_there_without_a_network() {
    // One image under two names: every block of it is in both slots.
    let one = image("1", 1, 300);
    let node = FakeNode::running(&one.1);
    node.hold_in_spare(&one.1, "0");
    let repository = FakeRepository::with(&[&one]);
    repository.lie(Lie::Gone);
    let daemon = Daemon::start(&node, &repository).await;
    let whole = node.slot_bytes(Slot::A);
    node.rot(Slot::A, 5 * BLOCK);
    read(&node, &daemon).await;
    assert!(node.slot_bytes(Slot::A) == whole, "the image is as it was");
    let (event, message) = last_event(&daemon).unwrap();
    assert_eq!(
        (event, message.as_str()),
        ("mended", "block 5 mended from the other slot")
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_block_that_nobody_has_is_told_and_left_as_it_is() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    stand.node.rot(Slot::A, 5 * BLOCK);
    let rotten = stand.node.slot_bytes(Slot::A);
    stand.repository.lie(Lie::Flip(Which::Root, 5 * BLOCK));
    read(&stand.node, &daemon).await;
    assert!(
        stand.node.slot_bytes(Slot::A) == rotten,
        "no wrong block is written"
    );
    let (event, message) = last_event(&daemon).unwrap();
    assert_eq!(event, "rotten");
    assert!(message.contains("block 5"), "{message}");
    let name = daemon.handle.view().last_error.clone().map(|it| it.name);
    assert_eq!(name, Some(ErrorName::ReadBackMismatch));
    daemon.stop().await;
}

#[tokio::test]
async fn a_hash_tree_that_rots_is_made_again_from_its_blocks_without_a_network() {
    // The root block, a leaf, two leaves; 300 blocks have three.
    for rotten in [
        vec![BLOCK + 5],
        vec![4 * BLOCK + 7],
        vec![2 * BLOCK, 3 * BLOCK],
    ] {
        let stand = Stand::new();
        let daemon = stand.daemon().await;
        let sound = stand.node.slot_bytes(Slot::A);
        stand.repository.lie(Lie::Gone);
        for offset in &rotten {
            stand.node.rot_part(Slot::A, Part::Verity, *offset);
        }
        assert!(stand.node.slot_bytes(Slot::A) != sound);
        read(&stand.node, &daemon).await;
        assert!(stand.node.slot_bytes(Slot::A) == sound, "{rotten:?}");
        let (event, message) = last_event(&daemon).unwrap();
        assert_eq!(event, "mended", "{rotten:?}");
        assert!(message.contains("hash tree made again"), "{message}");
        // The rest of the image is read soon, and not in a week.
        assert_eq!(stand.node.record(Record::Reading), None);
        daemon.stop().await;
    }
}

#[tokio::test]
async fn what_of_a_hash_tree_cannot_be_made_again_is_fetched_and_need_not_be_believed() {
    // The superblock; a leaf, with a block that it is about.
    for (tree, root) in [(3, None), (8, None), (4 * BLOCK, Some(299 * BLOCK))] {
        let stand = Stand::new();
        let daemon = stand.daemon().await;
        let sound = stand.node.slot_bytes(Slot::A);
        stand.node.rot_part(Slot::A, Part::Verity, tree);
        if let Some(offset) = root {
            stand.node.rot(Slot::A, offset);
        }
        stand
            .repository
            .lie(Lie::FlipOnce(Which::Verity, tree / BLOCK * BLOCK + 9));
        read(&stand.node, &daemon).await;
        // What the tree was about is found by the next reading.
        stand.repository.lie(Lie::None);
        read(&stand.node, &daemon).await;
        assert!(stand.node.slot_bytes(Slot::A) == sound, "{tree}");
        let events = daemon.handle.view().node.history.clone();
        let mended = |it: &&updater::records::HistoryLine| it.event.as_str() == "mended";
        let told = events.iter().find(mended).unwrap();
        assert!(
            told.message
                .contains("hash tree mended from the repository"),
            "{told:?}"
        );
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_hash_tree_that_nobody_has_is_told_once_and_left_as_it_is() {
    for lie in [Lie::Gone, Lie::Flip(Which::Verity, 4 * BLOCK + 1)] {
        let stand = Stand::new();
        let daemon = stand.daemon().await;
        stand.node.rot_part(Slot::A, Part::Verity, 4 * BLOCK + 7);
        stand.node.rot(Slot::A, 299 * BLOCK);
        let rotten = stand.node.slot_bytes(Slot::A);
        stand.repository.lie(lie);
        read(&stand.node, &daemon).await;
        assert!(stand.node.slot_bytes(Slot::A) == rotten);
        let (event, message) = last_event(&daemon).unwrap();
        assert_eq!(event, "rotten");
        assert!(message.contains("hash tree"), "{message}");
        let reading = stand.node.record(Record::Reading).unwrap();
        assert!(reading.contains("\"finished\": \"20"), "{reading}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn what_could_not_be_mended_is_tried_again_without_another_reading() {
    // A block; a leaf of the tree with a block that it is about.
    for tree in [None, Some(4 * BLOCK + 7)] {
        let stand = Stand::new();
        let daemon = stand.daemon().await;
        let sound = stand.node.slot_bytes(Slot::A);
        stand.node.rot(Slot::A, 299 * BLOCK);
        if let Some(offset) = tree {
            stand.node.rot_part(Slot::A, Part::Verity, offset);
        }
        stand.repository.lie(Lie::Gone);
        read(&stand.node, &daemon).await;
        let lines = || daemon.handle.view().node.history.len();
        let told = lines();
        assert_eq!(last_event(&daemon).unwrap().0, "rotten");
        // As after another start.
        let keeper = Keeper::new(stand.node.clone(), FakeClock, daemon.handle.clone());
        let keeper = Arc::new(keeper);
        try_again(&keeper).await;
        assert_eq!(lines(), told, "it is told once");
        stand.repository.lie(Lie::None);
        try_again(&keeper).await;
        assert_eq!(last_event(&daemon).unwrap().0, "mended");
        // The rest is read soon, and not in a week.
        assert_eq!(stand.node.record(Record::Reading), None);
        read(&stand.node, &daemon).await;
        assert!(stand.node.slot_bytes(Slot::A) == sound, "{tree:?}");
        let told = lines();
        try_again(&keeper).await;
        assert_eq!(lines(), told, "nothing is left");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn an_io_error_while_mending_is_told_and_the_next_reading_mends() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let whole = stand.node.slot_bytes(Slot::A);
    stand.node.rot(Slot::A, 5 * BLOCK);
    stand.node.refuse(&["mend"]);
    let root_hash = daemon.handle.view().node.booted.root_hash;
    let mend = || Request::Mend {
        root_hash,
        blocks: vec![5],
        seen: Seen::Part,
    };
    let failure = failed(daemon.run(mend()).await);
    assert_eq!(failure, ErrorName::ReadBackMismatch);
    stand.node.refuse(&[]);
    assert_eq!(daemon.run(mend()).await, Outcome::Done);
    assert!(
        stand.node.slot_bytes(Slot::A) == whole,
        "the image is as it was"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn the_spare_slot_is_read_and_mended_before_anybody_starts_it() {
    let stand = Stand::new();
    stand.update_to("2").await;
    let daemon = stand.daemon().await;
    let sound = [Slot::A, Slot::B].map(|slot| stand.node.slot_bytes(slot));
    for block in [0, 7] {
        stand.node.rot(Slot::A, block * BLOCK + 99);
    }
    stand.node.rot_part(Slot::A, Part::Verity, 3 * BLOCK);
    read(&stand.node, &daemon).await;
    // Behind a hash tree that was rotten blocks can only now be judged.
    read(&stand.node, &daemon).await;
    let now = [Slot::A, Slot::B].map(|slot| stand.node.slot_bytes(slot));
    assert!(now == sound, "both images are as they were");
    let node = daemon.handle.view().node.clone();
    let last = node.history.last().unwrap();
    assert_eq!(last.event.as_str(), "mended");
    assert_eq!(
        (last.slot, last.version.clone()),
        (Some(Slot::A), Some(version("1")))
    );
    daemon.stop().await;
}

#[tokio::test]
async fn what_of_the_spare_slot_nobody_has_is_told_once_beside_what_of_the_booted_one_nobody_has() {
    let stand = Stand::new();
    stand.update_to("2").await;
    stand.repository.lie(Lie::Gone);
    let daemon = stand.daemon().await;
    let lines = || daemon.handle.view().node.history.len();
    let images = || [Slot::A, Slot::B].map(|slot| stand.node.slot_bytes(slot));
    let (before, sound) = (lines(), images());
    stand.node.rot(Slot::A, 5 * BLOCK);
    stand.node.rot(Slot::B, 6 * BLOCK);
    let keeper = Keeper::new(stand.node.clone(), FakeClock, daemon.handle.clone());
    let keeper = Arc::new(keeper);
    read_by(&keeper).await;
    assert_eq!(lines(), before + 2);
    try_again(&keeper).await;
    assert_eq!(lines(), before + 2);

    stand.repository.lie(Lie::None);
    try_again(&keeper).await;
    assert_eq!(lines(), before + 4);
    assert!(images() == sound, "they are as they were");
    daemon.stop().await;
}

#[tokio::test]
async fn a_slot_that_nobody_could_start_is_not_read() {
    let stand = Stand::new();
    stand.update_to("2").await;
    stand.node.rot(Slot::A, 5 * BLOCK);
    for name in stand.node.entry_names() {
        if name.starts_with("bistable_1") {
            stand.node.lose_entry(&name);
        }
    }
    let daemon = stand.daemon().await;
    let lines = || daemon.handle.view().node.history.len();
    let (before, rotten) = (lines(), stand.node.slot_bytes(Slot::A));
    read(&stand.node, &daemon).await;
    assert_eq!(lines(), before);
    assert!(stand.node.slot_bytes(Slot::A) == rotten);
    assert_eq!(stand.node.record(Record::SpareReading), None);
    daemon.stop().await;
}

#[tokio::test]
async fn a_reading_of_the_spare_slot_ends_when_another_release_takes_its_place() {
    for part in [Part::Verity, Part::Root] {
        let stand = Stand::new();
        stand.update_to("2").await;
        let daemon = stand.daemon().await;
        let barrier = Barrier::default();
        barrier.close();
        let mut node = stand.node.clone();
        node.read_barrier = Some((part, barrier.clone()));
        let keeper = Arc::new(Keeper::new(node, FakeClock, daemon.handle.clone()));
        let reading = tokio::spawn(async move { read_by(&keeper).await });
        barrier.holds().await;
        assert_eq!(daemon.stage("3").await, Outcome::Done);
        barrier.open();
        reading.await.unwrap();
        let record = stand.node.record(Record::SpareReading).unwrap_or_default();
        assert!(!record.contains("\"finished\": \"20"), "{record}");
        assert_eq!(daemon.handle.view().last_error, None);
        assert_eq!(last_event(&daemon).unwrap().0, "staged");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn that_an_image_is_sound_again_is_told_when_all_of_it_was_read_and_a_second_rot_anew() {
    let stand = Stand::new();
    stand.repository.lie(Lie::Gone);
    let daemon = stand.daemon().await;
    let keeper = Keeper::new(stand.node.clone(), FakeClock, daemon.handle.clone());
    let keeper = Arc::new(keeper);
    let events = || {
        let history = daemon.handle.view().node.history.clone();
        let events = history.iter().map(|line| line.event.as_str());
        events.collect::<Vec<_>>()
    };
    stand.node.rot(Slot::A, 5 * BLOCK);
    read_by(&keeper).await;
    assert_eq!(events(), ["rotten"]);
    // The disk has thought better of it, for the moment.
    stand.node.rot(Slot::A, 5 * BLOCK);
    try_again(&keeper).await;
    assert_eq!(events(), ["rotten"]);
    read_by(&keeper).await;
    assert_eq!(events(), ["rotten", "mended"]);
    stand.node.rot(Slot::A, 5 * BLOCK);
    read_by(&keeper).await;
    assert_eq!(events(), ["rotten", "mended", "rotten"]);
    daemon.stop().await;
}

/// A clock by which a machine has been up for longer and longer.
#[derive(Debug, Clone, Default)]
struct Uptime(Arc<Mutex<Duration>>);

impl Uptime {
    fn pass(&self, time: Duration) {
        *self.0.lock().expect("no panic") += time;
    }
}

impl Clock for Uptime {
    fn now(&self) -> jiff::Timestamp {
        FakeClock.now() + self.since_boot()
    }

    fn since_boot(&self) -> Duration {
        *self.0.lock().expect("no panic")
    }
}

const LOOK: Duration = Duration::from_secs(600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[tokio::test]
async fn what_nobody_can_mend_is_tried_ever_later_beside_a_spare_slot_that_could_not_start() {
    let stand = Stand::new();
    stand.repository.lie(Lie::Flip(Which::Root, 5 * BLOCK));
    let daemon = stand.daemon().await;
    stand.node.rot(Slot::A, 5 * BLOCK);
    let uptime = Uptime::default();
    let keeper = Keeper::new(stand.node.clone(), uptime.clone(), daemon.handle.clone());
    let mut looks = Looks::new(Arc::new(keeper));
    let mut tried = Vec::new();
    for number in 0..6 * 24 {
        looks.look(Some(WEEK)).await;
        if !stand.repository.take_sent().is_empty() {
            tried.push(number);
        }
        uptime.pass(LOOK);
    }
    // In looks, six in an hour: at once, then after one, two, four, up to 36.
    assert_eq!(tried, [0, 1, 3, 7, 15, 31, 63, 99, 135]);
    assert_eq!(daemon.handle.view().node.history.len(), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn an_image_of_which_nobody_can_write_down_that_it_was_read_is_not_read_at_each_look() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    stand.node.fill_var();
    let uptime = Uptime::default();
    let keeper = Keeper::new(stand.node.clone(), uptime.clone(), daemon.handle.clone());
    let mut looks = Looks::new(Arc::new(keeper));
    let mut read = 0;
    for _ in 0..6 * 24 {
        let before = stand.node.operations();
        looks.look(Some(WEEK)).await;
        // A look has some operations, the image has hundreds of blocks.
        read += u32::from(stand.node.operations() > before + 10);
        uptime.pass(LOOK);
    }
    assert!((5..12).contains(&read), "it was read {read} times");
    daemon.stop().await;
}
