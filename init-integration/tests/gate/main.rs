//! The gate on a node whose every answer the test decides. Each test has a bus of its own.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bus;
mod network;
mod node;
mod services;

use std::pin::pin;
use std::time::{Duration, Instant};

use init_integration::health::watch::Ended;
use node::{Node, ROOT_HASH};
use services::{Call, Refusal};
use tokio::time::timeout;

/// Far more than any of the tests takes.
const LONG: Duration = Duration::from_secs(60);

/// Enough for a soak of 200 ms, little for a test that waits for it to pass.
const SHORT: Duration = Duration::from_millis(1500);

async fn ended(gate: impl Future<Output = Ended>) -> Ended {
    timeout(LONG, gate).await.expect("the gate comes to an end")
}

/// The one call that gave the slot up: its reason, check, unit and lines.
fn marked_bad(calls: &[Call]) -> (&str, &str, &str, &[String]) {
    let Some(Call::MarkBad {
        reason,
        check,
        unit,
        lines,
        verdict_was_written,
    }) = calls.first()
    else {
        panic!("the slot was not given up first: {calls:?}");
    };
    assert!(
        verdict_was_written,
        "the verdict was on the disk before the updater was told"
    );
    (reason, check, unit, lines)
}

#[tokio::test]
async fn a_healthy_trial_becomes_good_once() {
    let node = Node::on_trial().await;
    assert_eq!(ended(node.gate()).await, Ended::Good);
    assert_eq!(node.calls(), [Call::MarkGood]);
    let verdict = node.verdict();
    assert_eq!(
        (verdict["verdict"].as_str(), verdict["boot_id"].as_str()),
        (Some("pass"), Some("this-boot"))
    );
    assert!(node.path("image-read").exists(), "the image was read");
}

#[tokio::test]
async fn a_trial_that_only_the_updater_knows_of_is_not_good_unread() {
    let node = Node::on_trial().await;
    // As where the boot loader could not count the start.
    std::fs::remove_file(node.path("LoaderBootCountPath")).unwrap();
    assert_eq!(ended(node.gate()).await, Ended::Good);
    assert_eq!(node.calls(), [Call::MarkGood]);
    assert!(node.path("image-read").exists(), "the image was read");
}

#[tokio::test]
async fn a_gate_that_is_started_again_after_it_passed_does_no_harm() {
    let node = Node::on_trial().await;
    assert_eq!(ended(node.gate()).await, Ended::Good);
    assert_eq!(ended(node.gate()).await, Ended::Good);
    // The second time it renews the watch.
    assert_eq!(node.calls(), [Call::MarkGood, Call::MarkGood]);
}

#[tokio::test]
async fn a_unit_that_is_down_at_the_deadline_fails_the_trial_and_is_named() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.set_unit("web.service", "activating");
    assert_eq!(ended(node.gate()).await, Ended::Stranded);
    let calls = node.calls();
    let (reason, check, unit, lines) = marked_bad(&calls);
    assert_eq!((check, unit), ("web", "web.service"));
    assert_eq!(reason, "web.service is activating (made-up), not active");
    assert_eq!(lines, ["starting", "cannot bind"]);
    let expected = serde_json::json!({
        "boot_id": "this-boot", "root_hash": ROOT_HASH, "verdict": "fail", "version": "2", "check": "web",
        "unit": "web.service", "reason": reason, "lines": ["starting", "cannot bind"],
    });
    assert_eq!(node.verdict(), expected);
}

#[tokio::test]
async fn a_failed_unit_that_no_check_names_fails_the_trial() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.set_unit("sick.service", "failed");
    ended(node.gate()).await;
    let calls = node.calls();
    let (reason, check, unit, _) = marked_bad(&calls);
    assert_eq!(
        (check, unit, reason),
        ("failed-units", "sick.service", "failed units: sick.service")
    );
}

#[tokio::test]
async fn a_unit_that_is_still_starting_holds_the_verdict_back() {
    let node = Node::on_trial().await;
    node.set_unit("slow.service", "activating");
    let mut gate = pin!(node.gate());
    // The soak is over many times by then.
    assert!(timeout(SHORT, gate.as_mut()).await.is_err(), "it waits");
    assert_eq!(node.calls(), []);
    node.set_unit("slow.service", "active");
    assert_eq!(ended(gate).await, Ended::Good);
    assert_eq!(node.calls(), [Call::MarkGood]);
}

