//! Reads and writes that pass by the page cache (`O_DIRECT`): what is read
//! comes from the medium, and what is written leaves nothing in memory. The
//! alternative, buffered I/O with `fsync` and `POSIX_FADV_DONTNEED`, drops pages
//! only if nobody else holds them, and says nothing when it did not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use verity::AlignedBuffer;

/// What offset, length and address have to be multiples of.
const ALIGNMENT: usize = AlignedBuffer::ALIGNMENT;
const UNIT: u64 = ALIGNMENT as u64;
/// What is moved at once.
pub(super) const BUFFER: usize = 1 << 20;

/// A file or block device, opened past the page cache.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
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
        Ok(Self { file })
    }

    /// Fills `out` from `offset`, from the medium. What is not aligned costs a copy.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if is_aligned(offset, out) {
            return if self.read_up_to(offset, out)? == out.len() {
                Ok(())
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        let skip = usize::try_from(offset % UNIT).expect("less than the unit");
        let end = skip.saturating_add(out.len());
        let mut buffer = AlignedBuffer::new(end.next_multiple_of(ALIGNMENT).min(BUFFER));
        let (mut start, mut skip, mut rest) = (offset - offset % UNIT, skip, out);
        while !rest.is_empty() {
            let wanted = skip.saturating_add(rest.len()).next_multiple_of(ALIGNMENT);
            let wanted = wanted.min(buffer.len());
            let space = buffer.get_mut(..wanted).unwrap_or_default();
            let got = self.read_up_to(start, space)?;
            let fresh = space.get(skip..got).unwrap_or_default();
            let count = fresh.len().min(rest.len());
            if count < rest.len() && got < wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(fresh.get(..count).expect("not more than there is"));
            rest = later;
            start = start.saturating_add(u64::try_from(wanted).expect("a small number"));
            skip = 0;
        }
        Ok(())
    }

    /// Fills aligned memory as far as the file goes, and returns how far that is.
    fn read_up_to(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let from = offset.saturating_add(u64::try_from(filled).expect("a small number"));
            match self.file.read_at(rest, from) {
                Ok(got) => {
                    filled = filled.saturating_add(got);
                    // Only the end of a file is no multiple, and behind it nothing may be asked for.
                    if got == 0 || !filled.is_multiple_of(ALIGNMENT) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Writes `bytes` at `offset`; both are whole blocks. What is not aligned costs a copy.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if is_aligned(offset, bytes) {
            return self.file.write_all_at(bytes, offset);
        }
        let mut buffer = AlignedBuffer::new(bytes.len().min(BUFFER));
        let mut offset = offset;
        for piece in bytes.chunks(BUFFER) {
            let space = buffer.get_mut(..piece.len()).unwrap_or_default();
            space.copy_from_slice(piece);
            self.file.write_all_at(space, offset)?;
            offset = offset.saturating_add(u64::try_from(piece.len()).expect("a small number"));
        }
        Ok(())
    }

    /// Returns the file itself, to be asked about, not read.
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// On return what was written has left the disk's own cache too.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn is_aligned(offset: u64, bytes: &[u8]) -> bool {
    offset.is_multiple_of(UNIT)
        && bytes.len().is_multiple_of(ALIGNMENT)
        && bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)
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
        let direct = match Direct::open_to_read(file.path()) {
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
