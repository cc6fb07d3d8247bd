//! Memory that devices read into and write from directly.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Zeros whose address is a multiple of [`ALIGNMENT`](Self::ALIGNMENT). A device that was opened past the page
/// cache (`O_DIRECT`) reads into such memory and writes from it without a copy, which open(2) asks for.
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// Bytes; no disk has a larger logical block.
    pub const ALIGNMENT: usize = 4096;

    /// Returns `len` bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let memory = vec![0; len.saturating_add(Self::ALIGNMENT)];
        let start = memory.as_ptr().align_offset(Self::ALIGNMENT);
        Self { memory, start, len }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes = self.memory.get(self.start..self.start + self.len);
        bytes.unwrap_or_default()
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let bytes = self.memory.get_mut(self.start..self.start + self.len);
        bytes.unwrap_or_default()
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuffer")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_long_as_was_asked_for_and_lies_where_a_device_wants_it() {
        for len in [0, 1, 4095, 4096, 1 << 20] {
            let mut buffer = AlignedBuffer::new(len);
            buffer.fill(7);
            assert_eq!(buffer.len(), len);
            assert!(
                buffer
                    .as_ptr()
                    .addr()
                    .is_multiple_of(AlignedBuffer::ALIGNMENT)
            );
        }
    }
}
