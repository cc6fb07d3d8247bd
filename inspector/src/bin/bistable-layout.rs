//! `bistable-layout`: a node's disk, looked at and repaired from outside.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use inspector::inspection::{EntryView, FORMAT, SlotView};
use inspector::{Bootable, DiskProofs, Inspection, Verdict, chain};
use partition_layout::{DiskLayout, RepairStep, compare_versions, repair};

/// Looks at a Bistable disk that is not in use, and repairs its partition table.
///
/// DISK is a block device or an image file.
#[derive(Parser)]
#[command(name = "bistable-layout", version)]
#[command(after_help = "Exit codes:
  0  nothing is wrong (compare-versions: the versions are equal)
  1  something is wrong with the disk; as far as inspect can tell, it boots
  2  the command could not be understood, or DISK could not be opened
  3  inspect: nothing whole boots, or something that could boot is broken
 11  compare-versions: A is newer
 12  compare-versions: B is newer")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the partition table, the slots and the boot entries, and read all that could
    /// boot against its root hash; write nothing
    Inspect {
        /// The disk
        disk: PathBuf,
        /// Print the documented JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Make both copies of the partition table whole, equal and in their places
    Repair {
        /// The disk
        disk: PathBuf,
    },
    /// Tell which of two versions is newer, by the UAPI version format specification
    CompareVersions {
        /// The one version
        #[arg(allow_hyphen_values = true)]
        a: String,
        /// The other version
        #[arg(allow_hyphen_values = true)]
        b: String,
    },
}

const WRONG: u8 = 1;
const MISUSED: u8 = 2;
const UNSAFE: u8 = 3;
const A_NEWER: u8 = 11;
const B_NEWER: u8 = 12;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(shown) => {
            // Help goes to standard output, errors to standard error; that nobody
            // listens is no reason for another outcome.
            drop(shown.print());
            return ExitCode::from(u8::try_from(shown.exit_code()).unwrap_or(MISUSED));
        }
    };
    let code = match arguments.command {
        Command::Inspect { disk, json } => {
            run_inspect(&disk, if json { Form::Json } else { Form::Text })
        }
        Command::Repair { disk } => run_repair(&disk),
        Command::CompareVersions { a, b } => run_compare(&a, &b),
    };
    ExitCode::from(code.unwrap_or_else(|error| {
        complain(Path::new("standard output"), &chain(&error));
        MISUSED
    }))
}

enum Form {
    Text,
    Json,
}

fn run_inspect(path: &Path, form: Form) -> io::Result<u8> {
    let disk = match File::open(path) {
        Ok(disk) => disk,
        Err(error) => {
            complain(path, &chain(&error));
            return Ok(MISUSED);
        }
    };
    match (Inspection::of(&disk, &mut DiskProofs(&disk)), form) {
        (Ok(inspection), form) => {
            say(&match form {
                Form::Text => describe(&inspection),
                Form::Json => serde_json::to_string_pretty(&inspection)?,
            })?;
            Ok(match (inspection.verdict.safe, inspection.sound) {
                (false, _) => UNSAFE,
                (true, false) => WRONG,
                (true, true) => 0,
            })
        }
        (Err(error), form) => {
            let error = chain(&error);
            if matches!(form, Form::Json) {
                let refused =
                    serde_json::json!({ "format": FORMAT, "sound": false, "faults": [error] });
                say(&format!("{refused:#}"))?;
            }
            complain(path, &error);
            // Without a table nothing boots.
            Ok(UNSAFE)
        }
    }
}

fn run_repair(path: &Path) -> io::Result<u8> {
    // The lock keeps udev and other tools that follow systemd's convention for block
    // devices from reading a table that is half written.
    let opened = File::options().read(true).write(true).open(path);
    let mut disk = match opened.and_then(|disk| disk.lock().map(|()| disk)) {
        Ok(disk) => disk,
        Err(error) => {
            complain(path, &chain(&error));
            return Ok(MISUSED);
        }
    };
    match repair(&mut disk) {
        Ok(repaired) if repaired.steps.is_empty() => say("the partition table needs no repair")?,
        Ok(repaired) => repaired
            .steps
            .iter()
            .try_for_each(|step| say(&told(*step)))?,
        Err(error) => {
            complain(path, &chain(&error));
            return Ok(WRONG);
        }
    }
    // What is left is for a person to decide.
    let left: Vec<_> = match DiskLayout::read(&disk) {
        Ok((_, health)) => health.faults.iter().map(|fault| chain(fault)).collect(),
        Err(error) => vec![chain(&error)],
    };
    left.iter().for_each(|fault| complain(path, fault));
    Ok(if left.is_empty() { 0 } else { WRONG })
}

