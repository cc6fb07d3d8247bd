//! A replay: every state that a cut of the power can leave, flush by flush.

use std::fmt;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use partition_layout::{DiskLayout, Table};

use super::dice::Dice;
use super::judge::{Expected, Judge, Judgement};
use super::medium::Medium;
use super::recording::{Phase, Recording};
use super::survival::Survival;
use super::tally::Tally;
use super::write_log::{Entry, Write, WriteLog};
use crate::deadline::Deadline;

/// Between two flushes each write is left out, and each left alone, as long as
/// there are no more than this that matter. Most have fewer than ten.
const EACH: usize = 64;

/// A recording that is gone through.
#[derive(Debug)]
pub struct Replay {
    recording: Recording,
    image: File,
    log: WriteLog,
    /// What lies between two flushes, and in which phase.
    spans: Vec<Span>,
}

/// What was written between two flushes.
#[derive(Debug)]
struct Span {
    phase: usize,
    writes: Vec<Write>,
    /// Those of them that are not in `/var` alone.
    relevant: Vec<Write>,
}

/// A state that was looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct State {
    /// How many flushes came before.
    pub flush: usize,
    /// What survives of what was written since.
    pub survival: Survival,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flush {}, {}", self.flush, self.survival)
    }
}

/// How a pass goes through a recording.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pass {
    /// Each prefix of the writes, each write missing and alone: the same in each pass.
    Every,
    /// Three states by chance for each flush.
    Random(u64),
}

impl Replay {
    /// Reads a recording.
    ///
    /// # Errors
    ///
    /// Fails when it is not whole.
    pub fn of(recording: Recording) -> Result<Self> {
        let path = recording.image();
        let image = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let log = WriteLog::open(&recording.log())?;
        let spans = spans(&recording.phases, &image, &log)?;
        Ok(Self {
            recording,
            image,
            log,
            spans,
        })
    }

    /// Returns an empty tally for it.
    pub fn tally(&self) -> Tally {
        let phases = self.recording.phases.iter();
        let mut tally = Tally::of(phases.map(|phase| phase.name.clone()).collect());
        tally.writes = self.spans.iter().map(|span| span.writes.len()).sum();
        tally.flushes = self.spans.len().saturating_sub(1);
        tally
    }

    /// Goes through the recording once, or until the deadline passes, and hands every
    /// state that was judged to `keep`.
    ///
    /// # Errors
    ///
    /// Fails when the disk before cannot be read.
    pub fn go(
        &self,
        pass: Pass,
        judge: &mut Judge,
        tally: &mut Tally,
        deadline: Deadline,
        mut keep: impl FnMut(usize, State, &Judgement),
    ) -> Result<()> {
        let mut medium = Medium::new(&self.image, self.log.file())?;
        for (flush, span) in self.spans.iter().enumerate() {
            if deadline.passed() {
                break;
            }
            let expected = self.expected(span);
            let mut look = |survival: Survival, medium: &Medium<'_>, judge: &mut Judge| {
                let judgement = judge.judge(medium, expected);
                let state = State { flush, survival };
                tally.count(
                    span.phase,
                    survival.kind(),
                    judgement.harmless.iter().copied(),
                );
                let violations = judgement.violations.iter();
                let told = violations.map(|violation| format!("{state}: {violation}"));
                tally.violations.extend(told);
                keep(span.phase, state, &judgement);
            };
            match pass {
                Pass::Every => {
                    look(Survival::Lost, &medium, judge);
                    for (count, write) in (1..).zip(&span.writes) {
                        medium.write(write);
                        look(Survival::Cut(count), &medium, judge);
                    }
                    medium.take_back();
                }
                Pass::Random(_) => {}
            }
            for survival in survivals(pass, flush, span.relevant.len()) {
                survival.enact(&span.relevant, &mut medium);
                look(survival, &medium, judge);
                medium.take_back();
            }
            span.writes.iter().for_each(|write| medium.write(write));
            medium.settle();
        }
        tally.different = judge.different();
        Ok(())
    }

    /// Makes an image of the disk in `state`, in the new file `to`, and judges it.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn rebuild(&self, state: State, to: &Path) -> Result<Judgement> {
        let mut medium = Medium::new(&self.image, self.log.file())?;
        for span in self.spans.iter().take(state.flush) {
            span.writes.iter().for_each(|write| medium.write(write));
        }
        let span = self
            .spans
            .get(state.flush)
            .context("there are fewer flushes")?;
        let writes = match state.survival {
            Survival::Lost | Survival::Cut(_) => &span.writes,
            Survival::Missing(_)
            | Survival::Alone(_)
            | Survival::Some(_)
            | Survival::Reordered(_)
            | Survival::Torn(_) => &span.relevant,
        };
        state.survival.enact(writes, &mut medium);
        medium.copy(&self.recording.image(), to)?;
        let judgement = Judge::default().judge(&medium, self.expected(span));
        Ok(Judgement::clone(&judgement))
    }

    fn expected(&self, span: &Span) -> &Expected {
        static NOTHING: std::sync::LazyLock<Expected> = std::sync::LazyLock::new(Expected::default);
        let phase = self.recording.phases.get(span.phase);
        phase.map_or(&NOTHING, |phase| &phase.expected)
    }
}

fn survivals(pass: Pass, flush: usize, writes: usize) -> Vec<Survival> {
    let seed = match pass {
        Pass::Every if writes > EACH => return Vec::new(),
        Pass::Every => {
            let missing = (0..writes).map(Survival::Missing);
            return missing.chain((0..writes).map(Survival::Alone)).collect();
        }
        Pass::Random(_) if writes == 0 => return Vec::new(),
        Pass::Random(seed) => seed,
    };
    let mut dice = Dice::of(&[seed, flush as u64]);
    [Survival::Some, Survival::Reordered, Survival::Torn]
        .map(|survival| survival(dice.roll()))
        .into()
}

/// Cuts the log at its flushes.
fn spans(phases: &[Phase], image: &File, log: &WriteLog) -> Result<Vec<Span>> {
    let mut medium = Medium::new(image, log.file())?;
    for entry in log.entries() {
        match entry {
            Entry::Write(write) => medium.write(write),
            Entry::Flush => {}
        }
    }
    // The partitions as they are in the end: on the first boot there is no `/var` yet.
    let (table, _) = Table::read(&medium).context("the disk has no table in the end")?;
    let layout = DiskLayout::of_table(&table).context("the disk is not ours in the end")?;
    let var = layout.var.map_or(0..0, |var| var.range());
    let sector = super::write_log::SECTOR;
    let is_relevant = |write: &Write| {
        let end = (write.sector + write.sectors) * sector;
        write.sector * sector < var.start || end > var.end
    };
    let mut spans = Vec::new();
    let mut writes = Vec::new();
    let mut finish = |writes: &mut Vec<Write>, entry: u64| {
        let writes = std::mem::take(writes);
        let begun = phases.iter().filter(|phase| phase.start <= entry);
        spans.push(Span {
            phase: begun.count().saturating_sub(1),
            relevant: writes
                .iter()
                .filter(|write| is_relevant(write))
                .copied()
                .collect(),
            writes,
        });
    };
    for (number, entry) in (0..).zip(log.entries()) {
        match entry {
            Entry::Write(write) => writes.push(*write),
            Entry::Flush => finish(&mut writes, number),
        }
    }
    finish(&mut writes, log.entries().len() as u64);
    Ok(spans)
}
