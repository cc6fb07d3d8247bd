//! A reader for the FAT file system of an ESP that is not mounted.
//!
//! It reads FAT16 and FAT32 with long names, writes nothing, and takes no number of
//! the medium on trust: every address is checked, every chain is bounded. (The crate
//! `fatfs` 0.3 adds and multiplies cluster numbers unchecked, so that a rotten ESP
//! would end the inspection in a panic.)
//!
//! Source: Microsoft's "FAT32 File System Specification" 1.03, which UEFI refers to.

use std::io;
use std::ops::Range;

use crate::device::Device;
use crate::fat_folder::{ENTRY_BYTES, Node, nodes};
use crate::header::Fields;
use crate::table::Partition;

/// The specification allows a folder 65536 entries.
pub(crate) const MAX_FOLDER_BYTES: u64 = 65_536 * ENTRY_BYTES as u64;
/// An ESP of half a GiB in the smallest clusters has a FAT of 4 MiB.
const MAX_FAT_BYTES: u64 = 64 << 20;
/// Fewer clusters make a FAT12, which no ESP of ours is.
const FEWEST_CLUSTERS_16: u64 = 4085;
const FEWEST_CLUSTERS_32: u64 = 65_525;

/// Why a file system cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFatError {
    /// The medium does not give it.
    #[error("cannot read at byte {offset} of the file system")]
    Read {
        /// The byte.
        offset: u64,
        /// What the medium said.
        source: io::Error,
    },
    /// There is no FAT16 or FAT32 file system.
    #[error("there is no FAT16 or FAT32 file system: {why}")]
    NoFat {
        /// What is odd about its first sector.
        why: &'static str,
    },
    /// A file or folder leaves the file system, or runs in circles.
    #[error("the chain of clusters that starts at {first} is broken")]
    BrokenChain {
        /// Its first cluster.
        first: u32,
    },
    /// There are more boot entries than anybody looks at.
    #[error("the folder of boot entries has more than {most} of them")]
    TooManyFiles {
        /// The most that are read.
        most: usize,
    },
    /// A folder is larger than any folder may be.
    #[error("the folder at cluster {first} has no end")]
    EndlessFolder {
        /// Its first cluster.
        first: u32,
    },
}

#[derive(Clone, Copy, Debug)]
enum Width {
    Bits16,
    Bits32,
}

#[derive(Clone, Copy, Debug)]
enum Root {
    /// A place of its own, on FAT16: its first byte, and its length.
    Region(u64, u64),
    Chain(u32),
}

/// A folder, and where it lies.
#[derive(Clone, Debug)]
pub(crate) struct FolderMap {
    pub(crate) content: Vec<u8>,
    /// The first byte on the device of each of its clusters.
    pub(crate) clusters: Vec<u64>,
    pub(crate) cluster_bytes: u64,
    /// The sector size that the file system was made for.
    pub(crate) sector_bytes: u64,
}

/// A file system on a partition.
#[derive(Debug)]
pub(crate) struct Fat<'d, D> {
    device: &'d D,
    /// The first byte of the partition, and its length.
    start: u64,
    len: u64,
    width: Width,
    sector_bytes: u64,
    cluster_bytes: u64,
    /// The first byte of the first FAT, and of the first cluster, in the partition.
    fat: u64,
    /// The length of a FAT, and how many copies of it there are.
    fat_len: u64,
    fats: u8,
    data: u64,
    clusters: u64,
    root: Root,
}

impl<'d, D: Device> Fat<'d, D> {
    /// Checks the first sector of the file system on `partition`.
    pub(crate) fn open(device: &'d D, partition: &Partition) -> Result<Self, ReadFatError> {
        Self::open_at(device, partition.start, partition.len)
    }

