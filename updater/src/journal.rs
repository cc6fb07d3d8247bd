//! How the daemon speaks to the journal: an entry per event, with its fields as
//! fields, and with a message id for what a fleet may want to be told of.
//!
//! Where the journal cannot be reached, and on a terminal, it is a line on
//! stderr; for whoever keeps what a unit writes there, its priority is in front
//! as systemd reads it (`<4>`).

mod entry;

use std::fmt;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread::{self, ThreadId};
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use self::entry::Entry;

/// The state has changed.
pub const STATE: &str = "960ec74e3bd84602b5d80a24f878e0c2";
/// A job has failed.
pub const JOB_FAILED: &str = "8307305c9492412da83fe7b62260d912";
/// A trial has failed, and why.
pub const TRIAL_FAILED: &str = "aac6961be73d403fac03d99868d62b53";

/// A good release boots no more, and why.
pub const GAVE_WAY: &str = "0d5be6fb1a3f4c6c9a4f1de27c88e1b3";

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// A journal that does not take an entry for so long does not get it: the hands may not
/// wait for it longer, and the thread on which everybody is answered not at all.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who reads stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Journal,
    Terminal,
}

/// Sends what is logged where it belongs. `RUST_LOG` chooses how much, `info` if unset.
pub fn start(reader: Reader) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let journal = match reader {
        Reader::Journal => Journal::connect(Path::new(SOCKET)).ok(),
        Reader::Terminal => None,
    };
    let lines = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(false)
            .event_format(Line(reader))
    });
    tracing_subscriber::registry()
        .with(filter)
        .with(journal)
        .with(lines)
        .init();
}

/// The journal, by its own protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
struct Journal {
    patient: UnixDatagram,
    hasty: UnixDatagram,
    /// The thread that never waits.
    runtime: ThreadId,
}

impl Journal {
    /// Connects; the thread on which that is done is the runtime's.
    fn connect(socket: &Path) -> io::Result<Self> {
        let (patient, hasty) = (UnixDatagram::unbound()?, UnixDatagram::unbound()?);
        patient.connect(socket)?;
        patient.set_write_timeout(Some(PATIENCE))?;
        hasty.connect(socket)?;
        hasty.set_nonblocking(true)?;
        Ok(Self {
            patient,
            hasty,
            runtime: thread::current().id(),
        })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut entry = Entry::new(priority(*event.metadata().level()));
        event.record(&mut entry);
        let socket = match thread::current().id() == self.runtime {
            true => &self.hasty,
            false => &self.patient,
        };
        // There is nobody to tell.
        drop(socket.send(&entry.finish()));
    }
}

struct Line(Reader);

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        match self.0 {
            Reader::Journal => write!(writer, "<{}>", priority(level))?,
            Reader::Terminal => write!(writer, "{level} ")?,
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Instant;

    use super::*;
    use crate::history::Happened;

    /// Reads an entry as journald does.
    fn fields(mut bytes: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while !bytes.is_empty() {
            let line = bytes.iter().position(|byte| *byte == b'\n').unwrap();
            let (head, rest) = (&bytes[..line], &bytes[line + 1..]);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            match head.iter().position(|byte| *byte == b'=') {
                Some(at) => {
                    fields.insert(text(&head[..at]), text(&head[at + 1..]));
                    bytes = rest;
                }
                None => {
                    let (len, rest) = rest.split_first_chunk::<8>().unwrap();
                    let len = usize::try_from(u64::from_le_bytes(*len)).unwrap();
                    fields.insert(text(head), text(&rest[..len]));
                    assert_eq!(rest[len], b'\n');
                    bytes = &rest[len + 1..];
                }
            }
        }
        fields
    }

    #[test]
    fn an_event_reaches_the_journal_with_its_fields() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let journald = UnixDatagram::bind(&socket).unwrap();
        let journal = Journal::connect(&socket).unwrap();
        let subscriber = tracing_subscriber::registry().with(journal);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(
                message_id = STATE,
                from = "idle",
                tries = 3_u64,
                text = "two\nlines",
                "state"
            );
        });
        let mut bytes = [0; 4096];
        let len = journald.recv(&mut bytes).unwrap();
        let expected = [
            ("MESSAGE", "state from=idle tries=3 text=two\nlines"),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "bistable-updater"),
            ("MESSAGE_ID", STATE),
            ("BISTABLE_FROM", "idle"),
            ("BISTABLE_TRIES", "3"),
            ("BISTABLE_TEXT", "two\nlines"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields(&bytes[..len]), BTreeMap::from(expected));
    }

    #[test]
    fn a_journal_that_is_gone_or_full_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        assert!(Journal::connect(&socket).is_err());
        let journald = UnixDatagram::bind(&socket).unwrap();
        let journal = Journal::connect(&socket).unwrap();
        drop(journald);
        let subscriber = tracing_subscriber::registry().with(journal);
        tracing::subscriber::with_default(subscriber, || tracing::info!("nobody hears"));
    }

    #[test]
    fn a_journal_that_is_full_is_waited_for_by_others_than_the_runtime() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let journald = UnixDatagram::bind(&socket).unwrap();
        let journal = Journal::connect(&socket).unwrap();
        let subscriber = tracing_subscriber::registry().with(journal);
        let logs = tracing::Dispatch::new(subscriber);
        let begun = Instant::now();
        // More than any queue takes; each of the rest would cost a second.
        tracing::dispatcher::with_default(&logs, || {
            (0..2000).for_each(|number| tracing::info!(number, "mine"));
        });
        assert!(begun.elapsed() < Duration::from_secs(60));
        let other = thread::spawn(move || {
            tracing::dispatcher::with_default(&logs, || tracing::info!("another's"));
        });
        journald
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut bytes = [0; 4096];
        loop {
            let len = journald.recv(&mut bytes).unwrap();
            if fields(&bytes[..len])["MESSAGE"] == "another's" {
                break;
            }
        }
        other.join().unwrap();
    }

    #[test]
    fn the_table_in_the_docs_has_every_message_id() {
        let docs = include_str!("../../docs/operations.md");
        let ids: Vec<_> = Happened::ALL
            .map(Happened::message_id)
            .into_iter()
            .chain([STATE, JOB_FAILED, TRIAL_FAILED])
            .collect();
        for id in &ids {
            assert!(
                docs.contains(&format!("| `{id}` |")),
                "{id} is not in the table"
            );
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }
}
