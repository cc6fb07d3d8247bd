//! What has been done to a repository, and the name it is refused by.

use std::collections::HashMap;
use std::fs;
use std::num::NonZeroU64;
use std::path::PathBuf;

use image::repository::{Expiries, Problem, verify};
use release::{Channel, Digest, Release};
use sha2::Digest as _;
use tough::editor::RepositoryEditor;
use tough::key_source::{KeySource, LocalKeySource};
use tough::schema::{Hashes, RoleType, Target};

use crate::fixture::{BLOCKS, Site, at, build, change, stable, version};

pub(crate) fn release_file(site: &Site, version: &str) -> Release {
    let bytes = fs::read(site.file(&format!(".{version}.release.json"))).expect("the release");
    Release::parse(&bytes).expect("a release")
}

#[test]
fn a_damaged_blob_is_refused_by_the_name_of_its_damage() {
    type Damage = fn(&PathBuf);
    let table: [(&str, Damage); 4] = [
        ("BlobCorrupt", |path| {
            change(path, |bytes| *bytes.last_mut().expect("a byte") ^= 0x80)
        }),
        ("BlobCorrupt", |path| change(path, |bytes| bytes.push(0))),
        ("BlobTruncated", |path| {
            change(path, |bytes| bytes.truncate(bytes.len() - 1))
        }),
        ("BlobMissing", |path| fs::remove_file(path).expect("a blob")),
    ];
    let site = Site::with(&["1", "2", "3"]);
    let release = release_file(&site, "2");
    for (kind, blob) in release.blobs.each() {
        let path = site.base().join(blob.path().to_string());
        let content = fs::read(&path).expect(kind);
        for (expected, damage) in table {
            damage(&path);
            let report = site.verify();
            let [problem] = &report.problems[..] else {
                panic!("{:?}", report.problems)
            };
            assert_eq!(problem.name(), expected, "{kind}");
            let text = problem.to_string();
            assert!(
                text.contains(&format!("the {kind} of version 2 ")),
                "{text}"
            );
            assert_eq!(report.sound, [version("1"), version("3")]);
            fs::write(&path, &content).expect(kind);
        }
    }
    assert_eq!(site.problems(), [""; 0]);
}

#[test]
fn one_flipped_bit_in_any_signed_file_is_noticed() {
    let site = Site::with(&["1", "2"]);
    let mut flipped = 0;
    for (name, expected) in [
        ("metadata/timestamp.json", "MetadataUntrusted"),
        ("metadata/2.snapshot.json", "MetadataUntrusted"),
        ("metadata/2.targets.json", "MetadataUntrusted"),
        (".2.release.json", "TargetCorrupt"),
        (".1.release.json", "TargetCorrupt"),
    ] {
        let path = site.file(name);
        let content = fs::read(&path).expect(name);
        // `tough` does not read this field but puts in what it must be when it
        // checks the signature, so a change to it has no meaning.
        let tag = br#""_type": "timestamp""#;
        let tag_at = content.windows(tag.len()).position(|bytes| bytes == tag);
        let tag = tag_at.map_or(0..0, |at| at..at + tag.len());
        for at in (0..content.len())
            .step_by(13)
            .filter(|at| !tag.contains(at))
        {
            let mut bytes = content.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).expect(name);
            let problems = site.problems();
            assert!(
                problems.contains(&expected),
                "byte {at} of {name}: {problems:?}"
            );
            flipped += 1;
        }
        fs::write(&path, content).expect(name);
    }
    assert!(flipped > 200, "{flipped}");
    assert_eq!(site.problems(), [""; 0]);
}

#[test]
fn metadata_that_was_swapped_removed_or_blown_up_is_refused() {
    type Damage = fn(&Site);
    let table: [(&str, &str, Damage); 8] = [
        ("an older snapshot", "MetadataUntrusted", |site| {
            copy(site, "1.snapshot.json", "2.snapshot.json")
        }),
        ("an older list", "MetadataUntrusted", |site| {
            copy(site, "1.targets.json", "2.targets.json")
        }),
        ("a snapshot for a timestamp", "MetadataUntrusted", |site| {
            copy(site, "2.snapshot.json", "timestamp.json")
        }),
        ("no timestamp", "MetadataMissing", |site| {
            remove(site, "timestamp.json")
        }),
        ("no snapshot", "MetadataMissing", |site| {
            remove(site, "2.snapshot.json")
        }),
        ("no list", "MetadataMissing", |site| {
            remove(site, "2.targets.json")
        }),
        ("an endless timestamp", "MetadataUntrusted", |site| {
            change(&metadata(site, "timestamp.json"), |bytes| {
                bytes.resize(3 << 20, b' ')
            });
        }),
        ("a root file from nowhere", "MetadataUntrusted", |site| {
            fs::write(metadata(site, "2.root.json"), "{}").expect("a file");
        }),
    ];
    for (what, expected, damage) in table {
        let site = Site::with(&["1", "2"]);
        damage(&site);
        assert_eq!(site.problems(), [expected], "{what}");
    }
}

