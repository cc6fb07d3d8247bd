use std::fs;

use image::manifest::ImageManifest;
use image::repository::{
    Directory, Expiries, LockError, MetadataError, Outcome, PublishError, SignError, TakenError,
};
use release::limits::MAX_CHANNEL_BYTES;
use release::{Channel, Digest, Release};
use sha2::Digest as _;

use tough::schema::RoleType;

use crate::fixture::{BLOCKS, Site, at, build, change, stable, version};

#[test]
fn three_releases_are_published_and_a_node_finds_all_of_them_sound() {
    let site = Site::with(&["1.0~rc1", "1.0", "1.0^fix1"]);
    let report = site.verify();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let sound: Vec<_> = report.sound.iter().map(ToString::to_string).collect();
    assert_eq!(sound, ["1.0~rc1", "1.0", "1.0^fix1"]);
    assert_eq!(site.current().as_deref(), Some("1.0^fix1"));
    let channel = newest_channel(&site);
    assert!(channel.len() as u64 <= MAX_CHANNEL_BYTES);
    let channel = Channel::parse(&channel).expect("a channel");
    let listed: Vec<_> = channel.releases.iter().map(ToString::to_string).collect();
    assert_eq!(listed, ["1.0^fix1", "1.0", "1.0~rc1"]);
}

/// The list only grows, so the newest file of it is the longest.
fn newest_channel(site: &Site) -> Vec<u8> {
    let files = site.files().into_iter();
    let channels = files.filter(|(path, _)| path.to_string_lossy().contains(".channel."));
    let contents = channels.map(|(_, content)| content);
    contents.max_by_key(Vec::len).expect("a channel file")
}

#[test]
fn the_release_file_describes_the_image_to_the_byte() {
    let site = Site::with(&["1.0"]);
    let manifest = ImageManifest::read(&site.image("1.0")).expect("the manifest");
    let bytes = fs::read(site.file("1.0.release.json")).expect("the release");
    let release = Release::parse(&bytes).expect("a release");
    assert_eq!(release.root_hash, manifest.root_hash);
    assert_eq!(release.verity.data_blocks, BLOCKS);
    assert_eq!(release.created, manifest.created);
    for (kind, name) in [
        ("root", ImageManifest::ROOT.to_owned()),
        ("verity", ImageManifest::VERITY.to_owned()),
        ("uki", manifest.uki()),
        ("sbom", ImageManifest::SBOM.to_owned()),
    ] {
        let (_, blob) = release
            .blobs
            .each()
            .find(|(one, _)| *one == kind)
            .expect(kind);
        let source = fs::read(site.image("1.0").join(name)).expect(kind);
        assert_eq!(
            blob.sha256,
            Digest::new(sha2::Sha256::digest(&source).into()),
            "{kind}"
        );
        let published = site.base().join(blob.path().to_string());
        assert_eq!(fs::read(published).expect(kind), source, "{kind}");
    }
}

#[test]
fn an_older_release_is_listed_but_nodes_are_not_sent_back_to_it() {
    let site = Site::with(&["2"]);
    let published = site.publish("1").expect("a release");
    assert_eq!(published.current, version("2"));
    assert_eq!(site.current().as_deref(), Some("2"));
    assert_eq!(site.verify().sound.len(), 2);
}

#[test]
fn publishing_the_same_again_changes_no_file() {
    let site = Site::with(&["1", "2"]);
    let before = site.files();
    for name in ["1", "2"] {
        let published = site.publish(name).expect("the same");
        assert_eq!(
            (published.outcome, published.bytes_added),
            (Outcome::AlreadyThere, 0)
        );
    }
    assert!(site.files() == before);
}

#[test]
fn publishing_the_same_again_tells_what_has_expired_meanwhile() {
    let site = Site::new();
    let expired = Expiries {
        timestamp: at("2020-01-01T00:00:00Z"),
        ..Expiries::default()
    };
    let image = site.image("1");
    let published = site.publish_image(&image, &expired).expect("a release");
    assert_eq!(published.expired, []);
    let published = site.publish("1").expect("the same");
    let roles: Vec<_> = published.expired.iter().map(|(role, _)| *role).collect();
    assert_eq!(roles, [RoleType::Timestamp]);
    let published = site.publish("2").expect("signs it anew");
    assert_eq!((published.expired.len(), site.problems().len()), (0, 0));
}

#[test]
fn a_version_is_never_given_another_content() {
    let site = Site::with(&["1"]);
    let before = site.files();
    let other = site.path("other");
    build(&other, "1", b"something else");
    let error = site
        .publish_image(&other, &Expiries::default())
        .expect_err("taken");
    assert!(
        matches!(error, PublishError::Taken(TakenError::Other { .. })),
        "{error:?}"
    );
    let error = site.publish("01").expect_err("equal to 1");
    assert!(
        matches!(error, PublishError::Taken(TakenError::Equal { .. })),
        "{error:?}"
    );
    assert!(site.files() == before);
}

