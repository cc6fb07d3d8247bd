//! A file with a path, for readers that open theirs, and nothing on any disk.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    _memory: OwnedFd,
}

impl File {
    pub(crate) fn holding(bytes: &[u8]) -> Self {
        let memory = memfd_create("input", MemfdFlags::CLOEXEC).expect("memory can be had");
        let path = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
        fs::write(&path, bytes).expect("memory can be written");
        Self {
            path,
            _memory: memory,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