fn told(step: RepairStep) -> String {
    match step {
        RepairStep::Restored(copy) => format!("restored the {copy} partition table"),
        RepairStep::BackupAligned => {
            "wrote the backup partition table anew, as the primary says something else".to_owned()
        }
        RepairStep::BackupMoved => {
            "moved the backup partition table to the end of the disk".to_owned()
        }
        RepairStep::ProtectiveMbr => "wrote the protective MBR".to_owned(),
    }
}

fn run_compare(a: &str, b: &str) -> io::Result<u8> {
    let (sign, code) = match compare_versions(a, b) {
        std::cmp::Ordering::Less => ("<", B_NEWER),
        std::cmp::Ordering::Equal => ("==", 0),
        std::cmp::Ordering::Greater => (">", A_NEWER),
    };
    say(&format!("{a} {sign} {b}"))?;
    Ok(code)
}

fn describe(inspection: &Inspection) -> String {
    let Inspection {
        disk,
        table,
        slots,
        boot,
        faults,
        verdict,
        ..
    } = inspection;
    let mut text = String::new();
    let mut line = |line: String| {
        text.extend([
            line.as_str(),
            "
",
        ])
    };
    let size = format_bytes(disk.size);
    line(format!(
        "disk       {size}, {}, sectors of {} bytes, {}",
        disk.architecture, disk.sector_size, disk.uuid
    ));
    line(format!(
        "table      primary {}, backup {}, the {} is used",
        table.primary, table.backup, table.in_use
    ));
    for slot in slots {
        line(format!("slot {}     {}", slot.slot, describe_slot(slot)));
    }
    if let Some(boot) = boot {
        for entry in &boot.entries {
            let mark = if boot.next.as_ref() == Some(&entry.file_name) {
                ", boots next"
            } else {
                ""
            };
            line(format!("entry      {}{mark}", describe_entry(entry)));
        }
    }
    for bootable in &verdict.bootable {
        line(describe_bootable(bootable));
    }
    for fault in faults {
        line(format!("wrong      {fault}"));
    }
    line(format!("verdict    {}", describe_verdict(verdict)));
    text.truncate(text.trim_end().len());
    text
}

fn describe_slot(slot: &SlotView) -> String {
    match (&slot.version, &slot.root_hash) {
        (Some(version), Some(root_hash)) => format!("{version}, root hash {root_hash}"),
        (Some(_) | None, Some(_) | None) => slot.state.to_owned(),
    }
}

fn describe_entry(entry: &EntryView) -> String {
    let mut text = format!("{}: {}", entry.file_name, entry.state);
    if let (Some(left), Some(done)) = (entry.tries_left, entry.tries_done) {
        text += &format!(", {left} tries left, {done} done");
    }
    if let Some(slot) = entry.slot {
        text += &format!(", slot {slot}");
    }
    text
}

fn describe_bootable(bootable: &Bootable) -> String {
    let Bootable {
        file_name,
        kernel_sha256,
        slot,
        fault,
        ..
    } = bootable;
    match (slot, kernel_sha256, fault) {
        (Some(slot), Some(sha256), None) => {
            format!("whole      {file_name}: slot {slot} by its root hash, kernel image {sha256}")
        }
        (_, _, fault) => {
            let fault = fault.as_deref().unwrap_or("nothing is known of it");
            format!("broken     {file_name}: {fault}")
        }
    }
}

fn describe_verdict(verdict: &Verdict) -> String {
    match (verdict.boots, verdict.safe) {
        (Some(slot), true) => {
            format!("slot {slot} boots, and nothing that could boot is broken")
        }
        (Some(slot), false) => format!("slot {slot} boots, and something that could is broken"),
        (None, _) => "nothing whole is sure to boot".to_owned(),
    }
}

fn format_bytes(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} bytes"),
    }
}

/// Prints a line. A reader that has gone away (`| head`) has seen enough.
fn say(line: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

fn complain(about: &Path, what: &str) {
    let complaint = writeln!(
        io::stderr().lock(),
        "bistable-layout: {}: {what}",
        about.display()
    );
    // There is nowhere else to say it.
    drop(complaint);
}
