//! What the files of the roles say, once their signatures are known to be good.
//!
//! A file is parsed once, into a JSON value. The signatures are held against the
//! canonical form of that very value, and what is used is read from it as well:
//! a field that this version does not know is signed all the same, and nothing
//! can mean one thing to the signature and another to us. `tough` knows keys,
//! canonical form and thresholds.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::num::NonZeroU64;

use jiff::Timestamp as Moment;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::Key;
use tough::schema::{Role, RoleType, Root, Signature, Signed};

use super::described::{Described, Target};
use super::untrusted::Untrusted;

/// What the file of a role says.
pub(super) trait Content: DeserializeOwned + Debug {
    const ROLE: RoleType;
    fn version(&self) -> NonZeroU64;
    fn expires(&self) -> Moment;
}

/// A file as it came: nobody has looked at its signatures.
#[derive(Debug)]
pub(super) struct Offered<T> {
    name: String,
    signed: Signed<Body<T>>,
}

/// A file with the signatures that it must have.
#[derive(Debug)]
pub(super) struct Document<T> {
    name: String,
    body: Body<T>,
}

#[derive(Debug)]
struct Body<T> {
    content: T,
    /// Everything that is signed, `content` and more.
    whole: Value,
}

impl<T: Content> Offered<T> {
    /// Reads the file of the role `name`.
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Self, Untrusted> {
        #[derive(Deserialize)]
        struct File {
            signed: Value,
            signatures: Vec<Signature>,
        }
        let malformed = |why: String| Untrusted::Malformed {
            role: name.to_owned(),
            why,
        };
        let File { signed, signatures } =
            serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        let field = |key| signed.get(key).and_then(Value::as_str).unwrap_or_default();
        // Nobody else looks: a key may sign for two roles, and then only this
        // tells what it has signed.
        let kind = field("_type");
        if kind != T::ROLE.to_string() {
            return Err(malformed(format!("its type is {kind:?}")));
        }
        let spec = field("spec_version");
        if !spec.starts_with("1.") {
            return Err(malformed(format!("it follows specification {spec:?}")));
        }
        let content = T::deserialize(&signed).map_err(|error| malformed(error.to_string()))?;
        let whole = signed;
        Ok(Self {
            name: name.to_owned(),
            signed: Signed {
                signed: Body { content, whole },
                signatures,
            },
        })
    }

    /// Checks that enough of the keys that `authority` names for the role have
    /// signed it.
    pub(super) fn signed_by(self, authority: &Root) -> Result<Document<T>, Untrusted> {
        self.check_signed(authority)?;
        Ok(Document {
            name: self.name,
            body: self.signed.signed,
        })
    }

    pub(super) fn check_signed(&self, authority: &Root) -> Result<(), Untrusted> {
        let unsigned = |why: String| Untrusted::Unsigned {
            role: self.name.clone(),
            why,
        };
        if names_a_key_twice(authority, T::ROLE) {
            return Err(unsigned("one of its keys has two ids".to_owned()));
        }
        let verified = authority.verify_role(&self.signed);
        verified.map_err(|error| unsigned(error.to_string()))
    }
}

/// Tells whether a key of `role` would count twice. `tough` counts ids, and an id is the
/// digest of all that is said of a key: another spelling of it makes another one.
fn names_a_key_twice(authority: &Root, role: RoleType) -> bool {
    let keys = authority.roles.get(&role);
    let ids: HashSet<_> = keys.into_iter().flat_map(|keys| &keys.keyids).collect();
    let mut seen = HashSet::new();
    let mut keys = ids.into_iter().filter_map(|id| authority.keys.get(id));
    keys.any(|key| !seen.insert(public(key)))
}

fn public(key: &Key) -> &[u8] {
    match key {
        Key::Rsa { keyval, .. } => &keyval.public,
        Key::Ed25519 { keyval, .. } => &keyval.public,
        Key::Ecdsa { keyval, .. } | Key::EcdsaOld { keyval, .. } => &keyval.public,
    }
}

impl Offered<Root> {
    /// Checks that enough of the keys that it names for itself have signed it.
    pub(super) fn self_signed(self) -> Result<Document<Root>, Untrusted> {
        self.check_signed(&self.signed.signed.content)?;
        Ok(Document {
            name: self.name,
            body: self.signed.signed,
        })
    }
}

impl<T: Content> Document<T> {
    pub(super) fn content(&self) -> &T {
        &self.body.content
    }

    pub(super) fn version(&self) -> u64 {
        self.content().version().get()
    }

    pub(super) fn check_version(&self, expected: NonZeroU64) -> Result<(), Untrusted> {
        match self.content().version() == expected {
            true => Ok(()),
            false => Err(Untrusted::WrongVersion {
                role: self.name.clone(),
                found: self.version(),
                expected: expected.get(),
            }),
        }
    }

    pub(super) fn check_not_older(&self, seen: &Self) -> Result<(), Untrusted> {
        match self.version() >= seen.version() {
            true => Ok(()),
            false => Err(Untrusted::Older {
                role: self.name.clone(),
                found: self.version(),
                seen: seen.version(),
            }),
        }
    }

