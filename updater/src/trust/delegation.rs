//! The search for a target through the roles that others delegate to: depth
//! first, in the order of their delegations, each role once.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::{RoleKeys, RoleType, Root};

use super::described::Target;
use super::metadata::{DelegatedRole, Delegations, PathSet, Targets};
use super::store::{file_of, is_ours};
use super::untrusted::Untrusted;

/// The most delegated roles that are read for one target. Each may have a MiB.
const MAX_ROLES: usize = 32;
/// The longest name of a role's file. File systems take 255, and some more are
/// put to it while it is written.
const MAX_FILE_NAME: usize = 200;

/// A role that another one delegates to.
#[derive(Debug)]
pub(super) struct Delegated {
    pub(super) role: String,
    /// Names the keys that the delegating role gives for it, as those of its
    /// targets.
    pub(super) authority: Root,
}

/// Where one target was looked for, and is still to be.
#[derive(Debug)]
pub(super) struct Search<'a> {
    name: &'a str,
    visited: HashSet<String>,
    /// The next one comes last.
    waiting: Vec<Delegated>,
}

impl<'a> Search<'a> {
    pub(super) fn of(name: &'a str) -> Self {
        Self {
            name,
            visited: HashSet::new(),
            waiting: Vec::new(),
        }
    }

    /// Returns the target if `targets` has it; otherwise remembers whom it
    /// delegates the name to.
    pub(super) fn look_into(&mut self, targets: &Targets) -> Option<Target> {
        if let Some(target) = targets.targets.get(self.name) {
            return Some(target.clone());
        }
        let delegations = targets.delegations.as_ref()?;
        let mut found: Vec<Delegated> = Vec::new();
        for role in &delegations.roles {
            if !matches(&role.paths, self.name) {
                continue;
            }
            let is_new = !self.visited.contains(&role.name)
                && !found.iter().any(|found| found.role == role.name);
            // More than are read at all need not wait.
            if is_new && found.len() <= MAX_ROLES {
                found.push(delegated(delegations, role));
            }
            if role.terminating {
                self.waiting.clear();
                break;
            }
        }
        // They are read before those that wait already, and nobody is read twice.
        self.waiting
            .retain(|waiting| found.iter().all(|found| found.role != waiting.role));
        self.waiting.extend(found.into_iter().rev());
        let over = self.waiting.len().saturating_sub(MAX_ROLES + 1);
        self.waiting.drain(..over);
        None
    }

    /// Returns the next role to look into.
    pub(super) fn next(&mut self) -> Result<Option<Delegated>, Untrusted> {
        while let Some(next) = self.waiting.pop() {
            if !self.visited.insert(next.role.clone()) {
                continue;
            }
            if self.visited.len() > MAX_ROLES {
                let (name, most) = (self.name.to_owned(), MAX_ROLES);
                return Err(Untrusted::TooManyRoles { name, most });
            }
            let file = file_of(&next.role);
            if is_ours(&file) || file.len() > MAX_FILE_NAME {
                return Err(Untrusted::Malformed {
                    role: next.role,
                    why: "no delegated role may be called so".to_owned(),
                });
            }
            return Ok(Some(next));
        }
        Ok(None)
    }
}

fn delegated(delegations: &Delegations, role: &DelegatedRole) -> Delegated {
    let own = |id: &Decoded<Hex>| Some((id.clone(), delegations.keys.get(id)?.clone()));
    // Thousands of roles may share one list of thousands of keys.
    let own_keys = role.keyids.iter().filter_map(own).collect();
    let keys = RoleKeys {
        keyids: role.keyids.clone(),
        threshold: role.threshold,
        _extra: HashMap::new(),
    };
    Delegated {
        role: role.name.clone(),
        authority: Root {
            spec_version: String::new(),
            consistent_snapshot: true,
            version: std::num::NonZeroU64::MIN,
            expires: jiff::Timestamp::MAX,
            keys: own_keys,
            roles: HashMap::from([(RoleType::Targets, keys)]),
            _extra: HashMap::new(),
        },
    }
}

