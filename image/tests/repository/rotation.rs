use std::fs;
use std::num::NonZeroU64;

use image::repository::{Expiries, KeySet, RotateError, SignError, rotate_root, verify};
use jiff::Timestamp;

use crate::fixture::{Site, at};

fn number(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).expect("not zero")
}

#[test]
fn nodes_with_the_old_root_of_trust_follow_to_the_new_keys() {
    let mut site = Site::with(&["1"]);
    let old_root = site.keys.root_of_trust().to_vec();
    let next = Site::new();
    let now = Timestamp::now();
    let rotated = rotate_root(
        &mut site.lock(),
        &site.keys,
        &next.keys,
        &Expiries::default(),
        now,
    );
    assert_eq!(rotated.expect("rotated"), number(2));

    site.keys = KeySet::load(&next.path("keys")).expect("the new keys");
    site.publish("2").expect("a release by the new keys");
    for root in [&old_root[..], site.keys.root_of_trust()] {
        let report = verify(&site.base(), root).expect("a verdict");
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!(report.sound.len(), 2);
    }
}

#[test]
fn the_old_keys_have_no_say_once_they_are_replaced() {
    let site = Site::with(&["1"]);
    let next = Site::new();
    let now = Timestamp::now();
    rotate_root(
        &mut site.lock(),
        &site.keys,
        &next.keys,
        &Expiries::default(),
        now,
    )
    .expect("rotated");
    let error = site.publish("2").expect_err("replaced");
    let text = crate::publishing::chain(&error);
    assert!(
        text.contains("the targets role needs 1 of its keys"),
        "{text}"
    );
    assert_eq!(site.problems(), [""; 0]);
}

#[test]
fn a_thief_without_a_quorum_of_root_keys_cannot_rotate() {
    let mut site = Site::with(&["1"]);
    for name in ["root-1.pem", "root-2.pem"] {
        fs::remove_file(site.path("keys").join(name)).expect("a key");
    }
    // A copy of the one that is left is no second signature.
    fs::copy(site.path("keys/root-3.pem"), site.path("keys/root-1.pem")).expect("a copy");
    site.keys = KeySet::load(&site.path("keys")).expect("the keys that are left");
    let before = site.files();
    let thief = Site::new();
    let now = Timestamp::now();
    let error = rotate_root(
        &mut site.lock(),
        &site.keys,
        &thief.keys,
        &Expiries::default(),
        now,
    )
    .expect_err("one of two signatures");
    assert!(
        matches!(error, RotateError::Sign(SignError::TooFewKeys { .. })),
        "{error:?}"
    );
    assert!(site.files() == before);
}

#[test]
fn a_root_file_gets_a_later_expiry_with_the_same_keys() {
    let mut site = Site::with(&["1"]);
    let soon = Expiries {
        root: at("2020-01-01T00:00:00Z"),
        ..Expiries::default()
    };
    let now = Timestamp::now();
    let rotate = |keys: &KeySet, expiries: &Expiries| {
        rotate_root(&mut site.lock(), keys, keys, expiries, now).expect("rotated")
    };
    assert_eq!(rotate(&site.keys, &soon), number(2));
    assert_eq!(site.problems(), ["MetadataExpired"]);
    // The key folder has the new root file, so go on from there.
    let keys = KeySet::load(&site.path("keys")).expect("keys");
    assert_eq!(rotate(&keys, &Expiries::default()), number(3));
    assert_eq!(site.problems(), [""; 0]);
    site.keys = KeySet::load(&site.path("keys")).expect("keys");
    site.publish("2").expect("a release");
    assert_eq!(site.problems(), [""; 0]);
}

#[test]
fn a_quorum_of_root_keys_alone_is_enough_for_a_later_expiry() {
    let site = Site::with(&["1"]);
    let folder = site.path("safe");
    fs::create_dir(&folder).expect("a folder");
    for name in ["root-1.pem", "root-3.pem", "root.json"] {
        fs::copy(site.path("keys").join(name), folder.join(name)).expect(name);
    }
    let keys = KeySet::load(&folder).expect("two root keys");
    let now = Timestamp::now();
    let rotated = rotate_root(&mut site.lock(), &keys, &keys, &Expiries::default(), now);
    assert_eq!(rotated.expect("rotated"), number(2));
    assert_eq!(site.problems(), [""; 0]);
}
