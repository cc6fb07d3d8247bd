//! The wall's clock far off, and on the move. Nothing that is armed rests on it.

use jiff::Timestamp;
use updater::driver::Accepted;
use updater::machine::{Outcome, Request};
use updater::policy::{Automatic, Days, Rules, TimeOfDay, Window, Windows, Zone};
use updater::ports::Clock;

use super::fake::{FakeNode, HandClock, Image, JumpingClock};
use super::gate::{Daemon, bad, outcome, rules};
use super::network::{FakeRepository, Lie, Which, image, version};

/// The epoch, which a machine without a battery starts at; far ahead; and as far as
/// calendars go.
const TIMES: [&str; 4] = [
    "1970-01-01T00:00:00Z",
    "2100-02-28T23:59:59Z",
    "9999-12-30T22:00:00Z",
    "-009999-01-03T00:00:00Z",
];

struct Stand {
    node: FakeNode,
    repository: FakeRepository,
    images: [Image; 3],
}

impl Stand {
    fn new() -> Self {
        let made = [1, 2, 3].map(|number: u8| image(&number.to_string(), number, 300));
        let node = FakeNode::running(&made[0].1);
        let repository = FakeRepository::with(&made.each_ref());
        Self {
            node,
            repository,
            images: made.map(|(_, image)| image),
        }
    }

    async fn daemon(&self, clock: &impl Clock, rules: Rules) -> Daemon {
        let (node, repository) = (&self.node, &self.repository);
        let started = Daemon::with(node, repository, clock.clone(), rules).await;
        started.unwrap()
    }

