//! A node's disk, read from outside while the node is off.
//!
//! The table is read by `partition-layout`, the ESP by mtools: two readers
//! that share nothing with the daemon's way of looking at a running disk.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use inspector::{DiskProofs, Inspection};
use partition_layout::esp::Esp;
use partition_layout::{BootEntry, DiskLayout, Partition, Slot, SlotContent};

use crate::fixtures::Image;

/// How much of two files is compared at a time.
const CHUNK: usize = 1 << 20;

/// A node's disk.
#[derive(Debug)]
pub struct OutsideDisk {
    path: PathBuf,
    layout: DiskLayout,
}

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The version.
    pub version: String,
    /// The root hash, in hexadecimal.
    pub root_hash: String,
}

impl OutsideDisk {
    /// Reads the table of the disk image at `path`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read, or is not laid out as ours.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let (layout, _health) = DiskLayout::read(&file)
            .with_context(|| format!("cannot read the table of {}", path.display()))?;
        Ok(Self {
            path: path.into(),
            layout,
        })
    }

    /// Returns the table.
    pub fn layout(&self) -> &DiskLayout {
        &self.layout
    }

    /// Returns what `slot` holds, `None` when it is empty.
    ///
    /// # Errors
    ///
    /// Fails when the disk has no such slot, or its labels contradict each other.
    pub fn slot(&self, slot: Slot) -> Result<Option<Held>> {
        let partitions = self
            .layout
            .slot(slot)
            .with_context(|| format!("there is no slot {slot}"))?;
        match partitions.content() {
            SlotContent::Empty => Ok(None),
            SlotContent::Holds { version, root_hash } => Ok(Some(Held {
                version: version.to_string(),
                root_hash: root_hash.to_string(),
            })),
            SlotContent::Unknown { why } => bail!("slot {slot} holds something unknown: {why}"),
        }
    }

    /// Returns the names of all files beside the boot entries, sorted.
    ///
    /// # Errors
    ///
    /// Fails when the ESP cannot be read.
    pub fn boot_folder(&self) -> Result<Vec<String>> {
        let output = host_tools::command("mdir")?
            .args(["-b", "-i", &self.esp_place(), "::/EFI/Linux"])
            .output()
            .context("cannot run mdir")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("cannot list the ESP of {}: {said}", self.path.display());
        }
        let listing = String::from_utf8(output.stdout).context("a name on the ESP is not UTF-8")?;
        let names = listing
            .lines()
            .filter_map(|line| line.trim().strip_prefix("::/EFI/Linux/"));
        let mut names: Vec<String> = names.map(String::from).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Returns the names of the boot entries, sorted: of the files that the boot
    /// loader looks at, which are those that end so.
    ///
    /// # Errors
    ///
    /// Fails when the ESP cannot be read, or holds an entry that is not ours.
    pub fn boot_entry_names(&self) -> Result<Vec<String>> {
        let mut names = self.boot_folder()?;
        names.retain(|name| name.to_ascii_lowercase().ends_with(".efi"));
        for name in &names {
            BootEntry::parse_file_name(name).with_context(|| format!("{name} is on the ESP"))?;
        }
        Ok(names)
    }

    /// Says what boots and what is wrong, as `bistable-layout inspect` does.
    ///
    /// # Errors
    ///
    /// Fails when the disk has no table of ours.
    pub fn inspect(&self) -> Result<Inspection> {
        let file = self.file()?;
        Inspection::of(&file, &mut DiskProofs(&file))
            .with_context(|| format!("cannot inspect {}", self.path.display()))
    }

    /// Returns the first byte behind all boot entries: from there to the end of the ESP
    /// lies nothing.
    ///
    /// # Errors
    ///
    /// Fails when the ESP cannot be read, or has no entry.
    pub fn behind_entries(&self) -> Result<u64> {
        let esp = Esp::read(&self.file()?, &self.layout.esp)
            .with_context(|| format!("cannot read the ESP of {}", self.path.display()))?;
        let extents = esp.files.iter().flat_map(|file| file.extents.iter());
        extents
            .flatten()
            .map(|extent| extent.end)
            .max()
            .context("there is no boot entry")
    }

    /// Returns what the kernel image of the boot entry `name` holds.
    ///
    /// # Errors
    ///
    /// Fails when the ESP cannot be read, or has no such entry.
    pub fn kernel(&self, name: &str) -> Result<Vec<u8>> {
        let (extents, size) = self.kernel_extents(name)?;
        let file = self.file()?;
        let mut kernel = Vec::new();
        for extent in extents {
            let mut bytes = vec![0; usize::try_from(extent.end - extent.start)?];
            file.read_exact_at(&mut bytes, extent.start)?;
            kernel.append(&mut bytes);
        }
        kernel.truncate(usize::try_from(size)?);
        Ok(kernel)
    }

    /// Returns where it lies, and its size.
    pub(crate) fn kernel_extents(&self, name: &str) -> Result<(Vec<Range<u64>>, u64)> {
        let esp = Esp::read(&self.file()?, &self.layout.esp)
            .with_context(|| format!("cannot read the ESP of {}", self.path.display()))?;
        let mut files = esp.files.into_iter();
        let found = files.find(|file| file.file_name == name);
        let found = found.with_context(|| format!("there is no {name} on the ESP"))?;
        let extents = found.extents;
        let extents = extents.with_context(|| format!("cannot follow {name} on the ESP"))?;
        Ok((extents, found.size))
    }

    /// Returns the disk's image.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the ESP is, as mtools are told.
    pub(crate) fn esp_place(&self) -> String {
        format!("{}@@{}", self.path.display(), self.layout.esp.start)
    }

    fn file(&self) -> Result<File> {
        File::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))
    }

    /// Checks that the root partition of `slot` holds `image`, byte for byte.
    ///
    /// # Errors
    ///
    /// Fails when it does not, with the place of the first block that differs.
    pub fn expect_root(&self, slot: Slot, image: &Image) -> Result<()> {
        let root = self.root(slot)?;
        let path = image.folder.join("root.img");
        let open = |path: &Path| {
            File::open(path).with_context(|| format!("cannot open {}", path.display()))
        };
        let (disk, image) = (open(&self.path)?, open(&path)?);
        let (mut held, mut wanted) = (vec![0; CHUNK], vec![0; CHUNK]);
        let length = image.metadata()?.len();
        let mut at = 0;
        while at < length {
            let size = usize::try_from(length - at).unwrap_or(CHUNK).min(CHUNK);
            held.resize(size, 0);
            wanted.resize(size, 0);
            disk.read_exact_at(&mut held, root.start + at)?;
            image.read_exact_at(&mut wanted, at)?;
            if held != wanted {
                bail!(
                    "from outside, slot {slot} differs from {} within {CHUNK} bytes of {at}",
                    path.display()
                );
            }
            at += size as u64;
        }
        Ok(())
    }

    fn root(&self, slot: Slot) -> Result<&Partition> {
        let partitions = self
            .layout
            .slot(slot)
            .with_context(|| format!("there is no slot {slot}"))?;
        Ok(&partitions.root)
    }

    /// Flips one bit of the byte at `offset` within the root partition of `slot`.
    ///
    /// # Errors
    ///
    /// Fails when there is no such slot or byte.
    pub fn flip(&self, slot: Slot, offset: u64) -> Result<()> {
        let root = self.root(slot)?;
        if offset >= root.len {
            bail!("slot {slot} has no byte {offset}");
        }
        self.flip_at(root.start + offset)
    }

    /// Flips one bit of the kernel image of the boot entry `name`.
    ///
    /// # Errors
    ///
    /// Fails when there is no such entry.
    pub fn flip_in_kernel(&self, name: &str) -> Result<()> {
        let (extents, _) = self.kernel_extents(name)?;
        let extent = extents.first();
        let extent = extent.with_context(|| format!("{name} is empty"))?;
        self.flip_at(u64::midpoint(extent.start, extent.end))
    }

    fn flip_at(&self, place: u64) -> Result<()> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&self.path)
            .with_context(|| format!("cannot open {}", self.path.display()))?;
        let mut byte = [0u8];
        file.read_exact_at(&mut byte, place)?;
        file.write_all_at(&byte.map(|value| value ^ 1), place)?;
        Ok(())
    }
}
