//! A publisher of TUF metadata, small enough to be dishonest.

use std::collections::HashMap;
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer, SigningKey};
use jiff::{SignedDuration, Timestamp as Moment};
use partition_layout::{Architecture, RootHash, Version};
use release::{Blob, Blobs, COMPATIBLE, Channel, ChannelName, Digest, Release, Salt, Verity};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tough::TargetName;
use tough::schema::key::{Ed25519Key, Ed25519Scheme, Key};
use tough::schema::{
    Hashes, Metafile, Role, RoleKeys, RoleType, Root, Signature, Signed, Snapshot, Target, Targets,
    Timestamp,
};

const SPEC: &str = "1.0.0";
const ROLES: [RoleType; 4] = [
    RoleType::Root,
    RoleType::Snapshot,
    RoleType::Targets,
    RoleType::Timestamp,
];

/// What is published, and by whom. Every field can be set to a lie.
pub(crate) struct Publisher {
    pub(crate) folder: PathBuf,
    /// The key that signs each role; the root says the same.
    pub(crate) keys: HashMap<RoleType, SigningKey>,
    pub(crate) root_version: u64,
    pub(crate) root_expires: Moment,
    pub(crate) timestamp_version: u64,
    pub(crate) timestamp_expires: Moment,
    pub(crate) snapshot_version: u64,
    pub(crate) targets_version: u64,
    pub(crate) targets: Vec<(String, Vec<u8>)>,
    /// The length that the snapshot gives for the targets; the true one if `None`.
    pub(crate) targets_length: Option<u64>,
    /// Further keys that the root names for a role.
    pub(crate) more_keys: HashMap<RoleType, Vec<SigningKey>>,
    /// How many of its keys must sign for a role; one, if it is not here.
    pub(crate) thresholds: HashMap<RoleType, u64>,
    /// Who signs for a role instead of its key.
    pub(crate) signers: HashMap<RoleType, Vec<SigningKey>>,
    /// What is changed in the file of a role before it is signed.
    pub(crate) edits: HashMap<RoleType, Box<Edit>>,
}

pub(crate) type Edit = dyn Fn(&mut Value);

/// Anything, to be signed as the metadata of a role is.
#[derive(Serialize)]
#[serde(transparent)]
struct Raw(Value);

impl Role for Raw {
    const TYPE: RoleType = RoleType::Targets;

    fn expires(&self) -> Moment {
        unreachable!("nobody asks a value")
    }

    fn version(&self) -> NonZeroU64 {
        unreachable!("nobody asks a value")
    }

    fn filename(&self, _consistent_snapshot: bool) -> String {
        unreachable!("nobody asks a value")
    }
}

/// Returns the file of metadata that says `signed`.
pub(crate) fn sign(signed: Value, signers: &[SigningKey]) -> Vec<u8> {
    let signed = Raw(signed);
    let canonical = signed.canonical_form().unwrap();
    let signatures = signers.iter().map(|key| Signature {
        keyid: tuf_key(key).key_id().unwrap(),
        sig: key.sign(&canonical).to_bytes().to_vec().into(),
    });
    let signatures = signatures.collect();
    serde_json::to_vec(&Signed { signed, signatures }).unwrap()
}

pub(crate) fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

pub(crate) fn days(number: i64) -> Moment {
    Moment::now() + SignedDuration::from_hours(24 * number)
}

