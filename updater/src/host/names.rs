//! The names on the EFI system partition, changed while nobody has it mounted.

use std::io;
use std::path::Path;

use partition_layout::entry_names::{EditNamesError, EntryNames};
use partition_layout::esp::{EntryImage, Esp};
use partition_layout::{BootEntry, Device, RootHash, SectorSize, Uuid, Version};

use super::aligned::Direct;
use crate::refusal::Chain;

/// The names in the folder of boot entries.
pub(super) type Names<'a> = EntryNames<'a, Partition>;

/// A partition that is read and written past the page cache, which may still hold
/// what a file system has read from it.
#[derive(Debug)]
pub(super) struct Partition(Direct);

/// Mends the names of boot entries on the partition at `path`, then lets `act` change
/// them. On return everything has reached the disk.
///
/// Fails with [`io::ErrorKind::ResourceBusy`] when the partition is mounted somewhere: then
/// what is on the disk is not all that counts, and two would write.
pub(super) fn edit_names(
    path: &Path,
    act: impl FnOnce(&mut Names<'_>) -> Result<(), EditNamesError>,
) -> io::Result<()> {
    let direct = Direct::open_exclusively(path).map_err(|error| {
        if error.kind() == io::ErrorKind::ResourceBusy {
            in_use(path)
        } else {
            error
        }
    })?;
    let mut partition = Partition(direct);
    let end = partition.size()?;
    let edited = EntryNames::read(&mut partition, 0..end).and_then(|mut names| {
        for torn in names.mend()? {
            tracing::warn!(%torn, "forgotten: the power failed while a boot entry was renamed");
        }
        act(&mut names)
    });
    edited.map_err(|error| io::Error::new(error.kind(), error))
}

/// Returns the names of the kernel images on the partition at `path` that the boot loader would start,
/// and that are of another image than `root_hash`, which `booted` is.
///
/// A bit that rots in a long name leaves a short one, which says nothing of the release, and which the boot
/// loader takes all the same. So it is the kernel's command line that counts. A stranger's image
/// names no root hash, and is left alone.
pub(super) fn images_of_others(
    path: &Path,
    booted: &Version,
    root_hash: &RootHash,
) -> io::Result<Vec<String>> {
    let partition = Partition(Direct::open_to_read(path)?);
    let whole = partition_layout::Partition {
        number: 1,
        type_guid: Uuid::nil(),
        uuid: Uuid::nil(),
        label: String::new(),
        start: 0,
        len: partition.size()?,
        attributes: 0,
    };
    let esp = Esp::read(&partition, &whole).map_err(io::Error::other)?;
    let is_booted =
        |name: &str| BootEntry::parse_file_name(name).is_ok_and(|entry| entry.version == *booted);
    let mut others = Vec::new();
    for file in esp
        .files
        .into_iter()
        .filter(|file| !is_booted(&file.file_name))
    {
        match file.image {
            EntryImage::Uki(uki) if uki.root_hash.is_some_and(|it| it != *root_hash) => {
                others.push(file.file_name);
            }
            EntryImage::Uki(_) | EntryImage::NoUki => {}
            EntryImage::Unreadable(error) => {
                let what = format!("nobody can tell what {} starts", file.file_name);
                let chain = Chain(&error);
                return Err(io::Error::other(format!("{what}: {chain}")));
            }
        }
    }
    Ok(others)
}

fn in_use(path: &Path) -> io::Error {
    let message = format!(
        "{} is in use: the EFI system partition is mounted by somebody else",
        path.display()
    );
    io::Error::new(io::ErrorKind::ResourceBusy, message)
}

impl Device for Partition {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }

    fn size(&self) -> io::Result<u64> {
        Device::size(self.0.file())
    }

    fn sector_size(&self) -> io::Result<Option<SectorSize>> {
        Device::sector_size(self.0.file())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::os::unix::fs::OpenOptionsExt;

    use partition_layout::TEMPORARY_NAME;
    use rustix::fs::OFlags;
    use tempfile::TempDir;

    use super::*;

    fn run(program: &str, arguments: &[&Path]) -> String {
        let output = host_tools::oracle(program)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A FAT file system in a file, with a kernel image that is no entry yet.
    fn file_system() -> (TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let image = folder.path().join("esp");
        File::create(&image).unwrap().set_len(3 << 20).unwrap();
        run("mkfs.vfat", &["-F16".as_ref(), "-s1".as_ref(), &image]);
        let content = folder.path().join("content");
        fs::write(&content, "a kernel").unwrap();
        for made in ["::/EFI", "::/EFI/Linux"] {
            run("mmd", &["-i".as_ref(), &image, made.as_ref()]);
        }
        let to = format!("::/EFI/Linux/{TEMPORARY_NAME}");
        run("mcopy", &["-i".as_ref(), &image, &content, to.as_ref()]);
        (folder, image)
    }

    #[test]
    fn a_name_is_changed_past_the_cache() {
        let (_folder, image) = file_system();
        let armed = "bistable_2+3.efi";
        match edit_names(&image, |names| names.rename(TEMPORARY_NAME, armed)) {
            // No file system of this machine has to know O_DIRECT.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            renamed => renamed.unwrap(),
        }
        let path = format!("::/EFI/Linux/{armed}");
        assert_eq!(
            run("mtype", &["-i".as_ref(), &image, path.as_ref()]),
            "a kernel"
        );
        let again = edit_names(&image, |names| names.rename(TEMPORARY_NAME, armed));
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// A PE image with the two sections that say what it boots.
    fn kernel_image(command_line: &str) -> Vec<u8> {
        let mut image = vec![0; 0x600];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &0x80_u32.to_le_bytes());
        put(0x80, b"PE\0\0\0\0\x02\0");
        let sections = [
            (b".osrel\0\0", "ID=bistable\n"),
            (b".cmdline", command_line),
        ];
        for ((name, text), number) in sections.into_iter().zip(0_usize..) {
            let (header, offset) = (0x80 + 24 + 40 * number, 0x400 + 0x100 * number);
            let len = u32::try_from(text.len()).unwrap().to_le_bytes();
            put(header, name);
            put(header + 8, &len);
            put(header + 16, &len);
            put(header + 20, &u32::try_from(offset).unwrap().to_le_bytes());
            put(offset, text.as_bytes());
        }
        image
    }

    #[test]
    fn a_kernel_image_of_another_release_is_known_by_what_it_starts_whatever_its_name() {
        let (folder, image) = file_system();
        let (own, other) = (RootHash::new([1; 32]), RootHash::new([2; 32]));
        for (name, content) in [
            ("bistable_1.efi", kernel_image(&format!("roothash={own}"))),
            // Of whose long name a bit has rotted.
            (
                "BISTAB~7.EFI",
                kernel_image(&format!("roothash={other} gpt")),
            ),
            (
                "bistable_3+2-1.efi",
                kernel_image(&format!("roothash={other}")),
            ),
            ("memtest.efi", kernel_image("quiet")),
            ("notes.efi", b"no program".to_vec()),
            ("other.bin", kernel_image(&format!("roothash={other}"))),
        ] {
            let from = folder.path().join("content");
            fs::write(&from, content).unwrap();
            let to = format!("::/EFI/Linux/{name}");
            run("mcopy", &["-i".as_ref(), &image, &from, to.as_ref()]);
        }
        let mut found = match images_of_others(&image, &Version::parse("1").unwrap(), &own) {
            // No file system of this machine has to know O_DIRECT.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            found => found.unwrap(),
        };
        found.sort();
        assert_eq!(found, ["BISTAB~7.EFI", "bistable_3+2-1.efi"]);
    }

    #[test]
    fn a_partition_that_somebody_holds_is_refused_by_name() {
        if !rustix::process::geteuid().is_root() {
            #[expect(clippy::print_stderr, reason = "a skip says why")]
            {
                eprintln!("skipped: only root can make loop devices");
            }
            return;
        }
        let (_folder, image) = file_system();
        let attach = ["--find".as_ref(), "--show".as_ref(), image.as_path()];
        let device = run("losetup", &attach);
        let flags = i32::try_from(OFlags::EXCL.bits()).unwrap();
        // As a mounted file system does.
        let mut options = OpenOptions::new();
        let holder = options.read(true).custom_flags(flags).open(&device);
        let refused = edit_names(device.as_ref(), |_| Ok(()));
        drop(holder.unwrap());
        let free = edit_names(device.as_ref(), |_| Ok(()));
        run("losetup", &["--detach".as_ref(), device.as_ref()]);
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        assert!(refused.to_string().contains("mounted by somebody else"));
        free.unwrap();
    }
}
