//! The attacks of the TUF specification, by publishers who lack some keys, and
//! what a publisher does to recover from those who had them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};
use tempfile::TempDir;
use tough::schema::RoleType;
use tough::schema::key::{Ed25519Key, Ed25519Scheme, Key};
use updater::ports::ReleasesError;

use crate::metadata::{Node, told};
use crate::publisher::{Publisher, days, key, release, sign, tuf_key};

const BELOW_ROOT: [RoleType; 3] = [RoleType::Timestamp, RoleType::Snapshot, RoleType::Targets];

/// A repository that a node has seen at version 2 of everything but the root.
fn seen_at_two() -> (TempDir, Publisher, Node) {
    let folder = tempfile::tempdir().unwrap();
    let mut publisher = Publisher::of(folder.path(), &["1"]);
    let node = Node::trusting(&publisher);
    publisher.raise();
    publisher.publish();
    node.refresh().unwrap();
    (folder, publisher, node)
}

fn version(publisher: &mut Publisher, role: RoleType) -> &mut u64 {
    match role {
        RoleType::Root => &mut publisher.root_version,
        RoleType::Timestamp => &mut publisher.timestamp_version,
        RoleType::Snapshot => &mut publisher.snapshot_version,
        RoleType::Targets => &mut publisher.targets_version,
        RoleType::DelegatedTargets => unreachable!("nobody delegates here"),
    }
}

/// Returns the version of a role that the node keeps.
fn kept_version(node: &Node, role: RoleType) -> Option<u64> {
    let bytes = fs::read(node.kept(&format!("{role}.json"))).ok()?;
    let kept: Value = serde_json::from_slice(&bytes).unwrap();
    kept["signed"]["version"].as_u64()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ReleasesError>, because: &str) {
    let (name, words) = told(result);
    assert_eq!(name, "untrusted", "{words}");
    assert!(words.contains(because), "{words}");
}

/// Changes the date of a role.
fn dated(publisher: &mut Publisher, role: RoleType, in_days: i64) {
    let expires = days(in_days).to_string();
    let edit = move |signed: &mut Value| signed["expires"] = json!(expires);
    publisher.edits.insert(role, Box::new(edit));
}

#[test]
fn no_role_below_the_root_goes_back_behind_a_newer_timestamp() {
    for role in BELOW_ROOT {
        let (_folder, mut publisher, node) = seen_at_two();
        publisher.raise();
        *version(&mut publisher, role) = 1;
        publisher.publish();
        let because = "is version 1, but version 2 was seen before";
        refused(node.refresh(), because);
        // And it is kept in mind that it was seen.
        assert_eq!(kept_version(&node, role), Some(2), "{role}");
        // A timestamp that brings an older snapshot is none to be kept.
        let timestamp = if role == RoleType::Targets { 3 } else { 2 };
        assert_eq!(kept_version(&node, RoleType::Timestamp), Some(timestamp));
        refused(node.refresh(), because);
    }
}

#[test]
fn what_is_sound_is_kept_before_the_next_role_is_asked_for() {
    for (role, missing) in [
        (RoleType::Timestamp, "3.snapshot.json"),
        (RoleType::Snapshot, "3.targets.json"),
    ] {
        let (_folder, mut publisher, node) = seen_at_two();
        publisher.raise();
        publisher.publish();
        fs::remove_file(publisher.metadata(missing)).unwrap();
        assert_eq!(told(node.refresh()).0, "unreachable");
        assert_eq!(kept_version(&node, role), Some(3), "{missing}");
        // So nobody can bring the old set after all.
        publisher.timestamp_version = 2;
        publisher.snapshot_version = 2;
        publisher.targets_version = 2;
        publisher.publish();
        refused(node.refresh(), "but version 3 was seen before");
    }
}

