use std::collections::BTreeMap;
use std::ops::Range;

/// Parts of a blob that are still wanted: sorted, disjoint, none empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Missing {
    /// The end of each part, by its start.
    parts: BTreeMap<u64, u64>,
}

impl Missing {
    /// Returns what `ranges` have within the first `size` bytes.
    pub(crate) fn of(ranges: &[Range<u64>], size: u64) -> Self {
        let mut missing = Self::default();
        for range in ranges {
            missing.add(range.start..range.end.min(size));
        }
        missing
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Returns the first byte that is wanted.
    pub(super) fn first(&self) -> Option<u64> {
        self.parts.keys().next().copied()
    }

    /// Returns how many bytes are wanted.
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|(start, end)| end - start).sum()
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.parts.iter().map(|(start, end)| *start..*end)
    }

    /// Returns the rest of the part that holds `at`, or the first part behind it.
    pub(super) fn next_from(&self, at: u64) -> Option<Range<u64>> {
        let around = self.parts.range(..=at).next_back();
        let rest = around
            .filter(|(_, end)| **end > at)
            .map(|(_, end)| at..*end);
        rest.or_else(|| {
            let behind = self.parts.range(at..).next();
            behind.map(|(start, end)| *start..*end)
        })
    }

    /// Takes out the first part, or its first `most` bytes.
    pub(super) fn take(&mut self, most: u64) -> Option<Range<u64>> {
        let (start, end) = self.parts.pop_first()?;
        let cut = start.saturating_add(most).min(end);
        if cut < end {
            self.parts.insert(cut, end);
        }
        Some(start..cut)
    }

    /// Takes out whatever lies in `range`.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        while let Some(part) = self
            .next_from(range.start)
            .filter(|part| part.start < range.end)
        {
            self.carve(&part, &range);
        }
    }

    /// Takes `range` out of the part of which `rest` is what `range` reaches.
    fn carve(&mut self, rest: &Range<u64>, range: &Range<u64>) {
        let whole = self.parts.range(..=rest.start).next_back();
        let Some((start, end)) = whole.map(|(start, end)| (*start, *end)) else {
            return;
        };
        self.parts.remove(&start);
        if start < range.start {
            self.parts.insert(start, range.start);
        }
        if range.end < end {
            self.parts.insert(range.end, end);
        }
    }

    fn add(&mut self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // Everything that touches it becomes one part with it.
        while let Some((start, end)) = self
            .parts
            .range(..=range.end)
            .next_back()
            .filter(|(_, end)| **end >= range.start)
            .map(|(start, end)| (*start, *end))
        {
            self.parts.remove(&start);
            range = start.min(range.start)..end.max(range.end);
        }
        self.parts.insert(range.start, range.end);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        proptest::collection::vec((0_u64..60, 0_u64..12), 0..8)
            .prop_map(|ranges| ranges.into_iter().map(|(at, len)| at..at + len).collect())
    }

    fn bytes(ranges: impl IntoIterator<Item = Range<u64>>) -> BTreeSet<u64> {
        ranges.into_iter().flatten().collect()
    }

    proptest! {
        #[test]
        fn it_is_the_set_of_the_bytes_that_were_put_in_and_not_taken_out(
            wanted in ranges(), came in ranges(), size in 0_u64..70,
        ) {
            let mut missing = Missing::of(&wanted, size);
            let mut expected = bytes(wanted);
            expected.retain(|byte| *byte < size);
            prop_assert_eq!(bytes(missing.parts()), expected.clone());
            for range in came {
                for byte in range.clone() {
                    expected.remove(&byte);
                }
                missing.remove(range);
                prop_assert_eq!(bytes(missing.parts()), expected.clone());
            }
            prop_assert_eq!(missing.bytes(), expected.len() as u64);
            prop_assert_eq!(missing.first(), expected.first().copied());
            for at in 0..70 {
                let next = missing.next_from(at).map(|range| range.start);
                prop_assert_eq!(next, expected.range(at..).next().copied());
            }
            while let Some(taken) = missing.take(5) {
                prop_assert!(!taken.is_empty() && taken.end - taken.start <= 5);
                for byte in taken {
                    prop_assert!(expected.remove(&byte));
                }
            }
            prop_assert!(expected.is_empty());
        }
    }
}
