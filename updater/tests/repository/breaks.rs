//! Metadata that is sound but for one thing: each such break is refused by name.

use std::fs;
use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp as Moment};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tough::schema::RoleType;
use updater::config::Repository;

use crate::metadata::{Node, told};
use crate::publisher::{Publisher, days, key, sign, tuf_key};
use crate::web::{Server, sound, status};

const ROLES: [RoleType; 4] = [
    RoleType::Root,
    RoleType::Timestamp,
    RoleType::Snapshot,
    RoleType::Targets,
];

/// What is broken, and what is said of it.
struct Break {
    name: &'static str,
    role: RoleType,
    how: How,
    told: &'static str,
}

/// Before the file is signed, or afterwards.
enum How {
    Signed(fn(&mut Value)),
    Sent(fn(Value) -> String),
}

const BREAKS: [Break; 19] = [
    Break {
        name: "a threshold of nobody",
        role: RoleType::Root,
        how: How::Signed(|root| root["roles"]["timestamp"]["threshold"] = json!(0)),
        told: "root cannot be read",
    },
    Break {
        name: "a threshold below nobody",
        role: RoleType::Root,
        how: How::Signed(|root| root["roles"]["timestamp"]["threshold"] = json!(-1)),
        told: "root cannot be read",
    },
    Break {
        name: "a threshold in words",
        role: RoleType::Root,
        how: How::Signed(|root| root["roles"]["timestamp"]["threshold"] = json!("1")),
        told: "root cannot be read",
    },
    Break {
        name: "no keys for the root",
        role: RoleType::Root,
        how: How::Signed(|root| without(&mut root["roles"], "root")),
        told: "root is not signed as it must be",
    },
    Break {
        name: "no keys for the timestamp",
        role: RoleType::Root,
        how: How::Signed(|root| without(&mut root["roles"], "timestamp")),
        told: "timestamp is not signed as it must be",
    },
    Break {
        name: "no keys for the snapshot",
        role: RoleType::Root,
        how: How::Signed(|root| without(&mut root["roles"], "snapshot")),
        told: "snapshot is not signed as it must be",
    },
    Break {
        name: "no keys for the targets",
        role: RoleType::Root,
        how: How::Signed(|root| without(&mut root["roles"], "targets")),
        told: "targets is not signed as it must be",
    },
    Break {
        name: "a key that is there twice, the second time as another",
        role: RoleType::Root,
        how: How::Sent(|mut root| {
            let keys = root["signed"]["keys"].as_object_mut().unwrap();
            let (id, sound) = keys.iter().next().unwrap();
            let (id, sound) = (id.clone(), sound.to_string());
            let other = sound.replace("\"scheme\"", "\"x\":1,\"scheme\"");
            let twice = format!("\"{id}\":{sound},\"{id}\":{other}");
            let (text, once) = (root.to_string(), format!("\"{id}\":{sound}"));
            assert!(text.contains(&once));
            text.replace(&once, &twice)
        }),
        told: "root cannot be read: Invalid key ID",
    },
    Break {
        name: "no snapshot in the timestamp",
        role: RoleType::Timestamp,
        how: How::Signed(|timestamp| without(&mut timestamp["meta"], "snapshot.json")),
        told: "timestamp does not list snapshot.json",
    },
    Break {
        name: "another hash of the snapshot",
        role: RoleType::Timestamp,
        how: How::Signed(|timestamp| {
            timestamp["meta"]["snapshot.json"]["hashes"]["sha256"] = json!("00".repeat(32));
        }),
        told: "snapshot.json is not the file that is described: its hash differs",
    },
    Break {
        name: "a greater length of the snapshot",
        role: RoleType::Timestamp,
        how: How::Signed(|timestamp| {
            timestamp["meta"]["snapshot.json"]["length"] = json!(10_000);
        }),
        told: "snapshot.json is not the file that is described: its length differs",
    },
    Break {
        name: "another version of the snapshot",
        role: RoleType::Timestamp,
        how: How::Signed(|timestamp| {
            timestamp["meta"]["snapshot.json"] = json!({ "version": 7 });
        }),
        told: "snapshot is version 1, where version 7 belongs",
    },
    Break {
        name: "another version of the targets",
        role: RoleType::Snapshot,
        how: How::Signed(|snapshot| snapshot["meta"]["targets.json"] = json!({ "version": 7 })),
        told: "targets is version 1, where version 7 belongs",
    },
    Break {
        name: "a version between two",
        role: RoleType::Timestamp,
        how: How::Sent(|timestamp| with_version(timestamp, "1.5")),
        told: "timestamp cannot be read",
    },
    Break {
        name: "a version past the last",
        role: RoleType::Timestamp,
        how: How::Sent(|timestamp| with_version(timestamp, "18446744073709551616")),
        told: "timestamp cannot be read",
    },
    Break {
        name: "more behind the file",
        role: RoleType::Timestamp,
        how: How::Sent(|timestamp| format!("{timestamp}{{}}")),
        told: "timestamp cannot be read: trailing characters",
    },
    Break {
        name: "a signature that is no number",
        role: RoleType::Timestamp,
        how: How::Sent(|mut timestamp| {
            timestamp["signatures"][0]["sig"] = json!("it is me");
            timestamp.to_string()
        }),
        told: "timestamp cannot be read",
    },
    Break {
        name: "a signature of nothing",
        role: RoleType::Timestamp,
        how: How::Sent(|mut timestamp| {
            timestamp["signatures"][0]["sig"] = json!("");
            timestamp.to_string()
        }),
        told: "timestamp is not signed as it must be",
    },
    Break {
        name: "no signature",
        role: RoleType::Timestamp,
        how: How::Sent(|mut timestamp| {
            timestamp["signatures"] = json!([]);
            timestamp.to_string()
        }),
        told: "timestamp is not signed as it must be",
    },
];

