//! What did the work: a figure without its machine says nothing.

use std::fs;

use anyhow::{Context, Result};

/// Returns the processor, how many, what helps them with SHA-256, and the kernel.
pub(crate) fn machine() -> Result<String> {
    let info = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let field = |names: &[&str]| {
        info.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| names.contains(&name.trim()))
            .map_or("", |(_, value)| value.trim())
    };
    let features: Vec<&str> = field(&["flags", "Features"])
        .split_whitespace()
        .filter(|flag| ["sha_ni", "sha2", "sse4_1", "avx2"].contains(flag))
        .collect();
    let cores = std::thread::available_parallelism().context("cannot count the cores")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(format!(
        "{cores} cores, {} ({}); Linux {}",
        field(&["model name", "CPU implementer"]),
        features.join(" "),
        kernel.trim()
    ))
}

/// Returns how many want to run, on average of the last minute.
pub(crate) fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
