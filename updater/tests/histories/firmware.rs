//! The firmware, systemd-boot and PID 1 of such a node.

use std::collections::BTreeMap;
use std::io;

use inspector::{DiskProofs, Verdict};
use partition_layout::esp::{EntryFile, Esp};
use partition_layout::{DiskLayout, RootHash, choose_entry, repair};
use updater::ports::Record;

use super::disk::{SECTOR, SECTOR_BYTES, View};
use super::node::World;
use super::vfat::CLUSTER;
use crate::fake::Image;

const RECORD: usize = 32;
const DELETED: u8 = 0xe5;

/// How a start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The release is up.
    Up,
    /// PID 1 did not find what the kernel image names, and restarts.
    NoRoot,
    /// The power has failed.
    Cut,
}

/// How far the firmware comes with the rename that counts a try. None of its drivers does
/// it in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Whole,
    /// The new name is there, and has no content.
    Empty,
    /// Both names have the content.
    Shared,
}

impl World {
    /// Starts what the boot loader chooses, and counts that.
    pub(crate) fn start(
        &mut self,
        images: &BTreeMap<RootHash, Image>,
        count: Count,
    ) -> Result<Start, String> {
        self.boot += 1;
        let wish = self.one_shot.take();
        let layout = self.layout().map_err(|error| error.to_string())?;
        let esp = Esp::read(&self.disk, &layout.esp).map_err(|error| error.to_string())?;
        let chosen = choose(&esp, wish.as_deref()).ok_or("there is nothing to start")?;
        let verdict = Verdict::of(&layout, &esp, &mut DiskProofs(&self.disk));
        let mut bootable = verdict.bootable.into_iter();
        let found = bootable.find(|it| it.file_name == chosen.file_name);

        let name = chosen.loader_entry().ok_or("it is no entry")?.name;
        let (old, new) = (name.file_name(), name.spent().file_name());
        let is_taken = esp.files.iter().any(|file| file.file_name == new);
        // No firmware renames a file over another; then the try is not counted.
        if old != new && !is_taken {
            let counted = self.count(chosen, &new, count);
            counted.map_err(|error| format!("cannot count a try: {error}"))?;
            if count != Count::Whole {
                return Ok(Start::Cut);
            }
        }
        let Some((slot, root_hash)) = found.and_then(|it| Some((it.slot?, it.root_hash?))) else {
            return Ok(Start::NoRoot);
        };
        self.mend_names()
            .map_err(|error| format!("PID 1 cannot mend names: {error}"))?;
        let version = images[&root_hash].version.clone();
        self.booted = (slot, version.clone(), root_hash);
        let boots = self.records.entry(Record::Boots).or_default();
        // As systemd-tmpfiles does.
        boots.extend(format!("boot{} {version}\n", self.boot).into_bytes());
        let repaired = repair(&mut self.disk);
        repaired.map_err(|error| format!("the table cannot be repaired: {error}"))?;
        Ok(Start::Up)
    }

    /// Renames as firmware does.
    fn count(&mut self, from: &EntryFile, to: &str, count: Count) -> io::Result<()> {
        if count == Count::Whole {
            return self.count_whole(&from.file_name, to);
        }
        let before = self.records_of_files()?;
        self.vfat.create(&self.disk, to)?;
        self.vfat.write_all(&mut self.disk, &mut self.dice)?;
        self.disk.sync(View::Esp)?;
        if count == Count::Shared {
            let mut extents = from.extents.iter().flatten();
            let first = extents.next().map_or(0, |extent| extent.start);
            let cluster = (first - self.vfat.start() - self.first_cluster()?) / CLUSTER + 2;
            let low = u16::try_from(cluster).unwrap().to_le_bytes();
            let old = before.values().find(|record| record[26..28] == low);
            let old = *old.ok_or(io::ErrorKind::NotFound)?;
            let after = self.records_of_files()?;
            let mut made = after.iter().filter(|(at, _)| !before.contains_key(at));
            let (at, _) = made.next().ok_or(io::ErrorKind::NotFound)?;
            self.disk.write(View::Esp, at + 20, &old[20..])?;
            self.disk.sync(View::Esp)?;
        }
        self.disk.cut_now();
        Ok(())
    }

    fn first_cluster(&self) -> io::Result<u64> {
        let mut boot = [0; SECTOR];
        self.disk.read(self.vfat.start(), &mut boot)?;
        let word = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let root = (word(17) * 32).div_ceil(SECTOR_BYTES);
        Ok((word(14) + u64::from(boot[16]) * word(22) + root) * SECTOR_BYTES)
    }

    /// The records of files that some folder has, by their places.
    fn records_of_files(&self) -> io::Result<BTreeMap<u64, [u8; RECORD]>> {
        let layout = self.layout()?;
        let esp = Esp::read(&self.disk, &layout.esp).map_err(io::Error::other)?;
        let mut found = BTreeMap::new();
        // The folder of boot entries is among the first clusters, and has few of them.
        let start = self.vfat.start() + self.first_cluster()?;
        for number in 0..64 {
            let place = start + number * CLUSTER;
            let within = |file: &EntryFile| {
                let mut extents = file.extents.iter().flatten();
                extents.any(|extent| extent.contains(&place))
            };
            if esp.files.iter().any(within) {
                continue;
            }
            let sector = self.disk.sector(place / SECTOR_BYTES);
            let (records, _) = sector.as_chunks::<RECORD>();
            for (at, record) in (place..).step_by(RECORD).zip(records) {
                let is_file = record[11] & 0x18 == 0 && !matches!(record[0], 0 | DELETED | b'.');
                if is_file {
                    found.insert(at, *record);
                }
            }
        }
        Ok(found)
    }
}

/// The wish counts if there is such an entry; else their order.
fn choose<'e>(esp: &'e Esp, wish: Option<&str>) -> Option<&'e EntryFile> {
    let offered = || {
        esp.files
            .iter()
            .filter(|file| file.loader_entry().is_some())
    };
    if let Some(wished) = offered().find(|file| Some(file.file_name.as_str()) == wish) {
        return Some(wished);
    }
    let entries: Vec<_> = offered().filter_map(EntryFile::loader_entry).collect();
    let chosen = choose_entry(&entries)?;
    offered().find(|file| file.loader_entry().as_ref() == Some(chosen))
}

/// The layout that PID 1 will see, for those who only want to know.
pub(crate) fn is_table_sound(world: &World) -> bool {
    DiskLayout::read(&world.disk).is_ok_and(|(_, health)| health.is_sound())
}
