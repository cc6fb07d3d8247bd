//! Metadata from publishers of every kind.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp as Moment;
use partition_layout::Version;
use release::{Channel, ChannelName};
use tempfile::TempDir;
use tough::schema::RoleType;
use updater::authorities::Authorities;
use updater::config::Repository;
use updater::fetch::{Client, Patience};
use updater::ports::{Clock, Offer, Releases, ReleasesError, Stopper};
use updater::trust::{Settings, TrustedReleases};

use super::gateway::client;
use crate::publisher::{Publisher, days, key, release};
use crate::web::{Server, patience, runtime, silence, status};

/// A clock that may be wrong.
#[derive(Debug, Clone)]
pub(crate) struct Wall(Moment);

impl Clock for Wall {
    fn now(&self) -> Moment {
        self.0
    }

    fn since_boot(&self) -> Duration {
        Duration::ZERO
    }
}

/// A node with the root of trust of a publisher.
pub(crate) struct Node {
    pub(crate) settings: Settings,
    pub(crate) authorities: Authorities,
    clock: Wall,
    folder: TempDir,
}

impl Node {
    pub(crate) fn trusting(publisher: &Publisher) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root_of_trust = folder.path().join("root.json");
        fs::write(&root_of_trust, publisher.root()).unwrap();
        let settings = Settings {
            repositories: vec![Repository::parse(&publisher.url()).unwrap()],
            channel: ChannelName::parse("stable").unwrap(),
            root_of_trust,
            store: folder.path().join("tuf"),
            clock_is_set: folder.path().join("synchronized"),
            built: None,
        };
        Self {
            settings,
            authorities: Authorities::default(),
            clock: Wall(Moment::now()),
            folder,
        }
    }

    pub(crate) fn releases(&self) -> TrustedReleases<Wall> {
        self.releases_by(client(&self.authorities), patience())
    }

    pub(crate) fn releases_by(&self, client: Client, patience: Patience) -> TrustedReleases<Wall> {
        let (settings, clock) = (self.settings.clone(), self.clock.clone());
        TrustedReleases::new(settings, client, patience, clock, runtime())
    }

    pub(crate) fn refresh(&self) -> Result<Offer, ReleasesError> {
        self.releases().refresh(&Stopper::new().1)
    }

    pub(crate) fn release(&self, version: Option<&str>) -> Result<release::Release, ReleasesError> {
        let version = version.map(|version| Version::parse(version).unwrap());
        self.releases().release(version.as_ref(), &Stopper::new().1)
    }

    pub(crate) fn set_clock(&mut self, now: Moment) {
        self.clock = Wall(now);
    }

    pub(crate) fn kept(&self, name: &str) -> PathBuf {
        self.folder.path().join("tuf").join(name)
    }
}

