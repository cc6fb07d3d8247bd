//! A good release that fails later gives way to the other one, and one that does not loses
//! nothing.

use std::time::Duration;

use partition_layout::{Slot, SlotContent};
use updater::machine::Request;
use updater::policy::Automatic;
use updater::ports::Part;
use updater::records::Departure;

use super::cuts::Stand;
use super::fake::{Trouble, UpFor};
use super::gate::{Daemon, bad, rules};
use super::network::version;

fn names(stand: &Stand) -> Vec<String> {
    stand.node.entry_names()
}

/// Release 2 is good, release 1 is what it would give way to.
async fn updated() -> Stand {
    let stand = Stand::new();
    stand.update_to("2").await;
    assert_eq!(names(&stand), ["bistable_1.efi", "bistable_2+15.efi"]);
    stand
}

/// The boot has come up: the health gate says so.
async fn come_up(stand: &Stand) {
    let daemon = Daemon::start(&stand.node, &stand.repository).await;
    daemon.handle.request(Request::MarkGood).await.unwrap();
    assert_eq!(daemon.state(), "idle");
    daemon.stop().await;
}

fn rot(stand: &Stand, slot: Slot) {
    stand.node.alter(slot, Part::Root, |root| root[4096] ^= 1);
}

#[tokio::test]
async fn ten_power_cuts_in_a_row_cost_a_good_release_nothing() {
    let stand = updated().await;
    for _ in 0..10 {
        stand.node.power_cycle(&stand.images());
    }
    assert_eq!(names(&stand), ["bistable_1.efi", "bistable_2+5-10.efi"]);
    let booted = stand.node.power_cycle(&stand.images());
    assert_eq!(booted, (Slot::B, version("2")));
    come_up(&stand).await;
    assert_eq!(names(&stand), ["bistable_1.efi", "bistable_2+15.efi"]);
}

#[tokio::test]
async fn the_last_start_of_a_watch_is_a_trial_and_its_verdict_is_what_is_told() {
    let stand = updated().await;
    for _ in 0..15 {
        let booted = stand.node.power_cycle(&stand.images());
        assert_eq!(booted, (Slot::B, version("2")));
    }
    assert_eq!(names(&stand), ["bistable_1.efi", "bistable_2+0-15.efi"]);
    let sick = stand.node.twin();
    let daemon = Daemon::start(&stand.node, &stand.repository).await;
    assert_eq!(daemon.state(), "trial");
    daemon.handle.request(Request::MarkGood).await.unwrap();
    daemon.stop().await;
    assert_eq!(names(&stand), ["bistable_1.efi", "bistable_2+15.efi"]);

    let daemon = Daemon::start(&sick, &stand.repository).await;
    daemon.handle.request(bad("sick")).await.unwrap();
    daemon.stop().await;
    let booted = sick.power_cycle(&stand.images());
    assert_eq!(booted, (Slot::A, version("1")));
    for _ in 0..2 {
        let daemon = Daemon::start(&sick, &stand.repository).await;
        let node = daemon.handle.view().node.clone();
        daemon.stop().await;
        let told = node.last_rollback.unwrap();
        assert_eq!((told.kind, &told.reason[..]), (Departure::GaveWay, "sick"));
        assert_eq!(told.tries, 15);
        // It was good, and fifteen starts that ended early are no fault of the image.
        assert!(node.barred.is_empty(), "{:?}", node.barred);
        assert_eq!(sick.content(Slot::B), SlotContent::Empty);
    }
}

