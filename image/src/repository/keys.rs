//! Signing keys: one PKCS#8 PEM file each, ed25519, and the root file that
//! says which key speaks for which role.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{self, DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signer, SigningKey};
use jiff::Timestamp;
use serde::Serialize;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::{Ed25519Key, Ed25519Scheme, Key};
use tough::schema::{Role, RoleKeys, RoleType, Root, Signature, Signed};

use super::expiry::{BadExpiry, Expiry};
use super::metadata::{MetadataError, SPEC_VERSION, encode, parse_root};

/// The roles, in the order in which trust flows.
pub(crate) const ROLES: [RoleType; 4] = [
    RoleType::Root,
    RoleType::Targets,
    RoleType::Snapshot,
    RoleType::Timestamp,
];

/// How many of how many keys must sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// How many signatures are enough.
    pub threshold: u8,
    /// How many keys there are.
    pub keys: u8,
}

/// How many keys each role gets, and how long the root file lives.
#[derive(Debug, Clone, Copy)]
pub struct KeyPlan {
    /// The keys that can replace all others.
    pub root: Quorum,
    /// The keys that vouch for releases.
    pub targets: Quorum,
    /// The keys that vouch for the list being complete.
    pub snapshot: Quorum,
    /// The keys that vouch for the list being the newest.
    pub timestamp: Quorum,
    /// When the root file expires.
    pub root_expires: Expiry,
}

impl KeyPlan {
    fn quorum(&self, role: RoleType) -> Quorum {
        match role {
            RoleType::Root => self.root,
            RoleType::Targets | RoleType::DelegatedTargets => self.targets,
            RoleType::Snapshot => self.snapshot,
            RoleType::Timestamp => self.timestamp,
        }
    }
}

