//! Compiles the node's own programs, and the builder that makes images of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::checkout::Checkout;
use crate::runner::Runner;

/// The one place where the toolchain's name of the target is spelled: PID 1 is
/// compiled for it by name, which keeps its static flags from build scripts.
pub(crate) const TARGET: &str = env!("XTASK_TARGET");

/// What a node runs, beside PID 1.
const NODE: [&str; 5] = [
    "bistable",
    "bistable-health-gate",
    "bistable-layout",
    "bistable-updater",
    "bistable-verity",
];

/// What has been compiled.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The folder that the image builder takes the node's programs from.
    pub(crate) node: PathBuf,
    /// The image builder.
    pub(crate) image_tool: PathBuf,
}

/// Returns a cargo command in the checkout, with the toolchain that runs us.
pub(crate) fn cargo(checkout: &Checkout) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(checkout.root());
    cargo
}

/// Returns the variable from which cargo takes compiler flags for what is compiled for
/// [`TARGET`] by name, and for nothing else.
pub(crate) fn flags_variable() -> String {
    let target = TARGET.to_uppercase().replace('-', "_");
    format!("CARGO_TARGET_{target}_RUSTFLAGS")
}

/// Builds the node's programs and the image builder, and collects the former.
pub(crate) fn build(checkout: &Checkout, runner: &Runner) -> Result<Programs> {
    let node = checkout.programs();
    fs::create_dir_all(&node).with_context(|| format!("cannot make {}", node.display()))?;

    // The whole workspace, as the tests select it, so that both share what is compiled.
    let mut shared = cargo(checkout);
    shared.args([
        "build",
        "--release",
        "--workspace",
        "--bin",
        "bistable-image",
    ]);
    for binary in NODE {
        shared.args(["--bin", binary]);
    }
    runner.run(&mut shared)?;

    let mut init = cargo(checkout);
    init.args([
        "build",
        "--release",
        "--package",
        "init-integration",
        "--bin",
        "bistable-init",
    ]);
    init.args(["--no-default-features", "--target", TARGET]);
    init.env(flags_variable(), "-C target-feature=+crt-static");
    runner.run(&mut init)?;

    let release = checkout.target().join("release");
    for binary in NODE {
        collect(&release.join(binary), &node.join(binary))?;
    }
    let init = checkout.target().join(TARGET).join("release/bistable-init");
    collect(&init, &node.join("bistable-init"))?;
    Ok(Programs {
        node,
        image_tool: release.join("bistable-image"),
    })
}

fn collect(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
