//! What a good boot had of a network, the next release must have.

use std::fs;
use std::pin::pin;
use std::time::Duration;

use init_integration::health::this_boot::since_boot;
use init_integration::health::watch::Ended;
use tokio::time::timeout;

use crate::node::Node;
use crate::services::Call;
use crate::{LONG, SHORT, ended, marked_bad};

/// A node on trial whose last good boot had a network, and which has none now.
async fn cut_off() -> Node {
    let mut node = Node::on_trial().await;
    node.deadline = SHORT;
    fs::create_dir(node.path("gate")).unwrap();
    fs::write(node.path("gate/network"), "").unwrap();
    node.answers.lock().unwrap().online_state = "offline";
    node
}

#[tokio::test]
async fn a_release_that_loses_the_network_fails_its_trial() {
    let node = cut_off().await;
    ended(node.gate()).await;
    let calls = node.calls();
    let (reason, check, unit, _) = marked_bad(&calls);
    assert_eq!((check, unit), ("network", "systemd-networkd.service"));
    assert_eq!(reason, "systemd-networkd says that the node is offline");
}

#[tokio::test]
async fn a_release_whose_networkd_is_dead_fails_its_trial() {
    let mut node = cut_off().await;
    node.answers.lock().unwrap().online_state = "online";
    node.kill_networkd().await;
    ended(node.gate()).await;
    let calls = node.calls();
    let (_, check, unit, _) = marked_bad(&calls);
    assert_eq!((check, unit), ("network", "systemd-networkd.service"));
}

#[tokio::test]
async fn a_node_that_never_had_a_network_becomes_good_without_one() {
    let node = Node::on_trial().await;
    node.answers.lock().unwrap().online_state = "offline";
    assert_eq!(ended(node.gate()).await, Ended::Good);
    assert_eq!(node.calls(), [Call::MarkGood]);
}

#[tokio::test]
async fn a_good_slot_needs_no_network() {
    let node = cut_off().await;
    node.answers.lock().unwrap().booted_status = "good";
    assert_eq!(ended(node.gate()).await, Ended::Good);
}

#[tokio::test]
async fn a_good_boot_remembers_its_network() {
    let node = Node::on_trial().await;
    assert_eq!(ended(node.gate()).await, Ended::Good);
    assert!(!node.path("gate/network").exists(), "only once it is good");
    let (memory, mut bus) = (node.network(), node.connect());
    timeout(LONG, memory.keep(&mut bus, since_boot() + LONG))
        .await
        .expect("there is a network");
    assert!(node.path("gate/network").exists());
}

#[tokio::test]
async fn a_good_boot_without_a_network_forgets_it_at_the_deadline_and_not_before() {
    let node = cut_off().await;
    let mark = node.path("gate/network");
    let (memory, mut bus) = (node.network(), node.connect());
    let early = memory.keep(&mut bus, since_boot() + LONG);
    assert!(timeout(SHORT, early).await.is_err(), "it goes on looking");
    assert!(mark.exists());

    let mut bus = node.connect();
    let mut keeping = pin!(memory.keep(&mut bus, Duration::ZERO));
    assert!(timeout(SHORT, keeping.as_mut()).await.is_err());
    assert!(!mark.exists());
    // A site whose network is the last to come back.
    node.answers.lock().unwrap().online_state = "partial";
    timeout(LONG, keeping).await.expect("there is a network");
    assert!(mark.exists());
}