fn matches(paths: &PathSet, name: &str) -> bool {
    match paths {
        PathSet::Paths(patterns) => patterns
            .iter()
            .any(|pattern| matches_pattern(pattern, name)),
        PathSet::PathHashPrefixes(prefixes) => {
            let digest = hex::encode(Sha256::digest(name));
            prefixes
                .iter()
                .any(|prefix| digest.starts_with(prefix.as_str()))
        }
    }
}

/// Returns whether `name` matches, folder by folder. `*` and `?` are known; a
/// sign with another meaning to a shell has none here, so that too little
/// matches and not too much.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (mut patterns, mut names) = (pattern.split('/'), name.split('/'));
    loop {
        match (patterns.next(), names.next()) {
            (None, None) => return true,
            (Some(pattern), Some(name)) if matches_name(pattern, name) => {}
            _ => return false,
        }
    }
}

fn matches_name(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // Where to go on if what follows the last star was no match after all.
    let mut again = None;
    loop {
        let name_here = name.clone();
        match (pattern.next(), name.next()) {
            (Some('*'), _) => {
                again = Some((pattern.clone(), name_here.clone()));
                name = name_here;
            }
            (Some('?'), Some(_)) => {}
            (Some(one), Some(other)) if one == other => {}
            (None, None) => return true,
            _ => {
                let Some((after_star, mut taken)) = again else {
                    return false;
                };
                if taken.next().is_none() {
                    return false;
                }
                pattern = after_star.clone();
                name = taken.clone();
                again = Some((after_star, taken));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tough::schema::key::Key;

    use super::*;

    /// A role, whom it delegates to, which names, and whether that is the end.
    type Delegation<'a> = (&'a str, &'a str, &'a str, bool);

    fn targets_of(role: &str, delegations: &[Delegation<'_>]) -> Targets {
        let roles: Vec<_> = delegations
            .iter()
            .filter(|(from, ..)| *from == role)
            .map(|(_, to, pattern, terminating)| {
                json!({
                    "name": to, "keyids": [], "threshold": 1,
                    "paths": [pattern], "terminating": terminating,
                })
            })
            .collect();
        let targets = json!({
            "version": 1, "expires": "2030-01-01T00:00:00Z", "targets": {},
            "delegations": { "keys": {}, "roles": roles },
        });
        serde_json::from_value(targets).unwrap()
    }

    /// Returns the roles that are read for a name that nobody has.
    fn read_for(name: &str, delegations: &[Delegation<'_>]) -> Result<Vec<String>, Untrusted> {
        let (mut search, mut read) = (Search::of(name), Vec::new());
        assert!(
            search
                .look_into(&targets_of("targets", delegations))
                .is_none()
        );
        while let Some(next) = search.next()? {
            assert!(
                search
                    .look_into(&targets_of(&next.role, delegations))
                    .is_none()
            );
            read.push(next.role);
        }
        Ok(read)
    }

    #[test]
    fn roles_are_read_depth_first_in_their_order_and_each_once() {
        let tree = [
            ("targets", "a", "*", false),
            ("targets", "b", "*", false),
            ("a", "c", "*", false),
            ("a", "d", "x*", false),
            ("c", "a", "*", false),
            ("b", "c", "*", false),
            ("b", "d", "*", false),
        ];
        assert_eq!(read_for("name", &tree).unwrap(), ["a", "c", "b", "d"]);
        assert_eq!(read_for("x", &tree).unwrap(), ["a", "c", "d", "b"]);
        assert!(read_for("folder/name", &tree).unwrap().is_empty());
    }

    #[test]
    fn after_a_terminating_role_only_its_own_are_read() {
        let tree = [
            ("targets", "a", "*", false),
            ("targets", "b", "*", false),
            ("a", "c", "*", true),
            ("a", "d", "*", false),
            ("c", "e", "*", false),
        ];
        assert_eq!(read_for("name", &tree).unwrap(), ["a", "c", "e"]);
    }

    #[test]
    fn a_search_through_too_many_roles_ends() {
        let names: Vec<_> = (0..=MAX_ROLES).map(|number| number.to_string()).collect();
        let wide: Vec<_> = names
            .iter()
            .map(|name| ("targets", &**name, "*", false))
            .collect();
        let deep: Vec<_> = std::iter::once("targets")
            .chain(names.iter().map(String::as_str))
            .zip(&names)
            .map(|(from, to)| (from, &**to, "*", false))
            .collect();
        for tree in [wide, deep] {
            let told = read_for("name", &tree).unwrap_err().to_string();
            assert!(told.contains("more than 32 delegated roles"), "{told}");
        }
    }

    #[test]
    fn roles_that_wait_keep_their_own_keys_and_are_no_more_than_are_read() {
        let id = |number: u32| format!("{number:064x}");
        let key = json!({
            "keytype": "ed25519", "scheme": "ed25519",
            "keyval": { "public": "00".repeat(32) },
        });
        let parsed: Key = serde_json::from_value(key).unwrap();
        let own = parsed.key_id().unwrap();
        let role = |number: u32| {
            json!({
                "name": number.to_string(), "keyids": [hex::encode(&own), id(number)],
                "threshold": 1, "paths": ["*"], "terminating": false,
            })
        };
        let targets = json!({
            "version": 1, "expires": "2030-01-01T00:00:00Z", "targets": {},
            "delegations": { "keys": {}, "roles": (0..1000).map(role).collect::<Vec<_>>() },
        });
        let mut targets: Targets = serde_json::from_value(targets).unwrap();
        let delegations = targets.delegations.as_mut().unwrap();
        for number in 0..1000 {
            let id = serde_json::from_value(json!(id(number))).unwrap();
            delegations.keys.insert(id, parsed.clone());
        }
        let mut search = Search::of("name");
        for _ in 0..3 {
            search.look_into(&targets);
        }
        assert_eq!(search.waiting.len(), MAX_ROLES + 1);
        assert_eq!(search.waiting.last().unwrap().role, "0");
        for waiting in &search.waiting {
            assert_eq!(waiting.authority.keys.len(), 1, "{}", waiting.role);
        }
    }

    #[test]
    fn a_delegated_role_takes_the_name_of_no_other() {
        let long = "x".repeat(MAX_FILE_NAME);
        for name in ["root", "timestamp", "targets", "latest_known_time", &long] {
            let told = read_for("name", &[("targets", name, "*", false)]);
            let told = told.unwrap_err().to_string();
            assert!(
                told.contains("no delegated role may be called so"),
                "{told}"
            );
        }
    }

    #[test]
    fn names_are_delegated_by_the_beginning_of_their_digest_too() {
        let role = |prefix: &str| {
            json!([{
                "name": "a", "keyids": [], "threshold": 1,
                "path_hash_prefixes": [prefix], "terminating": false,
            }])
        };
        // sha256("name") begins with 82a3537f.
        for (prefix, found) in [("82a3", true), ("82A3", false), ("83", false), ("", true)] {
            let targets = json!({
                "version": 1, "expires": "2030-01-01T00:00:00Z", "targets": {},
                "delegations": { "keys": {}, "roles": role(prefix) },
            });
            let mut search = Search::of("name");
            search.look_into(&serde_json::from_value(targets).unwrap());
            assert_eq!(search.next().unwrap().is_some(), found, "{prefix}");
        }
    }

    #[test]
    fn a_pattern_matches_within_one_folder() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("*", "", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("a/*.tgz", "a/b.tgz", true),
            ("a/*.tgz", "a/b.txt", false),
            ("*.tgz", "a/b.tgz", false),
            ("v-?.tgz", "v-1.tgz", true),
            ("v-?.tgz", "v-.tgz", false),
            ("v-?.tgz", "v-10.tgz", false),
            ("*a*b*", "xxaybbz", true),
            ("*a*b", "xxaybbz", false),
            ("*ab", "aab", true),
            ("a*", "a", true),
            ("?", "ö", true),
            ("[ab]", "a", false),
            ("[ab]", "[ab]", true),
            ("A", "a", false),
            ("a", "a/", false),
        ] {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        }
    }
}
