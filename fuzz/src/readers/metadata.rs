//! The metadata of a repository, twice: what it says first, and what it says later.
//!
//! ```text
//! u16 which files nobody has signed   the signed parts of the files, divided by zeros:
//!     root 2   then timestamp, snapshot, targets, role "a", and the same four again
//! ```
//! The image's root names one key for everything, and all files are signed by it: a
//! search would never hit upon a signature. A file that is empty is not there.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::LazyLock;

use ed25519_dalek::{Signer as _, SigningKey};
use jiff::Timestamp as Moment;
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tough::schema::key::{Ed25519Key, Ed25519Scheme, Key};
use tough::schema::{Role, RoleType, Signature, Signed};
use updater::authorities::Authorities;
use updater::fetch::{Client, Patience, build_gateway_client};
use updater::trust::{RemoteFolder, Start, Store, refresh};
use url::Url;

use crate::Outcome;
use crate::script::Script;

/// The files of the repository that come twice.
const FILES: [&str; 4] = ["timestamp", "snapshot", "targets", "a"];
const TARGET: &str = "1.0.release.json";
const NOW: &str = "2026-06-01T00:00:00Z";
const LATER: &str = "2027-01-01T00:00:00Z";

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be had")
});
/// Never asked: the repository is a folder.
static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    let nowhere = Path::new("/nonexistent");
    let client = build_gateway_client(nowhere, &Patience::default(), &Authorities::default());
    client.expect("a client can be had")
});

pub(crate) fn read(input: &[u8]) -> Outcome {
    let mut script = Script(input);
    let unsigned = script.short();
    let mut parts = script.0.split(|byte| *byte == 0);
    let mut number = 0;
    let mut next = || {
        let part = parts.next().unwrap_or_default();
        let is_signed = unsigned & (1 << number) == 0;
        number += 1;
        File::of(part, is_signed)
    };
    let root = next();
    let first = FILES.map(|_| next());
    let second = FILES.map(|_| next());

    let stand = Stand::new();
    stand.publish("2.root.json", &root);
    let before = stand.ask(&first);
    let after = stand.ask(&second);
    for (role, version) in &before.kept {
        // Delegated roles are forgotten between two questions.
        let later = after.kept.get(role).copied();
        assert!(
            later.is_none_or(|later| later >= *version),
            "{role} went back from {version} to {later:?}"
        );
    }
    let all = [&root].into_iter().chain(&first).chain(&second);
    for file in all.filter(|file| !file.is_signed && !file.bytes.is_empty()) {
        assert!(!stand.keeps(&file.bytes), "nobody has signed what is kept");
    }
    if before.sound || after.sound {
        Outcome::Accepted
    } else {
        Outcome::Refused
    }
}

/// A file of metadata as it is published.
struct File {
    is_signed: bool,
    /// What is signed, if that is JSON.
    says: Value,
    bytes: Vec<u8>,
}

impl File {
    fn of(part: &[u8], is_signed: bool) -> Self {
        let (says, bytes) = match serde_json::from_slice::<Value>(part) {
            // As it is: what is no JSON has no form that could be signed.
            Err(_) => (Value::Null, part.to_vec()),
            Ok(says) => {
                let bytes = sign(says.clone(), is_signed).unwrap_or_else(|| part.to_vec());
                (says, bytes)
            }
        };
        Self {
            is_signed,
            says,
            bytes,
        }
    }

    /// Returns the version that it gives for another one.
    fn version_of(&self, file: &str) -> u64 {
        let version = self.says.pointer(&format!("/meta/{file}.json/version"));
        version.and_then(Value::as_u64).unwrap_or(1)
    }
}

/// What came of a question.
struct Answer {
    sound: bool,
    /// The versions of the roles that are kept.
    kept: BTreeMap<&'static str, u64>,
}

/// A repository in a folder, and a node that has its root.
struct Stand {
    folder: TempDir,
    store: Store,
}

