//! A client for QEMU's machine protocol.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use crate::deadline::Deadline;

/// Something QEMU said without being asked.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its name, such as `RESET` or `WATCHDOG`.
    pub name: String,
    /// What it says, `null` when that is nothing.
    pub data: Value,
}

/// A place among the events: those before it are history.
#[derive(Clone, Copy, Debug)]
pub struct EventMark(usize);

impl EventMark {
    /// The moment of power-on.
    pub(crate) const START: Self = Self(0);
}

/// The socket on which QEMU is expected: it connects to us, so that there is
/// no moment at which a socket does not exist yet.
#[derive(Debug)]
pub struct Expected(UnixListener);

impl Expected {
    /// Listens at `path`.
    ///
    /// # Errors
    ///
    /// Fails when the socket cannot be made.
    pub fn at(path: &Path) -> Result<Self> {
        UnixListener::bind(path)
            .map(Self)
            .with_context(|| format!("cannot listen at {}", path.display()))
    }

    /// Waits for QEMU and agrees with it on the protocol.
    ///
    /// # Errors
    ///
    /// Fails when QEMU does not come before the deadline or does not speak QMP.
    pub async fn connect(self, deadline: Deadline) -> Result<Qmp> {
        let (stream, _) = deadline.bound("QEMU to connect", self.0.accept()).await??;
        let qmp = Qmp::over(stream);
        qmp.execute("qmp_capabilities", Value::Null, deadline)
            .await?;
        Ok(qmp)
    }
}

/// A connection to one QEMU. Cloning it is cheap; all clones share it.
#[derive(Clone, Debug)]
pub struct Qmp {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    commands: tokio::sync::Mutex<Commands>,
    events: Arc<Mutex<Vec<Event>>>,
    count: watch::Receiver<usize>,
}

#[derive(Debug)]
struct Commands {
    write: OwnedWriteHalf,
    replies: mpsc::UnboundedReceiver<Value>,
}

impl Qmp {
    fn over(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        let (reply_sender, replies) = mpsc::unbounded_channel();
        let (count_sender, count) = watch::channel(0);
        let events = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(listen(
            BufReader::new(read).lines(),
            Arc::clone(&events),
            count_sender,
            reply_sender,
        ));
        let commands = tokio::sync::Mutex::new(Commands { write, replies });
        Self {
            shared: Arc::new(Shared {
                commands,
                events,
                count,
            }),
        }
    }

    /// Executes `command` and returns what it returns.
    ///
    /// # Errors
    ///
    /// Fails when QEMU refuses it, is gone, or does not answer in time.
    pub async fn execute(
        &self,
        command: &str,
        arguments: Value,
        deadline: Deadline,
    ) -> Result<Value> {
        let mut request = json!({ "execute": command });
        if let (Some(request), false) = (request.as_object_mut(), arguments.is_null()) {
            request.insert("arguments".into(), arguments);
        }
        let exchange = async {
            let mut commands = self.shared.commands.lock().await;
            commands
                .write
                .write_all(format!("{request}\n").as_bytes())
                .await?;
            commands
                .replies
                .recv()
                .await
                .ok_or_else(|| anyhow!("QEMU is gone"))
        };
        let reply = deadline
            .bound(format!("QEMU's answer to {command}"), exchange)
            .await
            .flatten()
            .with_context(|| format!("cannot execute {command}"))?;
        match reply.get("error") {
            None => Ok(reply.get("return").cloned().unwrap_or(Value::Null)),
            Some(error) => bail!("QEMU refuses {command}: {error}"),
        }
    }

    /// Executes a command of the human monitor and returns its text.
    ///
    /// # Errors
    ///
    /// As [`Self::execute`].
    pub async fn human(&self, line: &str, deadline: Deadline) -> Result<String> {
        let text = self
            .execute(
                "human-monitor-command",
                json!({ "command-line": line }),
                deadline,
            )
            .await?;
        text.as_str()
            .map(String::from)
            .with_context(|| format!("{line} returned no text"))
    }

    /// Returns the place where the events stand now.
    pub fn mark(&self) -> EventMark {
        EventMark(self.events().len())
    }

