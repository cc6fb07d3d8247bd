//! What a kernel that panicked left in the machine's own memory (pstore): the
//! end of its log, in parts, as files under names such as
//! `dmesg-efi_pstore-178000000001001`. Pure: names and bytes in, dumps out.
//!
//! ```text
//! id = (seconds × 100 + part) × 1000 + count
//! ```
//! Part 1 is the end of the log, and is written first; the clock goes on while
//! the parts are written, so that only their count holds them together.

use jiff::{SignedDuration, Timestamp};
use partition_layout::RootHash;

use crate::records::{LastGood, Trial};

/// How many dumps are looked at, the newest.
const DUMPS: usize = 32;
/// How many lines are kept of one, from the panic on.
const LINES: usize = 20;
/// Parts of one dump are written within seconds, into slow flash perhaps.
const TOGETHER: u64 = 60;
/// How far the clocks of two boots of one machine may be apart.
const SLACK: SignedDuration = SignedDuration::from_secs(30);

const FIRMWARE: &str = "dmesg-efi_pstore-";
const PANIC: &str = "Kernel panic - not syncing: ";
/// How PID 1 of the initrd begins its last words, before it ends and the kernel panics.
const LAST_WORDS: &str = "bistable-init: cannot boot: ";

/// A part of a dump, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpFile {
    pub name: String,
    pub content: Vec<u8>,
}

/// The end of a kernel's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    /// Seconds since 1970, by that kernel's clock.
    seconds: u64,
    count: u64,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    count: u64,
    seconds: u64,
    part: u64,
}

/// Puts the parts together: the newest dumps, oldest first. Other files are
/// left out.
pub fn assemble(files: &[DumpFile]) -> Vec<Dump> {
    let mut parts: Vec<(Place, &DumpFile)> = files
        .iter()
        .filter_map(|file| Some((place(&file.name)?, file)))
        .collect();
    parts.sort_by_key(|(place, _)| *place);
    // The same file may lie in the firmware and in the archive.
    parts.dedup_by_key(|(place, _)| *place);
    let mut dumps: Vec<Dump> = parts
        .chunk_by(|(one, _), (next, _)| belongs_to(*one, *next))
        .filter_map(|parts| {
            let (first, _) = parts.first()?;
            let text = parts.iter().rev().map(|(_, file)| body(&file.content));
            Some(Dump {
                seconds: first.seconds,
                count: first.count,
                text: text.collect(),
            })
        })
        .collect();
    dumps.sort_by_key(|dump| (dump.seconds, dump.count));
    let old = dumps.len().saturating_sub(DUMPS);
    dumps.split_off(old)
}

fn place(name: &str) -> Option<Place> {
    let id: u64 = name.strip_prefix(FIRMWARE)?.parse().ok()?;
    Some(Place {
        count: id % 1000,
        part: id / 1000 % 100,
        seconds: id / 100_000,
    })
}

const fn belongs_to(one: Place, next: Place) -> bool {
    one.count == next.count
        && next.part > one.part
        && next.seconds.saturating_sub(one.seconds) < TOGETHER
}

/// Without the line in front that pstore adds: `Panic#2 Part1`.
fn body(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    match text.split_once('\n') {
        Some((first, rest)) if first.contains(" Part") => rest.to_owned(),
        Some(_) | None => text.into_owned(),
    }
}

impl Dump {
    /// Returns a name that no other dump of this machine has.
    pub fn id(&self) -> String {
        format!("{}-{}", self.seconds, self.count)
    }

    /// Returns why the kernel panicked, in its own words, and in those of the initrd if it gave up.
    pub fn reason(&self) -> Option<String> {
        let after = |words: &str| {
            let found = self.text.lines().find_map(|line| line.split_once(words))?;
            Some(found.1.trim())
        };
        let panic = after(PANIC)?;
        Some(match after(LAST_WORDS) {
            Some(words) => format!("{panic} ({words})"),
            None => panic.to_owned(),
        })
    }

    /// Returns the lines from the panic on, or else the last ones.
    pub fn lines(&self) -> Vec<String> {
        let lines: Vec<&str> = self.text.lines().map(without_level).collect();
        let first = lines
            .iter()
            .position(|line| line.contains(PANIC))
            .unwrap_or(lines.len().saturating_sub(LINES));
        let kept = lines.iter().skip(first).take(LINES);
        kept.map(|line| (*line).to_owned()).collect()
    }

    /// Returns when that kernel was started, if both its clocks can be read.
    fn booted_at(&self) -> Option<Timestamp> {
        let uptime = self.text.lines().rev().find_map(uptime)?;
        let died = Timestamp::from_second(i64::try_from(self.seconds).ok()?).ok()?;
        died.checked_sub(uptime).ok()
    }

