//! Who of a fleet takes a release when.
//!
//! A channel file may hold back its release from a share of the nodes. Each
//! node finds its place between 0 and 9999 by itself, always the same one for
//! the same seed: as the share grows, nodes join and none leaves. A new seed
//! draws anew, so that not the same nodes go first each time.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::document::{BadDocument, Fields, Problem};
use crate::limits::MAX_SEED_BYTES;

/// All nodes, in hundredths of a percent.
pub const EVERYBODY: u32 = 10_000;

/// How far a release has been rolled out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rollout {
    /// The share of nodes that may take the release, in hundredths of a
    /// percent: 0 to [`EVERYBODY`].
    pub share: u32,
    /// What the nodes' places are drawn from.
    pub seed: String,
}

impl Rollout {
    /// Returns whether the node with this machine-id is among the share.
    pub fn admits(&self, machine_id: &str) -> bool {
        place(&self.seed, machine_id) < self.share
    }

    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, BadDocument> {
        let share = fields.number("share")?;
        Ok(Self {
            share: u32::try_from(share).map_err(|_| fields.bad("share", too_much(share)))?,
            seed: fields.text("seed")?.to_owned(),
        })
    }

    pub(crate) fn check(&self) -> Result<(), BadDocument> {
        if self.share > EVERYBODY {
            return Err(BadDocument::field(
                "rollout.share",
                too_much(self.share.into()),
            ));
        }
        let plain = |byte: u8| byte.is_ascii_graphic();
        let length = self.seed.len();
        if length == 0 || length > MAX_SEED_BYTES || !self.seed.bytes().all(plain) {
            let problem = format!(
                "is not a text of 1 to {MAX_SEED_BYTES} letters, digits and signs of ASCII"
            );
            return Err(BadDocument::field(
                "rollout.seed",
                Problem::Malformed(problem),
            ));
        }
        Ok(())
    }
}

/// Returns the place of a node, 0 to 9999: the first 8 bytes of
/// SHA-256(seed ‖ 0 ‖ machine-id), as a fraction of all that they could be. The
/// machine-id is the text of `/etc/machine-id`, without the newline.
pub fn place(seed: &str, machine_id: &str) -> u32 {
    let mut digest = Sha256::new();
    digest.update(seed.as_bytes());
    digest.update([0]);
    digest.update(machine_id.as_bytes());
    let digest: [u8; 32] = digest.finalize().into();
    let first = digest.first_chunk().copied().unwrap_or_default();
    let scaled = u128::from(u64::from_be_bytes(first)) * u128::from(EVERYBODY);
    u32::try_from(scaled >> 64).expect("a fraction of EVERYBODY is smaller than it")
}

fn too_much(found: u64) -> Problem {
    let max = EVERYBODY.into();
    Problem::TooLarge { found, max }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made with `printf '%s\0%s' SEED ID | sha256sum`, and 16 digits × 10000 / 2^64.
    #[test]
    fn the_place_of_a_node_is_a_known_answer() {
        for (seed, machine_id, expected) in KNOWN {
            assert_eq!(place(seed, machine_id), expected, "{seed} {machine_id}");
        }
    }

    const KNOWN: [(&str, &str, u32); 4] = [
        ("1.0", "00000000000000000000000000000000", 359),
        ("1.0", "ffffffffffffffffffffffffffffffff", 5599),
        ("2.0~rc1", "0123456789abcdef0123456789abcdef", 333),
        ("seed", "4a4e9f6f1c0d4a0b8a4f6f6f2c1d7e33", 3688),
    ];

    proptest! {
        #[test]
        fn a_share_that_grows_loses_no_node(seed in "[!-~]{1,64}", id in "[0-9a-f]{32}", low in 0..=EVERYBODY, more in 0..=EVERYBODY) {
            let high = low.saturating_add(more).min(EVERYBODY);
            let of = |share| Rollout { share, seed: seed.clone() };
            prop_assert!(!of(low).admits(&id) || of(high).admits(&id));
            prop_assert!(of(EVERYBODY).admits(&id));
            prop_assert!(!of(0).admits(&id));
        }
    }

    #[test]
    fn a_quarter_of_a_fleet_is_about_a_quarter_and_another_one_with_another_seed() {
        let ids: Vec<String> = (0..4000_u32)
            .map(|number| format!("{number:032x}"))
            .collect();
        let of = |seed: &str| {
            let rollout = Rollout {
                share: 2500,
                seed: seed.to_owned(),
            };
            let admitted = ids.iter().map(|id| rollout.admits(id));
            admitted.collect::<Vec<bool>>()
        };
        let (one, two) = (of("1.2"), of("1.3"));
        let count = |list: &[bool]| list.iter().filter(|admitted| **admitted).count();
        assert!((900..1100).contains(&count(&one)), "{}", count(&one));
        let both = one
            .iter()
            .zip(&two)
            .filter(|(one, two)| **one && **two)
            .count();
        assert!((150..350).contains(&both), "{both}");
    }
}
