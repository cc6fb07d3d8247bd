use std::fs;

use image::repository::{
    ChannelError, Expiries, PublishError, RolledOut, RolloutError, Share, publish, roll_out,
};
use jiff::Timestamp;
use release::{Channel, ChannelName, Rollout};

use crate::fixture::{Site, stable, version};

fn share(text: &str) -> Share {
    text.parse().expect("a share")
}

fn rolled_out(site: &Site, text: &str) -> Result<RolledOut, RolloutError> {
    let (channel, expiries) = (stable(), Expiries::default());
    let now = Timestamp::now();
    roll_out(
        &mut site.lock(),
        &site.keys,
        &channel,
        share(text),
        &expiries,
        now,
    )
}

/// Returns the rollout of the newest channel file.
fn rollout(site: &Site) -> Option<Rollout> {
    let channels = site.files().into_keys();
    let channels = channels.filter(|path| path.to_string_lossy().contains("stable.channel.json"));
    let modified = |path: &std::path::PathBuf| {
        let data = fs::metadata(path).expect("a file");
        data.modified().expect("a time")
    };
    let newest = channels.max_by_key(modified).expect("a channel");
    let channel = Channel::parse(&fs::read(newest).expect("a file")).expect("a channel");
    channel.rollout
}

#[test]
fn a_rollout_grows_with_the_same_seed_and_ends_as_none() {
    let site = Site::with(&["1", "2"]);
    assert_eq!(rollout(&site), None);
    let first = rolled_out(&site, "25").expect("a rollout");
    assert_eq!((&first.version, first.before), (&version("2"), Share::ALL));
    assert_eq!(first.expires.len(), 3);
    let quarter = rollout(&site).expect("a rollout");
    assert_eq!((quarter.share, quarter.seed.as_str()), (2500, "2"));
    assert_eq!(site.problems(), [""; 0]);

    let files = site.files();
    let same = rolled_out(&site, "25.00").expect("nothing to do");
    assert_eq!((same.before, same.expires), (share("25"), Vec::new()));
    assert!(site.files() == files);

    rolled_out(&site, "60").expect("a rollout");
    let more = rollout(&site).expect("a rollout");
    assert_eq!((more.share, more.seed), (6000, quarter.seed));
    rolled_out(&site, "0").expect("stopped");
    assert_eq!(rollout(&site).map(|rollout| rollout.share), Some(0));
    rolled_out(&site, "100").expect("everybody");
    assert_eq!(rollout(&site), None);
    assert_eq!(site.problems(), [""; 0]);
}

#[test]
fn a_new_release_draws_anew_and_an_older_one_leaves_the_rollout_alone() {
    let site = Site::with(&["2"]);
    let published = |version: &str, text: Option<&str>| {
        let (image, channel, expiries) = (site.image(version), stable(), Expiries::default());
        let mut request = site.request(&image, &channel, &expiries);
        request.share = text.map(share);
        publish(&mut site.lock(), &request)
    };
    assert_eq!(
        published("3", Some("5")).expect("a release").share,
        share("5")
    );
    let drawn = rollout(&site).expect("a rollout");
    assert_eq!((drawn.share, drawn.seed.as_str()), (500, "3"));
    assert_eq!(published("1", None).expect("a release").share, share("5"));
    assert_eq!(rollout(&site), Some(drawn));
    let error = published("1", Some("5")).expect_err("nobody is sent back to 1");
    let PublishError::Channel {
        source: ChannelError::ShareOfAnother { current, .. },
        ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(current, version("3"));
    assert_eq!(
        published("4", Some("1")).expect("a release").share,
        share("1")
    );
    assert_eq!(
        rollout(&site).map(|rollout| rollout.seed),
        Some("4".to_owned())
    );
    assert_eq!(published("5", None).expect("a release").share, Share::ALL);
    assert_eq!(rollout(&site), None);
}

#[test]
fn a_channel_that_is_not_there_is_not_made_by_a_rollout() {
    let site = Site::with(&["1"]);
    let channel = ChannelName::parse("beta").expect("a name");
    let before = site.files();
    let error = roll_out(
        &mut site.lock(),
        &site.keys,
        &channel,
        share("5"),
        &Expiries::default(),
        Timestamp::now(),
    );
    let error = error.expect_err("no such channel");
    let RolloutError::Channel {
        source: ChannelError::NoSuchChannel,
        ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(site.files() == before);
}