    /// Returns the image that it says of itself it ran. PID 1 says it on the way to systemd, and the
    /// kernel shows its command line; a long log may have lost both.
    fn image(&self) -> Option<RootHash> {
        ["root hash ", "roothash="].iter().find_map(|before| {
            let (_, after) = self.text.rsplit_once(before)?;
            RootHash::parse(after.get(..64)?).ok()
        })
    }
}

/// `<6>[    1.234567] text`: the level goes.
fn without_level(line: &str) -> &str {
    match line.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        Some((level, rest)) if level.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        Some(_) | None => line,
    }
}

fn uptime(line: &str) -> Option<SignedDuration> {
    let (stamp, _) = without_level(line).strip_prefix('[')?.split_once(']')?;
    let (seconds, _) = stamp.trim().split_once('.')?;
    seconds.parse().ok().map(SignedDuration::from_secs)
}

/// An image that may have panicked, and since when.
#[derive(Debug, Clone, Copy)]
pub struct Suspect<'a> {
    root_hash: &'a RootHash,
    since: Timestamp,
    /// What was there already.
    older: &'a [String],
}

impl<'a> From<&'a Trial> for Suspect<'a> {
    fn from(trial: &'a Trial) -> Self {
        Self {
            root_hash: &trial.root_hash,
            since: trial.armed_at,
            older: &trial.older_dumps,
        }
    }
}

impl<'a> From<&'a LastGood> for Suspect<'a> {
    fn from(good: &'a LastGood) -> Self {
        Self {
            root_hash: &good.root_hash,
            since: good.when,
            older: &good.older_dumps,
        }
    }
}

/// Returns the panic that ended a boot of `suspect`: one that was not there before, of a boot
/// that began later, and of no other image. The last one, if there are several.
pub fn panic_of<'a, 's>(dumps: &'a [Dump], suspect: impl Into<Suspect<'s>>) -> Option<&'a Dump> {
    let suspect = suspect.into();
    let is_new = |dump: &&Dump| !suspect.older.contains(&dump.id());
    let began_later = |dump: &Dump| {
        let began = dump.booted_at();
        // A difference: a clock near the end of time has no moment some seconds later.
        began.is_some_and(|began| suspect.since.duration_since(began) <= SLACK)
    };
    dumps
        .iter()
        .filter(is_new)
        .filter_map(|dump| match dump.image() {
            Some(image) => (image == *suspect.root_hash).then_some((1, dump)),
            None => began_later(dump).then_some((0, dump)),
        })
        .max_by_key(|(named, dump)| (*named, dump.reason().is_some(), dump.seconds, dump.count))
        .map(|(_, dump)| dump)
}

#[cfg(test)]
mod tests {
    use partition_layout::{Slot, Version};

    use super::*;
    use crate::node::Way;

    const ARMED: i64 = 1_780_000_000;

    fn file(seconds: i64, part: i64, count: i64, text: &str) -> DumpFile {
        let id = (seconds * 100 + part) * 1000 + count;
        DumpFile {
            name: format!("{FIRMWARE}{id}"),
            content: format!("Panic#{count} Part{part}\n{text}").into_bytes(),
        }
    }

    fn hash(byte: u8) -> RootHash {
        RootHash::new([byte; 32])
    }

    /// A panic `uptime` seconds after the start of a boot.
    fn panic(seconds: i64, uptime: u32, image: Option<u8>) -> DumpFile {
        let opened = image.map_or_else(String::new, |image| {
            format!(
                "<6>[    1.000001] bistable-init: slot B is opened as dm-0 with root hash {}\n",
                hash(image)
            )
        });
        let text = format!(
            "{opened}<0>[{uptime:5}.123456] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n\
             <4>[{uptime:5}.123999] CPU: 0 PID: 1\n"
        );
        file(seconds, 1, 1, &text)
    }

    fn trial() -> Trial {
        Trial {
            boot_id: "arming".to_owned(),
            armed_at: Timestamp::from_second(ARMED).unwrap(),
            slot: Slot::B,
            version: Version::parse("2").unwrap(),
            root_hash: hash(2),
            tries: 3,
            way: Way::Order,
            older_verdict: None,
            older_dumps: vec![],
        }
    }

