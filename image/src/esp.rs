//! The EFI system partition, written without mounting it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use partition_layout::{BootEntry, SectorSize};

use crate::tool::ToolError;
use crate::toolbox::Toolbox;

const BOOT_LOADER: &str = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";
/// No menu, no editor, no questions: which entry boots is decided by its name.
const LOADER_CONF: &str = "timeout 0\neditor no\nauto-entries no\nauto-firmware no\n";
/// A FAT volume's number: any, but the same in every build.
const VOLUME_ID: &str = "b157ab1e";

/// What the partition is like.
#[derive(Debug)]
pub struct Shape {
    /// Its size in bytes.
    pub size: u64,
    /// The disk's: kernel and firmware read no file system with smaller ones.
    pub sectors: SectorSize,
}

/// Why there is no EFI system partition.
#[derive(Debug, thiserror::Error)]
pub enum EspError {
    #[error("cannot use {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot format the EFI system partition")]
    Format(#[source] ToolError),
    #[error("cannot put {file} on the EFI system partition")]
    Copy { file: String, source: ToolError },
}

/// Makes the image of an EFI system partition at `image`, with
/// systemd-boot and one UKI under the name of its boot entry.
///
/// # Errors
/// When it cannot be formatted or does not hold everything.
pub fn make(
    toolbox: &Toolbox,
    uki: &Path,
    entry: &BootEntry,
    shape: &Shape,
    scratch: &Path,
    image: &Path,
) -> Result<(), EspError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| EspError::File { path, source }
    };
    File::create(image)
        .and_then(|file| file.set_len(shape.size))
        .map_err(failed(image))?;
    toolbox
        .tool("usr/sbin/mkfs.vfat")
        .args(["-F", "32", "-n", "BISTABLE", "-i", VOLUME_ID, "--invariant"])
        .args(["-S", &shape.sectors.bytes().to_string()])
        .arg(image)
        .run()
        .map_err(EspError::Format)?;
    let loader_conf = scratch.join("loader.conf");
    fs::write(&loader_conf, LOADER_CONF).map_err(failed(&loader_conf))?;
    let boot_loader = toolbox.file(BOOT_LOADER);
    for folder in ["EFI", "EFI/BOOT", "EFI/systemd", "EFI/Linux", "loader"] {
        mtool(toolbox, "mmd", image, &[], folder)?;
    }
    let entry = format!("EFI/Linux/{}", entry.file_name());
    for (from, to) in [
        (boot_loader.as_path(), "EFI/BOOT/BOOTX64.EFI"),
        (boot_loader.as_path(), "EFI/systemd/systemd-bootx64.efi"),
        (loader_conf.as_path(), "loader/loader.conf"),
        (uki, entry.as_str()),
    ] {
        mtool(toolbox, "mcopy", image, &[from], to)?;
    }
    Ok(())
}

/// Runs a program of mtools on a file of the image.
fn mtool(
    toolbox: &Toolbox,
    program: &str,
    image: &Path,
    from: &[&Path],
    to: &str,
) -> Result<(), EspError> {
    toolbox
        .tool("usr/bin/mtools")
        .args(["-c", program, "-i"])
        .arg(image)
        .args(from)
        .arg(format!("::/{to}"))
        // The user's own configuration has no say.
        .env("MTOOLSRC", "/dev/null")
        .run()
        .map_err(|source| EspError::Copy {
            file: to.to_owned(),
            source,
        })?;
    Ok(())
}
