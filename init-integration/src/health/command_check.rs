//! A check that a command exits with 0.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;

use super::look::{Ailment, Look};

/// How much of the end of its output is kept, in bytes.
const KEPT: usize = 4096;

/// How many of its last lines are shown.
const LINES: usize = 20;

/// Runs `argv`, without a shell, and looks how it exits. It is done when it has
/// exited and nobody holds its output open. Dropping the look ends it with all its children.
pub(super) async fn look(argv: &[String]) -> Look {
    let Some((program, arguments)) = argv.split_first() else {
        return Look::ill("names no program");
    };
    match run(program, arguments).await {
        Ok((status, _)) if status.success() => Look::Well,
        Ok((status, output)) => Look::Ill(Ailment {
            unit: None,
            reason: format!("{program}: {status}"),
            lines: last_lines(&output),
        }),
        Err(error) => Look::ill(format!("cannot run {program}: {error}")),
    }
}

async fn run(program: &str, arguments: &[String]) -> io::Result<(ExitStatus, Vec<u8>)> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut child = command.spawn()?;
    // The command holds the writing end; without this, so would we, for ever.
    drop(command);
    let group = child
        .id()
        .and_then(|id| Pid::from_raw(id.cast_signed()))
        .map(Group);
    let mut output = Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let output = read_tail(&mut output).await?;
    let status = child.wait().await?;
    // From here on the group's number may be given to others.
    std::mem::forget(group);
    Ok((status, output))
}

/// The processes that a command started, which go with the look that is dropped.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // The leader is not reaped yet, so the number is still the group's.
        if let Err(errno) = kill_process_group(self.0, Signal::KILL) {
            tracing::debug!(%errno, "a command that took too long is gone already");
        }
    }
}

/// Reads to the end and keeps the last bytes.
async fn read_tail(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut kept = VecDeque::with_capacity(2 * KEPT);
    let mut chunk = [0; KEPT];
    loop {
        let count = reader.read(&mut chunk).await?;
        if count == 0 {
            return Ok(kept.into());
        }
        kept.extend(chunk.iter().take(count));
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }
}

fn last_lines(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(LINES))
        .map(|line| (*line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[tokio::test]
    async fn a_command_that_exits_with_0_holds() {
        assert_eq!(look(&argv(&["/bin/true"])).await, Look::Well);
    }

    #[tokio::test]
    async fn a_command_that_fails_shows_its_status_and_its_last_lines() {
        let script = "for i in $(seq 30); do echo out $i; done; echo gone wrong >&2; exit 3";
        let Look::Ill(ailment) = look(&argv(&["/bin/sh", "-c", script])).await else {
            panic!("it is ill")
        };
        assert!(
            ailment.reason.contains("exit status: 3"),
            "{}",
            ailment.reason
        );
        assert_eq!(ailment.lines.len(), LINES);
        assert_eq!(ailment.lines.last().map(String::as_str), Some("gone wrong"));
    }

    #[tokio::test]
    async fn a_command_that_does_not_exist_is_named() {
        let Look::Ill(ailment) = look(&argv(&["/no/such/program"])).await else {
            panic!("it is ill")
        };
        assert!(
            ailment.reason.contains("/no/such/program"),
            "{}",
            ailment.reason
        );
    }

    #[tokio::test]
    async fn output_without_end_does_not_fill_the_memory() {
        let mut endless = tokio::io::repeat(b'x').take(10_000_000);
        assert_eq!(read_tail(&mut endless).await.unwrap().len(), KEPT);
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("alive");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        // A grandchild holds the fifo open for writing; its end of file is its death.
        let script = format!("(exec sleep 1000 > {0}) & wait", fifo.display());
        let hanging = argv(&["/bin/sh", "-c", &script]);
        let check = tokio::spawn(async move {
            tokio::time::timeout(Duration::from_secs(60), look(&hanging)).await
        });
        let mut reader = tokio::task::spawn_blocking(move || std::fs::File::open(fifo))
            .await
            .unwrap()
            .unwrap();
        check.abort();
        assert!(check.await.unwrap_err().is_cancelled());
        let ended = tokio::task::spawn_blocking(move || {
            let mut rest = Vec::new();
            io::Read::read_to_end(&mut reader, &mut rest).map(|_| rest)
        });
        assert_eq!(
            tokio::time::timeout(Duration::from_secs(10), ended)
                .await
                .unwrap()
                .unwrap()
                .unwrap(),
            b""
        );
    }
}
