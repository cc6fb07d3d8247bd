//! The client workflow of the TUF specification (§5), without files or network.
//!
//! ```text
//! Roots ──follow──▶ Roots ──settle──▶ Rooted ──timestamp──▶ Document<Timestamp>
//!                                       │                         │
//!                                       ├──snapshot◀──────────────╯
//!                                       │      ╰──▶ Document<Snapshot>
//!                                       ╰──targets◀──────╯
//! ```
//!
//! A step takes the documents that the steps before it returned, so that none can
//! be left out, and bytes: what a repository offers, and what is kept from
//! before. Kept bytes count for nothing unless the keys of the newest root have
//! signed them. They may be damaged, or of a publisher who has since changed
//! keys to recover from versions that a thief pushed ahead: then timestamp and
//! snapshot are forgotten together, whichever of their keys it was.

use std::num::NonZeroU64;

use jiff::Timestamp as Moment;
use tough::schema::{RoleType, Root};

use super::described::Described;
use super::metadata::{Content, Document, Offered, Snapshot, Targets, Timestamp};
use super::untrusted::Untrusted;

const ROOT: &str = "root";
const TIMESTAMP: &str = "timestamp";
const SNAPSHOT: &str = "snapshot";
pub(super) const TARGETS: &str = "targets";
pub(super) const TIMESTAMP_FILE: &str = "timestamp.json";
pub(super) const SNAPSHOT_FILE: &str = "snapshot.json";

/// Whether an accepted file says something that is not kept yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    /// It is kept already, or something newer is.
    Known,
}

/// The chain of roots, as far as it was followed.
#[derive(Debug)]
pub(super) struct Roots {
    newest: Document<Root>,
    seen: Option<Document<Root>>,
}

impl Roots {
    /// Begins a chain at `start`, which is trusted for where it comes from.
    /// `seen` is the newest root that was ever reached from there.
    pub(super) fn from(start: &[u8], seen: Option<&[u8]>) -> Result<Self, Untrusted> {
        let newest = Offered::parse(ROOT, start)?.self_signed()?;
        // What is damaged says nothing; it is written anew.
        let seen = seen.and_then(|bytes| Offered::parse(ROOT, bytes).ok()?.self_signed().ok());
        Ok(Self { newest, seen })
    }

    /// Returns which version to look for next.
    pub(super) fn next(&self) -> Option<NonZeroU64> {
        self.newest.content().version().checked_add(1)
    }

    /// Takes the next version. Whether it has expired does not matter: the
    /// newest alone must not.
    pub(super) fn follow(&mut self, offered: &[u8]) -> Result<Fate, Untrusted> {
        let offered = Offered::parse(ROOT, offered)?;
        offered.check_signed(self.newest.content())?;
        let next = offered.self_signed()?;
        match self.next() {
            Some(version) => next.check_version(version)?,
            None => next.check_not_older(&self.newest)?,
        }
        let fate = match &self.seen {
            Some(seen) if next.version() < seen.version() => Fate::Known,
            // Somebody with keys that were given up since has made a branch of
            // his own.
            Some(seen) if next.version() == seen.version() && next.content() != seen.content() => {
                let version = next.version();
                return Err(Untrusted::OtherRoot { version });
            }
            Some(seen) if next.version() == seen.version() => Fate::Known,
            _ => Fate::Keep,
        };
        self.newest = next;
        Ok(fate)
    }

    /// Ends the chain: there is no newer root.
    pub(super) fn settle(self, now: Moment) -> Result<Rooted, Untrusted> {
        if let Some(seen) = &self.seen {
            self.newest.check_not_older(seen)?;
        }
        self.newest.check_date(now)?;
        let root = self.newest;
        Ok(Rooted { root, now })
    }
}

/// The newest root, and the time at which everything else is judged.
#[derive(Debug)]
pub(super) struct Rooted {
    root: Document<Root>,
    now: Moment,
}

impl Rooted {
    pub(super) fn root(&self) -> &Root {
        self.root.content()
    }

