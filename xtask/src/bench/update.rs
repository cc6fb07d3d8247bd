//! `cargo xtask bench update`: what an update costs, beside the field's updaters.
//!
//! All programs install the same root image and kernel from the same web server on
//! the loopback interface to the same disk, in turns, so that what else the machine
//! does hits all alike. Each starts from a slot full of zeros, and is done when all is on
//! the disk.

use std::fmt;
use std::io::{self, Write as _};

use anyhow::{Context, Result};

use super::disk::size;
use super::goals::{self, Goal};
use super::machine::{load, machine};
use super::material::{self, Recipe, Release};
use super::measure::Cost;
use super::peers::{Bistable, Curl, Program, peers};
use super::spread::Spread;
use super::stand::{Channel, Stand};
use crate::checkout::Checkout;
use crate::runner::Runner;
use crate::{host, programs, releases};

/// What the project has promised: no slower than the fastest peer, and not much than this.
const TIMES_THE_FLOOR: f64 = 1.2;
/// Megabytes of memory, whatever the size of the image.
const MEMORY: f64 = 40.0;
const MEGA: f64 = 1e6;

/// The image of the first install, and what the node runs before.
pub(crate) const LARGE: Recipe = Recipe {
    version: "2.0",
    seed: 0x9e37_79b9_7f4a_7c15,
    bytes: 512 << 20,
};
pub(crate) const BEFORE: Recipe = Recipe {
    version: "1.0",
    seed: 0xd1b5_4a32_d192_ed03,
    bytes: 64 << 20,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often each program installs each release
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    runs: u8,
    /// Only one of the two scenarios
    #[arg(long)]
    only: Option<Scenario>,
    /// No peers and no goals: what a change makes of ours
    #[arg(long)]
    ours: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    /// 512 MiB that have nothing in common with what the node runs
    FirstInstall,
    /// Debian 13 without its updates and security suites, and with them
    SecurityUpdate,
}

/// Measures all programs and prints the tables.
pub(crate) fn run(checkout: &Checkout, runner: &Runner, arguments: &Arguments) -> Result<()> {
    host::set_up_benches(runner)?;
    let programs = programs::build(checkout, runner)?;
    releases::make_keys(checkout, runner, &programs)?;
    let ours = Bistable::build(checkout, runner, &programs)?;
    let folder = checkout.build().join("bench/update");
    let mut goals = Vec::new();
    for scenario in [Scenario::FirstInstall, Scenario::SecurityUpdate] {
        if arguments.only.is_some_and(|only| only != scenario) {
            continue;
        }
        let (name, releases, channel) = match scenario {
            Scenario::FirstInstall => (
                "first-install",
                first_install(checkout, runner)?,
                Channel::New,
            ),
            Scenario::SecurityUpdate => (
                "security-update",
                material::security_update(checkout, runner, &programs)?,
                Channel::OfTheBooted,
            ),
        };
        let stand = Stand::set_up(checkout, runner, &folder.join(name), releases, channel)?;
        let report = measure(&stand, scenario, &ours, arguments)?;
        goals.extend(report.goals());
        writeln!(io::stdout(), "{report}").context("cannot print")?;
    }
    goals::expect(&goals)
}

/// Returns the made release of the first install, and the one that is booted before it.
pub(crate) fn first_install(checkout: &Checkout, runner: &Runner) -> Result<[Release; 2]> {
    let folder = checkout.build().join("bench/images");
    Ok([
        material::make(checkout, runner, &folder.join("before"), BEFORE)?,
        material::make(checkout, runner, &folder.join("large"), LARGE)?,
    ])
}

