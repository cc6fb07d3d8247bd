//! The repository that the settings name, when they change.

use std::sync::Arc;

use tokio::sync::watch;
use updater::config::{Config, Repository};
use updater::fetch::BuildClientError;
use updater::network::NamedRepository;
use updater::ports::{Fetch, Releases, Stopper, Verdict};

use super::network::{FakeRepository, image};

fn config(address: &str) -> Arc<Config> {
    Arc::new(Config {
        repository: Repository::parse(address).ok(),
        ..Config::default()
    })
}

#[test]
fn other_settings_hold_from_the_next_question_on_and_not_within_a_job() {
    let (one, two) = (image("1", 1, 3), image("2", 2, 3));
    let old = FakeRepository::with(&[&one]);
    let new = FakeRepository::with(&[&two]);
    let sender = watch::Sender::new(config("http://old/"));
    let make = move |config: &Config| -> Result<FakeRepository, BuildClientError> {
        let address = config.repository.as_ref().map(ToString::to_string);
        Ok(match address.as_deref() {
            Some("http://old/") => old.clone(),
            _ => new.clone(),
        })
    };
    let mut named = NamedRepository::new(sender.subscribe(), make).unwrap();
    let (_stopper, stop) = Stopper::new();
    let release = named.release(None, &stop).unwrap();
    assert_eq!(release, one.0);

    sender.send_replace(config("http://new/"));
    let mut bytes = Vec::new();
    let mut sink = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Verdict::Taken
    };
    let root = &release.blobs.root;
    named.fetch(root, 0, &stop, &mut sink).unwrap();
    assert_eq!(bytes, one.1.root);
    let received = named.received();
    assert_eq!(received, root.size);

    assert_eq!(named.refresh(&stop).unwrap().channel.release, two.0.version);
    assert_eq!(named.release(None, &stop).unwrap(), two.0);
    // What the old one gave is not forgotten.
    assert_eq!(named.received(), received);
}