#[tokio::test]
async fn a_unit_that_never_comes_up_is_named_at_the_deadline_though_no_check_is_about_it() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.set_unit("slow.service", "activating");
    ended(node.gate()).await;
    let calls = node.calls();
    let (reason, check, unit, lines) = marked_bad(&calls);
    assert_eq!((check, unit), ("starting-units", "slow.service"));
    assert_eq!(reason, "still starting: slow.service");
    assert_eq!(lines, ["starting", "cannot bind"]);
}

#[tokio::test]
async fn a_device_that_is_waited_for_is_named_and_not_what_waits_for_it() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    {
        let mut answers = node.answers.lock().unwrap();
        answers.at_work = vec!["dev-sdz.device".to_owned()];
        answers.queued = vec!["data.mount".to_owned()];
    }
    ended(node.gate()).await;
    let calls = node.calls();
    let (reason, check, unit, _) = marked_bad(&calls);
    assert_eq!((check, unit), ("starting-units", "dev-sdz.device"));
    assert_eq!(reason, "still starting: dev-sdz.device");
}

#[tokio::test]
async fn the_gate_waits_neither_for_itself_nor_for_what_waits_for_it() {
    let node = Node::on_trial().await;
    node.set_unit("bistable-health-gate.service", "activating");
    {
        let mut answers = node.answers.lock().unwrap();
        answers.at_work = vec!["bistable-health-gate.service".to_owned()];
        answers.queued = vec!["boot-complete.target".to_owned()];
    }
    assert_eq!(ended(node.gate()).await, Ended::Good);
}

#[tokio::test]
async fn a_unit_between_two_attempts_fails_the_trial() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.set_unit_in("flapping.service", "activating", "auto-restart");
    ended(node.gate()).await;
    let calls = node.calls();
    let (reason, check, unit, _) = marked_bad(&calls);
    assert_eq!((check, unit), ("failed-units", "flapping.service"));
    assert!(reason.contains("to be started again"), "{reason}");
}

#[tokio::test]
async fn a_unit_that_restarts_faster_than_anybody_looks_fails_the_trial() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    let answers = std::sync::Arc::clone(&node.answers);
    let flapping = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            let mut answers = answers.lock().unwrap();
            let unit = answers.units.get_mut("web.service").unwrap();
            unit.invocation = unit.invocation.wrapping_add(1);
        }
    });
    ended(node.gate()).await;
    flapping.abort();
    let calls = node.calls();
    let (reason, check, unit, _) = marked_bad(&calls);
    assert_eq!((check, unit), ("web", "web.service"));
    assert!(reason.contains("started anew"), "{reason}");
}

#[tokio::test]
async fn a_page_with_the_wrong_status_fails_the_trial() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.answers.lock().unwrap().http_status = 503;
    ended(node.gate()).await;
    let calls = node.calls();
    let (reason, check, unit, _) = marked_bad(&calls);
    assert_eq!((check, unit), ("page", "web.service"));
    assert!(reason.contains("503"), "{reason}");
}

#[tokio::test]
async fn a_redirection_is_no_answer_unless_it_is_asked_for() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.answers.lock().unwrap().http_status = 302;
    ended(node.gate()).await;
    assert_eq!(marked_bad(&node.calls()).1, "page");

    let node = Node::on_trial().await;
    node.answers.lock().unwrap().http_status = 302;
    let page = std::fs::read_to_string(node.path("health.d/page.toml")).unwrap();
    node.declare("page", &format!("{page}status = 302\n"));
    assert_eq!(ended(node.gate()).await, Ended::Good);
}

#[tokio::test]
async fn a_containerd_that_answers_with_an_error_fails_the_trial() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.answers.lock().unwrap().grpc_status = "14";
    ended(node.gate()).await;
    let calls = node.calls();
    let (reason, check, unit, _) = marked_bad(&calls);
    assert_eq!((check, unit), ("containerd-api", "containerd.service"));
    assert!(reason.contains("gRPC status 14"), "{reason}");
}

#[tokio::test]
async fn a_command_that_hangs_fails_the_trial_within_its_timeout() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.declare(
        "command",
        "kind = 'command'\nargv = ['/bin/sleep', '1000']\ntimeout = '100ms'\n",
    );
    ended(node.gate()).await;
    let calls = node.calls();
    let (reason, check, _, _) = marked_bad(&calls);
    assert_eq!((check, reason), ("command", "takes longer than 100 ms"));
}

#[tokio::test]
async fn a_drop_in_with_a_mistake_fails_the_trial_and_is_named() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.declare("broken", "kind = 'unit'\nunti = 'web.service'\n");
    ended(node.gate()).await;
    let calls = node.calls();
    let (reason, check, _, _) = marked_bad(&calls);
    assert_eq!(check, "broken");
    assert!(reason.contains("broken.toml"), "{reason}");
}