impl Stand {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let folder = folder.expect("a temporary folder");
        fs::create_dir(folder.path().join("metadata")).expect("the folder can be written");
        let store = Store::new(&folder.path().join("store"));
        let root = sign(root(1), true).expect("the root can be signed");
        store.begin(&root).expect("the store can be written");
        Self { folder, store }
    }

    fn publish(&self, name: &str, file: &File) {
        let path = self.folder.path().join("metadata").join(name);
        let done = if file.bytes.is_empty() {
            match fs::remove_file(path) {
                // It never was there.
                Ok(()) | Err(_) => Ok(()),
            }
        } else {
            fs::write(path, &file.bytes)
        };
        done.expect("the folder can be written");
    }

    /// Publishes the files, and lets the node ask.
    fn ask(&self, files: &[File; 4]) -> Answer {
        let [timestamp, snapshot, targets, delegated] = files;
        self.publish("timestamp.json", timestamp);
        let version = timestamp.version_of("snapshot");
        self.publish(&format!("{version}.snapshot.json"), snapshot);
        for (name, file) in [("targets", targets), ("a", delegated)] {
            let version = snapshot.version_of(name);
            self.publish(&format!("{version}.{name}.json"), file);
        }
        let url = Url::from_directory_path(self.folder.path().join("metadata"));
        let url = url.expect("an absolute path");
        let metadata = RemoteFolder::new(url, CLIENT.clone(), Patience::default());
        let now: Moment = NOW.parse().expect("a good time");
        let sound = RUNTIME.block_on(async {
            let start = Start::kept(&self.store).ok()?;
            let trusted = refresh(&start, &self.store, &metadata, now).await.ok()?;
            for name in trusted.names() {
                assert!(self.kept_targets_say(name), "{name:?} was made up");
            }
            let found = trusted.find(TARGET).await.ok()?;
            drop(trusted.find("a/b").await);
            found
        });
        let kept = ["root", "timestamp", "snapshot", "targets"];
        let kept = kept
            .into_iter()
            .filter_map(|role| Some((role, self.version(role)?)));
        let kept: BTreeMap<_, _> = kept.collect();
        if sound.is_some() {
            assert_eq!(kept.len(), 4, "what is trusted is kept");
        }
        Answer {
            sound: sound.is_some(),
            kept,
        }
    }

    fn kept(&self, role: &str) -> Option<Vec<u8>> {
        fs::read(
            self.folder
                .path()
                .join("store")
                .join(format!("{role}.json")),
        )
        .ok()
    }

    fn says(&self, role: &str) -> Option<Value> {
        let mut kept: Value = serde_json::from_slice(&self.kept(role)?).ok()?;
        Some(kept.get_mut("signed")?.take())
    }

    fn version(&self, role: &str) -> Option<u64> {
        self.says(role)?.get("version")?.as_u64()
    }

    fn kept_targets_say(&self, name: &str) -> bool {
        let says = self.says("targets");
        says.is_some_and(|says| {
            says.get("targets")
                .is_some_and(|all| all.get(name).is_some())
        })
    }

    fn keeps(&self, bytes: &[u8]) -> bool {
        let roles = ["root", "timestamp", "snapshot", "targets", "a"];
        roles
            .iter()
            .any(|role| self.kept(role).as_deref() == Some(bytes))
    }
}

/// Anything, to be signed as the metadata of a role is.
#[derive(Serialize)]
#[serde(transparent)]
struct Raw(Value);

impl Role for Raw {
    const TYPE: RoleType = RoleType::Targets;

    fn expires(&self) -> Moment {
        Moment::MAX
    }

    fn version(&self) -> NonZeroU64 {
        NonZeroU64::MIN
    }

    fn filename(&self, _consistent_snapshot: bool) -> String {
        String::new()
    }
}

/// Returns the file that says this, if it has a form that can be signed.
fn sign(says: Value, is_signed: bool) -> Option<Vec<u8>> {
    let signer = if is_signed { key(1) } else { key(2) };
    let signed = Raw(says);
    let canonical = signed.canonical_form().ok()?;
    let signatures = vec![Signature {
        keyid: tuf_key(&key(1)).key_id().ok()?,
        sig: signer.sign(&canonical).to_bytes().to_vec().into(),
    }];
    serde_json::to_vec(&Signed { signed, signatures }).ok()
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn tuf_key(key: &SigningKey) -> Key {
    Key::Ed25519 {
        keyval: Ed25519Key {
            public: key.verifying_key().to_bytes().to_vec().into(),
            _extra: Default::default(),
        },
        scheme: Ed25519Scheme::Ed25519,
        _extra: Default::default(),
    }
}

/// Returns what a root says: one key, for every role.
fn root(version: u64) -> Value {
    let key = tuf_key(&key(1));
    let id = key.key_id().expect("the key has a form");
    let id = hex::encode(id.as_ref());
    let role = json!({ "keyids": [id], "threshold": 1 });
    json!({
        "_type": "root", "spec_version": "1.0.0", "consistent_snapshot": true,
        "version": version, "expires": LATER, "keys": { id: key },
        "roles": { "root": role, "timestamp": role, "snapshot": role, "targets": role },
    })
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let key = tuf_key(&key(1));
    let id = key.key_id().expect("the key has a form");
    let id = hex::encode(id.as_ref());
    let listing = |role: &str, version: u64, meta: Value| json!({ "_type": role, "spec_version": "1.0.0", "version": version, "expires": LATER, "meta": meta });
    let hashes = json!({ "sha256": "11".repeat(32) });
    let target = json!({ "length": 10, "hashes": hashes });
    let generation = |version: u64| {
        let at = json!({ "version": version });
        let targets = json!({
            "_type": "targets", "spec_version": "1.0.0", "version": version, "expires": LATER,
            "targets": { TARGET: target },
            "delegations": {
                "keys": { id.as_str(): key },
                "roles": [{ "name": "a", "keyids": [id], "threshold": 1, "paths": ["a/*"], "terminating": true }],
            },
        });
        let delegated = json!({
            "_type": "targets", "spec_version": "1.0.0", "version": version, "expires": LATER,
            "targets": { "a/b": target },
        });
        [
            listing("timestamp", version, json!({ "snapshot.json": at })),
            listing(
                "snapshot",
                version,
                json!({ "targets.json": at, "a.json": at }),
            ),
            targets,
            delegated,
        ]
        .map(|part| part.to_string())
        .to_vec()
    };
    let seed = |unsigned: u16, root: String, first: Vec<String>, second: Vec<String>| {
        let parts = [vec![root], first, second].concat().join("\0");
        [unsigned.to_le_bytes().as_slice(), parts.as_bytes()].concat()
    };
    vec![
        seed(0, String::new(), generation(1), generation(2)),
        seed(0, root(2).to_string(), generation(2), generation(1)),
        seed(1 << 5, String::new(), generation(1), generation(2)),
    ]
}
