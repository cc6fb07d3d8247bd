//! An input taken apart from its start.

/// What is left of an input. Where it ends, numbers are 0 and bytes are none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Script<'a>(pub(crate) &'a [u8]);

impl<'a> Script<'a> {
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((taken, rest)) => {
                self.0 = rest;
                *taken
            }
            None => {
                self.0 = &[];
                [0; N]
            }
        }
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let [byte] = self.take();
        byte
    }

    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    /// Takes as many bytes, or all that are left.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