#[tokio::test]
async fn a_deadline_that_comes_too_late_fails_the_trial_and_is_named() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    std::fs::write(node.path("health.toml"), "deadline = '11min'\n").unwrap();
    ended(node.gate()).await;
    let calls = node.calls();
    let (reason, check, _, _) = marked_bad(&calls);
    assert_eq!(check, "configuration");
    assert!(reason.contains("health.toml:1: deadline: "), "{reason}");
}

#[tokio::test]
async fn advisory_checks_do_not_hold_a_node_back() {
    let node = Node::on_trial().await;
    node.declare(
        "online",
        "kind = 'unit'\nunit = 'network-online.target'\nimportance = 'advisory'\n",
    );
    assert_eq!(ended(node.gate()).await, Ended::Good);
}

#[tokio::test]
async fn a_settled_boot_is_never_given_up_and_is_good_when_it_heals() {
    let mut node = Node::on_trial().await;
    node.deadline = Duration::from_millis(300);
    node.answers.lock().unwrap().booted_status = "good";
    node.set_unit("web.service", "failed");
    let mut gate = pin!(node.gate());
    // Well past the deadline.
    assert!(
        timeout(SHORT, gate.as_mut()).await.is_err(),
        "it goes on looking"
    );
    assert_eq!(node.calls(), []);
    node.set_unit("web.service", "active");
    assert_eq!(ended(gate).await, Ended::Good);
    // That it has come up renews its watch, and nothing before.
    assert_eq!(node.calls(), [Call::MarkGood]);
    assert_eq!(node.verdict()["verdict"], "pass");
}

#[tokio::test]
async fn a_settled_boot_is_good_though_the_updater_does_not_renew_its_watch() {
    let node = Node::on_trial().await;
    {
        let mut answers = node.answers.lock().unwrap();
        answers.booted_status = "good";
        answers.refusals = vec![Refusal::EspFull];
    }
    std::fs::write(node.path("settled"), "").unwrap();
    assert_eq!(ended(node.gate()).await, Ended::Good);
    assert_eq!(node.calls(), []);
    assert!(!node.path("image-read").exists(), "that is for trials");
}

#[tokio::test]
async fn without_an_updater_a_counted_boot_is_restarted_by_systemd_and_then_by_the_kernel() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.kill_updater().await;
    assert_eq!(ended(node.gate()).await, Ended::Stranded);
    assert_eq!(node.calls(), [Call::SystemdReboot, Call::LastResort]);
    let verdict = node.verdict();
    assert_eq!(
        (verdict["verdict"].as_str(), verdict["check"].as_str()),
        (Some("fail"), Some("updater"))
    );
    assert_eq!(verdict["unit"], "bistable-updater.service");
}

#[tokio::test]
async fn without_an_updater_a_trial_that_the_boot_loader_could_not_count_is_restarted_too() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    std::fs::remove_file(node.path("LoaderBootCountPath")).unwrap();
    let record = serde_json::json!({"boot_id": "earlier", "root_hash": ROOT_HASH});
    std::fs::write(node.path("trial.json"), record.to_string()).unwrap();
    node.kill_updater().await;
    assert_eq!(ended(node.gate()).await, Ended::Stranded);
    assert_eq!(node.calls(), [Call::SystemdReboot, Call::LastResort]);
}

#[tokio::test]
async fn without_a_bus_a_counted_boot_is_restarted_by_the_kernel() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.kill_bus();
    assert_eq!(ended(node.gate()).await, Ended::Stranded);
    assert_eq!(node.calls(), [Call::LastResort]);
    assert_eq!(node.verdict()["verdict"], "fail");
}

#[tokio::test]
async fn without_an_updater_a_boot_that_is_settled_or_not_counted_is_left_alone() {
    for settled in [true, false] {
        let mut node = Node::on_trial().await;
        node.deadline = Duration::from_millis(300);
        node.kill_updater().await;
        if settled {
            std::fs::write(node.path("settled"), "").unwrap();
        } else {
            std::fs::remove_file(node.path("LoaderBootCountPath")).unwrap();
        }
        assert!(
            timeout(SHORT, node.gate()).await.is_err(),
            "it goes on looking"
        );
        assert_eq!(node.calls(), []);
    }
}

