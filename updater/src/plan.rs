//! What an update would cost, and the way that each part takes to the node.
//!
//! ```text
//! cost = bytes fetched + REQUEST × requests + bytes unpacked ÷ UNPACK
//! ```
//! Bytes from the network are what a fleet pays for, so they are the unit. A
//! request costs a round trip and its headers; unpacking costs a processor
//! that the workload would like to have. What every way has in common (blocks
//! that are copied, made or kept, what is written and read back, the indexes
//! that had to be fetched in order to compare) does not decide and is not in it.

/// What a request costs beside its bytes, in bytes. A gap that is smaller is
/// fetched along and thrown away.
pub const REQUEST: u64 = 8 * 1024;
/// How many bytes can be unpacked for the price of one from the network.
pub const UNPACK: u64 = 64;

/// A part of a release, as it comes to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlanPart {
    /// The hash tree.
    Tree,
    /// The root image.
    Root,
    /// The kernel image.
    Uki,
}

/// How the part of it comes that the node does not have. In the order in
/// which ways that cost the same are preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// It does not: the node has all of it.
    Local,
    /// Ranges of the plain file.
    Ranges,
    /// The plain file, from its first byte to its last.
    Whole,
    /// Frames of the compressed file.
    Packed,
    /// Frames of a patch against what the booted slot holds.
    Patch,
}

/// Why a way is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyNot {
    /// Another one costs less.
    Dearer,
    /// The publisher has made none, or none for what is booted.
    NotPublished,
    /// The server does not send parts of files.
    NoRanges,
    /// The booted slot has to hold the whole part.
    NotHere,
    /// It was looked at, or tried, and is not what it should be.
    Unusable(String),
}

/// One way for one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alternative {
    pub part: PlanPart,
    pub method: Method,
    /// Bytes from the network.
    pub fetch: u64,
    pub requests: u64,
    /// Bytes that come out of compressed frames.
    pub unpack: u64,
    /// Bytes that the booted slot has.
    pub copy: u64,
    /// Bytes that are zero.
    pub zero: u64,
    /// Bytes that the spare slot has, in their place.
    pub there: u64,
    /// Bytes written to the spare slot.
    pub write: u64,
    pub chosen: bool,
    /// `None` for the one that is chosen.
    pub why_not: Option<WhyNot>,
}

/// The ways of all parts, one of each chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub alternatives: Vec<Alternative>,
    /// Bytes from the network that were needed to make the plan: the indexes
    /// of packs.
    pub indexes: u64,
}

impl PlanPart {
    /// Returns the word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Root => "root",
            Self::Uki => "uki",
        }
    }
}

impl Method {
    /// Returns the word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Ranges => "ranges",
            Self::Whole => "whole",
            Self::Packed => "packed",
            Self::Patch => "patch",
        }
    }
}

impl WhyNot {
    /// Returns it as a word, and what there is to say beside.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Dearer => "dearer",
            Self::NotPublished => "not-published",
            Self::NoRanges => "no-ranges",
            Self::NotHere => "not-here",
            Self::Unusable(why) => why,
        }
    }
}

impl Alternative {
    /// Returns a way that costs nothing yet.
    pub const fn new(part: PlanPart, method: Method) -> Self {
        Self {
            part,
            method,
            fetch: 0,
            requests: 0,
            unpack: 0,
            copy: 0,
            zero: 0,
            there: 0,
            write: 0,
            chosen: false,
            why_not: None,
        }
    }

    /// Returns what it costs, in bytes from the network.
    pub const fn cost(&self) -> u64 {
        self.fetch
            .saturating_add(self.requests.saturating_mul(REQUEST))
            .saturating_add(self.unpack / UNPACK)
    }
}

/// Chooses the cheapest of the ways of one part that can be taken, and returns
/// its method; `None` if there is none.
pub fn choose(alternatives: &mut [Alternative]) -> Option<Method> {
    let possible = alternatives.iter_mut().filter(|it| it.why_not.is_none());
    let cheapest = possible.min_by_key(|it| (it.cost(), it.fetch, it.method))?;
    cheapest.chosen = true;
    let method = cheapest.method;
    for other in alternatives.iter_mut().filter(|it| !it.chosen) {
        other.why_not.get_or_insert(WhyNot::Dearer);
    }
    Some(method)
}

