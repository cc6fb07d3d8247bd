//! QEMU and the firmware that it starts.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::fixtures::EMULATOR;

/// OVMF, as Debian and Fedora lay it out: the firmware and its empty variables.
const FIRMWARE: [(&str, &str); 2] = [
    (
        "usr/share/OVMF/OVMF_CODE_4M.fd",
        "usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    (
        "usr/share/edk2/ovmf/OVMF_CODE.fd",
        "usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
];

/// Where an unpacked QEMU finds what it looks for beside its own program: that is the loader.
const DATA: &str = "usr/share/qemu";

/// A QEMU, and the firmware that came with it.
#[derive(Debug, Clone)]
pub(crate) struct Emulator {
    /// The tree that it was unpacked in; `None` for the host's own.
    root: Option<PathBuf>,
    firmware: PathBuf,
    variables: PathBuf,
}

impl Emulator {
    /// Finds the one that was unpacked for the tests, or else the host's.
    ///
    /// # Errors
    ///
    /// Fails when it or its firmware is not there.
    pub(crate) fn find() -> Result<Self> {
        let root = env::var_os(EMULATOR).map(PathBuf::from);
        if root.is_none() {
            host_tools::find("qemu-system-x86_64").context("this machine cannot run nodes")?;
        }
        let from = root.as_deref().unwrap_or(Path::new("/"));
        let (firmware, variables) = FIRMWARE
            .map(|(code, variables)| (from.join(code), from.join(variables)))
            .into_iter()
            .find(|(code, _)| code.exists())
            .with_context(|| {
                format!(
                    "no UEFI firmware below {}; Debian has it in the package `ovmf`",
                    from.display()
                )
            })?;
        Ok(Self {
            root,
            firmware,
            variables,
        })
    }

    /// Returns a command that starts it, and kills it when the thread that did ends.
    ///
    /// # Errors
    ///
    /// Fails when a program that it takes is not there.
    pub(crate) fn command(&self) -> Result<Command> {
        let mut command = host_tools::command("setpriv")?;
        command.args(["--pdeathsig", "KILL", "--"]);
        match &self.root {
            None => command.arg(host_tools::find("qemu-system-x86_64")?),
            Some(root) => command
                .args(host_tools::unpacked(root, "usr/bin/qemu-system-x86_64"))
                .arg("-L")
                .arg(root.join(DATA)),
        };
        Ok(command)
    }

    /// Returns the firmware's code.
    pub(crate) fn firmware(&self) -> &Path {
        &self.firmware
    }

    /// Returns the firmware's variables, as it leaves the factory.
    pub(crate) fn variables(&self) -> &Path {
        &self.variables
    }
}
