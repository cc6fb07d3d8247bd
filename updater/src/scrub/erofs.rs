//! Which file a block belongs to: as much of EROFS as it takes to tell.
//!
//! See the kernel's `fs/erofs/erofs_fs.h`. The image is known to be rotten, so
//! nothing in it is believed: what makes no sense ends the search there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use verity::ReadAt;

use super::{block_len, read_block};

const SUPERBLOCK: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
const BLOCK: u64 = 4096;
/// Inodes lie on multiples of this.
const SLOT: u64 = 32;
/// More folders and files than any image of ours has.
const ENTRIES: usize = 1 << 20;
const DEPTH: usize = 64;
/// The longest name of a file, in bytes.
const LONGEST_NAME: usize = 255;
/// The longest path that is told, in bytes: no system call takes a longer one. With
/// a name, it is what a folder costs that is still to be searched.
pub const LONGEST_PATH: usize = 4096;

const FILE_TYPE_REGULAR: u8 = 1;
const FILE_TYPE_FOLDER: u8 = 2;

/// Returns the paths of the files that hold the `wanted` blocks, as far as they
/// can be told. Blocks of the file system's own are no file's.
pub fn files_of(image: &impl ReadAt, wanted: &BTreeSet<u64>) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    if wanted.is_empty() {
        return found;
    }
    let Some(mut search) = Search::open(image, wanted) else {
        return found;
    };
    let mut folders = vec![(search.root, String::new(), 0)];
    while let Some((folder, path, depth)) = folders.pop() {
        for entry in search.entries(folder) {
            let path = format!("{path}/{}", entry.name);
            if path.len() > LONGEST_PATH {
                continue;
            }
            match entry.kind {
                FILE_TYPE_FOLDER if depth < DEPTH => folders.push((entry.inode, path, depth + 1)),
                FILE_TYPE_REGULAR => {
                    let Some(blocks) = search
                        .inode(entry.inode)
                        .and_then(|inode| search.extent(&inode))
                    else {
                        continue;
                    };
                    for block in wanted.range(blocks) {
                        found.insert(*block, path.clone());
                    }
                }
                _ => {}
            }
        }
        if found.len() == wanted.len() || search.left == 0 {
            break;
        }
    }
    found
}

struct Search<'a, R> {
    image: &'a R,
    /// Never read: they are rotten.
    rotten: &'a BTreeSet<u64>,
    /// Where inodes are counted from, in bytes.
    inodes: u64,
    root: u64,
    left: usize,
}

struct Inode {
    /// Where its own header ends, in bytes.
    end: u64,
    layout: u16,
    size: u64,
    /// The first block, or how many blocks there are.
    value: u64,
}

struct Entry {
    inode: u64,
    kind: u8,
    name: String,
}

impl<'a, R: ReadAt> Search<'a, R> {
    fn open(image: &'a R, rotten: &'a BTreeSet<u64>) -> Option<Self> {
        let mut search = Self {
            image,
            rotten,
            inodes: 0,
            root: 0,
            left: ENTRIES,
        };
        let block = search.block(0)?;
        let superblock = block.get(SUPERBLOCK..)?;
        let is_ours = u32_at(superblock, 0)? == MAGIC && *superblock.get(12)? == 12;
        if !is_ours {
            return None;
        }
        search.root = u64::from(u16_at(superblock, 14)?);
        search.inodes = u64::from(u32_at(superblock, 40)?).checked_mul(BLOCK)?;
        Some(search)
    }

    fn block(&self, number: u64) -> Option<Vec<u8>> {
        if self.rotten.contains(&number) {
            return None;
        }
        read_block(self.image, number).ok()
    }

    /// Returns `len` bytes at `offset`, which may go over the end of a block.
    fn bytes(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        let mut offset = offset;
        while bytes.len() < len {
            let block = self.block(offset / BLOCK)?;
            let rest = block.get(usize::try_from(offset % BLOCK).ok()?..)?;
            let part = rest.get(..rest.len().min(len.checked_sub(bytes.len())?))?;
            bytes.extend_from_slice(part);
            offset = offset.checked_add(u64::try_from(part.len()).ok()?)?;
        }
        Some(bytes)
    }

    fn inode(&self, number: u64) -> Option<Inode> {
        let start = number.checked_mul(SLOT)?.checked_add(self.inodes)?;
        let head = self.bytes(start, 32)?;
        let format = u16_at(&head, 0)?;
        let (len, size) = if format & 1 == 0 {
            (32, u64::from(u32_at(&head, 8)?))
        } else {
            (64, u64_at(&head, 8)?)
        };
        let attributes = match u64::from(u16_at(&head, 2)?) {
            0 => 0,
            count => 12 + (count - 1) * 4,
        };
        Some(Inode {
            end: start.checked_add(len)?.checked_add(attributes)?,
            layout: (format >> 1) & 7,
            size,
            value: u64::from(u32_at(&head, 16)?),
        })
    }

