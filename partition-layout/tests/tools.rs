//! Other tools read what is written here.

#![expect(
    clippy::indexing_slicing,
    reason = "a test says by a panic that its claim does not hold"
)]

#[expect(dead_code, reason = "these tests need no file system on the ESP")]
mod common;

use std::path::Path;

use common::{Disk, run, skipped};
use partition_layout::{DiskLayout, Form, RootHash, SectorSize, Slot, SlotLabel, Version, relabel};
use serde_json::Value;

const FORMS: [Form; 2] = [Form::Shipped, Form::Full];
const SECTOR_SIZES: [SectorSize; 2] = [SectorSize::B512, SectorSize::B4096];

/// Checks that sgdisk and sfdisk see the partitions that we do, and nothing to complain of.
fn check_with_tools(device: &Path, disk: &Disk) {
    let (layout, health) = DiskLayout::read(&disk.file()).expect("our disk");
    assert!(health.is_sound(), "{health:?}");

    // sgdisk exits with 0 whatever it finds, so its words count.
    let verified = run("sgdisk", &["-v".as_ref(), device.as_ref()]).text();
    assert!(verified.contains("No problems found."), "{verified}");
    assert!(
        !verified.contains("Caution") && !verified.contains("Warning"),
        "{verified}"
    );
    let printed = run("sgdisk", &["-p".as_ref(), device.as_ref()]).text();
    assert!(printed.contains("bistable_1.0~rc1"), "{printed}");

    let verified = run("sfdisk", &["--verify".as_ref(), device.as_ref()]).text();
    assert!(verified.contains("No errors detected."), "{verified}");
    let dumped = run("sfdisk", &["--json".as_ref(), device.as_ref()]).stdout;
    let dumped: Value = serde_json::from_str(&dumped).expect("sfdisk prints JSON");
    let table = &dumped["partitiontable"];
    assert_eq!(table["label"], "gpt");
    assert_eq!(table["sectorsize"], layout.sector_size.bytes());
    assert_eq!(table["id"], layout.disk_guid.to_string().to_uppercase());
    let slots = layout
        .slots()
        .flat_map(|(_, slot)| [&slot.root, &slot.verity, &slot.verity_sig]);
    let ours = std::iter::once(&layout.esp).chain(slots).chain(&layout.var);
    let ours: Vec<_> = ours.collect();
    let theirs = table["partitions"]
        .as_array()
        .expect("a list of partitions");
    assert_eq!(theirs.len(), ours.len());
    for (own, other) in ours.into_iter().zip(theirs) {
        assert_eq!(other["start"], own.start / layout.sector_size.bytes());
        assert_eq!(other["size"], own.len / layout.sector_size.bytes());
        assert_eq!(other["type"], own.type_guid.to_string().to_uppercase());
        assert_eq!(other["uuid"], own.uuid.to_string().to_uppercase());
        assert_eq!(other["name"], own.label.as_str());
    }
}

#[test]
fn sgdisk_and_sfdisk_read_a_new_disk() {
    for form in FORMS {
        let disk = Disk::create(form, SectorSize::B512);
        check_with_tools(&disk.path, &disk);
    }
}

#[test]
fn sgdisk_and_sfdisk_read_a_disk_of_large_sectors() {
    let disk = Disk::create(Form::Full, SectorSize::B4096);
    // An image file says nothing of its sectors; a loop device does.
    let Some(device) = disk.attach() else {
        return;
    };
    check_with_tools(device.path(), &disk);
    let block_device = std::fs::File::open(device.path()).expect("the loop device is there");
    let (layout, _) = DiskLayout::read(&block_device).expect("our disk");
    assert_eq!(layout.sector_size, SectorSize::B4096);
}

#[test]
fn sgdisk_and_sfdisk_read_a_relabelled_disk() {
    let version = Version::parse("2.1^git4").expect("a good version");
    let root_hash = RootHash::new(std::array::from_fn(|at| {
        0x80 + u8::try_from(at).expect("32 bytes")
    }));
    for sector_size in SECTOR_SIZES {
        let disk = Disk::create(Form::Full, sector_size);
        let holds = SlotLabel::Holds {
            version: &version,
            root_hash: &root_hash,
        };
        relabel(&mut disk.file(), Slot::B, &holds).expect("nothing fails");
        let device = match sector_size {
            SectorSize::B512 => None,
            SectorSize::B4096 => match disk.attach() {
                None => return,
                some => some,
            },
        };
        let path = device
            .as_ref()
            .map_or(disk.path.as_path(), |device| device.path());
        check_with_tools(path, &disk);
        let printed = run("sgdisk", &["-i5".as_ref(), path.as_ref()]).text();
        let uuid = "Partition unique GUID: 80818283-8485-8687-8889-8A8B8C8D8E8F";
        assert!(printed.contains(uuid), "{printed}");
        assert!(
            printed.contains("Partition name: 'bistable_2.1^git4'"),
            "{printed}"
        );
    }
}

#[test]
fn systemd_dissect_reads_a_disk() {
    // It shows the partitions once it has found an operating system in the root.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tree = folder.path().join("usr/lib");
    std::fs::create_dir_all(&tree).expect("a temporary folder can be written");
    std::fs::write(tree.join("os-release"), "ID=bistable\nVERSION_ID=1\n")
        .expect("a temporary folder can be written");
    let root = folder.path().join("root.ext4");
    let arguments: [&std::ffi::OsStr; 6] = [
        "-q".as_ref(),
        "-d".as_ref(),
        folder.path().as_ref(),
        "-F".as_ref(),
        root.as_ref(),
        "7M".as_ref(),
    ];
    assert!(run("mkfs.ext4", &arguments).succeeded);
    let root = std::fs::read(&root).expect("mkfs.ext4 has made it");
    for form in FORMS {
        let disk = Disk::create(form, SectorSize::B512);
        let layout = disk.layout();
        disk.write(layout.slot_a.root.start, &root);
        let dissected = run(
            "systemd-dissect",
            &["--json=short".as_ref(), disk.path.as_ref()],
        );
        if !dissected.succeeded && !rustix::process::geteuid().is_root() {
            skipped("systemd-dissect needs loop devices, which only root can make");
            return;
        }
        assert!(dissected.succeeded, "{}", dissected.text());
        let found: Value =
            serde_json::from_str(&dissected.stdout).expect("systemd-dissect prints JSON");
        let mounts = found["mounts"].as_array().expect("a list of partitions");
        for (designator, own) in [
            ("root", &layout.slot_a.root),
            ("root-verity", &layout.slot_a.verity),
        ] {
            let other = mounts
                .iter()
                .find(|mount| mount["designator"] == designator);
            let other = other.unwrap_or_else(|| panic!("{form:?}: no {designator} in {found}"));
            assert_eq!(other["partition_uuid"], own.uuid.to_string());
            assert_eq!(other["partition_label"], own.label.as_str());
            assert_eq!(other["partno"], own.number);
            assert_eq!(other["architecture"], "x86-64");
            assert_eq!(other["rw"], "ro");
        }
    }
}
