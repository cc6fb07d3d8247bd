//! The names of errors that are about this node: its disk, and its state.

use updater::admit::{Ask, Force};
use updater::driver::RequestError;
use updater::machine::{Outcome, Request};
use updater::names::ErrorName;
use updater::ports::Restart;
use updater::refusal::Refused;

use super::gate::bad;
use super::network::version;
use super::stages::{Stand, failed};

fn refused(answer: Result<updater::driver::Accepted, RequestError>) -> Refused {
    match answer {
        Err(RequestError::Refused(refused)) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn an_error_of_the_disk_has_the_name_of_what_failed() {
    for (kind, expected) in [
        ("write", ErrorName::SlotWriteFailed),
        ("flush", ErrorName::SlotWriteFailed),
        ("read-medium", ErrorName::SlotWriteFailed),
        ("relabel", ErrorName::SlotWriteFailed),
        ("write-temporary", ErrorName::SlotWriteFailed),
        ("rename", ErrorName::SlotWriteFailed),
        ("write-record", ErrorName::RecordFailed),
    ] {
        let stand = Stand::new();
        let daemon = stand.daemon().await;
        stand.node.refuse(&[kind]);
        assert_eq!(failed(daemon.stage("2").await), expected, "{kind}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn systemd_that_refuses_to_reboot_leaves_the_node_as_it_was() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    stand.node.refuse(&["reboot"]);
    let reboot = || daemon.handle.request(Request::Reboot(Restart::InOrder));
    let Err(RequestError::Failed(failure)) = reboot().await else {
        panic!("it did not fail")
    };
    assert_eq!(failure.name, ErrorName::Internal);
    assert!(failure.message.starts_with("cannot reboot: "), "{failure}");
    assert_eq!(daemon.state(), "staged");
    stand.node.refuse(&[]);
    reboot().await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn an_image_that_is_not_barred_cannot_be_forgiven() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    let root_hash = stand.two.0.root_hash;
    let forgive = Request::Forgive { root_hash };
    let Refused::BadArgument(why) = refused(daemon.handle.request(forgive).await) else {
        panic!("another name")
    };
    assert!(why.contains(&root_hash.to_string()), "{why}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_trial_that_has_ended_badly_can_only_be_left() {
    let stand = Stand::new();
    let daemon = stand.daemon().await;
    assert_eq!(daemon.stage("2").await, Outcome::Done);
    daemon.stop().await;
    stand.node.power_cycle(&stand.images());
    let daemon = stand.daemon().await;
    daemon.handle.request(bad("sick")).await.unwrap();
    let reason = "I do not like it".to_owned();
    for (request, expected) in [
        (Request::Check, Refused::BootedSlotNotGood),
        (Request::Rollback { reason }, Refused::BootedSlotNotGood),
        (Request::MarkGood, Refused::NotInTrial),
    ] {
        assert_eq!(refused(daemon.handle.request(request).await), expected);
    }
    daemon.stop().await;
}

#[tokio::test]
async fn an_older_release_gets_two_tries_at_least() {
    let stand = Stand::new();
    stand.update_to("2").await;
    let daemon = stand.daemon().await;
    let older = Request::Stage(Ask {
        version: Some(version("1")),
        force: Force::ByName,
        tries: 1,
    });
    assert_eq!(daemon.run(older).await, Outcome::Done);
    let entries = stand.node.entry_names();
    assert_eq!(entries, ["bistable_1+2.efi", "bistable_2.efi"]);
    daemon.stop().await;
}
