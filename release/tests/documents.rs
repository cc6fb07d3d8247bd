//! Channel and release files from outside: hostile bytes, limits, round trips.

use partition_layout::{Architecture, RootHash, Version};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use release::limits::{
    MAX_CHANNEL_BYTES, MAX_CHANNEL_RELEASES, MAX_PATCHES, MAX_RELEASE_BYTES, MAX_ROOT_IMAGE_BYTES,
};
use release::{
    Blob, Blobs, COMPATIBLE, Channel, ChannelName, Digest, Pack, Patch, Release, Rollout, Salt,
    UkiPatch, Verity, release_target, version_of_target,
};
use serde_json::{Value, json};

fn a_version() -> impl Strategy<Value = Version> {
    "[a-z0-9][a-z0-9.~^-]{0,26}".prop_map(|text| Version::parse(&text).expect("in the alphabet"))
}

fn a_blob(sizes: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Blob> {
    (any::<[u8; 32]>(), sizes).prop_map(|(bytes, size)| Blob {
        sha256: Digest::new(bytes),
        size,
    })
}

fn a_pack() -> impl Strategy<Value = Pack> {
    (a_blob(17..=1 << 33), any::<u64>()).prop_map(|(blob, more)| Pack {
        blob,
        index_bytes: 17 + more % (blob.size.min(8 << 20) - 16),
    })
}

fn bases() -> impl Strategy<Value = Vec<([u8; 32], Pack)>> {
    btree_map(any::<[u8; 32]>(), a_pack(), 0..=MAX_PATCHES)
        .prop_map(|map| map.into_iter().collect())
}

prop_compose! {
    fn a_release()(
        version in a_version(),
        arm in any::<bool>(),
        root_hash in any::<[u8; 32]>(),
        salt in vec(any::<u8>(), 0..=256),
        data_blocks in prop_oneof![1_u64..=200, 1..=MAX_ROOT_IMAGE_BYTES / 4096],
        root in a_blob(1..=1),
        hash_area in a_blob(1..=1),
        uki in a_blob(1..=128 << 20),
        sbom in option::of(a_blob(1..=32 << 20)),
        packed in option::of(a_pack()),
        patches in bases(),
        uki_patches in bases(),
        created in option::of(any::<u64>()),
        notes in option::of("[ -~é\n\"\\\\]{0,200}"),
    ) -> Release {
        let verity = Verity {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: Salt::new(salt).expect("not too long"),
            data_blocks,
        };
        Release {
            version,
            architecture: if arm { Architecture::Aarch64 } else { Architecture::X86_64 },
            compatible: COMPATIBLE.to_owned(),
            root_hash: RootHash::new(root_hash),
            blobs: Blobs {
                root: Blob { size: data_blocks * 4096, ..root },
                verity: Blob { size: verity.hash_area_bytes(), ..hash_area },
                uki,
                sbom,
                packed,
            },
            patches: patches
                .into_iter()
                .map(|(from, root)| Patch { from: RootHash::new(from), root })
                .collect(),
            uki_patches: uki_patches
                .into_iter()
                .map(|(from, pack)| UkiPatch { from: Digest::new(from), pack })
                .collect(),
            verity,
            created,
            notes,
        }
    }
}

fn a_channel() -> impl Strategy<Value = Channel> {
    let releases = vec(a_version(), 1..=MAX_CHANNEL_RELEASES);
    (
        "[a-z0-9][a-z0-9-]{0,31}",
        releases,
        any::<prop::sample::Index>(),
        option::of((0..=10_000_u32, "[!-~]{1,64}")),
    )
        .prop_map(|(name, mut releases, current, rollout)| {
            releases.sort_by(|a, b| b.cmp(a));
            releases.dedup();
            Channel {
                channel: ChannelName::parse(&name).expect("in the alphabet"),
                release: current.get(&releases).clone(),
                releases,
                rollout: rollout.map(|(share, seed)| Rollout { share, seed }),
            }
        })
}

proptest! {
    #[test]
    fn a_release_is_read_back_from_its_file(release in a_release()) {
        let bytes = release.to_bytes().expect("within the limits");
        let read = Release::parse(&bytes).expect("own file");
        prop_assert_eq!(read.to_bytes().expect("as before"), bytes);
        prop_assert_eq!(read, release);
    }

    #[test]
    fn a_channel_is_read_back_from_its_file(channel in a_channel()) {
        let bytes = channel.to_bytes().expect("within the limits");
        let read = Channel::parse(&bytes).expect("own file");
        prop_assert_eq!(read.to_bytes().expect("as before"), bytes);
        prop_assert_eq!(read, channel);
    }

    #[test]
    fn hostile_bytes_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..400)) {
        prop_assert!(Release::parse(&bytes).is_err());
        prop_assert!(Channel::parse(&bytes).is_err());
    }

    #[test]
    fn a_file_with_one_hostile_change_is_refused_or_still_keeps_the_limits(
        release in a_release(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = release.to_bytes().expect("within the limits");
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = Release::parse(&bytes) {
            prop_assert!(read.to_bytes().is_ok());
        }
    }

    #[test]
    fn any_value_in_any_field_is_refused_or_keeps_the_limits(
        release in a_release(),
        field in prop::sample::select(FIELDS),
        value in hostile_value(),
    ) {
        let mut file = value_of(&release);
        if let Some(place) = file.pointer_mut(field) {
            *place = value;
        } else if let Some((parent, name)) = field.rsplit_once('/') {
            // Of what need not be there.
            file.pointer_mut(parent).expect("an object")[name] = value;
        }
        if let Ok(read) = Release::parse(file.to_string().as_bytes()) {
            prop_assert!(read.to_bytes().is_ok());
        }
    }
}