    /// An update that proves good, one that does not, and what is told of them.
    async fn live(&self, clock: &impl Clock) {
        let images: Vec<_> = self.images.iter().collect();
        let start = async || self.daemon(clock, rules(Automatic::Off)).await;

        let daemon = start().await;
        self.repository.lie(Lie::Flip(Which::Root, 4096 * 7));
        let Outcome::Failed(_) = daemon.stage("2").await else {
            panic!("a block that is not the image's was taken");
        };
        assert_eq!(self.node.entry_names(), ["bistable_1.efi"]);
        self.repository.lie(Lie::None);
        assert_eq!(daemon.stage("2").await, Outcome::Done);
        daemon.stop().await;
        assert_eq!(self.node.armed_but_broken(&images), None);

        assert_eq!(self.node.power_cycle(&images).1, version("2"));
        let daemon = start().await;
        daemon.handle.request(Request::MarkGood).await.unwrap();
        assert_eq!(daemon.stage("3").await, Outcome::Done);
        daemon.stop().await;

        assert_eq!(self.node.power_cycle(&images).1, version("3"));
        let daemon = start().await;
        daemon.handle.request(bad("sick")).await.unwrap();
        daemon.stop().await;
        assert_eq!(self.node.power_cycle(&images).1, version("2"));

        let daemon = start().await;
        let node = daemon.handle.view().node.clone();
        let told: Vec<_> = node
            .history
            .iter()
            .map(|line| line.event.as_str())
            .collect();
        assert_eq!(
            told,
            [
                "stage-failed",
                "staged",
                "good",
                "staged",
                "bad",
                "rolled-back"
            ],
            "nothing is lost, and all in the order in which it was"
        );
        assert_eq!(node.barred.len(), 1);
        assert_eq!(node.last_rollback.unwrap().version, version("3"));
        let again = daemon.stage("3").await;
        assert!(matches!(again, Outcome::Failed(_)), "{again:?}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn whatever_the_clock_says_updates_and_rollbacks_go_as_ever() {
    for time in TIMES {
        Stand::new().live(&HandClock::at(time)).await;
    }
}

#[tokio::test]
async fn a_clock_that_jumps_by_years_between_any_two_steps_changes_nothing() {
    let clock = JumpingClock::around("2026-11-21T23:00:00Z", 130);
    Stand::new().live(&clock).await;
    assert!(clock.looks() > 50, "{} looks", clock.looks());
}

fn at_night(automatic: Automatic) -> Rules {
    let window = Window {
        days: Days::parse("daily").unwrap(),
        from: TimeOfDay::parse("22:00").unwrap(),
        to: TimeOfDay::parse("04:00").unwrap(),
        zone: Zone::parse("Europe/Berlin").unwrap(),
    };
    Rules {
        windows: Windows::new(vec![window]),
        ..rules(automatic)
    }
}

async fn proceed(daemon: &Daemon) -> &'static str {
    match daemon.handle.proceed().await.unwrap() {
        Accepted::Job(mut job) => {
            outcome(&mut job).await;
            job.kind.as_str()
        }
        Accepted::Done => "reboot",
        Accepted::Nothing => "nothing",
    }
}

#[tokio::test]
async fn windows_and_checks_can_be_asked_for_at_any_time_that_a_clock_may_show() {
    let windows = at_night(Automatic::Off).windows;
    for time in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        // There may be no opening any more; that it is told is all.
        let (open, next) = (windows.is_open(time), windows.next_opening(time));
        assert!(
            next.is_none_or(|next| next > time),
            "{time}: {open}, {next:?}"
        );
    }
    for time in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        let stand = Stand::new();
        let clock = HandClock::at(&time.to_string());
        let daemon = stand.daemon(&clock, at_night(Automatic::Reboot)).await;
        assert_eq!(proceed(&daemon).await, "check", "{time}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_clock_that_went_on_and_back_stops_no_update_for_longer_than_it_is_wrong() {
    let stand = Stand::new();
    let clock = HandClock::at("2026-11-21T12:00:00Z");
    let daemon = stand.daemon(&clock, at_night(Automatic::Stage)).await;
    for wrong in TIMES {
        clock.set(wrong);
        // By day or by night, by that clock: a stage has to be in a window of it.
        for _ in 0..3 {
            proceed(&daemon).await;
        }
        clock.set("2026-11-21T12:00:00Z");
        assert_eq!(proceed(&daemon).await, "check", "after {wrong}");
        assert_eq!(
            proceed(&daemon).await,
            "nothing",
            "no window is open, after {wrong}"
        );
    }
    clock.set("2026-11-21T23:00:00Z");
    for _ in 0..2 {
        proceed(&daemon).await;
    }
    daemon.stop().await;
    let entries = stand.node.entry_names();
    assert_eq!(entries, ["bistable_1.efi", "bistable_3+3.efi"]);
    let images: Vec<_> = stand.images.iter().collect();
    assert_eq!(stand.node.armed_but_broken(&images), None);
}

#[tokio::test]
async fn a_stage_of_the_nodes_own_outlasts_a_clock_that_jumps_out_of_the_window() {
    let stand = Stand::new();
    let clock = HandClock::at("2026-11-21T23:00:00Z");
    let daemon = stand.daemon(&clock, at_night(Automatic::Stage)).await;
    assert_eq!(proceed(&daemon).await, "check");
    stand.node.barrier.close();
    let Accepted::Job(mut job) = daemon.handle.proceed().await.unwrap() else {
        panic!("nothing is staged");
    };
    stand.node.barrier.holds().await;
    for (time, paused) in [
        ("2100-06-01T12:00:00Z", true),
        ("2026-11-21T23:10:00Z", false),
        ("1970-01-01T12:00:00Z", true),
        ("2026-11-21T23:20:00Z", false),
    ] {
        clock.set(time);
        daemon.handle.look_at_clock().await;
        let held = async || job.work.borrow().holder.is_some();
        // Whatever was asked before has been heard when this is answered.
        drop(daemon.handle.proceed().await);
        assert_eq!(held().await, paused, "at {time}");
    }
    stand.node.barrier.open();
    assert_eq!(outcome(&mut job).await, Outcome::Done);
    daemon.stop().await;
}
