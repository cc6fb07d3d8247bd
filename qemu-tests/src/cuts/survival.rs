//! What of the writes since the last flush is on a disk when the power fails.

use std::fmt;

use super::dice::{Coin, Dice};
use super::medium::Medium;
use super::write_log::Write;

/// How the writes since the last flush survive.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Survival {
    /// None does.
    Lost,
    /// The first so many do, in their order: the last of these is the cut.
    Cut(usize),
    /// All do, but this one.
    Missing(usize),
    /// None does, but this one.
    Alone(usize),
    /// Some do, by chance.
    Some(u64),
    /// Some do, in another order: of two that met in a sector, the older one may stay.
    Reordered(u64),
    /// Some do, and of each only some sectors.
    Torn(u64),
}

impl Survival {
    /// Returns what it is called in a table.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Cut(_) => "cut",
            Self::Missing(_) => "one missing",
            Self::Alone(_) => "one alone",
            Self::Some(_) => "some",
            Self::Reordered(_) => "reordered",
            Self::Torn(_) => "torn",
        }
    }

    /// Writes to `medium` what survives of `writes`.
    pub fn enact(self, writes: &[Write], medium: &mut Medium<'_>) {
        let whole = |medium: &mut Medium<'_>, write: &Write| medium.write(write);
        match self {
            Self::Lost => {}
            Self::Cut(count) => writes
                .iter()
                .take(count)
                .for_each(|write| whole(medium, write)),
            Self::Missing(place) => {
                let others = (0..)
                    .zip(writes)
                    .filter(|(at, _): &(usize, _)| *at != place);
                others.for_each(|(_, write)| whole(medium, write));
            }
            Self::Alone(place) => writes
                .iter()
                .skip(place)
                .take(1)
                .for_each(|write| whole(medium, write)),
            Self::Some(seed) => {
                let mut dice = Dice::new(seed);
                let survivors = survivors(writes, &mut dice);
                survivors.iter().for_each(|write| whole(medium, write));
            }
            Self::Reordered(seed) => {
                let mut dice = Dice::new(seed);
                let mut survivors = survivors(writes, &mut dice);
                dice.shuffle(&mut survivors);
                survivors.iter().for_each(|write| whole(medium, write));
            }
            Self::Torn(seed) => {
                let mut dice = Dice::new(seed);
                for write in survivors(writes, &mut dice) {
                    tear(&write, &mut dice, medium);
                }
            }
        }
    }
}

impl fmt::Display for Survival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::Lost => Ok(()),
            Self::Cut(number) | Self::Missing(number) | Self::Alone(number) => {
                write!(f, " ({number})")
            }
            Self::Some(seed) | Self::Reordered(seed) | Self::Torn(seed) => {
                write!(f, " ({seed:#x})")
            }
        }
    }
}

/// Draws a cut, and what survives of the writes before it: often nearly all or nearly
/// none, as a disk's cache keeps or loses much at a time.
fn survivors(writes: &[Write], dice: &mut Dice) -> Vec<Write> {
    let cut = usize::try_from(dice.below(writes.len() as u64 + 1)).unwrap_or_default();
    let of_eight = 1 + dice.below(7);
    let before = writes.iter().take(cut.max(1));
    before
        .filter(|_| dice.below(8) < of_eight)
        .copied()
        .collect()
}

/// Writes a part of `write`: up to a sector or from it on, or sectors by chance.
fn tear(write: &Write, dice: &mut Dice, medium: &mut Medium<'_>) {
    let border = dice.below(write.sectors + 1);
    match (dice.coin(), dice.coin()) {
        (Coin::Heads, Coin::Heads) => medium.write_sectors(write, 0..border),
        (Coin::Heads, Coin::Tails) => medium.write_sectors(write, border..write.sectors),
        (Coin::Tails, _) => {
            for sector in 0..write.sectors {
                if dice.coin() == Coin::Heads {
                    medium.write_sectors(write, sector..sector + 1);
                }
            }
        }
    }
}
