//! Disk images in files, and the tools that look at them.
#![expect(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says by a panic what it lacks"
)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use partition_layout::{
    Architecture, DiskLayout, DiskPlan, Form, RootHash, SectorSize, Sizes, Version, create,
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// What a tool said.
pub(crate) struct Said {
    pub(crate) succeeded: bool,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a tool. That it is not installed is a failure, not a reason to skip.
pub(crate) fn run(program: &str, arguments: &[&OsStr]) -> Said {
    let output = host_tools::oracle(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    Said {
        succeeded: output.status.success(),
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A disk image with release 1.0~rc1 in slot A.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) sector_size: SectorSize,
    _folder: TempDir,
}

/// The root hash of the release in slot A.
pub(crate) fn root_hash_a() -> RootHash {
    RootHash::new(std::array::from_fn(|at| {
        u8::try_from(at).expect("32 bytes")
    }))
}

impl Disk {
    pub(crate) fn create(form: Form, sector_size: SectorSize) -> Self {
        Self::create_holding(form, sector_size, root_hash_a())
    }

    pub(crate) fn create_holding(form: Form, sector_size: SectorSize, root_hash: RootHash) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("disk.img");
        let plan = DiskPlan {
            sector_size,
            sizes: Sizes {
                esp: 40 * MIB,
                root: 8 * MIB,
                verity: MIB,
                verity_sig: MIB,
            },
            slot_a: Some((
                Version::parse("1.0~rc1").expect("a good version"),
                root_hash,
            )),
            ..DiskPlan::new(Architecture::X86_64, form)
        };
        let mut file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .expect("a new file");
        file.set_len(plan.smallest_disk() + 5 * MIB)
            .expect("room for an image");
        create(&mut file, &plan).expect("the file is blank");
        Self {
            path,
            sector_size,
            _folder: folder,
        }
    }

    pub(crate) fn file(&self) -> File {
        File::options()
            .read(true)
            .write(true)
            .open(&self.path)
            .expect("the image is there")
    }

    pub(crate) fn layout(&self) -> DiskLayout {
        DiskLayout::read(&self.file()).expect("our disk").0
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        self.file()
            .write_all_at(bytes, offset)
            .expect("the image can be written");
    }

    /// Makes a block device of the image, with its sector size; only root can.
    pub(crate) fn attach(&self) -> Option<LoopDevice> {
        if !rustix::process::geteuid().is_root() {
            skipped("only root can make loop devices");
            return None;
        }
        let sector_size = self.sector_size.bytes().to_string();
        let arguments: [&OsStr; 5] = [
            "--find".as_ref(),
            "--show".as_ref(),
            "--sector-size".as_ref(),
            sector_size.as_ref(),
            self.path.as_ref(),
        ];
        let attached = run("losetup", &arguments);
        assert!(attached.succeeded, "{}", attached.text());
        Some(LoopDevice(PathBuf::from(attached.stdout.trim())))
    }
}

#[expect(clippy::print_stderr, reason = "a skip says why")]
pub(crate) fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// A loop device, which is given back when the test ends, however it ends.
pub(crate) struct LoopDevice(PathBuf);

impl LoopDevice {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = run("losetup", &["--detach".as_ref(), self.0.as_ref()]);
        assert!(
            detached.succeeded || std::thread::panicking(),
            "{}",
            detached.text()
        );
    }
}

/// How far a rename came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Content {
    None,
    Shared,
}

/// A FAT file system as an ESP has it, made and filled with the usual tools.
pub(crate) struct Esp {
    folder: TempDir,
    image: PathBuf,
}

impl Esp {
    /// Makes an empty one, with a FAT of so many bits.
    pub(crate) fn format(bits: &str) -> Self {
        // As many clusters as make it one.
        let clusters: &[&str] = if bits == "32" { &["-s", "1"] } else { &[] };
        Self::format_with(40 * MIB, &[&["-F", bits], clusters].concat())
    }

    /// Makes an empty one of `bytes` bytes, as `options` of `mkfs.vfat` say.
    pub(crate) fn format_with(bytes: u64, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("esp.img");
        let file = File::create(&image).expect("a new file");
        file.set_len(bytes).expect("room for an image");
        let mut arguments: Vec<&OsStr> = options.iter().map(AsRef::as_ref).collect();
        arguments.push(image.as_ref());
        let made = run("mkfs.vfat", &arguments);
        assert!(made.succeeded, "{}", made.text());
        let esp = Self { folder, image };
        for made in ["::/EFI", "::/EFI/Linux", "::/loader"] {
            esp.mtools("mmd", &[made.as_ref()]);
        }
        esp
    }

    pub(crate) fn add(&self, name: &str, content: &[u8]) {
        let source = self.folder.path().join("content");
        std::fs::write(&source, content).expect("a temporary folder can be written");
        self.mtools(
            "mcopy",
            &[
                "-o".as_ref(),
                source.as_ref(),
                format!("::/{name}").as_ref(),
            ],
        );
    }

