//! Debian packages, each with what it is here for.

use std::fs;

/// A Debian package that building or testing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    name: &'static str,
    /// The programs of it that we start; none for a library or data.
    pub programs: &'static [&'static str],
    /// What it is here for.
    pub why: &'static str,
}

/// Everything that a Debian machine with Rust may still lack.
pub const PACKAGES: [Package; 23] = [
    package(
        "apt",
        &["apt-get", "apt-cache", "apt-config"],
        "the package archive",
    ),
    package("ca-certificates", &[], "the package archive over TLS"),
    package("cpio", &["cpio"], "the initrd's oracle in tests"),
    package(
        "cryptsetup-bin",
        &["veritysetup"],
        "oracle and peer of the hash tree",
    ),
    package(
        "dbus-daemon",
        &["dbus-daemon"],
        "a private bus for the tests of daemon and gate",
    ),
    package(
        "debian-archive-keyring",
        &[],
        "the keys of Debian's archive",
    ),
    package(
        "dosfstools",
        &["mkfs.vfat", "fsck.vfat"],
        "oracle of the EFI system partition",
    ),
    package("dpkg", &["dpkg-deb", "dpkg-query"], "opening packages"),
    package(
        "e2fsprogs",
        &["mkfs.ext4", "e2fsck", "debugfs"],
        "a foreign file system for the tests, and `/var` without a mount",
    ),
    package(
        "erofs-utils",
        &["mkfs.erofs", "dump.erofs"],
        "oracle of which file a block belongs to",
    ),
    package("fdisk", &["sfdisk"], "oracle of the partition table"),
    package("gcc", &["gcc"], "linking, and the crates that build C"),
    package("gdisk", &["sgdisk"], "oracle of the partition table"),
    package("libc6-dev", &[], "linking, and the static libc of PID 1"),
    package("libostree-dev", &[], "the crate ostree"),
    package("mount", &["losetup"], "loop devices for the tests, as root"),
    package(
        "mtools",
        &["mdir", "mcopy", "mdel", "mmd", "mren"],
        "the EFI system partition without a mount",
    ),
    package("pkg-config", &["pkg-config"], "finding libostree"),
    package(
        "systemd",
        &["systemd-analyze"],
        "oracle of versions and units",
    ),
    package(
        "systemd-container",
        &["systemd-dissect"],
        "oracle of the partition table",
    ),
    package(
        "systemd-repart",
        &["systemd-repart"],
        "what grows a node's disk on its first boot",
    ),
    package(
        "util-linux",
        &["setpriv", "partx", "blockdev"],
        "no virtual machine outlives its test; partitions of loop devices",
    ),
    package(
        "xz-utils",
        &["xz"],
        "the kernel's modules, and the damaged partition tables among the known answers",
    ),
];

/// What the benches need besides: the field's tools, and what they are measured with.
pub const BENCH_PACKAGES: [Package; 11] = [
    package("casync", &["casync"], "peer of the updater"),
    package("curl", &["curl"], "the floor of what an update costs"),
    package("dbus-bin", &["dbus-send"], "asking whether a peer is ready"),
    package(
        "diffutils",
        &["cmp"],
        "what was installed, beside what should be",
    ),
    package("fio", &["fio"], "small synced writes beside an update"),
    package("nginx-light", &["nginx"], "the web server of all updaters"),
    package("openssl", &["openssl"], "signatures for the peers"),
    package("rauc", &["rauc"], "peer of the updater"),
    package("squashfs-tools", &["mksquashfs"], "the peer RAUC's bundles"),
    package("swupdate", &["swupdate"], "peer of the updater"),
    package("zstd", &["zstd"], "the peer SWUpdate's images"),
];

/// What looking for inputs that break a reader needs besides.
pub const FUZZ_PACKAGES: [Package; 1] = [package("g++", &["g++"], "libFuzzer, which is C++")];

const fn package(
    name: &'static str,
    programs: &'static [&'static str],
    why: &'static str,
) -> Package {
    Package {
        name,
        programs,
        why,
    }
}

impl Package {
    /// Returns the package's name in the release of Debian that runs here.
    pub fn name(&self) -> &'static str {
        self.name_in(debian_release())
    }

    /// `release` is unknown on another system: then what the newest calls it.
    fn name_in(&self, release: Option<u32>) -> &'static str {
        match (self.name, release) {
            // One package until Debian 12.
            ("systemd-repart", Some(..=12)) => "systemd",
            (name, _) => name,
        }
    }

    /// Returns the command of ours that installs it.
    pub(crate) fn installer(&self) -> &'static str {
        if BENCH_PACKAGES.contains(self) {
            "`cargo xtask bench update`"
        } else if FUZZ_PACKAGES.contains(self) {
            "`cargo xtask fuzz`"
        } else {
            "`cargo xtask setup`"
        }
    }

    /// Finds the package that brings `program`.
    pub(crate) fn of(program: &str) -> Option<&'static Self> {
        PACKAGES
            .iter()
            .chain(&BENCH_PACKAGES)
            .chain(&FUZZ_PACKAGES)
            .find(|package| package.programs.contains(&program))
    }
}

fn debian_release() -> Option<u32> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    parse_debian_release(&text)
}

fn parse_debian_release(text: &str) -> Option<u32> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    (field("ID")? == "debian")
        .then(|| field("VERSION_ID")?.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_repart_is_named_as_the_release_at_hand_packs_it() {
        let package = Package::of("systemd-repart").expect("it is needed");
        assert_eq!(package.name_in(Some(12)), "systemd");
        assert_eq!(package.name_in(Some(13)), "systemd-repart");
        assert_eq!(package.name_in(None), "systemd-repart");
        let release = |text| parse_debian_release(text);
        assert_eq!(release("ID=debian\nVERSION_ID=\"12\"\n"), Some(12));
        // Testing has no number, others have numbers of their own.
        assert_eq!(release("ID=debian\n"), None);
        assert_eq!(release("ID=ubuntu\nVERSION_ID=\"12\"\n"), None);
    }

    #[test]
    fn no_program_is_promised_by_two_packages() {
        let all = PACKAGES.iter().chain(&BENCH_PACKAGES).chain(&FUZZ_PACKAGES);
        let mut programs: Vec<_> = all.flat_map(|one| one.programs).collect();
        let count = programs.len();
        programs.sort_unstable();
        programs.dedup();
        assert_eq!(programs.len(), count);
    }
}
