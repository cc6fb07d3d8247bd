//! How the checks of the repository went, from boot to boot: the last one that went well, with
//! what it found, and those that have failed since.
//!
//! A node without a network fails some hundred checks a day, and a history that held them all
//! would hold nothing else. So it tells a *run* of failures by its ends: the first failure by
//! each error's name, and the check that goes well again. A run has a handful of lines, however
//! long it lasts.

use jiff::Timestamp;
use partition_layout::Version;
use release::Channel;
use serde::{Deserialize, Serialize};

use crate::names::ErrorName;
use crate::policy::Source;
use crate::ports::Offer;

/// How the checks went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Checks {
    /// The last one that went well.
    pub sound: Option<Sound>,
    /// Those that have failed since.
    pub failing: Option<Failing>,
}

/// A check that went well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sound {
    pub when: Timestamp,
    /// The repository that the settings named.
    repository: String,
    #[serde(with = "channel_file")]
    channel: Channel,
    /// Every release in the repository, newest first.
    versions: Vec<Version>,
}

/// A run of checks that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    pub since: Timestamp,
    pub times: u64,
    /// The names of their errors, each once.
    pub errors: Vec<String>,
}

/// Whether the history has to tell a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    Yes,
    No,
}

impl Sound {
    pub fn new(when: Timestamp, source: &Source, offer: &Offer) -> Self {
        Self {
            when,
            repository: source.repository.to_string(),
            channel: offer.channel.clone(),
            versions: offer.versions.clone(),
        }
    }

    /// Returns what it found, if `source` is where it looked.
    pub fn offer_of(&self, source: &Source) -> Option<Offer> {
        let same = self.repository == source.repository.to_string()
            && self.channel.channel == source.channel;
        same.then(|| Offer {
            channel: self.channel.clone(),
            versions: self.versions.clone(),
        })
    }
}

impl Checks {
    /// Notes a check that went well, and returns the run of failures that it ends.
    pub fn succeed(&mut self, sound: Option<Sound>) -> Option<Failing> {
        self.sound = sound;
        self.failing.take()
    }

    /// Notes a check that failed.
    pub fn fail(&mut self, name: ErrorName, now: Timestamp) -> Tell {
        let failing = self.failing.get_or_insert_with(|| Failing {
            since: now,
            times: 0,
            errors: vec![],
        });
        failing.times = failing.times.saturating_add(1);
        let name = name.short();
        if failing.errors.iter().any(|told| told == name) {
            return Tell::No;
        }
        failing.errors.push(name.to_owned());
        Tell::Yes
    }
}

impl Failing {
    /// Returns what the history says at its end.
    pub fn describe(&self) -> String {
        let Self {
            since,
            times,
            errors,
        } = self;
        let checks = if *times == 1 { "check" } else { "checks" };
        let since = since.strftime("%Y-%m-%d %H:%M UTC");
        format!(
            "after {times} {checks} that failed, the first {since} ({})",
            errors.join(", ")
        )
    }
}

/// The channel as its own file says it, so that one that makes no sense is none.
mod channel_file {
    use release::Channel;
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(channel: &Channel, to: S) -> Result<S::Ok, S::Error> {
        let bytes = channel.to_bytes().map_err(S::Error::custom)?;
        let value: Value = serde_json::from_slice(&bytes).map_err(S::Error::custom)?;
        value.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Channel, D::Error> {
        let value = Value::deserialize(from)?;
        Channel::parse(value.to_string().as_bytes()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use release::ChannelName;
    use release::rollout::Rollout;

    use super::*;
    use crate::config::Repository;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn source(repository: &str, channel: &str) -> Source {
        Source {
            repository: Repository::parse(repository).unwrap(),
            channel: ChannelName::parse(channel).unwrap(),
        }
    }

    fn offer() -> Offer {
        let versions = ["2.0", "1.0~rc1"].map(|text| Version::parse(text).unwrap());
        Offer {
            channel: Channel {
                channel: ChannelName::parse("stable").unwrap(),
                release: versions[0].clone(),
                releases: versions.to_vec(),
                rollout: Some(Rollout {
                    share: 2500,
                    seed: "2.0".to_owned(),
                }),
            },
            versions: versions.to_vec(),
        }
    }

    #[test]
    fn a_month_without_a_network_is_told_by_its_first_failure_and_by_its_end() {
        let mut checks = Checks::default();
        let since = at("2026-11-21T16:00:00Z");
        let mut told = 0;
        for number in 0..30 * 96 {
            let now = since + jiff::SignedDuration::from_mins(15 * number);
            if checks.fail(ErrorName::RepositoryUnreachable, now) == Tell::Yes {
                told += 1;
                assert_eq!(number, 0);
            }
        }
        assert_eq!(told, 1);
        let sound = Sound::new(since, &source("http://h/", "stable"), &offer());
        let run = checks.succeed(Some(sound.clone())).unwrap();
        assert_eq!(
            run.describe(),
            "after 2880 checks that failed, the first 2026-11-21 16:00 UTC (RepositoryUnreachable)"
        );
        assert_eq!(checks.succeed(Some(sound)), None);
        // The next run is told anew.
        let name = ErrorName::RepositoryUnreachable;
        assert_eq!(checks.fail(name, since), Tell::Yes);
    }

    #[test]
    fn errors_that_take_turns_are_told_once_each() {
        let mut checks = Checks::default();
        let now = at("2026-11-21T16:00:00Z");
        let names = [
            ErrorName::RepositoryUnreachable,
            ErrorName::MetadataUntrusted,
        ];
        let told = (0..100).filter(|number| checks.fail(names[number % 2], now) == Tell::Yes);
        assert_eq!(told.collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn what_a_check_found_outlasts_the_record_and_is_its_own_sources_alone() {
        let here = source("http://h/", "stable");
        let checks = Checks {
            sound: Some(Sound::new(at("2026-11-21T16:00:00Z"), &here, &offer())),
            failing: None,
        };
        let written = serde_json::to_vec(&checks).unwrap();
        let read: Checks = serde_json::from_slice(&written).unwrap();
        assert_eq!(read, checks);
        let sound = read.sound.unwrap();
        assert_eq!(sound.offer_of(&here), Some(offer()));
        assert_eq!(sound.offer_of(&source("http://other/", "stable")), None);
        assert_eq!(sound.offer_of(&source("http://h/", "canary")), None);
    }

    #[test]
    fn a_channel_that_makes_no_sense_is_none() {
        let here = source("http://h/", "stable");
        let sound = Sound::new(at("2026-11-21T16:00:00Z"), &here, &offer());
        let mut value = serde_json::to_value(&sound).unwrap();
        value["channel"]["releases"] = serde_json::json!(["1.0", "2.0"]);
        assert!(serde_json::from_value::<Sound>(value).is_err());
    }
}
