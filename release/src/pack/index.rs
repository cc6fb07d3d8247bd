use super::Pack;
use super::frame::{self, BadFrame, Extent, Frame};
use crate::limits::{
    MAX_PACK_FRAME_BYTES, MAX_PACK_FRAMES, MAX_PACK_HEAD_BYTES, MAX_PACK_INDEX_BYTES,
    PACK_BASE_BLOCKS, PACK_FRAME_BLOCKS,
};

/// What a pack starts with.
pub const PACK_MAGIC: [u8; 8] = *b"BSTPACK1";
/// The size of the magic and the two lengths behind it, in bytes.
pub const PACK_HEADER_BYTES: u64 = 16;

/// How long the parts of a pack's head are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackHeader {
    /// The packed index, in bytes.
    pub packed: u32,
    /// The index, in bytes.
    pub index: u32,
}

/// What a pack is about, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackShape {
    /// The blocks of the target.
    pub target_blocks: u64,
    /// The blocks of the base; 0 when there is none.
    pub base_blocks: u64,
}

/// The frames of a pack, in the order in which they lie in it, without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackIndex {
    pub frames: Vec<Frame>,
}

/// A file is not a pack that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPack {
    #[error("it does not start as a pack does")]
    Magic,
    #[error("its head has {found} bytes, and the release says {expected}")]
    Head { found: u64, expected: u64 },
    #[error("its {which} has {found} bytes, which is more than {max}")]
    TooLarge {
        which: &'static str,
        found: u64,
        max: u64,
    },
    #[error("its index does not unpack")]
    Index(#[source] BadFrame),
    #[error("its index has {found} frames, which is more than {max}")]
    TooManyFrames { found: u64, max: u64 },
    #[error("its index ends in the middle of frame {frame}")]
    Truncated { frame: u64 },
    #[error("its index goes on after the last frame")]
    TrailingBytes,
    #[error("frame {frame} holds nothing, or names an extent of no blocks")]
    Empty { frame: u64 },
    #[error("frame {frame} has {found} {what}, which is more than {max}")]
    FrameTooLarge {
        frame: u64,
        what: &'static str,
        found: u64,
        max: u64,
    },
    #[error("frame {frame} names block {block} of the {which}, which has {blocks}")]
    NoSuchBlock {
        frame: u64,
        which: &'static str,
        block: u64,
        blocks: u64,
    },
    #[error("frame {frame} holds block {block}, which was held already")]
    Twice { frame: u64, block: u64 },
    #[error("its frames end at byte {end}, and it has {size} bytes")]
    End { end: u64, size: u64 },
}

impl PackHeader {
    /// Returns the header with which a pack starts.
    ///
    /// # Errors
    /// [`BadPack::Magic`], or [`BadPack::TooLarge`].
    pub fn parse(bytes: &[u8; 16]) -> Result<Self, BadPack> {
        let mut reader = Reader(bytes);
        if reader.take() != Some(PACK_MAGIC) {
            return Err(BadPack::Magic);
        }
        let (Some(packed), Some(index)) = (reader.number(), reader.number()) else {
            return Err(BadPack::Magic);
        };
        let header = Self { packed, index };
        for (which, found, max) in [
            ("head", header.head_bytes(), MAX_PACK_HEAD_BYTES),
            ("index", index.into(), MAX_PACK_INDEX_BYTES),
        ] {
            if found > max {
                return Err(BadPack::TooLarge { which, found, max });
            }
        }
        Ok(header)
    }

    /// Returns the 16 bytes that [`PackHeader::parse`] reads.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let numbers = [self.packed.to_le_bytes(), self.index.to_le_bytes()].concat();
        for (to, from) in bytes.iter_mut().zip(PACK_MAGIC.iter().chain(&numbers)) {
            *to = *from;
        }
        bytes
    }

    /// Returns the size of header and packed index, in bytes: where the first
    /// frame lies.
    pub fn head_bytes(self) -> u64 {
        PACK_HEADER_BYTES.saturating_add(self.packed.into())
    }
}

impl PackIndex {
    /// Returns the index in `head`, the first [`Pack::index_bytes`] bytes of a
    /// pack.
    ///
    /// # Errors
    /// [`BadPack`], naming the first frame that is not right.
    pub fn read(head: &[u8], pack: &Pack, shape: &PackShape) -> Result<Self, BadPack> {
        let Some((header, packed)) = head.split_first_chunk() else {
            return Err(BadPack::Magic);
        };
        let header = PackHeader::parse(header)?;
        let expected = pack.index_bytes;
        for found in [count(head.len()), header.head_bytes()] {
            if found != expected {
                return Err(BadPack::Head { found, expected });
            }
        }
        let mut index = Vec::new();
        frame::unpack(packed, &[], header.index.into(), &mut index).map_err(BadPack::Index)?;
        Self::parse(&index, pack, shape)
    }