    /// Checks the first sector of the file system in the `len` bytes from `start` on.
    pub(crate) fn open_at(device: &'d D, start: u64, len: u64) -> Result<Self, ReadFatError> {
        let mut sector = [0; 512];
        let read = device.read_at(start, &mut sector);
        read.map_err(|source| ReadFatError::Read { offset: 0, source })?;
        let no_fat = |why| ReadFatError::NoFat { why };
        let boot = BootSector::parse(&sector).ok_or(no_fat("it has no signature"))?;

        let sector_bytes = u64::from(boot.sector_bytes);
        if !matches!(sector_bytes, 512 | 1024 | 2048 | 4096) {
            return Err(no_fat("its sectors have an impossible size"));
        }
        if !boot.cluster_sectors.is_power_of_two() || boot.fats == 0 || boot.reserved == 0 {
            return Err(no_fat("it has no clusters, no table or no first sector"));
        }
        let cluster_bytes = u64::from(boot.cluster_sectors) * sector_bytes;
        let total = match boot.sectors_16 {
            0 => u64::from(boot.sectors_32),
            sectors => u64::from(sectors),
        };
        let fat_sectors = match boot.fat_sectors_16 {
            0 => u64::from(boot.fat_sectors_32),
            sectors => u64::from(sectors),
        };
        // All of these come from 16- and 32-bit fields: no sum or product below
        // can leave 64 bits.
        let root_bytes = u64::from(boot.root_entries) * ENTRY_BYTES as u64;
        let fat = u64::from(boot.reserved) * sector_bytes;
        let root = fat + u64::from(boot.fats) * fat_sectors * sector_bytes;
        let data = root + root_bytes.next_multiple_of(sector_bytes);
        let clusters = (total * sector_bytes).saturating_sub(data) / cluster_bytes;
        let width = match clusters {
            ..FEWEST_CLUSTERS_16 => return Err(no_fat("it has too few clusters")),
            FEWEST_CLUSTERS_16..FEWEST_CLUSTERS_32 => Width::Bits16,
            FEWEST_CLUSTERS_32.. => Width::Bits32,
        };
        if total * sector_bytes > len {
            return Err(no_fat("it is larger than its partition"));
        }
        let root = match width {
            Width::Bits16 => Root::Region(root, root_bytes),
            Width::Bits32 => Root::Chain(boot.root_cluster),
        };
        Ok(Self {
            device,
            start,
            len,
            width,
            sector_bytes,
            cluster_bytes,
            fat,
            fat_len: fat_sectors * sector_bytes,
            fats: boot.fats,
            data,
            clusters,
            root,
        })
    }

    /// Returns what is in the folder at `path`, or `None` when there is no such folder.
    pub(crate) fn list(&self, path: &str) -> Result<Option<Vec<Node>>, ReadFatError> {
        let Some(first) = self.find_folder(path)? else {
            return Ok(None);
        };
        Ok(Some(nodes(&self.read_chain(first)?)))
    }

    /// Returns the first cluster of the folder at `path`, if there is one.
    fn find_folder(&self, path: &str) -> Result<Option<u32>, ReadFatError> {
        let mut first = None;
        for wanted in path.split('/') {
            let content = match first {
                None => self.read_root()?,
                Some(cluster) => self.read_chain(cluster)?,
            };
            let mut folders = nodes(&content).into_iter().filter(|node| node.is_folder);
            let Some(folder) = folders.find(|node| node.name.eq_ignore_ascii_case(wanted)) else {
                return Ok(None);
            };
            first = Some(folder.first_cluster);
        }
        Ok(first)
    }

    /// Returns the content of the folder at `path` and where on the device each of its
    /// clusters begins, or `None` when there is no such folder.
    pub(crate) fn map_folder(&self, path: &str) -> Result<Option<FolderMap>, ReadFatError> {
        let Some(first) = self.find_folder(path)? else {
            return Ok(None);
        };
        let content = self.read_chain(first)?;
        let mut chain = Chain::new(self, first);
        let mut clusters = Vec::new();
        while let Some(cluster) = chain.next()? {
            clusters.push(self.start.saturating_add(self.offset_of(cluster)));
        }
        Ok(Some(FolderMap {
            content,
            clusters,
            cluster_bytes: self.cluster_bytes,
            sector_bytes: self.sector_bytes,
        }))
    }

