//! `cargo xtask bench disturb`: what staging does to somebody who writes little and
//! syncs often, as etcd does.
//!
//! fio appends 2300 bytes and waits for them, two hundred times a second (etcd's log under
//! load), on the file system under the disk that is written to: first alone, then
//! beside each program that installs 512 MiB.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::Value;

use super::goals::{self, Goal};
use super::groups::Groups;
use super::machine::{load, machine};
use super::peers::{Bistable, Program, Rauc};
use super::spread::Spread;
use super::stand::{Channel, Stand, log_to};
use super::update;
use crate::checkout::Checkout;
use crate::runner::Runner;
use crate::{host, programs, releases};

/// What the project has promised.
const TIMES_QUIET: f64 = 1.2;
/// As long as a program takes to install, about.
const QUIET: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often each program is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    runs: u8,
}

/// Measures and prints the table.
pub(crate) fn run(checkout: &Checkout, runner: &Runner, arguments: &Arguments) -> Result<()> {
    host::set_up_benches(runner)?;
    let programs = programs::build(checkout, runner)?;
    releases::make_keys(checkout, runner, &programs)?;
    let mut ours = Bistable::build(checkout, runner, &programs)?;
    let releases = update::first_install(checkout, runner)?;
    let folder = checkout.build().join("bench/update/first-install");
    let stand = Stand::set_up(checkout, runner, &folder, releases, Channel::New)?;
    let all: [&dyn Program; 2] = [&ours, &Rauc];
    for program in all {
        stand.publish(program)?;
    }
    let load = load()?;
    let groups = Groups::enter()?;
    if let Some(groups) = &groups {
        ours.beside(groups)?;
    }
    let all: [&dyn Program; 2] = [&ours, &Rauc];
    let writer = Writer::prepare(&folder.join("writer"), groups)?;
    let mut quiet = Row::new("alone".into());
    let mut rows = all
        .iter()
        .map(|program| Ok(Row::new(format!("beside {}", program.version(&stand)?))))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..arguments.runs {
        quiet.latencies.push(writer.beside(runner, || {
            thread::park_timeout(QUIET);
            Ok(())
        })?);
        for (program, row) in all.iter().zip(&mut rows) {
            let server = stand.serve(*program)?;
            let work = || program.install(&stand, &server).map(drop);
            row.latencies.push(writer.beside(runner, work)?);
            server.stop()?;
        }
    }
    rows.insert(0, quiet);
    let report = Report {
        machine: machine()?,
        load,
        gives_way: match &writer.groups {
            Some(_) => "fio and the programs are in control groups of their own, as services are",
            None => "this kernel does not tell who waits for the disk, so nobody can give way",
        },
        runs: arguments.runs,
        rows,
    };
    writeln!(io::stdout(), "{report}").context("cannot print")?;
    goals::expect(&report.goals())
}

/// fio, and where it writes.
struct Writer {
    folder: PathBuf,
    groups: Option<Groups>,
}

/// Milliseconds that half of all syncs, 99 and 99.9 % of them, did not exceed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Latency {
    half: f64,
    p99: f64,
    p999: f64,
}

impl Writer {
    fn prepare(folder: &Path, groups: Option<Groups>) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
            groups,
        })
    }

    /// Writes as long as `work` takes.
    fn beside(&self, runner: &Runner, work: impl FnOnce() -> Result<()>) -> Result<Latency> {
        let answer = self.folder.join("fio.json");
        let mut fio = host_tools::command("fio")?;
        fio.args(["--name=log", "--rw=write", "--bs=2300", "--size=64M"]);
        fio.args(["--ioengine=sync", "--fdatasync=1", "--rate_iops=200"]);
        fio.args(["--time_based", "--runtime=3600", "--output-format=json"]);
        fio.arg(format!("--directory={}", self.folder.display()));
        fio.arg(format!("--output={}", answer.display()));
        if let Some(groups) = &self.groups {
            fio = groups.apart(&fio)?;
        }
        log_to(&mut fio, &self.folder.join("fio.log"))?;
        let fio = runner.background(&mut fio)?;
        let worked = work();
        // It prints what it has measured when it is interrupted.
        fio.end(Signal::INT)?;
        worked?;
        let text = fs::read_to_string(&answer)
            .with_context(|| format!("cannot read {}", answer.display()))?;
        latency(&text).context("fio did not say how long its syncs took")
    }
}

