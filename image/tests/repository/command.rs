//! The command as scripts use it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::fixture::{Site, build, change};

fn run(site: &Site, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bistable-image"))
        .args(arguments)
        .current_dir(site.path(""))
        .output()
        .expect("the command runs")
}

fn answer(site: &Site, arguments: &[&str], code: i32) -> String {
    let output = run(site, arguments);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

const VERIFY: &[&str] = &[
    "repository",
    "verify",
    "--repository",
    "repo",
    "--root",
    "k/root.json",
];

fn publish<'a>(image: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![
        "publish",
        "--keys",
        "k",
        "--repository",
        "repo",
        "--image",
        image,
    ];
    arguments.extend_from_slice(more);
    arguments
}

#[test]
fn keys_publish_verify_and_refresh_say_by_exit_code_how_it_went() {
    let site = Site::new();
    build(&site.path("1"), "1", b"1");
    answer(&site, &["keys", "k"], 0);
    let text = answer(&site, &["keys", "k"], 2);
    assert!(text.contains("never overwritten"), "{text}");
    answer(&site, &publish("1", &[]), 0);
    let text = answer(&site, VERIFY, 0);
    assert!(text.contains("sound: version 1\n"), "{text}");

    let expired = ["--expires", "-1h"];
    build(&site.path("2"), "2", b"2");
    answer(&site, &publish("2", &expired), 0);
    let text = answer(&site, VERIFY, 1);
    assert!(
        text.contains("problem: MetadataExpired: the timestamp metadata has expired"),
        "{text}"
    );
    answer(
        &site,
        &[
            "repository",
            "refresh",
            "--keys",
            "k",
            "--repository",
            "repo",
        ],
        0,
    );
    answer(&site, VERIFY, 0);

    answer(
        &site,
        &[
            "repository",
            "rotate-root",
            "--keys",
            "k",
            "--repository",
            "repo",
        ],
        0,
    );
    answer(&site, VERIFY, 0);

    let blob = largest(&site.path("repo/blobs"));
    change(&blob, |bytes| bytes[70_000] ^= 1);
    let text = answer(&site, VERIFY, 1);
    assert!(
        text.contains("problem: BlobCorrupt: the root of version "),
        "{text}"
    );

    answer(
        &site,
        &[
            "repository",
            "verify",
            "--repository",
            "nowhere",
            "--root",
            "k/root.json",
        ],
        2,
    );
    answer(
        &site,
        &[
            "repository",
            "verify",
            "--repository",
            "repo",
            "--root",
            "nowhere",
        ],
        2,
    );
    answer(&site, &publish("1", &["--channel", "No Such"]), 2);
    answer(&site, &publish("1", &["--timestamp-expires", "soon"]), 2);
}

#[test]
fn a_repository_that_is_not_there_is_not_made_by_who_looks_after_it() {
    let site = Site::new();
    for command in ["refresh", "rotate-root"] {
        let arguments = [
            "repository",
            command,
            "--keys",
            "keys",
            "--repository",
            "typo",
        ];
        let text = answer(&site, &arguments, 2);
        assert!(text.contains("there is no repository in typo"), "{text}");
    }
    assert!(!site.path("typo").exists());
}

#[test]
fn a_release_is_rolled_out_by_share_and_who_publishes_again_is_told_what_expired() {
    let site = Site::new();
    build(&site.path("1"), "1", b"1");
    answer(&site, &["keys", "k"], 0);
    let text = answer(&site, &publish("1", &["--share", "5"]), 0);
    assert!(
        text.contains("channel stable: version 1 for 5% of the nodes\n"),
        "{text}"
    );
    let rollout = |share, code| {
        let arguments = [
            "repository",
            "rollout",
            "--keys",
            "k",
            "--repository",
            "repo",
            "--share",
            share,
        ];
        answer(&site, &arguments, code)
    };
    let text = rollout("12.5", 0);
    let expected = "channel stable: version 1 for 12.50% of the nodes (before: 5%)\n";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("timestamp expires"), "{text}");
    rollout("101", 2);
    answer(&site, VERIFY, 0);

    let arguments = [
        "repository",
        "refresh",
        "--keys",
        "k",
        "--repository",
        "repo",
    ];
    answer(&site, &[&arguments[..], &["--expires", "-1h"]].concat(), 0);
    let text = answer(&site, &publish("1", &[]), 0);
    assert!(text.contains("already published: version 1"), "{text}");
    assert!(text.contains("warning: timestamp expired "), "{text}");
}

#[test]
fn a_publisher_is_warned_of_a_root_file_that_expires_first() {
    let site = Site::new();
    build(&site.path("1"), "1", b"1");
    answer(&site, &["keys", "k", "--root-expires", "60d"], 0);
    let text = answer(&site, &publish("1", &[]), 0);
    assert!(text.contains("warning: root expires"), "{text}");
    build(&site.path("2"), "2", b"2");
    let text = answer(&site, &publish("2", &["--expires", "30d"]), 0);
    assert!(!text.contains("warning"), "{text}");
}

fn largest(folder: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry"));
    let largest = entries.max_by_key(|entry| entry.metadata().expect("metadata").len());
    largest.expect("a file").path()
}
