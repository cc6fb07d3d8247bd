//! A pack: its head, its index, its frames.
//!
//! ```text
//! u8 mode   u16 blocks of the target   u16 blocks of the base   the pack, or its unpacked index
//! ```

use release::limits::{
    BLOCK_SIZE, MAX_PACK_FRAME_BYTES, MAX_PACK_FRAMES, PACK_BASE_BLOCKS, PACK_FRAME_BLOCKS,
};
use release::pack::{BadPack, Extent, Frame, PackHeader, PackIndex, PackShape};
use release::{Blob, Digest, Pack};
use zstd::zstd_safe::{CCtx, compress_bound};

use crate::Outcome;
use crate::script::Script;

/// The index comes as it is, not packed: zstd's own form is hard to hit upon.
const BARE_INDEX: u8 = 1;
/// More frames tell nothing new, and take their time.
const UNPACKED: usize = 16;

pub(crate) fn read(input: &[u8]) -> Outcome {
    let mut script = Script(input);
    let mode = script.byte();
    let shape = PackShape {
        target_blocks: script.short().into(),
        base_blocks: script.short().into(),
    };
    if mode == BARE_INDEX {
        read_index(script.0, &shape)
    } else {
        read_whole(script.0, &shape)
    }
}

fn pack_of(size: u64, index_bytes: u64) -> Pack {
    let sha256 = Digest::new([0; 32]);
    Pack {
        blob: Blob { sha256, size },
        index_bytes,
    }
}

fn read_index(bytes: &[u8], shape: &PackShape) -> Outcome {
    const HEAD: u64 = 100;
    // What is refused for its end alone is right when it ends there.
    let end = match PackIndex::parse(bytes, &pack_of(0, HEAD), shape) {
        Err(BadPack::End { end, .. }) => end,
        Ok(_) | Err(_) => return Outcome::Refused,
    };
    let index = PackIndex::parse(bytes, &pack_of(end, HEAD), shape);
    let index = index.expect("only its end was wrong");
    assert_eq!(index.to_bytes(), bytes, "it survives being written");
    hold_to_limits(&index, shape, HEAD..end);
    Outcome::Accepted
}

fn read_whole(bytes: &[u8], shape: &PackShape) -> Outcome {
    let size = bytes.len() as u64;
    let header = bytes
        .split_first_chunk()
        .map(|(head, _)| PackHeader::parse(head));
    let Some(Ok(header)) = header else {
        return Outcome::Refused;
    };
    let again = PackHeader::parse(&header.to_bytes());
    assert_eq!(again.as_ref(), Ok(&header), "it survives being written");
    let index_bytes = header.head_bytes();
    let head = usize::try_from(index_bytes)
        .ok()
        .and_then(|end| bytes.get(..end));
    let pack = pack_of(size, index_bytes);
    let Some(Ok(index)) = head.map(|head| PackIndex::read(head, &pack, shape)) else {
        return Outcome::Refused;
    };
    hold_to_limits(&index, shape, index_bytes..size);
    let (target, base) = (
        shape.target_blocks * BLOCK_SIZE,
        shape.base_blocks * BLOCK_SIZE,
    );
    for frame in index.frames.iter().take(UNPACKED) {
        unpack(bytes, frame, target, base);
    }
    Outcome::Accepted
}

fn hold_to_limits(index: &PackIndex, shape: &PackShape, bytes: std::ops::Range<u64>) {
    assert!(index.frames.len() as u64 <= MAX_PACK_FRAMES);
    assert!(index.held_blocks() <= shape.target_blocks);
    let mut place = bytes.start;
    let mut held = vec![false; usize::try_from(shape.target_blocks).unwrap_or(0)];
    for frame in &index.frames {
        assert_eq!(frame.range().start, place, "without a gap");
        place = frame.range().end;
        assert!(u64::from(frame.len) <= MAX_PACK_FRAME_BYTES && frame.len > 0);
        assert!(frame.blocks().count() as u64 <= PACK_FRAME_BLOCKS);
        for block in frame.blocks() {
            let held = usize::try_from(block).ok().and_then(|at| held.get_mut(at));
            let held = held.expect("a block of the target");
            assert!(!std::mem::replace(held, true), "no block twice");
        }
        let bases = || frame.bases.iter().flat_map(|extent| extent.numbers());
        assert!(bases().count() as u64 <= PACK_BASE_BLOCKS);
        assert!(bases().all(|block| block < shape.base_blocks));
    }
    assert_eq!(place, bytes.end, "to the end of the pack");
}

fn unpack(pack: &[u8], frame: &Frame, target: u64, base: u64) {
    let place = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
    let range = frame.range();
    let packed = pack.get(place(range.start)..place(range.end));
    let packed = packed.expect("it was held to the pack's size");
    let mut prefix = Vec::new();
    for extent in &frame.bases {
        let bytes = extent.bytes(base);
        prefix.resize(prefix.len() + place(bytes.end - bytes.start), 0x5a);
    }
    let expected = frame.unpacked_bytes(target);
    assert!(expected <= PACK_FRAME_BLOCKS * BLOCK_SIZE);
    let mut unpacked = Vec::new();
    let outcome = frame.unpack(packed, &prefix, target, &mut unpacked);
    assert!(
        unpacked.capacity() as u64 <= expected,
        "no more memory than that"
    );
    if outcome.is_ok() {
        assert_eq!(unpacked.len() as u64, expected);
    }
}

/// Packs bytes as a publisher does, against a prefix.
fn packed(bytes: &[u8], base: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(compress_bound(bytes.len()));
    let mut context = CCtx::create();
    context.ref_prefix(base).expect("any bytes are a prefix");
    context.compress2(&mut packed, bytes).expect("room for it");
    packed
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let shape = [5_u16, 3].map(u16::to_le_bytes).concat();
    let block = usize::try_from(BLOCK_SIZE).expect("a small number");
    // The base is what `unpack` takes for it.
    let base = vec![0x5a; 3 * block];
    let like_base = base.iter().copied().chain((0..=255).cycle().take(block));
    let frame = |content: &[u8], base: &[u8], targets: &[(u32, u32)], bases: &[(u32, u32)]| {
        let extents = |list: &[(u32, u32)]| {
            let extents = list.iter().map(|&(first, blocks)| Extent { first, blocks });
            extents.collect()
        };
        let content = packed(content, base);
        let frame = Frame {
            offset: 0,
            len: u32::try_from(content.len()).expect("a small frame"),
            targets: extents(targets),
            bases: extents(bases),
        };
        (frame, content)
    };
    let like_base: Vec<u8> = like_base.collect();
    let (frames, contents): (Vec<_>, Vec<_>) = [
        frame(&like_base, &base, &[(1, 2), (3, 2)], &[(0, 1), (1, 2)]),
        frame(&vec![7; block], &[], &[(0, 1)], &[]),
    ]
    .into_iter()
    .unzip();
    let index = PackIndex { frames }.to_bytes();
    let small = packed(&index, &[]);
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a small index");
    let header = PackHeader {
        packed: length(&small),
        index: length(&index),
    };
    let pack = [&header.to_bytes(), small.as_slice(), &contents.concat()].concat();
    vec![
        [&[BARE_INDEX], shape.as_slice(), &index].concat(),
        [&[0], shape.as_slice(), &pack].concat(),
    ]
}
