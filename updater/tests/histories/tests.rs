//! Histories from the first to the last, and how many one likes.

use std::env;
use std::fs;
use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::life::{Tally, Violation, live};
use crate::node::Flaw;

/// Has one history told again, by its number, and nothing else.
const HISTORY: &str = "BISTABLE_HISTORY";
/// What a torture is asked for.
const SEED: &str = "BISTABLE_TORTURE_SEED";
const MINUTES: &str = "BISTABLE_TORTURE_MINUTES";
/// The file for the numbers.
const TABLE: &str = "BISTABLE_TORTURE_TABLE";
const HISTORIES: u64 = 150;
const TURNS: usize = 12;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn shout(seed: u64, violation: &Violation) -> ! {
    panic!(
        "{}\n{HISTORY}={seed:#x} tells this history again:\n{}",
        violation.what, violation.log
    );
}

#[tokio::test]
async fn whatever_a_node_lives_through_a_good_slot_boots_and_updates_go_on() {
    let mut sum = Tally::default();
    let asked = number(HISTORY);
    for seed in asked.map_or(0..HISTORIES, |seed| seed..seed + 1) {
        match live(seed, TURNS, Flaw::None).await {
            Ok(tally) => sum.add(tally),
            Err(violation) => shout(seed, &violation),
        }
    }
    if asked.is_some() {
        return;
    }
    // They are about something.
    assert!(sum.cuts > HISTORIES && sum.judged > 5 * sum.cuts, "{sum:?}");
    assert!(sum.staged > HISTORIES && sum.good > HISTORIES, "{sum:?}");
    assert!(
        sum.failed > 0 && sum.rolled_back > 0 && sum.mended > 0,
        "{sum:?}"
    );
}

/// Each mistake is found by some history, or the histories would show nothing.
#[tokio::test]
async fn planted_mistakes_are_found() {
    for flaw in [
        Flaw::RootStaysInTheCache,
        Flaw::KernelStaysInTheCache,
        Flaw::EntriesAreUnlinked,
        Flaw::ReadBackFromMemory,
        Flaw::NothingIsDisarmed,
    ] {
        let mut found = None;
        for seed in 0..5 * HISTORIES {
            if let Err(violation) = live(seed, TURNS, flaw).await {
                found = Some(violation);
                break;
            }
        }
        assert!(found.is_some(), "{flaw:?} is not found");
    }
}

/// As many histories as one likes: `cargo xtask torture`.
#[tokio::test]
#[ignore = "takes as long as it is told: `cargo xtask torture`"]
async fn torture_by_histories() {
    let mut dice = Dice::new(number(SEED).unwrap_or_default());
    let minutes = number(MINUTES).unwrap_or(1);
    let begun = Instant::now();
    let mut sum = Tally::default();
    while begun.elapsed() < Duration::from_secs(60 * minutes) {
        let seed = dice.roll();
        match live(seed, TURNS, Flaw::None).await {
            Ok(tally) => sum.add(tally),
            Err(violation) => shout(seed, &violation),
        }
    }
    if let Some(path) = env::var_os(TABLE) {
        fs::write(path, sum.to_string()).unwrap();
    }
}
