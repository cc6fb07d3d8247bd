//! The unified kernel image: kernel, initrd and command line in one EFI program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use partition_layout::RootHash;

use crate::tool::ToolError;
use crate::toolbox::Toolbox;

/// What a UKI is made of.
#[derive(Debug)]
pub struct Contents<'a> {
    pub kernel: &'a [u8],
    /// As `uname -r` says it.
    pub kernel_release: &'a str,
    pub initrd: &'a [u8],
    pub os_release: &'a [u8],
    pub root_hash: &'a RootHash,
    /// What follows `roothash=`.
    pub command_line: &'a [String],
}

/// Why there is no UKI.
#[derive(Debug, thiserror::Error)]
pub enum UkiError {
    #[error("cannot use {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot join kernel, initrd and command line")]
    Make(#[from] ToolError),
}

/// Makes the UKI at `image`; `scratch` is a folder for its parts.
///
/// # Errors
/// When a file cannot be written or `ukify` fails.
pub fn make(
    toolbox: &Toolbox,
    contents: &Contents<'_>,
    scratch: &Path,
    image: &Path,
) -> Result<(), UkiError> {
    let part = |name: &str, bytes: &[u8]| {
        let path = scratch.join(name);
        match fs::write(&path, bytes) {
            Ok(()) => Ok(path),
            Err(source) => Err(UkiError::File { path, source }),
        }
    };
    let kernel = part("vmlinuz", contents.kernel)?;
    let initrd = part("initrd", contents.initrd)?;
    let os_release = part("os-release", contents.os_release)?;
    let mut at_os_release = std::ffi::OsString::from("@");
    at_os_release.push(os_release);
    toolbox
        .python_tool("usr/bin/ukify")
        .arg("build")
        .option("--linux", kernel)
        .option("--initrd", initrd)
        .option("--os-release", at_os_release)
        .option("--uname", contents.kernel_release)
        .option(
            "--cmdline",
            command_line(contents.root_hash, contents.command_line),
        )
        .option(
            "--stub",
            toolbox.file("usr/lib/systemd/boot/efi/linuxx64.efi.stub"),
        )
        .option("--efi-arch", "x64")
        .option("--output", image)
        .run()?;
    Ok(())
}

fn command_line(root_hash: &RootHash, rest: &[String]) -> String {
    std::iter::once(format!("roothash={root_hash}"))
        .chain(rest.iter().cloned())
        .collect::<Vec<_>>()
        .join(" ")
}