    #[test]
    fn parts_are_put_together_in_the_order_of_the_log() {
        let files = [
            file(ARMED, 1, 2, "<4>[    3.0] third\n"),
            file(ARMED, 2, 2, "<4>[    2.0] second\n"),
            // The clock went on.
            file(ARMED + 1, 3, 2, "<4>[    1.0] first\n"),
            file(ARMED + 9, 1, 1, "another\n"),
            DumpFile {
                name: "dmesg.txt".to_owned(),
                content: b"what systemd made of it".to_vec(),
            },
        ];
        let dumps = assemble(&files);
        let lines: Vec<_> = dumps.iter().map(Dump::lines).collect();
        assert_eq!(
            lines,
            [
                vec!["[    1.0] first", "[    2.0] second", "[    3.0] third"],
                vec!["another"]
            ]
        );
    }

    #[test]
    fn a_part_that_lies_in_two_places_counts_once() {
        let part = file(ARMED, 1, 1, "once\n");
        let dumps = assemble(&[part.clone(), part]);
        assert_eq!(dumps.len(), 1);
        assert_eq!(dumps[0].lines(), ["once"]);
    }

    #[test]
    fn the_same_count_in_two_boots_makes_two_dumps() {
        let dumps = assemble(&[panic(ARMED, 5, None), panic(ARMED + 20, 5, None)]);
        assert_eq!(dumps.len(), 2);
    }

    #[test]
    fn the_panic_is_told_in_the_kernels_words() {
        let [dump] = &assemble(&[panic(ARMED, 5, Some(2))])[..] else {
            unreachable!("one file makes one dump")
        };
        let reason = "Attempted to kill init! exitcode=0x00000100";
        assert_eq!(dump.reason().as_deref(), Some(reason));
        assert_eq!(
            dump.lines(),
            [
                format!("[    5.123456] Kernel panic - not syncing: {reason}"),
                "[    5.123999] CPU: 0 PID: 1".to_owned()
            ]
        );
    }

    #[test]
    fn an_initrd_that_gave_up_is_told_with_its_own_words() {
        let words = "<2>[    3.1] bistable-init: cannot boot: cannot mount the root file system: no; the kernel restarts\n";
        let mut dump = panic(ARMED, 5, Some(2));
        let place = dump.content.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        dump.content.splice(place..place, words.bytes());
        let [dump] = &assemble(&[dump])[..] else {
            unreachable!("one file makes one dump")
        };
        let reason = dump.reason().unwrap();
        assert!(reason.starts_with("Attempted to kill init!"), "{reason}");
        assert!(
            reason.contains("(cannot mount the root file system: no"),
            "{reason}"
        );
    }

    #[test]
    fn a_panic_is_the_trials_if_its_boot_began_later_and_it_names_no_other_image() {
        let when = ARMED + 100;
        for (file, is_its) in [
            (panic(when, 20, None), true),
            (panic(when, 20, Some(2)), true),
            // The old release, on its way down or up.
            (panic(when, 5000, None), false),
            (panic(when, 20, Some(1)), false),
            // Its clock stands at 2000, and it says who it is.
            (panic(946_684_800, 20, Some(2)), true),
            (panic(946_684_800, 20, None), false),
        ] {
            let dumps = assemble(&[file]);
            assert_eq!(panic_of(&dumps, &trial()).is_some(), is_its, "{dumps:?}");
        }
    }

    #[test]
    fn a_kernel_whose_clock_stood_at_the_end_of_time_is_read_like_any_other() {
        let end = Timestamp::MAX.as_second();
        let dumps = assemble(&[panic(end, 0, None)]);
        assert_eq!(panic_of(&dumps, &trial()), dumps.first());
    }

    #[test]
    fn a_dump_that_was_there_when_the_trial_was_armed_is_not_its() {
        let dumps = assemble(&[panic(ARMED + 100, 20, Some(2))]);
        let mut trial = trial();
        trial.older_dumps = dumps.iter().map(Dump::id).collect();
        assert_eq!(panic_of(&dumps, &trial), None);
    }

    #[test]
    fn of_several_attempts_the_last_is_told() {
        let dumps = assemble(&[
            panic(ARMED + 300, 20, Some(1)),
            panic(ARMED + 200, 21, Some(2)),
            panic(ARMED + 100, 20, Some(2)),
        ]);
        let told = panic_of(&dumps, &trial()).unwrap();
        assert!(told.lines()[0].starts_with("[   21."), "{told:?}");
    }

    #[test]
    fn nonsense_makes_no_dump_and_no_panic() {
        for content in ["", "\u{0}", "<", "[", "[.]", "<9", "root hash 12"] {
            let dumps = assemble(&[file(ARMED, 1, 1, content)]);
            assert_eq!(panic_of(&dumps, &trial()), None, "{content:?}");
        }
        let name = |name: &str| DumpFile {
            name: name.to_owned(),
            content: vec![],
        };
        assert!(assemble(&[name("dmesg-efi_pstore-"), name("dmesg-efi_pstore-99x")]).is_empty());
    }
}
