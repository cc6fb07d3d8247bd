//! From packages and a declaration to a root tree: [`base`] does what
//! installing the packages would have done, [`product`] makes the result Bistable, [`audit`] looks
//! for what must not be in it.

pub mod audit;
pub mod base;
mod kernel;
pub mod product;
mod units;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::store::{Store, StoreError};
use crate::tree::{Tree, TreeError};

/// Why a tree could not be composed.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    #[error("the store failed")]
    Store(#[from] StoreError),
    #[error("the parts do not fit together")]
    Tree(#[from] TreeError),
    #[error("cannot fetch the packages")]
    Download(#[from] crate::packages::DownloadError),
    #[error("cannot unpack a package")]
    Unpack(#[from] crate::packages::UnpackError),
    #[error("cannot read the files of package {package}")]
    PackageData { package: String, source: io::Error },
    #[error("package {package} is damaged")]
    PackageEnd {
        package: String,
        source: crate::tool::ToolError,
    },
    #[error("{path} of package {package} has no place in the tree")]
    PackageFile {
        package: String,
        path: String,
        source: TreeError,
    },
    #[error("{path} of package {package} is neither file, link nor folder")]
    StrangeFile { package: String, path: String },
    #[error("the packages bring {count} kernels, not one")]
    Kernels { count: usize },
    #[error("{path} is no kernel module")]
    Module { path: PathBuf },
    #[error("cannot {what}")]
    Tool {
        what: &'static str,
        source: crate::tool::ToolError,
    },
    #[error("cannot use the file {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("program {name} is not in {folder}: build it first, or name another folder")]
    NoProgram { name: String, folder: PathBuf },
    #[error("{rule} of the declaration matches nothing")]
    Nothing { rule: String },
    #[error("unit {unit} is to be enabled and is not in the image")]
    NoUnit { unit: String },
    #[error("unit {unit} is to be enabled and has no [Install] section that says how")]
    NoInstall { unit: String },
}

/// A folder that is gone with the value.
fn scratch() -> Result<tempfile::TempDir, ComposeError> {
    tempfile::tempdir().map_err(|source| ComposeError::File {
        path: std::env::temp_dir(),
        source,
    })
}

/// Puts a file of ours into the tree.
fn put(
    store: &Store,
    tree: &mut Tree,
    path: &str,
    mode: u32,
    content: &[u8],
) -> Result<(), ComposeError> {
    let node = store.put_file(path, mode, content)?;
    Ok(tree.insert(path, node)?)
}

/// Puts a file of the host into the tree.
fn put_from(
    store: &Store,
    tree: &mut Tree,
    path: &str,
    mode: u32,
    from: &Path,
) -> Result<(), ComposeError> {
    let content = fs::read(from).map_err(|source| ComposeError::File {
        path: from.to_owned(),
        source,
    })?;
    put(store, tree, path, mode, &content)
}