#[test]
fn each_role_that_has_expired_stops_the_refresh_and_is_named() {
    for role in BELOW_ROOT {
        let (_folder, mut publisher, node) = seen_at_two();
        publisher.raise();
        dated(&mut publisher, role, -1);
        publisher.publish();
        let (name, words) = told(node.refresh());
        assert_eq!(name, "expired");
        assert!(
            words.contains(&format!("{role} is past its date")),
            "{words}"
        );
        assert_eq!(kept_version(&node, role), Some(2));
    }
}

#[test]
fn a_root_that_has_expired_is_kept_and_nothing_below_it_is_asked_for() {
    let (_folder, mut publisher, node) = seen_at_two();
    publisher.raise();
    publisher.root_version = 2;
    publisher.root_expires = days(-1);
    publisher.publish();
    let (name, words) = told(node.refresh());
    assert_eq!(name, "expired");
    assert!(words.contains("root is past its date"), "{words}");
    assert_eq!(kept_version(&node, RoleType::Root), Some(2));
    assert_eq!(kept_version(&node, RoleType::Timestamp), Some(2));
}

#[test]
fn a_frozen_repository_is_found_out_when_its_last_word_expires() {
    let (_folder, mut publisher, mut node) = seen_at_two();
    node.refresh().unwrap();
    node.set_clock(days(8));
    assert_eq!(told(node.refresh()).0, "expired");
    // What expired on the node still says which versions were seen,
    publisher.timestamp_version = 1;
    publisher.timestamp_expires = days(30);
    publisher.publish();
    refused(node.refresh(), "timestamp is version 1, but version 2");
    // and is no reason to refuse what is newer.
    publisher.timestamp_version = 3;
    publisher.publish();
    node.refresh().unwrap();
}

#[test]
fn a_file_that_was_signed_as_another_role_is_refused() {
    for (role, taken) in [
        (RoleType::Timestamp, RoleType::Snapshot),
        (RoleType::Snapshot, RoleType::Timestamp),
        (RoleType::Targets, RoleType::Snapshot),
        (RoleType::Root, RoleType::Targets),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::of(folder.path(), &["1"]);
        let node = Node::trusting(&publisher);
        // Everything is as it must be, but for what it says that it is.
        publisher.root_version = 2;
        let edit = move |signed: &mut Value| signed["_type"] = json!(taken.to_string());
        publisher.edits.insert(role, Box::new(edit));
        publisher.publish();
        refused(
            node.refresh(),
            &format!("{role} cannot be read: its type is \"{taken}\""),
        );
    }
}

#[test]
fn a_specification_of_the_future_is_refused() {
    let (_folder, mut publisher, node) = seen_at_two();
    publisher.raise();
    let edit = |signed: &mut Value| signed["spec_version"] = json!("2.0.0");
    publisher.edits.insert(RoleType::Snapshot, Box::new(edit));
    publisher.publish();
    refused(node.refresh(), "it follows specification \"2.0.0\"");
}

/// A repository in which two of three keys must sign for `role`.
fn two_of_three(folder: &Path, role: RoleType) -> Publisher {
    let mut publisher = Publisher::of(folder, &["1"]);
    publisher.more_keys.insert(role, vec![key(21), key(22)]);
    publisher.thresholds.insert(role, 2);
    publisher.signers.insert(role, vec![key(22), key(21)]);
    publisher
}

#[test]
fn each_role_needs_as_many_signatures_as_the_root_says() {
    for role in BELOW_ROOT {
        let folder = tempfile::tempdir().unwrap();
        let mut publisher = two_of_three(folder.path(), role);
        publisher.publish();
        Node::trusting(&publisher).refresh().unwrap();
        let stranger = key(99);
        for few in [vec![], vec![key(21)], vec![key(21), stranger]] {
            publisher.signers.insert(role, few);
            publisher.publish();
            let because = format!("{role} is not signed as it must be");
            refused(Node::trusting(&publisher).refresh(), &because);
        }
    }
}

