//! The daemon's own node, but for its EFI system partition.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};

use partition_layout::{BootEntry, RootHash, Slot, Version};
use release::Digest;
use rustix::fs::{major, minor};
use updater::host::{Paths, ThisNode};
use updater::ports::{
    BootControl, Console, DiskQueue, DiskView, KeptPieces, Leftover, Pace, Part, Power, Record,
    Records, Restart, Slots, Stop, Stopped, Verdict,
};
use updater::pstore::DumpFile;
use updater::scrub::kernel::KernelBlocks;
use updater::scrub::proven::Proven;

use crate::esp::EspFolder;
use crate::{Arguments, Failure};

/// Partitions 2 and 3 of a node's disk are the root and the hash tree of slot A.
const BOOTED: [u32; 2] = [2, 3];

pub(crate) struct BenchNode {
    real: ThisNode,
    esp: EspFolder,
}

impl BenchNode {
    pub(crate) fn new(arguments: &Arguments, bus: zbus::Connection) -> Result<Self, Failure> {
        let folder = &arguments.node;
        let at = |name: &str| folder.join(name);
        let disk = arguments.disk.file_name().ok_or("the disk has no name")?;
        let disk = disk.to_str().ok_or("the disk's name is no text")?;

        // The folder's own file system is the root, and stands on slot A.
        let device = fs::metadata(folder)?.dev();
        let device = format!("{}:{}", major(device), minor(device));
        let slaves = at("sys/dev/block").join(device).join("slaves");
        fs::create_dir_all(&slaves)?;
        symlink("/sys/block", at("sys/block"))?;
        for number in BOOTED {
            let partition = format!("{disk}p{number}");
            symlink(
                format!("/sys/block/{disk}/{partition}"),
                slaves.join(partition),
            )?;
        }
        fs::write(at("cmdline"), format!("roothash={}\n", arguments.root_hash))?;
        fs::write(
            at("os-release"),
            format!("IMAGE_VERSION={}\n", arguments.booted),
        )?;
        fs::create_dir_all(at("state"))?;
        Self::again(arguments, bus)
    }

    /// Opens the node once more: the daemon reads the images through beside its hands.
    pub(crate) fn again(arguments: &Arguments, bus: zbus::Connection) -> Result<Self, Failure> {
        let folder = &arguments.node;
        let at = |name: &str| folder.join(name);
        let paths = Paths {
            root: folder.clone(),
            sys: at("sys"),
            kernel_command_line: at("cmdline"),
            os_release: at("os-release"),
            efi_variables: at("efivars"),
            state: at("state"),
            settled: at("settled"),
            console: "/dev/null".into(),
            dumps: Vec::new(),
            control_groups: arguments.control_groups.clone(),
            ..Paths::default()
        };
        Ok(Self {
            real: ThisNode::find(paths, bus)?,
            esp: EspFolder::new(at("esp")),
        })
    }
}

impl Slots for BenchNode {
    fn view(&self) -> io::Result<DiskView> {
        self.real.view()
    }

    fn write(&self, slot: Slot, part: Part, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.real.write(slot, part, offset, bytes)
    }

    fn flush(&self, slot: Slot, part: Part) -> io::Result<()> {
        self.real.flush(slot, part)
    }

    fn read_medium(
        &self,
        slot: Slot,
        part: Part,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        self.real.read_medium(slot, part, offset, buffer)
    }

    fn relabel(&self, slot: Slot, held: Option<(&Version, &RootHash)>) -> io::Result<()> {
        self.real.relabel(slot, held)
    }

    fn mend(&self, booted: Slot, proven: &Proven) -> io::Result<()> {
        self.real.mend(booted, proven)
    }
}

impl Pace for BenchNode {
    fn step(&self, bytes: u64, stop: &Stop) -> Result<(), Stopped> {
        self.real.step(bytes, stop)
    }

    fn stand(&self, place: DiskQueue) -> io::Result<()> {
        self.real.stand(place)
    }
}

impl BootControl for BenchNode {
    fn entries(&self) -> io::Result<Vec<BootEntry>> {
        self.esp.entries()
    }

    fn mend_names(&self) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, entry: &BootEntry) -> io::Result<()> {
        self.esp.remove(&entry.file_name())
    }

    fn remove_others(&self, _booted: &Version, _root_hash: &RootHash) -> io::Result<()> {
        Ok(())
    }

    fn leftover(&self) -> io::Result<Leftover> {
        self.esp.leftover()
    }

    fn remove_temporary(&self) -> io::Result<()> {
        self.esp.remove(partition_layout::TEMPORARY_NAME)
    }

    fn room(&self) -> io::Result<u64> {
        self.esp.room()
    }

    fn begin_temporary(&self, _size: u64) -> io::Result<()> {
        self.esp.begin_temporary()
    }

    fn write_temporary(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.esp.write_temporary(offset, bytes)
    }

    fn flush_temporary(&self) -> io::Result<()> {
        self.esp.flush_temporary()
    }

    fn read_temporary(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.esp.read_temporary(offset, buffer)
    }

    fn read_entry(&self, entry: &BootEntry, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.esp.read_entry(&entry.file_name(), offset, buffer)
    }

    fn mend_entry(&self, _entry: &BootEntry, _sound: &KernelBlocks) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn publish_temporary(&self, entry: &BootEntry) -> io::Result<()> {
        self.esp
            .rename(partition_layout::TEMPORARY_NAME, &entry.file_name())
    }

    fn rename(&self, from: &BootEntry, to: &BootEntry) -> io::Result<()> {
        self.esp.rename(&from.file_name(), &to.file_name())
    }

    fn has_variables(&self) -> bool {
        self.real.has_variables()
    }

    fn set_one_shot(&self, entry: &BootEntry) -> io::Result<()> {
        self.real.set_one_shot(entry)
    }

    fn clear_one_shot(&self) -> io::Result<()> {
        self.real.clear_one_shot()
    }

    fn release(&self) {
        self.real.release();
    }
}

impl KeptPieces for BenchNode {
    fn replay(&self, blob: &Digest, sink: &mut dyn FnMut(u64, &[u8]) -> Verdict) -> io::Result<()> {
        self.real.replay(blob, sink)
    }

    fn keep(&self, blob: &Digest, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.real.keep(blob, offset, bytes)
    }

    fn forget_pieces(&self) -> io::Result<()> {
        self.real.forget_pieces()
    }
}

impl Records for BenchNode {
    fn read(&self, record: Record) -> io::Result<Option<Vec<u8>>> {
        self.real.read(record)
    }

    fn replace(&self, record: Record, content: &[u8]) -> io::Result<()> {
        self.real.replace(record, content)
    }

    fn remove(&self, record: Record) -> io::Result<()> {
        Records::remove(&self.real, record)
    }

    fn mark_settled(&self) -> io::Result<()> {
        self.real.mark_settled()
    }

    fn is_settled(&self) -> io::Result<bool> {
        self.real.is_settled()
    }

    fn boot_id(&self) -> io::Result<String> {
        self.real.boot_id()
    }

    fn dumps(&self) -> Vec<DumpFile> {
        self.real.dumps()
    }
}

impl Console for BenchNode {
    fn say(&self, line: &str) -> io::Result<()> {
        self.real.say(line)
    }
}

impl Power for BenchNode {
    fn reboot(&self, restart: Restart) -> io::Result<()> {
        self.real.reboot(restart)
    }
}
