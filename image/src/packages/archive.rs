//! Package files: fetched once, checked, and opened without being installed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::lock::{Lock, Package};
use crate::tool::{Running, Tool, ToolError};

/// apt's own downloader: it knows the host's proxy and checks hashes.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// Why a package file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    #[error("cannot use the package cache {path}")]
    Cache { path: PathBuf, source: io::Error },
    #[error(
        "cannot fetch package {package}; if the mirror has a newer one by now, refresh the packages"
    )]
    Fetch { package: String, source: ToolError },
    #[error("package {package} came with the hash {found}, not {expected}")]
    Hash {
        package: String,
        found: String,
        expected: String,
    },
}

/// Why a package's content could not be read.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("cannot open package {package}")]
    Open { package: String, source: ToolError },
    #[error("cannot make {path}")]
    Folder { path: PathBuf, source: io::Error },
}

/// Sees to it that every package of the lock lies in `cache`, under
/// [`Package::file_name`], with the right content. Files that are there already are checked, not fetched.
///
/// # Errors
/// When a package cannot be fetched, or is not what the lock says; names it.
pub fn download(lock: &Lock, cache: &Path) -> Result<(), DownloadError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DownloadError::Cache { path, source }
    };
    fs::create_dir_all(cache).map_err(failed(cache))?;
    tracing::info!(
        packages = lock.packages.len(),
        "fetching what is not in the cache"
    );
    for package in &lock.packages {
        let path = cache.join(package.file_name());
        if path.exists() && sha256_of(&path).map_err(failed(&path))? == package.sha256 {
            continue;
        }
        tracing::debug!(
            package = package.name,
            version = package.version,
            "fetching"
        );
        let partial = cache.join(format!("{}.partial", package.file_name()));
        Tool::host(APT_HELPER)
            .arg("download-file")
            .arg(&package.uri)
            .arg(&partial)
            .arg(format!("SHA256:{}", package.sha256))
            .run()
            .map_err(|source| DownloadError::Fetch {
                package: package.name.clone(),
                source,
            })?;
        let found = sha256_of(&partial).map_err(failed(&partial))?;
        if found != package.sha256 {
            return Err(DownloadError::Hash {
                package: package.name.clone(),
                found,
                expected: package.sha256.clone(),
            });
        }
        fs::rename(&partial, &path).map_err(failed(&path))?;
    }
    Ok(())
}

/// Opens the files of a package as a tar stream.
///
/// # Errors
/// When the package cannot be opened.
pub fn open_data(package: &Package, cache: &Path) -> Result<Running, UnpackError> {
    Tool::host("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(cache.join(package.file_name()))
        .start()
        .map_err(|source| UnpackError::Open {
            package: package.name.clone(),
            source,
        })
}

/// Lays the files of all packages out in a folder.
///
/// # Errors
/// When one cannot be unpacked; names it.
pub fn unpack_to_folder(lock: &Lock, cache: &Path, folder: &Path) -> Result<(), UnpackError> {
    fs::create_dir_all(folder).map_err(|source| UnpackError::Folder {
        path: folder.to_owned(),
        source,
    })?;
    for package in &lock.packages {
        Tool::host("dpkg-deb")
            .arg("--extract")
            .arg(cache.join(package.file_name()))
            .arg(folder)
            .run()
            .map_err(|source| UnpackError::Open {
                package: package.name.clone(),
                source,
            })?;
    }
    Ok(())
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hex::encode(digest.finalize())),
            n => digest.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}