impl Plan {
    /// Puts the ways of a part in place of those that were there for it.
    pub fn set(&mut self, part: PlanPart, alternatives: Vec<Alternative>) {
        self.alternatives.retain(|it| it.part != part);
        self.alternatives.extend(alternatives);
        self.alternatives.sort_by_key(|it| (it.part, it.method));
    }

    /// Returns the way chosen for a part, if it is known already.
    pub fn chosen(&self, part: PlanPart) -> Option<&Alternative> {
        let mut chosen = self.alternatives.iter().filter(|it| it.chosen);
        chosen.find(|it| it.part == part)
    }

    /// Returns the bytes from the network that all of it takes.
    pub fn fetch(&self) -> u64 {
        let chosen = self.alternatives.iter().filter(|it| it.chosen);
        chosen.fold(self.indexes, |sum, it| sum.saturating_add(it.fetch))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const METHODS: [Method; 5] = [
        Method::Local,
        Method::Ranges,
        Method::Whole,
        Method::Packed,
        Method::Patch,
    ];

    fn alternatives() -> impl Strategy<Value = Vec<Alternative>> {
        let numbers = (0_u64..1 << 33, 0_u64..1 << 20, 0_u64..1 << 33);
        let one = (select(&METHODS[..]), numbers, any::<bool>()).prop_map(
            |(method, (fetch, requests, unpack), possible)| Alternative {
                fetch,
                requests,
                unpack,
                why_not: (!possible).then_some(WhyNot::NoRanges),
                ..Alternative::new(PlanPart::Root, method)
            },
        );
        vec(one, 0..8)
    }

    proptest! {
        #[test]
        fn the_chosen_way_is_possible_and_none_that_is_costs_less(mut ways in alternatives()) {
            let before = ways.clone();
            let chosen = choose(&mut ways);
            let least = before.iter().filter(|it| it.why_not.is_none()).map(Alternative::cost).min();
            let mut taken = ways.iter().zip(&before).filter(|(it, _)| it.chosen);
            match taken.next() {
                None => prop_assert!(least.is_none() && chosen.is_none()),
                Some((way, before)) => {
                    prop_assert_eq!(Some(way.cost()), least);
                    prop_assert_eq!(&before.why_not, &None);
                    prop_assert_eq!(&way.why_not, &None);
                    prop_assert_eq!(chosen, Some(way.method));
                }
            }
            prop_assert!(taken.next().is_none());
            prop_assert!(ways.iter().all(|it| it.chosen != it.why_not.is_some()));
        }
    }

    fn way(method: Method, fetch: u64, requests: u64, unpack: u64) -> Alternative {
        Alternative {
            fetch,
            requests,
            unpack,
            ..Alternative::new(PlanPart::Root, method)
        }
    }

    #[test]
    fn the_measured_update_goes_by_the_patch_and_without_one_by_frames() {
        // A Debian security update: bytes and requests as measured.
        let ranges = way(Method::Ranges, 26_400_000, 46, 0);
        let packed = way(Method::Packed, 18_700_000, 60, 24_000_000);
        let patch = way(Method::Patch, 7_200_000, 36, 26_400_000);
        let mut all = [ranges.clone(), packed.clone(), patch];
        assert_eq!(choose(&mut all), Some(Method::Patch));
        assert_eq!(choose(&mut [ranges, packed]), Some(Method::Packed));
    }

    #[test]
    fn what_gains_nothing_is_not_unpacked() {
        let whole = way(Method::Whole, 1_000_000, 1, 0);
        let packed = way(Method::Packed, 999_000, 1, 1_000_000);
        assert_eq!(choose(&mut [packed, whole]), Some(Method::Whole));
    }

    #[test]
    fn a_part_is_planned_anew_in_place_of_its_first_plan() {
        let mut plan = Plan {
            indexes: 10,
            ..Plan::default()
        };
        let chosen = |method, fetch| Alternative {
            chosen: true,
            ..way(method, fetch, 1, 0)
        };
        plan.set(PlanPart::Root, vec![chosen(Method::Ranges, 100)]);
        plan.set(PlanPart::Root, vec![chosen(Method::Whole, 300)]);
        assert_eq!(plan.fetch(), 310);
        let root = plan.chosen(PlanPart::Root).map(|it| it.method);
        assert_eq!(root, Some(Method::Whole));
        assert_eq!(plan.chosen(PlanPart::Tree), None);
    }
}
