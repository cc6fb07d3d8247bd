//! Slow: builds whole images from real packages. Packages, tools and locks are shared with every other build through the
//! build folder (`BISTABLE_BUILD_DIR`, or `build` in the checkout); what is not there is fetched once.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy sees tests only in test functions, not in what they share"
)]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use image::build::{DISK, DISK_OF_LARGE_SECTORS, Order, Origin, PackageChoice, build};
use image::declaration::Declaration;
use image::manifest::ImageManifest;
use image::modules::{Modules, needs};
use image::store::Store;
use image::tool::Tool;
use image::toolbox::Toolbox;
use image::tree::Tree;
use partition_layout::SectorSize;
use sha2::{Digest, Sha256};

const CRATE: &str = env!("CARGO_MANIFEST_DIR");
/// Size limits that the product promises, in bytes.
const ROOT_LIMIT: u64 = 130_000_000;
const UKI_LIMIT: u64 = 18_000_000;

/// A build in a folder of its own: nothing composed by another build is used.
struct Built {
    order: Order,
    manifest: ImageManifest,
}

fn shared_build_dir() -> PathBuf {
    std::env::var_os("BISTABLE_BUILD_DIR")
        .map_or_else(|| Path::new(CRATE).join("../build"), PathBuf::from)
}

fn declaration() -> PathBuf {
    Path::new(CRATE).join("declarations/bistable.toml")
}

/// Returns an order for a build whose tools, packages and locks are the shared ones, and all else is new.
fn order(folder: &Path) -> Order {
    let shared = shared_build_dir();
    let build_dir = folder.join("build");
    fs::create_dir_all(build_dir.join("cache")).unwrap();
    for part in ["tools", "cache/packages", "cache/locks"] {
        fs::create_dir_all(shared.join(part)).unwrap();
        let link = build_dir.join(part);
        if !link.exists() {
            symlink(fs::canonicalize(shared.join(part)).unwrap(), link).unwrap();
        }
    }
    // What the image is made of is under test here, not what its programs do.
    let programs = folder.join("programs");
    fs::create_dir_all(&programs).unwrap();
    for name in [
        "bistable",
        "bistable-layout",
        "bistable-verity",
        "bistable-updater",
        "bistable-health-gate",
        "bistable-init",
    ] {
        fs::write(programs.join(name), format!("\x7fELF {name}")).unwrap();
    }
    // Made once, its private keys thrown away: both builds must have the same.
    let root_of_trust = Path::new(CRATE).join("tests/data/root.json");
    Order {
        declaration: declaration(),
        overlays: Vec::new(),
        origin: Origin::Composed {
            version: "7.1".parse().unwrap(),
            root_of_trust,
        },
        programs,
        build_dir,
        out: folder.join("out"),
        packages: PackageChoice::Known,
        disks: vec![SectorSize::B512, SectorSize::B4096],
    }
}

fn build_in(folder: &Path) -> Built {
    let order = order(folder);
    let manifest = build(&order).unwrap_or_else(|error| panic!("{}", chain(&error)));
    Built { order, manifest }
}

/// The folder of this test run. Threads and, under some runners, processes share it; what an earlier run left is removed.
fn run_folder() -> PathBuf {
    let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| std::process::id().to_string());
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("whole-build");
    let folder = all.join(run);
    if !folder.exists() {
        if all.exists() {
            fs::remove_dir_all(&all).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
    }
    folder
}

/// One build that the tests which only look share, and its root image unpacked:
/// what the node gets, not what the builder thinks it made.
fn first() -> &'static (Built, PathBuf) {
    static FIRST: OnceLock<(Built, PathBuf)> = OnceLock::new();
    FIRST.get_or_init(|| {
        let lock = Path::new(env!("CARGO_TARGET_TMPDIR")).join("whole-build.lock");
        let lock = fs::File::create(lock).unwrap();
        lock.lock().unwrap();
        let folder = run_folder().join("first");
        let root = folder.join("root");
        if root.exists() {
            let order = order(&folder);
            let manifest = ImageManifest::read(&order.out).unwrap();
            return (Built { order, manifest }, root);
        }
        let built = build_in(&folder);
        let partial = folder.join("root.partial");
        toolbox(&built.order.build_dir)
            .tool("usr/bin/fsck.erofs")
            .args(["--preserve-perms", "--overwrite"])
            .option("--extract", &partial)
            .arg(built.order.out.join(ImageManifest::ROOT))
            .run()
            .unwrap();
        fs::rename(&partial, &root).unwrap();
        (built, root)
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

fn digest(path: &Path) -> String {
    let mut digest = Sha256::new();
    let mut file = fs::File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hex::encode(digest.finalize()),
            n => digest.update(&buffer[..n]),
        }
    }
}

