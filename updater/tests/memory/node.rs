//! A node whose spare slot is two files with holes in them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use partition_layout::{BootEntry, RootHash, Slot, SlotContent, TEMPORARY_NAME, Version};
use release::Digest;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use updater::ports::{
    BootControl, Console, DiskQueue, DiskView, KeptPieces, Leftover, Pace, Part, Power, Record,
    Records, Restart, SlotOnDisk, Slots, Stop, Stopped, Verdict,
};
use updater::pstore::DumpFile;
use updater::scrub::kernel::KernelBlocks;
use updater::scrub::proven::Proven;
use verity::ReadAt;

use crate::image::Image;

#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) booted: Image,
    pub(crate) booted_version: Version,
    pub(crate) booted_root_hash: RootHash,
    pub(crate) booted_tree: File,
    pub(crate) root: File,
    pub(crate) verity: File,
}

#[derive(Debug, Default)]
struct Small {
    held: Option<(Version, RootHash)>,
    /// The kernel images, by their names.
    kernels: HashMap<String, Vec<u8>>,
    records: HashMap<Record, Vec<u8>>,
    settled: bool,
}

/// A handle to the node; clones are the same node.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    parts: Arc<Parts>,
    small: Arc<Mutex<Small>>,
}

pub(crate) fn file(path: &Path, len: u64) -> File {
    let mut file = File::options();
    let file = file.read(true).write(true).create_new(true).open(path);
    let file = file.unwrap();
    file.set_len(len).unwrap();
    file
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Self {
        let name = BootEntry::good(parts.booted_version.clone()).file_name();
        let small = Small {
            kernels: HashMap::from([(name, b"the kernel that runs".to_vec())]),
            ..Small::default()
        };
        Self {
            parts: Arc::new(parts),
            small: Arc::new(Mutex::new(small)),
        }
    }

    fn small(&self) -> MutexGuard<'_, Small> {
        self.small.lock().unwrap()
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        let mut names: Vec<_> = self.small().kernels.keys().cloned().collect();
        names.sort();
        names
    }

    fn spare(&self, part: Part) -> &File {
        match part {
            Part::Root => &self.parts.root,
            Part::Verity => &self.parts.verity,
        }
    }
}

impl Slots for Node {
    fn view(&self) -> io::Result<DiskView> {
        let len = |file: &File| file.metadata().map(|metadata| metadata.len());
        let (root_len, verity_len) = (len(&self.parts.root)?, len(&self.parts.verity)?);
        let on_disk = |held: Option<(Version, RootHash)>| SlotOnDisk {
            content: match held {
                Some((version, root_hash)) => SlotContent::Holds { version, root_hash },
                None => SlotContent::Empty,
            },
            root_len,
            verity_len,
        };
        let (version, root_hash) = (&self.parts.booted_version, self.parts.booted_root_hash);
        Ok(DiskView {
            booted: Slot::A,
            booted_version: version.clone(),
            booted_root_hash: root_hash,
            a: on_disk(Some((version.clone(), root_hash))),
            b: Some(on_disk(self.small().held.clone())),
        })
    }

    fn write(&self, slot: Slot, part: Part, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert_eq!(slot, Slot::B);
        let file = self.spare(part);
        if bytes.iter().all(|byte| *byte == 0) {
            // Room on this machine's disk is not what is tried here.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let len = u64::try_from(bytes.len()).unwrap();
            return Ok(fallocate(file, flags, offset, len)?);
        }
        file.write_all_at(bytes, offset)
    }

    fn flush(&self, _slot: Slot, part: Part) -> io::Result<()> {
        let file = self.spare(part);
        file.sync_data()?;
        Ok(fadvise(file, 0, None, Advice::DontNeed)?)
    }

    fn read_medium(
        &self,
        slot: Slot,
        part: Part,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        match (slot, part) {
            (Slot::A, Part::Root) => self.parts.booted.read_exact_at(buffer, offset),
            (Slot::A, Part::Verity) => {
                FileExt::read_exact_at(&self.parts.booted_tree, buffer, offset)
            }
            (Slot::B, part) => FileExt::read_exact_at(self.spare(part), buffer, offset),
        }
    }

    fn relabel(&self, _slot: Slot, held: Option<(&Version, &RootHash)>) -> io::Result<()> {
        self.small().held = held.map(|(version, root_hash)| (version.clone(), *root_hash));
        Ok(())
    }

