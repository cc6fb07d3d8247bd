use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::pace::Pressure;

/// Files of the kernel's pressure stall information, one per control group.
const FILES: [&str; 2] = ["io.pressure", "memory.pressure"];
/// More groups than systemd makes on a node beside our own branch.
const GROUPS: usize = 256;

/// How long the other control groups have waited, as the kernel's pressure stall information says.
///
/// The figures of the whole machine (`/proc/pressure`) count our own waiting too, and a thread that does
/// nothing but read and write waits nearly always. So the groups beside our own are asked, on every
/// level: those of containers, of each service.
#[derive(Debug)]
pub struct OtherGroups {
    /// Where the tree of control groups is mounted.
    root: PathBuf,
    /// Our own group, below it; `None` when it is not known.
    own: Option<PathBuf>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Microseconds, by file, when it was last looked.
    totals: HashMap<PathBuf, u64>,
    /// The sum of what the one that waited longest has waited from one look to the next.
    waited: Duration,
}

impl OtherGroups {
    /// Looks below `root` at all groups but the one that `/proc/self/cgroup` at `membership` names.
    pub fn new(root: PathBuf, membership: &Path) -> Self {
        let own = fs::read_to_string(membership)
            .ok()
            .and_then(|text| own_group(&text));
        Self {
            root,
            own,
            seen: Mutex::default(),
        }
    }

    fn groups(&self, own: &Path) -> io::Result<Vec<PathBuf>> {
        let mut folder = self.root.clone();
        let mut groups = Vec::new();
        for name in own {
            let own_branch = folder.join(name);
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if groups.len() < GROUPS
                    && entry.file_type()?.is_dir()
                    && entry.path() != own_branch
                {
                    groups.push(entry.path());
                }
            }
            folder = own_branch;
        }
        Ok(groups)
    }

    fn look(&self, own: &Path) -> io::Result<Duration> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut totals = HashMap::new();
        let mut longest = 0;
        let mut found = false;
        for group in self.groups(own)? {
            for name in FILES {
                let path = group.join(name);
                // A group may go at any moment, and not every kernel has both files.
                let Ok(text) = fs::read_to_string(&path) else {
                    continue;
                };
                let Some(total) = some_total(&text) else {
                    continue;
                };
                found = true;
                if let Some(before) = seen.totals.get(&path) {
                    longest = longest.max(total.saturating_sub(*before));
                }
                totals.insert(path, total);
            }
        }
        if !found {
            return Err(io::ErrorKind::NotFound.into());
        }
        seen.totals = totals;
        seen.waited = seen.waited.saturating_add(Duration::from_micros(longest));
        Ok(seen.waited)
    }
}

impl Pressure for OtherGroups {
    fn waited(&self) -> Option<Duration> {
        let own = self.own.as_ref()?;
        match self.look(own) {
            Ok(waited) => Some(waited),
            Err(error) => {
                tracing::debug!(%error, "the kernel does not say who waits");
                None
            }
        }
    }
}

/// `0::/system.slice/bistable-updater.service`
fn own_group(membership: &str) -> Option<PathBuf> {
    let path = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))?;
    (!path.is_empty()).then(|| PathBuf::from(path))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=12345`: the time in which at least one task waited.
fn some_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = line
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("total="))?;
    total.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            tree.say("system.slice/bistable-updater.service/io.pressure", 0);
            tree
        }

        fn say(&self, file: &str, total: u64) {
            let path = self.0.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let line =
                |kind, total| format!("{kind} avg10=12.34 avg60=0.00 avg300=0.00 total={total}\n");
            fs::write(path, line("some", total) + &line("full", 9_999_999)).unwrap();
        }

        fn others(&self, membership: &str) -> OtherGroups {
            let file = self.0.path().join("membership");
            fs::write(&file, membership).unwrap();
            OtherGroups::new(self.0.path().to_owned(), &file)
        }
    }

    const OWN: &str = "0::/system.slice/bistable-updater.service\n";

    #[test]
    fn what_others_wait_counts_and_what_we_wait_does_not() {
        let tree = Tree::new();
        tree.say("kubepods.slice/io.pressure", 5_000);
        tree.say("system.slice/io.pressure", 7_000);
        tree.say("system.slice/etcd.service/memory.pressure", 1_000);
        let others = tree.others(OWN);
        let start = others.waited().unwrap();
        // Ours, and that of the branch which has us in it.
        tree.say("system.slice/bistable-updater.service/io.pressure", 80_000);
        tree.say("system.slice/io.pressure", 90_000);
        assert_eq!(others.waited().unwrap(), start);
        tree.say("kubepods.slice/io.pressure", 25_000);
        tree.say("system.slice/etcd.service/memory.pressure", 4_000);
        let after = others.waited().unwrap();
        // They waited at the same time, perhaps.
        assert_eq!(after.saturating_sub(start), Duration::from_micros(20_000));
        // One that comes later has not waited since the last look.
        tree.say("system.slice/new.service/io.pressure", 500_000);
        assert_eq!(others.waited().unwrap(), after);
    }

    #[test]
    fn a_kernel_without_the_files_or_without_groups_says_nothing() {
        let tree = Tree::new();
        assert_eq!(tree.others(OWN).waited(), None);
        assert_eq!(tree.others("1:name=systemd:/\n").waited(), None);
        assert_eq!(tree.others("0::/\n").waited(), None);
        tree.say("kubepods.slice/io.pressure", 1);
        assert!(tree.others(OWN).waited().is_some());
        let broken = tree.0.path().join("kubepods.slice/io.pressure");
        fs::write(broken, "some avg10=0.00 total=-\n").unwrap();
        assert_eq!(tree.others(OWN).waited(), None);
    }
}
