//! A release that fails its trial while no other one boots.

use std::time::Duration;

use partition_layout::{BootEntry, SlotContent};
use release::Release;
use updater::backstop::watch;
use updater::driver::RequestError;
use updater::machine::{Outcome, Request};
use updater::ports::{BootControl, Restart};
use updater::refusal::Refused;

use super::fake::{FakeClock, FakeNode, Image, Trouble};
use super::gate::{Daemon, bad, force, stage};
use super::network::{FakeRepository, Lie, Which, image, version};

struct Stand {
    releases: Vec<(Release, Image)>,
    node: FakeNode,
    repository: FakeRepository,
}

impl Stand {
    /// Release 3 is on trial, and somebody has taken the entry of release 2.
    async fn new() -> Self {
        let numbers = 1..=4_u8;
        let releases: Vec<_> = numbers
            .map(|number| image(&number.to_string(), number, 300))
            .collect();
        let repository = FakeRepository::with(&releases.iter().collect::<Vec<_>>());
        let node = FakeNode::running(&releases[1].1);
        let stand = Self {
            releases,
            node,
            repository,
        };
        let daemon = stand.daemon().await;
        assert_eq!(daemon.stage("3").await, Outcome::Done);
        daemon.stop().await;
        assert_eq!(stand.node.power_cycle(&stand.images()).1, version("3"));
        let gone = BootEntry::good(version("2"));
        BootControl::remove(&stand.node, &gone).unwrap();
        stand
    }

    fn images(&self) -> Vec<&Image> {
        self.releases.iter().map(|(_, image)| image).collect()
    }

    async fn daemon(&self) -> Daemon {
        Daemon::start(&self.node, &self.repository).await
    }
}

#[tokio::test]
async fn a_bad_trial_that_is_all_that_boots_is_kept_as_a_last_resort_and_not_restarted() {
    let stand = Stand::new().await;
    for tried in 1..3 {
        let daemon = stand.daemon().await;
        assert_eq!(
            daemon.state(),
            "trial",
            "each boot may be the one that passes"
        );
        daemon.handle.request(bad("sick")).await.unwrap();
        assert_eq!(daemon.state(), "last-resort");
        let entry = format!("bistable_3+0-{tried}.efi");
        assert_eq!(stand.node.entry_names(), [entry]);
        let told = daemon.handle.view().node.last_rollback.clone().unwrap();
        assert_eq!((told.version, told.reason.as_str()), (version("3"), "sick"));
        assert!(
            stand
                .node
                .said()
                .last()
                .unwrap()
                .contains("release 3 failed (sick)")
        );
        // Nobody restarts it: neither the daemon, nor the timer that looks for this mark.
        assert!(stand.node.is_settled());
        updater::dbus::reboot_after_verdict(&daemon.handle).await;
        watch(&daemon.handle, &FakeClock, Duration::ZERO).await;
        assert_eq!(
            (daemon.state(), stand.node.reboots()),
            ("last-resort", vec![])
        );
        daemon.stop().await;
        assert_eq!(stand.node.power_cycle(&stand.images()).1, version("3"));
    }
}

#[tokio::test]
async fn out_of_the_last_resort_leads_a_release_that_is_staged_by_name_with_force() {
    for name in ["1", "4"] {
        let stand = Stand::new().await;
        let daemon = stand.daemon().await;
        daemon.handle.request(bad("sick")).await.unwrap();
        let refused = daemon.begin(stage(name)).await.unwrap_err();
        assert_eq!(refused, RequestError::Refused(Refused::BootedSlotNotGood));
        let rollback = Request::Rollback {
            reason: String::new(),
        };
        let refused = daemon.begin(rollback).await.unwrap_err();
        assert_eq!(refused, RequestError::Refused(Refused::NothingToRollBackTo));
        // An older one needs no firmware variable: the one that runs has no tries left.
        stand.node.lose_variables();
        assert_eq!(daemon.run(force(name)).await, Outcome::Done);
        let staged = daemon.handle.view().node.staged().map(|(it, _)| it.clone());
        assert_eq!(
            (daemon.state(), staged),
            ("last-resort", Some(version(name)))
        );
        daemon
            .handle
            .request(Request::Reboot(Restart::InOrder))
            .await
            .unwrap();
        daemon.stop().await;
        assert_eq!(stand.node.power_cycle(&stand.images()).1, version(name));
        let daemon = stand.daemon().await;
        daemon.handle.request(Request::MarkGood).await.unwrap();
        assert_eq!(daemon.state(), "idle");
        daemon.stop().await;
        assert_eq!(stand.node.power_cycle(&stand.images()).1, version(name));
    }
}

#[tokio::test]
async fn an_unfinished_stage_beside_the_last_resort_leaves_the_spare_disarmed() {
    let stand = Stand::new().await;
    let daemon = stand.daemon().await;
    daemon.handle.request(bad("sick")).await.unwrap();
    stand.repository.lie(Lie::Flip(Which::Root, 5000));
    assert_ne!(daemon.run(force("4")).await, Outcome::Done);
    assert_eq!(daemon.state(), "last-resort");
    assert_eq!(stand.node.entry_names(), ["bistable_3+0-1.efi"]);
    let (booted, _) = stand.node.booted();
    assert_eq!(stand.node.content(booted.other()), SlotContent::Empty);
    daemon.stop().await;
}

#[tokio::test]
async fn whatever_cannot_be_written_about_it_the_last_resort_is_not_restarted() {
    for failing in 1..20 {
        let stand = Stand::new().await;
        let daemon = stand.daemon().await;
        stand.node.fill_var();
        // The first operation is the mark in memory that settles it.
        stand.node.expect(Trouble::Error(failing));
        drop(daemon.handle.request(bad("sick")).await);
        let kinds = stand.node.operation_kinds();
        assert!(stand.node.is_settled(), "{kinds:?}");
        updater::dbus::reboot_after_verdict(&daemon.handle).await;
        assert_eq!(stand.node.reboots(), [], "{kinds:?}");
        daemon.stop().await;
    }
}
