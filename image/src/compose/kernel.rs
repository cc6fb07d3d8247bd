//! The kernel and its modules, as the node has them.
//!
//! Debian's modules are compressed with xz, one by one. They are unpacked here: the root image
//! compresses them as well, and in a form in which two versions of a module still look alike, so that a
//! patch between two releases is small (ADR 0006). They stay signed: the signature is on what is inside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{ComposeError, put_from, scratch};
use crate::modules::{name_of, needs};
use crate::store::Store;
use crate::tool::Tool;
use crate::toolbox::Toolbox;
use crate::tree::Tree;

const IMAGE: &str = "/boot/vmlinuz-";
const PACKED: &str = ".ko.xz";
const PLAIN: &str = ".ko";
/// Far below what the kernel takes as arguments of a program.
const AT_ONCE: usize = 200;

/// Moves the kernel beside its modules, where OSTree keeps it; unpacks the modules, takes away those
/// that lack another, and indexes the rest.
pub(super) fn arrange(
    store: &Store,
    toolbox: &Toolbox,
    tree: &mut Tree,
) -> Result<(), ComposeError> {
    let kernels: BTreeSet<String> = tree
        .below("/boot")
        .filter_map(|(path, _)| path.strip_prefix(IMAGE).map(str::to_owned))
        .collect();
    let release = match kernels.first() {
        Some(release) if kernels.len() == 1 => release.clone(),
        _ => {
            return Err(ComposeError::Kernels {
                count: kernels.len(),
            });
        }
    };
    let folder = format!("/usr/lib/modules/{release}");
    if let Some(image) = tree.get(&format!("{IMAGE}{release}")).cloned() {
        tree.insert(&format!("{folder}/vmlinuz"), image)?;
    }
    tree.remove("/boot");

    let work = scratch()?;
    store.export(tree, work.path(), |path| path.starts_with(&folder))?;
    let modules = work.path().join(folder.trim_start_matches('/'));
    unpack(&files(&modules)?)?;
    drop_incomplete(&modules)?;
    toolbox
        .tool("usr/sbin/depmod")
        .arg("--basedir")
        .arg(work.path().join("usr"))
        .arg(&release)
        .run()
        .map_err(|source| ComposeError::Tool {
            what: "index the kernel's modules",
            source,
        })?;
    tree.retain(|path, _| !(path.starts_with(&folder) && is_module(path)));
    for from in files(&modules)? {
        let name = from.strip_prefix(work.path()).unwrap_or(&from);
        let path = format!("/{}", name.display());
        // What is there already (modules.builtin, modules.order, the kernel) came from the package.
        if tree.get(&path).is_none() {
            put_from(store, tree, &path, 0o644, &from)?;
        }
    }
    Ok(())
}

fn unpack(files: &[PathBuf]) -> Result<(), ComposeError> {
    let packed: Vec<&PathBuf> = files
        .iter()
        .filter(|path| path.to_string_lossy().ends_with(PACKED))
        .collect();
    for some in packed.chunks(AT_ONCE) {
        Tool::host("xz")
            .args(["--decompress", "--threads=1", "--"])
            .args(some)
            .run()
            .map_err(|source| ComposeError::Tool {
                what: "unpack the kernel's modules",
                source,
            })?;
    }
    Ok(())
}

/// Takes away modules that need one that was left out: nothing could load them.
fn drop_incomplete(folder: &Path) -> Result<(), ComposeError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|source| ComposeError::File {
            path: path.to_owned(),
            source,
        })
    };
    let builtin = read(&folder.join("modules.builtin"))?;
    let builtin: BTreeSet<String> = String::from_utf8_lossy(&builtin)
        .lines()
        .map(name_of)
        .collect();
    let mut modules = BTreeMap::new();
    for path in files(folder)? {
        let name = path.to_string_lossy().into_owned();
        if name.ends_with(PLAIN) {
            let needs = needs(&read(&path)?).ok_or(ComposeError::Module { path: path.clone() })?;
            modules.insert(name_of(&name), (path, needs));
        }
    }
    for name in incomplete(&modules, &builtin) {
        if let Some((path, needs)) = modules.get(&name) {
            tracing::info!(
                name,
                ?needs,
                "left out a module that needs one that was left out"
            );
            fs::remove_file(path).map_err(|source| ComposeError::File {
                path: path.clone(),
                source,
            })?;
        }
    }
    Ok(())
}

/// Returns the modules that need one that is not there, or one that does so itself.
fn incomplete(
    modules: &BTreeMap<String, (PathBuf, Vec<String>)>,
    builtin: &BTreeSet<String>,
) -> BTreeSet<String> {
    let mut gone = BTreeSet::new();
    loop {
        let lacks = |need: &String| {
            (!modules.contains_key(need) || gone.contains(need)) && !builtin.contains(need)
        };
        let more: Vec<String> = modules
            .iter()
            .filter(|(name, (_, needs))| !gone.contains(*name) && needs.iter().any(lacks))
            .map(|(name, _)| name.clone())
            .collect();
        if more.is_empty() {
            return gone;
        }
        gone.extend(more);
    }
}

fn is_module(path: &str) -> bool {
    path.ends_with(PACKED) || path.ends_with(PLAIN)
}

/// Returns the files below a folder, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>, ComposeError> {
    let entries = walkdir::WalkDir::new(folder).sort_by_file_name();
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| ComposeError::File {
            path: folder.to_owned(),
            source: error.into(),
        })?;
        if entry.file_type().is_file() {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_something_left_out_goes_too_and_so_on() {
        let module = |name: &str, needs: &[&str]| {
            let needs = needs.iter().map(ToString::to_string).collect();
            (name.to_owned(), (PathBuf::new(), needs))
        };
        let modules = BTreeMap::from([
            module("nvme_rdma", &["rdma_cm", "nvme_core"]),
            module("nvme_rdma_tools", &["nvme_rdma"]),
            module("nvme", &["nvme_core", "crc32"]),
            module("nvme_core", &[]),
        ]);
        let builtin = BTreeSet::from(["crc32".to_owned()]);
        let gone = incomplete(&modules, &builtin);
        assert_eq!(
            gone.into_iter().collect::<Vec<_>>(),
            ["nvme_rdma", "nvme_rdma_tools"]
        );
    }
}