#[tokio::test]
async fn wherever_the_power_fails_the_verdict_on_the_last_start_of_a_watch_is_told_and_bars_nothing()
 {
    let stand = updated().await;
    for _ in 0..15 {
        stand.node.power_cycle(&stand.images());
    }
    stand.put_verdict("fail");
    let whole = stand.node.twin();
    let daemon = Daemon::start(&whole, &stand.repository).await;
    whole.expect(Trouble::None);
    daemon.handle.request(bad("sick")).await.unwrap();
    daemon.stop().await;
    for cut in 0..=whole.operations() {
        let sick = stand.node.twin();
        let daemon = Daemon::start(&sick, &stand.repository).await;
        sick.expect(Trouble::Cut(cut));
        drop(daemon.handle.request(bad("sick")).await);
        daemon.stop().await;
        let booted = sick.power_cycle(&stand.images());
        assert_eq!(booted, (Slot::A, version("1")), "cut after {cut}");
        let daemon = Daemon::start(&sick, &stand.repository).await;
        let node = daemon.handle.view().node.clone();
        daemon.stop().await;
        let told = node.last_rollback.unwrap();
        assert_eq!(
            (told.kind, &told.reason[..]),
            (Departure::GaveWay, "sick"),
            "cut after {cut}"
        );
        assert!(node.barred.is_empty(), "cut after {cut}");
        assert_eq!(sick.content(Slot::B), SlotContent::Empty, "cut after {cut}");
    }
}

#[tokio::test]
async fn a_node_that_stays_up_keeps_its_watch_whatever_its_gate_waits_for() {
    let stand = updated().await;
    for _ in 0..14 {
        stand.node.power_cycle(&stand.images());
    }
    for (minutes, expected) in [(59, "bistable_2+1-14.efi"), (61, "bistable_2+15.efi")] {
        let clock = UpFor(Duration::from_secs(60 * minutes));
        let rules = rules(Automatic::Off);
        let daemon = Daemon::with(&stand.node, &stand.repository, clock, rules).await;
        let daemon = daemon.unwrap();
        daemon.handle.look_at_clock().await;
        daemon.stop().await;
        assert_eq!(names(&stand), ["bistable_1.efi", expected]);
    }
}

#[tokio::test]
async fn a_daemon_that_only_starts_renews_no_watch() {
    let stand = updated().await;
    stand.node.power_cycle(&stand.images());
    Daemon::start(&stand.node, &stand.repository)
        .await
        .stop()
        .await;
    assert_eq!(names(&stand), ["bistable_1.efi", "bistable_2+14-1.efi"]);
}

#[tokio::test]
async fn a_node_with_one_good_slot_has_no_counter_on_it() {
    let stand = Stand::new();
    come_up(&stand).await;
    assert_eq!(names(&stand), ["bistable_1.efi"]);
    // And while a release is staged, and before its trial is over.
    let stand = updated().await;
    stand.stage("3").await;
    assert_eq!(names(&stand), ["bistable_2.efi", "bistable_3+3.efi"]);
    // It had another one, and that is lost: at the next start, not when the boot has come up.
    let stand = updated().await;
    stand.node.lose_entry("bistable_1.efi");
    stand.node.power_cycle(&stand.images());
    Daemon::start(&stand.node, &stand.repository)
        .await
        .stop()
        .await;
    assert_eq!(names(&stand), ["bistable_2.efi"]);
}

#[tokio::test]
async fn a_release_that_rots_gives_way_and_staging_it_again_heals_it_once() {
    let stand = updated().await;
    for again in [false, true] {
        rot(&stand, Slot::B);
        let booted = stand.node.power_cycle(&stand.images());
        assert_eq!(booted, (Slot::A, version("1")));
        assert!(names(&stand).contains(&"bistable_2+0-15.efi".to_owned()));
        let daemon = Daemon::start(&stand.node, &stand.repository).await;
        let node = daemon.handle.view().node.clone();
        let told = node.last_rollback.unwrap();
        assert_eq!((told.kind, told.tries), (Departure::GaveWay, 15));
        assert_eq!(told.version, version("2"));
        assert!(told.reason.contains("started 15 times"), "{}", told.reason);
        assert_eq!(names(&stand), ["bistable_1.efi"]);
        let said = stand.node.said();
        assert!(
            said.iter().any(|line| line.contains("2 gave way to 1")),
            "{said:?}"
        );
        assert_eq!(node.barred.len(), usize::from(again), "{:?}", node.barred);
        daemon.stop().await;
        // Told once.
        let lines = node.history.len();
        let daemon = Daemon::start(&stand.node, &stand.repository).await;
        assert_eq!(daemon.handle.view().node.history.len(), lines);
        daemon.stop().await;
        if !again {
            stand.update_to("2").await;
            assert_eq!(names(&stand), ["bistable_1.efi", "bistable_2+15.efi"]);
        }
    }
}