    /// Returns the index that `bytes`, already unpacked, spell.
    ///
    /// # Errors
    /// [`BadPack`], naming the first frame that is not right.
    pub fn parse(bytes: &[u8], pack: &Pack, shape: &PackShape) -> Result<Self, BadPack> {
        let (found, max) = (count(bytes.len()), MAX_PACK_INDEX_BYTES);
        if found > max {
            let which = "index";
            return Err(BadPack::TooLarge { which, found, max });
        }
        let mut reader = Reader(bytes);
        let frames = reader.number().ok_or(BadPack::Truncated { frame: 0 })?;
        // Each holds a block of its own.
        let (found, max) = (frames.into(), MAX_PACK_FRAMES.min(shape.target_blocks));
        if found > max {
            return Err(BadPack::TooManyFrames { found, max });
        }
        let mut checker = Checker::new(shape);
        let mut end = pack.index_bytes;
        // Not reserved beforehand: the count is not to be believed.
        let mut index = Self::default();
        for number in 0..found {
            let mut frame = reader.frame().ok_or(BadPack::Truncated { frame: number })?;
            frame.offset = end;
            end = end.saturating_add(frame.len.into());
            checker.check(number, &frame)?;
            index.frames.push(frame);
        }
        if !reader.0.is_empty() {
            return Err(BadPack::TrailingBytes);
        }
        let size = pack.blob.size;
        if end == size {
            Ok(index)
        } else {
            Err(BadPack::End { end, size })
        }
    }

    /// Returns the bytes that [`PackIndex::parse`] reads. The offsets are not
    /// among them: frames lie one behind the other.
    pub fn to_bytes(&self) -> Vec<u8> {
        let frames = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        let mut bytes = frames.to_le_bytes().to_vec();
        for frame in &self.frames {
            bytes.extend(frame.len.to_le_bytes());
            for list in [&frame.targets, &frame.bases] {
                // What has more than this is refused for its blocks.
                bytes.extend(u16::try_from(list.len()).unwrap_or(u16::MAX).to_le_bytes());
            }
            for extent in frame.targets.iter().chain(&frame.bases) {
                bytes.extend(extent.first.to_le_bytes());
                bytes.extend(extent.blocks.to_le_bytes());
            }
        }
        bytes
    }

    /// Returns how many blocks the frames hold together.
    pub fn held_blocks(&self) -> u64 {
        self.frames.iter().map(|frame| blocks(&frame.targets)).sum()
    }
}

/// What is held against each frame.
struct Checker {
    shape: PackShape,
    /// A bit for each block of the target that a frame held.
    held: Vec<u64>,
}

impl Checker {
    fn new(shape: &PackShape) -> Self {
        // The shape is the release's own, so it keeps the limits.
        let words = usize::try_from(shape.target_blocks.div_ceil(64)).unwrap_or(0);
        Self {
            shape: *shape,
            held: vec![0; words],
        }
    }

    fn check(&mut self, number: u64, frame: &Frame) -> Result<(), BadPack> {
        if frame.targets.is_empty() || frame.len == 0 {
            return Err(BadPack::Empty { frame: number });
        }
        at_most(number, "bytes", frame.len.into(), MAX_PACK_FRAME_BYTES)?;
        let Frame { targets, bases, .. } = frame;
        let PackShape {
            target_blocks,
            base_blocks,
        } = self.shape;
        at_most(number, "blocks", blocks(targets), PACK_FRAME_BLOCKS)?;
        at_most(
            number,
            "blocks of the base",
            blocks(bases),
            PACK_BASE_BLOCKS,
        )?;
        check_extents(number, "target", targets, target_blocks)?;
        check_extents(number, "base", bases, base_blocks)?;
        for block in frame.blocks() {
            let word = usize::try_from(block / 64).ok();
            let word = word.and_then(|word| self.held.get_mut(word));
            let mask = 1 << (block % 64);
            if word.as_ref().is_some_and(|word| **word & mask != 0) {
                let frame = number;
                return Err(BadPack::Twice { frame, block });
            }
            if let Some(word) = word {
                *word |= mask;
            }
        }
        Ok(())
    }
}

fn at_most(frame: u64, what: &'static str, found: u64, max: u64) -> Result<(), BadPack> {
    if found > max {
        return Err(BadPack::FrameTooLarge {
            frame,
            what,
            found,
            max,
        });
    }
    Ok(())
}

fn check_extents(
    frame: u64,
    which: &'static str,
    extents: &[Extent],
    blocks: u64,
) -> Result<(), BadPack> {
    for extent in extents {
        let numbers = extent.numbers();
        if numbers.is_empty() {
            return Err(BadPack::Empty { frame });
        }
        if numbers.end > blocks {
            return Err(BadPack::NoSuchBlock {
                frame,
                which,
                block: numbers.end - 1,
                blocks,
            });
        }
    }
    Ok(())
}

fn blocks(extents: &[Extent]) -> u64 {
    // At most 65536 extents of less than 2^32 blocks.
    extents.iter().map(|extent| u64::from(extent.blocks)).sum()
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (now, later) = self.0.split_first_chunk::<N>()?;
        self.0 = later;
        Some(*now)
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn short(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn extents(&mut self, count: u16) -> Option<Vec<Extent>> {
        let extent = |_| {
            let (first, blocks) = (self.number()?, self.number()?);
            Some(Extent { first, blocks })
        };
        (0..count).map(extent).collect()
    }

    fn frame(&mut self) -> Option<Frame> {
        let len = self.number()?;
        let (targets, bases) = (self.short()?, self.short()?);
        Some(Frame {
            offset: 0,
            len,
            targets: self.extents(targets)?,
            bases: self.extents(bases)?,
        })
    }
}