fn without(map: &mut Value, name: &str) {
    map.as_object_mut().unwrap().remove(name).unwrap();
}

/// A number that JSON has and we have not cannot be signed.
fn with_version(mut file: Value, version: &str) -> String {
    file["signed"]["version"] = json!(987_654_321);
    file.to_string().replace("987654321", version)
}

/// A repository whose second root and first files of the other roles are new to the node.
fn fresh() -> (TempDir, Publisher, Node) {
    let folder = tempfile::tempdir().unwrap();
    let mut publisher = Publisher::of(folder.path(), &["1"]);
    let node = Node::trusting(&publisher);
    publisher.root_version = 2;
    (folder, publisher, node)
}

/// Publishes, with a file for each version that a break tells of.
fn publish(publisher: &Publisher) {
    publisher.publish();
    for role in ["snapshot", "targets"] {
        let sound = publisher.metadata(&format!("1.{role}.json"));
        fs::copy(sound, publisher.metadata(&format!("7.{role}.json"))).unwrap();
    }
}

fn file_of(publisher: &Publisher, role: RoleType) -> PathBuf {
    match role {
        RoleType::Root => publisher.root_file(),
        RoleType::Timestamp
        | RoleType::Snapshot
        | RoleType::Targets
        | RoleType::DelegatedTargets => publisher.metadata(&format!("{role}.json")),
    }
}

#[track_caller]
fn assert_refused(node: &Node, because: &str, name: &str) {
    let (kind, words) = told(node.refresh());
    assert_eq!(kind, "untrusted", "{name}: {words}");
    assert!(words.contains(because), "{name}: {words}");
}