    /// Fills as much of `buffer` as `file` has from byte `offset` on, and returns how much.
    pub(crate) fn read_file(
        &self,
        file: &Node,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, ReadFatError> {
        let left = usize::try_from(file.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        let (mut rest, _) = buffer.split_at_mut(length);
        let mut position = offset;
        let mut chain = Chain::new(self, file.first_cluster);
        let mut start_of_cluster = 0;
        while !rest.is_empty() {
            let broken = || ReadFatError::BrokenChain {
                first: file.first_cluster,
            };
            let cluster = chain.next()?.ok_or_else(broken)?;
            let end_of_cluster = start_of_cluster + self.cluster_bytes;
            if position < end_of_cluster {
                let here = usize::try_from(end_of_cluster - position).unwrap_or(usize::MAX);
                let (part, behind) = rest.split_at_mut(here.min(rest.len()));
                self.read(self.offset_of(cluster) + position - start_of_cluster, part)?;
                position += part.len() as u64;
                rest = behind;
            }
            start_of_cluster = end_of_cluster;
        }
        Ok(length)
    }

    /// Returns where on the device the bytes of `file` lie, in their order; parts that
    /// follow each other are one.
    pub(crate) fn extents(&self, file: &Node) -> Result<Vec<Range<u64>>, ReadFatError> {
        let mut extents: Vec<Range<u64>> = Vec::new();
        let mut left = file.size;
        let mut chain = Chain::new(self, file.first_cluster);
        while left > 0 {
            let broken = || ReadFatError::BrokenChain {
                first: file.first_cluster,
            };
            let cluster = chain.next()?.ok_or_else(broken)?;
            let start = self.start.saturating_add(self.offset_of(cluster));
            let end = start.saturating_add(self.cluster_bytes.min(left));
            left = left.saturating_sub(self.cluster_bytes);
            match extents.last_mut() {
                Some(last) if last.end == start => last.end = end,
                Some(_) | None => extents.push(start..end),
            }
        }
        Ok(extents)
    }

    /// Returns what is in the root folder.
    pub(crate) fn root_folder(&self) -> Folder {
        match self.root {
            Root::Region(..) => Folder::Root,
            Root::Chain(first) => Folder::At(first),
        }
    }

    /// Returns the content of a folder whose clusters are known.
    pub(crate) fn read_folder(
        &self,
        folder: Folder,
        clusters: &[u32],
    ) -> Result<Vec<u8>, ReadFatError> {
        if matches!(folder, Folder::Root) {
            return self.read_root();
        }
        let mut content = Vec::new();
        let mut cluster_content = vec![0; usize::try_from(self.cluster_bytes).unwrap_or_default()];
        for cluster in clusters {
            self.read(self.offset_of(*cluster), &mut cluster_content)?;
            content.extend_from_slice(&cluster_content);
        }
        Ok(content)
    }

    /// Returns the number of copies of the FAT.
    pub(crate) fn fats(&self) -> u8 {
        self.fats
    }

    /// Returns the number of clusters, and how many bytes each has.
    pub(crate) fn clusters(&self) -> (u64, u64) {
        (self.clusters, self.cluster_bytes)
    }

    /// Reads a whole copy of the FAT: what follows each cluster, from number 0 on.
    pub(crate) fn read_table(&self, copy: u8) -> Result<Vec<u32>, ReadFatError> {
        let width = match self.width {
            Width::Bits16 => 2,
            Width::Bits32 => 4,
        };
        let bytes = self.clusters.saturating_add(2).saturating_mul(width);
        if bytes > self.fat_len.min(MAX_FAT_BYTES) {
            return Err(ReadFatError::NoFat {
                why: "its table has no room for its clusters, or more than any ESP needs",
            });
        }
        let start = self.fat_len.saturating_mul(u64::from(copy));
        let mut table = vec![0; usize::try_from(bytes).unwrap_or_default()];
        self.read(self.fat.saturating_add(start), &mut table)?;
        Ok(match self.width {
            Width::Bits16 => {
                let (entries, _) = table.as_chunks();
                let entries = entries.iter().map(|entry| u16::from_le_bytes(*entry));
                entries.map(after_16).collect()
            }
            Width::Bits32 => {
                let (entries, _) = table.as_chunks();
                let entries = entries.iter().map(|entry| u32::from_le_bytes(*entry));
                entries.map(after_32).collect()
            }
        })
    }

    fn read_root(&self) -> Result<Vec<u8>, ReadFatError> {
        match self.root {
            Root::Region(offset, bytes) => {
                let mut region = vec![0; usize::try_from(bytes).unwrap_or_default()];
                self.read(offset, &mut region)?;
                Ok(region)
            }
            Root::Chain(first) => self.read_chain(first),
        }
    }

    /// Reads a folder, which ends with its chain.
    fn read_chain(&self, first: u32) -> Result<Vec<u8>, ReadFatError> {
        let mut chain = Chain::new(self, first);
        let mut bytes = Vec::new();
        let mut cluster_content = vec![0; usize::try_from(self.cluster_bytes).unwrap_or_default()];
        while let Some(cluster) = chain.next()? {
            if bytes.len() as u64 >= MAX_FOLDER_BYTES {
                return Err(ReadFatError::EndlessFolder { first });
            }
            self.read(self.offset_of(cluster), &mut cluster_content)?;
            bytes.extend_from_slice(&cluster_content);
        }
        Ok(bytes)
    }

    /// Returns where in the partition a cluster begins. It has been checked to exist.
    fn offset_of(&self, cluster: u32) -> u64 {
        let before = u64::from(cluster).saturating_sub(2);
        self.data
            .saturating_add(before.saturating_mul(self.cluster_bytes))
    }

    fn has(&self, cluster: u32) -> bool {
        (2..self.clusters.saturating_add(2)).contains(&u64::from(cluster))
    }

    /// Returns what the FAT says comes after `cluster`.
    fn after(&self, cluster: u32) -> Result<u32, ReadFatError> {
        let cluster = u64::from(cluster);
        match self.width {
            Width::Bits16 => {
                let mut next = [0; 2];
                self.read(self.fat.saturating_add(2 * cluster), &mut next)?;
                Ok(after_16(u16::from_le_bytes(next)))
            }
            Width::Bits32 => {
                let mut next = [0; 4];
                self.read(self.fat.saturating_add(4 * cluster), &mut next)?;
                Ok(after_32(u32::from_le_bytes(next)))
            }
        }
    }

    /// Reads within the partition, and nowhere else.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadFatError> {
        let end = offset.saturating_add(buffer.len() as u64);
        let outside = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let inside = (end <= self.len).then_some(()).ok_or_else(outside);
        let read = inside.and_then(|()| {
            self.device
                .read_at(self.start.saturating_add(offset), buffer)
        });
        read.map_err(|source| ReadFatError::Read { offset, source })
    }
}

/// What follows the last cluster of a chain.
pub(crate) const END_OF_CHAIN: u32 = u32::MAX;

fn after_16(entry: u16) -> u32 {
    match entry {
        0xfff8.. => END_OF_CHAIN,
        next => u32::from(next),
    }
}

fn after_32(entry: u32) -> u32 {
    // The upper four bits are reserved.
    match entry & 0x0fff_ffff {
        0x0fff_fff8.. => END_OF_CHAIN,
        next => next,
    }
}

/// Where the content of a folder begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Folder {
    /// In a place of its own, on FAT16.
    Root,
    At(u32),
}