fn toolbox(build_dir: &Path) -> Toolbox {
    let declaration = Declaration::read(&declaration(), &[]).unwrap();
    let request = declaration.tools_request().digest();
    let lock = build_dir.join(format!("cache/locks/tools-{}.json", &request[..16]));
    let lock = serde_json::from_slice(&fs::read(lock).unwrap()).unwrap();
    Toolbox::open(
        &lock,
        &build_dir.join("cache/packages"),
        &build_dir.join("tools"),
    )
    .unwrap()
}

/// Names what two builds' trees do not have in common.
fn differences(one: &Built, two: &Built) -> Vec<String> {
    let load = |built: &Built| {
        let store = Store::open(&built.order.build_dir.join("ostree")).unwrap();
        store
            .load(built.manifest.ostree_commit.as_ref().unwrap())
            .unwrap()
            .tree
    };
    let (one, two) = (load(one), load(two));
    let unlike = |left: &Tree, right: &Tree| {
        left.iter()
            .filter(|(path, node)| right.get(path) != Some(*node))
            .map(|(path, _)| path.to_owned())
            .collect::<Vec<_>>()
    };
    [unlike(&one, &two), unlike(&two, &one)].concat()
}

fn is_elf(content: &[u8]) -> bool {
    content.starts_with(b"\x7fELF\x02")
}

#[test]
fn the_root_has_no_shell_interpreter_package_manager_login_or_set_uid_file() {
    let (_, root) = first();
    let programs = ["bin", "sbin", "libexec"];
    let mut seen = 0;
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(root).unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        let metadata = entry.path().symlink_metadata().unwrap();
        if metadata.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            let target = target
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            assert!(
                !["sh", "bash", "dash", "busybox", "perl", "mawk"].contains(&target.as_str()),
                "{path:?} -> {target}"
            );
            continue;
        }
        assert_eq!(
            metadata.permissions().mode() & 0o6000,
            0,
            "set-uid or set-gid: {path:?}"
        );
        assert!(
            metadata.is_dir() || metadata.is_file(),
            "neither file, link nor folder: {path:?}"
        );
        if !metadata.is_file() {
            continue;
        }
        seen += 1;
        assert_eq!(
            metadata.permissions().mode() & 0o022,
            0,
            "others may write {path:?}"
        );
        let mut head = Vec::new();
        fs::File::open(entry.path())
            .unwrap()
            .take(4)
            .read_to_end(&mut head)
            .unwrap();
        assert!(!head.starts_with(b"#!"), "a script: {path:?}");
        let folder = path
            .parent()
            .and_then(Path::file_name)
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if programs.contains(&folder.as_str()) {
            for forbidden in [
                "sh", "bash", "dash", "busybox", "zsh", "perl", "python", "lua", "awk", "mawk",
                "gawk", "ruby", "tclsh", "apt", "apt-get", "dpkg", "rpm", "pip", "ssh", "sshd",
                "scp", "sftp", "login", "su", "sudo", "agetty", "sulogin",
            ] {
                let versioned = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
                assert!(name != forbidden && versioned != forbidden, "{path:?}");
            }
        }
    }
    assert!(seen > 1000, "only {seen} files were seen");
}

