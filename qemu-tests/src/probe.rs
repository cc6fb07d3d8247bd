//! A small program inside the node that looks where D-Bus cannot.
//!
//! It comes on a disk of its own and is reached through a socket unit, both
//! from outside. Its source is `bin/probe.rs`; as the image has its own C
//! library, the harness builds it static.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::deadline::{Deadline, Look};
use crate::smbios::Handed;

/// The node's port behind which the probe is.
pub(crate) const PROBE_PORT: u16 = 7412;

/// The serial number of the disk that carries the probe.
pub const PROBE_DISK: &str = "probe";

/// Where the node has the disk that carries the probe, once somebody needs it.
pub const PROBE_FOLDER: &str = "/run/probe";

/// One attempt to reach the probe; see the bus's.
const ATTEMPT: Duration = Duration::from_secs(20);

/// What the probe is asked to do.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Returns what a file holds.
    Read(&'a str),
    /// Makes a file with this text, and has it reach the disk.
    Write(&'a str, &'a str),
    /// Removes a file.
    Remove(&'a str),
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path) => write!(formatter, "read {path}"),
            Self::Write(path, text) => write!(formatter, "write {path} {text}"),
            Self::Remove(path) => write!(formatter, "remove {path}"),
        }
    }
}

/// Builds the probe into `folder` and returns its path.
///
/// # Errors
///
/// Fails with what the compiler says.
pub fn build(folder: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/probe.rs");
    let program = folder.join("probe");
    let output = Command::new("rustc")
        .args([
            "--edition",
            "2024",
            "-C",
            "opt-level=s",
            "-C",
            "strip=symbols",
            "-C",
            "panic=abort",
        ])
        .args(["-C", "target-feature=+crt-static", "-o"])
        .args([&program, &source])
        .output()
        .context("cannot run rustc")?;
    if !output.status.success() {
        bail!(
            "cannot build {}: {}",
            source.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(program)
}

/// Makes the disk that carries the probe and, beside it, other programs, each by the
/// name that it gets in [`PROBE_FOLDER`].
///
/// # Errors
///
/// Fails when dosfstools or mtools do.
pub fn disk(folder: &Path, probe: &Path, others: &[(&str, &Path)]) -> Result<PathBuf> {
    let disk = folder.join("probe.vfat");
    // Large enough for mkfs.vfat to choose FAT16 by itself.
    fs::File::create(&disk)
        .and_then(|file| file.set_len(16 << 20))
        .with_context(|| format!("cannot make {}", disk.display()))?;
    run(host_tools::command("mkfs.vfat")?.arg(&disk))?;
    for (name, program) in [("probe", probe)].iter().chain(others) {
        run(host_tools::command("mcopy")?
            .arg("-i")
            .arg(&disk)
            .arg(program)
            .arg(format!("::{name}")))?;
    }
    Ok(disk)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Adds the probe's units to what is handed in.
#[must_use]
pub fn hand_in(handed: Handed) -> Handed {
    let mount = format!(
        "[Unit]\nDescription=The probe's disk\n\
         [Mount]\nWhat=/dev/disk/by-id/virtio-{PROBE_DISK}\nWhere={PROBE_FOLDER}\nType=vfat\nOptions=ro\n"
    );
    let socket = format!(
        "[Unit]\nDescription=The way in to the probe\n\
         [Socket]\nListenStream=0.0.0.0:{PROBE_PORT}\nAccept=yes\n"
    );
    let service = "[Unit]\nDescription=The probe\nRequiresMountsFor=/run/probe\nCollectMode=inactive-or-failed\n\
         [Service]\nExecStart=/run/probe/probe\nStandardInput=socket\nStandardOutput=socket\nStandardError=journal\n";
    handed
        .unit("run-probe.mount", &mount)
        .unit("probe.socket", &socket)
        .unit("probe@.service", service)
        .wanted_by("sockets.target", "probe.socket")
}

/// Asks the probe behind the host's `port`, trying again until it answers.
pub(crate) async fn ask(port: u16, request: &Request<'_>, deadline: Deadline) -> Result<String> {
    let answer = deadline
        .until(format_args!("the probe to {request}"), async || {
            Ok(
                match tokio::time::timeout(ATTEMPT, attempt(port, request)).await {
                    Ok(Ok(answer)) => Look::Found(answer),
                    Ok(Err(error)) => Look::NotYet(format!("{error:#}")),
                    Err(_elapsed) => Look::NotYet("the node does not answer".into()),
                },
            )
        })
        .await?;
    match answer.split_once('\n') {
        Some(("ok", content)) => Ok(content.into()),
        Some((error, _)) => bail!("cannot {request}: {error}"),
        None => bail!("cannot {request}: the probe said {answer:?}"),
    }
}

async fn attempt(port: u16, request: &Request<'_>) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("{request}\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.is_empty() {
        bail!("the connection was closed");
    }
    Ok(answer)
}