    /// Returns the blocks that a file alone has.
    fn extent(&self, inode: &Inode) -> Option<Range<u64>> {
        let (first, blocks) = match inode.layout {
            0 => (inode.value, inode.size.div_ceil(BLOCK)),
            // Its end lies behind the inode.
            2 => (inode.value, inode.size / BLOCK),
            // Compressed: all its clusters, one behind the other.
            1 => (self.first_cluster(inode)?, inode.value),
            3 => (self.first_compact_cluster(inode)?, inode.value),
            _ => return None,
        };
        Some(first..first.checked_add(blocks)?)
    }

    /// An index of 8 bytes for each cluster: behind the map's header and as much padding.
    fn first_cluster(&self, inode: &Inode) -> Option<u64> {
        let index = inode.end.checked_next_multiple_of(8)?.checked_add(16)?;
        Some(u64::from(u32_at(&self.bytes(index, 8)?, 4)?))
    }

    /// Indexes in packs, each with the place of its first cluster at its end.
    fn first_compact_cluster(&self, inode: &Inode) -> Option<u64> {
        const LARGE_CLUSTERS: u16 = 6;
        let header = inode.end.checked_next_multiple_of(8)?;
        let head = self.bytes(header, 8)?;
        let (advice, bits) = (u16_at(&head, 4)?, u32::from(*head.get(7)? & 7) + 12);
        let clusters = inode.size.div_ceil(1_u64.checked_shl(bits)?);
        let packs = header.checked_add(8)?;
        // Indexes of 4 bytes up to the next multiple of 32, then packs of 16 of 2 bytes.
        let small = (32 - packs % 32) / 4 % 8;
        let is_large = advice & 1 == 1 && small == 0 && clusters >= 16;
        let pack = if is_large { 32 } else { 8 };
        let base = u32_at(&self.bytes(packs, pack)?, pack - 4)?;
        // Of clusters of one block, the pack knows the one before the first.
        let before = u64::from(advice & LARGE_CLUSTERS == 0);
        u64::from(base).checked_add(before)
    }

    fn entries(&mut self, folder: u64) -> Vec<Entry> {
        let mut entries = Vec::new();
        let Some(inode) = self.inode(folder) else {
            return entries;
        };
        for number in 0..inode.size.div_ceil(BLOCK) {
            if self.left == 0 {
                break;
            }
            let rest = inode
                .size
                .saturating_sub(number.saturating_mul(BLOCK))
                .min(BLOCK);
            let is_inline = inode.layout == 2 && number == inode.size / BLOCK;
            let offset = match (inode.layout, is_inline) {
                (_, true) => Some(inode.end),
                (0 | 2, false) => inode
                    .value
                    .checked_add(number)
                    .and_then(|block| block.checked_mul(BLOCK)),
                _ => None,
            };
            let bytes = offset
                .zip(usize::try_from(rest).ok())
                .and_then(|(offset, rest)| self.bytes(offset, rest));
            let found = bytes.map(|bytes| in_block(&bytes)).unwrap_or_default();
            self.left = self.left.saturating_sub(found.len().max(1));
            entries.extend(found);
        }
        entries
    }
}