    fn mend(&self, _booted: Slot, _proven: &Proven) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Pace for Node {
    fn step(&self, _bytes: u64, stop: &Stop) -> Result<(), Stopped> {
        stop.checkpoint()
    }

    fn stand(&self, _place: DiskQueue) -> io::Result<()> {
        Ok(())
    }
}

impl BootControl for Node {
    fn entries(&self) -> io::Result<Vec<BootEntry>> {
        let names = Self::entries(self).into_iter();
        Ok(names
            .filter_map(|name| BootEntry::parse_file_name(&name).ok())
            .collect())
    }

    fn mend_names(&self) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, entry: &BootEntry) -> io::Result<()> {
        self.small().kernels.remove(&entry.file_name());
        Ok(())
    }

    fn remove_others(&self, _booted: &Version, _root_hash: &RootHash) -> io::Result<()> {
        Ok(())
    }

    fn leftover(&self) -> io::Result<Leftover> {
        let small = self.small();
        Ok(Leftover::among(small.kernels.keys().map(String::as_str)))
    }

    fn remove_temporary(&self) -> io::Result<()> {
        self.small().kernels.remove(TEMPORARY_NAME);
        Ok(())
    }

    fn room(&self) -> io::Result<u64> {
        Ok(1 << 20)
    }

    fn begin_temporary(&self, _size: u64) -> io::Result<()> {
        let mut small = self.small();
        small.kernels.insert(TEMPORARY_NAME.to_owned(), Vec::new());
        Ok(())
    }

    fn write_temporary(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut small = self.small();
        let kernel = small.kernels.get_mut(TEMPORARY_NAME).unwrap();
        kernel.truncate(usize::try_from(offset).unwrap());
        kernel.extend_from_slice(bytes);
        Ok(())
    }

    fn flush_temporary(&self) -> io::Result<()> {
        Ok(())
    }

    fn read_temporary(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let small = self.small();
        small.kernels[TEMPORARY_NAME]
            .as_slice()
            .read_exact_at(buffer, offset)
    }

    fn read_entry(&self, entry: &BootEntry, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let small = self.small();
        let kernel = small.kernels.get(&entry.file_name());
        let kernel = kernel.ok_or(io::ErrorKind::NotFound)?;
        let rest = &kernel[usize::try_from(offset).unwrap().min(kernel.len())..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn mend_entry(&self, _entry: &BootEntry, _sound: &KernelBlocks) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn publish_temporary(&self, entry: &BootEntry) -> io::Result<()> {
        let mut small = self.small();
        let kernel = small.kernels.remove(TEMPORARY_NAME).unwrap();
        small.kernels.insert(entry.file_name(), kernel);
        Ok(())
    }

    fn rename(&self, from: &BootEntry, to: &BootEntry) -> io::Result<()> {
        let mut small = self.small();
        let kernel = small.kernels.remove(&from.file_name()).unwrap();
        small.kernels.insert(to.file_name(), kernel);
        Ok(())
    }

    fn has_variables(&self) -> bool {
        false
    }

    fn set_one_shot(&self, _entry: &BootEntry) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn clear_one_shot(&self) -> io::Result<()> {
        Ok(())
    }

    fn release(&self) {}
}

impl Records for Node {
    fn read(&self, record: Record) -> io::Result<Option<Vec<u8>>> {
        Ok(self.small().records.get(&record).cloned())
    }

    fn replace(&self, record: Record, content: &[u8]) -> io::Result<()> {
        self.small().records.insert(record, content.to_vec());
        Ok(())
    }

    fn remove(&self, record: Record) -> io::Result<()> {
        self.small().records.remove(&record);
        Ok(())
    }

    fn mark_settled(&self) -> io::Result<()> {
        self.small().settled = true;
        Ok(())
    }

    fn is_settled(&self) -> io::Result<bool> {
        Ok(self.small().settled)
    }

    fn boot_id(&self) -> io::Result<String> {
        Ok("boot".to_owned())
    }

    fn dumps(&self) -> Vec<DumpFile> {
        Vec::new()
    }
}

/// Its `/var` is full.
impl KeptPieces for Node {
    fn replay(
        &self,
        _blob: &Digest,
        _sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> io::Result<()> {
        Ok(())
    }

    fn keep(&self, _blob: &Digest, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn forget_pieces(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Console for Node {
    fn say(&self, _line: &str) -> io::Result<()> {
        Ok(())
    }
}

impl Power for Node {
    fn reboot(&self, _restart: Restart) -> io::Result<()> {
        Ok(())
    }
}
