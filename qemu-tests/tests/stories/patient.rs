//! A node whose disk fails by chance while it stages: `cargo xtask torture` has one.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use qemu_tests::bus::{Bus, JobReport, StageOptions};
use qemu_tests::cuts::dice::Dice;
use qemu_tests::cuts::judge::{Expected, Judge};
use qemu_tests::cuts::medium::Medium;
use qemu_tests::cuts::tally::Tally;
use qemu_tests::deadline::Deadline;
use qemu_tests::faults::{Access, Faults, Then};
use qemu_tests::fixtures::Image;
use qemu_tests::machine::Machine;
use qemu_tests::node::Node;
use qemu_tests::smbios::Handed;
use qemu_tests::story::{Shop, Story, TWIN};

use crate::cuts::expected;
use crate::tale::{STAGE_SECONDS, at_rest};

/// How many faults a node gets between two starts.
const FAULTS: u64 = 3;
/// A stage does about 700 writes and 60 flushes, beside those of others.
const MOST: [(Access, u64); 3] = [
    (Access::Read, 2000),
    (Access::Write, 800),
    (Access::Flush, 60),
];

/// A fault, drawn by chance.
struct Drawn {
    faults: Faults,
    /// What it is counted as.
    kind: String,
    /// What it was, exactly.
    exactly: String,
}

impl Drawn {
    fn draw(dice: &mut Dice) -> Result<Self> {
        let kinds = MOST.len() as u64;
        let drawn = MOST.get(usize::try_from(dice.below(kinds))?);
        let (access, most) = drawn.copied().context("there is no such kind")?;
        // Small numbers are as likely as large ones: 1, 2 to 3, 4 to 7 …
        let width = dice.below(u64::from(most.ilog2()) + 1);
        let nth = u32::try_from(((1 << width) + dice.below(1 << width)).min(most))?;
        let name = access.name();
        let (faults, kind) = match dice.below(3) {
            0 => (
                Faults::nth(access, nth, Then::Recovers),
                format!("the n-th {name}"),
            ),
            1 => (
                Faults::nth(access, nth, Then::StaysBroken),
                format!("from the n-th {name} on"),
            ),
            _ => (Faults::every_nth(access, nth), format!("every n-th {name}")),
        };
        let exactly = format!("{kind}, n being {nth}");
        Ok(Self {
            faults,
            kind,
            exactly,
        })
    }
}

/// The node.
pub(crate) struct Patient {
    machine: Machine,
    expected: Expected,
    one: Image,
    two: Image,
}

impl Patient {
    pub(crate) fn new(story: &Story, shop: &Shop) -> Result<Self> {
        let (one, two) = (story.image("1")?, story.image("2")?);
        let folder = story.folder().join("patient");
        let handed = shop.configure(Handed::default());
        Ok(Self {
            machine: story.machine_of(&folder, &one.disk()?, handed)?,
            expected: expected(&one, &[&two])?,
            one,
            two,
        })
    }

    /// Switches it on, has its disk fail a few times, and switches it off. Returns it, unless
    /// a release that was staged in spite of all has made another node of it.
    pub(crate) async fn suffer(self, dice: &mut Dice, tally: &mut Tally) -> Result<Option<Self>> {
        let Self {
            machine,
            expected,
            one,
            two,
        } = self;
        let node = machine.power_on().await?;
        let bus = node.bus().await?;
        // Whatever the last faults were, it has come up and is well.
        at_rest(&bus).await?;
        if bus.updater().await?.booted_version != one.version {
            return Ok(None);
        }
        let mut last = String::new();
        for _ in 0..FAULTS {
            let drawn = Drawn::draw(dice)?;
            let (end, disk) = stage_on(&node, &bus, dice, &drawn).await?;
            *tally.faults.entry((drawn.kind, end)).or_default() += 1;
            last = format!("{} ({end})", drawn.exactly);
            if disk == Disk::StaysBroken {
                break;
            }
        }
        let patient = Self {
            machine: node.cut(),
            expected,
            one,
            two,
        };
        patient.judge(tally, &last)?;
        Ok(Some(patient))
    }

    /// Judges the disk as the faults have left it.
    fn judge(&self, tally: &mut Tally, last: &str) -> Result<()> {
        let path = self.machine.copy_disk(TWIN)?;
        let open = |path: &Path| {
            File::open(path).with_context(|| format!("cannot open {}", path.display()))
        };
        let (disk, nothing) = (open(&path)?, open(Path::new("/dev/null"))?);
        let medium = Medium::new(&disk, &nothing)?;
        let judgement = Judge::default().judge(&medium, &self.expected);
        let violations = judgement.violations.iter();
        tally
            .violations
            .extend(violations.map(|violation| format!("after {last}: {violation}")));
        Ok(())
    }

    /// Lets it update.
    pub(crate) async fn recover(self) -> Result<()> {
        let node = self.machine.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        if bus.updater().await?.booted_version == self.one.version {
            crate::tale::stage_well(&bus, &self.two, StageOptions::default()).await?;
        }
        node.shut_down().await?;
        Ok(())
    }
}

/// How a job can end.
const DONE: &str = "done";
const NAMED: &str = "a named error";
const REFUSED: &str = "refused";
const GONE: &str = "no answer";

/// What has become of a disk that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Works,
    /// Until the machine is switched off.
    StaysBroken,
}

/// What QEMU says when it cannot let go of faults, since it flushes before that.
const NOT_FLUSHED: &str = "Error flushing drive";

/// Stages on a disk that begins to fail somewhere on the way, and works again afterwards if it can.
async fn stage_on(
    node: &Node,
    bus: &Bus,
    dice: &mut Dice,
    drawn: &Drawn,
) -> Result<(&'static str, Disk)> {
    let percent = dice.below(100);
    let deadline = Deadline::after(STAGE_SECONDS);
    let staged = async {
        let job = bus.stage("", StageOptions::default()).await?;
        let reached = async |report: &JobReport| Ok(report.reached(percent));
        job.until(deadline, reached).await?;
        node.break_disk(&drawn.faults).await?;
        job.ended(deadline).await
    };
    let staged = staged.await;
    // It is not there when the job could not be begun.
    let mended = node.mend_disk().await;
    match staged {
        Ok(report) => {
            let disk = match mended {
                Ok(()) => Disk::Works,
                Err(error) if format!("{error:#}").contains(NOT_FLUSHED) => Disk::StaysBroken,
                Err(error) => return Err(error),
            };
            Ok((judge_report(&report, &drawn.exactly)?, disk))
        }
        Err(error) if error.downcast_ref::<qemu_tests::bus::Refused>().is_some() => {
            Ok((REFUSED, Disk::Works))
        }
        // The program that would answer may be what could not be read, or it cannot write.
        Err(_) => Ok((GONE, Disk::StaysBroken)),
    }
}

fn judge_report(report: &JobReport, exactly: &str) -> Result<&'static str> {
    if report.result == "done" {
        return Ok(DONE);
    }
    let (name, message) = &report.error;
    ensure!(
        report.result == "failed" && !name.is_empty() && !name.ends_with(".Internal"),
        "{exactly}: this is no named error: {report:?}"
    );
    ensure!(
        message.contains(": "),
        "{exactly}: this does not say why: {report:?}"
    );
    Ok(NAMED)
}
