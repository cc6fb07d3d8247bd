//! What is done to a node's disk from outside while the node is off.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use partition_layout::{Partition, TableCopy};
use tempfile::NamedTempFile;

use crate::outside::OutsideDisk;
use crate::room::run;

/// A block group of ext4 with blocks of 4096 bytes: copies of the superblock stand at the
/// start of some of them.
const GROUP_BYTES: u64 = 128 << 20;
/// The superblock and what follows it.
const SUPERBLOCK_BYTES: usize = 64 << 10;

/// What a disk counts in, unless it is said otherwise.
const SECTOR_BYTES: usize = 512;
/// A partition table: its header, and 128 entries.
const TABLE_BYTES: usize = SECTOR_BYTES + 128 * 128;

/// Bytes that stood on a disk.
#[derive(Debug)]
pub struct Kept(Vec<(u64, Vec<u8>)>);

impl Kept {
    /// Says whether it is what was written over something else.
    pub fn is_noise(&self) -> bool {
        let mut pieces = self.0.iter();
        pieces.all(|(_, bytes)| *bytes == noise(bytes.len()))
    }
}

impl OutsideDisk {
    /// Writes noise over the superblock of `/var`, and over those of its copies that `spares`
    /// names. Returns what stood there.
    ///
    /// # Errors
    ///
    /// Fails when there is no `/var`, or the disk cannot be written.
    pub fn destroy_var(&self, spares: SpareSuperblocks) -> Result<Kept> {
        let var = self.var()?;
        let groups = match spares {
            SpareSuperblocks::Left => 1,
            SpareSuperblocks::Destroyed => var.len.div_ceil(GROUP_BYTES),
        };
        let starts = (0..groups).map(|group| var.start + group * GROUP_BYTES);
        self.overwrite(starts.map(|start| (start, noise(SUPERBLOCK_BYTES))))
    }

    /// Takes `/var` out of both partition tables.
    ///
    /// # Errors
    ///
    /// Fails when there is no `/var`, or `sgdisk` does.
    pub fn lose_var(&self) -> Result<()> {
        let number = self.var()?.number.to_string();
        let mut sgdisk = host_tools::command("sgdisk")?;
        run(sgdisk.args(["--delete", &number]).arg(self.path())).map(drop)
    }

    /// Writes noise over one of the two partition tables, on a disk with sectors of 512 bytes.
    ///
    /// # Errors
    ///
    /// Fails when the disk cannot be written.
    pub fn destroy_table(&self, copy: TableCopy) -> Result<()> {
        let path = self.path();
        let size = path.metadata();
        let size = size.with_context(|| format!("cannot ask {} for its size", path.display()))?;
        let start = match copy {
            TableCopy::Primary => SECTOR_BYTES as u64,
            TableCopy::Backup => size.len() - TABLE_BYTES as u64,
        };
        self.overwrite([(start, noise(TABLE_BYTES))]).map(drop)
    }

    /// Puts back what was overwritten.
    ///
    /// # Errors
    ///
    /// Fails when the disk cannot be written.
    pub fn put_back(&self, kept: Kept) -> Result<()> {
        self.overwrite(kept.0).map(drop)
    }

    /// Gives a boot entry another name.
    ///
    /// # Errors
    ///
    /// Fails when there is none of the name `from`, or the ESP cannot be written.
    pub fn rename_entry(&self, from: &str, to: &str) -> Result<()> {
        let names = [in_boot_folder(from), in_boot_folder(to)];
        run(self.on_esp("mren")?.args(names)).map(drop)
    }

    /// Removes a boot entry.
    ///
    /// # Errors
    ///
    /// Fails when there is none of this name, or the ESP cannot be written.
    pub fn remove_entry(&self, name: &str) -> Result<()> {
        run(self.on_esp("mdel")?.arg(in_boot_folder(name))).map(drop)
    }

    /// Makes a boot entry without content: what a rename leaves beside the old name when the power
    /// fails inside it.
    ///
    /// # Errors
    ///
    /// Fails when the ESP cannot be written.
    pub fn begin_entry(&self, name: &str) -> Result<()> {
        let empty = NamedTempFile::new().context("cannot make an empty file")?;
        let mut copy = self.on_esp("mcopy")?;
        run(copy.arg(empty.path()).arg(in_boot_folder(name))).map(drop)
    }

    fn overwrite(&self, pieces: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Result<Kept> {
        let path = self.path();
        let file = File::options().read(true).write(true).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let mut kept = Vec::new();
        for (start, bytes) in pieces {
            let mut before = vec![0; bytes.len()];
            file.read_exact_at(&mut before, start)
                .and_then(|()| file.write_all_at(&bytes, start))
                .with_context(|| format!("cannot overwrite {} at {start}", path.display()))?;
            kept.push((start, before));
        }
        Ok(Kept(kept))
    }

    pub(crate) fn var(&self) -> Result<&Partition> {
        let var = self.layout().var.as_ref();
        var.context("there is no /var on the disk")
    }
}

fn in_boot_folder(name: &str) -> String {
    format!("::/EFI/Linux/{name}")
}

/// Whether the copies of a superblock are destroyed as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpareSuperblocks {
    /// They are left.
    Left,
    /// They are not.
    Destroyed,
}

/// Returns bytes in which nobody finds anything: the same each time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len.saturating_add(8));
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