fn latency(answer: &str) -> Option<Latency> {
    // Warnings may stand before the object.
    let json = answer.get(answer.find('{')?..)?;
    let json: Value = serde_json::from_str(json).ok()?;
    let percentiles = json.pointer("/jobs/0/sync/lat_ns/percentile")?;
    let at = |key: &str| Some(percentiles.get(key)?.as_f64()? / 1e6);
    Some(Latency {
        half: at("50.000000")?,
        p99: at("99.000000")?,
        p999: at("99.900000")?,
    })
}

struct Row {
    what: String,
    latencies: Vec<Latency>,
}

impl Row {
    fn new(what: String) -> Self {
        Self {
            what,
            latencies: Vec::new(),
        }
    }

    fn spread(&self, figure: fn(&Latency) -> f64) -> Spread {
        Spread::of(self.latencies.iter().map(figure))
    }

    fn p99(&self) -> Spread {
        self.spread(|latency| latency.p99)
    }
}

/// The quiet row first, then ours, then the others.
struct Report {
    machine: String,
    load: String,
    gives_way: &'static str,
    runs: u8,
    rows: Vec<Row>,
}

impl Report {
    fn goals(&self) -> Vec<Goal> {
        let [quiet, ours, ..] = self.rows.as_slice() else {
            return Vec::new();
        };
        vec![Goal {
            what: format!("p99 of a sync beside staging, {TIMES_QUIET} times quiet"),
            found: ours.p99().median,
            bound: TIMES_QUIET * quiet.p99().median,
            unit: "ms",
        }]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; load average before: {}", self.machine, self.load)?;
        writeln!(
            f,
            "fio appends 2300 bytes and calls fdatasync, 200 times a second, beside a program that installs 512 MiB \
             over loopback HTTP to a loop device on the same file system; {}; {} runs, in turns; milliseconds, \
             median (least to most)\n",
            self.gives_way, self.runs
        )?;
        writeln!(
            f,
            "{:40}{:28}{:28}{:28}p99 to quiet",
            "", "half", "p99", "p99.9"
        )?;
        let quiet = self.rows.first().map_or(f64::NAN, |row| row.p99().median);
        for row in &self.rows {
            writeln!(
                f,
                "{:40}{:28}{:28}{:28}{:.2}",
                row.what,
                row.spread(|latency| latency.half).to_string(),
                row.p99().to_string(),
                row.spread(|latency| latency.p999).to_string(),
                row.p99().median / quiet
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
    fn the_syncs_are_read_and_not_the_writes() {
        let answer = r#"fio: terminating on signal 2
            {"jobs": [{"write": {"lat_ns": {"percentile": {"99.000000": 1}}},
             "sync": {"lat_ns": {"percentile": {"50.000000": 500000, "99.000000": 2000000, "99.900000": 3000000}}}}]}"#;
        let expected = Latency {
            half: 0.5,
            p99: 2.0,
            p999: 3.0,
        };
        assert_eq!(latency(answer), Some(expected));
        assert_eq!(latency("no"), None);
    }

    #[test]
    fn ours_is_held_against_the_quiet_figure() {
        let row = |p99: f64| Row {
            what: String::new(),
            latencies: vec![Latency {
                half: 0.0,
                p99,
                p999: 0.0,
            }],
        };
        let report = |ours| Report {
            machine: String::new(),
            load: String::new(),
            gives_way: "",
            runs: 1,
            rows: vec![row(1.0), row(ours), row(9.0)],
        };
        assert!(report(1.2).goals().iter().all(Goal::is_met));
        assert!(!report(1.3).goals().iter().any(Goal::is_met));
    }
}
