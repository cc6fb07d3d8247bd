//! What a disk refuses to do: rules for QEMU's `blkdebug`.
//!
//! A rule names a kind of access and, perhaps, a sector. It may wait for its turn: `blkdebug`
//! has a state, a number that begins at 1, which counts accesses here.

use std::iter;

use serde_json::{Value, json};

/// `blkdebug` counts in these, whatever the disk's own sectors are.
const SECTOR_BYTES: u64 = 512;
/// Its number.
const EIO: i32 = 5;

/// A kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush of the disk's cache.
    Flush,
}

impl Access {
    /// Returns its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
        }
    }

    /// What the node above says before each.
    const fn event(self) -> &'static str {
        match self {
            Self::Read => "read_aio",
            Self::Write => "write_aio",
            Self::Flush => "flush_to_os",
        }
    }
}

/// What comes after the access that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The next one works.
    Recovers,
    /// None of the kind works any more.
    StaysBroken,
}

/// What a disk refuses to do.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    errors: Vec<Value>,
    states: Vec<Value>,
}

impl Faults {
    /// Every access of a kind fails.
    #[must_use]
    pub fn every(access: Access) -> Self {
        Self {
            errors: vec![json!({ "event": "none", "iotype": access.name() })],
            states: Vec::new(),
        }
    }

    /// Every access of a kind fails that touches one of these bytes of the disk.
    #[must_use]
    pub fn at(access: Access, places: impl IntoIterator<Item = u64>) -> Self {
        let error = |place| json!({ "event": "none", "iotype": access.name(), "sector": place / SECTOR_BYTES });
        Self {
            errors: places.into_iter().map(error).collect(),
            states: Vec::new(),
        }
    }

    /// Every `nth` access of a kind fails.
    #[must_use]
    pub fn every_nth(access: Access, nth: u32) -> Self {
        let event = access.event();
        let nth = nth.max(2);
        let error = |state: u32, number: i32| json!({ "event": event, "iotype": access.name(), "state": state, "errno": number });
        let after = |state: u32| {
            if state == nth {
                1
            } else {
                state.saturating_add(1)
            }
        };
        let count =
            |state: u32| json!({ "event": event, "state": state, "new_state": after(state) });
        Self {
            // A rule stays in force until another one takes its place: the second is that none fails.
            errors: vec![error(nth, EIO), error(1, 0)],
            states: (1..=nth).map(count).collect(),
        }
    }

    /// The `nth` access of a kind from now on fails, the first being number 1.
    #[must_use]
    pub fn nth(access: Access, nth: u32, then: Then) -> Self {
        let event = access.event();
        let nth = nth.max(1);
        let once = then == Then::Recovers;
        let count = |state: u32| json!({ "event": event, "state": state, "new_state": state.saturating_add(1) });
        // The state moves when an access ends its turn, so the one that fails counts too.
        let counted = nth.saturating_add(u32::from(once));
        Self {
            errors: vec![
                json!({ "event": event, "iotype": access.name(), "state": nth, "once": once }),
            ],
            states: (1..counted).map(count).collect(),
        }
    }

    /// These, and others that do not count.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.errors.extend(others.errors);
        self.states.extend(others.states);
        self
    }

    /// Returns the node `name` that refuses so, above the node `below`.
    pub(crate) fn node(&self, name: &str, below: &str) -> Value {
        let mut node = json!({
            "driver": "blkdebug",
            "node-name": name,
            "image": below,
            "inject-error": self.errors,
        });
        // QEMU takes no empty list.
        if let (Some(node), false) = (node.as_object_mut(), self.states.is_empty()) {
            node.insert("set-state".into(), json!(self.states));
        }
        node
    }
}

/// Returns a place in every `step` bytes from `start` on, up to `end`: a file that is
/// larger than `step` and lies there in one piece cannot pass between them.
pub fn spread(start: u64, end: u64, step: u64) -> impl Iterator<Item = u64> {
    iter::successors(Some(start), move |place| place.checked_add(step))
        .take_while(move |place| *place < end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_write_fails_and_the_fourth_does_not() {
        let node = Faults::nth(Access::Write, 3, Then::Recovers).node("faults", "medium");
        let states = node["set-state"].as_array().expect("a list");
        let moves: Vec<_> = states
            .iter()
            .map(|it| (it["state"].as_u64(), it["new_state"].as_u64()))
            .collect();
        let from_to = |from, to| (Some(from), Some(to));
        assert_eq!(moves, [from_to(1, 2), from_to(2, 3), from_to(3, 4)]);
        assert_eq!(
            node["inject-error"],
            json!([{ "event": "write_aio", "iotype": "write", "state": 3, "once": true }])
        );
    }

    #[test]
    fn a_place_is_told_in_sectors() {
        let node = Faults::at(Access::Read, [4096, 8192]).node("faults", "medium");
        let sectors: Vec<_> = node["inject-error"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|it| it["sector"].as_u64())
            .collect();
        assert_eq!(sectors, [Some(8), Some(16)]);
    }

    #[test]
    fn nothing_larger_than_a_step_passes_between_places() {
        let places: Vec<_> = spread(100, 1000, 300).collect();
        assert_eq!(places, [100, 400, 700]);
    }
}
