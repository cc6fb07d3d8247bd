//! Control groups as on a node, where each service has one: the kernel tells by them
//! who waits for the disk, and our daemon gives way by that; and it shares the processor
//! out among them by their weights.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Two groups: this process and what it starts, and the one who must not be disturbed;
/// and one for each service that is to have a share of its own of the processor.
#[derive(Debug)]
pub(crate) struct Groups {
    root: PathBuf,
    before: PathBuf,
    /// The tree whose groups share the processor; where it is not to be had, all are equal.
    processor: Option<PathBuf>,
}

const UPDATER: &str = "bistable-bench-updater";
const OTHER: &str = "bistable-bench-other";
/// Our two processes, each a service of its own on a node.
const SERVICES: [&str; 2] = ["bistable-bench-daemon", "bistable-bench-gateway"];
const MEMBERS: &str = "cgroup.procs";
/// What a group has of the processor if nobody says otherwise: `cpu.weight` of the
/// unified tree, `cpu.shares` of the older one.
const WEIGHT: u64 = 100;
const SHARES: u64 = 1024;

impl Groups {
    /// Makes the groups and enters the first; `None` where the kernel does not tell
    /// who waits.
    pub(crate) fn enter() -> Result<Option<Self>> {
        let mounts = read("/proc/self/mountinfo".as_ref())?;
        let membership = read("/proc/self/cgroup".as_ref())?;
        let before = membership
            .lines()
            .find_map(|line| line.strip_prefix("0::/"));
        let (Some(root), Some(before)) = (mount_point(&mounts), before) else {
            return Ok(None);
        };
        let processor = processor_tree(&mounts, &root);
        let groups = Self {
            before: root.join(before),
            root,
            processor,
        };
        for name in [UPDATER, OTHER] {
            make(&groups.root.join(name))?;
        }
        for name in [OTHER].iter().chain(&SERVICES) {
            if let Some(tree) = &groups.processor {
                make(&tree.join(name))?;
            }
        }
        if !groups.root.join(OTHER).join("io.pressure").exists() {
            return Ok(None);
        }
        join(&groups.root.join(UPDATER))?;
        Ok(Some(groups))
    }

    /// Where the tree of groups is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the command in the other group.
    pub(crate) fn apart(&self, command: &Command) -> Result<Command> {
        let mut apart = inside(&self.root.join(OTHER), command)?;
        if let Some(tree) = self.processor.as_ref().filter(|tree| **tree != self.root) {
            apart = inside(&tree.join(OTHER), &apart)?;
        }
        Ok(apart)
    }

    /// Returns a group for each of our two services, with `weight` of the processor
    /// (`CPUWeight=` of systemd.resource-control(5)) each; `None` where it is not shared
    /// by groups.
    pub(crate) fn services(&self, weight: u64) -> Result<Option<[PathBuf; 2]>> {
        let Some(tree) = &self.processor else {
            return Ok(None);
        };
        let services = SERVICES.map(|name| tree.join(name));
        for service in &services {
            let shares = service.join("cpu.shares");
            let (file, share) = if shares.exists() {
                (shares, weight * SHARES / WEIGHT)
            } else {
                (service.join("cpu.weight"), weight)
            };
            fs::write(&file, share.to_string())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(Some(services))
    }
}

/// Returns the command in `group`.
pub(crate) fn inside(group: &Path, command: &Command) -> Result<Command> {
    let mut inside = host_tools::command("sh")?;
    let script = OsString::from(r#"echo $$ > "$0" && exec "$@""#);
    inside.arg("-c").arg(script).arg(group.join(MEMBERS));
    inside.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            inside.env(name, value);
        }
    }
    Ok(inside)
}

fn make(group: &Path) -> Result<()> {
    fs::create_dir_all(group).with_context(|| format!("cannot make {}", group.display()))
}

impl Drop for Groups {
    fn drop(&mut self) {
        // Empty groups that stay harm nobody.
        drop(join(&self.before));
        for tree in [Some(&self.root), self.processor.as_ref()]
            .into_iter()
            .flatten()
        {
            for name in [UPDATER, OTHER].iter().chain(&SERVICES) {
                drop(fs::remove_dir(tree.join(name)));
            }
        }
    }
}

fn join(group: &Path) -> Result<()> {
    let members = group.join(MEMBERS);
    fs::write(&members, std::process::id().to_string())
        .with_context(|| format!("cannot write {}", members.display()))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The fifth field of proc_pid_mountinfo(5) is where it is mounted, the first behind
/// the dash what it is.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after
            .starts_with("cgroup2 ")
            .then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// Returns the older tree of the controller `cpu` if there is one, or the unified one if
/// that may share the processor out.
fn processor_tree(mounts: &str, unified: &Path) -> Option<PathBuf> {
    let older = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let options = after.strip_prefix("cgroup ")?.rsplit(' ').next()?;
        let shares = options.split(',').any(|option| option == "cpu");
        shares.then(|| before.split(' ').nth(4).map(PathBuf::from))?
    });
    older.or_else(|| {
        fs::write(unified.join("cgroup.subtree_control"), "+cpu").ok()?;
        Some(unified.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_tree_is_found_beside_the_old_ones() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n\
                      32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let expected = PathBuf::from("/sys/fs/cgroup/unified");
        assert_eq!(mount_point(mounts), Some(expected));
        let older = PathBuf::from("/sys/fs/cgroup/cpu");
        assert_eq!(processor_tree(mounts, "/nowhere".as_ref()), Some(older));
        assert_eq!(processor_tree("", "/nowhere".as_ref()), None);
        assert_eq!(mount_point("1 2 3:4 / / rw - ext4 /dev/vda rw\n"), None);
    }
}
