use std::fs;
use std::os::unix::fs::PermissionsExt;

use image::repository::{GenerateError, KeyPlan, KeySet, LoadKeysError, Quorum, generate};
use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use crate::fixture::{Site, plan};

#[test]
fn keys_are_never_overwritten() {
    let site = Site::new();
    let before = fs::read(site.path("keys/targets-1.pem")).expect("a key");
    let error = generate(&site.path("keys"), &plan(), Timestamp::now()).expect_err("taken");
    assert!(matches!(error, GenerateError::Exists { .. }), "{error:?}");
    assert_eq!(
        fs::read(site.path("keys/targets-1.pem")).expect("a key"),
        before
    );
}

#[test]
fn only_their_owner_can_read_the_keys() {
    let site = Site::new();
    let mode = |name: &str| {
        let metadata = fs::metadata(site.path(name)).expect(name);
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("keys"), 0o700);
    let mut keys = 0;
    for entry in fs::read_dir(site.path("keys")).expect("keys") {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("a name");
        if name.ends_with(".pem") {
            assert_eq!(mode(&format!("keys/{name}")), 0o600, "{name}");
            keys += 1;
        }
    }
    assert_eq!(keys, 6);
}

#[test]
fn a_key_that_others_can_read_is_not_used() {
    let site = Site::new();
    let path = site.path("keys/snapshot-1.pem");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a key");
    let error = KeySet::load(&site.path("keys")).expect_err("exposed");
    assert!(
        matches!(error, LoadKeysError::Exposed { mode: 0o644, .. }),
        "{error:?}"
    );
}

#[test]
fn a_key_file_without_a_key_is_named() {
    let site = Site::new();
    let path = site.path("keys/snapshot-1.pem");
    fs::write(
        &path,
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    )
    .expect("a file");
    let error = KeySet::load(&site.path("keys")).expect_err("no key");
    assert!(error.to_string().contains("snapshot-1.pem"), "{error}");
}

#[test]
fn the_root_of_trust_says_how_many_of_which_keys_must_sign() {
    let site = Site::new();
    let root: Value = serde_json::from_slice(site.keys.root_of_trust()).expect("JSON");
    let signed = &root["signed"];
    assert_eq!(signed["version"], 1);
    assert_eq!(signed["consistent_snapshot"], true);
    for (role, threshold, keys) in [
        ("root", 2, 3),
        ("targets", 1, 1),
        ("snapshot", 1, 1),
        ("timestamp", 1, 1),
    ] {
        assert_eq!(signed["roles"][role]["threshold"], threshold, "{role}");
        let ids = signed["roles"][role]["keyids"].as_array().expect(role);
        assert_eq!(ids.len(), keys, "{role}");
    }
    assert_eq!(signed["keys"].as_object().expect("keys").len(), 6);
    assert_eq!(root["signatures"].as_array().expect("signatures").len(), 3);
}

#[test]
fn a_threshold_that_cannot_be_met_is_refused_before_any_key_is_made() {
    let folder = TempDir::new().expect("a folder");
    for quorum in [
        Quorum {
            threshold: 3,
            keys: 2,
        },
        Quorum {
            threshold: 0,
            keys: 1,
        },
    ] {
        let plan = KeyPlan {
            snapshot: quorum,
            ..plan()
        };
        let error = generate(&folder.path().join("keys"), &plan, Timestamp::now());
        assert!(
            matches!(error, Err(GenerateError::Quorum { .. })),
            "{error:?}"
        );
        assert!(!folder.path().join("keys").exists());
    }
}

#[test]
fn a_root_file_that_was_altered_is_no_root_of_trust() {
    let site = Site::new();
    let path = site.path("keys/root.json");
    let text = fs::read_to_string(&path).expect("the root file");
    fs::write(&path, text.replace("\"threshold\": 2", "\"threshold\": 1")).expect("a file");
    let error = KeySet::load(&site.path("keys")).expect_err("altered");
    assert!(matches!(error, LoadKeysError::Root { .. }), "{error:?}");
}
