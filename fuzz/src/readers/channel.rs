//! The file that says which release the nodes of a channel shall run.

use partition_layout::Version;
use release::limits::{MAX_CHANNEL_BYTES, MAX_CHANNEL_RELEASES};
use release::rollout::EVERYBODY;
use release::{Channel, ChannelName, Rollout};

use crate::Outcome;

const MACHINE: &str = "0123456789abcdef0123456789abcdef";

pub(crate) fn read(input: &[u8]) -> Outcome {
    let Ok(channel) = Channel::parse(input) else {
        return Outcome::Refused;
    };
    let bytes = channel.to_bytes().expect("what was read keeps every limit");
    assert!(bytes.len() as u64 <= MAX_CHANNEL_BYTES);
    let again = Channel::parse(&bytes).expect("what was written is read");
    assert_eq!(again, channel, "it survives being written");
    assert_eq!(again.to_bytes().as_ref(), Ok(&bytes), "there is one file");
    assert!(channel.releases.len() <= MAX_CHANNEL_RELEASES);
    assert!(
        channel.releases.is_sorted_by(|newer, older| newer > older),
        "the newest comes first"
    );
    assert!(channel.releases.contains(&channel.release));
    if let Some(rollout) = &channel.rollout {
        assert!(rollout.share <= EVERYBODY);
        let all = Rollout {
            share: EVERYBODY,
            ..rollout.clone()
        };
        assert!(all.admits(MACHINE), "all are among all");
    }
    Outcome::Accepted
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let version = |text: &&str| Version::parse(text).expect("a good version");
    let of = |releases: &[&str], rollout| Channel {
        channel: ChannelName::parse("stable").expect("a good name"),
        release: version(&"2.0"),
        releases: releases.iter().map(version).collect(),
        rollout,
    };
    let rollout = Rollout {
        share: 2500,
        seed: "2.0".to_owned(),
    };
    [
        of(&["2.0"], None),
        of(&["2.1~rc1", "2.0", "1.9-4", "1.0^1"], Some(rollout)),
    ]
    .map(|channel| channel.to_bytes().expect("a sound channel"))
    .into()
}
