//! What the node may do by itself, and when: a pure function of the settings,
//! of what the channel offers, of the node, and of the time.
//!
//! ```text
//! automatic   off ──▶ check ──▶ stage ──▶ reboot      each does what is left of it too
//!                       │         └────┬────┘
//!             at any time,             only in a window, only if the rollout's share has come to
//!             every six hours          this node, never what failed here or is older
//! ```
//! [`decide`] is asked again and again, by a timer; it remembers nothing. What it
//! does not do it gives a reason for ([`Held`]). Operators are not held by any of
//! this: they ask the machine directly.

mod held;
mod window;

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use partition_layout::Version;
use release::ChannelName;
use release::rollout::place;

pub use self::held::Held;
pub use self::window::{BadDays, BadTimeOfDay, BadZone, Days, TimeOfDay, Window, Windows, Zone};
use crate::config::Repository;
use crate::machine::State;
use crate::node::Node;
use crate::ports::Offer;

/// From one look at the repository to the next, at least.
const CHECK_EVERY: SignedDuration = SignedDuration::from_hours(6);
/// What each node waits beyond that, by a share of its own, lest a fleet that was
/// started together asks together.
const CHECK_SPREAD: SignedDuration = SignedDuration::from_hours(1);
/// How old the channel's word may be for staging or rebooting on it: a rollout that was
/// stopped is stopped within this time. Longer than it is from one `Proceed` of the timer
/// to the next, so that the one after a check finds it fresh.
const FRESH: SignedDuration = SignedDuration::from_mins(30);
/// A release that could not be staged is left alone so long: long enough that a
/// server in trouble is not made to fall over, short enough for tonight's window.
const RETRY_AFTER: SignedDuration = SignedDuration::from_hours(1);
/// A release whose staging somebody cancelled is left alone so long.
const LEAVE_ALONE: SignedDuration = SignedDuration::from_hours(24);

/// How far a node goes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Automatic {
    Off,
    /// Looks what there is.
    Check,
    /// Also writes it to the spare slot.
    Stage,
    /// Also reboots into it.
    Reboot,
}

/// A text does not say how far.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is {0:?}; off, check, stage and reboot are known")]
pub struct BadAutomatic(String);

impl Automatic {
    /// Returns how far `text` says.
    pub fn parse(text: &str) -> Result<Self, BadAutomatic> {
        [Self::Off, Self::Check, Self::Stage, Self::Reboot]
            .into_iter()
            .find(|each| each.as_str() == text)
            .ok_or_else(|| BadAutomatic(text.to_owned()))
    }

    /// Returns the word in the settings and on the bus.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Check => "check",
            Self::Stage => "stage",
            Self::Reboot => "reboot",
        }
    }
}

/// The part of the settings that decides what the node does by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub automatic: Automatic,
    pub windows: Windows,
    /// Where releases come from, if anybody said so.
    pub source: Option<Source>,
    /// How often a trial may be attempted when nobody says otherwise.
    pub tries: u32,
    /// Why the settings could not be read the last time, if so: these are then
    /// older ones, or the defaults.
    pub mistake: Option<String>,
}

/// Whose word an offer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub repository: Repository,
    pub channel: ChannelName,
}

/// The identity of this node, of which only hashes leave the daemon.
#[derive(Clone, PartialEq, Eq)]
pub struct MachineId(String);

impl MachineId {
    /// Takes what `/etc/machine-id` holds. A node without one has a place in
    /// every rollout all the same: that of all nodes without one.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }
}

/// It is not for logs.
impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MachineId")
    }
}

/// An attempt of the policy's to stage a release that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub version: Version,
    pub when: Timestamp,
    pub end: AttemptEnd,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptEnd {
    Failed { message: String },
    Cancelled,
}

/// Who heard what the last check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// This run of the daemon.
    Heard,
    /// An earlier one, which wrote it down. It tells when to look again, and is no ground to
    /// act on: the clock of a machine that was switched off may have stood still meanwhile.
    Remembered,
}

/// How things stand.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub state: &'a State,
    /// What the last check found.
    pub offer: Option<&'a Offer>,
    pub last_check: Option<Timestamp>,
    pub word: Word,
    pub last_attempt: Option<&'a Attempt>,
    pub machine_id: &'a MachineId,
}

/// What the node does by itself now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Nothing(Held),
    Check,
    Stage(Version),
    Reboot,
}

/// Decides what the node does by itself at `now`.
pub fn decide(rules: &Rules, situation: &Situation<'_>, now: Timestamp) -> Decision {
    match consider(rules, situation, now) {
        Ok(decision) => decision,
        Err(held) => Decision::Nothing(held),
    }
}

fn consider(rules: &Rules, situation: &Situation<'_>, now: Timestamp) -> Result<Decision, Held> {
    if rules.automatic == Automatic::Off {
        return Err(match &rules.mistake {
            Some(mistake) => Held::BadSettings(mistake.clone()),
            None => Held::Off,
        });
    }
    let node = at_rest(situation.state)?;
    let Some(source) = &rules.source else {
        return Err(Held::NoRepository);
    };
    if check_is_due(situation, now) {
        return Ok(Decision::Check);
    }
    // A check is due as long as there is none, or another channel's.
    let is_followed = |offer: &&Offer| offer.channel.channel == source.channel;
    let Some(offer) = situation.offer.filter(is_followed) else {
        return Ok(Decision::Check);
    };
    let offered = &offer.channel.release;
    if let Some((staged, _)) = node.staged() {
        if staged == offered {
            return reboot(rules, situation, offer, now);
        }
        if staged > offered {
            return Err(Held::OtherStaged {
                staged: staged.clone(),
                offered: offered.clone(),
            });
        }
    }
    stage(rules, situation, offer, now)
}

