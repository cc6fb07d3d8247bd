//! The `bistable` command against an updater on a private bus.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "the helpers of a test end it by panicking, and say aloud what they skip"
)]

mod bus;
mod updater;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bus::Bus;

struct Node {
    bus: Bus,
}

impl Node {
    /// Returns a node with an updater.
    fn start() -> Self {
        let bus = Bus::start(&Bus::open_policy());
        updater::serve(bus.address());
        Self { bus }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bistable"));
        command.args(["--bus", self.bus.address()]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn json(&self) -> Vec<Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

#[test]
fn status_shows_what_the_updater_says() {
    let node = Node::start();
    let ran = node.run(&["status"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("1 in slot A"), "{ran:?}");
    assert!(ran.out.contains("check: containerd"), "{ran:?}");

    let ran = node.run(&["status", "--json"]);
    let [status] = &ran.json()[..] else {
        panic!("{ran:?}")
    };
    assert_eq!(status["state"], "idle");
    assert_eq!(status["booted_version"], "1");
    assert_eq!(status["staged_version"], Value::Null);
    assert_eq!(status["last_rollback"]["unit"], "containerd.service");
    assert_eq!(status["last_rollback"]["tries"], 2);
    assert_eq!(status["last_rollback"]["lines"][0], "it went down");
    assert_eq!(status["last_check"], "2026-05-02T12:00:00Z");
}

#[test]
fn check_tells_by_exit_code_only_when_asked_to() {
    let node = Node::start();
    let ran = node.run(&["check"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (Some(0), "2 is available; `bistable stage` takes it\n")
    );
    assert_eq!(node.run(&["check", "--exit-code"]).code, Some(10));
    let ran = node.run(&["check", "--quiet"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""));
    let ran = node.run(&["check", "--json"]);
    assert_eq!(ran.json()[0]["available_version"], "2");
}

#[test]
fn stage_shows_progress_that_never_goes_back_and_ends_with_what_to_do() {
    let node = Node::start();
    let ran = node.run(&["stage", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let steps = ran.json();
    let done: Vec<_> = steps
        .iter()
        .map(|step| step["job"]["bytes_done"].as_u64().unwrap())
        .collect();
    assert!(done.is_sorted(), "{done:?}");
    assert_eq!(steps.last().unwrap()["job"]["result"], "done");
    assert_eq!(steps.last().unwrap()["job"]["bytes_total"], 1000);

    let ran = node.run(&["stage"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.out
            .ends_with("2 is staged; `bistable reboot` tries it\n"),
        "{ran:?}"
    );
}

#[test]
fn stage_hands_over_its_options_as_the_interface_types_them() {
    let node = Node::start();
    let ran = node.run(&["stage", "options", "--force", "--tries", "5"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("force=true tries=5"), "{ran:?}");
    let ran = node.run(&["stage", "options"]);
    assert!(ran.err.contains("force=- tries=-"), "{ran:?}");
}

#[test]
fn a_refusal_says_what_to_do_next() {
    let node = Node::start();
    let ran = node.run(&["stage", "barred"]);
    assert_eq!(ran.code, Some(3));
    assert_eq!(ran.out, "");
    assert!(
        ran.err
            .starts_with("bistable: that image failed here\n  hint: "),
        "{ran:?}"
    );
    assert!(ran.err.contains("bistable forgive"), "{ran:?}");

    let ran = node.run(&["stage", "barred", "--json"]);
    assert_eq!(ran.code, Some(3));
    assert_eq!(ran.json()[0]["error"]["name"], "io.bistable.Error.Barred");
}

#[test]
fn a_job_that_fails_gives_its_name_and_exit_code() {
    let node = Node::start();
    let ran = node.run(&["stage", "corrupt"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.err.contains("the root image is not what was signed"),
        "{ran:?}"
    );
    let ran = node.run(&["stage", "corrupt", "--json"]);
    let lines = ran.json();
    assert_eq!(
        lines.last().unwrap()["error"]["name"],
        "io.bistable.Error.BlobCorrupt"
    );
}

#[test]
fn the_first_ctrl_c_cancels_the_job() {
    let node = Node::start();
    let mut child = node.spawn(&["stage", "endless"]);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.contains("stage endless"), "{line}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let rest: Vec<_> = out.lines().map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(5), "{rest:?}");
    assert_eq!(rest.last().unwrap(), "cancelled; the spare slot is empty");
}

#[test]
fn the_second_ctrl_c_leaves_the_job_to_the_updater() {
    let node = Node::start();
    let mut child = node.spawn(&["stage", "stubborn"]);
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    out.next().unwrap().unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let told = out.next().unwrap().unwrap();
    assert!(told.starts_with("cancelling"), "{told}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(6));
}

#[test]
fn an_updater_that_dies_at_work_is_told() {
    let node = Node::start();
    let mut child = node.spawn(&["stage", "deadly"]);
    let code = child.wait().unwrap().code();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(code, Some(4), "{ran:?}");
    assert!(ran.err.contains("went away"), "{ran:?}");
}

#[test]
fn without_waiting_it_returns_when_the_work_has_begun() {
    let node = Node::start();
    let ran = node.run(&["stage", "endless", "--no-wait"]);
    assert_eq!(ran.code, Some(0));
    let ran = node.run(&["cancel"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn there_is_nothing_to_cancel_or_pause_without_a_job() {
    let node = Node::start();
    for word in ["cancel", "pause", "resume"] {
        let ran = node.run(&[word]);
        assert_eq!(ran.code, Some(3));
        assert!(ran.err.contains("no job"), "{ran:?}");
    }
}

#[test]
fn a_job_is_paused_and_resumed_and_status_says_so() {
    let node = Node::start();
    assert_eq!(node.run(&["stage", "endless", "--no-wait"]).code, Some(0));
    assert_eq!(node.run(&["pause"]).code, Some(0));
    let ran = node.run(&["status"]);
    assert!(ran.out.contains("paused (`bistable resume`)"), "{ran:?}");
    let ran = node.run(&["status", "--json"]);
    assert_eq!(ran.json()[0]["job"]["paused_by"], "caller");
    assert_eq!(node.run(&["resume"]).code, Some(0));
    let ran = node.run(&["status"]);
    assert!(!ran.out.contains("paused"), "{ran:?}");
}

#[test]
fn metrics_are_printed_as_they_are() {
    let node = Node::start();
    let ran = node.run(&["metrics"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "bistable_up 1\n"));
    let ran = node.run(&["metrics", "--json"]);
    assert_eq!(ran.json()[0]["metrics"], "bistable_up 1\n");
}

#[test]
fn a_plan_is_one_table_for_people_and_one_object_for_machines() {
    let node = Node::start();
    let ran = node.run(&["plan", "2"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("chosen"), "{ran:?}");
    assert!(
        ran.out
            .ends_with("2 takes 11.4 MiB from the network; nothing was written\n"),
        "{ran:?}"
    );
    let ran = node.run(&["plan", "2", "--json"]);
    let [plan] = &ran.json()[..] else {
        panic!("{ran:?}")
    };
    assert_eq!(plan["version"], "2");
    assert_eq!(plan["fetch_bytes"], 12_000_000);
    assert_eq!(plan["ways"][0]["method"], "patch");
    assert_eq!(plan["ways"][0]["requests"], 7);
}

#[test]
fn proceed_waits_for_the_check_and_says_what_it_led_to() {
    let node = Node::start();
    let ran = node.run(&["proceed"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (Some(0), "nothing to do now: 2 waits for the reboot\n"),
        "{ran:?}"
    );
    let ran = node.run(&["proceed", "--json"]);
    assert_eq!(ran.json()[0]["what"], "nothing");
    assert_eq!(ran.json()[0]["held"], "only-stages");
}

#[test]
fn settings_that_are_refused_are_told_with_their_line() {
    let node = Node::start();
    let ran = node.run(&["reload"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("updater.toml:3: tries"), "{ran:?}");
    assert!(ran.err.contains("hint: correct the line"), "{ran:?}");
}

#[test]
fn a_scrub_of_a_slot_that_is_not_good_is_refused() {
    let node = Node::start();
    let ran = node.run(&["scrub"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("the booted slot is not good"), "{ran:?}");
}

#[test]
fn lists_are_tables_for_people_and_arrays_for_machines() {
    let node = Node::start();
    for list in ["slots", "history", "releases", "barred"] {
        let ran = node.run(&[list]);
        assert_eq!(ran.code, Some(0), "{list}: {ran:?}");
        assert!(ran.out.lines().count() >= 2, "{list}: {ran:?}");
        let ran = node.run(&[list, "--json"]);
        let [Value::Array(rows)] = &ran.json()[..] else {
            panic!("{ran:?}")
        };
        assert!(!rows.is_empty());
    }
    let ran = node.run(&["slots", "--json"]);
    assert_eq!(ran.json()[0][1]["tries_left"], 3);
}

#[test]
fn the_gates_words_reach_the_updater() {
    let node = Node::start();
    for (arguments, code) in [
        (&["reboot"][..], 0),
        (&["rollback", "--reason", "it is slow"], 0),
        (&["forgive", "5a"], 0),
        (&["mark-good"], 3),
        (
            &["mark-bad", "--check", "c", "--unit", "u", "--reason", "r"],
            0,
        ),
    ] {
        let ran = node.run(arguments);
        assert_eq!(ran.code, Some(code), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn a_bus_that_is_not_there_is_told_as_such() {
    let ran = Command::new(env!("CARGO_BIN_EXE_bistable"))
        .args(["--bus", "unix:path=/nonexistent/bus", "status"])
        .output();
    let ran = Ran::of(ran.unwrap());
    assert_eq!(ran.code, Some(4), "{ran:?}");
    assert!(ran.err.contains("cannot be reached"), "{ran:?}");
    assert!(ran.err.contains("hint: "), "{ran:?}");
}

#[test]
fn a_bus_without_an_updater_is_told_as_such() {
    let bus = Bus::start(&Bus::open_policy());
    let node = Node { bus };
    for command in ["status", "check", "stage", "reboot"] {
        let ran = node.run(&[command]);
        assert_eq!(ran.code, Some(4), "{ran:?}");
        assert!(ran.err.contains("cannot be reached"), "{ran:?}");
        assert!(ran.err.contains("bistable-updater.service"), "{ran:?}");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_exits_with_2() {
    let bistable = |arguments: &[&str]| {
        Ran::of(
            Command::new(env!("CARGO_BIN_EXE_bistable"))
                .args(arguments)
                .output()
                .unwrap(),
        )
    };
    assert_eq!(bistable(&["frobnicate"]).code, Some(2));
    assert_eq!(bistable(&["stage", "--tries", "99"]).code, Some(2));
    // Force is by name, and no name is none.
    assert_eq!(bistable(&["stage", "--force"]).code, Some(2));
    assert_eq!(bistable(&["stage", ""]).code, Some(2));
    let misspelt = bistable(&["stage", "2", "--froce"]);
    assert_eq!(misspelt.code, Some(2));
    assert!(misspelt.err.contains("'--force'"), "{misspelt:?}");
    assert!(misspelt.err.contains("try '--help'"), "{misspelt:?}");
    let help = bistable(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.out.contains("Exit codes:"), "{help:?}");
    assert_eq!(
        bistable(&["--version"]).out,
        format!("bistable {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn the_help_and_the_manual_give_the_same_exit_codes() {
    let output = Command::new(env!("CARGO_BIN_EXE_bistable"))
        .arg("--help")
        .output();
    let help = Ran::of(output.unwrap()).out;
    let (_, codes) = help.split_once("Exit codes:").unwrap();
    let codes = codes
        .lines()
        .filter_map(|line| line.trim().split_once("  "));
    let codes: Vec<_> = codes
        .filter(|(code, _)| code.parse::<u8>().is_ok())
        .collect();
    assert_eq!(codes.len(), 8, "{help}");
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    for (code, meaning) in codes {
        let row = format!("| {code} | {} |", meaning.trim());
        assert!(manual.contains(&row), "{row}");
    }
}

#[test]
fn a_version_that_is_none_is_refused_with_where_to_look() {
    let node = Node::start();
    let ran = node.run(&["stage", "options"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("bistable help COMMAND"), "{ran:?}");
}

/// The policy that is shipped, for an operators' group that this machine has.
mod policy {
    use std::os::unix::process::CommandExt;

    use super::*;

    /// On every Debian, a user in exactly one group of its own.
    const NOBODY: (u32, u32, &str) = (65534, 65534, "nogroup");

    fn run_as_nobody(policy: &str) -> Option<Ran> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root can run a command as somebody else");
            return None;
        }
        let bus = Bus::start(policy);
        updater::serve(bus.address());
        let node = Node { bus };
        // What is shipped lets root in, in any case.
        assert_eq!(node.run(&["status"]).code, Some(0));
        let (uid, gid, _) = NOBODY;
        // The binary lies where nobody else may look. Another program copies it:
        // a file that this one wrote may be open still in what another test has
        // just forked, and then cannot be run.
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let copy = folder.path().join("bistable");
        let mut install = Command::new("install");
        install.args(["--mode=755", env!("CARGO_BIN_EXE_bistable")]);
        assert!(install.arg(&copy).status().unwrap().success());
        let mut command = Command::new(copy);
        command
            .args(["--bus", node.bus.address(), "status"])
            .uid(uid)
            .gid(gid);
        Some(Ran::of(command.output().unwrap()))
    }

    #[test]
    fn a_stranger_is_denied_and_told_which_group_may() {
        let Some(ran) = run_as_nobody(&Bus::shipped_policy()) else {
            return;
        };
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(ran.err.contains("bistable-operators"), "{ran:?}");
    }

    #[test]
    fn an_operator_is_let_in() {
        let policy = Bus::shipped_policy().replace("bistable-operators", NOBODY.2);
        let Some(ran) = run_as_nobody(&policy) else {
            return;
        };
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
}
