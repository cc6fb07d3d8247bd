//! Control groups as on a node, where each service has one: the kernel tells by them
//! who waits for the disk, and our daemon gives way by that.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Two groups: this process and what it starts, and the one who must not be disturbed.
#[derive(Debug)]
pub(crate) struct Groups {
    root: PathBuf,
    before: PathBuf,
}

const UPDATER: &str = "bistable-bench-updater";
const OTHER: &str = "bistable-bench-other";
const MEMBERS: &str = "cgroup.procs";

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
        let groups = Self {
            before: root.join(before),
            root,
        };
        for name in [UPDATER, OTHER] {
            let path = groups.root.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
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
        let mut apart = host_tools::command("sh")?;
        let members = self.root.join(OTHER).join(MEMBERS);
        let script = OsString::from(r#"echo $$ > "$0" && exec "$@""#);
        apart.arg("-c").arg(script).arg(members);
        apart.arg(command.get_program()).args(command.get_args());
        Ok(apart)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // Empty groups that stay harm nobody.
        drop(join(&self.before));
        for name in [UPDATER, OTHER] {
            drop(fs::remove_dir(self.root.join(name)));
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
        assert_eq!(mount_point("1 2 3:4 / / rw - ext4 /dev/vda rw\n"), None);
    }
}
