//! What lies in `systemd-units/`, held against the programs that read it.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test end it by panicking"
)]

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Output;

use partition_layout::{
    Architecture, DiskLayout, DiskPlan, Form, RootHash, Slot, SlotContent, Version, create,
};
use updater::names::ErrorName;

/// The size of a node's disk, in bytes.
const DISK: u64 = 8 << 30;

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd-units")
}

/// Runs a tool of the host.
fn run(tool: &str, arguments: &[&str]) -> Output {
    host_tools::oracle(tool).args(arguments).output().unwrap()
}

fn told(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

/// Makes a disk that is as large as its plan needs, and then grows, as a cloud
/// grows it.
fn disk(path: &Path, plan: &DiskPlan) {
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap();
    let made = match plan.form {
        Form::Shipped => plan.smallest_disk(),
        Form::Full => DISK,
    };
    file.set_len(made).unwrap();
    create(&mut file, plan).unwrap();
    file.set_len(DISK).unwrap();
}

fn layout(path: &Path) -> DiskLayout {
    let (layout, health) = DiskLayout::read(&File::open(path).unwrap()).unwrap();
    assert!(health.is_sound(), "{health:?}");
    layout
}

#[test]
fn the_first_boot_makes_the_disk_that_partition_layout_would_have_made() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = folder.path().join("shipped.raw");
    let mut plan = DiskPlan::new(Architecture::of_build(), Form::Shipped);
    let hash = format!("{}{}", "5a".repeat(16), "a5".repeat(16));
    let hash = RootHash::parse(&hash).unwrap();
    plan.slot_a = Some((Version::parse("1").unwrap(), hash));
    disk(&shipped, &plan);
    // Its backup table lies where the disk once ended.
    let (before, _) = DiskLayout::read(&File::open(&shipped).unwrap()).unwrap();

    let definitions = format!("--definitions={}", units().join("repart.d").display());
    // The seed would come from the node's machine id.
    let seed = "--seed=6d7a1d4d7b0e4c0fa5f5f3b2e7a9c1d3";
    let arguments = [
        "--dry-run=no",
        "--no-pager",
        seed,
        &definitions,
        shipped.to_str().unwrap(),
    ];
    let output = run("systemd-repart", &arguments);
    assert!(output.status.success(), "{}", told(&output));
    let after = layout(&shipped);

    // What was shipped is as it was.
    assert_eq!(after.esp, before.esp);
    assert_eq!(after.slot(Slot::A), before.slot(Slot::A));

    // What was made is what the full form has.
    plan.form = Form::Full;
    let full = folder.path().join("full.raw");
    disk(&full, &plan);
    let expected = layout(&full);
    assert_eq!(after.slot(Slot::B), expected.slot(Slot::B));
    assert_eq!(after.slot(Slot::B).unwrap().content(), SlotContent::Empty);
    // The room that makes systemd 257 place the signature rightly lies before it.
    let (mut var, var_expected) = (after.var.clone().unwrap(), expected.var.unwrap());
    for (found, wanted) in [(var.start, var_expected.start), (var.len, var_expected.len)] {
        assert!(
            found.abs_diff(wanted) <= 2 << 20,
            "{found} instead of {wanted}"
        );
    }
    (var.start, var.len) = (var_expected.start, var_expected.len);
    assert_eq!(var, var_expected);

    // And a second boot changes nothing.
    let output = run("systemd-repart", &arguments);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(layout(&shipped), after);
}

#[test]
fn every_unit_is_sound() {
    let entries = fs::read_dir(units().join("system")).unwrap();
    let paths = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file());
    let mut paths: Vec<_> = paths
        .map(|path| path.to_str().unwrap().to_owned())
        .collect();
    paths.sort();
    let mut arguments = vec!["verify", "--man=no", "--recursive-errors=no"];
    arguments.extend(paths.iter().map(String::as_str));
    let output = run("systemd-analyze", &arguments);
    // Not installed here: our own programs. Not known to an older systemd than
    // the image's: newer settings.
    let told = told(&output);
    let complaints: Vec<_> = told
        .lines()
        .filter(|line| !line.contains("is not executable: No such file or directory"))
        .filter(|line| !line.contains("Unknown key 'ImportCredential'"))
        .filter(|line| !line.ends_with("Failed to parse boolean value, ignoring: disconnected"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Returns the values of attribute `name` of each `element`.
fn names<'a>(xml: &'a str, element: &str) -> Vec<&'a str> {
    let opening = format!("<{element} name=\"");
    let rest = xml.split(opening.as_str()).skip(1);
    rest.filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn the_manual_of_the_interface_leaves_nothing_out() {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    let xml = read(units().join("dbus/io.bistable.Updater1.xml"));
    let manual = read(units().join("../docs/dbus-api.md"));
    let all = [
        names(&xml, "interface"),
        names(&xml, "method"),
        names(&xml, "property"),
        names(&xml, "signal"),
        ErrorName::ALL.iter().map(|name| name.short()).collect(),
    ];
    for members in all {
        assert!(!members.is_empty());
        for member in members {
            let told = [format!("`{member}`"), format!("`{member}(")];
            assert!(
                told.iter().any(|told| manual.contains(told)),
                "{member} is not explained"
            );
        }
    }
}

#[test]
fn only_the_unit_that_is_activated_serves_the_name() {
    let service = fs::read_to_string(units().join("dbus/io.bistable.Updater1.service")).unwrap();
    let unit = service
        .lines()
        .find_map(|line| line.strip_prefix("SystemdService="))
        .unwrap();
    assert!(units().join("system").join(unit).is_file(), "{unit}");
}

#[test]
fn what_systemd_calls_exposure_is_at_most_two_and_a_half_for_each_of_our_services() {
    for name in ["gateway", "health-gate", "updater", "watched"] {
        let unit = units().join(format!("system/bistable-{name}.service"));
        let arguments = ["security", "--offline=yes", "--no-pager", "--threshold=25"];
        let output = host_tools::oracle("systemd-analyze")
            .args(arguments)
            .arg(unit)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", told(&output));
    }
}

#[test]
fn who_writes_disks_has_no_network_and_who_has_the_network_has_no_disks() {
    let unit = |name: &str| fs::read_to_string(units().join("system").join(name)).unwrap();
    let has = |unit: &str, line: &str| unit.lines().any(|found| found == line);
    let updater = unit("bistable-updater.service");
    for line in ["PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX"] {
        assert!(has(&updater, line), "{line}");
    }
    let gateway = unit("bistable-gateway.service");
    for line in [
        "DynamicUser=yes",
        "PrivateDevices=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "IPAddressDeny=link-local 168.63.129.16 100.100.100.200 fd00:ec2::254",
    ] {
        assert!(has(&gateway, line), "{line}");
    }
    assert!(!gateway.contains("ReadWritePaths") && !gateway.contains("StateDirectory"));
}