#[test]
fn a_lost_or_damaged_blob_is_put_back_by_publishing_again() {
    let site = Site::with(&["1"]);
    let before = site.files();
    for (path, content) in &before {
        if !path.to_string_lossy().contains("/blobs/") {
            continue;
        }
        fs::remove_file(path).expect("a blob");
        assert_eq!(site.problems(), ["BlobMissing"]);
        assert_eq!(
            site.publish("1").expect("again").bytes_added,
            content.len() as u64
        );
        change(path, |bytes| bytes[0] ^= 1);
        assert_eq!(
            site.publish("1").expect("again").bytes_added,
            content.len() as u64
        );
        assert!(site.files() == before);
    }
}

#[test]
fn an_image_whose_parts_do_not_belong_together_is_not_published() {
    let site = Site::new();
    type Damage = fn(&mut Vec<u8>);
    let table: [(&str, &str, Damage); 6] = [
        (ImageManifest::ROOT, "do not match the root hash", |bytes| {
            bytes[9 * 4096] ^= 1
        }),
        (ImageManifest::ROOT, "the manifest says", |bytes| {
            bytes.truncate(9 * 4096)
        }),
        (
            ImageManifest::VERITY,
            "do not match the root hash",
            |bytes| bytes[4096] ^= 1,
        ),
        (ImageManifest::VERITY, "the superblock's salt is", |bytes| {
            bytes[88] ^= 1
        }),
        ("bistable_1.efi", "boots another image", |bytes| {
            bytes[20] ^= 1
        }),
        (
            ImageManifest::FILE,
            "is not the description of an image",
            |bytes| bytes.truncate(50),
        ),
    ];
    for (number, (name, expected, damage)) in table.into_iter().enumerate() {
        let image = site.path(&format!("broken-{number}"));
        build(&image, "1", b"1");
        change(&image.join(name), damage);
        let error = site
            .publish_image(&image, &Expiries::default())
            .expect_err(expected);
        let text = chain(&error);
        assert!(text.contains(expected), "{name}: {text}");
        assert!(site.files().is_empty(), "{name}");
    }
}

#[test]
fn a_file_that_claims_to_be_endless_is_refused_unread() {
    let site = Site::with(&["1"]);
    let image = site.image("2");
    let file = fs::File::options()
        .write(true)
        .open(image.join(ImageManifest::ROOT))
        .expect("the root image");
    file.set_len(1 << 40).expect("a hole");
    let error = site.publish("2").expect_err("too large");
    assert!(
        chain(&error).contains("nodes take no more than"),
        "{error:?}"
    );
    let blob = site.file(&root_blob(&site));
    let file = fs::File::options()
        .write(true)
        .open(blob)
        .expect("the blob");
    file.set_len(1 << 40).expect("a hole");
    assert_eq!(site.problems(), ["BlobCorrupt"]);
}

/// Returns the name of the only release's root image.
fn root_blob(site: &Site) -> String {
    let bytes = fs::read(site.file(".release.json")).expect("the release");
    Release::parse(&bytes)
        .expect("a release")
        .blobs
        .root
        .sha256
        .to_string()
}

#[test]
fn a_second_publisher_is_turned_away_and_told_why() {
    let site = Site::with(&["1"]);
    let lock = site.lock();
    let error = Directory::lock(&site.base()).expect_err("busy");
    assert!(matches!(error, LockError::Busy { .. }), "{error:?}");
    assert!(
        error.to_string().contains("another publisher is at work"),
        "{error}"
    );
    drop(lock);
    assert!(Directory::lock(&site.base()).is_ok());
}

#[test]
fn a_repository_of_other_keys_is_not_touched() {
    let ours = Site::with(&["1"]);
    let before = ours.files();
    let stranger = Site::new();
    let channel = stable();
    let (image, expiries) = (ours.image("2"), Expiries::default());
    let request = stranger.request(&image, &channel, &expiries);
    let error = image::repository::publish(&mut ours.lock(), &request).expect_err("not theirs");
    assert!(matches!(error, PublishError::Load { .. }), "{error:?}");
    // Nor one that has only begun.
    fs::remove_file(ours.file("timestamp.json")).expect("the timestamp");
    let error = image::repository::publish(&mut ours.lock(), &request).expect_err("not theirs");
    assert!(matches!(error, PublishError::OtherRoot { .. }), "{error:?}");
    let mut after = ours.files();
    let timestamp = ours.base().join("metadata/timestamp.json");
    after.insert(timestamp.clone(), before[&timestamp].clone());
    assert!(after == before);
}

#[test]
fn a_publisher_without_the_targets_key_is_told_which_key_is_missing() {
    let mut site = Site::with(&["1"]);
    fs::remove_file(site.path("keys/targets-1.pem")).expect("the key");
    site.keys = image::repository::KeySet::load(&site.path("keys")).expect("the other keys");
    let error = site.publish("2").expect_err("no key");
    let PublishError::Metadata(MetadataError::Sign(SignError::TooFewKeys { role, .. })) = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(role.to_string(), "targets");
    assert_eq!(site.problems(), [""; 0]);
    assert_eq!(site.current().as_deref(), Some("1"));
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
