//! The one firmware variable that we write: which entry the boot loader shall
//! start once.
//!
//! systemd-boot holds the variable's text against the ids of its entries, as a
//! glob pattern. Up to 257 an id is the file's name; from 258 on (and in
//! distributions that took the change) it is the name without its counter:
//! <https://github.com/systemd/systemd/pull/38897>. So we write a pattern that
//! takes both.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use partition_layout::BootEntry;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// The vendor of systemd-boot's variables.
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Non-volatile, readable while booting and while running.
const ATTRIBUTES: [u8; 4] = 7_u32.to_le_bytes();
/// The first version whose ids have no counter.
const IDS_WITHOUT_COUNTER: u32 = 258;

/// The folder of firmware variables.
#[derive(Debug)]
pub(super) struct Variables {
    folder: PathBuf,
}

impl Variables {
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The boot loader left its name there, or nobody can leave anything.
    pub(super) fn are_there(&self) -> bool {
        self.path("LoaderInfo").exists()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-{VENDOR}"))
    }

    pub(super) fn set_one_shot(&self, entry: &BootEntry, all: &[BootEntry]) -> io::Result<()> {
        let text = pattern(entry, all, self.loader_version());
        let mut content = ATTRIBUTES.to_vec();
        content.extend(text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
        let path = self.path("LoaderEntryOneShot");
        unlock(&path)?;
        // One write is one SetVariable: the kernel takes no second part.
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        file.write_all(&content)
    }

    pub(super) fn clear_one_shot(&self) -> io::Result<()> {
        let path = self.path("LoaderEntryOneShot");
        unlock(&path)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// `systemd-boot 257.9-1` and the like.
    fn loader_version(&self) -> Option<u32> {
        let bytes = fs::read(self.path("LoaderInfo")).ok()?;
        let (units, _) = bytes.get(4..)?.as_chunks::<2>();
        let text: String = char::decode_utf16(units.iter().map(|unit| u16::from_le_bytes(*unit)))
            .flatten()
            .collect();
        let version = text.split_ascii_whitespace().nth(1)?;
        version
            .split(|char: char| !char.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    }
}

/// The kernel makes every variable immutable that it does not know, so that no
/// careless `rm` breaks a firmware.
fn unlock(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let flags = ioctl_getflags(&file)?;
    if flags.contains(IFlags::IMMUTABLE) {
        ioctl_setflags(&file, flags - IFlags::IMMUTABLE)?;
    }
    Ok(())
}

/// Returns a pattern that matches `entry` under either kind of id, and no other
/// entry of `all`. When another version continues this one (1.0 and 1.0.1) no
/// pattern does both, and the boot loader's version has to tell.
fn pattern(entry: &BootEntry, all: &[BootEntry], loader: Option<u32>) -> String {
    let stem = format!("bistable_{}", entry.version);
    let continued = format!("{stem}.");
    let ambiguous = all.iter().any(|other| {
        other.version != entry.version
            && format!("bistable_{}.", other.version).starts_with(&continued)
    });
    match loader {
        _ if !ambiguous => format!("{stem}[+.]*"),
        Some(version) if version >= IDS_WITHOUT_COUNTER => format!("{stem}.efi"),
        Some(_) | None => entry.file_name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> BootEntry {
        BootEntry::parse_file_name(name).unwrap()
    }

    #[test]
    fn the_pattern_fits_ids_with_and_without_counter() {
        let all = [entry("bistable_1+3.efi"), entry("bistable_10.efi")];
        assert_eq!(pattern(&all[0], &all, None), "bistable_1[+.]*");
    }

    #[test]
    fn a_version_that_another_continues_is_asked_for_by_its_whole_id() {
        let all = [entry("bistable_1.0+3.efi"), entry("bistable_1.0.1.efi")];
        assert_eq!(pattern(&all[0], &all, Some(257)), "bistable_1.0+3.efi");
        assert_eq!(pattern(&all[0], &all, Some(258)), "bistable_1.0.efi");
        assert_eq!(pattern(&all[1], &all, Some(257)), "bistable_1.0.1[+.]*");
    }

    #[test]
    fn the_wish_is_written_as_the_firmware_wants_it_and_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let variables = Variables::new(folder.path().to_owned());
        assert!(!variables.are_there());
        let info: Vec<u8> = [6, 0, 0, 0]
            .into_iter()
            .chain(
                "systemd-boot 257.9-1\0"
                    .encode_utf16()
                    .flat_map(u16::to_le_bytes),
            )
            .collect();
        fs::write(variables.path("LoaderInfo"), info).unwrap();
        assert!(variables.are_there());
        assert_eq!(variables.loader_version(), Some(257));
        let entry = entry("bistable_1+3.efi");
        variables
            .set_one_shot(&entry, std::slice::from_ref(&entry))
            .unwrap();
        let written = fs::read(variables.path("LoaderEntryOneShot")).unwrap();
        assert_eq!(written[..6], [7, 0, 0, 0, b'b', 0]);
        assert_eq!(written[written.len() - 4..], [b'*', 0, 0, 0]);
        variables.clear_one_shot().unwrap();
        variables.clear_one_shot().unwrap();
        assert!(!variables.path("LoaderEntryOneShot").exists());
    }
}
