//! `cargo xtask bench verity`: hash tree throughput beside `veritysetup`.
//!
//! Whole processes on the same file, in turns, so that what else the machine
//! does hits both alike. The file is in the page cache, so it is the hashing
//! that is measured, not the disk.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::machine::{load, machine};
use crate::checkout::Checkout;
use crate::programs;
use crate::runner::Runner;

const DATA_SIZE: u64 = 1 << 30;
/// What the project has promised, on 2 cores.
const GOAL: f64 = 1.8;
const SALT: &str = "--salt=6269737461626c652d62656e63682d76657269747900000000000000000000ff";
const UUID: &str = "--uuid=ce93f9b2-4b0a-44c0-ae93-0d4fbf5e8b43";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How often each program does each job
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..=50))]
    runs: u8,
}

/// Measures both programs and prints the table.
pub(crate) fn run(checkout: &Checkout, runner: &Runner, arguments: Arguments) -> Result<()> {
    let mut cargo = programs::cargo(checkout);
    runner.run(cargo.args(["build", "--release", "--quiet", "--package", "verity"]))?;
    let ours = checkout.target().join("release/bistable-verity");
    let folder = checkout.build().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let data = folder.join("verity-data");
    make_data(&data)?;

    let peers = [
        Program::new(
            "veritysetup",
            host_tools::find("veritysetup")?,
            &folder,
            runner,
        ),
        Program::new("bistable-verity", ours, &folder, runner),
    ];
    // Two threads beside others' work gain less than one: say so with the figures.
    let load = load()?;
    let mut results = [Measured::default(), Measured::default()];
    // The first round warms the cache and proves that both do the same work.
    let mut root_hashes = Vec::new();
    for program in &peers {
        let root_hash = program.format(&data)?.1;
        program.verify(&data, &root_hash)?;
        root_hashes.push(root_hash);
    }
    let [theirs, own] = &peers;
    ensure!(
        root_hashes
            .windows(2)
            .all(|pair| pair.first() == pair.last()),
        "the root hashes differ: {root_hashes:?}"
    );
    ensure!(
        read(&theirs.hash)? == read(&own.hash)?,
        "the hash areas {} and {} differ",
        theirs.hash.display(),
        own.hash.display()
    );
    let root_hash = root_hashes.first().context("no program was run")?;
    for _ in 0..arguments.runs {
        for (program, measured) in peers.iter().zip(&mut results) {
            measured.format.push(program.format(&data)?.0);
        }
        for (program, measured) in peers.iter().zip(&mut results) {
            measured.verify.push(program.verify(&data, root_hash)?);
        }
    }
    let report = Report {
        load,
        versions: peers.iter().map(Program::version).collect::<Result<_>>()?,
        machine: machine()?,
        runs: arguments.runs,
        results,
    };
    write!(io::stdout(), "{report}").context("cannot print")?;
    let missed = report.missed();
    ensure!(
        missed.is_empty(),
        "the goal of {GOAL} times veritysetup's speed is missed: {}",
        missed.join(", ")
    );
    Ok(())
}

struct Program<'a> {
    name: &'static str,
    path: PathBuf,
    hash: PathBuf,
    runner: &'a Runner,
}

impl<'a> Program<'a> {
    fn new(name: &'static str, path: PathBuf, folder: &Path, runner: &'a Runner) -> Self {
        let hash = folder.join(format!("verity-hash.{name}"));
        Self {
            name,
            path,
            hash,
            runner,
        }
    }

    fn version(&self) -> Result<String> {
        let version = self
            .runner
            .output(Command::new(&self.path).arg("--version"))?;
        Ok(version
            .lines()
            .next()
            .unwrap_or(self.name)
            .trim()
            .to_owned())
    }

    /// Builds the hash area anew; returns how long it took, and the root hash.
    fn format(&self, data: &Path) -> Result<(Duration, String)> {
        if let Err(error) = fs::remove_file(&self.hash)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("cannot remove {}", self.hash.display()));
        }
        let mut format = Command::new(&self.path);
        format
            .arg("format")
            .args([data, &self.hash])
            .args([SALT, UUID]);
        let start = Instant::now();
        let output = self.runner.output(&mut format)?;
        let elapsed = start.elapsed();
        let root_hash = output
            .lines()
            .find_map(|line| line.strip_prefix("Root hash:"))
            .with_context(|| format!("{} printed no root hash", self.name))?;
        Ok((elapsed, root_hash.trim().to_owned()))
    }

    fn verify(&self, data: &Path, root_hash: &str) -> Result<Duration> {
        let mut verify = Command::new(&self.path);
        verify.arg("verify").args([data, &self.hash]).arg(root_hash);
        let start = Instant::now();
        self.runner.output(&mut verify)?;
        Ok(start.elapsed())
    }
}

