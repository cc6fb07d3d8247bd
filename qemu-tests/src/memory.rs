//! What the updater costs a node in memory, as the node's kernel counts it.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::bus::Bus;
use crate::node::Node;
use crate::probe::Request;

/// Bytes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The most that the daemon has had resident so far (`VmHWM`).
    pub peak: u64,
    /// The page cache that is charged to it now.
    pub cache: u64,
}

impl Memory {
    /// Reads both, with the probe.
    ///
    /// # Errors
    ///
    /// Fails when the daemon does not run, or the kernel does not say.
    pub async fn of_updater(node: &Node, bus: &Bus) -> Result<Self> {
        let service = bus.unit(UNIT, "Service").await?;
        let process = service
            .get("MainPID")
            .and_then(Value::as_u64)
            .filter(|process| *process > 0)
            .context("the updater does not run")?;
        let group = service
            .get("ControlGroup")
            .and_then(Value::as_str)
            .context("the updater has no control group")?;
        let status = format!("/proc/{process}/status");
        let statistics = format!("/sys/fs/cgroup{group}/memory.stat");
        let status = node.probe(&Request::Read(&status)).await?;
        let statistics = node.probe(&Request::Read(&statistics)).await?;
        Self::parse(&status, &statistics)
            .with_context(|| format!("the kernel does not say: {status}\n{statistics}"))
    }

    fn parse(status: &str, statistics: &str) -> Option<Self> {
        let number = |text: &str, key: &str| -> Option<u64> {
            let mut words = text.lines().find_map(|line| {
                let mut words = line.split_whitespace();
                (words.next()? == key).then_some(words)
            })?;
            words.next()?.parse().ok()
        };
        Some(Self {
            peak: number(status, "VmHWM:")? * 1024,
            cache: number(statistics, "file")?,
        })
    }
}

/// The updater's unit.
pub const UNIT: &str = "bistable-updater.service";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_read_in_bytes() {
        let status = "Name:\tbistable-update\nVmPeak:\t  300000 kB\nVmHWM:\t   15672 kB\n";
        let statistics = "anon 4096\nfile_mapped 1\nfile 15335424\n";
        let expected = Memory {
            peak: 15672 * 1024,
            cache: 15_335_424,
        };
        assert_eq!(Memory::parse(status, statistics), Some(expected));
        assert_eq!(Memory::parse(status, "file_mapped 1\n"), None);
    }
}