/// Returns the name on the bus and the words, as an operator sees them.
pub(crate) fn told<T: std::fmt::Debug>(result: Result<T, ReleasesError>) -> (&'static str, String) {
    let error = result.unwrap_err();
    let name = match &error {
        ReleasesError::MetadataExpired { .. } => "expired",
        ReleasesError::MetadataUntrusted { .. } => "untrusted",
        ReleasesError::RepositoryUnreachable { .. } => "unreachable",
        ReleasesError::UnknownVersion { .. } => "unknown",
        ReleasesError::Local { .. } => "local",
        ReleasesError::Stopped => "stopped",
    };
    (name, updater::fetch::chain(&error))
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_sound_repository_offers_its_releases_newest_first() {
    let folder = folder();
    let publisher = Publisher::of(folder.path(), &["1", "1.10", "1.9", "2"]);
    publisher.publish();
    let node = Node::trusting(&publisher);
    let offer = node.refresh().unwrap();
    assert_eq!(offer.channel.release.as_str(), "2");
    let versions: Vec<_> = offer.versions.iter().map(Version::as_str).collect();
    assert_eq!(versions, ["2", "1.10", "1.9", "1"]);
    assert_eq!(node.release(None).unwrap(), release("2"));
    assert_eq!(node.release(Some("1.9")).unwrap(), release("1.9"));
}

#[test]
fn a_repository_over_http_is_read_as_one_in_a_folder() {
    let folder = folder();
    let publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let root = folder.path().to_owned();
    let server = Server::start(move |request, stream| {
        match fs::read(root.join(request.path.trim_start_matches("/base/"))) {
            Ok(content) => crate::web::sound(request, stream, &content),
            Err(_) => status(stream, "404 Not Found"),
        }
    });
    let mut node = Node::trusting(&publisher);
    let address = format!("{}/base", server.address());
    node.settings.repositories = vec![Repository::parse(&address).unwrap()];
    assert_eq!(node.release(None).unwrap(), release("1"));
}

#[test]
fn a_release_that_is_not_there_is_unknown() {
    let folder = folder();
    let publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let mut node = Node::trusting(&publisher);
    let (name, words) = told(node.release(Some("7")));
    assert_eq!(name, "unknown");
    assert!(words.ends_with("has no release 7"), "{words}");
    node.settings.channel = ChannelName::parse("canary").unwrap();
    assert_eq!(told(node.refresh()).0, "unknown");
}

#[test]
fn a_new_release_is_found_without_a_check_before() {
    let folder = folder();
    let mut publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let node = Node::trusting(&publisher);
    let mut releases = node.releases();
    let stop = Stopper::new().1;
    assert_eq!(releases.release(None, &stop).unwrap(), release("1"));
    publisher.targets = Publisher::of(folder.path(), &["1", "2"]).targets;
    publisher.raise();
    publisher.publish();
    assert_eq!(releases.release(None, &stop).unwrap(), release("2"));
}

#[test]
fn expired_metadata_is_refused() {
    let folder = folder();
    let mut publisher = Publisher::of(folder.path(), &["1"]);
    publisher.timestamp_expires = days(-1);
    publisher.publish();
    let node = Node::trusting(&publisher);
    let (name, words) = told(node.refresh());
    assert_eq!(name, "expired");
    assert!(words.contains("timestamp is past its date"), "{words}");
    publisher.timestamp_expires = days(1);
    publisher.root_expires = days(-1);
    publisher.root_version = 2;
    publisher.publish();
    assert_eq!(told(node.refresh()).0, "expired");
}

#[test]
fn metadata_that_a_stranger_signed_is_refused() {
    for role in [RoleType::Timestamp, RoleType::Snapshot, RoleType::Targets] {
        let folder = folder();
        let mut publisher = Publisher::of(folder.path(), &["1"]);
        publisher.publish();
        let root = fs::read(publisher.root_file()).unwrap();
        let node = Node::trusting(&publisher);
        publisher.keys.insert(role, key(99));
        publisher.publish();
        fs::write(publisher.root_file(), &root).unwrap();
        let (name, words) = told(node.refresh());
        assert_eq!(name, "untrusted", "{role}: {words}");
    }
    // A whole repository of another publisher's.
    let folder = folder();
    let mut publisher = Publisher::of(folder.path(), &["1"]);
    let node = Node::trusting(&publisher);
    for (number, key_of_role) in (100..).zip(publisher.keys.values_mut()) {
        *key_of_role = key(number);
    }
    publisher.root_version = 2;
    publisher.publish();
    assert_eq!(told(node.refresh()).0, "untrusted");
}

#[test]
fn metadata_that_was_seen_newer_is_refused() {
    let folder = folder();
    let mut publisher = Publisher::of(folder.path(), &["1"]);
    let node = Node::trusting(&publisher);
    publisher.raise();
    publisher.publish();
    node.refresh().unwrap();
    publisher.timestamp_version = 1;
    publisher.publish();
    let (name, words) = told(node.refresh());
    assert_eq!(name, "untrusted");
    assert!(
        words.contains("timestamp is version 1, but version 2 was seen"),
        "{words}"
    );
    // What was refused has not harmed what is remembered.
    publisher.timestamp_version = 2;
    publisher.publish();
    node.refresh().unwrap();
    // Nor does a torn file, as a power cut leaves it beside the kept one.
    fs::write(node.kept("timestamp.json.new"), "{").unwrap();
    publisher.timestamp_version = 1;
    publisher.publish();
    assert_eq!(told(node.refresh()).0, "untrusted");
}

#[test]
fn parts_of_two_states_of_a_repository_are_refused() {
    let folder = folder();
    let mut publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let node = Node::trusting(&publisher);
    let old = fs::read(publisher.metadata("1.targets.json")).unwrap();
    publisher.targets = Publisher::of(folder.path(), &["1", "2"]).targets;
    publisher.raise();
    publisher.publish();
    fs::write(publisher.metadata("2.targets.json"), old).unwrap();
    assert_eq!(told(node.refresh()).0, "untrusted");
}

#[test]
fn a_root_that_was_replaced_is_followed_and_never_left_again() {
    let folder = folder();
    let mut publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let node = Node::trusting(&publisher);
    let first = fs::read(publisher.root_file()).unwrap();

    // The same root key hands over to another timestamp key.
    publisher.root_version = 2;
    publisher.keys.insert(RoleType::Timestamp, key(50));
    publisher.publish();
    node.refresh().unwrap();

    // Somebody with the old keys hides the second root,
    fs::remove_file(publisher.root_file()).unwrap();
    let mut thief = Publisher::of(folder.path(), &["1"]);
    thief.timestamp_version = 9;
    thief.publish();
    let (name, words) = told(node.refresh());
    assert_eq!(name, "untrusted");
    assert!(words.contains("version 2 was seen before"), "{words}");

    // or puts one of his own in its place.
    thief.root_version = 2;
    thief.keys.insert(RoleType::Timestamp, key(66));
    thief.publish();
    let (name, words) = told(node.refresh());
    assert_eq!(name, "untrusted");
    assert!(words.contains("another root of version 2"), "{words}");

    // An image with another root of trust has the last word.
    fs::write(&node.settings.root_of_trust, thief.root()).unwrap();
    thief.timestamp_version = 10;
    thief.publish();
    node.refresh().unwrap();
    drop(first);
}

#[test]
fn metadata_without_end_is_refused() {
    for (role, version) in [("timestamp", 1), ("targets", 1), ("root", 2)] {
        let folder = folder();
        let publisher = Publisher::of(folder.path(), &["1"]);
        publisher.publish();
        let name = match role {
            "timestamp" => "timestamp.json".to_owned(),
            role => format!("{version}.{role}.json"),
        };
        fs::write(publisher.metadata(&name), vec![b' '; 4 << 20]).unwrap();
        let node = Node::trusting(&publisher);
        let (name, words) = told(node.refresh());
        assert_eq!(name, "untrusted", "{role}: {words}");
    }
}

#[test]
fn a_signed_length_is_no_licence_to_fill_the_memory() {
    let folder = folder();
    let mut publisher = Publisher::of(folder.path(), &["1"]);
    publisher.targets_length = Some(1 << 40);
    publisher.publish();
    let node = Node::trusting(&publisher);
    let (_, words) = told(node.refresh());
    assert!(words.contains("its length differs"), "{words}");
    let mut content = fs::read(publisher.metadata("1.targets.json")).unwrap();
    content.extend(vec![b' '; 2 << 20]);
    fs::write(publisher.metadata("1.targets.json"), content).unwrap();
    let (name, words) = told(node.refresh());
    assert_eq!(name, "untrusted");
    assert!(words.contains("larger than 1048576 bytes"), "{words}");
}

#[test]
fn a_target_that_is_not_what_its_name_says_is_refused() {
    let stable = |releases: &[&str]| {
        let releases: Vec<_> = releases
            .iter()
            .map(|it| Version::parse(it).unwrap())
            .collect();
        let channel = ChannelName::parse("canary").unwrap();
        Channel {
            channel,
            release: releases[0].clone(),
            releases,
            rollout: None,
        }
        .to_bytes()
        .unwrap()
    };
    for (name, content, expected) in [
        (
            "stable.channel.json",
            stable(&["1"]),
            "is the file of channel canary",
        ),
        ("stable.channel.json", b"{}".to_vec(), "format is missing"),
        (
            "stable.channel.json",
            vec![b' '; 17 << 10],
            "which is more than 16384",
        ),
        (
            "1.release.json",
            release("2").to_bytes().unwrap(),
            "is the file of release 2",
        ),
        ("1.release.json", b"[]".to_vec(), "is not an object"),
        (
            "1.release.json",
            vec![b' '; 65 << 10],
            "which is more than 65536",
        ),
    ] {
        let folder = folder();
        let mut publisher = Publisher::of(folder.path(), &["1"]);
        publisher.targets.retain(|(other, _)| other != name);
        publisher.add(name, content);
        publisher.publish();
        let node = Node::trusting(&publisher);
        let (kind, words) = told(node.release(None));
        assert_eq!(kind, "untrusted", "{name}: {words}");
        assert!(words.contains(expected), "{name}: {words}");
    }
}

#[test]
fn a_target_whose_bytes_were_changed_is_refused() {
    let folder = folder();
    let publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let node = Node::trusting(&publisher);
    for entry in fs::read_dir(folder.path().join("targets")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let (name, words) = told(node.refresh());
    assert_eq!(name, "untrusted", "{words}");
}

#[test]
fn a_repository_that_is_not_there_is_unreachable() {
    let folder = folder();
    let publisher = Publisher::of(folder.path(), &["1"]);
    let mut node = Node::trusting(&publisher);
    assert_eq!(told(node.refresh()).0, "unreachable");

    for answer in ["404 Not Found", "500 Internal Server Error"] {
        let server = Server::start(move |_, stream| status(stream, answer));
        node.settings.repositories = vec![Repository::parse(server.address()).unwrap()];
        let (name, words) = told(node.refresh());
        assert_eq!(name, "unreachable", "{words}");
        assert!(words.contains(answer), "{words}");
    }
    node.settings.repositories.clear();
    let (name, words) = told(node.refresh());
    assert_eq!(name, "unreachable");
    assert!(words.contains("no repository is set"), "{words}");
}

#[test]
fn a_server_that_fails_for_a_newer_root_does_not_pass_for_one_that_has_none() {
    let folder = folder();
    let publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let root = folder.path().to_owned();
    let server = Server::start(move |request, stream| {
        if request.path.ends_with("2.root.json") {
            return status(stream, "503 Service Unavailable");
        }
        let content = fs::read(root.join(request.path.trim_start_matches('/')))?;
        crate::web::sound(request, stream, &content)
    });
    let mut node = Node::trusting(&publisher);
    node.settings.repositories = vec![Repository::parse(server.address()).unwrap()];
    assert_eq!(told(node.refresh()).0, "unreachable");
}

fn file_url(folder: &Path) -> Repository {
    Repository::parse(&folder.display().to_string()).unwrap()
}

#[test]
fn a_mirror_has_the_word_when_the_repository_has_none_to_be_believed() {
    let (sound, old, foreign) = (folder(), folder(), folder());
    let publisher = Publisher::of(sound.path(), &["1", "2"]);
    publisher.publish();
    let mut stale = Publisher::of(old.path(), &["1"]);
    stale.timestamp_expires = days(-1);
    // Not seen before, so that its date is all that is wrong with it.
    stale.timestamp_version = 2;
    stale.publish();
    fs::create_dir_all(foreign.path().join("metadata")).unwrap();
    fs::write(
        foreign.path().join("metadata/timestamp.json"),
        "<html>Log in</html>",
    )
    .unwrap();
    let busy = Server::start(|_, stream| status(stream, "503 Service Unavailable"));

    let mut node = Node::trusting(&publisher);
    let bad = [
        Repository::parse(busy.address()).unwrap(),
        file_url(old.path()),
        file_url(foreign.path()),
    ];
    node.settings.repositories = bad.to_vec();
    node.settings.repositories.push(file_url(sound.path()));
    assert_eq!(node.refresh().unwrap().channel.release.as_str(), "2");
    assert_eq!(node.release(None).unwrap(), release("2"));

    // None of them: the worst gives its name, and all are told.
    node.settings.repositories = bad.to_vec();
    let (name, words) = told(node.refresh());
    assert_eq!(name, "untrusted");
    for repository in &bad {
        assert!(words.contains(&repository.to_string()), "{words}");
    }
    node.settings.repositories = bad[..2].to_vec();
    assert_eq!(told(node.refresh()).0, "expired");
}

#[test]
fn a_dead_repository_is_asked_after_its_mirrors_for_a_while() {
    let folder = folder();
    let publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let dead = Server::start(|_, stream| status(stream, "503 Service Unavailable"));
    let mut node = Node::trusting(&publisher);
    let dead_one = Repository::parse(dead.address()).unwrap();
    node.settings.repositories.insert(0, dead_one);
    let mut releases = node.releases();
    let stop = Stopper::new().1;
    releases.refresh(&stop).unwrap();
    let asked = dead.requests().len();
    assert!(asked > 0);
    releases.refresh(&stop).unwrap();
    releases.release(None, &stop).unwrap();
    assert_eq!(dead.requests().len(), asked);
    // When the mirror has nothing either, it is asked again.
    std::fs::remove_dir_all(folder.path().join("metadata")).unwrap();
    let (name, words) = told(releases.refresh(&stop));
    assert_eq!(name, "unreachable");
    assert!(words.contains(dead.address()), "{words}");
    assert!(dead.requests().len() > asked);
}

#[test]
fn a_release_that_the_repository_does_not_know_is_not_looked_for_elsewhere() {
    let (first, second) = (folder(), folder());
    let publisher = Publisher::of(first.path(), &["1"]);
    publisher.publish();
    Publisher::of(second.path(), &["1", "2"]).publish();
    let mut node = Node::trusting(&publisher);
    node.settings.repositories = vec![file_url(first.path()), file_url(second.path())];
    assert_eq!(told(node.release(Some("2"))).0, "unknown");
}

#[test]
fn a_refresh_stops_when_it_is_told_to() {
    let server = Server::start(|_, stream| silence(stream));
    let folder = folder();
    let mut node = Node::trusting(&Publisher::of(folder.path(), &["1"]));
    node.settings.repositories = vec![Repository::parse(server.address()).unwrap()];
    let mut releases = node.releases();
    let (stopper, stop) = Stopper::new();
    let refreshing = std::thread::spawn(move || releases.refresh(&stop));
    while server.requests().is_empty() {
        std::thread::yield_now();
    }
    stopper.stop();
    assert_eq!(told(refreshing.join().unwrap()).0, "stopped");
}

#[test]
fn a_clock_that_cannot_be_right_is_named() {
    let folder = folder();
    let publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let mut node = Node::trusting(&publisher);
    node.settings.built = Some(days(3));
    let (name, words) = told(node.refresh());
    assert_eq!(name, "expired");
    assert!(words.contains("this image was built at"), "{words}");
}

/// Writes down a time far ahead, as a node with a wrong clock would have.
fn remember_the_future(node: &Node) {
    fs::create_dir_all(node.kept("")).unwrap();
    let future = serde_json::to_vec(&days(400)).unwrap();
    fs::write(node.kept("latest_known_time.json"), future).unwrap();
}

#[test]
fn a_clock_that_was_once_far_ahead_stops_updates_only_until_it_is_set() {
    let folder = folder();
    let publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let node = Node::trusting(&publisher);
    remember_the_future(&node);
    let (name, words) = told(node.refresh());
    assert_eq!(name, "expired");
    assert!(words.contains("but it has read"), "{words}");
    fs::write(&node.settings.clock_is_set, "").unwrap();
    node.refresh().unwrap();
    // It is forgotten for good, not only passed over.
    fs::remove_file(&node.settings.clock_is_set).unwrap();
    node.refresh().unwrap();
}

#[test]
fn a_clock_that_goes_back_and_on_by_years_between_any_two_looks_proves_nothing_and_loses_nothing() {
    let folder = folder();
    let publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let mut node = Node::trusting(&publisher);
    node.settings.built = Some(days(-1));
    let right = Moment::now();
    let versions = node.refresh().unwrap().versions;
    let moment = |text: &str| text.parse::<Moment>().unwrap();
    for (wrong, why) in [
        (Moment::UNIX_EPOCH, "this image was built at"),
        (moment("2100-01-01T00:00:00Z"), "expired"),
        (Moment::MAX, "expired"),
        (Moment::MIN, "this image was built at"),
    ] {
        node.set_clock(wrong);
        for told in [told(node.refresh()), told(node.release(None))] {
            assert_eq!(told.0, "expired", "at {wrong}");
            assert!(told.1.contains(why), "at {wrong}: {}", told.1);
        }
        // What the wrong time was is not remembered, and what was seen is.
        node.set_clock(right);
        assert_eq!(node.refresh().unwrap().versions, versions, "after {wrong}");
        node.release(None).unwrap();
    }
}

#[test]
fn a_disk_that_cannot_keep_metadata_is_told_as_such() {
    let folder = folder();
    let publisher = Publisher::of(folder.path(), &["1"]);
    publisher.publish();
    let mut node = Node::trusting(&publisher);
    node.settings.store = Path::new("/proc/nowhere").to_owned();
    let (name, words) = told(node.refresh());
    assert_eq!(name, "local");
    assert!(words.contains("/proc/nowhere"), "{words}");
    node.settings.root_of_trust = folder.path().join("missing.json");
    assert_eq!(told(node.refresh()).0, "local");
}
