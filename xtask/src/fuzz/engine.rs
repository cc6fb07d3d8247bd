//! libFuzzer, with all readers in one program that says which code an input reached.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::corpora;
use crate::checkout::Checkout;
use crate::programs::{TARGET, cargo, flags_variable};
use crate::runner::Runner;

/// How the compiler makes a program tell where it went: what cargo-fuzz passes, as far as
/// a stable compiler takes it.
const COVERAGE: &str = "-Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Who takes longer over an input is broken: the slowest takes some milliseconds.
const LONGEST_SECONDS: u64 = 10;
/// Who takes more memory is: all readers have bounds of some MiB.
const MOST_MEMORY_MIB: u64 = 512;

#[derive(Debug)]
pub(super) struct Engine {
    program: PathBuf,
    /// What searches have found, in a folder for each reader.
    found: PathBuf,
    corpora: PathBuf,
}

impl Engine {
    /// Builds it apart from everything else: all of it is compiled with other flags.
    pub(super) fn build(checkout: &Checkout, runner: &Runner) -> Result<Self> {
        let target = checkout.target().join("fuzz");
        let mut build = cargo(checkout);
        build
            .args(["build", "--profile", "fuzz", "--package", "fuzz"])
            .args(["--features", "engine", "--bin", "bistable-fuzz"])
            .args(["--target", TARGET, "--target-dir"])
            .arg(&target)
            .env(flags_variable(), COVERAGE);
        runner.run(&mut build)?;
        Ok(Self {
            program: target.join(TARGET).join("fuzz/bistable-fuzz"),
            found: checkout.build().join("fuzz"),
            corpora: corpora(checkout),
        })
    }

    fn command(&self, target: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("BISTABLE_FUZZ_TARGET", target)
            .arg(format!("-timeout={LONGEST_SECONDS}"))
            .arg(format!("-rss_limit_mb={MOST_MEMORY_MIB}"));
        command
    }

    fn folder(&self, target: &str, name: &str) -> Result<PathBuf> {
        let folder = self.found.join(target).join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// Searches for so many seconds, and returns what libFuzzer said.
    pub(super) fn search(
        &self,
        runner: &Runner,
        target: &str,
        process: usize,
        seconds: u64,
    ) -> Result<String> {
        let path = self.found.join(target).join(format!("log-{process}"));
        let [found, seeds, broken] =
            ["corpus", "seeds", "broken"].map(|name| self.folder(target, name));
        let (found, seeds) = (found?, seeds?);
        let log = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let mut search = self.command(target);
        search
            .env("BISTABLE_FUZZ_SEEDS", &seeds)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", broken?.display()))
            .arg("-print_final_stats=1")
            // Others may be at work on the same folder.
            .arg("-reload=1")
            .arg(&found)
            .arg(&seeds)
            .arg(self.corpora.join(target))
            .stdout(Stdio::null())
            .stderr(log);
        // It exits otherwise when it has found something, which the log says as well.
        let status = runner.status(&mut search)?;
        let log = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let log = String::from_utf8_lossy(&log).into_owned();
        if !status.success() && !log.contains(super::findings::WRITTEN) {
            bail!("the search ended with {status}; see {}", path.display());
        }
        Ok(log)
    }

    /// Returns how many inputs a search has kept by now.
    pub(super) fn found(&self, target: &str) -> Result<usize> {
        let folder = self.folder(target, "corpus")?;
        let listed = fs::read_dir(&folder);
        Ok(listed
            .with_context(|| format!("cannot list {}", folder.display()))?
            .count())
    }

    /// Reads one input; fails when a promise is broken.
    pub(super) fn replay(&self, runner: &Runner, target: &str, input: &Path) -> Result<()> {
        let input =
            fs::canonicalize(input).with_context(|| format!("cannot find {}", input.display()))?;
        runner.run(self.command(target).arg(input))
    }

    /// Copies what reaches new code into the corpus that is kept for ever: as few inputs
    /// as together reach it.
    pub(super) fn keep(&self, runner: &Runner, target: &str) -> Result<()> {
        let mut merge = self.command(target);
        merge
            .args(["-set_cover_merge=1", "-use_counters=0"])
            .arg(self.corpora.join(target))
            .arg(self.folder(target, "corpus")?);
        runner.run(&mut merge)
    }
}
