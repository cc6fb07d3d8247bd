//! Running commands so that nothing of them is left, however we end.
//!
//! Each runs in a process group of its own: Ctrl-C then comes to us alone, and
//! we pass it on to the whole group, to what the command has started as well. A
//! signal that was sent to us and not typed takes the same way.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process_group, set_child_subreaper, waitpgid,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::TempDir;

/// How long a command has to clear up after itself: the demo removes a disk and a
/// repository, which takes a second.
const GRACE: Duration = Duration::from_secs(10);

/// We were asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted; nothing is left running")]
pub(crate) struct Interrupted {
    signal: u8,
}

impl Interrupted {
    /// Returns what a shell calls the exit status of a process that a signal ended.
    pub(crate) fn exit_code(self) -> u8 {
        128 + self.signal
    }
}

/// Starts commands, and ends them when we are asked to stop.
#[derive(Debug)]
pub(crate) struct Runner {
    running: Arc<Mutex<Running>>,
    /// Where all commands make their temporary files: one that is killed removes none.
    temporary: TempDir,
}

#[derive(Debug, Default)]
struct Running {
    interrupted: Option<Interrupted>,
    groups: Vec<Pid>,
}

impl Runner {
    /// Makes a runner, which from now on answers the signals that ask us to stop.
    pub(crate) fn new() -> Result<Self> {
        // What a command leaves behind becomes ours, not that of whoever is process 1.
        set_child_subreaper(Some(getpid())).context("cannot adopt what commands leave")?;
        let running = Arc::default();
        listen(Arc::clone(&running))?;
        // Others may pass, as through the folder that it lies in: a test runs a
        // command as somebody else.
        let temporary = tempfile::Builder::new()
            .prefix("bistable-")
            .permissions(std::fs::Permissions::from_mode(0o711))
            .tempdir()
            .context("cannot make a temporary folder")?;
        Ok(Self { running, temporary })
    }

    /// Runs `command` with this terminal's output, and fails unless it exits 0.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let output = self.to_end(command)?;
        if !output.status.success() {
            bail!("`{}` ended with {}", line_of(command), output.status);
        }
        Ok(())
    }

    /// Runs `command` with this terminal's output, and returns how it ended.
    pub(crate) fn status(&self, command: &mut Command) -> Result<ExitStatus> {
        Ok(self.to_end(command)?.status)
    }

    /// Returns what `command` prints, and fails unless it exits 0.
    pub(crate) fn output(&self, command: &mut Command) -> Result<String> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.to_end(command)?;
        let line = line_of(command);
        if !output.status.success() {
            bail!(
                "`{line}` ended with {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed no UTF-8"))
    }

    /// Starts `command`, which runs beside others until it is ended.
    pub(crate) fn background(&self, command: &mut Command) -> Result<Background<'_>> {
        self.serving(command, Stdio::null())
    }

    /// The same for a service whose standard input is its listening socket.
    pub(crate) fn serving(
        &self,
        command: &mut Command,
        socket: impl Into<Stdio>,
    ) -> Result<Background<'_>> {
        command.stdin(socket);
        let (child, group) = self.start(command)?;
        Ok(Background {
            runner: self,
            child,
            group,
            line: line_of(command),
        })
    }

    fn to_end(&self, command: &mut Command) -> Result<Output> {
        // A group in the background that reads a terminal is stopped.
        command.stdin(Stdio::null());
        let line = line_of(command);
        let (child, group) = self.start(command)?;
        let output = child
            .wait_with_output()
            .with_context(|| format!("cannot wait for `{line}`"));
        match self.clear(group) {
            Some(interrupted) => Err(interrupted.into()),
            None => output,
        }
    }

    /// Ends whatever a command has left behind; most leave nothing. Returns whether
    /// we were asked to stop.
    fn clear(&self, group: Pid) -> Option<Interrupted> {
        end(group, Signal::KILL);
        // It is gone when it has been waited for, which falls to us.
        while matches!(waitpgid(group, WaitOptions::empty()), Ok(Some(_))) {}
        let mut running = lock(&self.running);
        running.groups.retain(|other| *other != group);
        running.interrupted
    }

    fn start(&self, command: &mut Command) -> Result<(Child, Pid)> {
        // Held over the start: a signal comes before it, or finds the group.
        let mut running = lock(&self.running);
        if let Some(interrupted) = running.interrupted {
            return Err(interrupted.into());
        }
        let child = command
            .process_group(0)
            .env("TMPDIR", self.temporary.path())
            .spawn()
            .with_context(|| format!("cannot start `{}`", line_of(command)))?;
        let group = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("a process number that is none")?;
        running.groups.push(group);
        Ok((child, group))
    }
}

/// A command that runs until it is ended, or let go.
#[derive(Debug)]
pub(crate) struct Background<'a> {
    runner: &'a Runner,
    child: Child,
    group: Pid,
    line: String,
}