#[tokio::test]
async fn an_updater_that_dies_in_a_trial_does_not_end_the_trial() {
    let mut node = Node::on_trial().await;
    node.deadline = Duration::from_secs(3);
    std::fs::remove_file(node.path("LoaderBootCountPath")).unwrap();
    node.set_unit("web.service", "inactive");
    let mut gate = pin!(node.gate());
    // Long enough for a round in which the updater still says that it is a trial.
    assert!(
        timeout(Duration::from_secs(1), gate.as_mut())
            .await
            .is_err()
    );
    node.kill_updater().await;
    assert_eq!(ended(gate).await, Ended::Stranded);
    assert_eq!(node.calls(), [Call::SystemdReboot, Call::LastResort]);
}

#[tokio::test]
async fn a_busy_updater_is_asked_again() {
    let node = Node::on_trial().await;
    node.answers.lock().unwrap().refusals = vec![Refusal::Busy, Refusal::Busy];
    assert_eq!(ended(node.gate()).await, Ended::Good);
    assert_eq!(node.calls(), [Call::MarkGood]);

    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.set_unit("web.service", "inactive");
    node.answers.lock().unwrap().refusals = vec![Refusal::Busy, Refusal::Busy];
    ended(node.gate()).await;
    assert_eq!(marked_bad(&node.calls()).1, "web");
}

#[tokio::test]
async fn an_updater_that_cannot_make_the_slot_good_fails_the_trial_at_the_deadline() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.answers.lock().unwrap().refusals = vec![Refusal::EspFull; 1000];
    assert_eq!(ended(node.gate()).await, Ended::Stranded);
    assert_eq!(node.calls(), [Call::SystemdReboot, Call::LastResort]);
    let verdict = node.verdict();
    assert_eq!(verdict["check"], "mark-good");
    assert!(
        verdict["reason"].as_str().unwrap().contains("EspFull"),
        "{verdict}"
    );
}

#[tokio::test]
async fn a_slot_that_turns_out_not_to_be_on_trial_is_not_restarted() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    {
        let mut answers = node.answers.lock().unwrap();
        answers.refusals = vec![Refusal::NotInTrial];
        // The updater does not say how the slot stands, so the boot loader's counting counts.
        answers.booted_status = "unknown";
    }
    let mut gate = pin!(node.gate());
    assert!(
        timeout(2 * SHORT, gate.as_mut()).await.is_err(),
        "it goes on looking"
    );
    assert_eq!(node.calls(), []);
    node.answers.lock().unwrap().booted_status = "good";
    assert_eq!(ended(gate).await, Ended::Good);
    assert_eq!(node.calls(), [Call::MarkGood]);
}

#[tokio::test]
async fn a_bad_release_that_is_all_that_boots_is_not_restarted() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.set_unit("web.service", "failed");
    node.answers.lock().unwrap().refusals = vec![Refusal::NothingElseBoots];
    let mut gate = pin!(node.gate());
    // The updater's word for the slot from now on.
    let decided = async {
        while !node.path("gate/verdict.json").exists() {
            tokio::task::yield_now().await;
        }
        node.answers.lock().unwrap().booted_status = "bad";
    };
    let watched = timeout(4 * SHORT, async { tokio::join!(gate.as_mut(), decided).0 });
    assert!(watched.await.is_err(), "it goes on looking");
    assert_eq!(node.calls(), [], "nothing was restarted, nor marked again");
    assert_eq!(node.verdict()["verdict"], "fail");
}

#[tokio::test]
async fn a_bad_release_that_is_all_that_boots_is_restarted_at_every_deadline_while_the_updater_is_dead()
 {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.set_unit("web.service", "failed");
    node.kill_updater().await;
    // The boot loader has nothing else to start, and counts each start. What one boot leaves is its verdict.
    for boot in ["first", "second", "third"] {
        node.boots_again(boot);
        let begun = Instant::now();
        assert_eq!(ended(node.gate()).await, Ended::Stranded);
        assert!(begun.elapsed() >= SHORT, "{boot}: before its deadline");
        assert_eq!(node.calls(), [Call::SystemdReboot, Call::LastResort]);
        let verdict = node.verdict();
        assert_eq!(
            (verdict["boot_id"].as_str(), verdict["verdict"].as_str()),
            (Some(boot), Some("fail"))
        );
    }
}

#[tokio::test]
async fn an_updater_that_takes_another_image_for_the_booted_one_is_sick() {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    node.answers.lock().unwrap().root_hash = "ffff".to_owned();
    ended(node.gate()).await;
    let calls = node.calls();
    let (reason, check, unit, _) = marked_bad(&calls);
    assert_eq!((check, unit), ("updater", "bistable-updater.service"));
    assert!(reason.contains("ffff"), "{reason}");
}
