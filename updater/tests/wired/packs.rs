//! Packs, as a publisher makes them.

use release::limits::PACK_BASE_BLOCKS;
use release::pack::{Extent, Frame, PackHeader, PackIndex};
use release::{Pack, Release};
use zstd::zstd_safe::{CCtx, compress_bound};

use super::fake::Image;
use super::network::{FakeRepository, Which, blob};

const BLOCK: usize = 4096;

fn place(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

fn size(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
}

fn compress(bytes: &[u8], base: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(compress_bound(bytes.len()));
    let mut context = CCtx::create();
    context.ref_prefix(base).unwrap();
    context.compress2(&mut packed, bytes).unwrap();
    packed
}

/// Returns neighbouring numbers as extents.
fn extents(blocks: &[usize]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for block in blocks {
        let first = u32::try_from(*block).unwrap();
        match extents.last_mut() {
            Some(last) if last.first + last.blocks == first => last.blocks += 1,
            _ => extents.push(Extent { first, blocks: 1 }),
        }
    }
    extents
}

fn content(file: &[u8], extents: &[Extent]) -> Vec<u8> {
    let size = file.len() as u64;
    let each = extents.iter().map(|extent| extent.bytes(size));
    each.flat_map(|range| file[place(range.start)..place(range.end)].to_vec())
        .collect()
}

/// Packs some blocks of `target` in frames of `each`, against the first blocks of `base`.
pub(crate) fn pack(target: &[u8], blocks: &[usize], base: &[u8], each: usize) -> (Pack, Vec<u8>) {
    let base_blocks = base.len().div_ceil(BLOCK).min(place(PACK_BASE_BLOCKS));
    let bases = extents(&(0..base_blocks).collect::<Vec<_>>());
    let base = content(base, &bases);
    let (mut index, mut frames) = (PackIndex::default(), Vec::new());
    for blocks in blocks.chunks(each) {
        let targets = extents(blocks);
        let packed = compress(&content(target, &targets), &base);
        index.frames.push(Frame {
            offset: 0,
            len: size(&packed),
            targets,
            bases: bases.clone(),
        });
        frames.extend(packed);
    }
    let index = index.to_bytes();
    let packed = compress(&index, &[]);
    let header = PackHeader {
        packed: size(&packed),
        index: size(&index),
    };
    let head = [&header.to_bytes()[..], &packed].concat();
    let index_bytes = head.len() as u64;
    let bytes = [head, frames].concat();
    let blob = blob(&bytes);
    (Pack { blob, index_bytes }, bytes)
}

/// Returns the numbers of blocks of `image` that are not zero, and that `base` has nowhere.
pub(crate) fn new_blocks(image: &[u8], base: &[u8]) -> Vec<usize> {
    let known: std::collections::HashSet<&[u8]> = base.chunks(BLOCK).collect();
    let blocks = image.chunks(BLOCK).enumerate();
    blocks
        .filter(|(_, block)| block.iter().any(|byte| *byte != 0) && !known.contains(block))
        .map(|(number, _)| number)
        .collect()
}

/// Publishes the compressed whole of a root image.
pub(crate) fn publish_whole(repository: &FakeRepository, of: &mut (Release, Image), each: usize) {
    let blocks: Vec<usize> = (0..of.1.root.len() / BLOCK).collect();
    let (packed, bytes) = pack(&of.1.root, &blocks, &[], each);
    repository.add(Which::Packed, bytes);
    of.0.blobs.packed = Some(packed);
}

/// Publishes patches of root image and UKI against another release's.
pub(crate) fn publish_patches(
    repository: &FakeRepository,
    of: &mut (Release, Image),
    base: &(Release, Image),
    each: usize,
) {
    let blocks = new_blocks(&of.1.root, &base.1.root);
    if !blocks.is_empty() {
        let (root, bytes) = pack(&of.1.root, &blocks, &base.1.root, each);
        repository.add(Which::Patch, bytes);
        let from = base.0.root_hash;
        of.0.patches.push(release::Patch { from, root });
    }
    let blocks: Vec<usize> = (0..of.1.uki.len().div_ceil(BLOCK)).collect();
    let (pack, bytes) = pack(&of.1.uki, &blocks, &base.1.uki, each);
    repository.add(Which::UkiPatch, bytes);
    let from = base.0.blobs.uki.sha256;
    of.0.uki_patches.push(release::UkiPatch { from, pack });
}
