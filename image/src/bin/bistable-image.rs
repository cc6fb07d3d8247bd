//! Builds Bistable's images.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use image::build::{Order, Origin, PackageChoice, build, unpack};
use partition_layout::{SectorSize, Version};
use tracing_subscriber::EnvFilter;

/// Builds operating system images and publishes them as releases.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an image: root file system, hash tree, UKI and, if asked, a disk.
    Build(Build),
    /// Unpack Debian packages with all that they need, and print the folder.
    Unpack(Unpack),
    #[command(flatten)]
    Publish(image::repository::cli::Command),
}

#[derive(Debug, Args)]
struct Build {
    /// What the image is made of.
    #[arg(long, value_name = "FILE")]
    declaration: PathBuf,
    /// Something to lay over the declaration; may be given again.
    #[arg(long, value_name = "FILE")]
    overlay: Vec<PathBuf>,
    /// The version of the image.
    #[arg(long, required_unless_present = "from_commit")]
    version: Option<Version>,
    /// The TUF root that the image trusts from its first boot.
    #[arg(long, value_name = "FILE", required_unless_present = "from_commit")]
    root_of_trust: Option<PathBuf>,
    /// Make the image from this commit (or branch) of the OSTree repository, not from packages.
    #[arg(long, value_name = "REV", conflicts_with_all = ["version", "root_of_trust"])]
    from_commit: Option<String>,
    /// The folder that holds the node's programs, bistable-init among them.
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
    /// Where tools, packages and trees are kept from build to build.
    #[arg(long, value_name = "DIR", default_value = "build")]
    build_dir: PathBuf,
    /// The folder that gets the image.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Make a disk image as well: disk.raw.
    #[arg(long)]
    disk: bool,
    /// The size of the disk's sectors, 512 or 4096; may be given again. The image of a disk
    /// with sectors of 4096 bytes is disk-4096.raw.
    #[arg(long, value_name = "BYTES", requires = "disk", default_value = "512", value_parser = parse_sector_size)]
    sector_size: Vec<SectorSize>,
    /// Use the packages that the mirrors offer now, not those of the last build.
    #[arg(long)]
    refresh_packages: bool,
}

#[derive(Debug, Args)]
struct Unpack {
    /// The declaration that names the suites.
    #[arg(long, value_name = "FILE")]
    declaration: PathBuf,
    /// Where tools and packages are kept from build to build.
    #[arg(long, value_name = "DIR", default_value = "build")]
    build_dir: PathBuf,
    /// The packages.
    #[arg(required = true, value_name = "PACKAGE")]
    packages: Vec<String>,
}

fn main() -> Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    match Cli::parse().command {
        Command::Build(arguments) => build_image(arguments).map(|()| ExitCode::SUCCESS),
        Command::Unpack(arguments) => unpack_packages(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Publish(command) => Ok(command.run()),
    }
}

fn unpack_packages(arguments: &Unpack) -> Result<()> {
    let folder = unpack(
        &arguments.declaration,
        &arguments.packages,
        &arguments.build_dir,
    )
    .context("nothing was unpacked")?;
    writeln!(io::stdout(), "{}", folder.display())?;
    Ok(())
}

fn parse_sector_size(text: &str) -> Result<SectorSize, String> {
    let bytes: u64 = text.parse().map_err(|_| "this is no number".to_owned())?;
    SectorSize::try_from(bytes).map_err(|error| error.to_string())
}

fn build_image(arguments: Build) -> Result<()> {
    let origin = match (
        arguments.from_commit,
        arguments.version,
        arguments.root_of_trust,
    ) {
        (Some(commit), _, _) => Origin::Commit(commit),
        (None, Some(version), Some(root_of_trust)) => Origin::Composed {
            version,
            root_of_trust,
        },
        (None, _, _) => anyhow::bail!("--version and --root-of-trust are needed"),
    };
    let order = Order {
        declaration: arguments.declaration,
        overlays: arguments.overlay,
        origin,
        programs: arguments.programs,
        build_dir: arguments.build_dir,
        out: arguments.out,
        packages: if arguments.refresh_packages {
            PackageChoice::Newest
        } else {
            PackageChoice::Known
        },
        disks: if arguments.disk {
            arguments.sector_size
        } else {
            Vec::new()
        },
    };
    let manifest = build(&order).context("no image was built")?;
    writeln!(
        io::stdout(),
        "{} {}: root hash {}, root image {} bytes, UKI {} bytes",
        order.out.display(),
        manifest.version,
        manifest.root_hash,
        manifest.sizes.root,
        manifest.sizes.uki,
    )?;
    Ok(())
}
