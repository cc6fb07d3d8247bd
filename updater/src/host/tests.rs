//! The disk of a node in files: a partition table in one, the partitions that
//! the kernel would show in others, and as much of sysfs as says so.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use partition_layout::{Architecture, DiskLayout, DiskPlan, Form, Sizes, SlotContent, create};
use tempfile::TempDir;

use super::disk::Disk;
use super::*;
use crate::pace::Company;
use crate::scrub::proven::Prover;

const MIB: u64 = 1 << 20;

struct Stand {
    folder: TempDir,
    paths: Paths,
}

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

fn hash(byte: u8) -> RootHash {
    RootHash::new([byte; 32])
}

impl Stand {
    /// A node that runs release 1 from slot A.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["dev", "sys/block/vda", "sys/dev/block", "root"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let mut plan = DiskPlan::new(Architecture::of_build(), Form::Full);
        plan.sizes = Sizes {
            esp: 4 * MIB,
            root: 4 * MIB,
            verity: MIB,
            verity_sig: MIB,
        };
        plan.slot_a = Some((version("1"), hash(1)));
        let disk = at("dev/vda");
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&disk)
            .unwrap();
        file.set_len(64 * MIB).unwrap();
        create(&mut file, &plan).unwrap();
        fs::write(at("cmdline"), format!("quiet roothash={} gpt\n", hash(1))).unwrap();
        fs::write(at("os-release"), "ID=bistable\nIMAGE_VERSION=\"1\"\n").unwrap();
        let paths = Paths {
            root: at("root"),
            sys: at("sys"),
            dev: at("dev"),
            kernel_command_line: at("cmdline"),
            os_release: at("os-release"),
            machine_id: at("machine-id"),
            ..Paths::default()
        };
        let stand = Self { folder, paths };
        let layout = stand.layout();
        for slot in [&layout.slot_a, layout.slot_b.as_ref().unwrap()] {
            for partition in [&slot.root, &slot.verity, &slot.verity_sig] {
                stand.show("vda", partition.number, partition.start, partition.len);
            }
        }
        stand.stand_on(&["vda2", "vda3"]);
        stand
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn layout(&self) -> DiskLayout {
        DiskLayout::read(&File::open(self.at("dev/vda")).unwrap())
            .unwrap()
            .0
    }

    /// Makes the kernel know a partition.
    fn show(&self, disk: &str, number: u32, start: u64, len: u64) {
        let folder = self.at(&format!("sys/block/{disk}/{disk}{number}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("partition"), format!("{number}\n")).unwrap();
        fs::write(folder.join("start"), format!("{}\n", start / 512)).unwrap();
        fs::write(folder.join("size"), format!("{}\n", len / 512)).unwrap();
        let device = File::create(self.at(&format!("dev/{disk}{number}"))).unwrap();
        device.set_len(len).unwrap();
    }

    /// Makes the root file system stand on partitions.
    fn stand_on(&self, names: &[&str]) {
        let device = fs::metadata(&self.paths.root).unwrap().dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let slaves = self.at(&format!("sys/dev/block/{major}:{minor}/slaves"));
        if slaves.exists() {
            fs::remove_dir_all(&slaves).unwrap();
        }
        fs::create_dir_all(&slaves).unwrap();
        for name in names {
            let disk = name.trim_end_matches(|char: char| char.is_ascii_digit());
            symlink(
                self.at(&format!("sys/block/{disk}/{name}")),
                slaves.join(name),
            )
            .unwrap();
        }
    }

    fn find(&self) -> Result<RootDevice, FindDiskError> {
        RootDevice::find(&self.paths)
    }

    fn disk(&self) -> Disk {
        Disk::new(self.find().unwrap(), self.paths.clone(), Company::default())
    }
}

#[test]
fn the_booted_slot_is_the_one_under_the_root_whatever_the_labels_say() {
    let stand = Stand::new();
    let view = stand.disk().view().unwrap();
    assert_eq!((view.booted, view.booted_root_hash), (Slot::A, hash(1)));
    assert_eq!(view.booted_version, version("1"));
    let b = view.b.unwrap();
    assert_eq!(
        (b.content, b.root_len, b.verity_len),
        (SlotContent::Empty, 4 * MIB, MIB)
    );

    stand.stand_on(&["vda6", "vda5"]);
    assert_eq!(stand.disk().view().unwrap().booted, Slot::B);
}

#[test]
fn a_root_that_stands_on_no_slot_is_no_node() {
    let stand = Stand::new();
    stand.stand_on(&["vda2", "vda6"]);
    let error = stand.disk().view().unwrap_err();
    assert!(error.to_string().contains("which are no slot"), "{error}");
    stand.stand_on(&[]);
    assert!(matches!(stand.find(), Err(FindDiskError::NotVerity { .. })));
    stand.show("vdb", 3, 0, MIB);
    stand.stand_on(&["vda2", "vdb3"]);
    assert!(matches!(stand.find(), Err(FindDiskError::SeveralDisks)));
    fs::remove_dir_all(stand.at("sys/dev/block")).unwrap();
    assert!(matches!(stand.find(), Err(FindDiskError::NotVerity { .. })));
}

#[test]
fn the_booted_slot_is_read_but_neither_written_nor_labelled() {
    let stand = Stand::new();
    let disk = stand.disk();
    for part in [Part::Root, Part::Verity] {
        let mut read = [1; 5000];
        disk.read_medium(Slot::A, part, 4000, &mut read).unwrap();
        assert_eq!(read, [0; 5000]);
    }
    let before = fs::read(stand.at("dev/vda")).unwrap();
    let refused = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    for part in [Part::Root, Part::Verity] {
        refused(disk.write(Slot::A, part, 0, &[1; 4096]).unwrap_err());
    }
    refused(disk.relabel(Slot::A, None).unwrap_err());
    assert_eq!(fs::read(stand.at("dev/vda")).unwrap(), before);
    assert_eq!(fs::read(stand.at("dev/vda2")).unwrap(), vec![0; 4 << 20]);
}

#[test]
fn only_proven_blocks_of_the_image_that_a_slot_holds_are_mended() {
    let stand = Stand::new();
    let (image, tree, root_hash) = crate::scrub::tests::image(3);
    let prover = Prover::open(&tree, root_hash).unwrap();
    let block = &image[4096..8192];
    let proven = prover.prove(1, block).unwrap().unwrap();
    let refused = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    // The node runs another image.
    refused(stand.disk().mend(Slot::A, &proven).unwrap_err());
    fs::write(stand.at("cmdline"), format!("roothash={root_hash}")).unwrap();
    refused(stand.disk().mend(Slot::B, &proven).unwrap_err());
    for name in ["dev/vda2", "dev/vda5"] {
        assert!(
            fs::read(stand.at(name))
                .unwrap()
                .iter()
                .all(|byte| *byte == 0)
        );
    }
    stand.disk().mend(Slot::A, &proven).unwrap();
    let written = fs::read(stand.at("dev/vda2")).unwrap();
    assert!(written[4096..8192] == *block);
    let rest = written[..4096].iter().chain(&written[8192..]);
    assert!(rest.into_iter().all(|byte| *byte == 0));

    // The other slot holds what its labels say.
    let label = |root_hash: RootHash| {
        let held = (&version("2"), &root_hash);
        stand.disk().relabel(Slot::B, Some(held)).unwrap();
    };
    label(hash(2));
    refused(stand.disk().mend(Slot::B, &proven).unwrap_err());
    label(root_hash);
    stand.disk().mend(Slot::B, &proven).unwrap();
    assert!(fs::read(stand.at("dev/vda5")).unwrap()[4096..8192] == *block);
}

#[test]
fn the_spare_slot_is_written_read_back_and_labelled() {
    let stand = Stand::new();
    let disk = stand.disk();
    let bytes: Vec<u8> = (0..=255).cycle().take(2 << 20).collect();
    disk.write(Slot::B, Part::Root, MIB, &bytes).unwrap();
    disk.flush(Slot::B, Part::Root).unwrap();
    let mut read = vec![0; 5000];
    disk.read_medium(Slot::B, Part::Root, MIB + 1, &mut read)
        .unwrap();
    assert!(read == bytes[1..5001]);
    disk.release();
    let mut read = vec![0; 8];
    File::open(stand.at("dev/vda5"))
        .unwrap()
        .read_exact_at(&mut read, MIB)
        .unwrap();
    assert_eq!(read, bytes[..8]);

    disk.relabel(Slot::B, Some((&version("2"), &hash(2))))
        .unwrap();
    let content = disk.view().unwrap().b.unwrap().content;
    assert_eq!(
        content,
        SlotContent::Holds {
            version: version("2"),
            root_hash: hash(2)
        }
    );
    disk.relabel(Slot::B, None).unwrap();
    assert_eq!(disk.view().unwrap().b.unwrap().content, SlotContent::Empty);
}

#[test]
fn a_table_that_the_kernel_has_not_seen_is_not_written_by() {
    let stand = Stand::new();
    let root = stand.layout().slot_b.unwrap().root;
    stand.show("vda", root.number, root.start + MIB, root.len);
    let error = stand
        .disk()
        .write(Slot::B, Part::Root, 0, &[0; 4096])
        .unwrap_err();
    assert!(error.to_string().contains("lies elsewhere"), "{error}");
}

#[test]
fn what_the_image_and_the_command_line_leave_out_is_said() {
    let stand = Stand::new();
    let disk = stand.disk();
    fs::write(stand.at("os-release"), "ID=bistable\n").unwrap();
    let error = disk.view().unwrap_err();
    assert!(error.to_string().contains("IMAGE_VERSION"), "{error}");
    fs::write(stand.at("os-release"), "IMAGE_VERSION=1\n").unwrap();
    fs::write(stand.at("cmdline"), "quiet\n").unwrap();
    let error = disk.view().unwrap_err();
    assert!(error.to_string().contains("roothash="), "{error}");
}

#[test]
fn a_record_is_replaced_read_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths {
        state: folder.path().join("state"),
        settled: folder.path().join("run/settled"),
        ..Paths::default()
    };
    let records = RecordFolder::new(&paths);
    assert_eq!(records.read(Record::Verdict).unwrap(), None);
    for content in ["one", "two"] {
        records.replace(Record::Trial, content.as_bytes()).unwrap();
        assert_eq!(
            records.read(Record::Trial).unwrap().unwrap(),
            content.as_bytes()
        );
    }
    let names: Vec<_> = fs::read_dir(&paths.state)
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    assert_eq!(names, ["trial.json"]);
    records.remove(Record::Trial).unwrap();
    records.remove(Record::Trial).unwrap();
    records.mark_settled().unwrap();
    assert!(Path::new(&paths.settled).exists());
    let flood = vec![b' '; 5 << 20];
    fs::write(paths.state.join("floor"), flood).unwrap();
    assert_eq!(
        records.read(Record::Floor).unwrap_err().kind(),
        io::ErrorKind::FileTooLarge
    );
}