#[test]
fn no_key_counts_twice() {
    for role in BELOW_ROOT {
        let folder = tempfile::tempdir().unwrap();
        let mut publisher = two_of_three(folder.path(), role);
        // The same signature again,
        publisher.signers.insert(role, vec![key(21), key(21)]);
        publisher.publish();
        let because = format!("{role} is not signed as it must be");
        refused(Node::trusting(&publisher).refresh(), &because);
        // even beside enough others,
        let signers = vec![key(21), key(22), key(21)];
        publisher.signers.insert(role, signers);
        publisher.publish();
        refused(Node::trusting(&publisher).refresh(), &because);
        // or a key that the root names for the role again and again.
        publisher.more_keys.insert(role, vec![key(21), key(21)]);
        publisher.signers.insert(role, vec![key(21)]);
        publisher.publish();
        refused(Node::trusting(&publisher).refresh(), &because);
    }
}

#[test]
fn a_key_under_two_ids_is_refused() {
    for role in [RoleType::Root, RoleType::Targets] {
        let folder = tempfile::tempdir().unwrap();
        let mut publisher = two_of_three(folder.path(), role);
        let node = Node::trusting(&publisher);
        publisher.root_version = 2;
        // The same key, and something that nobody reads.
        let other = Key::Ed25519 {
            keyval: Ed25519Key {
                public: key(21).verifying_key().to_bytes().to_vec().into(),
                _extra: HashMap::from([("again".to_owned(), json!(true))]),
            },
            scheme: Ed25519Scheme::Ed25519,
            _extra: HashMap::new(),
        };
        let id = hex::encode(other.key_id().unwrap());
        let other = serde_json::to_value(other).unwrap();
        let name = role.to_string();
        let edit = move |signed: &mut Value| {
            signed["keys"][&id] = other.clone();
            let ids = signed["roles"][&name]["keyids"].as_array_mut().unwrap();
            ids.push(json!(id));
        };
        publisher.edits.insert(RoleType::Root, Box::new(edit));
        publisher.publish();
        let because = format!("{role} is not signed as it must be: one of its keys has two ids");
        refused(node.refresh(), &because);
    }
}

#[test]
fn a_key_under_the_id_of_another_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut publisher = Publisher::of(folder.path(), &["1"]);
    let node = Node::trusting(&publisher);
    publisher.root_version = 2;
    let id = hex::encode(tuf_key(&key(1)).key_id().unwrap().into_vec());
    let edit = move |signed: &mut Value| {
        signed["keys"][&id] = serde_json::to_value(tuf_key(&key(66))).unwrap();
    };
    publisher.edits.insert(RoleType::Root, Box::new(edit));
    publisher.publish();
    refused(node.refresh(), "Invalid key ID");
}

/// Publishes roots up to the fifth, each with a root key of its own, signed by
/// it and the one before; all but the last have expired.
fn chain(publisher: &mut Publisher) {
    for next in 2..=5_u8 {
        let old = publisher.keys[&RoleType::Root].clone();
        let new = key(30 + next);
        publisher.keys.insert(RoleType::Root, new.clone());
        publisher.signers.insert(RoleType::Root, vec![old, new]);
        publisher.root_version = u64::from(next);
        publisher.root_expires = days(if next == 5 { 30 } else { -30 });
        publisher.publish();
    }
}

#[test]
fn a_chain_of_roots_is_followed_to_its_end_even_over_expired_ones() {
    let folder = tempfile::tempdir().unwrap();
    let mut publisher = Publisher::of(folder.path(), &["1"]);
    let node = Node::trusting(&publisher);
    chain(&mut publisher);
    node.refresh().unwrap();
    assert_eq!(kept_version(&node, RoleType::Root), Some(5));
    // And again, from its beginning.
    node.refresh().unwrap();
}

