//! Packs: what goes in comes out, and a hostile one does no harm.

#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "sizes of files made here, and clippy sees tests only in test functions"
)]

use proptest::collection::vec;
use proptest::prelude::*;
use release::limits::{
    BLOCK_SIZE, MAX_PACK_FRAME_BYTES, MAX_PACK_INDEX_BYTES, PACK_BASE_BLOCKS, PACK_FRAME_BLOCKS,
};
use release::pack::{BadFrame, BadPack, Extent, Frame, PackHeader, PackIndex, PackShape};
use release::{Blob, Digest, Pack};
use zstd::zstd_safe::CCtx;

const BLOCK: usize = BLOCK_SIZE as usize;

/// Packs bytes as a publisher does, against a prefix.
fn packed(bytes: &[u8], base: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(bytes.len()));
    let mut context = CCtx::create();
    context.ref_prefix(base).expect("any bytes are a prefix");
    context.compress2(&mut out, bytes).expect("room for it");
    out
}

fn pack(size: u64, index_bytes: u64) -> Pack {
    let sha256 = Digest::new([1; 32]);
    Pack {
        blob: Blob { sha256, size },
        index_bytes,
    }
}

fn frame(len: u32, targets: &[(u32, u32)], bases: &[(u32, u32)]) -> Frame {
    let extents = |list: &[(u32, u32)]| {
        let extents = list.iter().map(|&(first, blocks)| Extent { first, blocks });
        extents.collect()
    };
    Frame {
        offset: 0,
        len,
        targets: extents(targets),
        bases: extents(bases),
    }
}

/// Returns what a reader makes of an index with these frames.
fn parsed(frames: Vec<Frame>, shape: PackShape) -> Result<PackIndex, BadPack> {
    let end = frames.iter().map(|frame| u64::from(frame.len)).sum::<u64>();
    let index = PackIndex { frames };
    PackIndex::parse(&index.to_bytes(), &pack(100 + end, 100), &shape)
}

const SHAPE: PackShape = PackShape {
    target_blocks: 1000,
    base_blocks: 2000,
};

/// A target of short texts out of few letters, some taken from the base.
fn two_files() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    (
        vec(0..4_u8, 1..60_000),
        0..20_000_usize,
        vec(0..4_u8, 1..30_000),
    )
        .prop_map(|(base, from, new)| {
            let mut target = new;
            target.extend(base.iter().skip(from));
            (base, target)
        })
}

/// Cuts a file of `blocks` blocks into extents, by the lengths given over and over.
fn cut(blocks: u32, lengths: &[u32]) -> Vec<Extent> {
    let mut first = 0;
    let mut extents = Vec::new();
    for length in lengths.iter().cycle() {
        let blocks = (*length).min(blocks - first);
        if blocks == 0 {
            break;
        }
        extents.push(Extent { first, blocks });
        first += blocks;
    }
    extents
}

fn gather(file: &[u8], extents: &[Extent]) -> Vec<u8> {
    let mut all = Vec::new();
    for extent in extents {
        let range = extent.bytes(file.len() as u64);
        all.extend(&file[range.start as usize..range.end as usize]);
    }
    all
}