    /// Returns all events so far.
    pub fn events(&self) -> Vec<Event> {
        self.shared
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for an event `name` after `mark`.
    ///
    /// # Errors
    ///
    /// Fails when the deadline passes or QEMU goes away first.
    pub async fn wait_for(&self, mark: EventMark, name: &str, deadline: Deadline) -> Result<Event> {
        self.wait_for_nth(mark, name, 1, deadline).await
    }

    /// Waits for the `nth` event `name` after `mark`, counted from 1.
    ///
    /// # Errors
    ///
    /// Fails when the deadline passes or QEMU goes away first.
    pub async fn wait_for_nth(
        &self,
        mark: EventMark,
        name: &str,
        nth: usize,
        deadline: Deadline,
    ) -> Result<Event> {
        let mut count = self.shared.count.clone();
        let wait = async {
            loop {
                count.mark_unchanged();
                let mut named = self
                    .events()
                    .into_iter()
                    .skip(mark.0)
                    .filter(|event| event.name == name);
                if let Some(event) = named.nth(nth.saturating_sub(1)) {
                    return Ok(event);
                }
                count.changed().await.context("QEMU is gone")?;
            }
        };
        deadline
            .bound(format!("the event {name}, number {nth}"), wait)
            .await
            .flatten()
    }

    /// Waits for a reset after `mark` that nobody ordered from outside: what
    /// presses reset for silent firmware must not pass for the node's own deed.
    ///
    /// # Errors
    ///
    /// Fails when the deadline passes or QEMU goes away first.
    pub async fn wait_for_own_reset(&self, mark: EventMark, deadline: Deadline) -> Result<Event> {
        let mut from = mark;
        loop {
            let (event, after) = self.next(from, "RESET", deadline).await?;
            if event.data.get("guest") == Some(&Value::Bool(true)) {
                return Ok(event);
            }
            from = after;
        }
    }

    /// Waits for an event `name` after `mark`; returns it and the place behind it.
    async fn next(
        &self,
        mark: EventMark,
        name: &str,
        deadline: Deadline,
    ) -> Result<(Event, EventMark)> {
        let mut count = self.shared.count.clone();
        let wait = async {
            loop {
                count.mark_unchanged();
                let events = self.events();
                let mut numbered = (1..).zip(&events).skip(mark.0);
                if let Some((behind, event)) = numbered.find(|(_, event)| event.name == name) {
                    return Ok((event.clone(), EventMark(behind)));
                }
                count.changed().await.context("QEMU is gone")?;
            }
        };
        deadline
            .bound(format!("the event {name}"), wait)
            .await
            .flatten()
    }

    /// Waits until QEMU has ended.
    ///
    /// # Errors
    ///
    /// Fails when it is still there at the deadline.
    pub async fn gone(&self, deadline: Deadline) -> Result<()> {
        let mut count = self.shared.count.clone();
        deadline
            .bound("QEMU to end", async {
                while count.changed().await.is_ok() {}
            })
            .await
    }
}

/// Sorts what QEMU says into events and replies, until it is gone.
async fn listen(
    mut lines: Lines<BufReader<OwnedReadHalf>>,
    events: Arc<Mutex<Vec<Event>>>,
    count: watch::Sender<usize>,
    replies: mpsc::UnboundedSender<Value>,
) {
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(value) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if let Some(name) = value.get("event").and_then(Value::as_str) {
            let data = value.get("data").cloned().unwrap_or(Value::Null);
            let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
            events.push(Event {
                name: name.into(),
                data,
            });
            count.send_replace(events.len());
        } else if value.get("QMP").is_none() {
            // Nobody waits any more when this fails.
            drop(replies.send(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fake(mut stream: UnixStream) -> Result<()> {
        let (read, mut write) = stream.split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"{\"QMP\": {}}\n").await?;
        while let Some(line) = lines.next_line().await? {
            let request: Value = serde_json::from_str(&line)?;
            let answer = match request["execute"].as_str() {
                Some("qmp_capabilities") => json!({ "return": {} }),
                Some("system_reset") => {
                    write
                        .write_all(b"{\"event\": \"RESET\", \"data\": {\"guest\": false}}\n")
                        .await?;
                    json!({ "return": {} })
                }
                _ => json!({ "error": { "class": "CommandNotFound" } }),
            };
            write.write_all(format!("{answer}\n").as_bytes()).await?;
        }
        Ok(())
    }

    async fn connected() -> (Qmp, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("qmp");
        let expected = Expected::at(&path).expect("a socket");
        tokio::spawn(async move { fake(UnixStream::connect(path).await?).await });
        (
            expected
                .connect(Deadline::after(5))
                .await
                .expect("connected"),
            folder,
        )
    }

    #[tokio::test]
    async fn an_event_between_command_and_reply_is_not_taken_for_the_reply() {
        let (qmp, _folder) = connected().await;
        let mark = qmp.mark();
        let reply = qmp
            .execute("system_reset", Value::Null, Deadline::after(5))
            .await
            .expect("a reply");
        assert_eq!(reply, json!({}));
        let event = qmp
            .wait_for(mark, "RESET", Deadline::after(5))
            .await
            .expect("the event");
        assert_eq!(event.data["guest"], json!(false));
    }

    #[tokio::test]
    async fn a_refused_command_is_an_error_and_the_next_one_works() {
        let (qmp, _folder) = connected().await;
        let error = qmp
            .execute("nonsense", Value::Null, Deadline::after(5))
            .await
            .expect_err("refused");
        assert!(error.to_string().contains("CommandNotFound"), "{error}");
        qmp.execute("system_reset", Value::Null, Deadline::after(5))
            .await
            .expect("a reply");
    }
}
