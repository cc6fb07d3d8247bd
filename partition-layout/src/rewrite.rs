//! Changes to the partition table that a cut at any point leaves readable.
//!
//! Both copies are written, one after the other, each synced before the other is
//! touched, and the order is chosen so that **a whole copy is never written while
//! the other one is not whole**: backup first and primary second, unless it is the
//! primary that is damaged. So wherever the power fails one copy is whole, and
//! holds either what was there before or what was asked for.
//!
//! # When both copies are whole and disagree
//!
//! The primary counts: firmware and kernel look at no other while it is whole, so
//! whatever the node did, it did by the primary. By the order above a disagreement
//! after a cut means that the backup is the newer one, and what it says was never
//! reported as done. Taking the primary is therefore taking the step back:
//! - cut while *disarming* (a release's label to `_empty`): the slot keeps its
//!   label, and still holds what the label says, as writing starts only when the
//!   relabelling has returned. Its boot entry is gone before, so it does not boot.
//! - cut while labelling a *written* slot: the slot stays `_empty`, its boot entry
//!   is made only afterwards, and staging starts over (finding its blocks in place).
//!
//! When the cut tears the primary itself, the backup is the only whole copy, what
//! the kernel uses, and what [`repair`] restores: the change is then complete.

use std::io;

use crate::architecture::Role;
use crate::device::Device;
use crate::header::Place;
use crate::health::{MbrFault, TableCopy};
use crate::layout::{DiskLayout, ReadLayoutError};
use crate::mbr;
use crate::slot::{Slot, SlotLabel};
use crate::survey::{Copies, ReadTableError, Survey};
use crate::table::relabel_entry;

/// Why the copies of a partition table were not rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// A copy has no place outside of the area for partitions.
    #[error("there is no room for the {copy} partition table beside the partitions")]
    NoRoom {
        /// The copy.
        copy: TableCopy,
    },
    /// The medium refused a write.
    #[error("cannot write the {copy} partition table")]
    Write {
        /// The copy.
        copy: TableCopy,
        /// What the medium said.
        source: io::Error,
    },
    /// The medium did not confirm a write; the other copy was not touched after it.
    #[error("cannot bring the {copy} partition table to the disk")]
    Sync {
        /// The copy.
        copy: TableCopy,
        /// What the medium said.
        source: io::Error,
    },
}

/// Why a slot was not relabelled.
#[derive(Debug, thiserror::Error)]
pub enum RelabelError {
    /// The disk cannot be read, or is not ours.
    #[error("cannot relabel slot {slot}")]
    Read {
        /// The slot.
        slot: Slot,
        /// Why not.
        source: ReadLayoutError,
    },
    /// The disk has no such slot.
    #[error("this disk has no slot {slot}")]
    NoSuchSlot {
        /// The slot.
        slot: Slot,
    },
    /// The table could not be written. One whole copy remains.
    #[error("cannot relabel slot {slot}")]
    Rewrite {
        /// The slot.
        slot: Slot,
        /// Why not.
        source: RewriteError,
    },
}

/// Labels `slot`, and sets the UUIDs of its partitions as the label asks.
///
/// On return the change has reached the disk. Attribute bits and all other
/// partitions are left as they are. A damaged copy is replaced on the way.
///
/// The kernel's own view (`/sys`, `/dev/disk/by-partlabel`) is not refreshed: a
/// disk in use does not allow it, and the next boot reads the table anew.
///
/// # Errors
/// When the disk is not ours, has no such slot, or fails. After a failure it holds
/// the old or the new label, and relabelling again is right.
pub fn relabel(
    device: &mut impl Device,
    slot: Slot,
    label: &SlotLabel<'_>,
) -> Result<(), RelabelError> {
    let cannot_read = |source| RelabelError::Read { slot, source };
    let survey = Survey::take(device).map_err(|source| cannot_read(source.into()))?;
    let layout = DiskLayout::of_table(&survey.table().0).map_err(cannot_read)?;
    let Some(partitions) = layout.slot(slot) else {
        return Err(RelabelError::NoSuchSlot { slot });
    };
    let text = label.text();
    let mut entries = survey.in_use().entries.clone();
    for role in Role::ALL {
        let number = partitions.partition(role).number;
        entries = relabel_entry(&entries, number, label.uuid(slot, role), &text);
    }
    // Never skipped when the table reads right already: after a failed sync the
    // cache may show what the disk does not hold.
    rewrite(device, &survey, &entries).map_err(|source| RelabelError::Rewrite { slot, source })
}

/// What [`repair`] did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Repaired {
    /// What was set right, in the order in which it was.
    pub steps: Vec<RepairStep>,
}

/// A thing that [`repair`] sets right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RepairStep {
    /// A damaged copy was written anew from the whole one.
    Restored(TableCopy),
    /// The backup disagreed with the primary, and was written anew from it.
    BackupAligned,
    /// The backup was moved to the end of the disk.
    BackupMoved,
    /// The protective MBR was written.
    ProtectiveMbr,
}

/// Why a disk was not repaired.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The disk cannot be read, or is not ours.
    #[error("cannot repair this disk")]
    Read {
        /// Why not.
        #[from]
        source: ReadLayoutError,
    },
    /// The table could not be written. One whole copy remains.
    #[error("cannot restore the partition table")]
    Rewrite {
        /// Why not.
        #[from]
        source: RewriteError,
    },
    /// The first sector could not be written.
    #[error("cannot write the protective MBR")]
    Mbr {
        /// What the medium said.
        source: io::Error,
    },
}

