//! What a replay counted.

use std::collections::BTreeMap;
use std::fmt;

/// The counts.
#[derive(Debug, Default)]
pub struct Tally {
    /// States, by the phase of the recording and how writes survived.
    states: BTreeMap<(usize, &'static str), u64>,
    phases: Vec<String>,
    /// How many of them had something harmless wrong, by what it was.
    harmless: BTreeMap<&'static str, u64>,
    /// States that differed in anything that a verdict is about.
    pub different: usize,
    /// Flushes that were logged.
    pub flushes: usize,
    /// Writes that were logged.
    pub writes: usize,
    /// States that were booted under firmware.
    pub boots: u64,
    /// Cuts of a node while it ran.
    pub cuts: u64,
    /// Faults of the disk while a node staged, by what failed and how the job ended.
    pub faults: BTreeMap<(String, &'static str), u64>,
    /// Rows of what others have counted, without a violation.
    pub counted_before: String,
    /// What must not be, and where it was.
    pub violations: Vec<String>,
}

impl Tally {
    /// Begins with no state in any of `phases`.
    pub fn of(phases: Vec<String>) -> Self {
        Self {
            phases,
            ..Self::default()
        }
    }

    /// Counts a state.
    pub fn count(
        &mut self,
        phase: usize,
        kind: &'static str,
        harmless: impl IntoIterator<Item = &'static str>,
    ) {
        *self.states.entry((phase, kind)).or_default() += 1;
        for what in harmless {
            *self.harmless.entry(what).or_default() += 1;
        }
    }

    /// Returns how many states there were.
    pub fn states(&self) -> u64 {
        self.states.values().sum()
    }
}

const COLUMN: usize = 12;

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = {
            let kinds = self.states.keys().map(|(_, kind)| *kind);
            kinds
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect()
        };
        write!(f, "\n{:32}", "power cut while")?;
        kinds
            .iter()
            .try_for_each(|kind| write!(f, "{kind:>COLUMN$}"))?;
        writeln!(f)?;
        for (number, phase) in self.phases.iter().enumerate() {
            write!(f, "{phase:32}")?;
            for kind in &kinds {
                let count = self
                    .states
                    .get(&(number, kind))
                    .copied()
                    .unwrap_or_default();
                write!(f, "{count:>COLUMN$}")?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        let mut row = |what: &str, count: u64| writeln!(f, "{what:32}{count:>COLUMN$}");
        row("writes", self.writes as u64)?;
        row("flushes", self.flushes as u64)?;
        row("states checked", self.states())?;
        row("of these different", self.different as u64)?;
        for (what, count) in &self.harmless {
            row(&format!("  with {what}"), *count)?;
        }
        row("boots", self.boots)?;
        row("cuts of a running node", self.cuts)?;
        row("faults of the disk", self.faults.values().sum())?;
        for ((what, end), count) in &self.faults {
            row(&format!("  {what}: {end}"), *count)?;
        }
        f.write_str(&self.counted_before)?;
        writeln!(f, "{:32}{:>COLUMN$}", "violations", self.violations.len())?;
        let mut violations = self.violations.iter();
        violations.try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_phase_and_a_column_for_each_kind() {
        let mut tally = Tally::of(vec!["staging".into(), "starting".into()]);
        tally.count(0, "torn", []);
        tally.count(0, "torn", ["lost clusters"]);
        tally.count(1, "lost", []);
        tally
            .violations
            .push("flush 3, torn (0x5): nothing boots".into());
        let failing = ("the n-th write".to_owned(), "named");
        tally.faults.insert(failing, 4);
        let text = tally.to_string();
        for line in [
            "power cut while                         lost        torn",
            "staging                                    0           2",
            "starting                                   1           0",
            "states checked                             3",
            "  with lost clusters                       1",
            "faults of the disk                         4",
            "  the n-th write: named                    4",
            "violations                                 1",
            "  flush 3, torn (0x5): nothing boots",
        ] {
            assert!(
                text.lines().any(|is| is == line),
                "{line:?} is not in\n{text}"
            );
        }
        assert_eq!(tally.states(), 3);
    }
}
