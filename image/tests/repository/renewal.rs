use std::fs;

use image::repository::{Expiries, KeySet, RefreshError, Refreshed, refresh};
use jiff::Timestamp;
use tough::schema::RoleType;

use crate::fixture::{Site, at};

fn renew(site: &Site, keys: &KeySet, expiries: &Expiries) -> Result<Refreshed, RefreshError> {
    refresh(&mut site.lock(), keys, expiries, Timestamp::now())
}

fn roles(list: &[(RoleType, Timestamp)]) -> Vec<RoleType> {
    list.iter().map(|(role, _)| *role).collect()
}

/// Returns the keys of a machine that has only those of these roles.
fn only(site: &Site, roles: &[&str]) -> KeySet {
    let folder = site.path(&format!("keys-{}", roles.join("-")));
    fs::create_dir(&folder).expect("a folder");
    for name in roles
        .iter()
        .map(|role| format!("{role}-1.pem"))
        .chain(["root.json".to_owned()])
    {
        fs::copy(site.path("keys").join(&name), folder.join(&name)).expect("a key");
    }
    KeySet::load(&folder).expect("keys")
}

#[test]
fn an_expired_timestamp_is_renewed_with_the_timestamp_key_alone() {
    let site = Site::new();
    let expired = Expiries {
        timestamp: at("2020-01-01T00:00:00Z"),
        ..Expiries::default()
    };
    site.publish_image(&site.image("1"), &expired)
        .expect("a release");
    assert_eq!(site.problems(), ["MetadataExpired"]);
    let mut before = site.files();

    let keys = only(&site, &["timestamp"]);
    let refreshed = renew(&site, &keys, &Expiries::default()).expect("renewed");
    assert_eq!(roles(&refreshed.renewed), [RoleType::Timestamp]);
    assert_eq!(refreshed.due, []);
    assert_eq!(site.problems(), [""; 0]);

    let timestamp = site.base().join("metadata/timestamp.json");
    let mut after = site.files();
    assert_ne!(after.remove(&timestamp), before.remove(&timestamp));
    assert!(after == before, "nothing else changed");
}

#[test]
fn a_snapshot_that_would_expire_first_is_renewed_too() {
    let site = Site::new();
    let short = Expiries {
        snapshot: at("1d"),
        ..Expiries::default()
    };
    site.publish_image(&site.image("1"), &short)
        .expect("a release");
    let keys = only(&site, &["snapshot", "timestamp"]);
    let refreshed = renew(&site, &keys, &Expiries::default()).expect("renewed");
    assert_eq!(
        roles(&refreshed.renewed),
        [RoleType::Snapshot, RoleType::Timestamp]
    );
    assert_eq!(refreshed.due, []);
    assert_eq!(site.problems(), [""; 0]);
}

#[test]
fn what_the_keys_at_hand_cannot_renew_is_named_as_due() {
    let site = Site::new();
    let short = Expiries {
        targets: at("1d"),
        snapshot: at("2d"),
        ..Expiries::default()
    };
    site.publish_image(&site.image("1"), &short)
        .expect("a release");
    let keys = only(&site, &["timestamp"]);
    let refreshed = renew(&site, &keys, &Expiries::default()).expect("renewed");
    assert_eq!(roles(&refreshed.renewed), [RoleType::Timestamp]);
    assert_eq!(
        roles(&refreshed.due),
        [RoleType::Targets, RoleType::Snapshot]
    );
    let refreshed = renew(&site, &site.keys, &Expiries::default()).expect("renewed");
    assert_eq!(
        roles(&refreshed.renewed),
        [RoleType::Targets, RoleType::Snapshot, RoleType::Timestamp]
    );
    assert_eq!(refreshed.due, []);
    assert_eq!(site.problems(), [""; 0]);
}

#[test]
fn an_expired_list_of_releases_is_renewed_with_all_keys() {
    let site = Site::new();
    let past = at("2020-01-01T00:00:00Z");
    let expired = Expiries {
        targets: past,
        snapshot: past,
        timestamp: past,
        ..Expiries::default()
    };
    site.publish_image(&site.image("1"), &expired)
        .expect("a release");
    assert_eq!(site.problems(), ["MetadataExpired"]);
    renew(&site, &site.keys, &Expiries::default()).expect("renewed");
    assert_eq!(site.problems(), [""; 0]);
    assert_eq!(site.current().as_deref(), Some("1"));
}

#[test]
fn a_damaged_repository_is_not_given_a_fresh_timestamp() {
    let site = Site::with(&["1"]);
    crate::fixture::change(&site.file("1.snapshot.json"), |bytes| bytes[30] ^= 1);
    let before = site.files();
    let error = renew(&site, &site.keys, &Expiries::default()).expect_err("damaged");
    assert!(matches!(error, RefreshError::Load { .. }), "{error:?}");
    assert!(site.files() == before);
}