    /// Returns what must be forgotten of what is kept, in this order: all, if this root has
    /// other keys for timestamp or snapshot than those that signed it (§5.3.11). Whose keys
    /// were changed goes last, so that a cut in between leaves the reason for the rest.
    pub(super) fn outdated(
        &self,
        timestamp: Option<&[u8]>,
        snapshot: Option<&[u8]>,
    ) -> &'static [&'static str] {
        if self.is_of_others::<Timestamp>(TIMESTAMP, timestamp) {
            &[SNAPSHOT_FILE, TIMESTAMP_FILE]
        } else if self.is_of_others::<Snapshot>(SNAPSHOT, snapshot) {
            &[TIMESTAMP_FILE, SNAPSHOT_FILE]
        } else {
            &[]
        }
    }

    /// What is damaged is nobody's, and has no say in what else is forgotten.
    fn is_of_others<T: Content>(&self, name: &str, kept: Option<&[u8]>) -> bool {
        let kept = kept.and_then(|kept| Offered::<T>::parse(name, kept).ok());
        kept.is_some_and(|kept| kept.signed_by(self.root()).is_err())
    }

    /// Takes a timestamp, or the kept one if that has the same version.
    pub(super) fn timestamp(
        &self,
        offered: &[u8],
        kept: Option<&[u8]>,
    ) -> Result<(Document<Timestamp>, Fate), Untrusted> {
        let new = Offered::<Timestamp>::parse(TIMESTAMP, offered)?.signed_by(self.root())?;
        let snapshot = described_snapshot(&new)?.version;
        let (timestamp, fate) = match self.remember::<Timestamp>(TIMESTAMP, kept) {
            None => (new, Fate::Keep),
            Some(seen) if seen.version() == new.version() => (seen, Fate::Known),
            Some(seen) => {
                new.check_not_older(&seen)?;
                check_listed_not_older(SNAPSHOT_FILE, snapshot, described_snapshot(&seen)?)?;
                (new, Fate::Keep)
            }
        };
        timestamp.check_date(self.now)?;
        Ok((timestamp, fate))
    }

    /// Takes the snapshot that `timestamp` describes. `kept` need be no such:
    /// it says what was seen before.
    pub(super) fn snapshot(
        &self,
        timestamp: &Document<Timestamp>,
        offered: &[u8],
        kept: Option<&[u8]>,
    ) -> Result<Document<Snapshot>, Untrusted> {
        let described = described_snapshot(timestamp)?;
        described.check(SNAPSHOT_FILE, offered)?;
        let new = Offered::<Snapshot>::parse(SNAPSHOT, offered)?.signed_by(self.root())?;
        new.check_version(described.version)?;
        described_role(&new, TARGETS)?;
        if let Some(seen) = self.remember::<Snapshot>(SNAPSHOT, kept) {
            new.check_not_older(&seen)?;
            for (file, seen) in seen.content().0.files() {
                let listed = new.content().0.describes(RoleType::Snapshot, file)?;
                check_listed_not_older(file, listed.version, seen)?;
            }
        }
        new.check_date(self.now)?;
        Ok(new)
    }

    /// Takes the targets of `role`, which `snapshot` describes and for which
    /// `authority` names the keys.
    pub(super) fn targets(
        &self,
        snapshot: &Document<Snapshot>,
        role: &str,
        authority: &Root,
        offered: &[u8],
    ) -> Result<Document<Targets>, Untrusted> {
        let described = described_role(snapshot, role)?;
        described.check(&format!("{role}.json"), offered)?;
        let new = Offered::<Targets>::parse(role, offered)?.signed_by(authority)?;
        new.check_version(described.version)?;
        new.check_date(self.now)?;
        Ok(new)
    }

    fn remember<T: Content>(&self, name: &str, kept: Option<&[u8]>) -> Option<Document<T>> {
        let offered = Offered::parse(name, kept?).ok()?;
        offered.signed_by(self.root()).ok()
    }
}

pub(super) fn described_snapshot(timestamp: &Document<Timestamp>) -> Result<&Described, Untrusted> {
    let listing = &timestamp.content().0;
    listing.describes(RoleType::Timestamp, SNAPSHOT_FILE)
}

pub(super) fn described_role<'a>(
    snapshot: &'a Document<Snapshot>,
    role: &str,
) -> Result<&'a Described, Untrusted> {
    let listing = &snapshot.content().0;
    listing.describes(RoleType::Snapshot, &format!("{role}.json"))
}

fn check_listed_not_older(
    file: &str,
    found: NonZeroU64,
    seen: &Described,
) -> Result<(), Untrusted> {
    match found >= seen.version {
        true => Ok(()),
        false => Err(Untrusted::Older {
            role: file.to_owned(),
            found: found.get(),
            seen: seen.version.get(),
        }),
    }
}
