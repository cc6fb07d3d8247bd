//! What must be installed on the machine that builds and tests.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command;

/// Debian packages, each with what it is here for.
const PACKAGES: [(&str, &str); 21] = [
    ("ca-certificates", "the package archive over TLS"),
    ("cpio", "the initrd's oracle in tests"),
    (
        "cryptsetup-bin",
        "veritysetup: oracle and peer of the hash tree",
    ),
    (
        "dbus-daemon",
        "a private bus for the tests of daemon and gate",
    ),
    ("debian-archive-keyring", "the keys of Debian's archive"),
    (
        "dosfstools",
        "mkfs.vfat: oracle of the reader of the EFI system partition",
    ),
    (
        "e2fsprogs",
        "mkfs.ext4: a foreign file system for the tests",
    ),
    ("fdisk", "sfdisk: oracle of the partition table"),
    ("gcc", "linking, and the crates that build C"),
    ("gdisk", "sgdisk: oracle of the partition table"),
    ("libc6-dev", "linking, and the static libc of PID 1"),
    ("libostree-dev", "the crate ostree"),
    ("mtools", "the EFI system partition without a mount"),
    ("ovmf", "real firmware for the virtual machines"),
    ("pkg-config", "finding libostree"),
    ("qemu-system-x86", "the virtual machines"),
    ("qemu-utils", "disk images"),
    ("systemd", "systemd-analyze: oracle of versions and units"),
    (
        "systemd-container",
        "systemd-dissect: oracle of the partition table",
    ),
    (
        "util-linux",
        "setpriv: no virtual machine outlives its test",
    ),
    (
        "xz-utils",
        "the damaged partition tables among the known answers",
    ),
];

/// Installs what is missing, or says how to.
pub(crate) fn set_up() -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root()? {
        bail!(
            "these packages are missing; install them and try again:\n  sudo apt-get install --no-install-recommends {}",
            missing.join(" ")
        );
    }
    let mut apt = Command::new("apt-get");
    command::run(apt.arg("update").arg("--quiet").stdout(Stdio::null()))?;
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--quiet", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command::run(&mut apt).with_context(|| format!("cannot install {}", missing.join(" ")))
}

/// Returns the packages that dpkg does not know as installed.
fn missing() -> Result<Vec<&'static str>> {
    let output = Command::new("dpkg-query")
        .args([
            "--show",
            "--showformat",
            "${Package} ${db:Status-Status}\\n",
        ])
        .args(PACKAGES.map(|(package, _)| package))
        .stderr(Stdio::null())
        .output()
        .with_context(|| {
            let list: Vec<String> = PACKAGES
                .iter()
                .map(|(package, why)| format!("  {package}: {why}"))
                .collect();
            format!(
                "cannot ask dpkg what is installed; on another system, install what gives\n{}",
                list.join("\n")
            )
        })?;
    // It exits 1 when it has never heard of one of them: that is an answer here.
    let known = String::from_utf8_lossy(&output.stdout);
    Ok(PACKAGES
        .iter()
        .map(|(package, _)| *package)
        .filter(|package| {
            !known
                .lines()
                .any(|line| line == format!("{package} installed"))
        })
        .collect())
}

fn is_root() -> Result<bool> {
    Ok(command::output(Command::new("id").arg("-u"))?.trim() == "0")
}
