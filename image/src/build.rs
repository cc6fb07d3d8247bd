//! One build, from a declaration to the files of a release.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use partition_layout::{Architecture, BootEntry, SectorSize, Version};

use crate::compose::base::{self, Rules};
use crate::compose::product::{self, Parts};
use crate::compose::{ComposeError, audit};
use crate::declaration::{Declaration, DeclarationError};
use crate::disk::{self, DiskError};
use crate::erofs::{self, ErofsError};
use crate::hash_tree::{self, BLOCK_SIZE, HashTreeError};
use crate::initrd::{self, InitrdError};
use crate::manifest::{ImageManifest, ManifestError, Sizes, VerityShape};
use crate::packages::{self, Lock, Package, Request, ResolveError};
use crate::repository::{MetadataError, parse_root};
use crate::sbom;
use crate::store::{About, Commit, Store, StoreError};
use crate::toolbox::{Toolbox, ToolboxError};
use crate::tree::Tree;
use crate::uki::{self, UkiError};

/// PID 1 of the initrd, among the built programs.
const INIT: &str = "bistable-init";
/// The name of the disk image in the folder of an image.
pub const DISK: &str = "disk.raw";
/// The name of the one for disks with sectors of 4096 bytes.
pub const DISK_OF_LARGE_SECTORS: &str = "disk-4096.raw";
/// The name of the package list in the folder of an image.
pub const PACKAGES: &str = "packages.json";

/// The folder of the build folder in which each build has a folder of its own while it runs.
pub const SCRATCH: &str = "scratch";

/// Which packages a build uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackageChoice {
    /// Those of the last build that asked for the same, if there was one: no network is needed.
    Known,
    /// Those that the mirrors offer now.
    Newest,
}

/// Returns the name of the disk image for disks with such sectors.
///
/// A table counts in sectors and a FAT file system has its own, so that an image made for
/// the ones is nothing to read on the others.
pub const fn disk_name(sectors: SectorSize) -> &'static str {
    match sectors {
        SectorSize::B512 => DISK,
        SectorSize::B4096 => DISK_OF_LARGE_SECTORS,
    }
}

/// Where the root tree comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// Packages, declaration, and this version's name.
    Composed {
        version: Version,
        root_of_trust: PathBuf,
    },
    /// A commit of the OSTree repository, which says its version itself.
    Commit(String),
}

