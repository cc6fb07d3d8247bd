//! `cargo xtask bench calls`: how long D-Bus calls wait for their answers while a
//! release is staged.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};

use anyhow::{Context, Result};

use super::goals::{self, Goal};
use super::machine::{load, machine};
use super::peers::{Bistable, Program};
use super::stand::{Channel, Stand};
use super::update;
use crate::checkout::Checkout;
use crate::runner::Runner;
use crate::{host, programs, releases};

/// Milliseconds, as the project has promised.
const LONGEST: f64 = 10.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often the release is staged
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    runs: u8,
}

/// Measures and prints the table.
pub(crate) fn run(checkout: &Checkout, runner: &Runner, arguments: &Arguments) -> Result<()> {
    host::set_up_benches(runner)?;
    let programs = programs::build(checkout, runner)?;
    releases::make_keys(checkout, runner, &programs)?;
    let ours = Bistable::build(checkout, runner, &programs)?;
    let releases = update::first_install(checkout, runner)?;
    let folder = checkout.build().join("bench/update/first-install");
    let stand = Stand::set_up(checkout, runner, &folder, releases, Channel::New)?;
    stand.publish(&ours)?;
    let load = load()?;
    let mut answers = BTreeMap::<String, Vec<f64>>::new();
    for _ in 0..arguments.runs {
        let server = stand.serve(&ours)?;
        for (call, millis) in ours.answer(&stand, &server)? {
            answers.entry(call).or_default().extend(millis);
        }
        server.stop()?;
        ours.check(&stand)?;
    }
    for millis in answers.values_mut() {
        millis.sort_by(f64::total_cmp);
    }
    let report = Report {
        machine: machine()?,
        load,
        runs: arguments.runs,
        answers,
    };
    writeln!(io::stdout(), "{report}").context("cannot print")?;
    goals::expect(&report.goals())
}

/// The answers of each call, the fastest first.
struct Report {
    machine: String,
    load: String,
    runs: u8,
    answers: BTreeMap<String, Vec<f64>>,
}

impl Report {
    fn goals(&self) -> Vec<Goal> {
        let of_call = |(call, millis): (&String, &Vec<f64>)| Goal {
            what: format!("the slowest answer to {call}"),
            found: millis.last().copied().unwrap_or(f64::NAN),
            bound: LONGEST,
            unit: "ms",
        };
        self.answers.iter().map(of_call).collect()
    }
}

/// What this many thousandths of the sorted `values` do not exceed.
fn quantile(values: &[f64], thousandths: usize) -> f64 {
    let at = values.len().saturating_mul(thousandths) / 1000;
    let at = at.min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; load average before: {}", self.machine, self.load)?;
        writeln!(
            f,
            "one caller on a bus without a systemd that would tell units, while 512 MiB are staged over loopback \
             HTTP to a loop device, {} times; milliseconds from call to answer\n",
            self.runs
        )?;
        writeln!(
            f,
            "{:12}{:>8}{:>10}{:>10}{:>10}",
            "", "calls", "half", "p99", "slowest"
        )?;
        for (call, millis) in &self.answers {
            writeln!(
                f,
                "{call:12}{:>8}{:>10.2}{:>10.2}{:>10.2}",
                millis.len(),
                quantile(millis, 500),
                quantile(millis, 990),
                quantile(millis, 1000)
            )?;
        }
        writeln!(f)?;
        for goal in self.goals() {
            writeln!(f, "{goal}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        let at = [500, 990, 1000].map(|thousandths| quantile(&values, thousandths));
        assert_eq!(at, [101.0, 199.0, 200.0]);
        assert!(quantile(&[], 500).is_nan());
    }

    #[test]
    fn one_slow_answer_misses_the_goal_of_its_call() {
        let answers = [("a", vec![1.0, 10.0]), ("b", vec![1.0, 10.1])];
        let report = Report {
            machine: String::new(),
            load: String::new(),
            runs: 1,
            answers: answers
                .map(|(call, millis)| (call.to_owned(), millis))
                .into(),
        };
        let met: Vec<bool> = report.goals().iter().map(Goal::is_met).collect();
        assert_eq!(met, [true, false]);
    }
}