fn metadata(site: &Site, name: &str) -> PathBuf {
    site.base().join("metadata").join(name)
}

fn copy(site: &Site, from: &str, to: &str) {
    fs::copy(metadata(site, from), metadata(site, to)).expect(from);
}

fn remove(site: &Site, name: &str) {
    fs::remove_file(metadata(site, name)).expect(name);
}

#[test]
fn a_missing_target_is_refused() {
    for name in [".2.release.json", ".1.release.json"] {
        let site = Site::with(&["1", "2"]);
        fs::remove_file(site.file(name)).expect(name);
        assert_eq!(site.problems(), ["TargetCorrupt"], "{name}");
    }
}

#[test]
fn expired_metadata_is_refused_and_its_role_named() {
    let past = at("2020-01-01T00:00:00Z");
    let sound = Expiries::default();
    for (role, expiries) in [
        (
            RoleType::Targets,
            Expiries {
                targets: past,
                ..sound
            },
        ),
        (
            RoleType::Snapshot,
            Expiries {
                snapshot: past,
                ..sound
            },
        ),
        (
            RoleType::Timestamp,
            Expiries {
                timestamp: past,
                ..sound
            },
        ),
    ] {
        let site = Site::new();
        site.publish_image(&site.image("1"), &expiries)
            .expect("a release");
        let report = site.verify();
        let [Problem::MetadataExpired { role: found }] = &report.problems[..] else {
            panic!("{:?}", report.problems);
        };
        assert_eq!(*found, role);
    }
}

#[test]
fn a_repository_signed_by_a_stranger_is_refused() {
    let node = Site::new();
    let stranger = Site::with(&["1"]);
    assert_eq!(stranger.problems(), [""; 0]);
    let report = verify(&stranger.base(), node.keys.root_of_trust()).expect("a verdict");
    let [problem] = &report.problems[..] else {
        panic!("{:?}", report.problems)
    };
    assert_eq!(problem.name(), "MetadataUntrusted");
    assert!(report.sound.is_empty() && report.channels.is_empty());
}

/// Signs whatever is asked for, as a publisher that lost its mind would: with
/// the right keys, and by `tough`'s own editor instead of ours.
pub(crate) fn sign(site: &Site, targets: &[(&str, Vec<u8>)]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let far = "2100-01-01T00:00:00Z".parse().expect("a moment");
    let one = NonZeroU64::MIN;
    runtime.block_on(async {
        let root = site.path("keys/root.json");
        let mut editor = RepositoryEditor::new(&root).await.expect("an editor");
        editor
            .targets_version(one)
            .expect("targets")
            .targets_expires(far)
            .expect("targets");
        editor.snapshot_version(one).snapshot_expires(far);
        editor.timestamp_version(one).timestamp_expires(far);
        let folder = site.base().join("targets");
        fs::create_dir_all(&folder).expect("a folder");
        for (name, bytes) in targets {
            let sha256 = sha2::Sha256::digest(bytes);
            fs::write(
                folder.join(format!("{}.{name}", hex::encode(sha256))),
                bytes,
            )
            .expect(name);
            let target = Target {
                length: bytes.len() as u64,
                hashes: Hashes {
                    sha256: sha256.to_vec().into(),
                    _extra: HashMap::new(),
                },
                custom: HashMap::new(),
                _extra: HashMap::new(),
            };
            editor.add_target(*name, target).expect("a target");
        }
        let keys: Vec<Box<dyn KeySource>> = ["targets", "snapshot", "timestamp"]
            .map(|role| -> Box<dyn KeySource> {
                Box::new(LocalKeySource {
                    path: der(site, role),
                })
            })
            .into();
        let signed = editor.sign(&keys).await.expect("signed");
        signed
            .write(site.base().join("metadata"))
            .await
            .expect("written");
    });
}

/// `tough` reads keys of this kind from DER only.
fn der(site: &Site, role: &str) -> PathBuf {
    use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
    let pem = fs::read_to_string(site.path(&format!("keys/{role}-1.pem"))).expect("a key");
    let key = ed25519_dalek::SigningKey::from_pkcs8_pem(&pem).expect("a key");
    let path = site.path(&format!("{role}.der"));
    fs::write(&path, key.to_pkcs8_der().expect("DER").as_bytes()).expect("a file");
    path
}

/// Returns the release of an image, whose blobs are put in place.
fn release_of(site: &Site, version: &str) -> Release {
    let other = Site::with(&[version]);
    for (path, content) in other.files() {
        if path.to_string_lossy().contains("/blobs/") {
            let folder = site.base().join("blobs");
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(path.file_name().expect("a name")), content).expect("a blob");
        }
    }
    release_file(&other, version)
}

