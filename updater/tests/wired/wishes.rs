//! Firmware that does not take a wish for a boot entry, or keeps it for ever.

use partition_layout::{BootEntry, Slot};
use updater::driver::RequestError;
use updater::machine::{Outcome, Request};
use updater::names::ErrorName;
use updater::ports::{Record, Restart};

use super::fake::Trouble;
use super::gate::{Daemon, force};
use super::network::version;
use super::stages::{Stand, failed};

fn roll_back() -> Request {
    Request::Rollback {
        reason: "2 is slow".to_owned(),
    }
}

#[tokio::test]
async fn a_wish_that_the_firmware_keeps_for_ever_does_not_end_updates() {
    let stand = Stand::new();
    stand.update_to("2").await;
    let daemon = stand.daemon().await;
    assert_eq!(daemon.run(roll_back()).await, Outcome::Done);
    stand.node.refuse(&["clear-one-shot"]);
    // The wish was for release 1, whose entry goes.
    assert_eq!(daemon.stage("3").await, Outcome::Done);
    daemon.stop().await;
    let booted = stand.node.power_cycle(&stand.images());
    assert_eq!(booted, (Slot::A, version("3")));
}

#[tokio::test]
async fn a_rollback_that_cannot_be_taken_back_stays_staged_and_says_so() {
    let stand = Stand::new();
    stand.update_to("2").await;
    let daemon = stand.daemon().await;
    stand.node.refuse(&["set-one-shot", "clear-one-shot"]);
    let outcome = daemon.run(roll_back()).await;
    let Outcome::Failed(failure) = &outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(failure.name, ErrorName::NoFirmwareVariables);
    assert!(failure.message.contains("take back"), "{failure}");
    assert_eq!(daemon.state(), "staged");
    // Whatever starts it, it is a trial.
    assert_eq!(
        stand.node.entry_names(),
        ["bistable_1+2.efi", "bistable_2.efi"]
    );
    assert!(stand.node.record(Record::Trial).is_some());

    stand.node.refuse(&[]);
    let reboot = Request::Reboot(Restart::InOrder);
    daemon.handle.request(reboot).await.unwrap();
    daemon.stop().await;
    assert_eq!(stand.node.power_cycle(&stand.images()).1, version("1"));
    assert_eq!(stand.daemon().await.state(), "trial");
}

#[tokio::test]
async fn an_error_of_any_operation_while_rolling_back_leaves_a_trial_or_what_was_before() {
    let stand = Stand::new();
    stand.update_to("2").await;
    let trace = stand.node.twin();
    let daemon = Daemon::start(&trace, &stand.repository).await;
    trace.expect(Trouble::None);
    assert_eq!(daemon.run(roll_back()).await, Outcome::Done);
    let operations = trace.operations();
    daemon.stop().await;
    assert!(operations > 10, "only {operations} operations");
    for number in 0..operations {
        for trouble in [Trouble::Error(number), Trouble::Broken(number)] {
            let node = stand.node.twin();
            let daemon = Daemon::start(&node, &stand.repository).await;
            node.expect(trouble);
            let outcome = daemon.run(roll_back()).await;
            let kind = node.operation_kinds().get(number).copied();
            let armed = node.entry_names().contains(&"bistable_1+2.efi".to_owned());
            if armed {
                assert!(node.record(Record::Trial).is_some(), "{trouble:?} {kind:?}");
            } else {
                // But for the watch, which begins again when the boot has come up.
                let names = node.entry_names();
                let entries: Vec<_> = names
                    .iter()
                    .map(|name| BootEntry::parse_file_name(name).unwrap())
                    .collect();
                let good = |name: &str| {
                    let mut entries = entries.iter();
                    entries.any(|entry| entry.version == version(name) && entry.is_good())
                };
                assert!(good("1") && good("2"), "{trouble:?} {kind:?}: {names:?}");
                assert!(entries.iter().all(BootEntry::is_good), "{names:?}");
                assert!(
                    matches!(outcome, Outcome::Failed(_)),
                    "{trouble:?} {kind:?}"
                );
            }
            node.expect(Trouble::None);
            daemon.stop().await;
            node.power_cycle(&stand.images());
            assert!(
                node.boots_properly(&stand.images()),
                "{trouble:?} {kind:?}: {:?}",
                node.entry_names()
            );
        }
    }
}

#[tokio::test]
async fn a_reboot_that_would_only_lead_back_is_refused_and_another_release_is_the_way_out() {
    let stand = Stand::new();
    stand.update_to("2").await;
    let daemon = stand.daemon().await;
    assert_eq!(daemon.run(roll_back()).await, Outcome::Done);
    stand.node.refuse(&["set-one-shot"]);
    let reboot = || daemon.handle.request(Request::Reboot(Restart::InOrder));
    let Err(RequestError::Failed(failure)) = reboot().await else {
        panic!("it was not refused")
    };
    assert_eq!(failure.name, ErrorName::NoFirmwareVariables);
    assert_eq!(daemon.state(), "staged");
    assert_eq!(stand.node.reboots(), []);

    assert_eq!(daemon.stage("3").await, Outcome::Done);
    reboot().await.unwrap();
    assert_eq!(stand.node.reboots(), [Restart::InOrder]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_release_that_the_firmware_will_not_start_is_not_left_armed() {
    let stand = Stand::new();
    stand.update_to("2").await;
    stand.update_to("3").await;
    let daemon = stand.daemon().await;
    stand.node.refuse(&["set-one-shot"]);
    let older = super::gate::force("1");
    assert_eq!(
        failed(daemon.run(older).await),
        ErrorName::NoFirmwareVariables
    );
    assert_eq!(stand.node.entry_names(), ["bistable_3.efi"]);
    assert_eq!(daemon.state(), "idle");
    daemon.stop().await;
}

#[tokio::test]
async fn it_is_not_left_armed_either_when_the_node_cannot_be_read_at_the_end() {
    let stand = Stand::new();
    stand.update_to("2").await;
    stand.node.refuse(&["set-one-shot"]);
    let trace = stand.node.twin();
    let daemon = Daemon::start(&trace, &stand.repository).await;
    trace.expect(Trouble::None);
    let outcome = daemon.run(force("1")).await;
    assert_eq!(failed(outcome), ErrorName::NoFirmwareVariables);
    daemon.stop().await;
    let kinds = trace.operation_kinds();
    let refused = kinds.iter().position(|kind| *kind == "set-one-shot");
    let refused = refused.unwrap();
    let look = kinds.iter().skip(refused).position(|kind| *kind == "view");

    // What is done then is decided by how the node was before: on watch, which it is not any more.
    assert_eq!(
        stand.node.entry_names(),
        ["bistable_1.efi", "bistable_2+15.efi"]
    );
    let daemon = stand.daemon().await;
    stand.node.expect(Trouble::Error(refused + look.unwrap()));
    let outcome = daemon.run(force("1")).await;
    assert_eq!(failed(outcome), ErrorName::NoFirmwareVariables);
    daemon.stop().await;
    assert_eq!(stand.node.entry_names(), ["bistable_2.efi"]);
    assert_eq!(stand.node.record(Record::Trial), None);
}
