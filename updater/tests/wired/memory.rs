//! Records that the disk does not give back.

use updater::machine::{Outcome, Request};
use updater::ports::Record;

use super::gate::bad;
use super::network::version;
use super::stages::Stand;

const RECORDS: [(Record, &str); 12] = [
    (Record::Trial, "trial"),
    (Record::LastGood, "last-good"),
    (Record::LastRollback, "last-rollback"),
    (Record::Barred, "barred"),
    (Record::Floor, "floor"),
    (Record::History, "history"),
    (Record::Verdict, "verdict"),
    (Record::Totals, "totals"),
    (Record::Reading, "reading"),
    (Record::Checks, "checks"),
    (Record::Kernels, "kernels"),
    (Record::Boots, "boots"),
];

/// A node that runs release 2 and remembers that 3 has failed.
async fn with_memories() -> Stand {
    let stand = Stand::new();
    stand.update_to("2").await;
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("3").await, Outcome::Done);
    daemon.stop().await;
    stand.node.power_cycle(&stand.images());
    let daemon = stand.daemon().await;
    daemon.handle.request(bad("3 is sick")).await.unwrap();
    daemon.stop().await;
    stand.node.power_cycle(&stand.images());
    stand.daemon().await.stop().await;
    stand.node.put_record(Record::Verdict, "{}");
    stand
}

#[tokio::test]
async fn a_record_that_cannot_be_read_ends_neither_the_daemon_nor_updates() {
    for (record, name) in RECORDS {
        let stand = with_memories().await;
        let root_hash = stand.three.0.root_hash;
        let daemon = stand.daemon().await;
        let forgive = Request::Forgive { root_hash };
        daemon.handle.request(forgive).await.unwrap();
        assert_eq!(daemon.stage("3").await, Outcome::Done);
        daemon.stop().await;
        stand.node.power_cycle(&stand.images());

        // On a trial, bad and good, and on what came of it.
        stand.node.refuse(&[name]);
        let good = stand.node.twin();
        let daemon = stand.daemon().await;
        assert_eq!(daemon.state(), "trial", "{record:?}");
        daemon.handle.request(bad("sick")).await.unwrap();
        assert_eq!(daemon.state(), "condemned", "{record:?}");
        daemon.stop().await;
        assert_eq!(stand.node.power_cycle(&stand.images()).1, version("2"));
        let daemon = stand.daemon().await;
        assert_eq!(daemon.state(), "idle", "{record:?}");
        assert_eq!(stand.node.entry_names(), ["bistable_2.efi"], "{record:?}");
        daemon.stop().await;

        let stand = Stand {
            node: good,
            ..stand
        };
        let daemon = stand.daemon().await;
        daemon.handle.request(Request::MarkGood).await.unwrap();
        assert_eq!(daemon.state(), "idle", "{record:?}");
        assert!(stand.node.is_settled(), "{record:?}");
        let floor = daemon.handle.view().node.floor.clone();
        assert_eq!(floor, Some(version("3")), "{record:?}");
        daemon.stop().await;
        stand.node.power_cycle(&stand.images());
        let daemon = stand.daemon().await;
        assert_eq!(daemon.run(super::gate::force("1")).await, Outcome::Done);
        daemon.stop().await;
    }
}

#[tokio::test]
async fn what_could_not_be_read_is_not_written_over_and_what_was_missed_is_made_up_for() {
    for (record, name) in [
        (Record::Barred, "barred"),
        (Record::Floor, "floor"),
        (Record::History, "history"),
    ] {
        let stand = with_memories().await;
        let before = stand.node.record(record).unwrap();
        stand.node.refuse(&[name]);
        let daemon = stand.daemon().await;
        // To one that cannot read its list, 3 has never failed.
        let outcome = daemon.run(super::gate::force("3")).await;
        assert_eq!(outcome, Outcome::Done, "{record:?}");
        daemon.stop().await;
        stand.node.power_cycle(&stand.images());
        let daemon = stand.daemon().await;
        daemon.handle.request(Request::MarkGood).await.unwrap();
        daemon.stop().await;
        assert_eq!(stand.node.record(record).unwrap(), before, "{record:?}");

        stand.node.refuse(&[]);
        let daemon = stand.daemon().await;
        let node = daemon.handle.view().node.clone();
        match record {
            Record::Floor => assert_eq!(node.floor, Some(version("3"))),
            // That it has proved itself was not written: it takes an operator's word.
            Record::Barred => assert_eq!(node.barred.len(), 1),
            Record::History
            | Record::Trial
            | Record::LastGood
            | Record::LastRollback
            | Record::Verdict
            | Record::Totals
            | Record::Reading
            | Record::SpareReading
            | Record::Checks
            | Record::Kernels
            | Record::Boots => {
                let last = node.history.last().unwrap();
                assert_eq!(
                    (last.event.as_str(), &last.version),
                    ("good", &Some(version("3")))
                );
            }
        }
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_trial_whose_record_cannot_be_read_is_told_once_it_can_be() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
    for _ in 0..3 {
        stand.node.start_and_hang(&stand.images());
    }
    assert_eq!(stand.node.power_cycle(&stand.images()).1, version("1"));
    stand.node.refuse(&["trial"]);
    let daemon = stand.daemon().await;
    assert_eq!(daemon.state(), "idle");
    assert_eq!(daemon.handle.view().node.last_rollback, None);
    daemon.stop().await;
    stand.node.refuse(&[]);
    let daemon = stand.daemon().await;
    let node = daemon.handle.view().node.clone();
    assert_eq!(node.last_rollback.unwrap().version, version("2"));
    assert_eq!(node.barred.len(), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn an_image_that_fails_while_the_list_cannot_be_read_is_barred_once_it_can_be() {
    let stand = with_memories().await;
    let before = stand.node.record(Record::Barred).unwrap();
    stand.node.refuse(&["barred"]);
    let daemon = stand.daemon().await;
    assert_eq!(daemon.run(super::gate::force("1")).await, Outcome::Done);
    daemon.stop().await;
    assert_eq!(stand.node.power_cycle(&stand.images()).1, version("1"));
    let daemon = stand.daemon().await;
    daemon.handle.request(bad("1 is old")).await.unwrap();
    daemon.stop().await;
    assert_eq!(stand.node.power_cycle(&stand.images()).1, version("2"));
    stand.daemon().await.stop().await;
    assert_eq!(stand.node.record(Record::Barred).unwrap(), before);

    stand.node.refuse(&[]);
    let daemon = stand.daemon().await;
    let barred = daemon.handle.view().node.barred.clone();
    let barred: Vec<_> = barred.iter().map(|each| each.version.as_str()).collect();
    assert_eq!(barred, ["3", "1"]);
    daemon.stop().await;
}
