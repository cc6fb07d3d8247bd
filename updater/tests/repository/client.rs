//! The command `bistable-trust`, as conformance suites of others call it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use tempfile::TempDir;
use tough::schema::RoleType;

use crate::publisher::{Publisher, days, key, sign, tuf_key};
use crate::web::{Server, sound, status};

/// The digest of `content`.
const CONTENT: &str = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";

/// A client, and a server of what its publisher has in his folder.
struct Setting {
    publisher: Publisher,
    server: Server,
    folder: TempDir,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let served = folder.path().join("served");
        for name in ["served", "kept", "downloaded"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut publisher = Publisher::new(&served);
        publisher.add("plain", b"content".to_vec());
        publisher.publish();
        let server = Server::start(move |request, stream| {
            match fs::read(served.join(request.path.trim_start_matches('/'))) {
                Ok(content) => sound(request, stream, &content),
                Err(_) => status(stream, "404 Not Found"),
            }
        });
        let setting = Self {
            publisher,
            server,
            folder,
        };
        let root = setting.folder.path().join("initial.json");
        fs::write(&root, setting.publisher.root()).unwrap();
        assert!(
            setting
                .run(&["init", root.to_str().unwrap()])
                .status
                .success()
        );
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bistable-trust"));
        command.arg("--metadata-dir").arg(self.path("kept"));
        command.args(arguments).output().unwrap()
    }

    fn refresh(&self) -> Output {
        let metadata = format!("{}/metadata", self.server.address());
        self.run(&["--metadata-url", &metadata, "refresh"])
    }

    fn download(&self, names: &[&str]) -> Output {
        let metadata = format!("{}/metadata/", self.server.address());
        let targets = format!("{}/targets", self.server.address());
        let into = self.path("downloaded");
        let mut arguments = vec!["--metadata-url", &metadata];
        for name in names {
            arguments.extend(["--target-name", name]);
        }
        arguments.extend(["--target-base-url", &targets]);
        arguments.extend(["--target-dir", into.to_str().unwrap(), "download"]);
        self.run(&arguments)
    }

    fn downloaded(&self) -> Vec<Vec<u8>> {
        let files = names(&self.path("downloaded")).into_iter();
        files
            .map(|name| fs::read(self.path("downloaded").join(name)).unwrap())
            .collect()
    }

    fn asked(&self, what: &str) -> usize {
        let requests = self.server.requests();
        let asked = requests.iter().filter(|it| it.path.contains(what));
        asked.count()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[track_caller]
fn done(output: &Output) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
}

#[track_caller]
fn refused(output: &Output, because: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(because), "{told}");
}

#[test]
fn a_client_keeps_the_files_of_the_roles_as_they_came_and_nothing_else() {
    let setting = Setting::new();
    done(&setting.refresh());
    let kept = setting.path("kept");
    let roles = ["root", "snapshot", "targets", "timestamp"].map(|it| format!("{it}.json"));
    assert_eq!(names(&kept), roles);
    for role in roles {
        let versioned = format!("1.{role}");
        let name = if role == "timestamp.json" {
            &role
        } else {
            &versioned
        };
        let published = fs::read(setting.publisher.metadata(name)).unwrap();
        assert_eq!(fs::read(kept.join(role)).unwrap(), published);
    }
    // What it has is not fetched again.
    done(&setting.refresh());
    assert_eq!(setting.asked("snapshot.json"), 1);
    assert_eq!(setting.asked("targets.json"), 1);
    assert_eq!(setting.asked("timestamp.json"), 2);
    assert_eq!(setting.asked("2.root.json"), 2);
}

#[test]
fn a_client_goes_on_from_the_root_that_it_keeps() {
    let mut setting = Setting::new();
    let publisher = &mut setting.publisher;
    publisher.root_version = 2;
    publisher.keys.insert(RoleType::Timestamp, key(50));
    publisher.publish();
    done(&setting.refresh());
    done(&setting.refresh());
    assert_eq!(setting.asked("2.root.json"), 1);
    assert_eq!(setting.asked("3.root.json"), 2);
}

#[test]
fn a_target_is_downloaded_once_and_again_when_it_has_changed() {
    let mut setting = Setting::new();
    done(&setting.download(&["plain"]));
    done(&setting.download(&["plain"]));
    assert_eq!(setting.downloaded(), [b"content"]);
    assert_eq!(setting.asked("/targets/"), 1);

    setting.publisher.targets = vec![("plain".to_owned(), b"changed".to_vec())];
    setting.publisher.raise();
    setting.publisher.publish();
    done(&setting.download(&["plain"]));
    assert_eq!(setting.downloaded(), [b"changed"]);

    // A file that is not what was downloaded is replaced.
    let file = setting.path("downloaded").join("plain");
    fs::write(file, "damaged").unwrap();
    done(&setting.download(&["plain"]));
    assert_eq!(setting.downloaded(), [b"changed"]);
}

#[test]
fn a_target_in_a_folder_is_asked_for_there_and_kept_under_one_name() {
    let mut setting = Setting::new();
    setting.publisher.targets.clear();
    setting.publisher.add("path/file", b"content".to_vec());
    let targets = setting.path("served").join("targets");
    // The publisher puts the digest before the whole name, a repository with
    // consistent snapshots before its last part.
    fs::create_dir_all(targets.join(format!("{CONTENT}.path"))).unwrap();
    fs::create_dir_all(targets.join("path")).unwrap();
    fs::write(targets.join(format!("path/{CONTENT}.file")), "content").unwrap();
    setting.publisher.raise();
    setting.publisher.publish();
    done(&setting.download(&["path/file"]));
    assert_eq!(setting.downloaded(), [b"content"]);
}

