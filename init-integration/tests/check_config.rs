//! `bistable-health-gate --check-config`, as a pipeline calls it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bistable-health-gate"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_is_shipped_has_no_mistakes() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd-units/config");
    let output = run(&["--check-config", shipped.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("containerd"), "{}", text(&output));
}

#[test]
fn every_mistake_is_named_and_the_status_tells() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("health.d")).unwrap();
    fs::write(
        folder.path().join("health.d/web.toml"),
        "kind = 'unit'\nunit = 'web'\n",
    )
    .unwrap();
    fs::write(folder.path().join("health.toml"), "soak = 15\n").unwrap();
    let output = run(&["--check-config", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output);
    assert!(said.contains("health.toml:1: soak: "), "{said}");
    assert!(said.contains("health.d/web.toml:2: unit: "), "{said}");
}

#[test]
fn help_is_given_and_nonsense_is_not_taken() {
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["--no-such-option"]).status.code(), Some(2));
    assert_eq!(run(&["--check-config", "--deep"]).status.code(), Some(2));
}
