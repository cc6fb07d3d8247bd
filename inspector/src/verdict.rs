//! The verdict on a disk: which slot boots, and whether all that could boot is whole.
//!
//! What could boot is every file that systemd-boot offers, whatever its counter: an
//! entry without tries left is the last resort. One of them that is broken is a trap,
//! even while another one boots before it.

use partition_layout::esp::{EntryFile, EntryImage, Esp, Uki};
use partition_layout::{DiskLayout, RootHash, Slot};
use serde::Serialize;

use crate::chain;
use crate::proof::Proofs;

/// The verdict on a disk.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether a whole system boots, and nothing that could boot is broken.
    pub safe: bool,
    /// The slot that boots next; absent when nothing boots, or a broken entry does.
    pub boots: Option<Slot>,
    /// What could boot, in the order in which systemd-boot prefers it.
    pub bootable: Vec<Bootable>,
    /// Why it is not safe, in words.
    pub why: Vec<String>,
}

/// A boot entry that systemd-boot offers.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Bootable {
    /// The name of its file.
    pub file_name: String,
    /// The root hash on its command line.
    pub root_hash: Option<RootHash>,
    /// The SHA-256 of its kernel image, when it can be read.
    pub kernel_sha256: Option<String>,
    /// The slot that it boots, when that holds the image of the root hash.
    pub slot: Option<Slot>,
    /// What is broken about it.
    pub fault: Option<String>,
}

impl Bootable {
    /// Says what is broken about it, as a verdict does, if anything is.
    pub fn broken(&self) -> Option<String> {
        let fault = self.fault.as_ref()?;
        Some(format!("{}: {fault}", self.file_name))
    }
}

impl Verdict {
    /// Judges a disk by its table and its boot entries.
    pub fn of(layout: &DiskLayout, esp: &Esp, proofs: &mut impl Proofs) -> Self {
        let mut offered: Vec<_> = esp
            .files
            .iter()
            .filter_map(|file| Some((file.loader_entry()?, file)))
            .collect();
        // The sort is stable, as the choice is: of equals the first one boots.
        offered.sort_by(|(a, _), (b, _)| a.order(b));
        let bootable: Vec<_> = offered
            .iter()
            .map(|(_, file)| judge(file, layout, proofs))
            .collect();
        let mut why = Vec::new();
        for file in &esp.files {
            // It may read well enough for the firmware to start it.
            if let EntryImage::Unreadable(error) = &file.image {
                why.push(format!(
                    "{} cannot be read: {}",
                    file.file_name,
                    chain(error)
                ));
            }
        }
        why.extend(bootable.iter().filter_map(Bootable::broken));
        why.extend(esp.decided_elsewhere.clone());
        if bootable.is_empty() {
            why.push("there is nothing to boot".to_owned());
        }
        let first = bootable.first().filter(|_| esp.decided_elsewhere.is_none());
        Self {
            safe: why.is_empty(),
            boots: first.and_then(|it| it.slot),
            bootable,
            why,
        }
    }

    /// Returns the verdict on a disk whose boot entries nobody can read.
    pub(crate) fn of_nothing(why: String) -> Self {
        Self {
            safe: false,
            boots: None,
            bootable: Vec::new(),
            why: vec![why],
        }
    }
}

fn judge(file: &EntryFile, layout: &DiskLayout, proofs: &mut impl Proofs) -> Bootable {
    let EntryFile { file_name, .. } = file;
    let uki = match &file.image {
        EntryImage::Uki(uki) => Some(uki),
        EntryImage::NoUki | EntryImage::Unreadable(_) => None,
    };
    let root_hash = uki.and_then(|uki: &Uki| uki.root_hash);
    let extents = file.extents.as_ref().map_err(|error| chain(error));
    let kernel = extents.and_then(|extents| proofs.digest(extents));
    let slot = match root_hash {
        None => Err("its command line names no root hash".to_owned()),
        Some(root_hash) => slot_of(layout, &root_hash, proofs),
    };
    let fault = match (&kernel, &slot) {
        (Err(fault), _) => Some(format!("its kernel image is not whole: {fault}")),
        (Ok(_), Err(fault)) => Some(fault.clone()),
        (Ok(_), Ok(_)) => None,
    };
    Bootable {
        file_name: file_name.clone(),
        root_hash,
        slot: slot.ok().filter(|_| fault.is_none()),
        kernel_sha256: kernel.ok(),
        fault,
    }
}

/// Finds the slot that PID 1 will take for a root hash: by partition UUIDs, whatever the
/// label says. Of several that have them each must be whole.
fn slot_of(
    layout: &DiskLayout,
    root_hash: &RootHash,
    proofs: &mut impl Proofs,
) -> Result<Slot, String> {
    let mut found = None;
    for (slot, partitions) in layout.slots() {
        let is_named = partitions.root.uuid == root_hash.root_uuid()
            && partitions.verity.uuid == root_hash.verity_uuid();
        if !is_named {
            continue;
        }
        let proved = proofs.prove_slot(partitions, root_hash);
        proved.map_err(|fault| format!("slot {slot} is not whole: {fault}"))?;
        found = found.or(Some(slot));
    }
    found.ok_or_else(|| format!("no slot has the root hash {root_hash}"))
}
