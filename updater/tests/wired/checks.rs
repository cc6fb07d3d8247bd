//! Checks that fail, and checks across restarts of the daemon.

use updater::asker::Asker;
use updater::driver::Accepted;
use updater::machine::{Outcome, Request};
use updater::names::ErrorName;
use updater::policy::{Automatic, Rules};
use updater::ports::Record;

use super::cuts;
use super::fake::{FakeNode, HandClock};
use super::gate::{Daemon, outcome, rules};
use super::network::{FakeRepository, Lie, image, version};
use super::stages::failed;

const NOON: &str = "2026-11-21T12:00:00Z";

struct Stand {
    node: FakeNode,
    repository: FakeRepository,
    clock: HandClock,
}

impl Stand {
    fn new() -> Self {
        let (one, two) = (image("1", 1, 300), image("2", 2, 300));
        Self {
            node: FakeNode::running(&one.1),
            repository: FakeRepository::with(&[&one, &two]),
            clock: HandClock::at(NOON),
        }
    }

    async fn daemon(&self, rules: Rules) -> Daemon {
        let (node, repository) = (&self.node, &self.repository);
        let started = Daemon::with(node, repository, self.clock.clone(), rules).await;
        started.unwrap()
    }
}

/// Lets it proceed, to the end of the job that it begins.
async fn proceed(daemon: &Daemon) -> &'static str {
    match daemon.handle.proceed().await.unwrap() {
        Accepted::Job(mut job) => {
            outcome(&mut job).await;
            job.kind.as_str()
        }
        Accepted::Done => "reboot",
        Accepted::Nothing => "nothing",
    }
}

/// The history as an operator reads it, oldest first: event, error, who asked, message.
fn told(daemon: &Daemon) -> Vec<(&'static str, String, &'static str, String)> {
    let view = daemon.handle.view();
    let lines = view.node.history.iter().map(|line| {
        let by = line.by.as_ref().map_or("", Asker::as_str);
        let error = line.error.clone().unwrap_or_default();
        (line.event.as_str(), error, by, line.message.clone())
    });
    lines.collect()
}

fn held(daemon: &Daemon) -> Option<&'static str> {
    let view = daemon.handle.view();
    view.automation.held.as_ref().map(|held| held.name())
}

#[tokio::test]
async fn a_node_without_a_network_tells_it_once_and_when_it_is_over() {
    let stand = Stand::new();
    stand.repository.lie(Lie::Gone);
    let daemon = stand.daemon(rules(Automatic::Check)).await;
    for _ in 0..50 {
        assert_eq!(proceed(&daemon).await, "check");
    }
    let first = told(&daemon);
    let [(event, error, by, message)] = first.as_slice() else {
        panic!("{first:?}")
    };
    assert_eq!((*event, *by), ("check-failed", "policy"));
    assert_eq!(error, "RepositoryUnreachable");
    assert!(message.contains("no route to host"), "{message}");
    daemon.stop().await;

    // A restart is no new run of failures.
    let daemon = stand.daemon(rules(Automatic::Check)).await;
    assert_eq!(proceed(&daemon).await, "check");
    assert_eq!(told(&daemon).len(), 1);
    // Another error is news, also among the old ones, and who meets it first is told.
    for lie in [Lie::MetadataExpired, Lie::Gone, Lie::MetadataExpired] {
        stand.repository.lie(lie);
        failed(daemon.run(Request::Check).await);
    }
    stand.repository.lie(Lie::None);
    stand.clock.set("2026-12-21T12:00:00Z");
    assert_eq!(proceed(&daemon).await, "check");
    let all = told(&daemon);
    let names: Vec<_> = all
        .iter()
        .map(|(event, error, by, _)| (*event, error.as_str(), *by))
        .collect();
    assert_eq!(
        names,
        [
            ("check-failed", "RepositoryUnreachable", "policy"),
            ("check-failed", "MetadataExpired", "updater"),
            ("check-recovered", "", "policy"),
        ]
    );
    assert_eq!(
        all[2].3,
        "after 54 checks that failed, the first 2026-11-21 12:00 UTC (RepositoryUnreachable, MetadataExpired)"
    );
    assert_eq!(daemon.run(Request::Check).await, Outcome::Done);
    assert_eq!(told(&daemon).len(), 3, "what is well is not told");
    daemon.stop().await;
}

