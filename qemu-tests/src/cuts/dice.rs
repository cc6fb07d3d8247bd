//! Chance that can be had again.

/// A row of numbers that follows from its seed.
///
/// SplitMix64, by Steele, Lea and Flood ("Fast splittable pseudorandom number
/// generators", 2014): ten lines, and the same row on every machine for ever.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Begins the row of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Begins a row that belongs to `parts`, for instance a seed and a place.
    pub fn of(parts: &[u64]) -> Self {
        let mixed = parts.iter().fold(0, |sum, part| mix(sum ^ *part));
        Self(mixed)
    }

    /// Returns the next number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Returns a number below `end`; 0 when there is none.
    pub const fn below(&mut self, end: u64) -> u64 {
        match end {
            0 => 0,
            end => self.roll() % end,
        }
    }

    /// Tosses a coin.
    pub const fn coin(&mut self) -> Coin {
        if self.roll() & 1 == 0 {
            Coin::Heads
        } else {
            Coin::Tails
        }
    }

    /// Puts `items` in another order, each equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = self.below(end as u64 + 1);
            items.swap(end, usize::try_from(other).unwrap_or(end));
        }
    }
}

/// A side of a coin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Coin {
    /// The one.
    Heads,
    /// The other.
    Tails,
}

/// Makes of a number another one, so that close ones come to lie far apart.
pub const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_that_of_the_published_generator() {
        // The first numbers for the seed 1234567 that its authors' C program prints.
        let mut dice = Dice::new(1_234_567);
        let row: Vec<_> = (0..3).map(|_| dice.roll()).collect();
        assert_eq!(
            row,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn what_is_shuffled_is_all_there() {
        let mut items: Vec<u32> = (0..100).collect();
        Dice::new(5).shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
