//! The file system of a rotten image, searched for the files of rotten blocks.
//!
//! ```text
//! u8 how many   (u16 rotten block) …   a disk
//! ```

use std::collections::BTreeSet;

use updater::scrub::erofs::{LONGEST_PATH, files_of};

use crate::Outcome;
use crate::disk::Disk;
use crate::script::Script;

pub(crate) fn read(input: &[u8]) -> Outcome {
    let mut script = Script(input);
    let count = script.byte() % 8;
    let rotten: BTreeSet<u64> = (0..count).map(|_| script.short().into()).collect();
    let image = Disk::parse(&mut script);
    let found = files_of(&image, &rotten);
    for (block, path) in &found {
        assert!(rotten.contains(block), "nobody asked for it");
        assert!(path.starts_with('/') && path.len() <= LONGEST_PATH);
    }
    if found.is_empty() {
        Outcome::Refused
    } else {
        Outcome::Accepted
    }
}

/// None are made here: those in the corpus come from `mkfs.erofs`.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}