fn measure(
    stand: &Stand<'_>,
    scenario: Scenario,
    ours: &Bistable,
    arguments: &Arguments,
) -> Result<Report> {
    let Arguments {
        runs,
        ours: ours_alone,
        ..
    } = *arguments;
    let peers = peers();
    let mut all: Vec<&dyn Program> = vec![ours];
    all.extend(peers.iter().map(AsRef::as_ref));
    all.push(&Curl);
    if ours_alone {
        all.truncate(1);
    }
    for program in &all {
        stand.publish(*program)?;
    }
    let load = load()?;
    let mut rows = all
        .iter()
        .map(|program| {
            // The first round warms the cache of the server, and counts for nothing.
            stand.measure(*program)?;
            Ok(Row {
                version: program.version(stand)?,
                notes: program.notes(),
                costs: Vec::new(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..runs {
        for (program, row) in all.iter().zip(&mut rows) {
            row.costs.push(stand.measure(*program)?);
        }
    }
    Ok(Report {
        scenario,
        sizes: [size(&stand.next.root())?, size(&stand.next.uki())?],
        machine: machine()?,
        load,
        runs,
        rows,
    })
}

/// One scenario: ours first, the floor last, the peers between them.
struct Report {
    scenario: Scenario,
    sizes: [u64; 2],
    machine: String,
    load: String,
    runs: u8,
    rows: Vec<Row>,
}

struct Row {
    version: String,
    notes: &'static str,
    costs: Vec<Cost>,
}

impl Row {
    fn wall(&self) -> Spread {
        Spread::of(self.costs.iter().map(|cost| cost.wall))
    }

    fn processor(&self) -> Spread {
        Spread::of(self.costs.iter().map(|cost| cost.processor))
    }

    fn memory(&self) -> Spread {
        Spread::of(self.costs.iter().map(|cost| mega(cost.memory)))
    }

    fn fetched(&self) -> Spread {
        Spread::of(self.costs.iter().map(|cost| mega(cost.fetched)))
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "two digits after the point are shown"
)]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / MEGA
}

impl Report {
    fn goals(&self) -> Vec<Goal> {
        let [ours, peers @ .., floor] = self.rows.as_slice() else {
            return Vec::new();
        };
        let least = |figure: fn(&Row) -> Spread| {
            let medians = peers.iter().map(|row| figure(row).median);
            medians.fold(f64::INFINITY, f64::min)
        };
        let goal = |what: &str, found: Spread, bound: f64, unit| Goal {
            what: format!("{}: {what}", self.scenario.name()),
            found: found.median,
            bound,
            unit,
        };
        vec![
            goal(
                "time of the fastest peer",
                ours.wall(),
                least(Row::wall),
                "s",
            ),
            goal(
                &format!("{TIMES_THE_FLOOR} times curl | tee | sha256sum"),
                ours.wall(),
                TIMES_THE_FLOOR * floor.wall().median,
                "s",
            ),
            goal("memory", ours.memory(), MEMORY, "MB"),
            goal(
                "bytes of the most frugal peer",
                ours.fetched(),
                least(Row::fetched),
                "MB",
            ),
        ]
    }
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Self::FirstInstall => "first install",
            Self::SecurityUpdate => "security update",
        }
    }

    fn material(self) -> &'static str {
        match self {
            Self::FirstInstall => {
                "made: of eight stretches of 64 KiB three are noise, four are words, one is zeros; \
                 the booted release shares nothing but the zeros"
            }
            Self::SecurityUpdate => {
                "Debian 13 without its updates and security suites is booted, with them is installed; both made by \
                 the image builder now"
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [root, kernel] = self.sizes.map(mega);
        let scenario = self.scenario;
        writeln!(
            f,
            "{}: root image {root:.1} MB, kernel {kernel:.1} MB",
            scenario.name()
        )?;
        writeln!(f, "{}", scenario.material())?;
        writeln!(f, "{}; load average before: {}", self.machine, self.load)?;
        writeln!(
            f,
            "{} runs each, in turns, nginx on the loopback interface to a loop device with direct I/O; median \
             (least to most); MB are 10^6 bytes\n",
            self.runs
        )?;
        writeln!(
            f,
            "{:32}{:>11}  {:24}{:>12}{:>16}",
            "", "fetched MB", "wall s", "processor s", "peak memory MB"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:32}{:>11.2}  {:24}{:>12.2}{:>16.1}",
                row.version,
                row.fetched().median,
                row.wall().to_string(),
                row.processor().median,
                row.memory().median
            )?;
        }
        writeln!(f)?;
        for row in &self.rows {
            let program = row.version.split(' ').next().unwrap_or_default();
            writeln!(f, "{program}: {}", row.notes)?;
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

    fn row(version: &str, wall: f64, fetched: u64) -> Row {
        let cost = Cost {
            wall,
            processor: 1.0,
            memory: 40_000_000,
            fetched,
        };
        Row {
            version: version.into(),
            notes: "",
            costs: vec![cost],
        }
    }

    #[test]
    fn ours_is_held_against_the_best_of_the_peers_and_the_floor() {
        let report = Report {
            scenario: Scenario::FirstInstall,
            sizes: [1, 1],
            machine: String::new(),
            load: String::new(),
            runs: 1,
            rows: vec![
                row("ours 1", 2.0, 100),
                row("slow 1", 4.0, 99),
                row("fast 1", 3.0, 300),
                row("floor 1", 1.0, 1),
            ],
        };
        let met: Vec<bool> = report.goals().iter().map(Goal::is_met).collect();
        assert_eq!(met, [true, false, true, false]);
        assert_eq!(report.to_string().matches("MISSED").count(), 2, "{report}");
    }
}