#[tokio::test]
async fn a_stage_whose_release_cannot_be_had_is_told() {
    let stand = Stand::new();
    stand.repository.lie(Lie::Gone);
    let daemon = stand.daemon(rules(Automatic::Off)).await;
    assert_eq!(
        failed(daemon.stage("2").await),
        ErrorName::RepositoryUnreachable
    );
    let view = daemon.handle.view();
    let [line] = view.node.history.as_slice() else {
        panic!("{:?}", view.node.history)
    };
    assert_eq!(
        (line.event.as_str(), &line.version),
        ("stage-failed", &Some(version("2")))
    );
    assert_eq!(line.error.as_deref(), Some("RepositoryUnreachable"));
    assert_eq!(daemon.state(), "idle");
    daemon.stop().await;
}

#[tokio::test]
async fn a_restart_forgets_no_check_and_is_no_reason_for_another() {
    let stand = Stand::new();
    let daemon = stand.daemon(rules(Automatic::Check)).await;
    assert_eq!(proceed(&daemon).await, "check");
    let before = daemon.handle.view();
    daemon.stop().await;

    stand.clock.set("2026-11-21T13:00:00Z");
    let daemon = stand.daemon(rules(Automatic::Check)).await;
    let after = daemon.handle.view();
    assert_eq!(after.last_check, Some(NOON.parse().unwrap()));
    assert_eq!(
        (after.last_check, &after.offer),
        (before.last_check, &before.offer)
    );
    assert_eq!(
        (proceed(&daemon).await, held(&daemon)),
        ("nothing", Some("only-checks"))
    );
    // It comes due when it would have come due without the restart.
    stand.clock.set("2026-11-21T19:00:00Z");
    assert_eq!(proceed(&daemon).await, "check");
    daemon.stop().await;
}

#[tokio::test]
async fn what_was_heard_before_a_restart_is_no_ground_to_stage_or_reboot() {
    let stand = Stand::new();
    let daemon = stand.daemon(rules(Automatic::Reboot)).await;
    assert_eq!(proceed(&daemon).await, "check");
    daemon.stop().await;
    for then in ["stage", "reboot"] {
        let daemon = stand.daemon(rules(Automatic::Reboot)).await;
        assert_eq!(proceed(&daemon).await, "check");
        assert_eq!(proceed(&daemon).await, then);
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_over_a_restart_makes_a_check_due() {
    let stand = Stand::new();
    let daemon = stand.daemon(rules(Automatic::Check)).await;
    assert_eq!(proceed(&daemon).await, "check");
    daemon.stop().await;
    stand.clock.set("1970-01-01T00:00:00Z");
    let daemon = stand.daemon(rules(Automatic::Check)).await;
    assert_eq!(proceed(&daemon).await, "check");
    assert_eq!(proceed(&daemon).await, "nothing");
    daemon.stop().await;
}

#[tokio::test]
async fn what_another_channel_offered_before_the_restart_is_no_offer() {
    let stand = Stand::new();
    let daemon = stand.daemon(rules(Automatic::Check)).await;
    assert_eq!(proceed(&daemon).await, "check");
    daemon.stop().await;
    let mut other = rules(Automatic::Check);
    if let Some(source) = &mut other.source {
        source.channel = release::ChannelName::parse("canary").unwrap();
    }
    let daemon = stand.daemon(other).await;
    assert_eq!(daemon.handle.view().offer, None);
    assert_eq!(proceed(&daemon).await, "check");
    daemon.stop().await;
}

#[tokio::test]
async fn a_record_that_is_damaged_or_cannot_be_written_changes_no_check() {
    let stand = Stand::new();
    for content in ["{", "{\"sound\": {\"when\": 1}}", "[]"] {
        stand.node.put_record(Record::Checks, content);
        let daemon = stand.daemon(rules(Automatic::Check)).await;
        assert_eq!(daemon.handle.view().last_check, None);
        assert_eq!(proceed(&daemon).await, "check");
        assert_eq!(held(&daemon), Some("only-checks"));
        daemon.stop().await;
    }
    stand.node.fill_var();
    let daemon = stand.daemon(rules(Automatic::Check)).await;
    stand.clock.set("2026-11-22T12:00:00Z");
    assert_eq!(proceed(&daemon).await, "check");
    assert_eq!(held(&daemon), Some("only-checks"));
    // Nor does a disk that takes no record make a list of one failure.
    stand.repository.lie(Lie::Gone);
    for _ in 0..3 {
        let outcome = daemon.run(Request::Check).await;
        assert_eq!(failed(outcome), ErrorName::RepositoryUnreachable);
    }
    assert_eq!(told(&daemon), []);
    daemon.stop().await;
}

#[tokio::test]
async fn wherever_the_power_fails_while_a_check_is_written_down_the_node_goes_on() {
    let stand = cuts::Stand::new();
    stand
        .cut_everywhere(async |daemon| {
            stand.repository.lie(Lie::Gone);
            daemon.run(Request::Check).await;
            stand.repository.lie(Lie::None);
            daemon.run(Request::Check).await;
        })
        .await;
}
