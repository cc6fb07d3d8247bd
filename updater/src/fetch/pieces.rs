/// The largest piece that a sink gets, in bytes. Together with what the
/// connections read ahead, it bounds the memory that a transfer takes.
pub(super) const PIECE: usize = 128 * 1024;

/// Bytes of a blob, and where they lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// Collects what a connection brings until it is worth sending on.
#[derive(Debug)]
pub(super) struct Pieces {
    grain: u64,
    offset: u64,
    bytes: Vec<u8>,
}

impl Pieces {
    /// Pieces that end on a multiple of `grain`, unless they are the last of
    /// a part.
    pub(super) const fn new(grain: u64) -> Self {
        Self {
            grain,
            offset: 0,
            bytes: Vec::new(),
        }
    }

    /// Takes of `bytes`, which lie at `offset`, until there is a piece to be sent
    /// on. Returns it, and how many it has taken.
    pub(super) fn push(&mut self, offset: u64, bytes: &[u8]) -> (Option<Piece>, usize) {
        if offset != self.end() {
            let rest = self.take_all();
            self.offset = offset;
            if rest.is_some() {
                return (rest, 0);
            }
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(PIECE);
        }
        let room = PIECE.saturating_sub(self.bytes.len()).min(bytes.len());
        self.bytes
            .extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        let full = self.bytes.len() >= PIECE;
        (full.then(|| self.take_whole()).flatten(), room)
    }

    /// Returns the offset at which the bytes go on.
    pub(super) fn end(&self) -> u64 {
        self.offset + len(&self.bytes)
    }

    /// Returns what ends on a multiple of the grain.
    pub(super) fn take_whole(&mut self) -> Option<Piece> {
        let end = self.end();
        let over = usize::try_from(end % self.grain).unwrap_or(usize::MAX);
        let whole = self.bytes.len().saturating_sub(over);
        let rest = self.bytes.split_off(whole);
        let piece = self.take_all();
        if !rest.is_empty() {
            self.offset = end - len(&rest);
            self.bytes.reserve_exact(PIECE);
            self.bytes.extend_from_slice(&rest);
        }
        piece
    }

    /// Returns what there is.
    pub(super) fn take_all(&mut self) -> Option<Piece> {
        if self.bytes.is_empty() {
            return None;
        }
        let end = self.end();
        Some(Piece {
            offset: std::mem::replace(&mut self.offset, end),
            bytes: std::mem::take(&mut self.bytes),
        })
    }
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("memory is smaller than 2^64 bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_are_whole_blocks_and_nothing_is_lost(
            chunks in proptest::collection::vec((1_usize..200_000, any::<bool>()), 1..8),
            block in 0_u64..4,
        ) {
            let start = block * 4096;
            let mut pieces = Pieces::new(4096);
            let mut pushed = Vec::new();
            let mut came: Vec<Piece> = Vec::new();
            for (number, (size, breaks)) in chunks.into_iter().enumerate() {
                let chunk = vec![u8::try_from(number).unwrap(); size];
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    let (piece, taken) = pieces.push(start + len(&pushed), rest);
                    came.extend(piece);
                    pushed.extend_from_slice(&rest[..taken]);
                    rest = &rest[taken..];
                }
                if breaks {
                    came.extend(pieces.take_whole());
                }
            }
            for piece in &came {
                prop_assert!(piece.bytes.len() <= PIECE && !piece.bytes.is_empty());
                prop_assert_eq!(piece.bytes.len() % 4096, 0);
            }
            came.extend(pieces.take_all());
            let mut next = start;
            for piece in &came {
                prop_assert_eq!(piece.offset, next);
                next += len(&piece.bytes);
            }
            let bytes: Vec<u8> = came.into_iter().flat_map(|piece| piece.bytes).collect();
            prop_assert!(bytes == pushed);
        }
    }
}