#[test]
fn each_break_is_refused_by_name() {
    // Without any, nothing is.
    let (_folder, publisher, node) = fresh();
    publish(&publisher);
    node.refresh().unwrap();
    for each in BREAKS {
        let (_folder, mut publisher, node) = fresh();
        if let How::Signed(edit) = each.how {
            publisher.edits.insert(each.role, Box::new(edit));
        }
        publish(&publisher);
        if let How::Sent(change) = each.how {
            let file = file_of(&publisher, each.role);
            let sound = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            fs::write(file, change(sound)).unwrap();
        }
        assert_refused(&node, each.told, each.name);
    }
}

#[test]
fn what_is_no_version_no_date_or_no_specification_is_refused_in_each_role() {
    for role in ROLES {
        for (field, value) in [
            ("version", json!(0)),
            ("version", json!(-1)),
            ("version", json!("1")),
            ("expires", json!("tomorrow")),
            ("expires", json!(4_102_444_800_u64)),
            ("expires", Value::Null),
            ("spec_version", json!("2.0.0")),
            ("spec_version", Value::Null),
        ] {
            let (_folder, mut publisher, node) = fresh();
            let name = format!("{field} {value}");
            let edit = move |signed: &mut Value| match value.is_null() {
                true => without(signed, field),
                false => signed[field] = value.clone(),
            };
            publisher.edits.insert(role, Box::new(edit));
            publish(&publisher);
            assert_refused(&node, &format!("{role} cannot be read"), &name);
        }
    }
}

#[test]
fn a_chain_of_more_roots_than_a_node_follows_is_refused() {
    let (_folder, mut publisher, node) = fresh();
    publisher.publish();
    for version in 3..=258 {
        publisher.root_version = version;
        fs::write(publisher.root_file(), publisher.root()).unwrap();
    }
    assert_refused(&node, "it has more than 256 newer roots", "roots");
}

#[test]
fn metadata_expires_at_its_date_and_not_before() {
    let (_folder, mut publisher, mut node) = fresh();
    let end: Moment = days(2);
    publisher.timestamp_expires = end;
    publisher.publish();
    node.set_clock(end - SignedDuration::from_nanos(1));
    node.refresh().unwrap();
    node.set_clock(end);
    assert_eq!(told(node.refresh()).0, "expired");
}

#[test]
fn a_target_that_is_longer_than_was_signed_is_left_in_mid_flight() {
    let (folder, publisher, mut node) = fresh();
    publisher.publish();
    let served = folder.path().to_owned();
    let server = Server::start(move |request, stream| {
        let path = request.path.trim_start_matches('/');
        match fs::read(served.join(path)) {
            Ok(mut content) => {
                if path.ends_with("channel.json") {
                    content.push(b' ');
                }
                sound(request, stream, &content)
            }
            Err(_) => status(stream, "404 Not Found"),
        }
    });
    node.settings.repositories = vec![Repository::parse(server.address()).unwrap()];
    let length = publisher.targets.last().unwrap().1.len();
    assert_refused(&node, &format!("is larger than {length} bytes"), "target");
}

/// A role that the targets delegate the channel's file to.
struct Delegation {
    by: Value,
    team: Value,
    /// What the snapshot says of it.
    listed: Value,
    signers: Vec<SigningKey>,
}

impl Delegation {
    fn sound(publisher: &Publisher) -> Self {
        let id = hex::encode(tuf_key(&key(70)).key_id().unwrap());
        let (channel, content) = publisher.targets.last().unwrap();
        let target = json!({
            "length": content.len(), "hashes": { "sha256": hex::encode(Sha256::digest(content)) },
        });
        Self {
            by: json!({
                "keys": { id.clone(): tuf_key(&key(70)) },
                "roles": [{
                    "name": "team", "keyids": [id], "threshold": 1,
                    "paths": ["*"], "terminating": false,
                }],
            }),
            team: json!({
                "_type": "targets", "spec_version": "1.0.31", "version": 1, "expires": days(3),
                "targets": { channel: target },
            }),
            listed: json!({ "version": 1 }),
            signers: vec![key(70)],
        }
    }

