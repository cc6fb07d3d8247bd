//! TUF metadata as files: how they are encoded, numbered, and follow one
//! another.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use jiff::Timestamp as Moment;
use release::limits::{
    MAX_TUF_ROOT_BYTES, MAX_TUF_SNAPSHOT_BYTES, MAX_TUF_TARGETS_BYTES, MAX_TUF_TIMESTAMP_BYTES,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tough::schema::{Hashes, Metafile, Role, RoleType, Root, Signed, Snapshot, Targets, Timestamp};

use super::expiry::{BadExpiry, Expiries};
use super::keys::{KeySet, SignError};
use super::store::{METADATA, Store};
use super::trusted::Trusted;

pub(crate) const SPEC_VERSION: &str = "1.0.0";

/// A piece of metadata could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// It is not metadata.
    #[error("it is not TUF metadata")]
    Parse(#[source] serde_json::Error),
    /// It is not signed by those who must.
    #[error("it is not signed as it says it must be")]
    Unsigned(#[source] Box<tough::schema::Error>),
    /// Nodes would not read that much.
    #[error("the {role} metadata has {found} bytes, and nodes read no more than {max}")]
    TooLarge {
        role: RoleType,
        found: u64,
        max: u64,
    },
    /// It has no JSON form.
    #[error("cannot encode the {role} metadata")]
    Encode {
        role: RoleType,
        source: serde_json::Error,
    },
    /// Too few keys are there.
    #[error("cannot sign")]
    Sign(#[from] SignError),
    /// Its expiry is no moment.
    #[error("cannot say when the {role} metadata expires")]
    Expiry { role: RoleType, source: BadExpiry },
    /// The metadata that is there could not be listed.
    #[error("cannot list {folder}")]
    List { folder: PathBuf, source: io::Error },
    /// There is no number left.
    #[error("no number is left for the next {role} metadata")]
    NoNumber { role: RoleType },
}

/// A metadata file ready to be put in place.
#[derive(Debug)]
pub(crate) struct MetadataFile {
    pub(crate) role: RoleType,
    pub(crate) number: NonZeroU64,
    pub(crate) expires: Moment,
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

impl MetadataFile {
    pub(crate) fn new<R: Role>(signed: &Signed<R>) -> Result<Self, MetadataError> {
        Ok(Self {
            role: R::TYPE,
            number: signed.signed.version(),
            expires: signed.signed.expires(),
            name: format!("{METADATA}/{}", signed.signed.filename(true)),
            bytes: encode(signed)?,
        })
    }

    /// Returns what the metadata that names this file says of it.
    fn described(&self) -> Metafile {
        Metafile {
            length: Some(self.size()),
            hashes: Some(Hashes {
                sha256: Sha256::digest(&self.bytes).to_vec().into(),
                _extra: HashMap::new(),
            }),
            version: self.number,
            _extra: HashMap::new(),
        }
    }

    fn size(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }
}

/// Puts files in place in the order given.
pub(crate) fn put_all(store: &mut impl Store, files: &[MetadataFile]) -> io::Result<()> {
    files
        .iter()
        .try_for_each(|file| store.put(&file.name, &file.bytes))
}

/// The roles whose metadata is signed anew: each pulls in the ones that name it.
#[derive(Debug)]
pub(crate) enum Renew {
    Targets(Box<Targets>),
    Snapshot,
    Timestamp,
}

/// Who signs the next state of a repository, when, and for how long.
#[derive(Debug)]
pub(crate) struct Signing<'a> {
    /// Each root with the keys that speak under it; signatures of all are put
    /// on each file.
    pub(crate) authorities: Vec<(&'a Root, &'a KeySet)>,
    pub(crate) expiries: &'a Expiries,
    pub(crate) now: Moment,
}

impl Signing<'_> {
    /// Returns the files of the next state, each before the one that names it.
    pub(crate) fn next(
        &self,
        base: &Path,
        current: Option<&Trusted>,
        renew: Renew,
    ) -> Result<Vec<MetadataFile>, MetadataError> {
        let numbers = Numbers::read(base)?;
        let mut files = Vec::new();
        let mut snapshot = current.map(|current| current.snapshot().clone());
        if let Renew::Targets(mut targets) = renew {
            targets.version = numbers.after(RoleType::Targets, current.map(Trusted::targets))?;
            targets.expires = self.moment(RoleType::Targets)?;
            let file = self.file(*targets)?;
            let next = snapshot.get_or_insert_with(|| {
                Snapshot::new(SPEC_VERSION.to_owned(), NonZeroU64::MIN, self.now)
            });
            next.meta
                .insert("targets.json".to_owned(), file.described());
            files.push(file);
            self.push_snapshot(&mut files, &numbers, current, next.clone())?;
        } else if let (Renew::Snapshot, Some(next)) = (&renew, snapshot) {
            self.push_snapshot(&mut files, &numbers, current, next)?;
        }
        let mut timestamp = match current {
            Some(current) => current.timestamp().clone(),
            None => Timestamp::new(SPEC_VERSION.to_owned(), NonZeroU64::MIN, self.now),
        };
        if let Some(file) = files.last() {
            timestamp.meta = HashMap::from([("snapshot.json".to_owned(), file.described())]);
        }
        timestamp.version = numbers.after(RoleType::Timestamp, current.map(Trusted::timestamp))?;
        timestamp.expires = self.moment(RoleType::Timestamp)?;
        files.push(self.file(timestamp)?);
        Ok(files)
    }

    fn push_snapshot(
        &self,
        files: &mut Vec<MetadataFile>,
        numbers: &Numbers,
        current: Option<&Trusted>,
        mut snapshot: Snapshot,
    ) -> Result<(), MetadataError> {
        snapshot.version = numbers.after(RoleType::Snapshot, current.map(Trusted::snapshot))?;
        snapshot.expires = self.moment(RoleType::Snapshot)?;
        files.push(self.file(snapshot)?);
        Ok(())
    }

    fn file<R: Role>(&self, metadata: R) -> Result<MetadataFile, MetadataError> {
        let mut signed = Signed {
            signed: metadata,
            signatures: Vec::new(),
        };
        for (root, keys) in &self.authorities {
            signed = keys.add_signatures(root, signed)?;
        }
        MetadataFile::new(&signed)
    }

    fn moment(&self, role: RoleType) -> Result<Moment, MetadataError> {
        let moment = self.expiries.moment(role, self.now);
        moment.map_err(|source| MetadataError::Expiry { role, source })
    }
}

/// The highest number that each role's files on disk have, named or not.
///
/// An interrupted publisher leaves files that nothing names. Their numbers are
/// passed over, so that no numbered file ever changes its content, whatever a
/// cache between here and a node has kept.
struct Numbers(HashMap<String, u64>);

impl Numbers {
    fn read(base: &Path) -> Result<Self, MetadataError> {
        let folder = base.join(METADATA);
        let failed = |source| MetadataError::List {
            folder: folder.clone(),
            source,
        };
        let mut highest = HashMap::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some((number, rest)) = name.to_str().and_then(|name| name.split_once('.')) else {
                continue;
            };
            if let Ok(number) = number.parse::<u64>() {
                let highest = highest.entry(rest.to_owned()).or_default();
                *highest = number.max(*highest);
            }
        }
        Ok(Self(highest))
    }

    fn after<R: Role>(
        &self,
        role: RoleType,
        current: Option<&R>,
    ) -> Result<NonZeroU64, MetadataError> {
        let on_disk = self.0.get(&format!("{role}.json")).copied().unwrap_or(0);
        let named = current.map_or(0, |current| current.version().get());
        let next = on_disk.max(named).checked_add(1).and_then(NonZeroU64::new);
        next.ok_or(MetadataError::NoNumber { role })
    }
}

/// Returns the file of a piece of metadata: its keys in order, so that equal
/// metadata has equal bytes.
pub(crate) fn encode<R: Role>(signed: &Signed<R>) -> Result<Vec<u8>, MetadataError>
where
    Signed<R>: Serialize,
{
    let role = R::TYPE;
    let encoded = serde_json::to_value(signed).and_then(|value| serde_json::to_vec_pretty(&value));
    let mut bytes = encoded.map_err(|source| MetadataError::Encode { role, source })?;
    bytes.push(b'\n');
    check_size(role, &bytes)?;
    Ok(bytes)
}

/// Returns the root metadata in a file, if enough of its own keys signed it.
pub(crate) fn parse_root(bytes: &[u8]) -> Result<Signed<Root>, MetadataError> {
    check_size(RoleType::Root, bytes)?;
    let root: Signed<Root> = serde_json::from_slice(bytes).map_err(MetadataError::Parse)?;
    root.signed
        .verify_role(&root)
        .map_err(|error| MetadataError::Unsigned(error.into()))?;
    Ok(root)
}

fn check_size(role: RoleType, bytes: &[u8]) -> Result<(), MetadataError> {
    let max = match role {
        RoleType::Root => MAX_TUF_ROOT_BYTES,
        RoleType::Targets | RoleType::DelegatedTargets => MAX_TUF_TARGETS_BYTES,
        RoleType::Snapshot => MAX_TUF_SNAPSHOT_BYTES,
        RoleType::Timestamp => MAX_TUF_TIMESTAMP_BYTES,
    };
    let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if found > max {
        return Err(MetadataError::TooLarge { role, found, max });
    }
    Ok(())
}