#[tokio::test]
async fn on_a_machine_without_a_console_it_is_told_once_all_the_same() {
    let stand = updated().await;
    rot(&stand, Slot::B);
    stand.node.power_cycle(&stand.images());
    stand.node.refuse(&["say"]);
    let mut told = Vec::new();
    for _ in 0..2 {
        let daemon = Daemon::start(&stand.node, &stand.repository).await;
        let node = daemon.handle.view().node.clone();
        daemon.stop().await;
        assert_eq!(node.last_rollback.unwrap().kind, Departure::GaveWay);
        told.push(node.history.len());
    }
    assert_eq!(told[0], told[1], "it was told again");
}

#[tokio::test]
async fn a_release_that_lost_its_kernel_image_gives_way_at_once_and_that_is_told() {
    let stand = updated().await;
    stand.node.lose_entry("bistable_2+15.efi");
    let booted = stand.node.power_cycle(&stand.images());
    assert_eq!(booted, (Slot::A, version("1")));
    let daemon = Daemon::start(&stand.node, &stand.repository).await;
    let told = daemon.handle.view().node.last_rollback.clone().unwrap();
    assert_eq!((told.kind, told.tries), (Departure::GaveWay, 0));
    assert_eq!(told.reason, "it was good, and its kernel image has gone");
    daemon.stop().await;
}

#[tokio::test]
async fn after_a_rollback_the_older_release_is_watched_and_gives_way_to_the_newer_one() {
    let stand = updated().await;
    let daemon = Daemon::start(&stand.node, &stand.repository).await;
    daemon
        .run(Request::Rollback {
            reason: String::new(),
        })
        .await;
    daemon.stop().await;
    assert_eq!(names(&stand), ["bistable_1+2.efi", "bistable_2.efi"]);
    stand.node.power_cycle(&stand.images());
    come_up(&stand).await;
    assert_eq!(names(&stand), ["bistable_1+15.efi", "bistable_2+0.efi"]);
    rot(&stand, Slot::A);
    let booted = stand.node.power_cycle(&stand.images());
    assert_eq!(booted, (Slot::B, version("2")));
    // A last resort has to prove itself; then it is told what it stands in for.
    let daemon = Daemon::start(&stand.node, &stand.repository).await;
    assert_eq!(daemon.state(), "trial");
    daemon.handle.request(Request::MarkGood).await.unwrap();
    let told = daemon.handle.view().node.last_rollback.clone().unwrap();
    assert_eq!(
        (told.kind, told.version),
        (Departure::GaveWay, version("1"))
    );
    assert_eq!(daemon.state(), "idle");
    daemon.stop().await;
    assert!(names(&stand).contains(&"bistable_2.efi".to_owned()));
}

#[tokio::test]
async fn a_watch_that_a_rollback_has_ended_begins_again_by_itself_when_that_fails() {
    let stand = updated().await;
    stand.put_verdict("pass");
    let daemon = Daemon::start(&stand.node, &stand.repository).await;
    stand.node.refuse(&["set-one-shot"]);
    daemon
        .run(Request::Rollback {
            reason: String::new(),
        })
        .await;
    assert_eq!(names(&stand), ["bistable_1.efi", "bistable_2.efi"]);
    daemon.handle.look_at_clock().await;
    daemon.stop().await;
    assert_eq!(names(&stand), ["bistable_1.efi", "bistable_2+15.efi"]);
}