    fn publish(self, publisher: &mut Publisher) {
        let channel = publisher.targets.last().unwrap().0.clone();
        let (by, listed) = (self.by, self.listed);
        let file = format!("{}.team.json", listed["version"]);
        let delegates = move |signed: &mut Value| {
            without(&mut signed["targets"], &channel);
            signed["delegations"] = by.clone();
        };
        let lists = move |signed: &mut Value| signed["meta"]["team.json"] = listed.clone();
        publisher
            .edits
            .insert(RoleType::Targets, Box::new(delegates));
        publisher.edits.insert(RoleType::Snapshot, Box::new(lists));
        publisher.publish();
        fs::write(publisher.metadata(&file), sign(self.team, &self.signers)).unwrap();
    }
}

/// What is broken about a delegation, and what is said of it.
type BrokenDelegation = (&'static str, fn(&mut Delegation), &'static str);

const DELEGATIONS: [BrokenDelegation; 9] = [
    (
        "another version than the snapshot lists",
        |it| it.team["version"] = json!(2),
        "team is version 2, where version 1 belongs",
    ),
    (
        "a signature of a stranger",
        |it| it.signers = vec![key(71)],
        "team is not signed as it must be",
    ),
    (
        "two signatures of one",
        |it| {
            it.by["roles"][0]["threshold"] = json!(2);
            it.signers = vec![key(70), key(70)];
        },
        "team is not signed as it must be",
    ),
    (
        "one key that is named twice",
        |it| {
            let id = it.by["roles"][0]["keyids"][0].clone();
            it.by["roles"][0]["keyids"] = json!([id, id]);
            it.by["roles"][0]["threshold"] = json!(2);
        },
        "team is not signed as it must be",
    ),
    (
        "a threshold of nobody",
        |it| it.by["roles"][0]["threshold"] = json!(0),
        "targets cannot be read",
    ),
    (
        "a key under the id of another",
        |it| {
            let id = it.by["roles"][0]["keyids"][0].as_str().unwrap().to_owned();
            it.by["keys"][id] = json!(tuf_key(&key(71)));
        },
        "targets cannot be read: Invalid key ID",
    ),
    (
        "no names at all",
        |it| without(&mut it.by["roles"][0], "paths"),
        "targets cannot be read",
    ),
    (
        "names of two kinds",
        |it| it.by["roles"][0]["path_hash_prefixes"] = json!([""]),
        "targets cannot be read",
    ),
    (
        "the type of another role",
        |it| it.team["_type"] = json!("snapshot"),
        "team cannot be read: its type is \"snapshot\"",
    ),
];

#[test]
fn each_break_of_a_delegation_is_refused_by_name() {
    let (_folder, mut publisher, node) = fresh();
    Delegation::sound(&publisher).publish(&mut publisher);
    node.refresh().unwrap();
    for (name, spoil, because) in DELEGATIONS {
        let (_folder, mut publisher, node) = fresh();
        let mut delegation = Delegation::sound(&publisher);
        spoil(&mut delegation);
        delegation.publish(&mut publisher);
        assert_refused(&node, because, name);
    }
}

#[test]
fn a_delegated_role_expires_and_does_not_go_back() {
    let (_folder, mut publisher, node) = fresh();
    let at = |publisher: &mut Publisher, version: u64, expires: Moment| {
        let mut delegation = Delegation::sound(publisher);
        delegation.team["version"] = json!(version);
        delegation.team["expires"] = json!(expires);
        delegation.listed = json!({ "version": version });
        delegation.publish(publisher);
    };
    at(&mut publisher, 2, days(3));
    node.refresh().unwrap();
    publisher.raise();
    at(&mut publisher, 1, days(3));
    let because = "team.json is version 1, but version 2 was seen before";
    assert_refused(&node, because, "back");
    publisher.raise();
    at(&mut publisher, 3, days(-1));
    let (kind, words) = told(node.refresh());
    assert_eq!(kind, "expired");
    assert!(words.contains("team is past its date"), "{words}");
}
