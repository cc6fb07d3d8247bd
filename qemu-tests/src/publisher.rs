//! Publishing, with the publisher's own program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::fs;

use crate::fixtures::Image;

/// Someone who signs releases.
#[derive(Clone, Debug)]
pub struct Publisher {
    program: PathBuf,
    keys: PathBuf,
}

/// A repository of signed static files.
#[derive(Clone, Debug)]
pub struct Repository {
    folder: PathBuf,
}

/// A blob of a release.
#[derive(Clone, Debug, Deserialize)]
pub struct Blob {
    /// SHA-256 of its content, which is its name.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Blob {
    /// Returns its path in a repository.
    pub fn path(&self) -> String {
        format!("blobs/{}", self.sha256)
    }
}

/// The blobs of a release.
#[derive(Clone, Debug, Deserialize)]
pub struct Blobs {
    /// The root image.
    pub root: Blob,
    /// Its hash tree.
    pub verity: Blob,
    /// The kernel with its initrd.
    pub uki: Blob,
    /// The root image, compressed.
    pub packed: Option<Blob>,
}

impl Repository {
    /// Returns the repository in `folder`, which may not be there yet.
    pub fn at(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// Returns its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the blobs of a release that was published here.
    ///
    /// # Errors
    ///
    /// Fails when its release file cannot be found or read.
    pub fn blobs(&self, version: &str) -> Result<Blobs> {
        #[derive(Deserialize)]
        struct Release {
            blobs: Blobs,
        }
        let targets = self.folder.join("targets");
        let ending = format!(".{version}.release.json");
        for entry in
            fs::read_dir(&targets).with_context(|| format!("cannot list {}", targets.display()))?
        {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Exactly SHA256.VERSION.release.json: "11" also ends as "1" does.
            if name
                .strip_suffix(&ending)
                .is_some_and(|hash| hash.len() == 64 && !hash.contains('.'))
            {
                let text =
                    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let release: Release = serde_json::from_slice(&text)
                    .with_context(|| format!("cannot understand {}", path.display()))?;
                return Ok(release.blobs);
            }
        }
        bail!("{version} was not published in {}", self.folder.display())
    }
}

impl Publisher {
    /// Returns the publisher who has the keys in `keys`.
    pub fn new(program: &Path, keys: &Path) -> Self {
        Self {
            program: program.into(),
            keys: keys.into(),
        }
    }

    /// Returns the publisher's program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Adds `image` to `repository`, which names it as the newest from then on.
    ///
    /// # Errors
    ///
    /// Fails with what the publisher's program says.
    pub fn publish(&self, image: &Image, repository: &Repository) -> Result<()> {
        self.run(self.publishing(image, repository))
    }

    /// As [`Self::publish`], without patches against what was published before.
    ///
    /// # Errors
    ///
    /// As [`Self::publish`].
    pub fn publish_without_patches(&self, image: &Image, repository: &Repository) -> Result<()> {
        let mut command = self.publishing(image, repository);
        command.args(["--patches", "0"]);
        self.run(command)
    }

    /// Signs what `repository` holds anew, valid until `expires`, which may be past.
    ///
    /// # Errors
    ///
    /// Fails with what the publisher's program says.
    pub fn refresh(&self, repository: &Repository, expires: Option<&str>) -> Result<()> {
        let mut command = Command::new(&self.program);
        command
            .args(["repository", "refresh", "--keys"])
            .arg(&self.keys)
            .arg("--repository")
            .arg(&repository.folder);
        if let Some(expires) = expires {
            command.args(["--expires", expires]);
        }
        self.run(command)
    }

    /// Lets `share` percent of the nodes take the newest release by themselves.
    ///
    /// # Errors
    ///
    /// Fails with what the publisher's program says.
    pub fn roll_out(&self, repository: &Repository, share: u32) -> Result<()> {
        let mut command = Command::new(&self.program);
        command
            .args(["repository", "rollout", "--keys"])
            .arg(&self.keys)
            .arg("--repository")
            .arg(&repository.folder)
            .args(["--share", &share.to_string()]);
        self.run(command)
    }

    /// Makes this publisher's keys.
    ///
    /// # Errors
    ///
    /// Fails with what the publisher's program says.
    pub fn make_keys(&self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("keys").arg(&self.keys);
        self.run(command)
    }

    fn publishing(&self, image: &Image, repository: &Repository) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("publish").arg("--keys").arg(&self.keys);
        command
            .arg("--repository")
            .arg(&repository.folder)
            .arg("--image")
            .arg(&image.folder)
            // The best compression takes the better part of a minute for each release.
            .args(["--compression", "3"]);
        command
    }

    fn run(&self, mut command: Command) -> Result<()> {
        let output = command.output().with_context(|| {
            format!(
                "cannot run {}; {} names the publisher's program",
                self.program.display(),
                crate::fixtures::IMAGE_BIN
            )
        })?;
        if !output.status.success() {
            bail!(
                "{command:?} failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}
