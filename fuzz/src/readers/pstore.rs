//! Dumps of kernels that panicked: files, each a line with its name and then its
//! content, divided by zeros.

use jiff::Timestamp;
use partition_layout::{RootHash, Slot, Version};
use updater::node::Way;
use updater::pstore::{DumpFile, assemble, panic_of};
use updater::records::Trial;

use crate::Outcome;

const ARMED: i64 = 1_780_000_000;

pub(crate) fn read(input: &[u8]) -> Outcome {
    let files: Vec<_> = input.split(|byte| *byte == 0).map(file).collect();
    let dumps = assemble(&files);
    assert!(dumps.len() <= 32);
    let mut ids: Vec<_> = dumps.iter().map(|dump| dump.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), dumps.len(), "no two dumps have one name");
    for dump in &dumps {
        assert!(dump.lines().len() <= 20);
    }
    let mut trial = trial();
    if let Some(told) = panic_of(&dumps, &trial) {
        assert!(dumps.contains(told));
    }
    trial.older_dumps = ids;
    assert_eq!(panic_of(&dumps, &trial), None, "all were there before");
    if dumps.is_empty() {
        Outcome::Refused
    } else {
        Outcome::Accepted
    }
}

fn file(bytes: &[u8]) -> DumpFile {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let name = lines.next().unwrap_or_default();
    DumpFile {
        name: String::from_utf8_lossy(name).into_owned(),
        content: lines.next().unwrap_or_default().to_vec(),
    }
}

fn trial() -> Trial {
    Trial {
        boot_id: "arming".to_owned(),
        armed_at: Timestamp::from_second(ARMED).expect("a time of this century"),
        slot: Slot::B,
        version: Version::parse("2").expect("a good version"),
        root_hash: RootHash::new([2; 32]),
        tries: 3,
        way: Way::Order,
        older_verdict: None,
        older_dumps: vec![],
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let name = |part: i64| {
        format!(
            "dmesg-efi_pstore-{}",
            ((ARMED + 100) * 100 + part) * 1000 + 1
        )
    };
    let opened = format!(
        "<6>[    1.000001] bistable-init: slot B is opened as dm-0 with root hash {}\n",
        RootHash::new([2; 32])
    );
    let end = "<0>[   20.123456] Kernel panic - not syncing: Attempted to kill init!\n<4>[   20.123999] CPU: 0\n";
    let (first, second) = (name(1), name(2));
    [
        format!("{first}\nPanic#1 Part1\n{end}"),
        format!(
            "{first}\nPanic#1 Part1\n{end}\0{second}\nPanic#1 Part2\n{opened}\0dmesg.txt\n{end}"
        ),
    ]
    .map(String::into_bytes)
    .into()
}