/// A key set could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// There is something already.
    #[error("{folder} exists and is not empty: keys are never overwritten")]
    Exists { folder: PathBuf },
    /// A threshold cannot be met, or is met by nothing.
    #[error("the {role} role cannot need {threshold} of {keys} signatures")]
    Quorum {
        role: RoleType,
        threshold: u8,
        keys: u8,
    },
    /// The root file's expiry is no moment.
    #[error("cannot say when the root file expires")]
    Expiry(#[from] BadExpiry),
    /// The system gave no randomness.
    #[error("cannot get randomness for a key")]
    Randomness(#[source] getrandom::Error),
    /// A key has no PEM form.
    #[error("cannot encode a key")]
    Encode(#[source] pkcs8::Error),
    /// The root file could not be made.
    #[error("cannot make the root file")]
    Root(#[source] MetadataError),
    /// The root file could not be signed.
    #[error("cannot sign the root file")]
    Sign(#[from] SignError),
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// A key set could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadKeysError {
    /// A file or the folder could not be read.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    /// Others than the owner may read a key.
    #[error(
        "{path} may be read by others than its owner (mode {mode:03o}): chmod 600 it, if it was not copied yet"
    )]
    Exposed { path: PathBuf, mode: u32 },
    /// A key file holds no key.
    #[error("{path} holds no ed25519 key in PKCS#8 PEM form")]
    Key { path: PathBuf, source: pkcs8::Error },
    /// The root file does not hold.
    #[error("{path} is no sound root file")]
    Root {
        path: PathBuf,
        source: MetadataError,
    },
}

/// Metadata could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Too few keys of the role are there.
    #[error("the {role} role needs {threshold} of its keys to sign, and {found} are in {folder}")]
    TooFewKeys {
        role: RoleType,
        threshold: u64,
        found: usize,
        folder: PathBuf,
    },
    /// The root file knows no such role.
    #[error("the root file has no {role} role")]
    NoRole { role: RoleType },
    /// The metadata has no canonical form.
    #[error("cannot encode the {role} metadata")]
    Encode {
        role: RoleType,
        source: Box<tough::schema::Error>,
    },
}

/// The keys in a folder, and the root file that gives them their roles.
#[derive(Debug)]
pub struct KeySet {
    folder: PathBuf,
    keys: Vec<(Decoded<Hex>, SigningKey)>,
    root: Signed<Root>,
    root_bytes: Vec<u8>,
}

impl KeySet {
    /// The name of the root file in the folder of a key set: the root of trust
    /// that images carry.
    pub const ROOT: &'static str = "root.json";

    /// Reads the keys that are in a folder. Not all need be there: a machine
    /// that only refreshes has only the keys for that.
    pub fn load(folder: &Path) -> Result<Self, LoadKeysError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| LoadKeysError::Read {
                path: path.into(),
                source,
            })
        };
        let path = folder.join(Self::ROOT);
        let root_bytes = read(&path)?;
        let root = parse_root(&root_bytes).map_err(|source| LoadKeysError::Root {
            path: path.clone(),
            source,
        })?;
        let failed = |source| LoadKeysError::Read {
            path: folder.into(),
            source,
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "pem") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut keys = Vec::<(Decoded<Hex>, SigningKey)>::new();
        for path in paths {
            let (id, key) = load_key(&path)?;
            // A copy of a key is no second key: it must not make a quorum.
            if keys.iter().all(|(one, _)| *one != id) {
                keys.push((id, key));
            }
        }
        Ok(Self {
            folder: folder.into(),
            keys,
            root,
            root_bytes,
        })
    }

    /// Returns the root file, as its bytes.
    pub fn root_of_trust(&self) -> &[u8] {
        &self.root_bytes
    }

    pub(crate) fn root(&self) -> &Signed<Root> {
        &self.root
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Replaces the root file of the folder.
    pub(crate) fn replace_root(&self, bytes: &[u8]) -> io::Result<()> {
        super::store::replace(&self.folder.join(Self::ROOT), bytes)
    }

    /// Returns whether enough keys are there to speak for `role` under `root`.
    pub(crate) fn can_sign(&self, root: &Root, role: RoleType) -> bool {
        let needed = root.roles.get(&role).map(|keys| keys.threshold.get());
        needed.is_some_and(|needed| count(self.of_role(root, role).count()) >= needed)
    }

    /// Returns the metadata, signed by all keys that speak for its role under
    /// `root`.
    pub(crate) fn sign<R: Role + Serialize>(
        &self,
        root: &Root,
        metadata: R,
    ) -> Result<Signed<R>, SignError> {
        let unsigned = Signed {
            signed: metadata,
            signatures: Vec::new(),
        };
        self.add_signatures(root, unsigned)
    }

    /// Adds the signatures of all keys that speak for the metadata's role
    /// under `root`, and that have not signed yet.
    pub(crate) fn add_signatures<R: Role + Serialize>(
        &self,
        root: &Root,
        mut signed: Signed<R>,
    ) -> Result<Signed<R>, SignError> {
        let role = R::TYPE;
        let Some(role_keys) = root.roles.get(&role) else {
            return Err(SignError::NoRole { role });
        };
        if !self.can_sign(root, role) {
            return Err(SignError::TooFewKeys {
                role,
                threshold: role_keys.threshold.get(),
                found: self.of_role(root, role).count(),
                folder: self.folder.clone(),
            });
        }
        let message = signed
            .signed
            .canonical_form()
            .map_err(|error| SignError::Encode {
                role,
                source: error.into(),
            })?;
        for (id, key) in self.of_role(root, role) {
            if signed.signatures.iter().all(|one| one.keyid != *id) {
                let sig = key.sign(&message).to_bytes().to_vec().into();
                signed.signatures.push(Signature {
                    keyid: id.clone(),
                    sig,
                });
            }
        }
        Ok(signed)
    }

    fn of_role<'a>(
        &'a self,
        root: &'a Root,
        role: RoleType,
    ) -> impl Iterator<Item = &'a (Decoded<Hex>, SigningKey)> {
        let ids = root.roles.get(&role).map(|keys| keys.keyids.as_slice());
        let ids = ids.unwrap_or_default();
        self.keys.iter().filter(|(id, _)| ids.contains(id))
    }
}