const FIELDS: &[&str] = &[
    "",
    "/format",
    "/version",
    "/architecture",
    "/compatible",
    "/root_hash",
    "/verity",
    "/verity/data_block_size",
    "/verity/hash_block_size",
    "/verity/salt",
    "/verity/data_blocks",
    "/blobs",
    "/blobs/root",
    "/blobs/root/sha256",
    "/blobs/root/size",
    "/blobs/verity/size",
    "/blobs/uki/size",
    "/blobs/packed",
    "/patches",
    "/uki_patches",
];

fn hostile_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        Just(json!(-1)),
        Just(json!(1.5)),
        any::<u64>().prop_map(Value::from),
        ".{0,80}".prop_map(Value::from),
    ]
}

fn value_of(release: &Release) -> Value {
    serde_json::from_slice(&release.to_bytes().expect("within the limits")).expect("JSON")
}

fn sound_release() -> Value {
    json!({
        "format": 1,
        "version": "1.0",
        "architecture": "x86-64",
        "compatible": "bistable-1",
        "root_hash": "ab".repeat(32),
        "verity": { "data_block_size": 4096, "hash_block_size": 4096, "salt": "00ff", "data_blocks": 129 },
        "blobs": {
            "root": { "sha256": "01".repeat(32), "size": 129 * 4096 },
            "verity": { "sha256": "02".repeat(32), "size": 4 * 4096 },
            "uki": { "sha256": "03".repeat(32), "size": 15_000_000 },
        },
    })
}

fn refusal(field: &str, value: Value) -> String {
    let mut file = sound_release();
    let (parent, name) = field.rsplit_once('/').expect("a pointer");
    let parent = file
        .pointer_mut(parent)
        .and_then(Value::as_object_mut)
        .expect("an object");
    if value.is_null() {
        parent.remove(name);
    } else {
        parent.insert(name.to_owned(), value);
    }
    Release::parse(file.to_string().as_bytes())
        .expect_err(field)
        .to_string()
}

fn pack(size: u64, index_bytes: u64) -> Value {
    json!({"sha256": "04".repeat(32), "size": size, "index_bytes": index_bytes})
}

#[test]
fn two_patches_of_one_base_are_refused() {
    let from = "ab".repeat(32);
    let patch = json!({"from": from, "root": pack(100, 17)});
    let error = refusal("/patches", json!([patch, patch]));
    assert_eq!(error, format!("patches holds {from} twice"));
    let patch = json!({"from": from, "pack": pack(100, 17)});
    let error = refusal("/uki_patches", json!([patch, patch]));
    assert_eq!(error, format!("uki_patches holds {from} twice"));
}

