//! Damaged partition tables, and what Linux, sfdisk and blkid make of them.
//!
//! The oracle is Debian's kernel 6.12 with `gpt` on its command line, as our nodes have it.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test says by a panic that its claim does not hold"
)]

use std::fs;
use std::path::Path;

use partition_layout::testing::FakeDisk;
use partition_layout::{
    CopyFault, DiskLayout, MbrFault, ReadLayoutError, ReadTableError, RelabelError, RepairError,
    Slot, SlotLabel, Table, TableCopy, TableFault, TableHealth, relabel, repair,
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Known {
    base: String,
    base_size: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    size: usize,
    diff: Vec<(usize, String)>,
    sfdisk: Value,
    blkid: Value,
    #[serde(rename = "kernel_6.12_partitions")]
    kernel: Vec<(u32, u64, u64)>,
    #[serde(rename = "kernel_6.12_gpt_param_partitions")]
    kernel_with_gpt: Vec<(u32, u64, u64)>,
}

impl Case {
    fn disk(&self, base: &[u8]) -> FakeDisk {
        let mut image = base.to_vec();
        for (offset, run) in &self.diff {
            let bytes = match run.strip_prefix("zero*") {
                Some(count) => vec![0; count.parse().expect("a count")],
                None => hex(run),
            };
            image[*offset..*offset + bytes.len()].copy_from_slice(&bytes);
        }
        image.resize(self.size, 0);
        FakeDisk::holding(image)
    }
}

fn hex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    let pairs = pairs.map(|pair| std::str::from_utf8(pair).expect("hexadecimal digits"));
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits"))
        .collect()
}

fn cases() -> (Vec<Case>, Vec<u8>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let json = fs::read(folder.join("gpt.json")).expect("the vectors are there");
    let known: Known = serde_json::from_slice(&json).expect("the vectors are JSON");
    let output = host_tools::oracle("xz")
        .args(["-dc"])
        .arg(folder.join(known.base))
        .output();
    let base = output.expect("xz can be run").stdout;
    assert_eq!(base.len(), known.base_size);
    assert_eq!(known.cases.len(), 20);
    (known.cases, base)
}

/// What is wrong with an accepted disk, in short.
fn complaints(health: &TableHealth) -> Vec<&'static str> {
    let in_short = |fault: &TableFault| match fault {
        TableFault::Copy {
            copy: TableCopy::Primary,
            ..
        } => "primary",
        TableFault::Copy {
            copy: TableCopy::Backup,
            ..
        } => "backup",
        TableFault::Mbr {
            source: MbrFault::Missing,
        } => "no MBR",
        TableFault::Mbr {
            source: MbrFault::Foreign,
        } => "foreign MBR",
        TableFault::Mbr {
            source: MbrFault::Size { .. },
        } => "MBR size",
        TableFault::Mbr {
            source: MbrFault::Unreadable { .. },
        } => "unreadable MBR",
        TableFault::Revision { found: 0x0002_0000 } => "revision 2",
        TableFault::Revision { .. } => "revision",
        TableFault::Disagree => "disagree",
        TableFault::BackupMisplaced { .. } => "misplaced",
        TableFault::OffTheDisk { number: 3 } => "3 off the disk",
        TableFault::OffTheDisk { .. } => "off the disk",
        TableFault::OutsideUsable { .. } => "outside usable",
        TableFault::Overlap { .. } => "overlap",
        TableFault::NilUuid { number: 2 } => "2 without UUID",
        TableFault::NilUuid { .. } => "without UUID",
        TableFault::SharedUuid {
            first: 2,
            second: 3,
        } => "2 and 3 share",
        TableFault::SharedUuid { .. } => "share",
    };
    health.faults.iter().map(in_short).collect()
}

/// What we say of each case that the kernel reads.
fn expected_complaints(id: &str) -> &'static [&'static str] {
    match id {
        // A header of 512 bytes and a label that is no Unicode hurt nobody.
        "ok" | "hsz-512" | "part-name-surrogate" => &[],
        "pri-hdr-sig" | "ents-lba1" => &["primary"],
        "rev" => &["revision 2"],
        "bak-hdr-crc" => &["backup"],
        "pmbr-zero" => &["no MBR"],
        "pmbr-hybrid" => &["foreign MBR"],
        "extended" => &["MBR size", "misplaced"],
        "alt-lba" => &["misplaced"],
        "part-dup-guid" => &["2 and 3 share"],
        "part-past-end" => &["3 off the disk"],
        "part-zero-guid" => &["2 without UUID"],
        "disagree" => &["disagree"],
        other => panic!("no verdict is known for {other}"),
    }
}