/// Makes the keys of all roles and the first root file in `folder`, which must
/// be empty or not there. On return they have reached the disk.
pub fn generate(folder: &Path, plan: &KeyPlan, now: Timestamp) -> Result<KeySet, GenerateError> {
    for role in ROLES {
        let Quorum { threshold, keys } = plan.quorum(role);
        if threshold == 0 || threshold > keys {
            return Err(GenerateError::Quorum {
                role,
                threshold,
                keys,
            });
        }
    }
    let root_expires = plan.root_expires.moment(now)?;
    create_folder(folder)?;
    let mut root = Root {
        spec_version: SPEC_VERSION.to_owned(),
        consistent_snapshot: true,
        version: NonZeroU64::MIN,
        expires: root_expires,
        keys: HashMap::new(),
        roles: HashMap::new(),
        _extra: HashMap::new(),
    };
    let mut keys = Vec::new();
    for role in ROLES {
        let quorum = plan.quorum(role);
        let mut keyids = Vec::new();
        for number in 1..=quorum.keys {
            let key = new_key()?;
            write_key(&folder.join(format!("{role}-{number}.pem")), &key)?;
            let public = public_key(&key);
            let id = key_id(&public);
            root.keys.insert(id.clone(), public);
            keyids.push(id.clone());
            keys.push((id, key));
        }
        let threshold = NonZeroU64::new(u64::from(quorum.threshold)).unwrap_or(NonZeroU64::MIN);
        root.roles.insert(
            role,
            RoleKeys {
                keyids,
                threshold,
                _extra: HashMap::new(),
            },
        );
    }
    let unsigned = Signed {
        signed: root,
        signatures: Vec::new(),
    };
    let mut set = KeySet {
        folder: folder.into(),
        keys,
        root: unsigned,
        root_bytes: Vec::new(),
    };
    set.root = set.sign(&set.root.signed, set.root.signed.clone())?;
    set.root_bytes = encode(&set.root).map_err(GenerateError::Root)?;
    // Last, so that a folder with a root file has all its keys.
    set.replace_root(&set.root_bytes)
        .map_err(|source| GenerateError::Write {
            path: folder.join(KeySet::ROOT),
            source,
        })?;
    Ok(set)
}

fn create_folder(folder: &Path) -> Result<(), GenerateError> {
    let failed = |source| GenerateError::Write {
        path: folder.into(),
        source,
    };
    match fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(GenerateError::Exists {
                folder: folder.into(),
            }),
            None => fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The folders above it are nobody's secret.
            let above = folder.parent().unwrap_or(folder);
            fs::create_dir_all(above)
                .and_then(|()| fs::DirBuilder::new().mode(0o700).create(folder))
                .map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn new_key() -> Result<SigningKey, GenerateError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(GenerateError::Randomness)?;
    Ok(SigningKey::from_bytes(&seed))
}

fn write_key(path: &Path, key: &SigningKey) -> Result<(), GenerateError> {
    let pem = key
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(GenerateError::Encode)?;
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| GenerateError::Write {
        path: path.into(),
        source,
    })
}

fn load_key(path: &Path) -> Result<(Decoded<Hex>, SigningKey), LoadKeysError> {
    let failed = |source| LoadKeysError::Read {
        path: path.into(),
        source,
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(LoadKeysError::Exposed {
            path: path.into(),
            mode,
        });
    }
    let pem = fs::read_to_string(path).map_err(failed)?;
    let key = SigningKey::from_pkcs8_pem(&pem).map_err(|source| LoadKeysError::Key {
        path: path.into(),
        source,
    })?;
    Ok((key_id(&public_key(&key)), key))
}

fn public_key(key: &SigningKey) -> Key {
    Key::Ed25519 {
        keyval: Ed25519Key {
            public: key.verifying_key().to_bytes().to_vec().into(),
            _extra: HashMap::new(),
        },
        scheme: Ed25519Scheme::Ed25519,
        _extra: HashMap::new(),
    }
}

fn key_id(key: &Key) -> Decoded<Hex> {
    key.key_id()
        .expect("a public key is plain texts, which have a JSON form")
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
