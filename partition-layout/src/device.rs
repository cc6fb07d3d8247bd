//! The seam to the medium: what this crate asks of a disk.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};

use serde::{Deserialize, Serialize};

/// The size of a logical sector: the unit of every address in a partition table.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "u64", into = "u64")]
pub enum SectorSize {
    /// 512 bytes, nearly every disk.
    #[default]
    B512,
    /// 4096 bytes, "4Kn" disks.
    B4096,
}

/// A sector size that no supported disk has.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("sectors of {0} bytes are not supported, only of 512 or 4096")]
pub struct BadSectorSize(u64);

impl SectorSize {
    /// Returns the size in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }
}

impl TryFrom<u64> for SectorSize {
    type Error = BadSectorSize;

    fn try_from(bytes: u64) -> Result<Self, Self::Error> {
        match bytes {
            512 => Ok(Self::B512),
            4096 => Ok(Self::B4096),
            other => Err(BadSectorSize(other)),
        }
    }
}

impl From<SectorSize> for u64 {
    fn from(size: SectorSize) -> Self {
        size.bytes()
    }
}

/// A disk, or a file that holds the image of one.
pub trait Device {
    /// Fills `buffer` from byte `offset` on, or fails.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at byte `offset`. They may stay in a cache until [`Device::sync`].
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// On return everything written before has reached the disk.
    fn sync(&mut self) -> io::Result<()>;

    /// Returns the size in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Returns the sector size when the device has one of its own: an image file has not.
    fn sector_size(&self) -> io::Result<Option<SectorSize>>;
}

/// A block device, or a regular file as an image.
impl Device for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }

    fn size(&self) -> io::Result<u64> {
        // A block device's metadata says 0; its end is where seeking stops.
        let mut file = self;
        file.seek(SeekFrom::End(0))
    }

    fn sector_size(&self) -> io::Result<Option<SectorSize>> {
        let kind = self.metadata()?.file_type();
        if kind.is_file() {
            return Ok(None);
        }
        if !kind.is_block_device() {
            let what = "neither a disk nor an image file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let bytes = rustix::fs::ioctl_blksszget(self)?;
        let size = SectorSize::try_from(u64::from(bytes))
            .map_err(|bad| io::Error::new(io::ErrorKind::Unsupported, bad))?;
        Ok(Some(size))
    }
}
