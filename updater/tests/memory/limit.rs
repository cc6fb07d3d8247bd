//! A limit that the kernel enforces.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, setrlimit};

/// How a process's memory is limited.
#[derive(Debug)]
pub(crate) enum Limit {
    /// By a control group, its page cache included.
    Group(PathBuf),
    /// By what it may map for itself: `RLIMIT_DATA`.
    Data,
}

/// The two forms of the kernel's interface: where groups are, and the names of the limits.
const FORMS: [(&str, &[&str]); 2] = [
    ("/sys/fs/cgroup/memory", &["memory.limit_in_bytes"]),
    ("/sys/fs/cgroup", &["memory.max"]),
];
/// Without it, what does not fit would go to the swap: nothing to look at where there is none.
const NO_SWAP: &str = "memory.swap.max";

impl Limit {
    /// Makes a group with the limit if this machine lets us, for a process of its own.
    pub(crate) fn make(bytes: u64) -> Self {
        for (root, limits) in FORMS {
            let group = Path::new(root).join(format!("bistable-memory-{}", std::process::id()));
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let set = |name: &&str| fs::write(group.join(name), bytes.to_string()).is_ok();
            // Only files that the kernel has made can be written there.
            if limits.iter().all(set) {
                drop(fs::write(group.join(NO_SWAP), "0"));
                return Self::Group(group);
            }
            drop(fs::remove_dir(&group));
        }
        Self::Data
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Group(group) => group.display().to_string(),
            Self::Data => "RLIMIT_DATA".to_owned(),
        }
    }

    /// Returns the most that a group had, its page cache included.
    pub(crate) fn peak(&self) -> Option<u64> {
        let Self::Group(group) = self else {
            return None;
        };
        let names = ["memory.max_usage_in_bytes", "memory.peak"];
        let text = names
            .iter()
            .find_map(|name| fs::read_to_string(group.join(name)).ok());
        text?.trim().parse().ok()
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Self::Group(group) = self {
            // It is empty once its process has been waited for.
            drop(fs::remove_dir(group));
        }
    }
}

/// Puts this process under the limit of this name.
pub(crate) fn submit(name: &str, bytes: u64) {
    if name == "RLIMIT_DATA" {
        let limit = Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        setrlimit(Resource::Data, limit).unwrap();
    } else {
        let members = Path::new(name).join("cgroup.procs");
        fs::write(members, std::process::id().to_string()).unwrap();
    }
}