#[test]
fn a_target_that_is_a_lie_or_is_not_there_is_refused_and_not_kept() {
    let mut setting = Setting::new();
    refused(
        &setting.download(&["missing"]),
        "there is no target \"missing\"",
    );
    for content in [&b"CONTENT"[..], b"content and more", b"cont"] {
        for file in names(&setting.path("served").join("targets")) {
            fs::write(setting.path("served").join("targets").join(file), content).unwrap();
        }
        refused(&setting.download(&["plain"]), "plain");
        assert!(setting.downloaded().is_empty());
    }
    // The first that fails ends it.
    setting.publisher.add("other", b"other".to_vec());
    setting.publisher.raise();
    setting.publisher.publish();
    done(&setting.download(&["plain", "other"]));
    let other = names(&setting.path("downloaded"));
    assert_eq!(other, ["other", "plain"]);
    refused(&setting.download(&["missing", "plain"]), "missing");
}

#[test]
fn no_target_is_asked_for_or_written_outside_its_folder() {
    for name in ["../out", "a/../../out", "/out", "a//out", "a/./out", ".."] {
        let mut setting = Setting::new();
        let edit = {
            let name = name.to_owned();
            move |signed: &mut Value| {
                let target = signed["targets"]["plain"].take();
                signed["targets"] = json!({ name.clone(): target });
            }
        };
        let edits = &mut setting.publisher.edits;
        edits.insert(RoleType::Targets, Box::new(edit));
        setting.publisher.raise();
        setting.publisher.publish();
        refused(&setting.download(&[name]), "it leads somewhere else");
        assert_eq!(setting.asked("out"), 0);
        assert!(setting.downloaded().is_empty());
    }
}

#[test]
fn a_client_without_a_root_or_with_a_foreign_one_asks_for_nothing() {
    let setting = Setting::new();
    fs::remove_file(setting.path("kept").join("root.json")).unwrap();
    refused(&setting.refresh(), "root cannot be read");
    let root = String::from_utf8(setting.publisher.root()).unwrap();
    let forged = root.replace("\"version\":1", "\"version\":9");
    fs::write(setting.path("kept").join("root.json"), forged).unwrap();
    refused(&setting.refresh(), "root is not signed as it must be");
    assert_eq!(setting.server.requests(), []);
    refused(&setting.run(&["refresh"]), "--metadata-url is missing");
    refused(&setting.run(&["no-such-command"]), "no-such-command");
}

/// Makes targets delegate `team/*` to a role of key 70, and lets `signer` sign
/// for it.
fn delegate(setting: &mut Setting, signer: &SigningKey) {
    let id = hex::encode(tuf_key(&key(70)).key_id().unwrap().into_vec());
    let by = json!({
        "keys": { id.clone(): serde_json::to_value(tuf_key(&key(70))).unwrap() },
        "roles": [{
            "name": "a/team", "keyids": [id], "threshold": 1,
            "paths": ["team/*"], "terminating": false,
        }],
    });
    let content = json!({ "length": 7, "hashes": { "sha256": CONTENT } });
    let team = json!({
        "_type": "targets", "spec_version": "1.0.31", "version": 1, "expires": days(3),
        "targets": { "team/file": content, "other/file": content },
    });
    let publisher = &mut setting.publisher;
    let edits = &mut publisher.edits;
    edits.insert(
        RoleType::Targets,
        Box::new(move |signed: &mut Value| signed["delegations"] = by.clone()),
    );
    edits.insert(
        RoleType::Snapshot,
        Box::new(|signed: &mut Value| signed["meta"]["a/team.json"] = json!({ "version": 1 })),
    );
    publisher.raise();
    publisher.publish();
    // On the server, the slash of its name comes out of the URL as it went in.
    let file = publisher.metadata("1.a%2Fteam.json");
    fs::write(file, sign(team, std::slice::from_ref(signer))).unwrap();
    let targets = setting.path("served/targets/team");
    fs::create_dir_all(&targets).unwrap();
    fs::write(targets.join(format!("{CONTENT}.file")), "content").unwrap();
}

#[test]
fn a_delegated_role_gives_what_was_delegated_to_it_and_nothing_else() {
    let mut setting = Setting::new();
    delegate(&mut setting, &key(70));
    done(&setting.download(&["plain", "team/file"]));
    assert_eq!(setting.downloaded(), [b"content", b"content"]);
    assert!(setting.path("kept/a%2Fteam.json").exists());
    refused(&setting.download(&["other/file"]), "there is no target");
    // It is kept from one question to the next only.
    assert!(!setting.path("kept/a%2Fteam.json").exists());
}

#[test]
fn a_delegated_role_is_signed_by_whom_the_delegating_one_names() {
    let mut setting = Setting::new();
    // A key that the root names, but not for this.
    let targets = setting.publisher.keys[&RoleType::Targets].clone();
    delegate(&mut setting, &targets);
    let because = "a/team is not signed as it must be";
    refused(&setting.download(&["team/file"]), because);
    assert!(setting.downloaded().is_empty());
    assert!(!setting.path("kept/a%2Fteam.json").exists());
    // Who asks for nothing of it is not held up.
    done(&setting.download(&["plain"]));
}
