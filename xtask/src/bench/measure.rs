//! What a program cost: how long it took, how much processor, how much memory.
//!
//! The processor's time is that of all processes which this one has waited for (a
//! command's children are waited for by the command, what it leaves behind by us).
//! Work that the kernel does later and for nobody, such as writing back a page
//! cache, is in none of the figures but the time that the sync takes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often the memory is looked at. Each process keeps its own highest mark, so
/// only the last moments of one can be missed.
const INTERVAL: Duration = Duration::from_millis(10);
/// What `/proc` counts the processor's time in: a part of the kernel's interface on
/// every architecture that we know.
const TICKS: f64 = 100.0;

/// What one run of a program took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Seconds, from the start to when all is on the disk.
    pub(crate) wall: f64,
    /// Seconds, of all processes.
    pub(crate) processor: f64,
    /// Bytes: the most that all processes together had at one time.
    pub(crate) memory: u64,
    /// Bytes that the server sent, without headers.
    pub(crate) fetched: u64,
}

/// Processes that serve everybody and are nobody's cost.
pub(crate) type Bystanders = BTreeSet<u32>;

/// A measurement at work.
#[derive(Debug)]
pub(crate) struct Watch {
    before: f64,
    over: Sender<()>,
    sampler: JoinHandle<u64>,
}

impl Watch {
    pub(crate) fn start(bystanders: Bystanders) -> Result<Self> {
        let (over, ended) = channel();
        let sampler = thread::Builder::new()
            .name("memory".into())
            .spawn(move || {
                let mut most = 0;
                while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(INTERVAL) {
                    most = most.max(memory(&bystanders));
                }
                most
            })
            .context("cannot start a thread")?;
        Ok(Self {
            before: children_seconds()?,
            over,
            sampler,
        })
    }

    /// Returns seconds of the processor, and bytes. Whatever is to count has ended.
    pub(crate) fn stop(self) -> Result<(f64, u64)> {
        let processor = children_seconds()? - self.before;
        drop(self.over);
        let memory = self.sampler.join();
        Ok((
            processor,
            memory.ok().context("the measuring thread has died")?,
        ))
    }
}

/// Does `work` and returns how many seconds it took.
pub(crate) fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Waits until `holds`, for ten seconds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        anyhow::ensure!(Instant::now() < deadline, "{what} does not come");
        thread::park_timeout(INTERVAL);
    }
    Ok(())
}

/// The processor's time of those children that have been waited for, and of theirs.
fn children_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    waited_for(&text).context("/proc/self/stat is not what it should be")
}

/// cutime and cstime of proc_pid_stat(5).
fn waited_for(stat: &str) -> Option<f64> {
    let mut fields = after_name(stat)?.split_ascii_whitespace().skip(13);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS)
}

/// A process may have any name, with spaces and brackets in it.
fn after_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest)
}

/// Adds up what our descendants have, each by its highest mark, and without those
/// that stand by.
fn memory(bystanders: &Bystanders) -> u64 {
    let parents: BTreeMap<u32, u32> = processes().collect();
    let measured = descendants(std::process::id(), &parents, bystanders);
    let held = measured.filter_map(|process| Some((program(process)?, held(process)?)));
    together(held)
}

/// What a process has.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// Bytes, the most so far.
    most: u64,
    /// Bytes that are pages of files, its program's above all.
    files: u64,
}

/// Adds up what processes have. Those of one program share the pages of its files.
fn together<P: Ord>(all: impl Iterator<Item = (P, Held)>) -> u64 {
    let mut shared: BTreeMap<P, u64> = BTreeMap::new();
    let mut sum = 0;
    for (program, Held { most, files }) in all {
        sum += most;
        let largest = shared.entry(program).or_default();
        sum -= files.min(*largest);
        *largest = files.max(*largest);
    }
    sum
}

/// Those that `ancestor` has started, by however many steps, but for the bystanders and
/// what they have started.
fn descendants<'map>(
    ancestor: u32,
    parents: &'map BTreeMap<u32, u32>,
    bystanders: &'map Bystanders,
) -> impl Iterator<Item = u32> + 'map {
    let is_measured = move |mut process: u32| {
        while process != ancestor {
            match parents.get(&process) {
                Some(parent) if !bystanders.contains(&process) => process = *parent,
                Some(_) | None => return false,
            }
        }
        true
    };
    let others = parents.keys().copied();
    others.filter(move |process| *process != ancestor && is_measured(*process))
}

fn processes() -> impl Iterator<Item = (u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = after_name(&stat)?.split_ascii_whitespace().nth(1)?;
        Some((process, parent.parse().ok()?))
    })
}

fn program(process: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/exe")).ok()
}

fn held(process: u32) -> Option<Held> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let bytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        Some(kibibytes.saturating_mul(1024))
    };
    Some(Held {
        most: bytes("VmHWM:")?,
        files: bytes("RssFile:")?,
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b)) S 1 7 7 0 -1 0 1 2 3 4 500 600 70 30 20 0 1 0";
        assert_eq!(waited_for(stat), Some(1.0));
    }

    #[test]
    fn what_a_child_has_started_counts_unless_the_child_stands_by() {
        let parents = BTreeMap::from([(7, 1), (8, 7), (9, 8), (10, 7), (11, 1)]);
        let of_seven =
            |bystanders: Bystanders| descendants(7, &parents, &bystanders).collect::<Vec<_>>();
        assert_eq!(of_seven(Bystanders::new()), [8, 9, 10]);
        assert_eq!(of_seven(Bystanders::from([8])), [10]);
    }

    #[test]
    fn the_pages_of_a_program_that_runs_twice_count_once() {
        let held = |most, files| Held { most, files };
        let of = |all: &[(&str, Held)]| together(all.iter().copied());
        assert_eq!(of(&[("a", held(10, 4)), ("b", held(20, 5))]), 30);
        assert_eq!(of(&[("a", held(10, 4)), ("a", held(20, 5))]), 26);
        assert_eq!(of(&[("a", held(20, 5)), ("a", held(10, 4))]), 26);
    }

    #[test]
    fn a_running_child_is_found_with_its_memory() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .spawn()
            .expect("cat");
        let parent = processes().find(|(process, _)| *process == child.id());
        assert_eq!(parent, Some((child.id(), std::process::id())));
        assert!(held(child.id()).expect("it runs").most > 0);
        drop(child.stdin.take());
        child.wait().expect("it ends");
    }
}
