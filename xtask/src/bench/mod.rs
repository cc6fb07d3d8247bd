//! `cargo xtask bench`: measurements beside the field's own tools, in one run.

mod boot;
mod calls;
mod disk;
mod disturb;
mod goals;
mod groups;
mod machine;
mod material;
mod measure;
mod peers;
mod server;
mod spread;
mod stand;
mod update;
mod verity;

use anyhow::Result;
use clap::Subcommand;

use crate::checkout::Checkout;
use crate::runner::Runner;

/// What can be measured. A bench that misses a goal says so and fails.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Hash tree build and check throughput beside `veritysetup`
    Verity(verity::Arguments),
    /// A first install and a security update beside RAUC, SWUpdate, casync and
    /// `curl | tee | sha256sum`, as root: bytes, time, processor, memory
    Update(update::Arguments),
    /// Boots of the first release with its root file system encoded in several ways:
    /// seconds to containerd and to a good node, memory
    Boot(boot::Arguments),
    /// D-Bus calls while a release is staged, as root: how long each waits for its answer
    Calls(calls::Arguments),
    /// Small synced writes beside staging, as root: by how much they get slower
    Disturb(disturb::Arguments),
}

impl Bench {
    pub(crate) fn run(self, checkout: &Checkout, runner: &Runner) -> Result<()> {
        match self {
            Self::Verity(arguments) => verity::run(checkout, runner, arguments),
            Self::Update(arguments) => update::run(checkout, runner, &arguments),
            Self::Boot(arguments) => boot::run(checkout, runner, &arguments),
            Self::Calls(arguments) => calls::run(checkout, runner, &arguments),
            Self::Disturb(arguments) => disturb::run(checkout, runner, &arguments),
        }
    }
}
