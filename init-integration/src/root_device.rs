//! Opens the device that the root file system is mounted from.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use partition_layout::RootHash;
use verity::{
    ActivateError, BadName, DeviceNumber, Dm, DmName, HashArea, HashType, NotADevice, OnCorruption,
    Params, ReadAreaError, VerityTable, activate,
};

use crate::block_devices::FoundSlot;

/// The name of the device, in `/sys/class/block/dm-*/dm/name`.
const NAME: &str = "root";

/// The block size of every image of ours, data and tree.
const BLOCK_SIZE: u32 = 4096;

/// Why the image cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenRootError {
    #[error("cannot open {device}")]
    Open { device: PathBuf, source: io::Error },
    #[error("{device} cannot be mapped")]
    Device { device: PathBuf, source: NotADevice },
    #[error("{device} holds no hash tree")]
    Area {
        device: PathBuf,
        source: ReadAreaError,
    },
    #[error("the hash tree on {device} is not as ours are: {why}")]
    Foreign { device: PathBuf, why: String },
    #[error("cannot name the device")]
    Name { source: BadName },
    #[error("the kernel does not take the hash tree")]
    Activate { source: ActivateError },
}

/// Maps the partitions of `slot` under `root_hash` and returns the device.
///
/// What the superblock says is believed only so far as it makes a table: a lie in it
/// gives a tree that does not lead to the root hash, and each read then
/// panics the kernel, as does every block that was tampered with.
pub(crate) fn open(
    slot: &FoundSlot,
    root_hash: &RootHash,
    dm: &mut impl Dm,
) -> Result<PathBuf, OpenRootError> {
    let root = open_partition(&slot.root)?;
    let tree = open_partition(&slot.verity)?;
    let area = HashArea::read(&tree.file, 0).map_err(|source| OpenRootError::Area {
        device: slot.verity.clone(),
        source,
    })?;
    check(&area, root.len, tree.len).map_err(|why| OpenRootError::Foreign {
        device: slot.verity.clone(),
        why,
    })?;
    let table = VerityTable::new(root.number, tree.number, area, *root_hash)
        .on_corruption(OnCorruption::Panic);
    let name = DmName::parse(NAME).map_err(|source| OpenRootError::Name { source })?;
    let device =
        activate(dm, &name, &table).map_err(|source| OpenRootError::Activate { source })?;
    // devtmpfs makes the node while the kernel makes the device, under the kernel's own name for it.
    Ok(format!("/dev/dm-{}", device.minor).into())
}

struct Opened {
    file: File,
    number: DeviceNumber,
    /// Bytes.
    len: u64,
}

fn open_partition(path: &Path) -> Result<Opened, OpenRootError> {
    let wrap = |source| OpenRootError::Open {
        device: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(wrap)?;
    let len = file.seek(SeekFrom::End(0)).map_err(wrap)?;
    let number = DeviceNumber::of(&file).map_err(|source| OpenRootError::Device {
        device: path.to_owned(),
        source,
    })?;
    Ok(Opened { file, number, len })
}

/// Says what is not as in an image of ours. The kernel would take some of
/// it, and say less about the rest.
fn check(area: &HashArea, root_len: u64, tree_len: u64) -> Result<(), String> {
    let Params {
        data_block_size,
        hash_block_size,
        hash_type,
        ..
    } = area.params();
    if (*data_block_size, *hash_block_size) != (BLOCK_SIZE, BLOCK_SIZE) {
        return Err(format!(
            "its blocks have {data_block_size} and {hash_block_size} bytes, not {BLOCK_SIZE}"
        ));
    }
    if *hash_type != HashType::Normal {
        return Err("it is of the old Chrome OS type".to_owned());
    }
    if area.data_len() > root_len {
        return Err(format!(
            "it covers {} bytes, the root partition has {root_len}",
            area.data_len()
        ));
    }
    if area.end() > tree_len {
        return Err(format!(
            "it ends at byte {}, its partition at {tree_len}",
            area.end()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use verity::Superblock;

    fn area(block_size: u32, hash_type: HashType, data_blocks: u64) -> HashArea {
        let params = Params {
            data_block_size: block_size,
            hash_block_size: block_size,
            salt: vec![7; 32],
            hash_type,
        };
        let superblock = Superblock::new(params, data_blocks, uuid::Uuid::nil()).unwrap();
        HashArea::with_superblock(&superblock, 0).unwrap()
    }

    #[test]
    fn a_tree_of_ours_passes() {
        // 1000 data blocks: 8 leaves and a root block, behind the superblock's block.
        assert_eq!(
            check(&area(4096, HashType::Normal, 1000), 4_096_000, 10 * 4096),
            Ok(())
        );
    }

    #[test]
    fn what_is_not_ours_is_named() {
        for (area, root_len, tree_len, why) in [
            (area(1024, HashType::Normal, 10), 1 << 30, 1 << 30, "1024"),
            (
                area(4096, HashType::ChromeOs, 10),
                1 << 30,
                1 << 30,
                "Chrome OS",
            ),
            (
                area(4096, HashType::Normal, 1000),
                4_095_999,
                1 << 30,
                "4095999",
            ),
            (
                area(4096, HashType::Normal, 1000),
                1 << 30,
                10 * 4096 - 1,
                "40959",
            ),
        ] {
            let said = check(&area, root_len, tree_len).expect_err(why);
            assert!(said.contains(why), "{said}");
        }
    }
}
