//! Where a block with a given digest lies.

/// A digest, as hash trees have it.
pub(super) type BlockDigest = [u8; 32];

/// Finds numbered things by their digests, in 8 bytes for each: the first 32
/// bits of the digest and the number, sorted. Whoever asks has the digests, and
/// says which of those that begin alike is meant.
#[derive(Debug, Default)]
pub(super) struct Index(Vec<u64>);

impl Index {
    /// Returns the index of at most `room` digests with their numbers.
    pub(super) fn new(room: usize, digests: impl Iterator<Item = (u32, BlockDigest)>) -> Self {
        // All at once: a vector that grows needs twice the memory in between.
        let mut entries = Vec::with_capacity(room);
        let digests = digests.take(room);
        entries.extend(digests.map(|(number, digest)| first(&digest) | u64::from(number)));
        entries.sort_unstable();
        Self(entries)
    }

    /// Returns the number of a digest, `next` if it is that one. `digest_of` tells the
    /// digest of a number, unless it cannot be told any more.
    pub(super) fn find(
        &self,
        wanted: &BlockDigest,
        next: Option<u32>,
        digest_of: impl Fn(u32) -> Option<BlockDigest>,
    ) -> Option<u32> {
        let is_wanted = |number: &u32| digest_of(*number).as_ref() == Some(wanted);
        next.filter(is_wanted)
            .or_else(|| self.alike(wanted).find(is_wanted))
    }

    /// The numbers whose digests begin as `wanted` does.
    fn alike(&self, wanted: &BlockDigest) -> impl Iterator<Item = u32> {
        const NUMBER: u64 = 0xffff_ffff;
        let from = first(wanted);
        let start = self.0.partition_point(|entry| *entry < from);
        let rest = self.0.get(start..).unwrap_or_default().iter();
        rest.take_while(move |entry| **entry & !NUMBER == from)
            .map(|entry| u32::try_from(entry & NUMBER).expect("the upper half is masked out"))
    }
}

/// The first 32 bits of a digest, in the upper half.
fn first(digest: &BlockDigest) -> u64 {
    let [a, b, c, d, ..] = *digest;
    u64::from(u32::from_be_bytes([a, b, c, d])) << 32
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Few values, so that many are equal and many begin alike.
    fn digests() -> impl Strategy<Value = Vec<BlockDigest>> {
        let one = (0_u8..4, 0_u8..3).prop_map(|(first, last)| {
            let mut digest = [0; 32];
            (digest[0], digest[31]) = (first, last);
            digest
        });
        vec(one, 0..60)
    }

    proptest! {
        #[test]
        fn what_is_there_is_found_and_nothing_else(
            digests in digests(),
            wanted in digests(),
            next in 0_u32..60,
        ) {
            let numbered = || (0..).zip(digests.iter().copied());
            let index = Index::new(digests.len(), numbered());
            let digest_of = |number: u32| digests.get(number as usize).copied();
            for wanted in wanted {
                let found = index.find(&wanted, Some(next), digest_of);
                let expected = numbered().any(|(_, digest)| digest == wanted);
                prop_assert_eq!(found.is_some(), expected);
                if let Some(found) = found {
                    prop_assert_eq!(digest_of(found), Some(wanted));
                    if digest_of(next) == Some(wanted) {
                        prop_assert_eq!(found, next);
                    }
                }
                // What cannot be read any more is not found.
                prop_assert_eq!(index.find(&wanted, Some(next), |_| None), None);
            }
        }
    }
}
