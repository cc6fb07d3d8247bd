//! Reads and writes that pass by the page cache (`O_DIRECT`): what is read
//! comes from the medium, and what is written leaves nothing in memory. The
//! alternative, buffered I/O with `fsync` and `POSIX_FADV_DONTNEED`, drops pages
//! only if nobody else holds them, and says nothing when it did not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// What offset, length and address have to be multiples of: at least the
/// logical block of every disk.
const ALIGNMENT: usize = 4096;
/// What is moved at once.
const BUFFER: usize = 1 << 20;

/// A file or block device, opened past the page cache.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    buffer: AlignedBuffer,
    /// Bytes written since the last sync.
    unsynced: u64,
}

impl Direct {
    /// Opens a file for reading.
    pub(super) fn open_to_read(path: &Path) -> io::Result<Self> {
        Self::open(OpenOptions::new().read(true), OFlags::DIRECT, path)
    }

    /// Opens a block device for reading and writing. Fails if somebody holds it:
    /// a file system, or the device-mapper device of the booted slot.
    pub(super) fn open_exclusively(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECT | OFlags::EXCL;
        Self::open(OpenOptions::new().read(true).write(true), flags, path)
    }

    /// Opens a block device for reading and writing beside whoever holds it.
    pub(super) fn open_beside(path: &Path) -> io::Result<Self> {
        Self::open(
            OpenOptions::new().read(true).write(true),
            OFlags::DIRECT,
            path,
        )
    }

    fn open(options: &mut OpenOptions, flags: OFlags, path: &Path) -> io::Result<Self> {
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let file = options.custom_flags(flags).open(path)?;
        Ok(Self {
            file,
            buffer: AlignedBuffer::new(),
            unsynced: 0,
        })
    }

    /// Fills `out` from `offset`, from the medium.
    pub(super) fn read(&mut self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let unit = u64::try_from(ALIGNMENT).expect("a small number");
        while !out.is_empty() {
            let skip = usize::try_from(offset % unit).expect("less than the unit");
            let wanted = skip
                .saturating_add(out.len())
                .next_multiple_of(ALIGNMENT)
                .min(BUFFER);
            let space = self.buffer.get(wanted);
            let got = self.file.read_at(space, offset - offset % unit)?;
            let fresh = space.get(skip..got).unwrap_or(&[]);
            let count = fresh.len().min(out.len());
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(fresh.get(..count).expect("not more than there is"));
            out = later;
            offset = offset.saturating_add(u64::try_from(count).expect("a small number"));
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`; both are whole blocks.
    pub(super) fn write(&mut self, mut offset: u64, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(BUFFER) {
            let space = self.buffer.get(piece.len());
            space.copy_from_slice(piece);
            self.file.write_all_at(space, offset)?;
            let written = u64::try_from(piece.len()).expect("a small number");
            offset = offset.saturating_add(written);
            self.unsynced = self.unsynced.saturating_add(written);
        }
        Ok(())
    }

    /// Returns the file itself, to be asked about, not read.
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// On return what was written has left the disk's own cache too.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        self.unsynced = 0;
        Ok(())
    }

    /// The same, if it is `limit` bytes or more.
    pub(super) fn sync_after(&mut self, limit: u64) -> io::Result<()> {
        if self.unsynced < limit {
            return Ok(());
        }
        self.sync()
    }
}

/// Memory whose address is a multiple of [`ALIGNMENT`].
#[derive(Debug)]
struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    fn new() -> Self {
        let memory = vec![0; BUFFER + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start }
    }

    /// Returns the first `len` bytes, at most [`BUFFER`].
    fn get(&mut self, len: usize) -> &mut [u8] {
        let end = self.start.saturating_add(len.min(BUFFER));
        self.memory
            .get_mut(self.start..end)
            .expect("there is room for the alignment")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn any_range_of_a_file_can_be_read_past_the_cache() {
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let content: Vec<u8> = (0..2_500_000_u32)
            .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
            .collect();
        file.write_all(&content).unwrap();
        file.as_file().sync_all().unwrap();
        let mut direct = match Direct::open_to_read(file.path()) {
            // No file system of this machine has to know O_DIRECT.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            opened => opened.unwrap(),
        };
        for (offset, len) in [
            (0, 512),
            (1, 4096),
            (4095, 2),
            (1_000_001, 1_400_000),
            (2_499_999, 1),
        ] {
            let mut out = vec![0; len];
            direct.read(offset, &mut out).unwrap();
            let start = usize::try_from(offset).unwrap();
            assert!(
                out == content[start..start + len],
                "{len} bytes at {offset}"
            );
        }
        let beyond = direct.read(2_499_999, &mut [0; 2]).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }
}