/// Entries of 12 bytes, and behind them their names.
fn in_block(bytes: &[u8]) -> Vec<Entry> {
    const LEN: usize = 12;
    let name_at = |index: usize| u16_at(bytes, index.checked_mul(LEN)?.checked_add(8)?);
    let count = name_at(0).map_or(0, |first| usize::from(first) / LEN);
    let entry = |index: usize| {
        let at = index * LEN;
        let start = usize::from(name_at(index)?);
        let end = if index + 1 < count {
            usize::from(name_at(index + 1)?)
        } else {
            bytes.len()
        };
        let name = bytes.get(start..end)?;
        let name = name.split(|byte| *byte == 0).next()?;
        if name == b"." || name == b".." || name.is_empty() || name.len() > LONGEST_NAME {
            return None;
        }
        Some(Entry {
            inode: u64_at(bytes, at)?,
            kind: *bytes.get(at + 10)?,
            name: String::from_utf8_lossy(name).into_owned(),
        })
    };
    (0..count.min(block_len() / LEN))
        .filter_map(entry)
        .collect()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let (bytes, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let (bytes, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let (bytes, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn make(options: &[&str], folder: &Path) -> Vec<u8> {
        let scratch = tempfile::tempdir().unwrap();
        let image = scratch.path().join("root.img");
        let made = host_tools::oracle("mkfs.erofs")
            .args(["-T0", "--all-root", "--quiet"])
            .args(options)
            .args([&image, folder])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        fs::read(&image).unwrap()
    }

    /// The blocks of a file, as erofs-utils tell them.
    fn told(image: &[u8], path: &str) -> Range<u64> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), image).unwrap();
        let dumped = host_tools::oracle("dump.erofs")
            .args(["-e", &format!("--path={path}")])
            .arg(file.path())
            .output()
            .unwrap();
        let text = String::from_utf8(dumped.stdout).unwrap();
        // `   0:        0..  65536 |   65536 :      12288..     16384 |    4096 `
        let mut all: Option<Range<u64>> = None;
        for line in text.lines().filter(|line| line.matches('|').count() == 2) {
            let Some((_, place)) = line.rsplit_once(" : ") else {
                continue;
            };
            let place = place.split('|').next().unwrap();
            let Some((start, end)) = place.split_once("..") else {
                continue;
            };
            let number = |text: &str| text.trim().parse::<u64>().unwrap();
            let (start, end) = (number(start), number(end));
            // An end that lies behind the inode is in a block of many files.
            if !start.is_multiple_of(BLOCK) {
                continue;
            }
            let blocks = start / BLOCK..end.div_ceil(BLOCK);
            all = Some(match all {
                None => blocks,
                Some(all) => all.start.min(blocks.start)..all.end.max(blocks.end),
            });
        }
        all.unwrap_or_else(|| panic!("no extents of {path}:\n{text}"))
    }

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("usr/lib/deep");
        fs::create_dir_all(&deep).unwrap();
        // Half of it compresses, as programs do.
        let bytes = |len: usize, seed: u64| -> Vec<u8> {
            let mut state = seed;
            let noise = std::iter::repeat_with(move || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_le_bytes()[7]
            });
            noise
                .enumerate()
                .map(|(at, byte)| if at / 64 % 2 == 0 { byte } else { 0x90 })
                .take(len)
                .collect()
        };
        for (name, len) in [
            ("usr/large", 3_000_000),
            ("usr/lib/medium", 70_001),
            ("usr/lib/deep/one-block", 4096),
            ("usr/lib/deep/small", 100),
        ] {
            fs::write(folder.path().join(name), bytes(len, len as u64)).unwrap();
        }
        for number in 0..400 {
            let name = format!("a-file-with-a-long-name-so-that-the-folder-grows-{number}");
            fs::write(deep.join(name), bytes(5000 + number, number as u64)).unwrap();
        }
        folder
    }

    #[test]
    fn each_block_of_a_file_leads_to_it_whatever_the_encoding() {
        let tree = tree();
        for options in [
            &[] as &[&str],
            &["-zlz4hc"],
            &["-zlz4hc,12", "-C65536"],
            &["-zlz4hc", "-Elegacy-compress"],
            &["-Eforce-inode-extended"],
        ] {
            let image = make(options, tree.path());
            for path in ["/usr/large", "/usr/lib/medium"] {
                let blocks = told(&image, path);
                let wanted: BTreeSet<u64> = [blocks.start, blocks.end - 1].into();
                let found = files_of(&image, &wanted);
                for block in wanted {
                    let found = found.get(&block).map(String::as_str);
                    assert_eq!(found, Some(path), "block {block} with {options:?}");
                }
            }
            // That of the superblock is no file's.
            assert!(files_of(&image, &[0].into()).is_empty());
        }
    }

    #[test]
    fn a_deep_folder_of_many_files_is_searched_to_its_end() {
        let tree = tree();
        let image = make(&[], tree.path());
        for number in [0, 199, 399] {
            let path =
                format!("/usr/lib/deep/a-file-with-a-long-name-so-that-the-folder-grows-{number}");
            let block = told(&image, &path).start;
            assert_eq!(files_of(&image, &[block].into()), [(block, path)].into());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn an_image_that_makes_no_sense_ends_the_search(
            spoilt in proptest::collection::vec((0_usize..16_384, any::<u8>()), 1..40),
            rotten in proptest::collection::btree_set(0_u64..8, 1..4),
        ) {
            use std::sync::LazyLock;
            static IMAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
                let folder = tempfile::tempdir().unwrap();
                fs::write(folder.path().join("file"), vec![7; 9000]).unwrap();
                fs::create_dir(folder.path().join("folder")).unwrap();
                make(&[], folder.path())
            });
            let mut image = IMAGE.clone();
            for (at, byte) in spoilt {
                let at = at % image.len();
                image[at] = byte;
            }
            // It ends, and names nothing that was not asked for.
            let found = files_of(&image, &rotten);
            prop_assert!(found.keys().all(|block| rotten.contains(block)));
        }
    }
}