impl Background<'_> {
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal` and waits for the end, however it ends. What it printed stays
    /// where its output went.
    pub(crate) fn end(mut self, signal: Signal) -> Result<()> {
        end(self.group, signal);
        let ended = self.child.wait();
        let interrupted = self.runner.clear(self.group);
        ended.with_context(|| format!("cannot wait for `{}`", self.line))?;
        interrupted.map_or(Ok(()), |interrupted| Err(interrupted.into()))
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        // Once it was ended, its number may be another's.
        let runs = lock(&self.runner.running).groups.contains(&self.group);
        if runs {
            self.runner.clear(self.group);
        }
    }
}

/// Answers the first signal by passing it on, the second one by killing.
fn listen(running: Arc<Mutex<Running>>) -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for signals")?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            // Ends with the process.
            let mut patience: Option<Sender<()>> = None;
            for number in signals.forever() {
                if patience.take().is_some() {
                    // Its end tells the other thread to kill at once.
                    continue;
                }
                pass_on(&running, number);
                patience = kill_after_grace(&running);
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

fn pass_on(running: &Mutex<Running>, number: i32) {
    let mut running = lock(running);
    let signal = u8::try_from(number).unwrap_or(u8::MAX >> 1);
    running.interrupted.get_or_insert(Interrupted { signal });
    let signal = match number {
        SIGTERM | SIGHUP => Signal::TERM,
        _ => Signal::INT,
    };
    for group in &running.groups {
        end(*group, signal);
    }
}

/// Kills what still runs when the grace is over, or when the returned sender is dropped.
fn kill_after_grace(running: &Arc<Mutex<Running>>) -> Option<Sender<()>> {
    let running = Arc::clone(running);
    let (sender, over) = channel();
    thread::Builder::new()
        .name("grace".into())
        .spawn(move || {
            match over.recv_timeout(GRACE) {
                Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            for group in &lock(&running).groups {
                end(*group, Signal::KILL);
            }
        })
        .ok()?;
    Some(sender)
}

fn end(group: Pid, signal: Signal) {
    match kill_process_group(group, signal) {
        // Fails only when all of the group have ended.
        Ok(()) | Err(_) => {}
    }
}

/// Nothing under the lock can panic half-way.
fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

fn line_of(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read, pipe};
    use std::time::Instant;

    use rustix::process::kill_process;

    use super::*;

    /// Longer than any machine takes to end a process.
    const FOR_EVER: u64 = 60;

    fn shell(script: &str) -> (Command, PipeReader) {
        let (reader, writer) = pipe().expect("a pipe");
        let mut command = Command::new("sh");
        command
            .args(["-c", &script.replace("FOR_EVER", &FOR_EVER.to_string())])
            .stdout(writer);
        (command, reader)
    }

    /// Waits until nobody holds the other end any more.
    fn all_have_ended(command: Command, mut reader: PipeReader, since: Instant) {
        drop(command);
        reader.read_to_end(&mut Vec::new()).expect("the pipe ends");
        assert!(
            since.elapsed().as_secs() < FOR_EVER,
            "they ended by themselves"
        );
    }

    // One test: a signal is sent to the whole process, and every runner in it answers.
    #[test]
    fn a_command_ends_with_all_that_it_has_started() {
        let runner = Runner::new().expect("a runner");
        let start = Instant::now();
        let (mut command, reader) = shell("sleep FOR_EVER & exit 0");
        runner.run(&mut command).expect("it exits 0");
        all_have_ended(command, reader, start);

        let start = Instant::now();
        for ended in [true, false] {
            let (mut command, mut reader) = shell("echo; sleep FOR_EVER & sleep FOR_EVER");
            let background = runner.background(&mut command).expect("it starts");
            reader.read_exact(&mut [0]).expect("it runs");
            if ended {
                background.end(Signal::TERM).expect("it ends");
            } else {
                drop(background);
            }
            all_have_ended(command, reader, start);
        }

        let start = Instant::now();
        let (mut command, mut reader) =
            shell("(trap '' INT; exec sleep FOR_EVER) & echo \"$TMPDIR\"; wait");
        let result = thread::scope(|scope| {
            let run = scope.spawn(|| runner.run(&mut command));
            let folder = runner.temporary.path().to_str().expect("text");
            let mut said = vec![0; folder.len() + 1];
            reader.read_exact(&mut said).expect("it says its folder");
            assert_eq!(said, format!("{folder}\n").into_bytes());
            kill_process(getpid(), Signal::INT).expect("we are there");
            run.join().expect("no panic")
        });
        all_have_ended(command, reader, start);
        let error = result.expect_err("it was interrupted");
        let interrupted = error.downcast::<Interrupted>().expect("said so");
        assert_eq!(interrupted.exit_code(), 130);
        // And nothing is started afterwards.
        let (mut command, _reader) = shell("exit 0");
        let error = runner.run(&mut command).expect_err("we are to stop");
        assert!(error.is::<Interrupted>(), "{error:#}");
    }
}
