//! A disk in an input: most of it is zeros, so that some KiB are a disk of many MiB.
//!
//! ```text
//! u8 sector size of its own   u24 sectors   (u24 number, 512 bytes) …
//! ```
//! The sector size is 0 for none, as an image file has none; 1 for 512, 2 for 4096.

use std::collections::BTreeMap;
use std::io;

use partition_layout::{Device, SectorSize};
use verity::ReadAt;

use crate::script::Script;

pub(crate) const SECTOR: usize = 512;
const SECTOR_BYTES: u64 = 512;
/// 128 MiB: the smallest FAT32 has 33.
const MOST_SECTORS: u32 = 1 << 18;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    own: Option<SectorSize>,
    count: u32,
    /// Those that are not all zeros.
    sectors: BTreeMap<u64, [u8; SECTOR]>,
}

impl Disk {
    pub(crate) fn blank(sectors: u32, own: Option<SectorSize>) -> Self {
        Self {
            own,
            count: sectors,
            sectors: BTreeMap::new(),
        }
    }

    pub(crate) fn parse(script: &mut Script<'_>) -> Self {
        let own = match script.byte() {
            1 => Some(SectorSize::B512),
            2 => Some(SectorSize::B4096),
            _ => None,
        };
        let mut disk = Self::blank(number(script).min(MOST_SECTORS), own);
        while !script.0.is_empty() {
            let at = number(script);
            let content = script.bytes(SECTOR);
            if at < disk.count {
                let mut sector = [0; SECTOR];
                for (to, from) in sector.iter_mut().zip(content) {
                    *to = *from;
                }
                disk.sectors.insert(at.into(), sector);
            }
        }
        disk
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let own = match self.own {
            None => 0,
            Some(SectorSize::B512) => 1,
            Some(SectorSize::B4096) => 2,
        };
        let mut bytes = vec![own];
        bytes.extend(self.count.to_le_bytes().iter().take(3));
        for (at, sector) in &self.sectors {
            if sector.iter().any(|byte| *byte != 0) {
                bytes.extend(at.to_le_bytes().iter().take(3));
                bytes.extend(sector);
            }
        }
        bytes
    }

    pub(crate) fn len(&self) -> u64 {
        u64::from(self.count) * SECTOR_BYTES
    }

    /// Returns the first bytes of the sectors in which it differs from `other`.
    pub(crate) fn changes(&self, other: &Self) -> Vec<u64> {
        let numbers = self.sectors.keys().chain(other.sectors.keys());
        let differs = |number: &&u64| self.sector(**number) != other.sector(**number);
        let mut changed: Vec<_> = numbers.filter(differs).collect();
        changed.sort_unstable();
        changed.dedup();
        changed.into_iter().map(|at| at * SECTOR_BYTES).collect()
    }

    fn sector(&self, number: u64) -> [u8; SECTOR] {
        self.sectors.get(&number).copied().unwrap_or([0; SECTOR])
    }

    fn check(&self, offset: u64, length: usize) -> io::Result<u64> {
        let end = u64::try_from(length)
            .ok()
            .and_then(|length| offset.checked_add(length));
        end.filter(|end| *end <= self.len())
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

fn number(script: &mut Script<'_>) -> u32 {
    let [low, middle, high] = script.take();
    u32::from_le_bytes([low, middle, high, 0])
}

/// Returns which part of sector `number` the bytes from `offset` to `end` are, and which
/// part of these bytes it is.
fn parts(number: u64, offset: u64, end: u64) -> Option<(usize, usize, usize)> {
    let start = number * SECTOR_BYTES;
    let from = offset.max(start);
    let length = end.min(start + SECTOR_BYTES).checked_sub(from)?;
    let place = |number: u64| usize::try_from(number).ok();
    Some((
        place(from - start)?,
        place(from.checked_sub(offset)?)?,
        place(length)?,
    ))
}

impl Device for Disk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = self.check(offset, buffer.len())?;
        buffer.fill(0);
        let touched = offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
        for (number, sector) in self.sectors.range(touched) {
            let Some((in_sector, in_buffer, length)) = parts(*number, offset, end) else {
                continue;
            };
            let from = sector.iter().skip(in_sector).take(length);
            for (to, from) in buffer.iter_mut().skip(in_buffer).zip(from) {
                *to = *from;
            }
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = self.check(offset, bytes.len())?;
        for number in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let Some((in_sector, in_buffer, length)) = parts(number, offset, end) else {
                continue;
            };
            let mut sector = self.sector(number);
            let from = bytes.iter().skip(in_buffer).take(length);
            for (to, from) in sector.iter_mut().skip(in_sector).zip(from) {
                *to = *from;
            }
            self.sectors.insert(number, sector);
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len())
    }

    fn sector_size(&self) -> io::Result<Option<SectorSize>> {
        Ok(self.own)
    }
}

impl ReadAt for Disk {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_at(offset, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_keeps_what_is_written_to_it_and_survives_its_bytes() {
        let mut disk = Disk::blank(20, Some(SectorSize::B4096));
        let before = disk.clone();
        let bytes: Vec<u8> = (0..=255).cycle().take(1300).collect();
        disk.write_at(1000, &bytes).expect("it lies on the disk");
        assert_eq!(disk.changes(&before), [512, 1024, 1536, 2048]);
        let mut read = vec![9; 1302];
        disk.read_at(999, &mut read).expect("it lies on the disk");
        assert_eq!((read[0], &read[1..1301], read[1301]), (0, &bytes[..], 0));
        assert!(disk.read_at(20 * 512 - 1, &mut [0; 2]).is_err());
        assert!(disk.write_at(20 * 512, &[0]).is_err());
        let again = Disk::parse(&mut Script(&disk.to_bytes()));
        assert_eq!(again, disk);
    }
}