#[test]
fn a_chain_of_roots_is_as_strong_as_each_link() {
    for (signers, version, because) in [
        (vec![key(33)], 3, "root is not signed as it must be"),
        (vec![key(32)], 3, "root is not signed as it must be"),
        (
            vec![key(32), key(33)],
            4,
            "root is version 4, where version 3 belongs",
        ),
        (
            vec![key(32), key(33)],
            2,
            "root is version 2, where version 3 belongs",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::of(folder.path(), &["1"]);
        let node = Node::trusting(&publisher);
        chain(&mut publisher);
        let third = fs::read(publisher.metadata("3.root.json")).unwrap();
        let mut third: Value = serde_json::from_slice(&third).unwrap();
        third["signed"]["version"] = json!(version);
        let third = sign(third["signed"].take(), &signers);
        fs::write(publisher.metadata("3.root.json"), third).unwrap();
        refused(node.refresh(), because);
        assert_eq!(kept_version(&node, RoleType::Root), Some(2));
    }
}

#[test]
fn a_new_threshold_of_the_root_is_one_for_the_old_keys_and_the_new() {
    let folder = tempfile::tempdir().unwrap();
    let mut publisher = two_of_three(folder.path(), RoleType::Root);
    let node = Node::trusting(&publisher);
    publisher.root_version = 2;
    publisher.thresholds.insert(RoleType::Root, 1);
    for (signers, good) in [(vec![key(21)], false), (vec![key(21), key(22)], true)] {
        publisher.signers.insert(RoleType::Root, signers);
        publisher.publish();
        assert_eq!(node.refresh().is_ok(), good);
    }
}

#[test]
fn new_keys_bring_a_node_back_from_versions_that_a_thief_pushed_ahead() {
    // Which keys the publisher changes, and what the thief had pushed.
    let changes = [
        &[RoleType::Timestamp][..],
        &[RoleType::Snapshot],
        &[RoleType::Timestamp, RoleType::Snapshot],
    ];
    for (changed, pushed) in changes
        .into_iter()
        .flat_map(|changed| BELOW_ROOT.map(|pushed| (changed, pushed)))
    {
        let folder = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::of(folder.path(), &["1"]);
        let node = Node::trusting(&publisher);
        *version(&mut publisher, pushed) = u64::MAX;
        publisher.publish();
        node.refresh().unwrap();

        // Without new keys there is no way back.
        publisher.timestamp_version = 2;
        publisher.snapshot_version = 2;
        publisher.targets_version = 2;
        publisher.publish();
        refused(
            node.refresh(),
            "is version 2, but version 18446744073709551615",
        );

        for (role, number) in changed.iter().zip(40..) {
            publisher.keys.insert(*role, key(number));
        }
        if pushed != RoleType::Timestamp {
            publisher.timestamp_version = 3;
        }
        publisher.root_version = 2;
        publisher.publish();
        node.refresh().unwrap();
        assert_eq!(kept_version(&node, pushed), Some(2), "{changed:?} {pushed}");
    }
}

#[test]
fn keys_that_were_changed_long_ago_forget_nothing() {
    let (_folder, mut publisher, node) = seen_at_two();
    publisher.root_version = 2;
    publisher.keys.insert(RoleType::Snapshot, key(40));
    publisher.raise();
    publisher.publish();
    node.refresh().unwrap();
    publisher.timestamp_version = 2;
    publisher.publish();
    refused(node.refresh(), "timestamp is version 2, but version 3");
    // Nor do they if what they sign did not come.
    fs::remove_file(node.kept("snapshot.json")).unwrap();
    refused(node.refresh(), "timestamp is version 2, but version 3");
}

#[test]
fn a_timestamp_of_the_same_version_that_says_something_else_is_passed_over() {
    let (_folder, mut publisher, node) = seen_at_two();
    publisher.targets = Publisher::of(publisher.folder.as_path(), &["1", "2"]).targets;
    publisher.raise();
    publisher.timestamp_version = 2;
    publisher.publish();
    assert_eq!(node.refresh().unwrap().channel.release.as_str(), "1");
    publisher.timestamp_version = 3;
    publisher.publish();
    assert_eq!(node.refresh().unwrap().channel.release.as_str(), "2");
}

#[test]
fn a_snapshot_that_lists_no_targets_any_more_is_refused() {
    let (_folder, mut publisher, node) = seen_at_two();
    let edit = |signed: &mut Value| {
        let targets = signed["meta"]["targets.json"].clone();
        signed["meta"]["old.json"] = targets;
    };
    publisher.raise();
    publisher.edits.insert(RoleType::Snapshot, Box::new(edit));
    publisher.publish();
    node.refresh().unwrap();
    publisher.edits.clear();
    publisher.raise();
    publisher.publish();
    refused(node.refresh(), "snapshot does not list old.json");
    publisher.raise();
    let edit = |signed: &mut Value| signed["meta"] = json!({});
    publisher.edits.insert(RoleType::Snapshot, Box::new(edit));
    publisher.publish();
    refused(node.refresh(), "snapshot does not list targets.json");
}

#[test]
fn kept_files_that_are_damaged_are_fetched_anew() {
    for garbage in [&b""[..], b"{", b"{}", &[0xff; 64], &[b' '; 2 << 20]] {
        for file in [
            "root",
            "timestamp",
            "snapshot",
            "targets",
            "latest_known_time",
        ] {
            let (_folder, mut publisher, node) = seen_at_two();
            fs::write(node.kept(&format!("{file}.json")), garbage).unwrap();
            publisher.raise();
            publisher.publish();
            node.refresh().unwrap();
            assert_eq!(kept_version(&node, RoleType::Targets), Some(3));
        }
    }
}

#[test]
fn a_repository_without_consistent_snapshots_is_read_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let mut publisher = Publisher::of(folder.path(), &["1"]);
    let edit = |signed: &mut Value| signed["consistent_snapshot"] = json!(false);
    publisher.edits.insert(RoleType::Root, Box::new(edit));
    publisher.publish();
    for role in ["snapshot", "targets"] {
        let from = publisher.metadata(&format!("1.{role}.json"));
        fs::rename(from, publisher.metadata(&format!("{role}.json"))).unwrap();
    }
    let targets = folder.path().join("targets");
    for entry in fs::read_dir(&targets).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let (_, plain) = name.split_once('.').unwrap();
        fs::rename(targets.join(&name), targets.join(plain)).unwrap();
    }
    let node = Node::trusting(&publisher);
    assert_eq!(node.release(None).unwrap(), release("1"));
}

