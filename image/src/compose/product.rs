//! What makes the packages' tree Bistable: our programs and units, the
//! declaration's files, users, names and mount points.

use std::fs;
use std::path::{Path, PathBuf};

use partition_layout::Version;

use super::{ComposeError, put, put_from, units};
use crate::declaration::{Declaration, TreeRule};
use crate::pattern::Pattern;
use crate::store::Store;
use crate::toolbox::Toolbox;
use crate::tree::{Node, Tree};

/// Where the node finds the root of trust.
const ROOT_OF_TRUST: &str = "/usr/share/bistable/root.json";
const OS_RELEASE: &str = "/usr/lib/os-release";
/// Filled at run time, or by the kernel.
const MOUNT_POINTS: [&str; 7] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/var", "/efi"];
/// Made by systemd-sysusers.
const USER_FILES: [&str; 4] = ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"];

/// What a release adds to the base tree.
#[derive(Debug)]
pub struct Parts<'a> {
    pub declaration: &'a Declaration,
    pub version: &'a Version,
    pub architecture: partition_layout::Architecture,
    /// When the newest of the packages' files was made, in seconds since 1970.
    pub time: u64,
    /// The folder of the built programs.
    pub programs: &'a Path,
    /// The bytes of a TUF root file.
    pub root_of_trust: &'a [u8],
}

/// Adds to the tree what a release is beside its packages.
///
/// # Errors
/// When a part is missing or cannot be put in its place; names it.
pub fn add(
    store: &Store,
    toolbox: &Toolbox,
    tree: &mut Tree,
    parts: &Parts<'_>,
) -> Result<(), ComposeError> {
    let additions = &parts.declaration.additions;
    for path in MOUNT_POINTS {
        tree.insert(path, Node::Directory { mode: 0o755 })?;
    }
    for rule in &additions.directory {
        tree.insert(
            &rule.path,
            Node::Directory {
                mode: rule.mode & 0o1777,
            },
        )?;
    }
    for rule in &additions.tree {
        add_tree(store, tree, rule)?;
    }
    for program in &additions.program {
        let from = parts.programs.join(&program.name);
        if !from.is_file() {
            return Err(ComposeError::NoProgram {
                name: program.name.clone(),
                folder: parts.programs.to_owned(),
            });
        }
        put_from(store, tree, &program.to, 0o755, &from)?;
    }
    put(store, tree, ROOT_OF_TRUST, 0o644, parts.root_of_trust)?;
    let os_release = os_release(parts);
    put(store, tree, OS_RELEASE, 0o644, os_release.as_bytes())?;
    for file in &additions.file {
        put(store, tree, &file.path, file.mode, file.content.as_bytes())?;
    }
    for link in &additions.link {
        let target = link.target.clone();
        tree.insert(&link.path, Node::Link { target })?;
    }
    users(store, toolbox, tree)?;
    for unit in &additions.enable {
        units::enable(store, tree, unit)?;
    }
    for pattern in &additions.presets {
        apply_presets(store, tree, pattern)?;
    }
    for mask in &additions.mask {
        for unit in &mask.units {
            units::mask(tree, unit)?;
        }
    }
    Ok(())
}

/// Copies files of the source tree, all that its rule names.
fn add_tree(store: &Store, tree: &mut Tree, rule: &TreeRule) -> Result<(), ComposeError> {
    let nothing = || ComposeError::Nothing {
        rule: format!("the tree {} ({})", rule.from.display(), rule.names),
    };
    let mut files = Vec::new();
    list_files(&rule.from, &mut files)?;
    files.retain(|path| {
        path.strip_prefix(&rule.from)
            .is_ok_and(|name| rule.names.matches(&name.to_string_lossy()))
    });
    if files.is_empty() {
        return Err(nothing());
    }
    for from in files {
        let name = from.strip_prefix(&rule.from).map_err(|_| nothing())?;
        let path = format!("{}/{}", rule.to.trim_end_matches('/'), name.display());
        put_from(store, tree, &path, 0o644, &from)?;
    }
    Ok(())
}

fn list_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), ComposeError> {
    let failed = |source| ComposeError::File {
        path: folder.to_owned(),
        source,
    };
    let mut entries = fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            list_files(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Follows the `enable` lines of the preset files that the pattern names.
fn apply_presets(store: &Store, tree: &mut Tree, pattern: &Pattern) -> Result<(), ComposeError> {
    let files: Vec<String> = tree
        .iter()
        .filter(|(path, node)| matches!(node, Node::File { .. }) && pattern.matches(path))
        .map(|(path, _)| path.to_owned())
        .collect();
    if files.is_empty() {
        return Err(ComposeError::Nothing {
            rule: format!("the preset {pattern}"),
        });
    }
    for file in files {
        let text = store.read(tree, &file)?;
        for unit in units::preset(&String::from_utf8_lossy(&text)) {
            units::enable(store, tree, &unit)?;
        }
    }
    Ok(())
}

/// Writes the user database, as the image's own `sysusers.d` says.
fn users(store: &Store, toolbox: &Toolbox, tree: &mut Tree) -> Result<(), ComposeError> {
    let work = tempfile::tempdir().map_err(|source| ComposeError::File {
        path: std::env::temp_dir(),
        source,
    })?;
    store.export(tree, work.path(), |path| {
        path.starts_with("/usr/lib/sysusers.d") || path.starts_with("/etc/sysusers.d")
    })?;
    let etc = work.path().join("etc");
    fs::create_dir_all(&etc).map_err(|source| ComposeError::File { path: etc, source })?;
    toolbox
        .tool("usr/bin/systemd-sysusers")
        .option("--root", work.path())
        .run()
        .map_err(|source| ComposeError::Tool {
            what: "make the users",
            source,
        })?;
    for path in USER_FILES {
        let from = work.path().join(path.trim_start_matches('/'));
        let mode = if path.ends_with("shadow") {
            0o640
        } else {
            0o644
        };
        put_from(store, tree, path, mode, &from)?;
    }
    Ok(())
}

/// Returns `os-release(5)`.
fn os_release(parts: &Parts<'_>) -> String {
    let Declaration {
        id, name, home_url, ..
    } = parts.declaration;
    let version = parts.version;
    let architecture = parts.architecture;
    // The updater tells a clock that is off by it, so it must be a time, and
    // it must be the same for the same content: no clock is read here.
    let time = i64::try_from(parts.time)
        .ok()
        .and_then(|time| jiff::Timestamp::from_second(time).ok())
        .unwrap_or_default();
    format!(
        "ID={id}\nID_LIKE=debian\nNAME=\"{name}\"\nPRETTY_NAME=\"{name} {version}\"\nVERSION=\"{version}\"\nVERSION_ID={version}\n\
         IMAGE_ID={id}\nIMAGE_VERSION={version}\nBUILD_ID={time}\nARCHITECTURE={architecture}\nHOME_URL=\"{home_url}\"\n"
    )
}