/// Returns the node if nothing is under way and its booted slot is good.
fn at_rest(state: &State) -> Result<&Node, Held> {
    match state {
        State::Idle { node } | State::Staged { node } => Ok(node),
        State::Trial { .. } | State::LastResort { .. } | State::Condemned { .. } => {
            Err(Held::NotGood(state.name()))
        }
        State::Settling { .. }
        | State::Checking { .. }
        | State::Resolving { .. }
        | State::Planning { .. }
        | State::Staging { .. }
        | State::Clearing { .. }
        | State::RollingBack { .. }
        | State::Marking { .. }
        | State::Watching { .. }
        | State::Forgiving { .. }
        | State::Rebooting { .. } => Err(Held::Busy(state.name())),
    }
}

fn check_is_due(situation: &Situation<'_>, now: Timestamp) -> bool {
    let Some(last) = situation.last_check else {
        return true;
    };
    let share = i32::try_from(place("check", &situation.machine_id.0)).unwrap_or(0);
    let every = CHECK_EVERY + CHECK_SPREAD * share / PLACES;
    // The clock may have been set back since.
    last > now || now.duration_since(last) >= every
}

/// As many places as a rollout has.
const PLACES: i32 = 10_000;

fn stage(
    rules: &Rules,
    situation: &Situation<'_>,
    offer: &Offer,
    now: Timestamp,
) -> Result<Decision, Held> {
    let node = situation.state.node();
    let version = &offer.channel.release;
    let booted = &node.booted.version;
    if version == booted {
        return Err(Held::UpToDate(version.clone()));
    }
    if let Some(floor) = &node.floor
        && version < floor
    {
        let (version, floor) = (version.clone(), floor.clone());
        return Err(Held::BelowFloor { version, floor });
    }
    if version < booted {
        let (version, booted) = (version.clone(), booted.clone());
        return Err(Held::Older { version, booted });
    }
    // By its name, as its root hash is known only once the release file is read.
    // The same image under another name is refused then.
    if let Some(barred) = node.barred.iter().find(|each| each.version == *version) {
        let (version, reason) = (version.clone(), barred.reason.clone());
        return Err(Held::Barred { version, reason });
    }
    if rules.automatic < Automatic::Stage {
        return Err(Held::OnlyChecks(version.clone()));
    }
    hold_for_rollout(situation, offer)?;
    hold_after_attempt(situation, version, now)?;
    hold_for_window(rules, version, now)?;
    Ok(on_fresh_word(
        Decision::Stage(version.clone()),
        situation,
        now,
    ))
}

/// Returns what was decided if the channel was read just now, by us, or else to read it first.
fn on_fresh_word(decision: Decision, situation: &Situation<'_>, now: Timestamp) -> Decision {
    match is_fresh(situation.last_check, now) && situation.word == Word::Heard {
        true => decision,
        false => Decision::Check,
    }
}

/// Tells whether the channel was read a short time ago.
pub fn is_fresh(last_check: Option<Timestamp>, now: Timestamp) -> bool {
    last_check.is_some_and(|last| last <= now && now.duration_since(last) <= FRESH)
}

fn reboot(
    rules: &Rules,
    situation: &Situation<'_>,
    offer: &Offer,
    now: Timestamp,
) -> Result<Decision, Held> {
    let version = &offer.channel.release;
    if rules.automatic < Automatic::Reboot {
        return Err(Held::OnlyStages(version.clone()));
    }
    // A rollout that was stopped holds those too that have staged already.
    hold_for_rollout(situation, offer)?;
    hold_for_window(rules, version, now)?;
    Ok(on_fresh_word(Decision::Reboot, situation, now))
}

fn hold_for_rollout(situation: &Situation<'_>, offer: &Offer) -> Result<(), Held> {
    let Some(rollout) = &offer.channel.rollout else {
        return Ok(());
    };
    let place = place(&rollout.seed, &situation.machine_id.0);
    if place < rollout.share {
        return Ok(());
    }
    Err(Held::Rollout {
        version: offer.channel.release.clone(),
        share: rollout.share,
        place,
    })
}

fn hold_after_attempt(
    situation: &Situation<'_>,
    version: &Version,
    now: Timestamp,
) -> Result<(), Held> {
    let Some(attempt) = situation.last_attempt else {
        return Ok(());
    };
    let pause = match &attempt.end {
        AttemptEnd::Failed { .. } => RETRY_AFTER,
        AttemptEnd::Cancelled => LEAVE_ALONE,
    };
    let rested = attempt.when > now || now.duration_since(attempt.when) >= pause;
    if attempt.version != *version || rested {
        return Ok(());
    }
    let again = attempt.when.checked_add(pause).unwrap_or(now);
    Err(Held::Attempt {
        version: version.clone(),
        end: attempt.end.clone(),
        again,
    })
}

fn hold_for_window(rules: &Rules, version: &Version, now: Timestamp) -> Result<(), Held> {
    if rules.windows.is_open(now) {
        return Ok(());
    }
    Err(Held::WindowClosed {
        version: version.clone(),
        opens: rules.windows.next_opening(now),
    })
}

#[cfg(test)]
mod tests;