impl Publisher {
    /// Returns a publisher of nothing, with sound settings.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            keys: ROLES
                .into_iter()
                .zip(1..)
                .map(|(role, number)| (role, key(number)))
                .collect(),
            root_version: 1,
            root_expires: days(365),
            timestamp_version: 1,
            timestamp_expires: days(7),
            snapshot_version: 1,
            targets_version: 1,
            targets: Vec::new(),
            targets_length: None,
            more_keys: HashMap::new(),
            thresholds: HashMap::new(),
            signers: HashMap::new(),
            edits: HashMap::new(),
        }
    }

    /// Returns a publisher whose channel `stable` names the last of `versions`.
    pub(crate) fn of(folder: &Path, versions: &[&str]) -> Self {
        let mut publisher = Self::new(folder);
        for version in versions {
            publisher.add(
                &format!("{version}.release.json"),
                release(version).to_bytes().unwrap(),
            );
        }
        let mut releases: Vec<_> = versions
            .iter()
            .map(|version| Version::parse(version).unwrap())
            .collect();
        let release = releases.last().unwrap().clone();
        releases.sort_by(|one, other| other.cmp(one));
        let channel = ChannelName::parse("stable").unwrap();
        let channel = Channel {
            channel,
            release,
            releases,
            rollout: None,
        };
        publisher.add("stable.channel.json", channel.to_bytes().unwrap());
        publisher
    }

    pub(crate) fn add(&mut self, name: &str, content: Vec<u8>) {
        self.targets.push((name.to_owned(), content));
    }

    /// Raises the version of everything that a new release changes.
    pub(crate) fn raise(&mut self) {
        self.timestamp_version += 1;
        self.snapshot_version += 1;
        self.targets_version += 1;
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.folder.display())
    }

    pub(crate) fn root_file(&self) -> PathBuf {
        self.metadata(&format!("{}.root.json", self.root_version))
    }

    pub(crate) fn metadata(&self, name: &str) -> PathBuf {
        self.folder.join("metadata").join(name)
    }

    fn signed<R: Role>(&self, content: R) -> Vec<u8> {
        let mut signed = serde_json::to_value(&content).unwrap();
        if let Some(edit) = self.edits.get(&R::TYPE) {
            edit(&mut signed);
        }
        let own = [self.keys[&R::TYPE].clone()];
        sign(signed, self.signers.get(&R::TYPE).map_or(&own, |it| it))
    }

    /// Returns the root, signed by the root key.
    pub(crate) fn root(&self) -> Vec<u8> {
        let of_role = |role: &RoleType| {
            let own = self.keys.get(role).into_iter();
            own.chain(self.more_keys.get(role).into_iter().flatten())
                .map(|key| (tuf_key(key).key_id().unwrap(), tuf_key(key)))
                .collect::<Vec<_>>()
        };
        let keys = ROLES.iter().flat_map(of_role).collect();
        let roles = ROLES.iter().map(|role| {
            let role_keys = RoleKeys {
                keyids: of_role(role).into_iter().map(|(id, _)| id).collect(),
                threshold: number(self.thresholds.get(role).copied().unwrap_or(1)),
                _extra: HashMap::new(),
            };
            (*role, role_keys)
        });
        let root = Root {
            spec_version: SPEC.to_owned(),
            consistent_snapshot: true,
            version: number(self.root_version),
            expires: self.root_expires,
            keys,
            roles: roles.collect(),
            _extra: HashMap::new(),
        };
        self.signed(root)
    }

    /// Writes a repository of what the fields say. Older files stay.
    pub(crate) fn publish(&self) {
        for folder in ["metadata", "targets"] {
            fs::create_dir_all(self.folder.join(folder)).unwrap();
        }
        fs::write(self.root_file(), self.root()).unwrap();

        let mut targets = Targets::new(SPEC.to_owned(), number(self.targets_version), days(30));
        for (name, content) in &self.targets {
            let hashes = hashes(content);
            let target = Target {
                length: content.len() as u64,
                hashes: hashes.clone(),
                custom: HashMap::new(),
                _extra: HashMap::new(),
            };
            targets
                .targets
                .insert(TargetName::new(name.as_str()).unwrap(), target);
            let name = format!("{}.{name}", hex::encode(hashes.sha256.clone().into_vec()));
            fs::write(self.folder.join("targets").join(name), content).unwrap();
        }
        let targets = self.signed(targets);
        self.write(&format!("{}.targets.json", self.targets_version), &targets);

        let mut snapshot = Snapshot::new(SPEC.to_owned(), number(self.snapshot_version), days(30));
        let mut described = metafile(&targets, self.targets_version);
        if let Some(length) = self.targets_length {
            described.length = Some(length);
            described.hashes = None;
        }
        snapshot.meta.insert("targets.json".to_owned(), described);
        let snapshot = self.signed(snapshot);
        self.write(
            &format!("{}.snapshot.json", self.snapshot_version),
            &snapshot,
        );

        let mut timestamp = Timestamp::new(
            SPEC.to_owned(),
            number(self.timestamp_version),
            self.timestamp_expires,
        );
        timestamp.meta.insert(
            "snapshot.json".to_owned(),
            metafile(&snapshot, self.snapshot_version),
        );
        self.write("timestamp.json", &self.signed(timestamp));
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.metadata(name), bytes).unwrap();
    }
}

fn number(number: u64) -> NonZeroU64 {
    NonZeroU64::new(number).unwrap()
}

pub(crate) fn tuf_key(key: &SigningKey) -> Key {
    Key::Ed25519 {
        keyval: Ed25519Key {
            public: key.verifying_key().to_bytes().to_vec().into(),
            _extra: HashMap::new(),
        },
        scheme: Ed25519Scheme::Ed25519,
        _extra: HashMap::new(),
    }
}

fn hashes(content: &[u8]) -> Hashes {
    Hashes {
        sha256: Sha256::digest(content).to_vec().into(),
        _extra: HashMap::new(),
    }
}

fn metafile(content: &[u8], version: u64) -> Metafile {
    Metafile {
        length: Some(content.len() as u64),
        hashes: Some(hashes(content)),
        version: number(version),
        _extra: HashMap::new(),
    }
}

/// Returns a sound release of `version`, of one block.
pub(crate) fn release(version: &str) -> Release {
    let blob = |fill, size| Blob {
        sha256: Digest::new([fill; 32]),
        size,
    };
    Release {
        version: Version::parse(version).unwrap(),
        architecture: Architecture::X86_64,
        compatible: COMPATIBLE.to_owned(),
        root_hash: RootHash::parse(&"0f".repeat(32)).unwrap(),
        verity: Verity {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: Salt::parse("5a17").unwrap(),
            data_blocks: 1,
        },
        blobs: Blobs {
            root: blob(1, 4096),
            verity: blob(2, 4096),
            uki: blob(3, 1000),
            sbom: None,
            packed: None,
        },
        patches: Vec::new(),
        uki_patches: Vec::new(),
        created: None,
        notes: None,
    }
}