#[test]
fn a_table_is_read_exactly_when_the_kernel_reads_it_and_says_the_same() {
    let (cases, base) = cases();
    for case in &cases {
        let id = &case.id;
        let read = Table::read(&case.disk(&base));
        if case.kernel_with_gpt.is_empty() {
            assert!(
                matches!(read, Err(ReadTableError::NoTable { .. })),
                "{id}: {read:?}"
            );
            assert_ne!(
                case.sfdisk["label"], "gpt",
                "{id}: sfdisk finds a GPT that we refuse"
            );
            continue;
        }
        let (table, health) = read.unwrap_or_else(|error| panic!("{id}: {error}"));
        let seen = |p: &partition_layout::Partition| (p.number, p.start / 512, p.len / 512);
        let seen: Vec<_> = table.partitions.iter().map(seen).collect();
        assert_eq!(seen, case.kernel_with_gpt, "{id}");
        // Whoever does not look for the backup sees this too, or nothing.
        assert!(case.kernel.is_empty() || case.kernel == seen, "{id}");
        assert_eq!(complaints(&health), expected_complaints(id), "{id}");
        assert_eq!(
            health.is_sound(),
            expected_complaints(id).is_empty(),
            "{id}"
        );
        if case.blkid["pttype"] != "gpt" {
            assert_eq!(id, "pmbr-zero", "blkid finds no GPT where we do");
        }
    }
}

#[test]
fn a_refusal_names_what_is_wrong_with_both_copies() {
    let (cases, base) = cases();
    let mut refused = Vec::new();
    for case in &cases {
        let Err(ReadTableError::NoTable { primary, backup }) = Table::read(&case.disk(&base))
        else {
            continue;
        };
        let as_expected = |fault: &CopyFault| match case.id.as_str() {
            "both-hdr-crc" => matches!(fault, CopyFault::HeaderChecksum),
            "esz-0" => matches!(fault, CopyFault::EntrySize { found: 0 }),
            "n-0" => matches!(fault, CopyFault::EntryCount { found: 0 }),
            "n-huge" => matches!(fault, CopyFault::EntryCount { found: 0x7fff_ffff }),
            "last-past" => matches!(fault, CopyFault::UsableRange { .. }),
            _ => false,
        };
        assert!(
            as_expected(&primary) && as_expected(&backup),
            "{}: {primary} / {backup}",
            case.id
        );
        refused.push(case.id.as_str());
    }
    assert_eq!(
        refused,
        ["both-hdr-crc", "esz-0", "n-0", "n-huge", "last-past"]
    );
}

#[test]
fn a_disk_of_others_is_refused_and_not_written_to() {
    let (cases, base) = cases();
    for case in &cases {
        let mut disk = case.disk(&base);
        let before = disk.image();
        let readable = !case.kernel_with_gpt.is_empty();
        let is_refusal = |error: &ReadLayoutError| match error {
            ReadLayoutError::NoSlot => readable,
            ReadLayoutError::Table { .. } => !readable,
            ReadLayoutError::NoEsp
            | ReadLayoutError::SeveralArchitectures
            | ReadLayoutError::IncompleteSlot { .. }
            | ReadLayoutError::Overlap { .. } => false,
        };
        let read = DiskLayout::read(&disk).expect_err("not ours");
        assert!(is_refusal(&read), "{}: {read}", case.id);
        let relabelled = relabel(&mut disk, Slot::A, &SlotLabel::Empty);
        assert!(
            matches!(&relabelled, Err(RelabelError::Read { source, .. }) if is_refusal(source)),
            "{}",
            case.id
        );
        let repaired = repair(&mut disk);
        assert!(
            matches!(&repaired, Err(RepairError::Read { source }) if is_refusal(source)),
            "{}",
            case.id
        );
        assert_eq!(disk.operations(), 0, "{}", case.id);
        assert!(disk.image() == before, "{}", case.id);
    }
}
