//! The device-mapper table by which the kernel enforces a tree.
//!
//! <https://docs.kernel.org/admin-guide/device-mapper/verity.html>

use std::fmt;

use partition_layout::RootHash;

use crate::area::HashArea;
use crate::dm::DeviceNumber;

/// Device-mapper's unit of length.
const SECTOR: u64 = 512;

/// What the kernel does when it reads a block that the tree does not prove.
///
/// There is no "log it and go on": a node never uses such a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCorruption {
    /// The read fails with `EIO`.
    #[default]
    Fail,
    /// The kernel panics (`panic_on_corruption`): its log is kept, and `panic=` says how long it
    /// waits before the machine restarts. `restart_on_corruption` does neither.
    Panic,
}

/// One line that maps a whole verity device. `Display` gives the target's
/// parameters, as the kernel parses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerityTable {
    data: DeviceNumber,
    hash: DeviceNumber,
    area: HashArea,
    root_hash: RootHash,
    on_corruption: OnCorruption,
    options: Vec<&'static str>,
}

impl VerityTable {
    /// The kernel's name of the target.
    pub const TARGET: &'static str = "verity";

    /// Maps `data` under the tree that lies in `area` of `hash`; corruption
    /// makes reads fail.
    pub const fn new(
        data: DeviceNumber,
        hash: DeviceNumber,
        area: HashArea,
        root_hash: RootHash,
    ) -> Self {
        Self {
            data,
            hash,
            area,
            root_hash,
            on_corruption: OnCorruption::Fail,
            options: Vec::new(),
        }
    }

    /// Says what the kernel does when it reads a bad block.
    #[must_use]
    pub const fn on_corruption(mut self, action: OnCorruption) -> Self {
        self.on_corruption = action;
        self
    }

    /// Lets the kernel return zeros for blocks that the tree says are zero,
    /// without reading them.
    #[must_use]
    pub fn ignore_zero_blocks(self) -> Self {
        self.with("ignore_zero_blocks")
    }

    /// Checks a data block only when it is first read: less work, and no
    /// protection from a disk that changes under a running system.
    #[must_use]
    pub fn check_at_most_once(self) -> Self {
        self.with("check_at_most_once")
    }

    fn with(mut self, option: &'static str) -> Self {
        if !self.options.contains(&option) {
            self.options.push(option);
        }
        self
    }

    /// Sectors (512 bytes) of the mapped device.
    pub const fn sectors(&self) -> u64 {
        self.area.data_len() / SECTOR
    }
}

impl fmt::Display for VerityTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params = self.area.params();
        write!(
            f,
            "{} {} {} {} {} {} {} sha256 {} ",
            params.hash_type.number(),
            self.data,
            self.hash,
            params.data_block_size,
            params.hash_block_size,
            self.area.data_blocks(),
            self.area.tree_start() / u64::from(params.hash_block_size),
            self.root_hash,
        )?;
        if params.salt.is_empty() {
            f.write_str("-")?;
        } else {
            f.write_str(&hex::encode(&params.salt))?;
        }
        let on_corruption = match self.on_corruption {
            OnCorruption::Fail => None,
            OnCorruption::Panic => Some("panic_on_corruption"),
        };
        let options = on_corruption
            .into_iter()
            .chain(self.options.iter().copied());
        let count = options.clone().count();
        if count > 0 {
            write!(f, " {count}")?;
        }
        for option in options {
            write!(f, " {option}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HashType, Params, Superblock};

    const ROOT: &str = "4a13074ba81fa6965a65a10c7fc81500a282fae587b84211029a277577d55b8a";

    fn area(data: u32, hash: u32, salt: &[u8], hash_type: HashType) -> HashArea {
        let params = Params {
            data_block_size: data,
            hash_block_size: hash,
            salt: salt.to_vec(),
            hash_type,
        };
        let superblock = Superblock::new(params, 300, uuid::Uuid::nil()).expect("good");
        HashArea::with_superblock(&superblock, 0).expect("good")
    }

    fn table(area: HashArea) -> VerityTable {
        let root_hash = RootHash::parse(ROOT).expect("good");
        let device = |minor| DeviceNumber { major: 254, minor };
        VerityTable::new(device(2), device(3), area, root_hash)
    }

    #[test]
    fn the_line_is_the_one_that_the_kernel_documents() {
        let product = || area(4096, 4096, &[0xab, 0xcd], HashType::Normal);
        let panic = OnCorruption::Panic;
        let rows: [(VerityTable, String); 5] = [
            (
                table(product()),
                format!("1 254:2 254:3 4096 4096 300 1 sha256 {ROOT} abcd"),
            ),
            (
                table(product())
                    .on_corruption(OnCorruption::Fail)
                    .on_corruption(panic),
                format!("1 254:2 254:3 4096 4096 300 1 sha256 {ROOT} abcd 1 panic_on_corruption"),
            ),
            (
                table(product())
                    .ignore_zero_blocks()
                    .check_at_most_once()
                    .on_corruption(panic),
                format!(
                    "1 254:2 254:3 4096 4096 300 1 sha256 {ROOT} abcd \
                     3 panic_on_corruption ignore_zero_blocks check_at_most_once"
                ),
            ),
            (
                table(product()).ignore_zero_blocks().ignore_zero_blocks(),
                format!("1 254:2 254:3 4096 4096 300 1 sha256 {ROOT} abcd 1 ignore_zero_blocks"),
            ),
            (
                table(area(1024, 512, &[], HashType::ChromeOs)),
                format!("0 254:2 254:3 1024 512 300 1 sha256 {ROOT} -"),
            ),
        ];
        for (table, expected) in rows {
            assert_eq!(table.to_string(), expected);
        }
    }

    #[test]
    fn a_tree_further_in_is_counted_in_hash_blocks_and_the_device_in_sectors() {
        let params = Params {
            data_block_size: 4096,
            hash_block_size: 1024,
            salt: Vec::new(),
            hash_type: HashType::Normal,
        };
        let area = HashArea::bare(params, 300, 5120).expect("good");
        let table = table(area);
        assert!(table.to_string().contains(" 300 5 sha256 "), "{table}");
        assert_eq!(table.sectors(), 2400);
    }
}
