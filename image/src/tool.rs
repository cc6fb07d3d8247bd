//! Running a foreign program, with everything one needs when it fails.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

/// How much of a failed program's output its error keeps.
const KEPT_OUTPUT: usize = 4096;

/// A foreign program about to be run; its errors show the whole command line
/// and what the program said.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    input: Option<Vec<u8>>,
}

/// Why a foreign program gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("cannot start `{command}`{advice}")]
    Start {
        command: String,
        /// Where to get it, if it is not there and that is known.
        advice: String,
        source: io::Error,
    },
    #[error("cannot talk to `{command}`")]
    Pipe { command: String, source: io::Error },
    #[error("`{command}` failed ({status}): {output}")]
    Failed {
        command: String,
        status: ExitStatus,
        output: String,
    },
}

impl Tool {
    /// A program of the host, wherever it keeps those.
    pub fn host(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command
            .env("PATH", host_tools::search_path())
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC");
        Self {
            command,
            input: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds an argument of the form `--name=value`, whose value may be any path.
    #[must_use]
    pub fn option(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let mut arg = OsString::from(name);
        arg.push("=");
        arg.push(value);
        self.arg(arg)
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the folder that the program starts in.
    #[must_use]
    pub fn current_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Gives the program these bytes as its standard input.
    #[must_use]
    pub fn input(mut self, bytes: Vec<u8>) -> Self {
        self.input = Some(bytes);
        self
    }

    /// Runs the program to its end and returns what it wrote to standard output.
    ///
    /// # Errors
    /// When it cannot be started, or ends with anything but success.
    pub fn run(self) -> Result<Vec<u8>, ToolError> {
        let text = display(&self.command);
        let pipe = |source| ToolError::Pipe {
            command: text.clone(),
            source,
        };
        let mut running = self.start()?;
        let mut stdout = Vec::new();
        io::copy(&mut running.stdout, &mut stdout).map_err(pipe)?;
        running.finish(&stdout)?;
        Ok(stdout)
    }

    /// Starts the program, for the caller to read its standard output as it comes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut self) -> Result<Running, ToolError> {
        let text = display(&self.command);
        tracing::debug!(command = text, "running");
        let input = self.input.take();
        self.command
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(|source| ToolError::Start {
            command: text.clone(),
            advice: self.advice(),
            source,
        })?;
        let stdin = child.stdin.take();
        // Fed and drained by threads: a program blocked on one pipe while we
        // wait on another would never end.
        let feeder = std::thread::spawn(move || match (stdin, input) {
            (Some(mut stdin), Some(input)) => stdin.write_all(&input),
            _ => Ok(()),
        });
        let stderr = child.stderr.take();
        let drain = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stderr) = stderr {
                // What could not be read of an error message is no error of its own.
                drop(io::copy(&mut stderr, &mut bytes));
            }
            bytes
        });
        let stdout = child.stdout.take().ok_or_else(|| ToolError::Pipe {
            command: text.clone(),
            source: io::Error::other("no standard output"),
        })?;
        Ok(Running {
            text,
            child,
            stdout,
            feeder,
            drain,
        })
    }
}

impl Tool {
    fn advice(&self) -> String {
        let program = self.command.get_program();
        let missing = program.to_str().map(host_tools::find);
        match missing {
            Some(Err(missing)) => format!(": {missing}"),
            Some(Ok(_)) | None => String::new(),
        }
    }
}

/// A foreign program that runs while its output is read.
#[derive(Debug)]
pub struct Running {
    text: String,
    child: Child,
    pub stdout: ChildStdout,
    feeder: JoinHandle<io::Result<()>>,
    drain: JoinHandle<Vec<u8>>,
}

impl Running {
    /// Waits for the program's end; `said` is what it wrote to standard output, if
    /// that could explain a failure.
    ///
    /// # Errors
    /// When it ends with anything but success.
    pub fn finish(mut self, said: &[u8]) -> Result<(), ToolError> {
        // Closing our end first: a program that still writes must get an error, not wait for ever.
        drop(self.stdout);
        let status = self.child.wait().map_err(|source| ToolError::Pipe {
            command: self.text.clone(),
            source,
        })?;
        let stderr = self.drain.join().unwrap_or_default();
        let fed = self.feeder.join();
        if !status.success() {
            let output = if stderr.is_empty() { said } else { &stderr };
            return Err(ToolError::Failed {
                command: self.text,
                status,
                output: tail(output),
            });
        }
        match fed {
            Ok(Err(source)) => Err(ToolError::Pipe {
                command: self.text,
                source,
            }),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

/// Returns the end of `output`, where programs put what went wrong.
fn tail(output: &[u8]) -> String {
    let start = output.len().saturating_sub(KEPT_OUTPUT);
    String::from_utf8_lossy(output.get(start..).unwrap_or_default())
        .trim()
        .to_owned()
}

fn display(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_tool_shows_its_command_line_and_its_last_words() {
        let error = Tool::host("cat").arg("/no/such/file").run().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`cat /no/such/file`"), "{text}");
        assert!(text.contains("No such file"), "{text}");
    }

    #[test]
    fn a_missing_tool_is_named() {
        let error = Tool::host("no-such-tool").run().unwrap_err();
        assert!(matches!(error, ToolError::Start { command, .. } if command == "no-such-tool"));
    }

    #[test]
    fn more_input_than_a_pipe_holds_reaches_the_tool() {
        let input = vec![7; 1 << 20];
        assert_eq!(Tool::host("cat").input(input.clone()).run().unwrap(), input);
    }
}
