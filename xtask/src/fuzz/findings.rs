//! What a search brought, read from what libFuzzer says.

use std::collections::BTreeMap;
use std::fmt;

/// Comes before the path of an input that broke a promise.
pub(super) const WRITTEN: &str = "Test unit written to ";

#[derive(Debug, Default)]
pub(super) struct Findings {
    rows: BTreeMap<String, Row>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Row {
    executions: u64,
    /// Places in the code that the first inputs reached, and those that all did.
    first: u64,
    coverage: u64,
    inputs: usize,
    broken: Vec<Broken>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Broken {
    input: String,
    /// What the panic said.
    said: String,
}

impl Findings {
    /// Adds what libFuzzer said of a target, and how many inputs it has kept.
    pub(super) fn add(&mut self, target: &str, log: &str, inputs: usize) {
        let row = self.rows.entry(target.to_owned()).or_default();
        row.merge(Row::read(log, inputs));
    }

    pub(super) fn join(&mut self, other: Self) {
        for (target, row) in other.rows {
            self.rows.entry(target).or_default().merge(row);
        }
    }

    pub(super) fn broken(&self) -> bool {
        self.rows.values().any(|row| !row.broken.is_empty())
    }
}

impl Row {
    fn read(log: &str, inputs: usize) -> Self {
        let coverage: Vec<u64> = log
            .lines()
            .filter_map(|line| after(line, " cov: "))
            .collect();
        // It counts in the log of a search that was broken off, too.
        let counted = log.lines().filter_map(|line| after(line, "#"));
        let told = log
            .lines()
            .filter_map(|line| after(line, "stat::number_of_executed_units: "));
        let said = log.lines().skip_while(|line| !line.contains("panicked at"));
        let said: Vec<&str> = said.take(3).collect();
        let broken = log.lines().filter_map(|line| line.split_once(WRITTEN));
        Self {
            executions: told.chain(counted).max().unwrap_or(0),
            first: coverage.first().copied().unwrap_or(0),
            coverage: coverage.last().copied().unwrap_or(0),
            inputs,
            broken: broken
                .map(|(_, input)| Broken {
                    input: input.trim().to_owned(),
                    said: said.join(" "),
                })
                .collect(),
        }
    }

    fn merge(&mut self, other: Self) {
        self.executions = self.executions.saturating_add(other.executions);
        self.first = self.first.max(other.first);
        self.coverage = self.coverage.max(other.coverage);
        self.inputs = self.inputs.max(other.inputs);
        self.broken.extend(other.broken);
    }
}

/// Returns the number that stands behind `mark` in a line.
fn after(line: &str, mark: &str) -> Option<u64> {
    let (_, rest) = line.split_once(mark)?;
    let digits = rest.split(|char: char| !char.is_ascii_digit()).next()?;
    digits.parse().ok()
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:20}{:>14}{:>10}{:>10}{:>8}{:>8}",
            "reader", "executions", "seeds'", "coverage", "inputs", "broken"
        )?;
        for (target, row) in &self.rows {
            let Row {
                executions,
                first,
                coverage,
                inputs,
                broken,
            } = row;
            let broken = broken.len();
            writeln!(
                f,
                "{target:20}{executions:>14}{first:>10}{coverage:>10}{inputs:>8}{broken:>8}"
            )?;
        }
        for (target, row) in &self.rows {
            for Broken { input, said } in &row.broken {
                writeln!(
                    f,
                    "\n{target}: {said}\n  cargo xtask fuzz {target} --replay {input}"
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As libFuzzer says it.
    const LOG: &str = "INFO: seed corpus: files: 3 min: 1b max: 9b total: 14b rss: 40Mb\n\
         #4\tINITED cov: 41 ft: 60 corp: 3/14b exec/s: 0 rss: 41Mb\n\
         #900\tNEW    cov: 57 ft: 80 corp: 4/20b lim: 9 exec/s: 0 rss: 41Mb L: 6/9 MS: 1 ChangeByte-\n";

    #[test]
    fn a_search_that_found_nothing_is_a_row_of_numbers() {
        let mut findings = Findings::default();
        let end =
            "#5000\tDONE   cov: 58 ft: 81 corp: 5/21b\nstat::number_of_executed_units: 5001\n";
        findings.add("esp", &format!("{LOG}{end}"), 5);
        assert!(!findings.broken());
        let table = findings.to_string();
        let row = table.lines().last().expect("a row");
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words, ["esp", "5001", "41", "58", "5", "0"], "{table}");
    }

    #[test]
    fn an_input_that_breaks_a_promise_is_told_with_the_line_that_replays_it() {
        let mut findings = Findings::default();
        let end = "thread '<unnamed>' panicked at fuzz/src/readers/esp.rs:9:5:\nit broke\n==1== ERROR: libFuzzer: deadly signal\n\
             artifact_prefix='x/'; Test unit written to /b/fuzz/esp/broken/crash-1\n";
        findings.add("esp", &format!("{LOG}{end}"), 4);
        assert!(findings.broken());
        let table = findings.to_string();
        assert!(table.contains("it broke"), "{table}");
        assert!(
            table.contains("cargo xtask fuzz esp --replay /b/fuzz/esp/broken/crash-1\n"),
            "{table}"
        );
    }
}