#[test]
fn a_refusal_names_the_field_and_what_is_wrong_with_it() {
    let table = [
        (
            "/format",
            json!(2),
            "format is 2, but this reader knows only 1",
        ),
        ("/format", json!(null), "format is missing"),
        ("/version", json!(7), "version is not a text"),
        (
            "/architecture",
            json!("mips"),
            "architecture is \"mips\", which is no architecture this reader knows",
        ),
        ("/root_hash", json!(null), "root_hash is missing"),
        ("/verity", json!([]), "verity is not an object"),
        (
            "/verity/salt",
            json!("0"),
            "verity.salt is not a salt of at most 256 bytes in lower-case hexadecimal digits",
        ),
        (
            "/verity/salt",
            json!("00".repeat(257)),
            "verity.salt is not a salt of at most 256 bytes in lower-case hexadecimal digits",
        ),
        (
            "/verity/data_block_size",
            json!(512),
            "verity.data_block_size is 512, but must be 4096",
        ),
        (
            "/verity/data_blocks",
            json!(0),
            "verity.data_blocks is empty",
        ),
        (
            "/verity/data_blocks",
            json!(128),
            "blobs.root.size is 528384, but must be 524288",
        ),
        (
            "/verity/data_blocks",
            json!(u64::MAX),
            "blobs.root.size is 528384, but must be 18446744073709551615",
        ),
        (
            "/blobs/root/sha256",
            json!("../../x"),
            "blobs.root.sha256 is not a SHA-256 digest of 64 lower-case hexadecimal digits",
        ),
        (
            "/blobs/root/size",
            json!(-1),
            "blobs.root.size is not a whole number from 0 up",
        ),
        (
            "/blobs/root/size",
            json!(u64::MAX),
            "blobs.root.size is 18446744073709551615, which is more than 8589934592",
        ),
        (
            "/blobs/verity/size",
            json!(4096),
            "blobs.verity.size is 4096, but must be 16384",
        ),
        ("/blobs/uki/size", json!(0), "blobs.uki.size is empty"),
        (
            "/blobs/uki/size",
            json!(1_u64 << 28),
            "blobs.uki.size is 268435456, which is more than 134217728",
        ),
        (
            "/blobs/sbom",
            json!({"size": 1}),
            "blobs.sbom.sha256 is missing",
        ),
        (
            "/compatible",
            json!("a b"),
            "compatible is not a name of up to 64 letters, digits, '-', '.' and '_'",
        ),
        (
            "/notes",
            json!("\u{1b}[2J"),
            "notes have a control character",
        ),
        ("/blobs/packed", pack(0, 17), "blobs.packed.size is empty"),
        (
            "/blobs/packed",
            pack(u64::MAX, 17),
            "blobs.packed.size is 18446744073709551615, which is more than 8589934592",
        ),
        (
            "/blobs/packed",
            pack(100, 101),
            "blobs.packed.index_bytes is 101, which is more than 100",
        ),
        (
            "/blobs/packed",
            pack(1 << 30, 1 << 29),
            "blobs.packed.index_bytes is 536870912, which is more than 8454144",
        ),
        (
            "/blobs/packed",
            pack(100, 16),
            "blobs.packed.index_bytes is 16, but a header alone has 16",
        ),
        ("/patches", json!({}), "patches is not a list"),
        ("/patches", json!([7]), "patches[0] is not an object"),
        (
            "/patches",
            json!([{"from": "ab", "root": pack(100, 17)}]),
            "patches[0].from a root hash is 64 hexadecimal digits, not \"ab\"",
        ),
        (
            "/patches",
            json!([{"from": "ab".repeat(32), "root": pack(100, 0)}]),
            "patches[0].root.index_bytes is 0, but a header alone has 16",
        ),
        (
            "/patches",
            Value::from(vec![json!({}); MAX_PATCHES + 1]),
            "patches is 17, which is more than 16",
        ),
        (
            "/uki_patches",
            json!([{"from": "cd".repeat(32), "pack": pack(0, 17)}]),
            "uki_patches[0].pack.size is empty",
        ),
    ];
    for (field, value, expected) in table {
        let found = refusal(field, value.clone());
        assert_eq!(found, expected, "{field} = {value}");
    }
}

#[test]
fn what_is_larger_than_its_limit_is_refused_before_it_is_parsed() {
    let mut file = sound_release().to_string();
    file.push_str(&" ".repeat(usize::try_from(MAX_RELEASE_BYTES).expect("small")));
    let error = Release::parse(file.as_bytes()).expect_err("too large");
    assert!(error.to_string().starts_with("the file is "), "{error}");
    let spaces = vec![b' '; usize::try_from(MAX_CHANNEL_BYTES).expect("small") + 1];
    let error = Channel::parse(&spaces).expect_err("too large");
    assert_eq!(
        error.to_string(),
        "the file is 16385, which is more than 16384"
    );
}

#[test]
fn fields_of_a_newer_publisher_are_ignored() {
    let mut file = sound_release();
    file["peers"] = json!({"from": {"0.9": 1}});
    file["blobs"]["root"]["zstd"] = json!(true);
    assert!(Release::parse(file.to_string().as_bytes()).is_ok());
    let channel = json!({
        "format": 1, "channel": "stable", "release": "2", "releases": ["2", "1"],
        "rollout": {"share": 100, "seed": "2", "waves": [1, 10, 100]}, "freeze": true,
    });
    assert!(Channel::parse(channel.to_string().as_bytes()).is_ok());
}

#[test]
fn a_nesting_bomb_is_refused() {
    let bomb = "[".repeat(60_000);
    assert!(Release::parse(bomb.as_bytes()).is_err());
}

