use release::{Blob, Digest};

use crate::ports::{KeptPieces, Verdict};
use crate::stage::len;

/// Keeps what comes of one file. That it cannot costs bytes after a cut, and nothing else.
pub(super) struct Keeper<'a, D> {
    device: &'a D,
    blob: Digest,
    has_room: bool,
}

impl<'a, D: KeptPieces> Keeper<'a, D> {
    pub(super) const fn new(device: &'a D, blob: &Blob) -> Self {
        Self {
            device,
            blob: blob.sha256,
            has_room: true,
        }
    }

    /// Hands what an earlier stage has kept to `sink`, until it says stop.
    pub(super) fn replay(&self, sink: &mut dyn FnMut(u64, &[u8]) -> Verdict) {
        if let Err(error) = self.device.replay(&self.blob, sink) {
            tracing::warn!(%error, "what was kept of the kernel image cannot be read");
        }
    }

    /// Hands what is kept of the first `size` bytes in one piece to `sink`, until it says stop, and
    /// returns where what it took ends.
    pub(super) fn replay_beginning(
        &self,
        size: u64,
        sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> u64 {
        let mut taken = 0;
        self.replay(&mut |offset, bytes| {
            let end = offset.saturating_add(len(bytes));
            if offset != taken || end > size || sink(offset, bytes) == Verdict::Stop {
                return Verdict::Stop;
            }
            taken = end;
            Verdict::Taken
        });
        taken
    }

    pub(super) fn keep(&mut self, offset: u64, bytes: &[u8]) {
        if !self.has_room {
            return;
        }
        if let Err(error) = self.device.keep(&self.blob, offset, bytes) {
            tracing::warn!(%error, "the kernel image is fetched anew after a cut: /var does not keep it");
            self.has_room = false;
        }
    }

    pub(super) fn forget(&self) {
        if let Err(error) = self.device.forget_pieces() {
            tracing::warn!(%error, "what was kept of the kernel image stays in /var");
        }
    }
}