fn channel_of(release: &Release) -> Vec<u8> {
    let version = release.version.clone();
    let channel = Channel {
        channel: stable(),
        release: version.clone(),
        releases: vec![version],
        rollout: None,
    };
    channel.to_bytes().expect("a channel")
}

#[test]
fn what_another_tuf_implementation_signed_is_read_the_same() {
    let site = Site::new();
    let release = release_of(&site, "1");
    let file = release.to_bytes().expect("a file");
    sign(
        &site,
        &[
            ("1.release.json", file),
            ("stable.channel.json", channel_of(&release)),
        ],
    );
    assert_eq!(site.problems(), [""; 0]);
    assert_eq!(site.current().as_deref(), Some("1"));
    // And ours go on from there.
    site.publish("2").expect("a release");
    assert_eq!(site.problems(), [""; 0]);
    assert_eq!(site.verify().sound.len(), 2);
}

#[test]
fn a_duly_signed_release_is_refused_when_its_blobs_do_not_belong_together() {
    let site = Site::new();
    let (one, two) = (release_of(&site, "1"), release_of(&site, "2"));
    let mut mixed = one.clone();
    mixed.blobs.root = two.blobs.root;
    sign(
        &site,
        &[("1.release.json", mixed.to_bytes().expect("a file"))],
    );
    assert_eq!(site.problems(), ["RootHashMismatch"]);
    mixed = one.clone();
    mixed.blobs.uki = two.blobs.uki;
    sign(
        &site,
        &[("1.release.json", mixed.to_bytes().expect("a file"))],
    );
    assert_eq!(site.problems(), ["UkiMismatch"]);
    mixed = one.clone();
    mixed.root_hash = two.root_hash;
    sign(
        &site,
        &[("1.release.json", mixed.to_bytes().expect("a file"))],
    );
    assert_eq!(site.problems(), ["RootHashMismatch", "UkiMismatch"]);
    mixed = one;
    mixed.verity.salt = release::Salt::new([8; 32]).expect("a salt");
    sign(
        &site,
        &[("1.release.json", mixed.to_bytes().expect("a file"))],
    );
    assert_eq!(site.problems(), ["RootHashMismatch"]);
}

#[test]
fn a_duly_signed_target_is_refused_when_it_is_not_what_its_name_says() {
    let site = Site::new();
    let release = release_of(&site, "1");
    let file = release.to_bytes().expect("a file");
    let channel = channel_of(&release);
    type Content<'a> = (&'a str, Vec<u8>);
    let padded = |content: &[u8]| {
        let mut content = content.to_vec();
        content.resize(70_000, b' ');
        content
    };
    let table: [(&str, &[Content]); 6] = [
        ("TargetMisnamed", &[("2.release.json", file.clone())]),
        ("TargetBroken", &[("1.release.json", b"{}".to_vec())]),
        // Refused for its size alone, before it is read.
        ("TargetCorrupt", &[("1.release.json", padded(&file))]),
        (
            "TargetMisnamed",
            &[
                ("1.release.json", file.clone()),
                ("beta.channel.json", channel.clone()),
            ],
        ),
        (
            "TargetBroken",
            &[
                ("1.release.json", file),
                ("beta.channel.json", b"[]".to_vec()),
            ],
        ),
        ("ReleaseMissing", &[("stable.channel.json", channel)]),
    ];
    for (expected, targets) in table {
        sign(&site, targets);
        assert_eq!(site.problems(), [expected], "{:?}", targets[0].0);
    }
}

#[test]
fn the_release_crate_and_the_verity_crate_agree_on_the_size_of_a_hash_area() {
    for data_blocks in [1, 2, 128, 129, BLOCKS, 16384, 16385, 50_000, 2_097_152] {
        let params = verity::Params {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: Vec::new(),
            hash_type: verity::HashType::Normal,
        };
        let superblock = verity::Superblock::new(params, data_blocks, uuid::Uuid::nil());
        let superblock = superblock.expect("a superblock");
        let area = verity::HashArea::with_superblock(&superblock, 0).expect("an area");
        let shape = release::Verity {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: release::Salt::new([]).expect("a salt"),
            data_blocks,
        };
        assert_eq!(shape.hash_area_bytes(), area.end(), "{data_blocks} blocks");
    }
}

#[test]
fn a_blob_that_is_named_by_its_digest_can_be_found_by_hand() {
    let site = Site::new();
    build(&site.path("image"), "1", b"1");
    site.publish_image(&site.path("image"), &Expiries::default())
        .expect("a release");
    let digest = Digest::new(
        sha2::Sha256::digest(fs::read(site.path("image/root.img")).expect("a file")).into(),
    );
    assert!(site.base().join("blobs").join(digest.to_string()).exists());
}