#[test]
fn a_channel_lists_each_release_once_newest_first_and_its_own_among_them() {
    let refusal = |release: &str, releases: &[&str]| {
        let file =
            json!({"format": 1, "channel": "stable", "release": release, "releases": releases});
        Channel::parse(file.to_string().as_bytes()).map_err(|error| error.to_string())
    };
    assert!(refusal("2", &["10", "2"]).is_ok());
    assert_eq!(
        refusal("2", &["2", "10"]),
        Err("releases has 10 after 2, which is older".into())
    );
    assert_eq!(
        refusal("1.0", &["1.0", "1.00"]),
        Err("releases holds 1.00 twice".into())
    );
    assert_eq!(
        refusal("3", &["2"]),
        Err("release is 3, which is not among the releases".into())
    );
    assert_eq!(
        refusal("3", &[]),
        Err("release is 3, which is not among the releases".into())
    );
    let many = vec!["1"; MAX_CHANNEL_RELEASES + 1];
    assert_eq!(
        refusal("1", &many),
        Err("releases is 257, which is more than 256".into())
    );
    let error = refusal("2", &["2", "a b"]).expect_err("a space");
    assert!(error.starts_with("releases[1] "), "{error}");
}

#[test]
fn a_rollout_beyond_everybody_or_with_a_strange_seed_is_refused() {
    let refusal = |rollout: Value| {
        let file = json!({"format": 1, "channel": "stable", "release": "2", "releases": ["2"], "rollout": rollout});
        Channel::parse(file.to_string().as_bytes()).map_err(|error| error.to_string())
    };
    let sound = refusal(json!({"share": 10_000, "seed": "2"})).expect("everybody");
    assert_eq!(sound.rollout.map(|rollout| rollout.share), Some(10_000));
    for share in [10_001, u64::from(u32::MAX), u64::MAX] {
        let error = refusal(json!({"share": share, "seed": "2"}));
        let expected = format!("rollout.share is {share}, which is more than 10000");
        assert_eq!(error, Err(expected));
    }
    for seed in ["", "a b", "\u{7f}", "é", &"s".repeat(65)] {
        let error = refusal(json!({"share": 1, "seed": seed})).expect_err(seed);
        assert!(
            error.starts_with("rollout.seed is not a text of 1 to 64 "),
            "{error}"
        );
    }
    assert_eq!(
        refusal(json!({"seed": "2"})),
        Err("rollout.share is missing".into())
    );
}

#[test]
fn the_longest_channel_fits_its_limit() {
    let releases: Vec<Version> = (0..MAX_CHANNEL_RELEASES)
        .rev()
        .map(|number| Version::parse(&format!("1.{number:025}")).expect("27 characters"))
        .collect();
    let channel = Channel {
        channel: ChannelName::parse(&"c".repeat(32)).expect("32 letters"),
        release: releases[0].clone(),
        releases,
        rollout: Some(Rollout {
            share: 10_000,
            seed: "s".repeat(64),
        }),
    };
    let bytes = channel.to_bytes().expect("within the limits");
    assert_eq!(Channel::parse(&bytes), Ok(channel));
}

#[test]
fn a_target_name_says_what_it_is_and_nothing_else_does() {
    let version = Version::parse("1.0~rc1^2").expect("in the alphabet");
    assert_eq!(release_target(&version), "1.0~rc1^2.release.json");
    let read = version_of_target("1.0~rc1^2.release.json").expect("a release");
    assert_eq!(read.as_str(), version.as_str());
    let stable = ChannelName::parse("stable").expect("a name");
    assert_eq!(stable.target(), "stable.channel.json");
    assert_eq!(ChannelName::of_target("stable.channel.json"), Some(stable));
    for name in [
        "",
        ".release.json",
        "../x.release.json",
        "1.0.release.json.asc",
        "1.0",
    ] {
        assert_eq!(version_of_target(name), None, "{name:?}");
        assert_eq!(ChannelName::of_target(name), None, "{name:?}");
    }
}

#[test]
fn the_size_of_the_hash_area_is_that_of_veritysetup() {
    let area = |data_blocks| {
        let salt = Salt::new([]).expect("short");
        let verity = Verity {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt,
            data_blocks,
        };
        verity.hash_area_bytes() / 4096
    };
    // One data block is its own root; 128 hashes fill a block of the tree.
    for (data_blocks, blocks) in [
        (1, 1),
        (2, 2),
        (128, 2),
        (129, 4),
        (16384, 130),
        (16385, 133),
    ] {
        assert_eq!(area(data_blocks), blocks, "{data_blocks} data blocks");
    }
}
