//! The kernel's own dm-verity on loop devices; needs root and the modules
//! `loop` and `dm-verity`, so it says that it skips outside a virtual machine.
//! The story `boot` of `qemu-tests` runs this program inside a node.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use partition_layout::RootHash;
use tempfile::TempDir;
use uuid::Uuid;
use verity::{
    DeviceNumber, DeviceStatus, Dm as _, DmError, DmName, HashArea, HashType, KernelDm, Params,
    Superblock, VerityTable, activate, format,
};

const BLOCKS: u64 = 300;
const BLOCK: u64 = 4096;

/// A file as a block device, until dropped.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &Path) -> Self {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--read-only"])
            .arg(file)
            .output()
            .expect("losetup is installed");
        assert!(output.status.success(), "{output:?}");
        let path = String::from_utf8(output.stdout).expect("a path");
        Self(PathBuf::from(path.trim()))
    }

    fn number(&self) -> DeviceNumber {
        let device = File::open(&self.0).expect("the loop device is there");
        DeviceNumber::of(&device).expect("it is a block device")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The mapped device goes first (see `Mapped`); nothing else holds it.
        drop(
            Command::new("losetup")
                .arg("--detach")
                .arg(&self.0)
                .status(),
        );
    }
}

/// A verity device on two loop devices, until dropped.
struct Mapped {
    name: DmName,
    device: PathBuf,
    dm: KernelDm,
    _loops: [Loop; 2],
}

impl Mapped {
    fn new(name: &str, files: &Files, root_hash: RootHash) -> Self {
        let name = DmName::parse(name).expect("a name");
        let loops = [Loop::new(&files.data), Loop::new(&files.hash)];
        let [data, hash] = &loops;
        let table = VerityTable::new(data.number(), hash.number(), files.area.clone(), root_hash);
        let mut dm = KernelDm::open(Path::new(KernelDm::CONTROL)).expect("it was there");
        let number = activate(&mut dm, &name, &table).expect("the kernel takes the table");
        let device = PathBuf::from(format!("/dev/dm-{}", number.minor));
        let found = fs::metadata(&device).expect("devtmpfs has made it").rdev();
        assert_eq!(rustix::fs::minor(found), number.minor);
        Self {
            name,
            device,
            dm,
            _loops: loops,
        }
    }

    fn read(&self, block: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(BLOCK).expect("small")];
        File::open(&self.device)?.read_exact_at(&mut bytes, block * BLOCK)?;
        Ok(bytes)
    }

    fn status(&mut self) -> DeviceStatus {
        self.dm.status(&self.name).expect("the device is there")
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // Gone already where the test has removed it.
        drop(self.dm.remove(&self.name));
    }
}

struct Files {
    _folder: TempDir,
    data: PathBuf,
    hash: PathBuf,
    area: HashArea,
    root_hash: RootHash,
}

/// `None`, with a word why, where the kernel cannot do it.
fn files() -> Option<Files> {
    if let Err(error) = KernelDm::open(Path::new(KernelDm::CONTROL)) {
        writeln!(
            io::stderr(),
            "skipped: no device-mapper to use here: {error:?}"
        )
        .expect("stderr is open");
        return None;
    }
    let params = Params {
        data_block_size: 4096,
        hash_block_size: 4096,
        salt: vec![0x5a; 32],
        hash_type: HashType::Normal,
    };
    let superblock = Superblock::new(params, BLOCKS, Uuid::nil()).expect("good");
    let area = HashArea::with_superblock(&superblock, 0).expect("good");
    let data: Vec<u8> = (0..BLOCKS * BLOCK)
        .map(|n| (n / 7).to_le_bytes()[0])
        .collect();
    let mut hash = Vec::new();
    let root_hash = format(&data, &area, &mut hash).expect("memory does not fail");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let files = Files {
        data: folder.path().join("data"),
        hash: folder.path().join("hash"),
        _folder: folder,
        area,
        root_hash,
    };
    fs::write(&files.data, data).expect("the disk has room");
    fs::write(&files.hash, hash).expect("the disk has room");
    Some(files)
}

fn flip(file: &Path, at: u64) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(file)
        .expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)
        .expect("it is long enough");
    file.write_all_at(&byte.map(|byte| byte ^ 1), at)
        .expect("the disk has room");
}

#[test]
fn the_kernel_serves_what_was_formatted_and_says_so() {
    let Some(files) = files() else { return };
    let mut mapped = Mapped::new("verity-test-good", &files, files.root_hash);
    let data = fs::read(&files.data).expect("it is there");
    for (block, bytes) in (0..).zip(data.chunks(4096)) {
        assert!(
            mapped.read(block).expect("a good block") == bytes,
            "block {block}"
        );
    }
    let status = mapped.status();
    assert!(status.read_only && status.active);
    assert_eq!(status.open_count, 0);
    let [target] = status.targets.as_slice() else {
        panic!("{status:?}")
    };
    assert_eq!((target.start, target.sectors), (0, BLOCKS * BLOCK / 512));
    assert_eq!((target.kind.as_str(), target.text.trim()), ("verity", "V"));
    let written = File::options()
        .write(true)
        .open(&mapped.device)
        .and_then(|device| device.write_all_at(&[0; 512], 0));
    assert!(written.is_err());

    mapped.dm.remove(&mapped.name).expect("nobody has it open");
    let gone = mapped.dm.status(&mapped.name);
    assert!(matches!(gone, Err(DmError::Failed { .. })), "{gone:?}");
}

#[test]
fn one_flipped_bit_of_the_data_is_an_error_of_its_block_alone() {
    let Some(files) = files() else { return };
    flip(&files.data, 77 * BLOCK + 123);
    let mut mapped = Mapped::new("verity-test-data", &files, files.root_hash);
    assert!(mapped.read(76).is_ok() && mapped.read(78).is_ok());
    let error = mapped.read(77).expect_err("a corrupted block was served");
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::IO.raw_os_error())
    );
    let status = mapped.status();
    assert_eq!(
        status.targets.first().map(|target| target.text.trim()),
        Some("C")
    );
}

#[test]
fn one_flipped_bit_of_the_tree_is_an_error_of_what_it_covers() {
    let Some(files) = files() else { return };
    // The last leaf block, behind the root block and two others.
    flip(&files.hash, files.area.tree_start() + 3 * BLOCK);
    let mapped = Mapped::new("verity-test-tree", &files, files.root_hash);
    assert!(mapped.read(0).is_ok() && mapped.read(255).is_ok());
    assert!(mapped.read(256).is_err() && mapped.read(299).is_err());
}

#[test]
fn another_root_hash_serves_nothing() {
    let Some(files) = files() else { return };
    let mapped = Mapped::new("verity-test-root", &files, RootHash::new([1; 32]));
    assert!((0..BLOCKS).all(|block| mapped.read(block).is_err()));
}

#[test]
fn a_table_that_the_kernel_does_not_take_leaves_no_device() {
    let Some(files) = files() else { return };
    let data = Loop::new(&files.data);
    // The hash device is too small for the tree.
    let short = files.hash.with_extension("short");
    fs::write(&short, [0; 8192]).expect("the disk has room");
    let hash = Loop::new(&short);
    let table = VerityTable::new(
        data.number(),
        hash.number(),
        files.area.clone(),
        files.root_hash,
    );
    let mut dm = KernelDm::open(Path::new(KernelDm::CONTROL)).expect("it was there");
    let name = DmName::parse("verity-test-refused").expect("a name");
    let error = activate(&mut dm, &name, &table);
    assert!(error.is_err(), "{error:?}");
    assert!(dm.status(&name).is_err(), "a device was left behind");
}
