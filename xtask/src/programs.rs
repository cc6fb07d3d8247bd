//! Compiles the node's own programs, and the builder that makes images of them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::command;

/// The one place where the toolchain's name of the target is spelled: PID 1 is
/// compiled for it by name, which keeps its static flags from build scripts.
const TARGET: &str = concat!(env!("XTASK_TARGET"));

const PACKAGES: [(&str, &[&str]); 4] = [
    ("updater", &["bistable", "bistable-updater"]),
    ("init-integration", &["bistable-health-gate"]),
    ("partition-layout", &["bistable-layout"]),
    ("verity", &["bistable-verity"]),
];

/// Returns a cargo command in the checkout, with the toolchain that runs us.
pub(crate) fn cargo(checkout: &Checkout) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(checkout.root());
    cargo
}

/// Builds the node's programs and collects them in the build folder.
pub(crate) fn build(checkout: &Checkout) -> Result<PathBuf> {
    let programs = checkout.programs();
    fs::create_dir_all(&programs).with_context(|| format!("cannot make {}", programs.display()))?;

    let mut shared = cargo(checkout);
    shared.args(["build", "--release"]);
    for (package, binaries) in PACKAGES {
        shared.args(["--package", package]);
        for binary in binaries {
            shared.args(["--bin", binary]);
        }
    }
    command::run(&mut shared)?;

    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        TARGET.to_uppercase().replace('-', "_")
    );
    command::run(
        cargo(checkout)
            .args([
                "build",
                "--release",
                "--package",
                "init-integration",
                "--bin",
                "bistable-init",
            ])
            .args(["--no-default-features", "--target", TARGET])
            .env(flags, "-C target-feature=+crt-static"),
    )?;

    let release = checkout.target().join("release");
    for binary in PACKAGES.iter().flat_map(|(_, binaries)| binaries.iter()) {
        collect(&release.join(binary), &programs.join(binary))?;
    }
    let init = checkout.target().join(TARGET).join("release/bistable-init");
    collect(&init, &programs.join("bistable-init"))?;
    Ok(programs)
}

/// Builds the image builder and returns its path.
pub(crate) fn image_tool(checkout: &Checkout) -> Result<PathBuf> {
    command::run(cargo(checkout).args([
        "build",
        "--release",
        "--package",
        "image",
        "--bin",
        "bistable-image",
    ]))?;
    Ok(checkout.target().join("release/bistable-image"))
}

fn collect(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
