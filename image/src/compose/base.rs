//! The tree that the packages make, and what their maintainer scripts would have added.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{ComposeError, kernel, put, put_from, scratch};
use crate::declaration::{Additions, LeaveOut};
use crate::packages::{self, Lock, Package};
use crate::pattern::Pattern;
use crate::store::{About, Commit, Store};
use crate::toolbox::Toolbox;
use crate::tree::{Node, Tree};

/// Part of every base tree's key: count it up when this module makes another
/// tree of the same packages.
const FORMAT: u32 = 2;
/// What Debian's merged `/usr` has at the top, before any package is unpacked.
const MERGED: [(&str, &str); 4] = [
    ("/bin", "usr/bin"),
    ("/sbin", "usr/sbin"),
    ("/lib", "usr/lib"),
    ("/lib64", "usr/lib64"),
];
/// Where the image lists the packages that it is made of.
pub const PACKAGES: &str = "/usr/share/bistable/packages.json";
const CERTIFICATES: &str = "/usr/share/ca-certificates/mozilla";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The rules by which packages become a tree.
#[derive(Debug, serde::Serialize)]
pub struct Rules<'a> {
    leave_out: &'a [LeaveOut],
    keep: &'a [Pattern],
}

impl<'a> Rules<'a> {
    /// The rules of a declaration.
    pub fn of(additions: &'a Additions) -> Self {
        Self {
            leave_out: &additions.leave_out,
            keep: &additions.keep,
        }
    }

    fn unpacks(&self, package: &str) -> bool {
        !self
            .leave_out
            .iter()
            .any(|rule| rule.packages.iter().any(|name| name == package))
    }

    fn keeps(&self, path: &str) -> bool {
        let kept = |pattern: &Pattern| pattern.matches(path);
        self.keep.iter().any(kept)
            || !self
                .leave_out
                .iter()
                .any(|rule| rule.paths.iter().any(kept))
    }
}

/// Returns the base tree of these packages under these rules, from the store
/// if it is there.
///
/// # Errors
/// When a package cannot be had or read, or the tree cannot be finished; says which.
pub fn base(
    store: &Store,
    toolbox: &Toolbox,
    lock: &Lock,
    rules: &Rules<'_>,
    cache: &Path,
) -> Result<Commit, ComposeError> {
    let branch = format!("base/{}", key(lock, rules));
    if !store.has(&branch) {
        packages::download(lock, cache)?;
        tracing::info!(packages = lock.packages.len(), "composing the base tree");
        store.transaction(|| compose(store, toolbox, lock, rules, cache, &branch))?;
    }
    Ok(store.load(&branch)?)
}

/// Returns a name for the base tree: equal inputs, equal name.
fn key(lock: &Lock, rules: &Rules<'_>) -> String {
    let mut digest = Sha256::new();
    digest.update(FORMAT.to_le_bytes());
    digest.update(lock.digest());
    digest.update(serde_json::to_vec(rules).unwrap_or_default());
    hex::encode(digest.finalize())
}

fn compose(
    store: &Store,
    toolbox: &Toolbox,
    lock: &Lock,
    rules: &Rules<'_>,
    cache: &Path,
    branch: &str,
) -> Result<(), ComposeError> {
    let mut tree = Tree::default();
    for (path, target) in MERGED {
        tree.insert(&format!("/{target}"), Node::Directory { mode: 0o755 })?;
        tree.insert(
            path,
            Node::Link {
                target: target.to_owned(),
            },
        )?;
    }
    let mut newest = 0;
    let mut used = Vec::new();
    for package in &lock.packages {
        if rules.unpacks(&package.name) {
            newest = newest.max(unpack(store, &mut tree, package, rules, cache)?);
            used.push(package);
        }
    }
    certificates(store, &mut tree)?;
    kernel::arrange(store, toolbox, &mut tree)?;
    drop_empty_folders(&mut tree);
    libraries(store, toolbox, &mut tree)?;
    put(
        store,
        &mut tree,
        PACKAGES,
        0o644,
        &serde_json::to_vec_pretty(&used).unwrap_or_default(),
    )?;
    let about = About {
        subject: "base tree".to_owned(),
        version: String::new(),
        time: newest,
    };
    store.commit(&tree, branch, &about)?;
    Ok(())
}

