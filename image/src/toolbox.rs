//! The Debian 13 programs that the build uses, whatever the host has.
//!
//! They are unpacked, never installed, into a folder of their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::packages::{self, DownloadError, Lock, UnpackError};
use crate::tool::Tool;

/// A folder of unpacked Debian programs.
#[derive(Debug)]
pub struct Toolbox {
    root: PathBuf,
}

/// Why there are no tools to build with.
#[derive(Debug, thiserror::Error)]
pub enum ToolboxError {
    #[error("cannot fetch the tools")]
    Download(#[from] DownloadError),
    #[error("cannot unpack the tools")]
    Unpack(#[from] UnpackError),
    #[error("cannot use the tools folder {path}")]
    Folder { path: PathBuf, source: io::Error },
}

impl Toolbox {
    /// Opens the tools made of `lock` below `folder`, making them if they are not there.
    ///
    /// # Errors
    /// When a package cannot be fetched or unpacked.
    pub fn open(lock: &Lock, cache: &Path, folder: &Path) -> Result<Self, ToolboxError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ToolboxError::Folder { path, source }
        };
        let digest = lock.digest();
        let root = folder.join(digest.get(..16).unwrap_or(&digest));
        if !root.exists() {
            packages::download(lock, cache)?;
            tracing::info!(packages = lock.packages.len(), "unpacking the tools");
            // Unpacked beside and renamed: a build that was stopped leaves no half a toolbox.
            let partial = root.with_extension("partial");
            if partial.exists() {
                fs::remove_dir_all(&partial).map_err(failed(&partial))?;
            }
            packages::unpack_to_folder(lock, cache, &partial)?;
            fs::rename(&partial, &root).map_err(failed(&root))?;
        }
        let root = fs::canonicalize(&root).map_err(failed(&root))?;
        Ok(Self { root })
    }

    /// A program of the toolbox, by its path in Debian: `usr/bin/mkfs.erofs`.
    pub fn tool(&self, program: &str) -> Tool {
        let [loader, words @ ..] = host_tools::unpacked(&self.root, program);
        Tool::host(loader)
            .args(words)
            // Whatever writes a time writes this one.
            .env("SOURCE_DATE_EPOCH", "0")
    }

    /// A Python program of the toolbox.
    pub fn python_tool(&self, program: &str) -> Tool {
        // The version in the interpreter's name is Debian's to change; the link is not.
        self.tool("usr/bin/python3")
            .env("PYTHONHOME", self.root.join("usr"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONHASHSEED", "0")
            .arg("-s")
            .arg(self.root.join(program))
    }

    /// Returns the folder that the packages are unpacked in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file of the toolbox.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}
