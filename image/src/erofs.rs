//! The root file system image.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::declaration::{Erofs, PLAIN};
use crate::store::{Store, StoreError};
use crate::tool::ToolError;
use crate::toolbox::Toolbox;
use crate::tree::{Node, Tree};

/// The same in every image: what tells images apart is the root hash.
const FILE_SYSTEM_UUID: Uuid = Uuid::from_u128(0x6269_7374_6162_4c65_8d1e_2026_0000_0001);
/// The label that `blkid` shows.
const LABEL: &str = "bistable-root";

/// Why there is no root image.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    #[error("cannot read the tree")]
    Store(#[from] StoreError),
    #[error("cannot pack {path}")]
    Pack { path: PathBuf, source: io::Error },
    #[error("cannot make the EROFS image")]
    Make(#[from] ToolError),
}

/// Makes the image of a tree at `image`. The same tree gives the same bytes. `scratch` is a
/// folder with room for the tree uncompressed.
///
/// # Errors
/// When the tree cannot be read or the image not written.
pub fn make(
    store: &Store,
    toolbox: &Toolbox,
    tree: &Tree,
    rules: &Erofs,
    scratch: &Path,
    image: &Path,
) -> Result<(), ErofsError> {
    let archive = scratch.join("root.tar");
    let failed = |source| ErofsError::Pack {
        path: archive.clone(),
        source,
    };
    let file = File::create(&archive).map_err(failed)?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    pack(store, tree, rules, &mut file, &archive)?;
    file.flush().map_err(failed)?;
    drop(file);
    let mut mkfs = toolbox.tool("usr/bin/mkfs.erofs");
    if rules.compression != PLAIN {
        mkfs = mkfs
            .arg(format!("-z{}", rules.compression))
            .arg(format!("-C{}", rules.cluster));
    }
    let made = mkfs
        .args(["-b4096", "-T0", "--all-root", "--quiet", "--tar=f"])
        .arg(format!("-U{FILE_SYSTEM_UUID}"))
        .arg(format!("-L{LABEL}"))
        .arg(image)
        .arg(&archive)
        .run();
    fs::remove_file(&archive).map_err(failed)?;
    made?;
    Ok(())
}

/// Writes the tree as a tar stream, in the order of its paths and with no times in it.
fn pack(
    store: &Store,
    tree: &Tree,
    rules: &Erofs,
    to: impl Write,
    path: &Path,
) -> Result<(), ErofsError> {
    let failed = |source| ErofsError::Pack {
        path: path.to_owned(),
        source,
    };
    let mut archive = tar::Builder::new(to);
    let mut top = header(tar::EntryType::Directory, 0o755);
    archive
        .append_data(&mut top, "./", io::empty())
        .map_err(failed)?;
    for (path, node) in tree.iter() {
        if rules.without.iter().any(|pattern| pattern.matches(path)) {
            continue;
        }
        let name = path.trim_start_matches('/');
        match node {
            Node::Directory { mode } => {
                let mut header = header(tar::EntryType::Directory, *mode);
                archive.append_data(&mut header, name, io::empty())
            }
            Node::Link { target } => {
                let mut header = header(tar::EntryType::Symlink, 0o777);
                archive.append_link(&mut header, name, target)
            }
            Node::File { mode, object, size } => {
                let mut header = header(tar::EntryType::Regular, *mode);
                header.set_size(*size);
                archive.append_data(&mut header, name, store.reader(path, object)?)
            }
        }
        .map_err(failed)?;
    }
    archive.finish().map_err(failed)
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}
