//! What is small on the way and large in memory, weighed: the gateway is the process that a
//! node has, and the daemon's side of it a process of its own as well.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tough::schema::RoleType;
use updater::authorities::Authorities;
use updater::config::Repository;
use updater::fetch::{Client, Fetcher, build_gateway_client, chain};
use updater::ports::{Fetch, Releases, ReleasesError, Stopper, Verdict};

use super::metadata::{Node, told};
use super::publisher::{Publisher, key, tuf_key};
use super::web::{Server, blob, head, patience, runtime, sound, status};

/// The most that daemon and gateway may ever have held, in KiB. Their units allow 96 MiB and
/// 64 MiB before they are slowed down.
const DAEMON: u64 = 64 << 10;
const GATEWAY: u64 = 48 << 10;
/// Far above what it takes, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);

/// Tell the child apart, and what it is to do.
const ADDRESS: &str = "BISTABLE_TEST_ADDRESS";
const FOLDER: &str = "BISTABLE_TEST_FOLDER";

/// Returns the most memory that a process has held, in KiB.
fn peak(process: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

/// The gateway, as systemd starts it.
struct Gateway(Child);

impl Gateway {
    fn start(socket: &Path) -> Self {
        let listener = OwnedFd::from(UnixListener::bind(socket).unwrap());
        let mut program = Command::new(env!("CARGO_BIN_EXE_bistable-updater"));
        program.arg("--gateway").stdin(Stdio::from(listener));
        Self(program.spawn().unwrap())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The daemon's side of a test, in a process of its own.
struct Daemon {
    address: String,
    folder: PathBuf,
}

impl Daemon {
    /// Returns it in the child; `None` in the parent.
    fn here() -> Option<Self> {
        Some(Self {
            address: std::env::var(ADDRESS).ok()?,
            folder: std::env::var_os(FOLDER)?.into(),
        })
    }

    fn client(&self) -> Client {
        let socket = self.folder.join("socket");
        build_gateway_client(&socket, &patience(), &Authorities::default()).unwrap()
    }

    fn repository(&self) -> Repository {
        Repository::parse(&self.address).unwrap()
    }
}

/// Runs the test `name` again as the daemon's side, and weighs both processes.
fn weigh(name: &str, address: &str, folder: &Path) {
    let begun = Instant::now();
    let gateway = Gateway::start(&folder.join("socket"));
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", name, "--nocapture"])
        .env(ADDRESS, address)
        .env(FOLDER, folder);
    let output = child.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(told.contains("1 passed"), "{told}");
    let peak = peak(&gateway.0.id().to_string());
    assert!(peak < GATEWAY, "the gateway has held {peak} KiB");
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
}

/// Ends a child that did what it had to.
fn weigh_child() {
    let peak = peak("self");
    assert!(peak < DAEMON, "the daemon has held {peak} KiB");
}

/// A gibibyte of zeros, packed.
fn bomb() -> Vec<u8> {
    let mut packer = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..1024 {
        packer.write_all(&zeros).unwrap();
    }
    packer.finish().unwrap()
}

#[test]
fn a_body_that_would_unpack_to_a_gibibyte_is_refused_and_unpacked_by_nobody() {
    const SIZE: usize = 1_000_000;
    if let Some(daemon) = Daemon::here() {
        for encoding in ["gzip", "br", "deflate", "zstd"] {
            let address = format!("{}/{encoding}", daemon.address);
            let repository = Repository::parse(&address).unwrap();
            let mut fetcher = Fetcher::new([repository], daemon.client(), patience(), runtime());
            let mut sink = |_: &[u8]| Verdict::Taken;
            let error = fetcher
                .fetch(&blob(SIZE), 0, &Stopper::new().1, &mut sink)
                .unwrap_err();
            let told = chain(&error);
            assert!(told.contains("the server packs the file"), "{told}");
            assert_eq!(fetcher.received(), 0);
        }
        return weigh_child();
    }
    let bomb = bomb();
    assert!(bomb.len() < 256 << 10, "{}", bomb.len());
    let server = Server::start(move |request, stream| {
        let encoding = request.path.split('/').nth(1).unwrap_or_default();
        let headers = [
            format!("Content-Encoding: {encoding}"),
            format!("Content-Length: {}", bomb.len()),
        ];
        head(stream, "200 OK", &headers)?;
        stream.write_all(&bomb)
    });
    let folder = tempfile::tempdir().unwrap();
    weigh(
        "bombs::a_body_that_would_unpack_to_a_gibibyte_is_refused_and_unpacked_by_nobody",
        server.address(),
        folder.path(),
    );
}

#[test]
fn heads_and_bodies_without_end_fill_no_memory() {
    if let Some(daemon) = Daemon::here() {
        for path in ["head", "body"] {
            let address = format!("{}/{path}", daemon.address);
            let repository = Repository::parse(&address).unwrap();
            let mut fetcher = Fetcher::new([repository], daemon.client(), patience(), runtime());
            let mut sink = |_: &[u8]| Verdict::Taken;
            let stop = Stopper::new().1;
            let fetched = fetcher.fetch(&blob(1 << 20), 0, &stop, &mut sink);
            // Of the body, what the blob should have is taken, and no more.
            assert_eq!(fetched.is_ok(), path == "body", "{fetched:?}");
            assert!(fetcher.received() < 2 << 20);
        }
        return weigh_child();
    }
    let server = Server::start(move |request, stream| {
        let more = match request.path.starts_with("/head/") {
            true => "X-More: and more\r\n".repeat(1000),
            false => {
                let header = "Transfer-Encoding: chunked".to_owned();
                head(stream, "200 OK", &[header])?;
                format!("10000\r\n{}\r\n", "x".repeat(0x10000))
            }
        };
        if request.path.starts_with("/head/") {
            stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        }
        for _ in 0..100_000 {
            stream.write_all(more.as_bytes())?;
        }
        Ok(())
    });
    let folder = tempfile::tempdir().unwrap();
    weigh(
        "bombs::heads_and_bodies_without_end_fill_no_memory",
        server.address(),
        folder.path(),
    );
}

/// Metadata that is signed as it must be, and how the node answers.
struct Crowd {
    role: RoleType,
    /// What is put into the role's file.
    edit: fn(&mut Value),
    /// The name and a word of the refusal; `None` where all is well.
    refused: Option<(&'static str, &'static str)>,
}

const CROWDS: [Crowd; 9] = [
    // A million entries are beyond every bound.
    Crowd {
        role: RoleType::Targets,
        edit: |signed| signed["x"] = json!(vec![0; 1_000_000]),
        refused: Some(("untrusted", "larger than 1048576 bytes")),
    },
    Crowd {
        role: RoleType::Snapshot,
        edit: |signed| signed["x"] = json!(vec![0; 1_000_000]),
        refused: Some(("untrusted", "larger than 16384 bytes")),
    },
    Crowd {
        role: RoleType::Timestamp,
        edit: |signed| signed["x"] = json!(vec![0; 1_000_000]),
        refused: Some(("untrusted", "larger than 16384 bytes")),
    },
    // As many as there is room for.
    Crowd {
        role: RoleType::Targets,
        edit: |signed| signed["x"] = json!(vec![0; 500_000]),
        refused: None,
    },
    Crowd {
        role: RoleType::Targets,
        edit: |signed| signed["x"] = json!(vec![json!({}); 330_000]),
        refused: None,
    },
    Crowd {
        role: RoleType::Targets,
        edit: |signed| {
            for number in 0..25_000 {
                let name = format!("t{number}");
                signed["targets"][name] = json!({ "length": 0, "hashes": {} });
            }
        },
        refused: None,
    },
    // Roles without number, that share keys without number, and of which each may know
    // the channel.
    Crowd {
        role: RoleType::Targets,
        edit: |signed| {
            let keys = (0..100).map(|number| tuf_key(&key(number)));
            let keys: serde_json::Map<_, _> = keys
                .map(|key| {
                    let id = hex::encode(key.key_id().unwrap());
                    (id, serde_json::to_value(key).unwrap())
                })
                .collect();
            let role = |number: usize| {
                json!({
                    "name": number.to_string(), "keyids": [], "threshold": 1,
                    "paths": ["*"], "terminating": false,
                })
            };
            let roles: Vec<_> = (0..10_000).map(role).collect();
            signed["targets"] = json!({});
            signed["delegations"] = json!({ "keys": keys, "roles": roles });
        },
        refused: Some(("untrusted", "does not list 0.json")),
    },
    // One role, and patterns without number.
    Crowd {
        role: RoleType::Targets,
        edit: |signed| {
            let role = json!({
                "name": "0", "keyids": [], "threshold": 1,
                "paths": vec!["*/*"; 160_000], "terminating": false,
            });
            signed["targets"] = json!({});
            signed["delegations"] = json!({ "keys": {}, "roles": [role] });
        },
        refused: Some(("unknown", "channel stable")),
    },
    Crowd {
        role: RoleType::Targets,
        edit: |signed| {
            let mut deep = json!(0);
            for _ in 0..1000 {
                deep = json!([deep]);
            }
            signed["x"] = deep;
        },
        refused: Some(("untrusted", "recursion limit")),
    },
];

#[test]
fn signed_metadata_with_as_many_entries_as_there_can_be_is_read_in_bounded_memory() {
    if let Some(daemon) = Daemon::here() {
        let publisher = Publisher::new(&daemon.folder);
        let mut node = Node::trusting(&publisher);
        node.settings.repositories = vec![daemon.repository()];
        let result = node
            .releases_by(daemon.client(), patience())
            .refresh(&Stopper::new().1);
        let answer = match result {
            Ok(_) => "well".to_owned(),
            Err(error) => {
                let (name, words) = told::<()>(Err::<(), ReleasesError>(error));
                format!("{name} {words}")
            }
        };
        fs::write(daemon.folder.join("answer"), answer).unwrap();
        return weigh_child();
    }
    for crowd in CROWDS {
        let folder = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::of(folder.path(), &["1"]);
        publisher.edits.insert(crowd.role, Box::new(crowd.edit));
        publisher.publish();
        let served = folder.path().to_owned();
        let server = Server::start(move |request, stream| {
            match fs::read(served.join(request.path.trim_start_matches('/'))) {
                Ok(content) => sound(request, stream, &content),
                Err(_) => status(stream, "404 Not Found"),
            }
        });
        weigh(
            "bombs::signed_metadata_with_as_many_entries_as_there_can_be_is_read_in_bounded_memory",
            server.address(),
            folder.path(),
        );
        let answer = fs::read_to_string(folder.path().join("answer")).unwrap();
        match crowd.refused {
            None => assert_eq!(answer, "well"),
            Some((name, word)) => {
                assert!(
                    answer.starts_with(name) && answer.contains(word),
                    "{answer}"
                );
            }
        }
    }
}