impl From<ReadTableError> for RepairError {
    fn from(source: ReadTableError) -> Self {
        let source = source.into();
        Self::Read { source }
    }
}

/// Makes both copies of the partition table whole, equal, and in their places.
///
/// The copy that counts ([the primary when it is whole](self)) is never changed in
/// what it says about partitions. The protective MBR is written when it is missing
/// or of the wrong size, but not when it describes partitions of its own. On return
/// the repair has reached the disk. Partitions at odds with each other are not touched.
///
/// # Errors
/// When the disk is not ours, neither copy is whole, or the medium fails.
pub fn repair(device: &mut impl Device) -> Result<Repaired, RepairError> {
    let survey = Survey::take(device)?;
    DiskLayout::of_table(&survey.table().0)?;

    let mut steps = Vec::new();
    match &survey.copies {
        Copies::Both(..) => steps.extend(
            survey
                .copies_disagree()
                .then_some(RepairStep::BackupAligned),
        ),
        Copies::Primary(..) => steps.push(RepairStep::Restored(TableCopy::Backup)),
        Copies::Backup(..) => steps.push(RepairStep::Restored(TableCopy::Primary)),
    }
    steps.extend(survey.misplaced_backup().map(|_| RepairStep::BackupMoved));
    if !steps.is_empty() {
        rewrite(device, &survey, &survey.in_use().entries)?;
    }
    match &survey.mbr {
        Some(MbrFault::Missing | MbrFault::Size { .. }) => {
            write_mbr(device, &survey).map_err(|source| RepairError::Mbr { source })?;
            steps.push(RepairStep::ProtectiveMbr);
        }
        Some(MbrFault::Unreadable { .. } | MbrFault::Foreign) | None => {}
    }
    Ok(Repaired { steps })
}

fn write_mbr(device: &mut impl Device, survey: &Survey) -> io::Result<()> {
    let mut before = [0; 512];
    device.read_at(0, &mut before)?;
    device.write_at(0, &mbr::protective(&before, survey.geometry))?;
    device.sync()
}

/// Writes `entries` to both copies, in the order that the module explains.
fn rewrite(device: &mut impl Device, survey: &Survey, entries: &[u8]) -> Result<(), RewriteError> {
    let order = match &survey.copies {
        Copies::Both(..) | Copies::Primary(..) => [TableCopy::Backup, TableCopy::Primary],
        Copies::Backup(..) => [TableCopy::Primary, TableCopy::Backup],
    };
    // Both places are settled before anything is written.
    let (primary, backup) = places(survey)?;
    for copy in order {
        let place = match copy {
            TableCopy::Primary => primary,
            TableCopy::Backup => backup,
        };
        let header = survey.in_use().header.encode(place, entries);
        let parts = [
            (place.entries_lba, entries),
            (place.own_lba, header.as_slice()),
        ];
        for (lba, bytes) in parts {
            let offset = survey
                .geometry
                .offset(lba)
                .ok_or(RewriteError::NoRoom { copy })?;
            device
                .write_at(offset, bytes)
                .map_err(|source| RewriteError::Write { copy, source })?;
        }
        device
            .sync()
            .map_err(|source| RewriteError::Sync { copy, source })?;
    }
    Ok(())
}

/// Returns where the primary and the backup belong.
///
/// The entries of a whole copy stay where they are; nothing is ever put where a
/// partition may be, whatever a header claims.
fn places(survey: &Survey) -> Result<(Place, Place), RewriteError> {
    let end = survey.geometry.last_lba;
    let header = &survey.in_use().header;
    let sectors = survey.geometry.sectors_of_entries(header.entry_count);
    let no_room = |copy| RewriteError::NoRoom { copy };
    let entries_at_end = end.checked_sub(sectors).ok_or(no_room(TableCopy::Backup))?;

    let Place {
        first_usable,
        last_usable,
        ..
    } = header.place;
    let (primary_entries, backup_entries, last_usable) = match &survey.copies {
        Copies::Backup(_, backup) => (2, backup.header.place.entries_lba, last_usable),
        Copies::Both(primary, backup) if backup.header.place.own_lba == end => {
            let entries = backup.header.place.entries_lba;
            (primary.header.place.entries_lba, entries, last_usable)
        }
        Copies::Both(primary, _) | Copies::Primary(primary, _) => {
            let place = primary.header.place;
            let last_usable = match survey.misplaced_backup() {
                // A disk that has grown: what lies behind the old end becomes usable.
                Some(_) => entries_at_end.saturating_sub(1),
                None => last_usable,
            };
            (place.entries_lba, entries_at_end, last_usable)
        }
    };
    let clear_of_partitions = |copy, from: u64, low: u64, high: u64| {
        let behind = from.checked_add(sectors).ok_or(no_room(copy))?;
        (low <= from && behind <= high)
            .then_some(())
            .ok_or(no_room(copy))
    };
    clear_of_partitions(TableCopy::Primary, primary_entries, 2, first_usable)?;
    clear_of_partitions(
        TableCopy::Backup,
        backup_entries,
        last_usable.saturating_add(1),
        end,
    )?;
    if last_usable < header.place.last_usable {
        return Err(no_room(TableCopy::Backup));
    }
    let primary = Place {
        own_lba: 1,
        other_lba: end,
        first_usable,
        last_usable,
        entries_lba: primary_entries,
    };
    let backup = Place {
        own_lba: end,
        other_lba: 1,
        entries_lba: backup_entries,
        ..primary
    };
    Ok((primary, backup))
}
