//! The boot entries on an EFI system partition that is not mounted.

use std::ops::Range;

use crate::boot_choice::{LoaderEntry, choose_entry};
use crate::boot_entry::{CountedName, ENTRY_FOLDER};
use crate::device::Device;
use crate::fat::Fat;
pub use crate::fat::ReadFatError;
use crate::fat_check;
pub use crate::fat_check::{FatCheck, FatDamage};
use crate::table::Partition;
pub use crate::torn_names::TornName;
use crate::torn_names::find_torn;
pub use crate::uki::Uki;

const LOADER_CONFIGURATION: (&str, &str) = ("loader", "loader.conf");
const FOLDER_OF_OTHER_ENTRIES: &str = "loader/entries";
/// A node has two or three; whoever put in more has no claim to have them all looked at.
const MAX_FILES: usize = 64;
/// More is no configuration of a boot loader.
const MAX_CONFIGURATION_BYTES: usize = 64 << 10;

/// What systemd-boot will find on an ESP.
#[derive(Debug)]
pub struct Esp {
    /// The files in `EFI/Linux` that it looks at, by name.
    pub files: Vec<EntryFile>,
    /// Names in that folder that a rename, cut short, has left behind.
    pub torn: Vec<TornName>,
    /// Why the order of the entries does not decide alone, if it does not.
    pub decided_elsewhere: Option<String>,
}

/// A file in the folder of boot entries.
#[derive(Debug)]
pub struct EntryFile {
    /// Its name.
    pub file_name: String,
    /// Its size in bytes.
    pub size: u64,
    /// What is in it.
    pub image: EntryImage,
    /// Where on the device its bytes lie, in their order, if its clusters are all there.
    pub extents: Result<Vec<Range<u64>>, ReadFatError>,
}

/// What is in a file that has the name of a boot entry.
#[derive(Debug)]
pub enum EntryImage {
    /// An image that systemd-boot offers, and what it says of itself.
    Uki(Uki),
    /// Nothing that systemd-boot takes for a unified kernel image.
    NoUki,
    /// Nobody knows, as it cannot be read.
    Unreadable(ReadFatError),
}

impl EntryFile {
    /// Returns the boot entry that systemd-boot makes of the file, if it makes one.
    pub fn loader_entry(&self) -> Option<LoaderEntry> {
        match &self.image {
            EntryImage::Uki(uki) => Some(LoaderEntry {
                name: CountedName::parse(&self.file_name),
                sort_key: uki.sort_key.clone(),
            }),
            EntryImage::NoUki | EntryImage::Unreadable(_) => None,
        }
    }
}

impl Esp {
    /// Reads the boot entries off `partition`. Nothing is written.
    ///
    /// # Errors
    /// When the medium fails, or there is no sound FAT16 or FAT32 file system.
    pub fn read(device: &impl Device, partition: &Partition) -> Result<Self, ReadFatError> {
        let fat = Fat::open(device, partition)?;
        let mut files = Vec::new();
        let nodes = fat.list(ENTRY_FOLDER)?.unwrap_or_default();
        let no_folders: Vec<_> = nodes.iter().filter(|node| !node.is_folder).collect();
        let torn = find_torn(&no_folders).into_iter().map(|(_, torn)| torn);
        let torn = torn.collect();
        for node in nodes {
            // systemd-boot passes over everything else in this folder.
            let name = node.name.to_ascii_lowercase();
            if node.is_folder
                || name.starts_with('.')
                || name.starts_with("auto-")
                || !name.ends_with(".efi")
            {
                continue;
            }
            if files.len() == MAX_FILES {
                return Err(ReadFatError::TooManyFiles { most: MAX_FILES });
            }
            let uki = Uki::read(|offset, buffer: &mut [u8]| fat.read_file(&node, offset, buffer));
            let image = match uki {
                Ok(Some(uki)) => EntryImage::Uki(uki),
                Ok(None) => EntryImage::NoUki,
                Err(unreadable) => EntryImage::Unreadable(unreadable),
            };
            let extents = fat.extents(&node);
            files.push(EntryFile {
                extents,
                file_name: node.name,
                size: node.size,
                image,
            });
        }
        files.sort_by(|a, b| a.file_name.cmp(&b.file_name));
        let decided_elsewhere = decided_elsewhere(&fat)?;
        Ok(Self {
            files,
            torn,
            decided_elsewhere,
        })
    }

    /// Looks at every file and folder on `partition`, whether the file system holds them
    /// together. Nothing is written.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn check(device: &impl Device, partition: &Partition) -> Result<FatCheck, ReadFatError> {
        fat_check::check(&Fat::open(device, partition)?)
    }

    /// Returns the file that systemd-boot starts next, when the files alone decide.
    pub fn boots_next(&self) -> Option<&EntryFile> {
        if self.decided_elsewhere.is_some() {
            return None;
        }
        let entries: Vec<_> = self
            .files
            .iter()
            .filter_map(EntryFile::loader_entry)
            .collect();
        let chosen = choose_entry(&entries)?;
        let mut files = self.files.iter();
        files.find(|file| file.loader_entry().as_ref() == Some(chosen))
    }
}

/// Looks for what the model of the boot order leaves out.
fn decided_elsewhere<D: Device>(fat: &Fat<'_, D>) -> Result<Option<String>, ReadFatError> {
    let others = fat.list(FOLDER_OF_OTHER_ENTRIES)?.unwrap_or_default();
    if let Some(other) = others
        .iter()
        .find(|node| node.name.to_ascii_lowercase().ends_with(".conf"))
    {
        return Ok(Some(format!(
            "there is an entry {FOLDER_OF_OTHER_ENTRIES}/{}",
            other.name
        )));
    }
    let (folder, file) = LOADER_CONFIGURATION;
    let nodes = fat.list(folder)?.unwrap_or_default();
    let Some(node) = nodes
        .iter()
        .find(|node| !node.is_folder && node.name.eq_ignore_ascii_case(file))
    else {
        return Ok(None);
    };
    let mut text = vec![0; MAX_CONFIGURATION_BYTES];
    let length = fat.read_file(node, 0, &mut text)?;
    text.truncate(length);
    let text = String::from_utf8_lossy(&text);
    let mut words = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let deciding = words.rfind(|word| matches!(*word, "default" | "preferred"));
    Ok(deciding.map(|word| format!("{folder}/{file} sets {word:?}")))
}
