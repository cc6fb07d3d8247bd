//! The offline view of a disk: its table, its slots, its boot entries, and what is wrong.
//!
//! The serialized form is the output of `bistable-layout inspect --json`, which is
//! documented in this crate's README and only ever added to.

use std::error::Error;

use partition_layout::esp::{EntryFile, EntryImage, Esp, FatCheck, ReadFatError};
use partition_layout::{
    Architecture, BootEntry, Device, DiskLayout, Partition, ReadLayoutError, Role, RootHash, Slot,
    SlotContent, SlotPartitions, TableCopy, TableHealth,
};
use serde::Serialize;

use crate::proof::Proofs;
use crate::verdict::Verdict;

/// The number of the documented form.
pub const FORMAT: u32 = 1;

/// Everything that a disk says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// [`FORMAT`].
    pub format: u32,
    /// Whether nothing is wrong.
    pub sound: bool,
    /// What is wrong, in words.
    pub faults: Vec<String>,
    /// The disk as a whole.
    pub disk: DiskView,
    /// The partition table.
    pub table: TableView,
    /// The partitions, in table order.
    pub partitions: Vec<PartitionView>,
    /// The slots that the disk has.
    pub slots: Vec<SlotView>,
    /// The boot entries; absent when the ESP cannot be read.
    pub boot: Option<BootView>,
    /// Whether what could boot is whole.
    pub verdict: Verdict,
}

/// The disk as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct DiskView {
    /// Its size in bytes.
    pub size: u64,
    /// The sector size of its table, in bytes.
    pub sector_size: u64,
    /// Its UUID.
    pub uuid: String,
    /// The architecture of its slots.
    pub architecture: Architecture,
}

/// The state of the partition table.
#[derive(Clone, Debug, Serialize)]
pub struct TableView {
    /// The copy that firmware and kernel use: `primary` or `backup`.
    pub in_use: String,
    /// Whether the primary is whole.
    pub primary: &'static str,
    /// Whether the backup is whole.
    pub backup: &'static str,
}

/// A partition.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionView {
    /// Its number, from 1.
    pub number: u32,
    /// What it is: `esp`, `root-a`, `verity-a`, `verity-sig-a`, the same for b, `var`, `foreign`.
    pub role: String,
    /// Its label.
    pub label: String,
    /// Its UUID.
    pub uuid: String,
    /// The UUID of its type.
    pub type_uuid: String,
    /// Its first byte on the disk.
    pub start: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Its attribute bits, as `0x` and 16 hexadecimal digits.
    pub attributes: String,
}

/// What a slot holds.
#[derive(Clone, Debug, Serialize)]
pub struct SlotView {
    /// The slot.
    pub slot: Slot,
    /// `empty`, `holds` or `unknown`.
    pub state: &'static str,
    /// The version of the release it holds.
    pub version: Option<String>,
    /// The root hash of the release it holds.
    pub root_hash: Option<RootHash>,
}

/// The boot entries on the ESP.
#[derive(Clone, Debug, Serialize)]
pub struct BootView {
    /// The entries, by file name.
    pub entries: Vec<EntryView>,
    /// The file that systemd-boot starts next, unless an EFI variable says otherwise.
    pub next: Option<String>,
    /// Bytes of the ESP that are taken, and belong to no file.
    pub lost_bytes: u64,
}

/// A boot entry.
#[derive(Clone, Debug, Serialize)]
pub struct EntryView {
    /// The name of its file.
    pub file_name: String,
    /// Its size in bytes.
    pub size: u64,
    /// `good`, `trial` (tries are left), `bad` (none are), or `foreign`.
    pub state: &'static str,
    /// The version in its name.
    pub version: Option<String>,
    /// The tries that are left, when it has a counter.
    pub tries_left: Option<u32>,
    /// The tries that were spent, when it has a counter.
    pub tries_done: Option<u32>,
    /// The root hash on its command line.
    pub root_hash: Option<RootHash>,
    /// The slot that holds an image with this root hash.
    pub slot: Option<Slot>,
}

