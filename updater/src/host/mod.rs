//! The real node: its disk, its EFI system partition, its firmware's variables,
//! its records, its switch. Nothing here decides; every path comes in.

mod aligned;
mod clock;
mod disk;
pub(crate) mod durable;
mod esp;
mod io_class;
mod names;
mod pieces;
mod power;
mod pressure;
mod pstore;
mod queue;
mod records;
mod sysfs;
#[cfg(test)]
mod tests;
mod variables;
mod write_behind;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use partition_layout::{BootEntry, RootHash, Slot, TEMPORARY_NAME, Version};
use release::Digest;
use rustix::fs::OFlags;

pub use self::clock::SystemClock;
use self::disk::Disk;
use self::esp::{Esp, MountedEsp, Purpose};
use self::pieces::PieceFile;
pub use self::power::Switch;
pub use self::pressure::OtherGroups;
use self::records::RecordFolder;
pub use self::sysfs::FindDiskError;
use self::sysfs::RootDevice;
use self::variables::Variables;
use crate::pace::{Pacer, Rests};
use crate::ports::{
    BootControl, Console, DiskQueue, DiskView, KeptPieces, Leftover, Pace, Part, Power, Record,
    Records, Restart, Slots, Stop, Stopped, Verdict,
};
use crate::pstore::DumpFile;
use crate::scrub::kernel::KernelBlocks;
use crate::scrub::proven::Proven;

/// Where the real node's parts lie.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The root file system, whose device is the booted slot.
    pub root: PathBuf,
    pub sys: PathBuf,
    pub dev: PathBuf,
    pub kernel_command_line: PathBuf,
    pub boot_id: PathBuf,
    pub os_release: PathBuf,
    pub machine_id: PathBuf,
    /// Where the EFI system partition is mounted while it is used.
    pub esp_mount: PathBuf,
    pub efi_variables: PathBuf,
    pub state: PathBuf,
    pub settled: PathBuf,
    pub console: PathBuf,
    /// Where dumps of kernels that panicked lie.
    pub dumps: Vec<PathBuf>,
    /// The tree of control groups, and where in it this program is.
    pub control_groups: PathBuf,
    pub own_group: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            root: "/".into(),
            sys: "/sys".into(),
            dev: "/dev".into(),
            kernel_command_line: "/proc/cmdline".into(),
            boot_id: "/proc/sys/kernel/random/boot_id".into(),
            os_release: "/usr/lib/os-release".into(),
            machine_id: "/etc/machine-id".into(),
            esp_mount: "/run/bistable/esp".into(),
            efi_variables: "/sys/firmware/efi/efivars".into(),
            state: "/var/lib/bistable".into(),
            settled: "/run/bistable/settled".into(),
            console: "/dev/console".into(),
            dumps: vec!["/sys/fs/pstore".into(), "/var/lib/systemd/pstore".into()],
            control_groups: "/sys/fs/cgroup".into(),
            own_group: "/proc/self/cgroup".into(),
        }
    }
}

/// The node that this program runs on.
#[derive(Debug)]
pub struct ThisNode {
    disk: Disk,
    esp: Esp,
    variables: Variables,
    records: RecordFolder,
    pieces: PieceFile,
    switch: Switch,
    console: PathBuf,
    dumps: Vec<PathBuf>,
    pacer: Pacer<OtherGroups, SystemClock>,
}

impl ThisNode {
    /// Finds the disk that the running root stands on.
    pub fn find(paths: Paths, bus: zbus::Connection) -> Result<Self, FindDiskError> {
        let device = RootDevice::find(&paths)?;
        let others = OtherGroups::new(paths.control_groups.clone(), &paths.own_group);
        let pacer = Pacer::new(others, SystemClock);
        Ok(Self {
            esp: Esp::new(paths.esp_mount.clone()),
            variables: Variables::new(paths.efi_variables.clone()),
            records: RecordFolder::new(&paths),
            pieces: PieceFile::new(paths.state.join("kernel.pieces")),
            switch: Switch::new(bus),
            console: paths.console.clone(),
            dumps: paths.dumps.clone(),
            disk: Disk::new(device, paths, pacer.company()),
            pacer,
        })
    }
}

impl ThisNode {
    /// Has it only read the slots, so that another may work with them at the same time.
    #[must_use]
    pub fn only_reading(mut self) -> Self {
        self.disk = self.disk.only_reading();
        self
    }

    /// Returns the counts of the rests that its work has taken.
    pub fn rests(&self) -> Rests {
        self.pacer.rests()
    }
}

impl Slots for ThisNode {
    fn view(&self) -> io::Result<DiskView> {
        self.disk.view()
    }

    fn write(&self, slot: Slot, part: Part, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(slot, part, offset, bytes)
    }

    fn flush(&self, slot: Slot, part: Part) -> io::Result<()> {
        self.disk.flush(slot, part)
    }

    fn read_medium(
        &self,
        slot: Slot,
        part: Part,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        self.disk.read_medium(slot, part, offset, buffer)
    }

    fn relabel(&self, slot: Slot, held: Option<(&Version, &RootHash)>) -> io::Result<()> {
        self.disk.relabel(slot, held)
    }

    fn mend(&self, slot: Slot, proven: &Proven) -> io::Result<()> {
        self.disk.mend(slot, proven)
    }
}

