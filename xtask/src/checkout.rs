//! Where things are in this checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The checkout that this front door was built from.
#[derive(Debug, Clone)]
pub(crate) struct Checkout {
    root: PathBuf,
}

impl Checkout {
    /// Finds it by the manifest that cargo names, so that the current directory does
    /// not matter.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest
            .parent()
            .context("the xtask folder has no parent folder")?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Everything that is made and not compiled: tools tree, images, repositories.
    pub(crate) fn build(&self) -> PathBuf {
        self.root.join("build")
    }

    /// The node's own programs, collected for the image builder.
    pub(crate) fn programs(&self) -> PathBuf {
        self.build().join("programs")
    }

    /// What a build that was ended by force has left.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.build().join("scratch")
    }

    /// What product and releases are made of; overlays lie beside it.
    pub(crate) fn declaration(&self) -> PathBuf {
        self.root.join("image/declarations/bistable.toml")
    }

    pub(crate) fn stories(&self) -> PathBuf {
        self.build().join("stories")
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.build().join("keys")
    }

    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.build().join("images").join(name)
    }

    /// Where cargo puts what it compiles.
    pub(crate) fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| self.root.join("target"), |folder| self.root.join(folder))
    }
}