/// The clusters of a file or folder, one after the other.
struct Chain<'f, 'd, D> {
    fat: &'f Fat<'d, D>,
    first: u32,
    next: Next,
    /// A chain that is longer than there are clusters runs in circles.
    left: u64,
}

enum Next {
    Is(u32),
    Follows(u32),
}

impl<'f, 'd, D: Device> Chain<'f, 'd, D> {
    fn new(fat: &'f Fat<'d, D>, first: u32) -> Self {
        Self {
            fat,
            first,
            next: Next::Is(first),
            left: fat.clusters,
        }
    }

    fn next(&mut self) -> Result<Option<u32>, ReadFatError> {
        let broken = ReadFatError::BrokenChain { first: self.first };
        let cluster = match self.next {
            Next::Is(first) => first,
            Next::Follows(before) => self.fat.after(before)?,
        };
        if cluster == END_OF_CHAIN {
            self.next = Next::Is(END_OF_CHAIN);
            return Ok(None);
        }
        if !self.fat.has(cluster) || self.left == 0 {
            return Err(broken);
        }
        self.left -= 1;
        self.next = Next::Follows(cluster);
        Ok(Some(cluster))
    }
}

/// The fields of the first sector that matter here.
struct BootSector {
    sector_bytes: u16,
    cluster_sectors: u8,
    reserved: u16,
    fats: u8,
    root_entries: u16,
    sectors_16: u16,
    fat_sectors_16: u16,
    sectors_32: u32,
    fat_sectors_32: u32,
    root_cluster: u32,
}

impl BootSector {
    fn parse(sector: &[u8; 512]) -> Option<Self> {
        if !sector.ends_with(&[0x55, 0xaa]) {
            return None;
        }
        let mut fields = Fields(sector);
        let _jump_and_name: [u8; 11] = fields.take()?;
        let sector_bytes = fields.u16()?;
        let [cluster_sectors] = fields.take()?;
        let reserved = fields.u16()?;
        let [fats] = fields.take()?;
        let root_entries = fields.u16()?;
        let sectors_16 = fields.u16()?;
        let [_media] = fields.take()?;
        let fat_sectors_16 = fields.u16()?;
        let _tracks_heads_hidden: [u8; 8] = fields.take()?;
        let sectors_32 = fields.u32()?;
        let fat_sectors_32 = fields.u32()?;
        let _flags_and_version: [u8; 4] = fields.take()?;
        let root_cluster = fields.u32()?;
        Some(Self {
            sector_bytes,
            cluster_sectors,
            reserved,
            fats,
            root_entries,
            sectors_16,
            fat_sectors_16,
            sectors_32,
            fat_sectors_32,
            root_cluster,
        })
    }
}
