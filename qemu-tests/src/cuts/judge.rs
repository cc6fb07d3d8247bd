//! What would boot from a disk, and whether that may be.
//!
//! Thousands of states of one disk are judged, and most differ in nothing that the
//! verdict is about. So what was found is remembered by the prints of what was read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use inspector::{Bootable, DiskProofs, Proofs, Verdict, chain};
use partition_layout::esp::{Esp, FatCheck};
use partition_layout::{BootEntry, Device as _, DiskLayout, Partition, RootHash, SlotPartitions};
use serde::{Deserialize, Serialize};

use super::medium::Medium;

/// Both ends of a disk hold its tables, and no partition.
const TABLE_BYTES: u64 = 1 << 20;

/// What may boot at some time.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Expected {
    /// The root hashes of the images that have been good here: one of them must be
    /// bootable, and no other may boot without a counter.
    pub proven: BTreeSet<String>,
    /// The SHA-256 of each image's kernel image, by the root hash.
    pub kernels: BTreeMap<String, String>,
    /// What is known to be rotten, in the inspector's words, by the root hash: that much may be, and
    /// nothing else of the image.
    #[serde(default)]
    pub rotten: BTreeMap<String, String>,
}

/// Judges states of a disk.
#[derive(Debug, Default)]
pub struct Judge {
    tables: HashMap<u64, Arc<Result<Table, String>>>,
    esps: HashMap<u64, Arc<Result<FileSystem, String>>>,
    proofs: Memory,
    verdicts: HashMap<u64, Arc<Judgement>>,
    /// All that there ever were.
    seen: HashSet<u64>,
}

/// How many verdicts are remembered: each has about a KiB.
const MOST: usize = 50_000;

#[derive(Debug)]
struct Table {
    layout: DiskLayout,
    is_sound: bool,
}

#[derive(Debug)]
struct FileSystem {
    esp: Esp,
    check: FatCheck,
}

/// Proofs, by the prints of what was read for them.
#[derive(Debug, Default)]
struct Memory {
    slots: HashMap<u64, Result<(), String>>,
    kernels: HashMap<u64, Result<String, String>>,
}

/// What was found on a disk.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// What would boot.
    pub verdict: Option<Verdict>,
    /// What must not be.
    pub violations: Vec<String>,
    /// What is wrong and does no harm: a table to be repaired, a name to be mended.
    pub harmless: BTreeSet<&'static str>,
}

impl Judge {
    /// Returns how many different states there were.
    pub fn different(&self) -> usize {
        self.seen.len()
    }

    /// Judges `medium`, on which `expected` holds.
    pub fn judge(&mut self, medium: &Medium<'_>, expected: &Expected) -> Arc<Judgement> {
        let len = medium.size().unwrap_or_default();
        let ends = [0..TABLE_BYTES, len.saturating_sub(TABLE_BYTES)..len];
        let of_table = combine(&ends.map(|end| medium.print(&end)));
        let table = self.tables.entry(of_table);
        let table = Arc::clone(table.or_insert_with(|| Arc::new(read_table(medium))));
        let Table { layout, is_sound } = match table.as_ref() {
            Ok(table) => table,
            Err(error) => {
                return Arc::new(Judgement {
                    violations: vec![error.clone()],
                    ..Judgement::default()
                });
            }
        };
        let of_esp = medium.print(&layout.esp.range());
        let [a, b] = [Some(&layout.slot_a), layout.slot_b.as_ref()]
            .map(|slot| slot.map_or(0, |slot| combine(&slot_prints(medium, slot))));
        let words = |sum, word: &String| {
            let of_word = word
                .bytes()
                .fold(0, |sum, byte| combine(&[sum, byte.into()]));
            combine(&[sum, of_word])
        };
        let proven = expected.proven.iter().fold(0, words);
        let rotten = expected.rotten.iter();
        let rotten = rotten.fold(0, |sum, (hash, fault)| words(words(sum, hash), fault));
        let key = combine(&[of_table, of_esp, a, b, proven, rotten]);
        if let Some(judgement) = self.verdicts.get(&key) {
            return Arc::clone(judgement);
        }
        let esp = self.esps.entry(combine(&[of_table, of_esp]));
        let esp = Arc::clone(esp.or_insert_with(|| Arc::new(read_esp(medium, layout))));
        let mut judgement = match esp.as_ref() {
            Ok(FileSystem { esp, check }) => {
                let mut proofs = Remembered {
                    medium,
                    memory: &mut self.proofs,
                };
                judge_boot(&Verdict::of(layout, esp, &mut proofs), esp, check, expected)
            }
            Err(error) => Judgement {
                violations: vec![error.clone()],
                ..Judgement::default()
            },
        };
        if !is_sound {
            judgement.harmless.insert("a table to be repaired");
        }
        let judgement = Arc::new(judgement);
        if self.verdicts.len() >= MOST {
            self.verdicts.clear();
            self.esps.clear();
        }
        self.seen.insert(key);
        self.verdicts.insert(key, Arc::clone(&judgement));
        judgement
    }
}