/// Adds a package's files to the tree; returns the time of the newest, in seconds since 1970.
fn unpack(
    store: &Store,
    tree: &mut Tree,
    package: &Package,
    rules: &Rules<'_>,
    cache: &Path,
) -> Result<u64, ComposeError> {
    let data = |source| ComposeError::PackageData {
        package: package.name.clone(),
        source,
    };
    let mut running = packages::open_data(package, cache)?;
    let mut archive = tar::Archive::new(&mut running.stdout);
    let mut newest = 0;
    for entry in archive.entries().map_err(data)? {
        let mut entry = entry.map_err(data)?;
        let path = entry.path().map_err(data)?.to_string_lossy().into_owned();
        let path = format!("/{}", path.trim_start_matches("./").trim_matches('/'));
        if path == "/" || !rules.keeps(&path) {
            continue;
        }
        newest = newest.max(entry.header().mtime().map_err(data)?);
        let mode = entry.header().mode().map_err(data)?;
        let link = entry
            .link_name()
            .map_err(data)?
            .map(|link| link.to_string_lossy().into_owned())
            .unwrap_or_default();
        let kind = entry.header().entry_type();
        let node = if kind.is_dir() {
            Node::Directory { mode: mode & 0o755 }
        } else if kind.is_symlink() {
            Node::Link { target: link }
        } else if kind.is_hard_link() {
            // Another name of a file of the same package. If that was left out,
            // or was a script, then so is its other name.
            match tree.get(&format!("/{}", link.trim_start_matches("./"))) {
                Some(node) => node.clone(),
                None => continue,
            }
        } else if kind.is_file() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(data)?;
            // Nothing in the image could run it.
            if content.starts_with(b"#!") {
                tracing::debug!(path, package = package.name, "left out a script");
                continue;
            }
            store.put_file(&path, mode, &content)?
        } else {
            return Err(ComposeError::StrangeFile {
                package: package.name.clone(),
                path,
            });
        };
        tree.insert(&path, node)
            .map_err(|source| ComposeError::PackageFile {
                package: package.name.clone(),
                path: path.clone(),
                source,
            })?;
    }
    // dpkg-deb pads the stream; read to its end, or it dies of a closed pipe.
    std::io::copy(&mut running.stdout, &mut std::io::sink()).map_err(data)?;
    running
        .finish(&[])
        .map_err(|source| ComposeError::PackageEnd {
            package: package.name.clone(),
            source,
        })?;
    Ok(newest)
}

/// Makes the one file of trusted certificates, as `update-ca-certificates` would.
fn certificates(store: &Store, tree: &mut Tree) -> Result<(), ComposeError> {
    let names: Vec<String> = tree
        .below(CERTIFICATES)
        .map(|(path, _)| path.to_owned())
        .collect();
    let mut bundle = Vec::new();
    for name in names {
        bundle.extend(store.read(tree, &name)?);
        bundle.push(b'\n');
    }
    tree.remove("/usr/share/ca-certificates");
    put(store, tree, BUNDLE, 0o644, &bundle)
}

/// Takes away folders that hold nothing because what they held was left out.
fn drop_empty_folders(tree: &mut Tree) {
    let needed: BTreeSet<String> = tree
        .iter()
        .filter(|(_, node)| !matches!(node, Node::Directory { .. }))
        .flat_map(|(path, _)| {
            path.match_indices('/')
                .filter_map(|(at, _)| path.get(..at))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    tree.retain(|path, node| !matches!(node, Node::Directory { .. }) || needed.contains(path));
}

/// Makes the dynamic loader's cache.
fn libraries(store: &Store, toolbox: &Toolbox, tree: &mut Tree) -> Result<(), ComposeError> {
    const CACHE: &str = "/etc/ld.so.cache";
    let work = scratch()?;
    store.export(tree, work.path(), |path| {
        path.starts_with("/usr/lib/x86_64-linux-gnu")
            || path.starts_with("/etc/ld.so.conf")
            || MERGED.iter().any(|(link, _)| *link == path)
    })?;
    toolbox
        .tool("usr/sbin/ldconfig")
        .arg("-r")
        .arg(work.path())
        .args(["-X", "-i"])
        .run()
        .map_err(|source| ComposeError::Tool {
            what: "index the libraries",
            source,
        })?;
    let from = work.path().join(CACHE.trim_start_matches('/'));
    put_from(store, tree, CACHE, 0o644, &from)
}