#[test]
fn every_program_and_library_finds_the_libraries_that_it_needs() {
    let (_, root) = first();
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let own = [libraries.clone(), libraries.join("systemd")];
    let own = own.map(|path| path.display().to_string()).join(":");
    let loader = root.join("usr/lib64/ld-linux-x86-64.so.2");
    let loader = fs::canonicalize(&loader).unwrap_or(loader);
    let mut missing = Vec::new();
    let mut looked_at = 0;
    for entry in walkdir::WalkDir::new(root.join("usr")) {
        let entry = entry.unwrap();
        if !entry.file_type().is_file() {
            continue;
        }
        let content = fs::read(entry.path()).unwrap();
        if !is_elf(&content) || entry.path().extension().is_some_and(|kind| kind == "ko") {
            continue;
        }
        // The loader lists what it would load, and runs nothing. A static program has nothing to list.
        let listed = Tool::host(&loader)
            .arg("--inhibit-cache")
            .arg("--library-path")
            .arg(&own)
            .arg("--list")
            .arg(entry.path())
            .run();
        looked_at += 1;
        if let Ok(listed) = listed {
            let listed = String::from_utf8_lossy(&listed).into_owned();
            let lost = listed.lines().filter(|line| {
                line.contains("not found") || line.contains("=> /lib/") || line.contains("=> /usr/")
            });
            missing.extend(lost.map(|line| format!("{}: {}", entry.path().display(), line.trim())));
        } else if let Err(error) = listed {
            let text = error.to_string();
            if text.contains("cannot open shared object") {
                missing.push(text);
            }
        }
    }
    assert!(
        looked_at > 100,
        "only {looked_at} programs and libraries were seen"
    );
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn kernel_modules_are_plain_signed_and_have_all_that_they_need() {
    let (_, root) = first();
    let mut modules = Vec::new();
    let mut others = Vec::new();
    let folder = root.join("usr/lib/modules");
    for entry in walkdir::WalkDir::new(&folder) {
        let path = entry.unwrap().into_path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match name.split_once(".ko") {
            Some((_, "")) => modules.push(path),
            Some(_) => others.push(path),
            None => {}
        }
    }
    assert!(others.is_empty(), "{others:#?}");
    assert!(modules.len() > 500, "{} modules", modules.len());
    let release = fs::read_dir(&folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let listed = fs::read_to_string(release.join("modules.dep")).unwrap();
    let builtin = fs::read_to_string(release.join("modules.builtin")).unwrap();
    assert_eq!(listed.lines().count(), modules.len());
    let index = Modules::parse(&listed, &builtin);
    for path in &modules {
        let content = fs::read(path).unwrap();
        assert!(
            content.ends_with(b"~Module signature appended~\n"),
            "{path:?}"
        );
        for need in needs(&content).unwrap() {
            assert!(index.has(&need), "{path:?} needs {need}");
        }
    }
    // What a hypervisor presents, and what containers and their volumes use.
    for name in [
        "virtio_net",
        "hv_netvsc",
        "hv_storvsc",
        "nvme",
        "ena",
        "gve",
        "mlx5_core",
        "mana",
        "evdev",
        "overlay",
        "br_netfilter",
        "vxlan",
        "geneve",
        "wireguard",
        "ip_vs",
        "nft_masq",
        "nfs",
        "cifs",
        "ceph",
        "rbd",
        "iscsi_tcp",
        "dm_crypt",
        "dm_thin_pool",
        "xfs",
        "vfat",
        "udf",
        "isofs",
        "squashfs",
        "vhost_vsock",
    ] {
        assert!(index.has(name), "{name}");
    }
}

#[test]
fn links_lead_somewhere_or_to_what_is_mounted_at_run_time() {
    let (_, root) = first();
    let mut broken = Vec::new();
    for entry in walkdir::WalkDir::new(root) {
        let entry = entry.unwrap();
        if !entry.file_type().is_symlink() {
            continue;
        }
        let target = fs::read_link(entry.path()).unwrap();
        let base = if target.is_absolute() {
            root
        } else {
            entry.path().parent().unwrap()
        };
        let end = base.join(target.strip_prefix("/").unwrap_or(&target));
        let text = end.to_string_lossy().into_owned();
        let run_time = ["/run/", "/proc/", "/dev/", "/var/"]
            .iter()
            .any(|folder| text.contains(folder));
        if !run_time && end.symlink_metadata().is_err() {
            broken.push(format!(
                "{} -> {}",
                entry.path().display(),
                target.display()
            ));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_images_keep_to_their_sizes_and_say_what_they_are() {
    let (built, root) = first();
    let manifest = ImageManifest::read(&built.order.out).unwrap();
    assert_eq!(manifest, built.manifest);
    assert!(
        manifest.sizes.root <= ROOT_LIMIT,
        "root image: {} bytes",
        manifest.sizes.root
    );
    assert!(
        manifest.sizes.uki <= UKI_LIMIT,
        "UKI: {} bytes",
        manifest.sizes.uki
    );
    assert_eq!(
        manifest.sizes.root,
        manifest.verity.data_blocks * u64::from(manifest.verity.data_block_size)
    );
    let os_release = fs::read_to_string(root.join("usr/lib/os-release")).unwrap();
    for line in ["ID=bistable", "IMAGE_ID=bistable", "IMAGE_VERSION=7.1"] {
        assert!(
            os_release.lines().any(|found| found == line),
            "{line} in {os_release}"
        );
    }
    assert_eq!(fs::metadata(root.join("etc/machine-id")).unwrap().size(), 0);
    let packages = fs::read_to_string(root.join("usr/share/bistable/packages.json")).unwrap();
    assert!(
        packages.contains("\"containerd\"") && packages.contains("\"2."),
        "{packages}"
    );
    let uki = fs::read(built.order.out.join(manifest.uki())).unwrap();
    let wanted = format!("roothash={} gpt ", manifest.root_hash);
    assert!(
        uki.windows(wanted.len())
            .any(|text| text == wanted.as_bytes())
    );
}

#[test]
fn the_same_inputs_give_the_same_commit_root_hash_uki_and_disk() {
    let folder = tempfile::tempdir().unwrap();
    let ((one, _), two) = (first(), build_in(folder.path()));
    assert_eq!(differences(one, &two), Vec::<String>::new());
    assert_eq!(one.manifest, two.manifest);
    for name in [
        ImageManifest::ROOT,
        ImageManifest::VERITY,
        ImageManifest::SBOM,
        &one.manifest.uki(),
        DISK,
        DISK_OF_LARGE_SECTORS,
    ] {
        assert_eq!(
            digest(&one.order.out.join(name)),
            digest(&two.order.out.join(name)),
            "{name}"
        );
    }
}

#[test]
fn an_image_made_of_a_commit_is_the_image_that_the_commit_was_made_for() {
    let (one, _) = first();
    let again = tempfile::tempdir().unwrap();
    let order = Order {
        origin: Origin::Commit(one.manifest.ostree_commit.clone().unwrap()),
        out: again.path().to_owned(),
        ..one.order.clone()
    };
    let manifest = build(&order).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(manifest, one.manifest);
    assert_eq!(
        digest(&order.out.join(manifest.uki())),
        digest(&one.order.out.join(manifest.uki()))
    );
}

#[test]
fn a_missing_program_a_strange_commit_and_a_package_that_is_not_there_are_named() {
    let (one, _) = first();
    let folder = tempfile::tempdir().unwrap();
    let order = Order {
        out: folder.path().join("out"),
        disks: Vec::new(),
        ..one.order.clone()
    };
    let fails = |order: &Order| chain(&build(order).unwrap_err());

    let programs = folder.path().join("programs");
    fs::create_dir(&programs).unwrap();
    let text = fails(&Order {
        programs,
        ..order.clone()
    });
    assert!(text.contains("program bistable is not in"), "{text}");

    let text = fails(&Order {
        origin: Origin::Commit("no/such/branch".into()),
        ..order.clone()
    });
    assert!(text.contains("no/such/branch"), "{text}");

    let declaration = fs::read_to_string(declaration()).unwrap();
    let broken = declaration.replace("\"netbase\"", "\"no-such-package\"");
    let path = folder.path().join("broken.toml");
    fs::write(&path, broken).unwrap();
    let text = fails(&Order {
        declaration: path,
        ..order
    });
    assert!(text.contains("no-such-package"), "{text}");
}