/// What to build, and where.
#[derive(Debug, Clone)]
pub struct Order {
    pub declaration: PathBuf,
    pub overlays: Vec<PathBuf>,
    pub origin: Origin,
    /// The folder of the built programs.
    pub programs: PathBuf,
    /// Tools, packages and trees are kept here from build to build.
    pub build_dir: PathBuf,
    /// The folder that gets the image.
    pub out: PathBuf,
    pub packages: PackageChoice,
    /// Of which disks an image is made as well, by the size of their sectors.
    pub disks: Vec<SectorSize>,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("there is nothing to build from")]
    Declaration(#[from] DeclarationError),
    #[error("cannot use {path}")]
    File { path: PathBuf, source: io::Error },
    /// A node with another file in its place could never update.
    #[error("{path} is no root of trust: give the root.json that `keys` made")]
    RootOfTrust {
        path: PathBuf,
        source: MetadataError,
    },
    #[error("cannot decide on the packages")]
    Resolve(#[from] ResolveError),
    #[error("there are no tools to build with")]
    Toolbox(#[from] ToolboxError),
    #[error("cannot compose the root tree")]
    Compose(#[from] ComposeError),
    #[error("the root tree is not fit for an image")]
    Audit(#[from] audit::AuditError),
    #[error("the OSTree repository failed")]
    Store(#[from] StoreError),
    #[error("cannot make the root image")]
    Erofs(#[from] ErofsError),
    #[error("cannot make the hash tree")]
    HashTree(#[from] HashTreeError),
    #[error("cannot make the initrd")]
    Initrd(#[from] InitrdError),
    #[error("cannot make the UKI")]
    Uki(#[from] UkiError),
    #[error("cannot make the disk image")]
    Disk(#[from] DiskError),
    #[error("cannot describe the image")]
    Manifest(#[from] ManifestError),
    #[error("commit {commit} is no tree of an image: {why}")]
    Commit { commit: String, why: String },
}

/// Builds an image.
///
/// # Errors
/// When any part fails; the chain of causes names package, file or tool.
pub fn build(order: &Order) -> Result<ImageManifest, BuildError> {
    // What can be refused without any work is, before a folder is made.
    let declaration = Declaration::read(&order.declaration, &order.overlays)?;
    let root_of_trust = match &order.origin {
        Origin::Composed { root_of_trust, .. } => read_root_of_trust(root_of_trust)?,
        // The commit has one in it.
        Origin::Commit(_) => Vec::new(),
    };
    fs::create_dir_all(&order.out).map_err(failed(&order.out))?;
    let places = Places::prepare(&order.build_dir)?;
    let tools = places.lock(&declaration.tools_request(), "tools", order.packages)?;
    let toolbox = Toolbox::open(&tools, &places.packages, &places.tools)?;
    let store = Store::open(&places.ostree)?;
    let commit = match &order.origin {
        Origin::Composed { version, .. } => {
            let lock = places.lock(&declaration.root_request(), "root", order.packages)?;
            let rules = Rules::of(&declaration.additions);
            let base = base::base(&store, &toolbox, &lock, &rules, &places.packages)?;
            let parts = Parts {
                declaration: &declaration,
                version,
                architecture: Architecture::X86_64,
                time: base.time,
                programs: &order.programs,
                root_of_trust: &root_of_trust,
            };
            compose(&store, &toolbox, base, &parts)?
        }
        Origin::Commit(revision) => store.load(revision)?,
    };
    audit::audit(&store, &commit.tree)?;
    // From here on nothing that builds share is written: the next one may begin.
    drop(places);
    tracing::info!(commit = commit.id, "making the image");
    make(order, &declaration, &toolbox, &store, &commit)
}

/// Unpacks `packages` and all that they need from the suites that a declaration names, for
/// whoever runs programs of them, and returns the folder.
///
/// # Errors
/// When they cannot be found, fetched or unpacked.
pub fn unpack(
    declaration: &Path,
    packages: &[String],
    build_dir: &Path,
) -> Result<PathBuf, BuildError> {
    let declaration = Declaration::read(declaration, &[])?;
    let places = Places::prepare(build_dir)?;
    let request = declaration.unpinned_request(packages);
    let lock = places.lock(&request, "unpacked", PackageChoice::Known)?;
    let toolbox = Toolbox::open(&lock, &places.packages, &places.tools)?;
    Ok(toolbox.root().to_owned())
}

/// Adds what a release is to the base tree, and commits that.
fn compose(
    store: &Store,
    toolbox: &Toolbox,
    base: Commit,
    parts: &Parts<'_>,
) -> Result<Commit, BuildError> {
    let Commit { time, mut tree, .. } = base;
    let version = parts.version.to_string();
    let about = About {
        subject: format!("{} {version}", parts.declaration.name),
        version: version.clone(),
        time,
    };
    let branch = format!("release/{version}");
    let id = store.transaction(|| {
        product::add(store, toolbox, &mut tree, parts)?;
        Ok::<_, BuildError>(store.commit(&tree, &branch, &about)?)
    })?;
    Ok(Commit { id, time, tree })
}

/// Makes the files of a release from a commit, and the commit alone.
fn make(
    order: &Order,
    declaration: &Declaration,
    toolbox: &Toolbox,
    store: &Store,
    commit: &Commit,
) -> Result<ImageManifest, BuildError> {
    let strange = |why: String| BuildError::Commit {
        commit: commit.id.clone(),
        why,
    };
    let os_release = store.read(&commit.tree, "/usr/lib/os-release")?;
    let version = version_of(&os_release).map_err(strange)?;
    let kernel = kernel_of(&commit.tree).map_err(strange)?;
    let package_list = store.read(&commit.tree, base::PACKAGES)?;
    let packages: Vec<Package> =
        serde_json::from_slice(&package_list).map_err(|error| strange(error.to_string()))?;

    // Beside the images, which fill it, and under one name: who ends a build by force
    // knows what to clear away.
    let scratch = order.build_dir.join(SCRATCH);
    fs::create_dir_all(&scratch).map_err(failed(&scratch))?;
    let scratch = tempfile::tempdir_in(&scratch).map_err(failed(&scratch))?;
    remove_manifest(&order.out)?;
    let root = order.out.join(ImageManifest::ROOT);
    erofs::make(
        store,
        toolbox,
        &commit.tree,
        &declaration.erofs,
        scratch.path(),
        &root,
    )?;
    let verity = order.out.join(ImageManifest::VERITY);
    let tree = hash_tree::make(&root, &declaration.salt, &verity)?;

    let init = order.programs.join(INIT);
    let init = match fs::read(&init) {
        Ok(init) => init,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BuildError::Compose(ComposeError::NoProgram {
                name: INIT.to_owned(),
                folder: order.programs.clone(),
            }));
        }
        Err(source) => return Err(BuildError::File { path: init, source }),
    };
    let initrd = initrd::build(store, &commit.tree, &kernel, &init, &declaration.initrd)?;
    let entry = BootEntry::good(version.clone());
    let uki = order.out.join(entry.file_name());
    let image = store.read(&commit.tree, &format!("/usr/lib/modules/{kernel}/vmlinuz"))?;
    let contents = uki::Contents {
        kernel: &image,
        kernel_release: &kernel,
        initrd: &initrd,
        os_release: &os_release,
        root_hash: &tree.root_hash,
        command_line: &declaration.additions.command_line,
    };
    uki::make(toolbox, &contents, scratch.path(), &uki)?;

    let size = |path: &Path| {
        fs::metadata(path)
            .map(|data| data.len())
            .map_err(failed(path))
    };
    let manifest = ImageManifest {
        version: version.clone(),
        architecture: Architecture::X86_64,
        root_hash: tree.root_hash,
        verity: VerityShape {
            data_block_size: BLOCK_SIZE,
            hash_block_size: BLOCK_SIZE,
            salt: declaration.salt.clone(),
            data_blocks: tree.data_blocks,
        },
        sizes: Sizes {
            root: size(&root)?,
            verity: size(&verity)?,
            uki: size(&uki)?,
        },
        kernel,
        ostree_commit: Some(commit.id.clone()),
        created: Some(commit.time),
        notes: None,
    };
    let bill = sbom::spdx(
        &declaration.id,
        version.as_str(),
        &commit.id,
        commit.time,
        &packages,
    );
    let bill = serde_json::to_vec_pretty(&bill).unwrap_or_default();
    for (name, bytes) in [(ImageManifest::SBOM, &bill), (PACKAGES, &package_list)] {
        let path = order.out.join(name);
        fs::write(&path, bytes).map_err(failed(&path))?;
    }
    let parts = disk::Parts {
        version: &version,
        root_hash: &tree.root_hash,
        root: &root,
        verity: &verity,
        uki: &uki,
        entry: &entry,
    };
    for sectors in order.disks.iter().copied() {
        let image = order.out.join(disk_name(sectors));
        disk::make(toolbox, &parts, sectors, scratch.path(), &image)?;
    }
    // Last: a folder with a manifest is a whole image.
    manifest.write(&order.out)?;
    Ok(manifest)
}

/// The folders of a build.
#[derive(Debug)]
struct Places {
    tools: PathBuf,
    packages: PathBuf,
    apt: PathBuf,
    locks: PathBuf,
    ostree: PathBuf,
    /// Held while packages are fetched and the tree is composed: two at once would tread
    /// on each other's caches.
    _lock: File,
}

impl Places {
    fn prepare(build_dir: &Path) -> Result<Self, BuildError> {
        let cache = build_dir.join("cache");
        let locks = cache.join("locks");
        fs::create_dir_all(&locks).map_err(failed(&locks))?;
        let path = cache.join("lock");
        let lock = File::create(&path).map_err(failed(&path))?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            tracing::info!("waiting for another build in {}", build_dir.display());
        }
        lock.lock().map_err(failed(&path))?;
        Ok(Self {
            tools: build_dir.join("tools"),
            packages: cache.join("packages"),
            apt: cache.join("apt"),
            locks,
            ostree: build_dir.join("ostree"),
            _lock: lock,
        })
    }

    /// Returns the packages of a request, as `choice` says.
    fn lock(
        &self,
        request: &Request<'_>,
        name: &str,
        choice: PackageChoice,
    ) -> Result<Lock, BuildError> {
        let digest = request.digest();
        let path = self.locks.join(format!(
            "{name}-{}.json",
            digest.get(..16).unwrap_or(&digest)
        ));
        if choice == PackageChoice::Known
            && let Ok(text) = fs::read(&path)
            && let Ok(lock) = serde_json::from_slice(&text)
        {
            return Ok(lock);
        }
        tracing::info!(tree = name, "asking the mirrors for packages");
        for pin in request.pins {
            tracing::info!(
                packages = pin.packages.join(" "),
                suite = pin.suite,
                reason = pin.reason,
                "pinned"
            );
        }
        let lock = packages::resolve(request, &self.apt)?;
        let text = serde_json::to_vec_pretty(&lock).unwrap_or_default();
        fs::write(&path, text).map_err(failed(&path))?;
        Ok(lock)
    }
}

fn read_root_of_trust(path: &Path) -> Result<Vec<u8>, BuildError> {
    let bytes = fs::read(path).map_err(failed(path))?;
    match parse_root(&bytes) {
        Ok(_) => Ok(bytes),
        Err(source) => Err(BuildError::RootOfTrust {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A folder with a manifest is a whole image, which it is no longer once the
/// first of its files is written anew.
fn remove_manifest(out: &Path) -> Result<(), BuildError> {
    let manifest = out.join(ImageManifest::FILE);
    match fs::remove_file(&manifest) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(BuildError::File {
            path: manifest,
            source,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BuildError + use<> {
    let path = path.to_owned();
    move |source| BuildError::File { path, source }
}

/// Reads the version from `os-release(5)`.
fn version_of(os_release: &[u8]) -> Result<Version, String> {
    let text = String::from_utf8_lossy(os_release);
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("IMAGE_VERSION="))
        .ok_or("its os-release has no IMAGE_VERSION")?;
    Version::parse(version.trim_matches('"')).map_err(|error| error.to_string())
}

/// Finds the one kernel of a tree, by the folder that it lies in.
fn kernel_of(tree: &Tree) -> Result<String, String> {
    let mut kernels = tree.iter().filter_map(|(path, _)| {
        path.strip_prefix("/usr/lib/modules/")?
            .strip_suffix("/vmlinuz")
    });
    match (kernels.next(), kernels.next()) {
        (Some(kernel), None) => Ok(kernel.to_owned()),
        (None, _) => Err("it has no kernel".to_owned()),
        (Some(_), Some(_)) => Err("it has several kernels".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::KeySet;
    use crate::tree::Node;

    const PRODUCT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/declarations/bistable.toml");

    /// An order for a folder with an image in it, from which no tool is needed to fail.
    fn order(folder: &Path, declaration: &Path, root_of_trust: PathBuf) -> Order {
        let out = folder.join("out");
        fs::create_dir_all(&out).unwrap();
        fs::write(out.join(ImageManifest::FILE), "an image").unwrap();
        Order {
            declaration: declaration.to_owned(),
            overlays: Vec::new(),
            origin: Origin::Composed {
                version: "1".parse().unwrap(),
                root_of_trust,
            },
            programs: folder.join("programs"),
            build_dir: folder.join("build"),
            out,
            packages: PackageChoice::Known,
            disks: Vec::new(),
        }
    }

    #[test]
    fn nothing_but_a_signed_root_file_becomes_the_root_of_trust() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("root-1.pem");
        fs::write(&key, "-----BEGIN PRIVATE KEY-----").unwrap();
        let error = build(&order(folder.path(), Path::new(PRODUCT), key)).unwrap_err();
        assert!(
            matches!(&error, BuildError::RootOfTrust { path, .. } if path.ends_with("root-1.pem"))
        );
        let missing = folder.path().join(KeySet::ROOT);
        let error = build(&order(folder.path(), Path::new(PRODUCT), missing)).unwrap_err();
        assert!(matches!(error, BuildError::File { .. }), "{error:?}");
        assert!(!folder.path().join("build").exists());
    }

    #[test]
    fn a_build_that_does_not_begin_leaves_the_image_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let order = order(folder.path(), Path::new("nowhere.toml"), PathBuf::new());
        build(&order).unwrap_err();
        let manifest = fs::read_to_string(order.out.join(ImageManifest::FILE)).unwrap();
        assert_eq!(manifest, "an image");
    }

    #[test]
    fn a_tree_says_its_version_and_its_kernel_or_why_not() {
        assert_eq!(
            version_of(b"ID=x\nIMAGE_VERSION=7\n").unwrap().as_str(),
            "7"
        );
        assert!(version_of(b"ID=x\n").unwrap_err().contains("IMAGE_VERSION"));
        let mut tree = Tree::default();
        assert_eq!(kernel_of(&tree).unwrap_err(), "it has no kernel");
        for kernel in ["6.12-cloud", "6.13-cloud"] {
            let node = Node::File {
                mode: 0o644,
                object: String::new(),
                size: 0,
            };
            tree.insert(&format!("/usr/lib/modules/{kernel}/vmlinuz"), node)
                .unwrap();
            if kernel == "6.12-cloud" {
                assert_eq!(kernel_of(&tree).unwrap(), kernel);
            }
        }
        assert_eq!(kernel_of(&tree).unwrap_err(), "it has several kernels");
    }
}
