//! What must be installed on the machine that builds and tests.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use host_tools::{BENCH_PACKAGES, FUZZ_PACKAGES, PACKAGES, Package};

use crate::runner::Runner;

/// Installs what building and testing need and is missing, or says how to.
pub(crate) fn set_up(runner: &Runner) -> Result<()> {
    install(runner, &PACKAGES)
}

/// The same with what the benches beside other updaters need.
pub(crate) fn set_up_benches(runner: &Runner) -> Result<()> {
    install(runner, &PACKAGES)?;
    install(runner, &BENCH_PACKAGES)
}

/// The same with what the search for inputs that break a reader needs.
pub(crate) fn set_up_fuzzing(runner: &Runner) -> Result<()> {
    install(runner, &PACKAGES)?;
    install(runner, &FUZZ_PACKAGES)
}

fn install(runner: &Runner, packages: &'static [Package]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let install = ["install", "--yes", "--quiet", "--no-install-recommends"];
    if !is_root(runner)? {
        bail!(
            "some packages are missing; install them and try again:\n  sudo apt-get update && sudo apt-get {} {}",
            install.join(" "),
            missing.join(" ")
        );
    }
    // It takes a minute or two, of which apt itself is to say nothing.
    writeln!(io::stderr(), "installing {}", missing.join(" ")).context("cannot print")?;
    let mut apt = host_tools::command("apt-get")?;
    runner.run(apt.arg("update").arg("--quiet").stdout(Stdio::null()))?;
    let mut apt = host_tools::command("apt-get")?;
    apt.args(install)
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    runner
        .run(&mut apt)
        .with_context(|| format!("cannot install {}", missing.join(" ")))
}

/// Returns the packages that are missing, as this machine's release names them.
///
/// A program counts as there when it can be found, whatever brought it; dpkg is
/// asked only for what has none.
fn missing(packages: &'static [Package]) -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    let mut without_program = Vec::new();
    for package in packages {
        let there = |program: &&str| host_tools::find(program).is_ok();
        if package.programs.is_empty() {
            without_program.push(package);
        } else if !package.programs.iter().all(there) {
            missing.push(package.name());
        }
    }
    missing.extend(not_installed(&without_program)?);
    missing.sort_unstable();
    missing.dedup();
    Ok(missing)
}

/// Returns those packages that dpkg does not know as installed.
fn not_installed(packages: &[&'static Package]) -> Result<Vec<&'static str>> {
    let Ok(mut query) = host_tools::command("dpkg-query") else {
        let list: Vec<String> = packages
            .iter()
            .map(|package| format!("  {}: {}", package.name(), package.why))
            .collect();
        bail!("this is no Debian; install what gives\n{}", list.join("\n"));
    };
    let output = query
        .args([
            "--show",
            "--showformat",
            "${Package} ${db:Status-Status}\\n",
        ])
        .args(packages.iter().map(|package| package.name()))
        .stderr(Stdio::null())
        .output()
        .context("cannot ask dpkg what is installed")?;
    // It exits 1 when it has never heard of one of them: that is an answer here.
    let known = String::from_utf8_lossy(&output.stdout);
    Ok(packages
        .iter()
        .map(|package| package.name())
        .filter(|name| {
            !known
                .lines()
                .any(|line| line == format!("{name} installed"))
        })
        .collect())
}

fn is_root(runner: &Runner) -> Result<bool> {
    Ok(runner.output(Command::new("id").arg("-u"))?.trim() == "0")
}
