//! What must hold of a disk whenever the power fails, and whenever it comes back.

use std::collections::{BTreeMap, BTreeSet};

use inspector::{Bootable, DiskProofs, Verdict, chain};
use partition_layout::esp::Esp;
use partition_layout::{
    BootEntry, DiskLayout, LoaderEntry, RootHash, TEMPORARY_NAME, choose_entry,
};

use super::disk::SimDisk;

/// More starts than any trial has, twice.
const STARTS: usize = 24;

/// What the history knows of its images.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    /// Those whose gate has said yes here.
    pub(crate) good: BTreeSet<RootHash>,
    /// Those that failed here, and that nobody has forgiven or forced.
    pub(crate) barred: BTreeSet<RootHash>,
    /// The digest of each image's kernel image.
    pub(crate) kernels: BTreeMap<RootHash, String>,
}

/// Names what must not be.
pub(crate) fn judge(disk: &SimDisk, expected: &Expected) -> Result<(), String> {
    let (layout, _) = DiskLayout::read(disk).map_err(|error| chain(&error))?;
    let esp = Esp::read(disk, &layout.esp).map_err(|error| chain(&error))?;
    let verdict = Verdict::of(&layout, &esp, &mut DiskProofs(disk));
    if let Some(why) = verdict.why.first() {
        return Err(why.clone());
    }
    for it in &verdict.bootable {
        judge_entry(it, expected)?;
    }
    let loader: Vec<_> = esp
        .files
        .iter()
        .filter_map(|file| Some((file.loader_entry()?, &file.file_name)))
        .collect();
    reaches_good(&loader, &verdict, expected)
}

fn judge_entry(it: &Bootable, expected: &Expected) -> Result<(), String> {
    let name = &it.file_name;
    let Some(root_hash) = it.root_hash else {
        return Err(format!("{name} boots nothing"));
    };
    if it.kernel_sha256.as_ref() != expected.kernels.get(&root_hash) {
        return Err(format!("{name} is not the kernel image of its release"));
    }
    let entry = BootEntry::parse_file_name(name).map_err(|error| error.to_string())?;
    let tries = entry.counter.map(|counter| counter.left);
    if tries.is_none() && !expected.good.contains(&root_hash) {
        return Err(format!("{name} was never good, and nothing counts it"));
    }
    if tries != Some(0) && expected.barred.contains(&root_hash) {
        return Err(format!("{name} has failed here, and is armed"));
    }
    Ok(())
}

/// Whether the boot loader comes to an image that was good here, if each that was not
/// hangs whenever it is started.
fn reaches_good(
    loader: &[(LoaderEntry, &String)],
    verdict: &Verdict,
    expected: &Expected,
) -> Result<(), String> {
    let mut names: Vec<_> = loader.iter().map(|(entry, _)| entry.clone()).collect();
    let is_good = |entry: &LoaderEntry| {
        let id = &entry.name.id;
        let same = |it: &&(LoaderEntry, &String)| it.0.name.id == *id;
        let file = loader.iter().find(same).map(|(_, file)| *file);
        let of_file = |it: &&Bootable| Some(&it.file_name) == file;
        let found = verdict.bootable.iter().find(of_file);
        let root_hash = found.and_then(|it| it.root_hash);
        root_hash.is_some_and(|root_hash| expected.good.contains(&root_hash))
    };
    for _ in 0..STARTS {
        let Some(chosen) = choose_entry(&names).cloned() else {
            return Err("nothing boots".to_owned());
        };
        if is_good(&chosen) {
            return Ok(());
        }
        for entry in names.iter_mut().filter(|entry| **entry == chosen) {
            entry.name = entry.name.spent();
        }
    }
    let files: Vec<_> = loader.iter().map(|(_, name)| name.as_str()).collect();
    Err(format!("no image that was good has its turn: {files:?}"))
}

/// Tells what lies on the disk, for whoever reads that something must not be.
pub(crate) fn describe(disk: &SimDisk) -> String {
    let Ok((layout, health)) = DiskLayout::read(disk) else {
        return "no table".to_owned();
    };
    let content = |slot: &partition_layout::SlotPartitions| slot.content();
    let slots: Vec<_> = layout.slots().map(|(_, slot)| content(slot)).collect();
    let names = match Esp::read(disk, &layout.esp) {
        Ok(esp) => {
            let names = esp.files.iter().map(|file| file.file_name.clone());
            names.collect::<Vec<_>>().join(", ")
        }
        Err(error) => chain(&error),
    };
    let sound = health.is_sound();
    format!("entries [{names}], slots {slots:?}, sound table: {sound} ({TEMPORARY_NAME} aside)")
}
