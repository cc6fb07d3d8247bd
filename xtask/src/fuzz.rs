//! The search for inputs that break what a reader of outside bytes promises.
//!
//! libFuzzer changes inputs at random and keeps those that reach code which none
//! before them did; the targets are those of the crate `fuzz`. What it keeps stays
//! in `build/fuzz/TARGET`, so that a search goes on where the last one stopped.

mod engine;
mod findings;

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use clap::Args;

use self::engine::Engine;
use self::findings::Findings;
use crate::checkout::Checkout;
use crate::host;
use crate::runner::Runner;

/// What a search is asked for.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// The readers to look into; all of them if none is named
    targets: Vec<String>,
    /// For how many minutes in all: each reader gets its share
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// Prints the names of the readers
    #[arg(long, conflicts_with_all = ["replay", "keep"])]
    list: bool,
    /// Reads this input alone, as the one reader that is named
    #[arg(long, value_name = "FILE", conflicts_with = "keep")]
    replay: Option<PathBuf>,
    /// Looks for nothing: puts those inputs found so far that reach code which no input in
    /// fuzz/corpus does there, to be committed
    #[arg(long)]
    keep: bool,
}

/// Does what is asked for.
pub(crate) fn run(checkout: &Checkout, runner: &Runner, asked: &Fuzz) -> Result<()> {
    let all = names(&corpora(checkout))?;
    if asked.list {
        return writeln!(io::stdout(), "{}", all.join("\n")).context("cannot print");
    }
    let targets = chosen(&asked.targets, &all)?;
    if asked.replay.is_some() && targets.len() != 1 {
        bail!("name the one reader that is to read the input");
    }
    host::set_up_fuzzing(runner)?;
    let engine = Engine::build(checkout, runner)?;
    match (&asked.replay, targets.first()) {
        (Some(file), Some(target)) => {
            engine.replay(runner, target, file)?;
            writeln!(io::stdout(), "{target} keeps its promises").context("cannot print")
        }
        _ if asked.keep => targets
            .iter()
            .try_for_each(|target| engine.keep(runner, target)),
        _ => search(&engine, runner, &targets, asked.minutes),
    }
}

/// Inputs that are kept for ever: a folder for each reader.
fn corpora(checkout: &Checkout) -> PathBuf {
    checkout.root().join("fuzz/corpus")
}

fn names(corpora: &Path) -> Result<Vec<String>> {
    let failed = || format!("cannot list {}", corpora.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(corpora).with_context(failed)? {
        let name = entry.with_context(failed)?.file_name();
        names.extend(name.into_string());
    }
    names.sort_unstable();
    Ok(names)
}

fn chosen(asked: &[String], all: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = asked.iter().find(|name| !all.contains(name)) {
        bail!(
            "no reader is called `{unknown}`; there are:\n  {}",
            all.join("\n  ")
        );
    }
    match asked {
        [] => Ok(all.to_vec()),
        asked => Ok(asked.to_vec()),
    }
}

/// A reader to look into, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn<'a> {
    target: &'a str,
    /// Which of the processes that look into it at the same time.
    process: usize,
    seconds: u64,
}

/// Divides the time that so many cores have among the targets.
fn turns(targets: &[String], minutes: u64, cores: usize) -> VecDeque<Turn<'_>> {
    let processes = cores.checked_div(targets.len()).unwrap_or(0).max(1);
    let turns = processes.saturating_mul(targets.len());
    let rounds = u64::try_from(turns.div_ceil(cores.max(1))).unwrap_or(u64::MAX);
    let seconds = minutes.saturating_mul(60).checked_div(rounds).unwrap_or(0);
    let of_process = |process| {
        targets.iter().map(move |target| Turn {
            target,
            process,
            // 0 would be for ever.
            seconds: seconds.max(1),
        })
    };
    (0..processes).flat_map(of_process).collect()
}

fn search(engine: &Engine, runner: &Runner, targets: &[String], minutes: u64) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let waiting = Mutex::new(turns(targets, minutes, cores));
    let next = || {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.pop_front()
    };
    let work = || -> Result<Findings> {
        let mut findings = Findings::default();
        while let Some(turn) = next() {
            let Turn {
                target,
                process,
                seconds,
            } = turn;
            writeln!(io::stderr(), "{target}: {seconds} s").context("cannot print")?;
            let log = engine.search(runner, target, process, seconds)?;
            findings.add(target, &log, engine.found(target)?);
        }
        Ok(findings)
    };
    let parts: Vec<Result<Findings>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined
            .map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut findings = Findings::default();
    for part in parts {
        findings.join(part?);
    }
    write!(io::stdout(), "{findings}").context("cannot print")?;
    if findings.broken() {
        bail!("a promise was broken");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_name_that_is_none_is_answered_with_those_that_are() {
        let all = texts(&["esp", "pack"]);
        let error = chosen(&texts(&["packs"]), &all).expect_err("there is none");
        let said = error.to_string();
        assert!(
            said.contains("`packs`") && said.contains("esp\n  pack"),
            "{said}"
        );
        assert_eq!(chosen(&[], &all).expect("all"), all);
    }

    #[test]
    fn the_minutes_are_shared_by_the_targets_and_fill_all_cores() {
        let targets = texts(&["a", "b", "c"]);
        let shared = turns(&targets, 4, 2);
        assert_eq!(shared.len(), 3);
        assert!(shared.iter().all(|turn| turn.seconds == 120));
        let one = turns(&targets[..1], 4, 2);
        assert_eq!(one.len(), 2, "both cores look into the one");
        assert!(one.iter().all(|turn| turn.seconds == 240));
    }
}
