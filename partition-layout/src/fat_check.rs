//! Whether a FAT file system holds together: every chain whole, every cluster in one.
//!
//! It tells what `fsck.vfat` tells, as far as it matters to what is stored: a name whose
//! chain is longer than its size only wastes room, and so do clusters of no name.

use std::collections::HashMap;
use std::fmt;

use crate::boot_entry::ENTRY_FOLDER;
use crate::device::Device;
use crate::fat::{END_OF_CHAIN, Fat, Folder, MAX_FOLDER_BYTES, ReadFatError};
use crate::fat_folder::{Node, nodes};

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FatCheck {
    /// What is wrong.
    pub damage: Vec<FatDamage>,
    /// Bytes in clusters that are taken, and belong to no name.
    pub lost_bytes: u64,
}

/// Something wrong with a file system.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FatDamage {
    /// The chain of a file or folder leaves the file system, runs into free clusters, or
    /// is shorter than the file.
    BrokenChain {
        /// Its path.
        path: String,
    },
    /// Two files have a cluster in common.
    CrossLinked {
        /// The path of one.
        path: String,
        /// The path of the other.
        other: String,
    },
    /// The copies of the FAT differ. The first one counts.
    CopiesDiffer,
}

impl fmt::Display for FatDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BrokenChain { path } => write!(f, "the chain of clusters of {path} is broken"),
            Self::CrossLinked { path, other } => {
                write!(f, "{path} and {other} have clusters in common")
            }
            Self::CopiesDiffer => f.write_str("the copies of the file allocation table differ"),
        }
    }
}

/// Looks at every file and folder.
pub(crate) fn check<D: Device>(fat: &Fat<'_, D>) -> Result<FatCheck, ReadFatError> {
    let table = fat.read_table(0)?;
    let mut found = FatCheck::default();
    for copy in 1..fat.fats() {
        if fat.read_table(copy)?.get(2..) != table.get(2..) {
            found.damage.push(FatDamage::CopiesDiffer);
            break;
        }
    }
    let mut walk = Walk {
        fat,
        table: &table,
        paths: Vec::new(),
        owners: HashMap::new(),
        damage: Vec::new(),
    };
    walk.walk()?;
    let (_, cluster_bytes) = fat.clusters();
    let numbered = (0..).zip(&table).skip(2);
    let lost = numbered.filter(|(cluster, next)| {
        let is_taken = !matches!(**next, FREE | BAD_16 | BAD_32);
        is_taken && !walk.owners.contains_key(cluster)
    });
    found.lost_bytes = cluster_bytes.saturating_mul(lost.count() as u64);
    found.damage.append(&mut walk.damage);
    Ok(found)
}

const FREE: u32 = 0;
/// What stands for a cluster that the medium cannot keep.
const BAD_16: u32 = 0xfff7;
const BAD_32: u32 = 0x0fff_fff7;

struct Walk<'w, 'd, D> {
    fat: &'w Fat<'d, D>,
    table: &'w [u32],
    paths: Vec<String>,
    /// Whose each cluster is, by its place among the paths.
    owners: HashMap<u32, usize>,
    damage: Vec<FatDamage>,
}

impl<D: Device> Walk<'_, '_, D> {
    fn walk(&mut self) -> Result<(), ReadFatError> {
        let root = self.fat.root_folder();
        let clusters = match root {
            Folder::Root => Vec::new(),
            Folder::At(first) => self.claim(String::from("/"), first, None),
        };
        let mut waiting = vec![(String::new(), root, clusters)];
        while let Some((path, folder, clusters)) = waiting.pop() {
            let (_, cluster_bytes) = self.fat.clusters();
            let bytes = cluster_bytes.saturating_mul(clusters.len() as u64);
            if bytes > MAX_FOLDER_BYTES {
                let first = clusters.first().copied().unwrap_or_default();
                return Err(ReadFatError::EndlessFolder { first });
            }
            let content = self.fat.read_folder(folder, &clusters)?;
            let mut firsts: Vec<u32> = Vec::new();
            for node in nodes(&content) {
                let below = if path.is_empty() {
                    node.name.clone()
                } else {
                    format!("{path}/{}", node.name)
                };
                // Names of one file are told as what they are, see `torn_names`.
                let is_shared =
                    path.eq_ignore_ascii_case(ENTRY_FOLDER) && firsts.contains(&node.first_cluster);
                if !is_shared && let Some(clusters) = self.claim_node(&below, &node) {
                    firsts.push(node.first_cluster);
                    if node.is_folder {
                        waiting.push((below, Folder::At(node.first_cluster), clusters));
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the clusters of a node that has some.
    fn claim_node(&mut self, path: &str, node: &Node) -> Option<Vec<u32>> {
        if node.first_cluster == 0 && node.size == 0 && !node.is_folder {
            return None;
        }
        let size = (!node.is_folder).then_some(node.size);
        Some(self.claim(path.to_owned(), node.first_cluster, size))
    }

    /// Follows a chain, and notes what is wrong with it.
    fn claim(&mut self, path: String, first: u32, size: Option<u64>) -> Vec<u32> {
        let owner = self.paths.len();
        self.paths.push(path.clone());
        let (count, cluster_bytes) = self.fat.clusters();
        let mut clusters = Vec::new();
        let mut cluster = first;
        while cluster != END_OF_CHAIN {
            let is_there = (2..count.saturating_add(2)).contains(&u64::from(cluster));
            let next = usize::try_from(cluster).ok();
            let next = next.and_then(|place| self.table.get(place)).copied();
            let (true, Some(next @ 1..)) = (is_there, next) else {
                self.damage.push(FatDamage::BrokenChain { path });
                return clusters;
            };
            if let Some(other) = self.owners.get(&cluster) {
                let damage = match self.paths.get(*other) {
                    Some(other) if *other != path => FatDamage::CrossLinked {
                        path,
                        other: other.clone(),
                    },
                    Some(_) | None => FatDamage::BrokenChain { path },
                };
                self.damage.push(damage);
                return clusters;
            }
            self.owners.insert(cluster, owner);
            clusters.push(cluster);
            cluster = next;
        }
        let wanted = size.unwrap_or_default().div_ceil(cluster_bytes.max(1));
        if wanted > clusters.len() as u64 {
            self.damage.push(FatDamage::BrokenChain { path });
        }
        clusters
    }
}
