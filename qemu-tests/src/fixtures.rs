//! What the stories need ready-made: images, keys, the publisher's program.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use partition_layout::WATCHED_STARTS;
use serde::Deserialize;

use crate::publisher::Publisher;

/// The build folder; beside the workspace's members when not set.
pub const BUILD_DIR: &str = "BISTABLE_BUILD_DIR";

/// The publisher's program; `bistable-image` of the search path when not set.
pub const IMAGE_BIN: &str = "BISTABLE_IMAGE_BIN";

/// A Debian tree with QEMU and OVMF in it, unpacked; the host's own when not set.
pub const EMULATOR: &str = "BISTABLE_EMULATOR";

/// The tests of `verity` that need a kernel of their own, as a program.
pub const KERNEL_TESTS: &str = "BISTABLE_KERNEL_TESTS";

/// The images that the stories use, by the name of their folder below `images`.
///
/// `1`, `2` and `3` are sound. The sick ones have versions of their own, newer
/// than all of those, so that the boot loader prefers them.
pub const IMAGES: [&str; 6] = ["1", "2", "3", "sick-unit", "panic", "hang"];

/// The things that `cargo xtask test` makes before the stories run.
#[derive(Clone, Debug)]
pub struct Fixtures {
    build: PathBuf,
    program: PathBuf,
}

/// One built image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its folder.
    pub folder: PathBuf,
    /// Its version.
    pub version: String,
    /// Its root hash, in hexadecimal.
    pub root_hash: String,
    /// Bytes of its parts.
    pub sizes: Sizes,
}

/// How large the parts of an image are, in bytes.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Sizes {
    /// The root file system.
    pub root: u64,
    /// The hash tree.
    pub verity: u64,
    /// The kernel with its initrd.
    pub uki: u64,
}

impl Image {
    /// Returns the name of its boot entry when it is good.
    pub fn good_entry(&self) -> String {
        format!("bistable_{}.efi", self.version)
    }

    /// Returns the name of its boot entry when it is good, and another one is too.
    pub fn watched_entry(&self) -> String {
        format!("bistable_{}+{WATCHED_STARTS}.efi", self.version)
    }

    /// Returns the name of its boot entry when it is armed with `tries`.
    pub fn armed_entry(&self, tries: u32) -> String {
        format!("bistable_{}+{tries}.efi", self.version)
    }

    /// Returns the name of its boot entry after `done` starts, with `left` to come.
    pub fn counted_entry(&self, left: u32, done: u32) -> String {
        let done = if done == 0 {
            String::new()
        } else {
            format!("-{done}")
        };
        format!("bistable_{}+{left}{done}.efi", self.version)
    }

    /// Returns its disk image.
    ///
    /// # Errors
    ///
    /// Fails when it was built without one.
    pub fn disk(&self) -> Result<PathBuf> {
        present(self.folder.join("disk.raw"))
    }

    /// Returns the one for disks with sectors of 4096 bytes.
    ///
    /// # Errors
    ///
    /// As [`Self::disk`].
    pub fn disk_of_large_sectors(&self) -> Result<PathBuf> {
        present(self.folder.join("disk-4096.raw"))
    }
}

impl Fixtures {
    /// Finds the build folder and the publisher's program.
    ///
    /// # Errors
    ///
    /// Fails with the command that makes what is missing.
    pub fn find() -> Result<Self> {
        let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../build");
        let build = env::var_os(BUILD_DIR).map_or_else(default, PathBuf::from);
        let program = env::var_os(IMAGE_BIN).map_or_else(|| "bistable-image".into(), PathBuf::from);
        Self::at(&build, &program)
    }

    /// Takes what is in `build`, published with `program`.
    ///
    /// # Errors
    ///
    /// Fails with the command that makes what is missing.
    pub fn at(build: &Path, program: &Path) -> Result<Self> {
        let build = present(build.into())?;
        let build = build
            .canonicalize()
            .with_context(|| format!("cannot resolve {}", build.display()))?;
        Ok(Self {
            build,
            program: program.into(),
        })
    }

    /// Returns the build folder.
    pub fn build(&self) -> &Path {
        &self.build
    }

    /// Returns the image called `name`, one of [`IMAGES`].
    ///
    /// # Errors
    ///
    /// Fails with the command that makes it when it is missing.
    pub fn image(&self, name: &str) -> Result<Image> {
        #[derive(Deserialize)]
        struct Manifest {
            version: String,
            root_hash: String,
            sizes: Sizes,
        }
        let folder = self.build.join("images").join(name);
        let manifest = present(folder.join("image.json"))?;
        let text =
            fs::read(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        let Manifest {
            version,
            root_hash,
            sizes,
        } = serde_json::from_slice(&text)
            .with_context(|| format!("cannot understand {}", manifest.display()))?;
        Ok(Image {
            folder,
            version,
            root_hash,
            sizes,
        })
    }

    /// Returns the program that tests the kernel's own dm-verity, for use inside a node.
    ///
    /// # Errors
    ///
    /// Fails with the command that makes it when it is missing.
    pub fn kernel_tests(&self) -> Result<PathBuf> {
        let program = env::var_os(KERNEL_TESTS).map(PathBuf::from);
        present(program.with_context(|| {
            format!("{KERNEL_TESTS} names no program: `cargo xtask test` sets it")
        })?)
    }

    /// Returns the publisher whom the images trust.
    pub fn publisher(&self) -> Publisher {
        Publisher::new(&self.program, &self.build.join("keys"))
    }

    /// Makes a publisher whom no image knows, its keys in `folder`.
    ///
    /// # Errors
    ///
    /// Fails when the keys cannot be made.
    pub fn stranger(&self, folder: &Path) -> Result<Publisher> {
        let stranger = Publisher::new(&self.program, folder);
        stranger.make_keys()?;
        Ok(stranger)
    }
}

/// Returns `path` if something is there.
fn present(path: PathBuf) -> Result<PathBuf> {
    if !path.exists() {
        bail!(
            "{} is missing: `cargo xtask test` makes it before it runs the stories",
            path.display()
        );
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_image_is_named_with_the_command_that_makes_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let fixtures = Fixtures::at(folder.path(), Path::new("true")).expect("a build folder");
        let error = fixtures.image("2").expect_err("it is missing").to_string();
        assert!(
            error.contains("images/2/image.json is missing: `cargo xtask test`"),
            "{error}"
        );
    }
}