    pub(super) fn check_date(&self, now: Moment) -> Result<(), Untrusted> {
        match now < self.content().expires() {
            true => Ok(()),
            false => Err(Untrusted::Expired {
                role: self.name.clone(),
            }),
        }
    }
}

impl<T> Serialize for Body<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.whole.serialize(serializer)
    }
}

/// For `tough`, which signs and checks what has a role.
impl<T: Content> Role for Body<T> {
    const TYPE: RoleType = T::ROLE;

    fn expires(&self) -> Moment {
        self.content.expires()
    }

    fn version(&self) -> NonZeroU64 {
        self.content.version()
    }

    fn filename(&self, _consistent_snapshot: bool) -> String {
        format!("{}.json", T::ROLE)
    }
}

impl Content for Root {
    const ROLE: RoleType = RoleType::Root;

    fn version(&self) -> NonZeroU64 {
        self.version
    }

    fn expires(&self) -> Moment {
        self.expires
    }
}

/// What timestamp and snapshot say: which versions of other files there are.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    version: NonZeroU64,
    expires: Moment,
    meta: HashMap<String, Described>,
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Timestamp(pub(super) Listing);

#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Snapshot(pub(super) Listing);

/// What targets, and roles that it delegates to, say.
#[derive(Debug, Deserialize)]
pub(super) struct Targets {
    version: NonZeroU64,
    expires: Moment,
    pub(super) targets: HashMap<String, Target>,
    pub(super) delegations: Option<Delegations>,
}

/// To whom targets are delegated. `tough` has such a type too, and makes a matcher of some
/// KiB of each pattern, of which a file has room for 200 000.
#[derive(Debug, Deserialize)]
pub(super) struct Delegations {
    #[serde(deserialize_with = "keys_by_their_ids")]
    pub(super) keys: HashMap<Decoded<Hex>, Key>,
    pub(super) roles: Vec<DelegatedRole>,
}

#[derive(Debug, Deserialize)]
pub(super) struct DelegatedRole {
    pub(super) name: String,
    pub(super) keyids: Vec<Decoded<Hex>>,
    pub(super) threshold: NonZeroU64,
    #[serde(flatten)]
    pub(super) paths: PathSet,
    pub(super) terminating: bool,
}

/// The names of the targets that a role is asked for.
#[derive(Debug, Deserialize)]
#[serde(try_from = "PathSets")]
pub(super) enum PathSet {
    Paths(Vec<String>),
    PathHashPrefixes(Vec<String>),
}

/// What a role says of them, which must be one of the two.
#[derive(Deserialize)]
struct PathSets {
    paths: Option<Vec<String>>,
    path_hash_prefixes: Option<Vec<String>>,
}

impl TryFrom<PathSets> for PathSet {
    type Error = &'static str;

    fn try_from(sets: PathSets) -> Result<Self, Self::Error> {
        match (sets.paths, sets.path_hash_prefixes) {
            (Some(paths), None) => Ok(Self::Paths(paths)),
            (None, Some(prefixes)) => Ok(Self::PathHashPrefixes(prefixes)),
            (None, None) => Err("a role is delegated to for no names"),
            (Some(_), Some(_)) => Err("a role has both paths and path_hash_prefixes"),
        }
    }
}

/// Only `tough` can tell whether an id is that of its key.
fn keys_by_their_ids<'de, D>(source: D) -> Result<HashMap<Decoded<Hex>, Key>, D::Error>
where
    D: Deserializer<'de>,
{
    let keys = Value::deserialize(source)?;
    let alone = json!({ "keys": keys, "roles": [] });
    let checked = tough::schema::Delegations::deserialize(alone).map_err(D::Error::custom)?;
    Ok(checked.keys)
}

impl Content for Timestamp {
    const ROLE: RoleType = RoleType::Timestamp;

    fn version(&self) -> NonZeroU64 {
        self.0.version
    }

    fn expires(&self) -> Moment {
        self.0.expires
    }
}

impl Content for Snapshot {
    const ROLE: RoleType = RoleType::Snapshot;

    fn version(&self) -> NonZeroU64 {
        self.0.version
    }

    fn expires(&self) -> Moment {
        self.0.expires
    }
}

impl Content for Targets {
    const ROLE: RoleType = RoleType::Targets;

    fn version(&self) -> NonZeroU64 {
        self.version
    }

    fn expires(&self) -> Moment {
        self.expires
    }
}

impl Listing {
    pub(super) fn files(&self) -> impl Iterator<Item = (&String, &Described)> {
        self.meta.iter()
    }

    /// Returns what it says of `file`; `by` is its own name.
    pub(super) fn describes(&self, by: RoleType, file: &str) -> Result<&Described, Untrusted> {
        self.meta.get(file).ok_or_else(|| Untrusted::Unlisted {
            by: by.to_string(),
            file: file.to_owned(),
        })
    }
}
