//! Small files that are whole or not there, whenever the power fails.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Why a file is not as it was to be.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}")]
pub(super) struct ReplaceError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReplaceError {
    let path = path.to_owned();
    move |source| ReplaceError {
        doing,
        path,
        source,
    }
}

/// Makes the file `name` in `folder` hold `bytes`, and the folder if there is none. On
/// return it has reached the disk.
pub(super) fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), ReplaceError> {
    let path = folder.join(name);
    let fresh = folder.join(format!("{name}.new"));
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    let mut file = File::create(&fresh).map_err(failed("make", &fresh))?;
    file.write_all(bytes).map_err(failed("write", &fresh))?;
    file.sync_all().map_err(failed("sync", &fresh))?;
    fs::rename(&fresh, &path).map_err(failed("replace", &path))?;
    sync(folder)
}

/// Removes the file `name` from `folder` if it is there. On return that has reached the disk.
pub(super) fn remove(folder: &Path, name: &str) -> Result<(), ReplaceError> {
    let path = folder.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", &path)(error)),
        Ok(()) => sync(folder),
    }
}

fn sync(folder: &Path) -> Result<(), ReplaceError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", folder))
}