    pub(crate) fn add_entry(&self, file_name: &str, version: &str, root_hash: &RootHash) {
        let os_release = format!("ID=bistable\nIMAGE_ID=bistable\nIMAGE_VERSION={version}\n");
        let command_line = format!("roothash={root_hash} gpt panic=10");
        self.add(
            &format!("EFI/Linux/{file_name}"),
            &uki(&os_release, &command_line),
        );
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        let path = |name| format!("::/EFI/Linux/{name}");
        self.mtools("mren", &[path(from).as_ref(), path(to).as_ref()]);
    }

    pub(crate) fn remove(&self, file_name: &str) {
        self.mtools("mdel", &[format!("::/EFI/Linux/{file_name}").as_ref()]);
    }

    /// Renames as a driver does when its power is cut: the new name is there, with or without
    /// the content of the old one, and the old one is still there too.
    pub(crate) fn tear(&self, from: &str, to: &str, content: Content) {
        let is_record = |record: &[u8]| record.starts_with(b"BISTAB") && record[11] == 0x20;
        let places = |image: &[u8]| -> BTreeSet<usize> {
            let records = image.chunks_exact(32).enumerate();
            records
                .filter(|(_, record)| is_record(record))
                .map(|(place, _)| 32 * place)
                .collect()
        };
        let before = places(&self.bytes());
        self.add(&format!("EFI/Linux/{to}"), b"");
        let mut image = self.bytes();
        let first = u16::try_from(self.first_cluster(from)).expect("a small file system");
        let low = |place: &&usize| image[**place + 26..**place + 28] == first.to_le_bytes();
        let old = *before.iter().find(low).expect("the old name");
        let places = places(&image);
        let new = *places.difference(&before).next().expect("the new name");
        if content == Content::Shared {
            image.copy_within(old + 20..old + 32, new + 20);
        }
        self.replace(&image);
    }

    /// Returns the first cluster of a boot entry, as another reader sees it.
    pub(crate) fn first_cluster(&self, file_name: &str) -> usize {
        // `::/EFI/Linux/name <first-last>`
        let path = format!("::/EFI/Linux/{file_name}");
        let shown = self.mtools("mshowfat", &[path.as_ref()]);
        let clusters = shown.rsplit('<').next().unwrap_or_default();
        let first = clusters.split(|char: char| !char.is_ascii_digit()).next();
        first.and_then(|first| first.parse().ok()).expect("a file")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.image).expect("the image is there")
    }

    /// Replaces the whole file system.
    pub(crate) fn replace(&self, bytes: &[u8]) {
        std::fs::write(&self.image, bytes).expect("the image can be written");
    }

    /// Returns what the usual tool finds wrong, one complaint per line.
    pub(crate) fn check(&self) -> Vec<String> {
        let said = run("fsck.vfat", &["-n".as_ref(), self.image.as_ref()]);
        let lines = said.stdout.lines().map(|line| line.trim().to_owned());
        let lines: Vec<_> = lines.collect();
        if said.succeeded { Vec::new() } else { lines }
    }

    /// Returns the names in the folder of boot entries, as another reader sees them.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let listed = self.mtools("mdir", &["-b".as_ref(), "::/EFI/Linux".as_ref()]);
        let names = listed
            .lines()
            .filter_map(|line| line.strip_prefix("::/EFI/Linux/"));
        names.map(str::to_owned).collect()
    }

    /// Returns the content of a boot entry, as another reader sees it.
    pub(crate) fn content(&self, file_name: &str) -> String {
        self.mtools("mtype", &[format!("::/EFI/Linux/{file_name}").as_ref()])
    }

    /// Puts the file system into the ESP of `disk`.
    pub(crate) fn install(&self, disk: &Disk) {
        disk.write(disk.layout().esp.start, &self.bytes());
    }

    fn mtools(&self, program: &str, arguments: &[&OsStr]) -> String {
        let mut all: Vec<&OsStr> = vec!["-i".as_ref(), self.image.as_ref()];
        all.extend(arguments);
        let done = run(program, &all);
        assert!(done.succeeded, "{program}: {}", done.text());
        done.stdout
    }
}

/// Returns a PE image with the two sections that matter, the second one far behind.
fn uki(os_release: &str, command_line: &str) -> Vec<u8> {
    let mut image = vec![0; 200_000];
    let mut put = |at: usize, bytes: &[u8]| {
        let place = image.get_mut(at..at + bytes.len()).expect("it fits");
        place.copy_from_slice(bytes);
    };
    put(0, b"MZ");
    put(0x3c, &0x80_u32.to_le_bytes());
    put(0x80, b"PE\0\0");
    put(0x86, &2_u16.to_le_bytes());
    put(0x94, &0xf0_u16.to_le_bytes());
    let sections: [(&[u8], &str, u32); 2] = [
        (b".osrel\0\0", os_release, 0x400),
        (b".cmdline", command_line, 190_000),
    ];
    for (number, (name, text, offset)) in sections.into_iter().enumerate() {
        let at = 0x80 + 24 + 0xf0 + 40 * number;
        let length = u32::try_from(text.len()).expect("a short text");
        put(at, name);
        put(at + 8, &length.to_le_bytes());
        put(at + 16, &length.next_multiple_of(512).to_le_bytes());
        put(at + 20, &offset.to_le_bytes());
        put(
            usize::try_from(offset).expect("a small number"),
            text.as_bytes(),
        );
    }
    image
}