proptest! {
    #[test]
    fn a_pack_gives_back_the_target_whatever_its_frames_are(
        (base, target) in two_files(),
        lengths in vec(1..4_u32, 1..6),
        per_frame in 1..4_usize,
        swap in any::<bool>(),
    ) {
        let shape = PackShape {
            target_blocks: target.len().div_ceil(BLOCK) as u64,
            base_blocks: base.len().div_ceil(BLOCK) as u64,
        };
        let mut extents = cut(shape.target_blocks as u32, &lengths);
        if swap {
            extents.reverse();
        }
        let bases = cut(shape.base_blocks as u32, &[3]);
        let mut frames = Vec::new();
        let mut content = Vec::new();
        for targets in extents.chunks(per_frame) {
            let bytes = packed(&gather(&target, targets), &gather(&base, &bases));
            frames.push(Frame {
                offset: 0,
                len: bytes.len() as u32,
                targets: targets.to_vec(),
                bases: bases.clone(),
            });
            content.extend(bytes);
        }
        let index = PackIndex { frames }.to_bytes();
        let small = packed(&index, &[]);
        let header = PackHeader { packed: small.len() as u32, index: index.len() as u32 };
        let head = [header.to_bytes().as_slice(), &small].concat();
        let file = [head.as_slice(), &content].concat();

        let pack = pack(file.len() as u64, header.head_bytes());
        let index = PackIndex::read(&head, &pack, &shape).expect("own head");
        prop_assert_eq!(index.held_blocks(), shape.target_blocks);
        let mut found = vec![0xff; target.len()];
        let mut unpacked = Vec::new();
        for frame in &index.frames {
            let range = frame.range();
            let bytes = &file[range.start as usize..range.end as usize];
            frame
                .unpack(bytes, &gather(&base, &frame.bases), target.len() as u64, &mut unpacked)
                .expect("own frame");
            let mut rest = unpacked.as_slice();
            for extent in &frame.targets {
                let place = extent.bytes(target.len() as u64);
                let (now, later) = rest.split_at((place.end - place.start) as usize);
                found[place.start as usize..place.end as usize].copy_from_slice(now);
                rest = later;
            }
            prop_assert!(rest.is_empty());
        }
        prop_assert!(found == target);
    }

    #[test]
    fn an_index_is_read_back_from_its_bytes(
        lengths in vec(1..100_u32, 1..8),
        per_frame in 1..5_usize,
        len in 1..1_000_000_u32,
        bases in vec((0..1500_u32, 1..100_u32), 0..10),
    ) {
        let frames: Vec<Frame> = cut(1000, &lengths)
            .chunks(per_frame)
            .filter(|targets| targets.iter().map(|one| one.blocks).sum::<u32>() <= 256)
            .map(|targets| Frame { targets: targets.to_vec(), ..frame(len, &[], &bases) })
            .collect();
        let read = parsed(frames.clone(), SHAPE).expect("within the limits");
        let mut offset = 100;
        for (read, written) in read.frames.iter().zip(&frames) {
            prop_assert_eq!(read.range(), offset..offset + u64::from(written.len));
            offset += u64::from(written.len);
            prop_assert_eq!((&read.targets, &read.bases), (&written.targets, &written.bases));
        }
        prop_assert_eq!(read.frames.len(), frames.len());
    }

    #[test]
    fn hostile_bytes_are_no_index_or_one_within_the_limits(bytes in vec(0..4_u8, 0..200), size in 0..2000_u64) {
        if let Ok(index) = PackIndex::parse(&bytes, &pack(size, 100), &SHAPE) {
            check_limits(&index, size);
        }
    }

    #[test]
    fn an_index_with_one_hostile_number_is_refused_or_within_the_limits(
        at in 0..13_usize,
        number in prop_oneof![any::<u32>(), 0..2100_u32],
    ) {
        let frames = vec![frame(7, &[(0, 3), (9, 1)], &[(5, 5)]), frame(8, &[(3, 6)], &[])];
        let mut bytes = PackIndex { frames }.to_bytes();
        bytes[at * 4..at * 4 + 4].copy_from_slice(&number.to_le_bytes());
        if let Ok(index) = PackIndex::parse(&bytes, &pack(115, 100), &SHAPE) {
            check_limits(&index, 115);
        }
    }

    #[test]
    fn a_hostile_head_is_refused(mut head in vec(any::<u8>(), 0..80), sound in any::<bool>()) {
        if sound && head.len() >= 8 {
            head[..8].copy_from_slice(b"BSTPACK1");
        }
        prop_assert!(PackIndex::read(&head, &pack(1000, head.len() as u64), &SHAPE).is_err());
    }

    #[test]
    fn a_frame_with_one_hostile_byte_is_refused_or_unpacks_to_its_size(
        content in vec(0..4_u8, 3 * BLOCK),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = packed(&content, &[]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let mut found = Vec::new();
        let frame = frame(bytes.len() as u32, &[(4, 3)], &[]);
        if frame.unpack(&bytes, &[], 1 << 20, &mut found).is_ok() {
            prop_assert_eq!(found.len(), 3 * BLOCK);
        }
        prop_assert!(found.capacity() <= 3 * BLOCK);
    }
}

fn check_limits(index: &PackIndex, size: u64) {
    let mut seen = std::collections::BTreeSet::new();
    let mut end = 100;
    for frame in &index.frames {
        assert_eq!(frame.range().start, end);
        end = frame.range().end;
        let blocks: Vec<u64> = frame.blocks().collect();
        assert!(!blocks.is_empty() && blocks.len() as u64 <= PACK_FRAME_BLOCKS);
        assert!(blocks.iter().all(|block| *block < SHAPE.target_blocks));
        assert!(blocks.iter().all(|block| seen.insert(*block)));
        let bases = frame.bases.iter().flat_map(|extent| extent.numbers());
        let bases: Vec<u64> = bases.collect();
        assert!(bases.len() as u64 <= PACK_BASE_BLOCKS);
        assert!(bases.iter().all(|block| *block < SHAPE.base_blocks));
        assert!(u64::from(frame.len) <= MAX_PACK_FRAME_BYTES);
    }
    assert_eq!(end, size);
}

#[test]
fn an_index_beyond_a_limit_is_refused_and_the_limit_named() {
    let huge = MAX_PACK_FRAME_BYTES as u32 + 1;
    let table = [
        (
            frame(9, &[], &[]),
            "frame 0 holds nothing, or names an extent of no blocks",
        ),
        (
            frame(0, &[(0, 1)], &[]),
            "frame 0 holds nothing, or names an extent of no blocks",
        ),
        (
            frame(9, &[(0, 0)], &[]),
            "frame 0 holds nothing, or names an extent of no blocks",
        ),
        (
            frame(9, &[(0, 1)], &[(3, 0)]),
            "frame 0 holds nothing, or names an extent of no blocks",
        ),
        (
            frame(huge, &[(0, 1)], &[]),
            "frame 0 has 1056769 bytes, which is more than 1056768",
        ),
        (
            frame(9, &[(0, 257)], &[]),
            "frame 0 has 257 blocks, which is more than 256",
        ),
        (
            frame(9, &[(0, u32::MAX), (0, u32::MAX)], &[]),
            "frame 0 has 8589934590 blocks, which is more than 256",
        ),
        (
            frame(9, &[(0, 1)], &[(0, 1000), (0, 25)]),
            "frame 0 has 1025 blocks of the base, which is more than 1024",
        ),
        (
            frame(9, &[(999, 2)], &[]),
            "frame 0 names block 1000 of the target, which has 1000",
        ),
        (
            frame(9, &[(u32::MAX, 1)], &[]),
            "frame 0 names block 4294967295 of the target, which has 1000",
        ),
        (
            frame(9, &[(0, 1)], &[(1999, 2)]),
            "frame 0 names block 2000 of the base, which has 2000",
        ),
        (
            frame(9, &[(5, 2), (6, 1)], &[]),
            "frame 0 holds block 6, which was held already",
        ),
    ];
    for (frame, expected) in table {
        let error = parsed(vec![frame], SHAPE).expect_err(expected);
        assert_eq!(error.to_string(), expected);
    }
    let twice = vec![frame(9, &[(5, 2)], &[]), frame(9, &[(4, 2)], &[])];
    let error = parsed(twice, SHAPE).expect_err("block 5");
    assert_eq!(error, BadPack::Twice { frame: 1, block: 5 });
    let whole = PackShape {
        base_blocks: 0,
        ..SHAPE
    };
    let error = parsed(vec![frame(9, &[(5, 2)], &[(0, 1)])], whole).expect_err("no base");
    assert!(
        matches!(error, BadPack::NoSuchBlock { which: "base", .. }),
        "{error}"
    );
}

#[test]
fn an_index_that_lies_about_its_own_length_is_refused() {
    let index = PackIndex {
        frames: vec![frame(9, &[(5, 2)], &[(0, 1)])],
    };
    let bytes = index.to_bytes();
    let sound = pack(109, 100);
    assert!(PackIndex::parse(&bytes, &sound, &SHAPE).is_ok());
    for end in 4..bytes.len() {
        let error = PackIndex::parse(&bytes[..end], &sound, &SHAPE).expect_err("too short");
        assert_eq!(error, BadPack::Truncated { frame: 0 }, "{end} bytes");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(
        PackIndex::parse(&longer, &sound, &SHAPE),
        Err(BadPack::TrailingBytes)
    );
    // Every block in a frame of its own is the most there can be.
    let mut many = bytes.clone();
    many[..4].copy_from_slice(&1001_u32.to_le_bytes());
    let error = PackIndex::parse(&many, &sound, &SHAPE);
    assert_eq!(
        error,
        Err(BadPack::TooManyFrames {
            found: 1001,
            max: 1000
        })
    );
    for size in [108, 110] {
        let error = PackIndex::parse(&bytes, &pack(size, 100), &SHAPE);
        assert_eq!(error, Err(BadPack::End { end: 109, size }));
    }
    let zeros = vec![0; MAX_PACK_INDEX_BYTES as usize + 1];
    let error = PackIndex::parse(&zeros, &sound, &SHAPE).expect_err("too large");
    assert!(
        matches!(error, BadPack::TooLarge { which: "index", .. }),
        "{error}"
    );
}

#[test]
fn a_head_that_is_not_as_long_as_it_and_the_release_say_is_refused() {
    let index = PackIndex {
        frames: vec![frame(9, &[(5, 2)], &[])],
    }
    .to_bytes();
    let small = packed(&index, &[]);
    let head = |packed: u32, length: u32, rest: &[u8]| {
        let header = PackHeader {
            packed,
            index: length,
        };
        [header.to_bytes().as_slice(), rest].concat()
    };
    let length = index.len() as u32;
    let sound = head(small.len() as u32, length, &small);
    let named = pack(sound.len() as u64 + 9, sound.len() as u64);
    assert!(PackIndex::read(&sound, &named, &SHAPE).is_ok());
    let refused =
        |head: &[u8], pack: &Pack| PackIndex::read(head, pack, &SHAPE).expect_err("hostile");

    let error = refused(&sound[..sound.len() - 1], &named);
    assert!(matches!(error, BadPack::Head { .. }), "{error}");
    let error = refused(&head(small.len() as u32 - 1, length, &small), &named);
    assert!(matches!(error, BadPack::Head { .. }), "{error}");
    for wrong in [length - 1, length + 1, 0] {
        let error = refused(&head(small.len() as u32, wrong, &small), &named);
        assert!(matches!(error, BadPack::Index(_)), "{wrong}: {error}");
    }
    // Ten thousand times more than it says, in a few bytes.
    let bomb = packed(&vec![0; 64 << 20], &[]);
    let bytes = head(bomb.len() as u32, length, &bomb);
    let error = refused(&bytes, &pack(1 << 30, bytes.len() as u64));
    assert!(matches!(error, BadPack::Index(_)), "{error}");
    let error = refused(&head(u32::MAX, length, &small), &named);
    assert!(
        matches!(error, BadPack::TooLarge { which: "head", .. }),
        "{error}"
    );
    let error = refused(&head(small.len() as u32, u32::MAX, &small), &named);
    assert!(
        matches!(error, BadPack::TooLarge { which: "index", .. }),
        "{error}"
    );
    assert_eq!(refused(b"BSTPACK2________", &named), BadPack::Magic);
    assert_eq!(refused(b"BSTPACK1", &named), BadPack::Magic);
}

#[test]
fn a_frame_that_unpacks_to_more_or_less_is_refused_and_takes_no_more_memory() {
    let bytes = packed(&vec![7; 64 << 20], &[]);
    let mut into = Vec::new();
    for blocks in [1, 256] {
        let frame = frame(bytes.len() as u32, &[(0, blocks)], &[]);
        let error = frame
            .unpack(&bytes, &[], 1 << 30, &mut into)
            .expect_err("a bomb");
        assert!(matches!(error, BadFrame::Zstd(_)), "{error}");
        assert!(into.capacity() <= PACK_FRAME_BLOCKS as usize * BLOCK);
    }
    let bytes = packed(&vec![7; BLOCK], &[]);
    let frame = frame(bytes.len() as u32, &[(0, 2)], &[]);
    let error = frame
        .unpack(&bytes, &[], 1 << 30, &mut into)
        .expect_err("too short");
    assert_eq!(
        error,
        BadFrame::Size {
            found: BLOCK,
            expected: 2 * BLOCK_SIZE
        }
    );
    assert!(frame.unpack(&[], &[], 1 << 30, &mut into).is_err());
}

#[test]
fn a_base_is_a_prefix_whatever_it_looks_like() {
    // The magic of a trained dictionary, which zstd would take apart.
    let mut base = 0xEC30_A437_u32.to_le_bytes().to_vec();
    base.extend(
        (0..BLOCK as u32 * 2).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8),
    );
    base.truncate(2 * BLOCK);
    let target = base[BLOCK / 2..][..BLOCK].to_vec();
    let bytes = packed(&target, &base);
    assert!(bytes.len() < BLOCK / 8, "{} bytes", bytes.len());
    let frame = frame(bytes.len() as u32, &[(0, 1)], &[(0, 2)]);
    let mut found = Vec::new();
    frame
        .unpack(&bytes, &base, BLOCK_SIZE, &mut found)
        .expect("own frame");
    assert!(found == target);
    // Another base gives other blocks or none, which the hash tree then tells.
    base.rotate_left(1);
    let other = frame.unpack(&bytes, &base, BLOCK_SIZE, &mut found);
    assert!(other.is_err() || found != target);
}

#[test]
fn the_last_block_ends_with_the_target() {
    let frame = frame(9, &[(3, 1), (0, 1)], &[]);
    assert_eq!(frame.unpacked_bytes(3 * BLOCK_SIZE + 5), BLOCK_SIZE + 5);
    assert_eq!(frame.blocks().collect::<Vec<_>>(), [3, 0]);
    let extent = Extent {
        first: 2,
        blocks: 2,
    };
    let size = 3 * BLOCK_SIZE + 5;
    assert_eq!(extent.bytes(size), 2 * BLOCK_SIZE..size);
}
