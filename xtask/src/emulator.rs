//! The virtual machines' QEMU and firmware: Debian 13's, unpacked, whatever the host has.
//!
//! QEMU 7.2, Debian 12's, takes a third longer for the same boot, and now and then does not
//! come out of a reset.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::programs::Programs;
use crate::runner::Runner;

/// What the harness looks for it by.
pub(crate) const VARIABLE: &str = "BISTABLE_EMULATOR";

const PACKAGES: [&str; 2] = ["qemu-system-x86", "ovmf"];

/// Unpacks them if they are not there, and returns the folder.
pub(crate) fn unpack(checkout: &Checkout, runner: &Runner, programs: &Programs) -> Result<PathBuf> {
    let mut unpack = Command::new(&programs.image_tool);
    unpack
        .arg("unpack")
        .arg("--declaration")
        .arg(checkout.declaration())
        .arg("--build-dir")
        .arg(checkout.build())
        .args(PACKAGES);
    Ok(runner.output(&mut unpack)?.trim().into())
}
