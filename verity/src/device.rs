//! What a tree is read from and written to: a device, a file, memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Something whose bytes can be read by offset, from several threads at once.
pub trait ReadAt: Sync {
    /// Fills `buf` from `offset` (bytes).
    ///
    /// # Errors
    /// `UnexpectedEof` when it ends before `buf` is full; else the device's error.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

/// Something whose bytes can be written by offset.
pub trait WriteAt: Send {
    /// Writes all of `buf` at `offset` (bytes). It may still be in a cache on return.
    ///
    /// # Errors
    /// The device's error.
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..)?.get(..buf.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buf, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }
}

impl WriteAt for File {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, buf, offset)
    }
}

/// Memory of a fixed size, as a device has.
impl WriteAt for [u8] {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        usize::try_from(offset)
            .ok()
            .and_then(|start| self.get_mut(start..)?.get_mut(..buf.len()))
            .ok_or(io::ErrorKind::StorageFull)?
            .copy_from_slice(buf);
        Ok(())
    }
}

/// Memory that grows, as a file does; a hole reads as zeros.
impl WriteAt for Vec<u8> {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        let end = usize::try_from(offset)
            .ok()
            .and_then(|start| start.checked_add(buf.len()))
            .ok_or(io::ErrorKind::FileTooLarge)?;
        if self.len() < end {
            self.resize(end, 0);
        }
        self.as_mut_slice().write_all_at(buf, offset)
    }
}

impl<T: WriteAt + ?Sized> WriteAt for &mut T {
    fn write_all_at(&mut self, buf: &[u8], offset: u64) -> io::Result<()> {
        (**self).write_all_at(buf, offset)
    }
}

/// Takes a tree and keeps nothing of it: for the root hash alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl WriteAt for Discard {
    fn write_all_at(&mut self, _buf: &[u8], _offset: u64) -> io::Result<()> {
        Ok(())
    }
}