impl Inspection {
    /// Looks at a disk and writes nothing.
    ///
    /// # Errors
    /// When the table cannot be read, or the disk is not ours. Everything else that
    /// is wrong is told in [`Inspection::faults`] and in the verdict.
    pub fn of(device: &impl Device, proofs: &mut impl Proofs) -> Result<Self, ReadLayoutError> {
        let (layout, health) = DiskLayout::read(device)?;
        let mut faults: Vec<_> = health.faults.iter().map(|fault| chain(fault)).collect();
        let slots: Vec<_> = layout
            .slots()
            .map(|(slot, partitions)| slot_view(slot, partitions, &mut faults))
            .collect();
        let (boot, verdict) = match read_esp(device, &layout) {
            Ok((esp, check)) => {
                let boot = boot_view(&esp, &check, &slots, &mut faults);
                (Some(boot), Verdict::of(&layout, &esp, proofs))
            }
            Err(error) => {
                let why = format!("cannot read the ESP: {}", chain(&error));
                faults.push(why.clone());
                (None, Verdict::of_nothing(why))
            }
        };
        // That no slot has its root hash was told of the entry already.
        let has_slot = |name: &str| {
            let mut entries = boot.iter().flat_map(|boot| &boot.entries);
            entries.any(|entry| entry.file_name == name && entry.slot.is_some())
        };
        let broken = verdict.bootable.iter();
        let broken = broken.filter(|it| has_slot(&it.file_name));
        let broken =
            broken.filter_map(|it| Some(format!("{}: {}", it.file_name, it.fault.as_ref()?)));
        faults.extend(broken);
        Ok(Self {
            format: FORMAT,
            sound: faults.is_empty() && verdict.safe,
            faults,
            disk: DiskView {
                // It could be read a moment ago.
                size: device.size().unwrap_or_default(),
                sector_size: layout.sector_size.bytes(),
                uuid: layout.disk_guid.to_string(),
                architecture: layout.architecture,
            },
            table: table_view(&health),
            partitions: partition_views(&layout),
            slots,
            boot,
            verdict,
        })
    }
}

fn read_esp(device: &impl Device, layout: &DiskLayout) -> Result<(Esp, FatCheck), ReadFatError> {
    let esp = Esp::read(device, &layout.esp)?;
    Ok((esp, Esp::check(device, &layout.esp)?))
}

/// Returns an error with all its causes.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn table_view(health: &TableHealth) -> TableView {
    let state = |copy| match health.copy_fault(copy) {
        None => "whole",
        Some(_) => "damaged",
    };
    TableView {
        in_use: health.in_use.to_string(),
        primary: state(TableCopy::Primary),
        backup: state(TableCopy::Backup),
    }
}

fn partition_views(layout: &DiskLayout) -> Vec<PartitionView> {
    let view = |role: String, partition: &Partition| PartitionView {
        number: partition.number,
        role,
        label: partition.label.clone(),
        uuid: partition.uuid.to_string(),
        type_uuid: partition.type_guid.to_string(),
        start: partition.start,
        size: partition.len,
        attributes: format!("{:#018x}", partition.attributes),
    };
    let mut views = vec![view("esp".to_owned(), &layout.esp)];
    for (slot, partitions) in layout.slots() {
        let letter = slot.to_string().to_ascii_lowercase();
        views.extend(
            Role::ALL.map(|role| view(format!("{role}-{letter}"), partitions.partition(role))),
        );
    }
    views.extend(
        layout
            .var
            .iter()
            .map(|partition| view("var".to_owned(), partition)),
    );
    views.extend(
        layout
            .foreign
            .iter()
            .map(|partition| view("foreign".to_owned(), partition)),
    );
    views.sort_by_key(|view| view.number);
    views
}