fn read_table(medium: &Medium<'_>) -> Result<Table, String> {
    let read = DiskLayout::read(medium).map_err(|error| chain(&error));
    read.map(|(layout, health)| Table {
        layout,
        is_sound: health.is_sound(),
    })
}

fn read_esp(medium: &Medium<'_>, layout: &DiskLayout) -> Result<FileSystem, String> {
    let read = Esp::read(medium, &layout.esp);
    let checked = read.and_then(|esp| {
        let check = Esp::check(medium, &layout.esp)?;
        Ok(FileSystem { esp, check })
    });
    checked.map_err(|error| format!("cannot read the ESP: {}", chain(&error)))
}

fn slot_prints(medium: &Medium<'_>, slot: &SlotPartitions) -> [u64; 2] {
    [&slot.root, &slot.verity].map(|partition| medium.print(&Partition::range(partition)))
}

fn combine(prints: &[u64]) -> u64 {
    let mix = super::dice::mix;
    prints.iter().fold(0, |sum, print| mix(sum ^ mix(*print)))
}

fn judge_boot(verdict: &Verdict, esp: &Esp, check: &FatCheck, expected: &Expected) -> Judgement {
    let is_known = |it: &Bootable| {
        let root_hash = it.root_hash.map(|root_hash| root_hash.to_string());
        let known = root_hash.and_then(|root_hash| expected.rotten.get(&root_hash));
        known.is_some() && known == it.fault.as_ref()
    };
    let is_whole = |it: &Bootable| it.fault.is_none() || is_known(it);
    let known = verdict.bootable.iter().filter(|it| is_known(it));
    let known: BTreeSet<_> = known.filter_map(Bootable::broken).collect();
    let mut violations = verdict.why.clone();
    violations.retain(|why| !known.contains(why));
    let is_proven = |it: &Bootable| {
        let root_hash = it.root_hash.map(|root_hash| root_hash.to_string());
        root_hash.is_some_and(|root_hash| expected.proven.contains(&root_hash))
    };
    let entry = |it: &Bootable| BootEntry::parse_file_name(&it.file_name).ok();
    let is_good = |it: &Bootable| entry(it).is_some_and(|entry| entry.is_good());
    // Whatever the firmware makes of the name that it counts, another one must boot.
    let is_alone = |it: &Bootable| {
        let by_right = |other: &&Bootable| {
            let counter = entry(other).and_then(|entry| entry.counter);
            counter.is_none_or(|counter| (counter.left, counter.done) == (0, 0))
        };
        let mut others = verdict
            .bootable
            .iter()
            .filter(|other| other.root_hash != it.root_hash);
        !others.any(|other| by_right(&other) && other.fault.is_none() && is_proven(other))
    };
    for it in &verdict.bootable {
        let root_hash = it.root_hash.map(|root_hash| root_hash.to_string());
        let wanted = root_hash.and_then(|root_hash| expected.kernels.get(&root_hash));
        if is_whole(it) && wanted != it.kernel_sha256.as_ref() {
            violations.push(format!(
                "{} is not the kernel image of its release",
                it.file_name
            ));
        }
        if !is_proven(it) && is_good(it) {
            violations.push(format!(
                "{} boots an image that was never good, and passes for good",
                it.file_name
            ));
        }
        if entry(it).is_some_and(|entry| entry.is_watched()) && is_alone(it) {
            violations.push(format!(
                "{} is counted by the firmware, and nothing else is good",
                it.file_name
            ));
        }
    }
    if !verdict
        .bootable
        .iter()
        .any(|it| is_whole(it) && is_proven(it))
    {
        violations.push("no slot that was good can be booted".to_owned());
    }
    let mut harmless = BTreeSet::new();
    let mut found = |is_so: bool, what| is_so.then(|| harmless.insert(what));
    found(!known.is_empty(), "a block to be mended");
    found(!esp.torn.is_empty(), "a name to be mended");
    found(!check.damage.is_empty(), "a file system to be mended");
    found(check.lost_bytes > 0, "lost clusters");
    Judgement {
        verdict: Some(verdict.clone()),
        violations,
        harmless,
    }
}

/// Proofs that are given once for what lies there.
struct Remembered<'j, 'm> {
    medium: &'j Medium<'m>,
    memory: &'j mut Memory,
}

impl Proofs for Remembered<'_, '_> {
    fn prove_slot(&mut self, slot: &SlotPartitions, root_hash: &RootHash) -> Result<(), String> {
        let [root, verity] = slot_prints(self.medium, slot);
        let (words, _) = root_hash.as_bytes().as_chunks();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        let key: Vec<_> = words.chain([slot.root.start, root, verity]).collect();
        let proved = self.memory.slots.entry(combine(&key));
        proved
            .or_insert_with(|| DiskProofs(self.medium).prove_slot(slot, root_hash))
            .clone()
    }

    fn digest(&mut self, extents: &[Range<u64>]) -> Result<String, String> {
        let lies = extents.iter().flat_map(|extent| {
            let print = self.medium.fine_print(extent);
            [extent.start, extent.end, print]
        });
        let key = combine(&lies.collect::<Vec<_>>());
        let digest = self.memory.kernels.entry(key);
        digest
            .or_insert_with(|| DiskProofs(self.medium).digest(extents))
            .clone()
    }
}
