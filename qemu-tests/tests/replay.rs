//! A replay finds what a cut of the power can break, and nothing else.
#![expect(
    clippy::indexing_slicing,
    reason = "a test says by a panic that its claim does not hold"
)]

#[path = "../../partition-layout/tests/common/mod.rs"]
#[expect(dead_code, reason = "these tests need less of a disk")]
mod common;
#[path = "../../inspector/tests/image/mod.rs"]
mod image;
#[expect(dead_code, reason = "these tests discard nothing")]
mod written;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use common::{Disk, Esp};
use image::Image;
use inspector::{DiskProofs, Inspection};
use partition_layout::entry_names::EntryNames;
use partition_layout::{Form, REMOVED_NAME, SectorSize, Slot, SlotLabel, Version, relabel};
use qemu_tests::cuts::judge::{Expected, Judge, Judgement};
use qemu_tests::cuts::recording::Recording;
use qemu_tests::cuts::replay::{Pass, Replay, State};
use qemu_tests::cuts::tally::Tally;
use qemu_tests::deadline::Deadline;
use tempfile::TempDir;
use written::Written;

const SECTOR: usize = 512;
const OLD: &str = "bistable_1.0~rc1.efi";
const ARMED: &str = "bistable_2.0+3.efi";

/// A part of an update.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    WriteImage,
    Label,
    WriteKernel,
    /// Gives the kernel image its name: it is an entry from now on.
    Arm(&'static str),
    /// Gives an entry the name of one that is removed.
    PutAside(&'static str),
    /// Removes a file as a driver does.
    Unlink(&'static str),
    /// Changes a byte of a block of slot A; twice is not at all.
    Flip(u64),
    Flush,
}

use Step::{Arm, Flip, Flush, Label, PutAside, Unlink, WriteImage, WriteKernel};

/// Does `steps` to a disk with a good release, and records what is written.
struct Stand {
    folder: TempDir,
    recording: Recording,
}

impl Stand {
    fn record(steps: &[Step]) -> Self {
        Self::record_rotten(steps, None)
    }

    /// The same with a block of slot A that is known to be rotten.
    fn record_rotten(steps: &[Step], rotten: Option<u64>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (old, new) = (Image::of(b'a'), Image::of(b'b'));
        let disk = Disk::create_holding(Form::Full, SectorSize::B512, old.root_hash);
        old.write(&disk, Slot::A);
        let esp = Esp::format("16");
        esp.add_entry(OLD, "1.0~rc1", &old.root_hash);
        esp.install(&disk);
        let mut known = BTreeMap::new();
        if let Some(block) = rotten {
            flip(&disk, block);
            let file = disk.file();
            let seen = Inspection::of(&file, &mut DiskProofs(&file)).expect("our disk");
            let mut bootable = seen.verdict.bootable.into_iter();
            let fault = bootable.find_map(|it| it.fault).expect("it is rotten");
            known.insert(old.root_hash.to_string(), fault);
        }
        let mut recording = Recording::begin(folder.path());
        fs::copy(&disk.path, recording.image()).expect("copied");

        let mut log = Written::default();
        let mut kernels = BTreeMap::new();
        for step in steps {
            kernels.extend(kernels_on(&disk));
            let before = fs::read(&disk.path).expect("the disk is there");
            match step {
                Flush => {
                    log = log.flush();
                    continue;
                }
                WriteImage => new.write(&disk, Slot::B),
                Label => {
                    let version = Version::parse("2.0").expect("a version");
                    let holds = SlotLabel::Holds {
                        version: &version,
                        root_hash: &new.root_hash,
                    };
                    relabel(&mut disk.file(), Slot::B, &holds).expect("nothing fails");
                }
                WriteKernel => {
                    esp.add_entry("bistable.new", "2.0", &new.root_hash);
                    esp.install(&disk);
                }
                Arm(name) => rename(&disk, "bistable.new", name),
                Flip(block) => flip(&disk, *block),
                PutAside(name) => rename(&disk, name, REMOVED_NAME),
                Unlink(name) => {
                    let esp_bytes = disk.layout().esp.range();
                    let place = |at| usize::try_from(at).expect("a small disk");
                    esp.replace(&before[place(esp_bytes.start)..place(esp_bytes.end)]);
                    esp.remove(name);
                    esp.install(&disk);
                }
            }
            let after = fs::read(&disk.path).expect("it is there");
            // Of a table the backup is written first, and flushed.
            let middle = after.len() / 2;
            if *step == Label {
                log = with_changes(log, &before, &after, middle..after.len()).flush();
            }
            log = with_changes(
                log,
                &before,
                &after,
                0..match step {
                    Label => middle,
                    WriteImage | WriteKernel | Arm(_) | PutAside(_) | Unlink(_) | Flip(_)
                    | Flush => after.len(),
                },
            );
        }
        kernels.extend(kernels_on(&disk));
        log.save(&recording.log());

        let expected = Expected {
            proven: [old.root_hash.to_string()].into(),
            kernels,
            rotten: known,
        };
        recording.phase("staging", &expected).expect("a log");
        recording.save().expect("written");
        Self { folder, recording }
    }

    fn replay(&self) -> Replay {
        let recording = Recording::open(self.folder.path()).expect("it was saved");
        assert_eq!(recording.phases.len(), self.recording.phases.len());
        Replay::of(recording).expect("a recording")
    }

    /// Returns the tally of several passes, and all states with violations.
    fn torture(&self) -> (Tally, Vec<(State, Judgement)>) {
        let replay = self.replay();
        let (mut judge, mut tally) = (Judge::default(), replay.tally());
        let mut bad = Vec::new();
        let random = (0..30).map(Pass::Random);
        for pass in std::iter::once(Pass::Every).chain(random) {
            let keep = |_, state, judgement: &Judgement| {
                if !judgement.violations.is_empty() {
                    bad.push((state, judgement.clone()));
                }
            };
            replay
                .go(pass, &mut judge, &mut tally, Deadline::after(3600), keep)
                .expect("nothing fails");
        }
        (tally, bad)
    }
}

/// Returns the digests of the kernel images that are entries, by root hash.
fn kernels_on(disk: &Disk) -> BTreeMap<String, String> {
    let file = disk.file();
    let seen = Inspection::of(&file, &mut DiskProofs(&file)).expect("our disk");
    let kernels = seen.verdict.bootable.into_iter();
    let named = kernels.filter_map(|it| Some((it.root_hash?.to_string(), it.kernel_sha256?)));
    named.collect()
}

fn flip(disk: &Disk, block: u64) {
    let place = disk.layout().slot_a.root.start + 4096 * block + 5;
    let (file, mut byte) = (disk.file(), [0]);
    file.read_exact_at(&mut byte, place).expect("it is there");
    file.write_all_at(&[!byte[0]], place).expect("written");
}

fn rename(disk: &Disk, from: &str, to: &str) {
    let mut file = disk.file();
    let place = disk.layout().esp.range();
    let mut names = EntryNames::read(&mut file, place).expect("a folder");
    names.rename(from, to).expect("nothing fails");
}

/// Logs every run of sectors that differ within some bytes as a write.
fn with_changes(mut log: Written, before: &[u8], after: &[u8], within: Range<usize>) -> Written {
    let (before, _) = before.as_chunks::<SECTOR>();
    let (after, _) = after.as_chunks::<SECTOR>();
    let (mut at, end) = (within.start / SECTOR, within.end / SECTOR);
    while at < end {
        let run = (at..end).take_while(|at| before[*at] != after[*at]);
        let run = run.count();
        if run > 0 {
            log = log.write(at as u64, after[at..at + run].as_flattened());
        }
        at += run + 1;
    }
    log
}

const WELL: [Step; 8] = [
    WriteImage,
    Flush,
    Label,
    Flush,
    WriteKernel,
    Flush,
    Arm(ARMED),
    Flush,
];

#[test]
fn an_update_in_the_right_order_is_safe_wherever_it_is_cut() {
    let (tally, bad) = Stand::record(&WELL).torture();
    assert_eq!(tally.violations, [""; 0]);
    assert!(bad.is_empty());
    assert_eq!(tally.flushes, 5);
    assert!(tally.states() > 400, "{tally}");
    assert!(tally.different > 50, "{tally}");
}

#[test]
fn whatever_is_armed_before_it_has_reached_the_disk_is_found() {
    for (early, words) in [
        (
            vec![WriteImage, Label, WriteKernel, Flush, Arm(ARMED), Flush],
            "",
        ),
        (
            vec![WriteKernel, Flush, Label, WriteImage, Arm(ARMED), Flush],
            "slot B is not whole",
        ),
        (
            vec![WriteImage, Label, Flush, WriteKernel, Arm(ARMED), Flush],
            "the chain of clusters",
        ),
        (
            vec![
                WriteImage,
                Flush,
                WriteKernel,
                Flush,
                Label,
                Arm(ARMED),
                Flush,
            ],
            "no slot has the root hash",
        ),
    ] {
        let (tally, bad) = Stand::record(&early).torture();
        let is_found = tally
            .violations
            .iter()
            .any(|violation| violation.contains(words));
        assert_eq!(
            is_found,
            !words.is_empty(),
            "{words:?}: {:?}",
            tally.violations.first()
        );
        assert_eq!(bad.is_empty(), words.is_empty());
    }
}

#[test]
fn an_entry_that_is_removed_is_a_trap_unless_it_loses_its_name_before() {
    let unlinked = [&WELL[..], &[Unlink(ARMED), Flush]].concat();
    let put_aside = [
        &WELL[..],
        &[PutAside(ARMED), Flush, Unlink(REMOVED_NAME), Flush],
    ]
    .concat();
    let (tally, _) = Stand::record(&unlinked).torture();
    let is_trap = |violation: &String| {
        violation.contains("bistable_2.0+3.efi") && violation.contains("the chain of clusters")
    };
    assert!(
        tally.violations.iter().any(is_trap),
        "{:?}",
        tally.violations
    );
    let (tally, _) = Stand::record(&put_aside).torture();
    assert_eq!(tally.violations, [""; 0]);
}

#[test]
fn an_image_that_was_never_good_and_passes_for_good_is_found() {
    for name in ["bistable_2.0.efi", "bistable_2.0+15.efi"] {
        let mut steps = WELL;
        steps[6] = Arm(name);
        let (tally, _) = Stand::record(&steps).torture();
        let words = format!("{name} boots an image that was never good, and passes for good");
        assert!(
            tally
                .violations
                .iter()
                .all(|violation| violation.ends_with(&words)),
            "{:?}",
            tally.violations.first()
        );
        assert!(!tally.violations.is_empty());
    }
}

#[test]
fn while_a_block_is_mended_it_may_be_rotten_and_no_other_may() {
    for (steps, is_well) in [
        (vec![Flip(3), Flush], true),
        (vec![Flip(3), Flip(4), Flip(4), Flush], false),
        (vec![Flip(4), Flush], false),
        (vec![Flip(3), Flip(4), Flush], false),
        (vec![Flip(3), Flip(4), Flush, Flip(4), Flush], false),
    ] {
        let (tally, _) = Stand::record_rotten(&steps, Some(3)).torture();
        let is_found = |violation: &String| violation.contains("no slot that was good");
        assert_eq!(
            !tally.violations.iter().any(is_found),
            is_well,
            "{steps:?}: {:?}",
            tally.violations
        );
    }
    // Of a block that nobody knows to be rotten nothing is forgiven.
    let (tally, _) = Stand::record(&[Flip(3), Flush]).torture();
    assert!(!tally.violations.is_empty());
}

#[test]
fn a_state_that_is_rebuilt_is_the_one_that_was_judged() {
    let steps = [WriteKernel, Flush, Label, WriteImage, Arm(ARMED), Flush];
    let stand = Stand::record(&steps);
    let (_, bad) = stand.torture();
    let replay = stand.replay();
    for (number, (state, judgement)) in bad.iter().enumerate().step_by(7).take(8) {
        let path = stand.folder.path().join(format!("state-{number}.raw"));
        let again = replay.rebuild(*state, &path).expect("rebuilt");
        assert_eq!(again.violations, judgement.violations, "{state}");
        let file = fs::File::open(&path).expect("it is there");
        let seen = Inspection::of(&file, &mut DiskProofs(&file)).expect("our disk");
        assert_eq!(Some(seen.verdict), judgement.verdict, "{state}");
    }
}