#[derive(Default)]
struct Measured {
    format: Vec<Duration>,
    verify: Vec<Duration>,
}

struct Report {
    load: String,
    versions: Vec<String>,
    machine: String,
    runs: u8,
    results: [Measured; 2],
}

impl Report {
    /// Returns each job with what both took for it.
    fn rows(&self) -> [Row; 2] {
        let [theirs, own] = &self.results;
        [
            Row::new("build", &theirs.format, &own.format),
            Row::new("check", &theirs.verify, &own.verify),
        ]
    }

    /// Returns the jobs whose ratio is below the goal.
    fn missed(&self) -> Vec<&'static str> {
        self.rows()
            .iter()
            .filter(|row| !row.meets_the_goal())
            .map(|row| row.job)
            .collect()
    }
}

/// One job, as both do it.
struct Row {
    job: &'static str,
    theirs: Spread,
    own: Spread,
}

impl Row {
    fn new(job: &'static str, theirs: &[Duration], own: &[Duration]) -> Self {
        Self {
            job,
            theirs: Spread::of(theirs),
            own: Spread::of(own),
        }
    }

    fn ratio(&self) -> f64 {
        self.theirs.median / self.own.median
    }

    /// Says no as well where nothing was measured, whose ratio is no number.
    fn meets_the_goal(&self) -> bool {
        self.ratio() >= GOAL
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "{}", self.versions.join("; "))?;
        writeln!(
            f,
            "load average before: {} (above 0.5, the ratios come out too low)",
            self.load
        )?;
        writeln!(
            f,
            "1 GiB file in the page cache, 4096-byte blocks, sha256, 32-byte salt; \
             {} runs each, in turns; median (fastest to slowest)\n",
            self.runs
        )?;
        writeln!(
            f,
            "{:8}{:34}{:34}ratio",
            "", "veritysetup", "bistable-verity"
        )?;
        for row in self.rows() {
            let verdict = if row.meets_the_goal() {
                "met"
            } else {
                "MISSED"
            };
            writeln!(
                f,
                "{:8}{:34}{:34}{:.2} (goal {GOAL}: {verdict})",
                row.job,
                row.theirs.to_string(),
                row.own.to_string(),
                row.ratio()
            )?;
        }
        Ok(())
    }
}

/// Seconds.
struct Spread {
    fastest: f64,
    median: f64,
    slowest: f64,
}

impl Spread {
    fn of(times: &[Duration]) -> Self {
        let mut seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
        seconds.sort_by(f64::total_cmp);
        let at = |index: usize| seconds.get(index).copied().unwrap_or(f64::NAN);
        Self {
            fastest: at(0),
            median: at(seconds.len() / 2),
            slowest: at(seconds.len().saturating_sub(1)),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            fastest,
            median,
            slowest,
        } = self;
        // 2^30 bytes, in units of 10^6.
        let megabytes = 1_073.741_824 / median;
        write!(f, "{megabytes:.0} MB/s ({fastest:.3} to {slowest:.3} s)")
    }
}

/// Writes a file that no cache, hole or compression makes easier than an image.
fn make_data(path: &Path) -> Result<()> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() == DATA_SIZE) {
        return Ok(());
    }
    let context = || format!("cannot write {}", path.display());
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).with_context(context)?);
    // xorshift64: https://www.jstatsoft.org/article/view/v008i14
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..DATA_SIZE / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes()).with_context(context)?;
    }
    file.flush().with_context(context)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(theirs: [u64; 2], own: [u64; 2]) -> Report {
        let measured = |[format, verify]: [u64; 2]| Measured {
            format: vec![Duration::from_millis(format)],
            verify: vec![Duration::from_millis(verify)],
        };
        Report {
            load: "0.1".into(),
            versions: vec![],
            machine: String::new(),
            runs: 1,
            results: [measured(theirs), measured(own)],
        }
    }

    #[test]
    fn a_job_below_the_goal_is_missed_and_one_at_it_is_not() {
        let report = report([1800, 1799], [1000, 1000]);
        assert_eq!(report.missed(), ["check"]);
        let shown = report.to_string();
        assert!(shown.contains("1.80 (goal 1.8: met)"), "{shown}");
        assert!(shown.contains("(goal 1.8: MISSED)"), "{shown}");
    }
}
