//! Builds a hash area on all cores.

use std::io;

use partition_layout::RootHash;

use crate::area::HashArea;
use crate::builder::{BuildError, TreeBuilder};
use crate::chunks::{Chunks, Workers};
use crate::device::{ReadAt, WriteAt};
use crate::digest::BlockHasher;
use crate::pipeline;

/// The hash area could not be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the #[error] text documents each variant")]
pub enum FormatError {
    #[error("cannot read {len} bytes of data at byte {offset}")]
    ReadData {
        offset: u64,
        len: usize,
        source: io::Error,
    },
    #[error("cannot build the hash tree")]
    Build(#[source] BuildError),
    #[error("cannot write the superblock at byte {offset}")]
    WriteSuperblock { offset: u64, source: io::Error },
}

/// Writes superblock (if `area` has one) and hash tree of `data` to `hash`, and
/// returns the root hash. Whatever it wrote may still be in a cache.
///
/// The bytes are those that `veritysetup format` writes to a new file. The
/// superblock goes last, so a tree cut short has none; the gap between it and
/// the tree is written as zeros, so that the area's bytes depend on nothing
/// else. Nothing outside the area is written. [`Discard`](crate::Discard) as
/// `hash` gives the root hash alone.
///
/// # Errors
/// `data` ends early or cannot be read, or `hash` cannot be written.
pub fn format(
    data: &impl ReadAt,
    area: &HashArea,
    hash: &mut impl WriteAt,
) -> Result<RootHash, FormatError> {
    format_on(Workers::all(), data, area, hash)
}

fn format_on(
    workers: Workers,
    data: &impl ReadAt,
    area: &HashArea,
    hash: &mut impl WriteAt,
) -> Result<RootHash, FormatError> {
    let chunks = Chunks::of(area, workers);
    let hasher = BlockHasher::new(area.params(), area.params().data_block_size as usize);
    let mut builder = TreeBuilder::new(area, &mut *hash);
    pipeline::in_order(
        workers.cores,
        chunks.count(),
        || chunks.buffer(),
        |buffer, number| {
            let chunk = chunks.get(number);
            let blocks = chunk.read(data, buffer).map_err(|source| {
                let (offset, len) = (chunk.offset, chunk.len);
                FormatError::ReadData {
                    offset,
                    len,
                    source,
                }
            })?;
            let mut digests = Vec::with_capacity(chunks.digests_len());
            hasher.digest_blocks(blocks, &mut digests);
            Ok(digests)
        },
        |digests: Vec<u8>| builder.push_digests(&digests).map_err(FormatError::Build),
    )?;
    let root_hash = builder.finish().map_err(FormatError::Build)?;
    if let Some((superblock, offset)) = area.superblock() {
        let mut bytes = superblock.to_bytes().to_vec();
        let gap = usize::try_from(area.tree_start() - offset).unwrap_or(bytes.len());
        bytes.resize(gap, 0);
        hash.write_all_at(&bytes, offset)
            .map_err(|source| FormatError::WriteSuperblock { offset, source })?;
    }
    Ok(root_hash)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;
    use crate::device::Discard;
    use crate::oracle::{self, Case};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_number_of_cores_writes_the_bytes_of_the_one_that_knows_no_tricks(
            Case { data, area } in oracle::cases(),
            workers in oracle::workers(),
        ) {
            let (expected, expected_root) = oracle::build(&data, &area);
            let mut hash = Vec::new();
            let root_hash = format_on(workers, &data, &area, &mut hash).expect("memory does not fail");
            prop_assert_eq!(root_hash, expected_root);
            prop_assert_eq!(hash.len() as u64, area.end());
            prop_assert!(hash == expected);
            let root_hash = format_on(workers, &data, &area, &mut Discard).expect("memory does not fail");
            prop_assert_eq!(root_hash, expected_root);
        }

        #[test]
        fn nothing_outside_the_area_is_written(
            Case { data, area } in oracle::cases(),
            units in 0_u64..4,
        ) {
            let size = u64::from(area.params().hash_block_size);
            let offset = units * size;
            let moved = match area.superblock() {
                Some((superblock, _)) => HashArea::with_superblock(&superblock, offset),
                None => HashArea::bare(area.params().clone(), area.data_blocks(), offset),
            }
            .expect("a small tree can lie anywhere");
            let (expected, _) = oracle::build(&data, &area);
            let (start, end) = (oracle::len(offset), oracle::len(moved.end()));
            let mut device = vec![0xa5; end + 1000];
            format(&data, &moved, &mut device.as_mut_slice()).expect("memory does not fail");
            prop_assert!(device[start..end] == expected);
            prop_assert!(device[..start].iter().chain(&device[end..]).all(|&byte| byte == 0xa5));
        }
    }

    fn area(blocks: u64) -> HashArea {
        let params = crate::Params {
            data_block_size: 512,
            hash_block_size: 512,
            salt: vec![7; 32],
            hash_type: crate::HashType::Normal,
        };
        let superblock = crate::Superblock::new(params, blocks, uuid::Uuid::nil()).expect("good");
        HashArea::with_superblock(&superblock, 0).expect("good")
    }

    #[test]
    fn data_that_ends_early_is_an_error_with_its_place() {
        let workers = Workers {
            cores: NonZeroUsize::MIN,
            portion: 1024,
        };
        let error = format_on(workers, &vec![0; 5000], &area(10), &mut Vec::new());
        let Err(FormatError::ReadData {
            offset: 4096,
            len: 1024,
            ..
        }) = error
        else {
            panic!("{error:?}");
        };
    }

    #[test]
    fn a_full_hash_device_is_an_error_and_gets_no_superblock() {
        let area = area(1000);
        let mut hash = vec![0; 1024];
        let error = format(&vec![0; 512_000], &area, &mut hash.as_mut_slice());
        assert!(
            matches!(error, Err(FormatError::Build(BuildError::Write { .. }))),
            "{error:?}"
        );
        assert!(hash[..512].iter().all(|&byte| byte == 0));
    }
}