impl ThisNode {
    fn esp(&self, purpose: Purpose) -> io::Result<MountedEsp<'_>> {
        self.esp.mounted(|| self.disk.esp_path(), purpose)
    }
}

impl Pace for ThisNode {
    fn step(&self, bytes: u64, stop: &Stop) -> Result<(), Stopped> {
        self.pacer.step(bytes, stop)
    }

    fn stand(&self, place: DiskQueue) -> io::Result<()> {
        io_class::stand(place)
    }
}

impl BootControl for ThisNode {
    fn entries(&self) -> io::Result<Vec<BootEntry>> {
        self.esp(Purpose::Look)?.entries()
    }

    fn mend_names(&self) -> io::Result<()> {
        self.esp.mend_names(|| self.disk.esp_path())
    }

    fn remove(&self, entry: &BootEntry) -> io::Result<()> {
        let is_meant = |name: &str| BootEntry::parse_file_name(name).as_ref() == Ok(entry);
        self.esp.remove(|| self.disk.esp_path(), is_meant)
    }

    fn remove_others(&self, booted: &Version, root_hash: &RootHash) -> io::Result<()> {
        self.esp
            .remove_others(|| self.disk.esp_path(), booted, root_hash)
    }

    fn leftover(&self) -> io::Result<Leftover> {
        self.esp(Purpose::Look)?.leftover()
    }

    fn remove_temporary(&self) -> io::Result<()> {
        let removed = self.esp(Purpose::Change)?.remove_temporary();
        // What follows may take hours, and does not need it.
        self.esp.unmount();
        removed
    }

    fn room(&self) -> io::Result<u64> {
        let room = self.esp(Purpose::Look)?.room();
        self.esp.unmount();
        room
    }

    fn begin_temporary(&self, size: u64) -> io::Result<()> {
        self.esp(Purpose::Change)?.begin_temporary(size)
    }

    fn write_temporary(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.esp(Purpose::Change)?.write_temporary(offset, bytes)
    }

    fn flush_temporary(&self) -> io::Result<()> {
        self.esp(Purpose::Change)?.flush_temporary()
    }

    fn read_temporary(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.esp(Purpose::Look)?.read_temporary(offset, buffer)
    }

    fn read_entry(&self, entry: &BootEntry, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.esp(Purpose::Look)?.read_entry(entry, offset, buffer)
    }

    fn mend_entry(&self, entry: &BootEntry, sound: &KernelBlocks) -> io::Result<()> {
        self.esp(Purpose::Change)?.mend_entry(entry, sound)
    }

    fn publish_temporary(&self, entry: &BootEntry) -> io::Result<()> {
        let is_temporary = |name: &str| name.eq_ignore_ascii_case(TEMPORARY_NAME);
        self.esp
            .rename(|| self.disk.esp_path(), is_temporary, entry)
    }

    fn rename(&self, from: &BootEntry, to: &BootEntry) -> io::Result<()> {
        // Equal entries may have different names: `+09` is `+9` too.
        let is_from = |name: &str| BootEntry::parse_file_name(name).is_ok_and(|it| it == *from);
        self.esp.rename(|| self.disk.esp_path(), is_from, to)
    }

    fn has_variables(&self) -> bool {
        self.variables.are_there()
    }

    fn set_one_shot(&self, entry: &BootEntry) -> io::Result<()> {
        self.variables.set_one_shot(entry, &self.entries()?)
    }

    fn clear_one_shot(&self) -> io::Result<()> {
        self.variables.clear_one_shot()
    }

    fn release(&self) {
        self.disk.release();
        self.esp.unmount();
    }
}

impl Records for ThisNode {
    fn read(&self, record: Record) -> io::Result<Option<Vec<u8>>> {
        self.records.read(record)
    }

    fn replace(&self, record: Record, content: &[u8]) -> io::Result<()> {
        self.records.replace(record, content)
    }

    fn remove(&self, record: Record) -> io::Result<()> {
        self.records.remove(record)
    }

    fn mark_settled(&self) -> io::Result<()> {
        self.records.mark_settled()
    }

    fn is_settled(&self) -> io::Result<bool> {
        self.records.is_settled()
    }

    fn boot_id(&self) -> io::Result<String> {
        self.records.boot_id()
    }

    fn dumps(&self) -> Vec<DumpFile> {
        pstore::read(&self.dumps)
    }
}

impl KeptPieces for ThisNode {
    fn replay(&self, blob: &Digest, sink: &mut dyn FnMut(u64, &[u8]) -> Verdict) -> io::Result<()> {
        self.pieces.replay(blob, sink)
    }

    fn keep(&self, blob: &Digest, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.pieces.keep(blob, offset, bytes)
    }

    fn forget_pieces(&self) -> io::Result<()> {
        self.pieces.forget()
    }
}

impl Console for ThisNode {
    fn say(&self, line: &str) -> io::Result<()> {
        // A serial line that nobody reads must not hold the hands up.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let mut options = OpenOptions::new();
        let mut console = options
            .write(true)
            .custom_flags(flags)
            .open(&self.console)?;
        // The console of a serial line wants the carriage back.
        console.write_all(format!("\r\nbistable: {line}\r\n").as_bytes())
    }
}

impl Power for ThisNode {
    fn reboot(&self, restart: Restart) -> io::Result<()> {
        self.switch.reboot(restart)
    }
}