#[test]
fn a_target_is_held_against_every_hash_that_is_known_and_there_must_be_one() {
    let (wrong, sha256, sha512) = ("00".repeat(64), digest::<Sha256>, digest::<Sha512>);
    let cases: [(Describe<'_>, bool); 6] = [
        (&|content| json!({ "sha256": sha256(content) }), true),
        (&|content| json!({ "sha512": sha512(content) }), true),
        (
            &|content| json!({ "sha256": sha256(content), "sha512": sha512(content), "x": "" }),
            true,
        ),
        (
            &|content| json!({ "sha256": sha256(content), "sha512": wrong }),
            false,
        ),
        (&|_| json!({ "sha3": wrong }), false),
        (&|_| json!({}), false),
    ];
    for (hashes, good) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::of(folder.path(), &["1"]);
        let mut described = Vec::new();
        publisher.publish();
        for (name, content) in &publisher.targets {
            let file = format!("targets/{}.{name}", sha512(content));
            fs::write(folder.path().join(file), content).unwrap();
            described.push((name.clone(), hashes(content)));
        }
        let edit = move |signed: &mut Value| {
            for (name, hashes) in &described {
                signed["targets"][name]["hashes"] = hashes.clone();
            }
        };
        publisher.edits.insert(RoleType::Targets, Box::new(edit));
        publisher.publish();
        let result = Node::trusting(&publisher).refresh();
        assert_eq!(result.is_ok(), good, "{result:?}");
    }
}

/// Makes hashes of a target, true or not.
type Describe<'a> = &'a dyn Fn(&[u8]) -> Value;

fn digest<D: Digest>(content: &[u8]) -> String {
    hex::encode(D::digest(content))
}