fn slot_view(slot: Slot, partitions: &SlotPartitions, faults: &mut Vec<String>) -> SlotView {
    let (state, version, root_hash) = match partitions.content() {
        SlotContent::Empty => ("empty", None, None),
        SlotContent::Holds { version, root_hash } => {
            ("holds", Some(version.to_string()), Some(root_hash))
        }
        SlotContent::Unknown { why } => {
            faults.push(format!("slot {slot} holds something unknown: {why}"));
            ("unknown", None, None)
        }
    };
    SlotView {
        slot,
        state,
        version,
        root_hash,
    }
}

fn boot_view(
    esp: &Esp,
    check: &FatCheck,
    slots: &[SlotView],
    faults: &mut Vec<String>,
) -> BootView {
    let entries: Vec<_> = esp
        .files
        .iter()
        .map(|file| entry_view(file, slots, faults))
        .collect();
    faults.extend(esp.torn.iter().map(ToString::to_string));
    let next = esp.boots_next().map(|file| file.file_name.clone());
    if let Some(why) = &esp.decided_elsewhere {
        faults.push(format!(
            "what boots next is not decided by the boot entries: {why}"
        ));
    } else if next.is_none() {
        faults.push("there is no boot entry".to_owned());
    }
    let damage = check.damage.iter();
    faults.extend(damage.map(|damage| format!("the ESP is damaged: {damage}")));
    BootView {
        entries,
        next,
        lost_bytes: check.lost_bytes,
    }
}

/// Holds a boot entry against the slots: it must boot what one of them holds.
fn entry_view(file: &EntryFile, slots: &[SlotView], faults: &mut Vec<String>) -> EntryView {
    let name = &file.file_name;
    let entry = BootEntry::parse_file_name(name);
    let uki = match &file.image {
        EntryImage::Uki(uki) => Some(uki),
        // Told as a torn name, or as a file of others.
        EntryImage::NoUki if file.size == 0 => None,
        EntryImage::NoUki => {
            faults.push(format!(
                "{name} is no unified kernel image, and is not offered for booting"
            ));
            None
        }
        EntryImage::Unreadable(error) => {
            faults.push(format!("{name} cannot be read: {}", chain(error)));
            None
        }
    };
    let root_hash = uki.and_then(|uki| uki.root_hash);
    // The version tells apart what holds the same image twice.
    let version = entry.as_ref().ok().map(|entry| entry.version.as_str());
    let holding = || {
        slots
            .iter()
            .filter(|slot| root_hash.is_some() && slot.root_hash == root_hash)
    };
    let by_version = holding().find(|slot| slot.version.as_deref() == version);
    let slot = by_version.or_else(|| holding().next());
    match &entry {
        Err(error) => faults.push(chain(error)),
        Ok(_) if uki.is_some() && slot.is_none() => {
            faults.push(format!("{name} boots a root hash that no slot holds"));
        }
        Ok(_) if uki.is_some() && by_version.is_none() => {
            faults.push(format!(
                "{name} boots a slot that is labelled with another version"
            ));
        }
        Ok(_) => {}
    }
    let sort_key = uki.and_then(|uki| uki.sort_key.as_ref());
    if let (Some(inside), Some(named)) = (sort_key.map(|key| key.version.as_str()), version)
        && inside != named
    {
        let what = format!("{name} has version {inside} inside, by which it is ranked");
        faults.push(what);
    }
    let counter = entry.as_ref().ok().and_then(|entry| entry.counter);
    EntryView {
        file_name: name.clone(),
        size: file.size,
        state: match &entry {
            Err(_) => "foreign",
            Ok(entry) if entry.is_bad() => "bad",
            Ok(entry) if entry.counter.is_some() => "trial",
            Ok(_) => "good",
        },
        version: version.map(str::to_owned),
        tries_left: counter.map(|counter| counter.left),
        tries_done: counter.map(|counter| counter.done),
        root_hash,
        slot: slot.map(|slot| slot.slot),
    }
}
