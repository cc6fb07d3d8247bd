//! A partition that is written while the next bytes are made: what was handed over is
//! copied into a buffer, and a thread brings full buffers to the disk.
//!
//! ```text
//! write ─▶ filling ──full, or somewhere else──▶ thread: write, and sync now and then
//!             ▲                                   │
//!             └──────────── empty ◀───────────────┘
//! ```
//! Two buffers, so that one is filled while the other is written. Each error is kept:
//! what was lost stays lost, and whatever is taken later fails as it did.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use verity::AlignedBuffer;

use super::aligned::BUFFER;
use super::queue::Queued;

/// A disk's own cache takes more than a whole image. Emptied only at the end, it would
/// hold up whoever else syncs then: it is emptied for all at once.
const SYNC_BYTES: u64 = 16 << 20;
const BUFFERS: usize = 2;

/// The writing end of a partition.
#[derive(Debug)]
pub(super) struct WriteBehind {
    filling: Option<Run>,
    empty: Vec<AlignedBuffer>,
    at_work: usize,
    /// Gone once the thread is to end.
    orders: Option<SyncSender<Order>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
    failed: Option<Failed>,
}

/// Neighbouring bytes.
#[derive(Debug)]
struct Run {
    offset: u64,
    len: usize,
    buffer: AlignedBuffer,
}

#[derive(Debug)]
enum Order {
    Write(Run),
    Sync,
}

#[derive(Debug)]
struct Done {
    buffer: Option<AlignedBuffer>,
    result: Result<(), Failed>,
}

/// What could not be written, and why. It can be told more than once.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}: {why}")]
struct Failed {
    what: String,
    why: Arc<io::Error>,
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        Self::new(failed.why.kind(), failed)
    }
}

impl Run {
    fn end(&self) -> u64 {
        self.offset.saturating_add(length(self.len))
    }
}

impl WriteBehind {
    /// Starts the thread, which stands in the disk's queue where the caller stands.
    pub(super) fn start(device: Arc<Queued>) -> io::Result<Self> {
        let (orders, to_do) = sync_channel(BUFFERS);
        let (report, done) = sync_channel(BUFFERS + 1);
        let write = move || {
            let mut writer = Writer {
                device,
                unsynced: 0,
            };
            for order in to_do {
                if report.send(writer.carry_out(order)).is_err() {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("slot writer".to_owned());
        Ok(Self {
            filling: None,
            empty: Vec::new(),
            at_work: 0,
            orders: Some(orders),
            done,
            thread: Some(thread.spawn(write)?),
            failed: None,
        })
    }

    /// Takes `bytes` that belong at `offset`; both are whole blocks.
    ///
    /// Fails if they cannot be written, or something before them could not.
    pub(super) fn write(&mut self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.sound()?;
            if self.filling.as_ref().is_some_and(|run| run.end() != offset) {
                self.hand_over()?;
            }
            if self.filling.is_none() {
                let buffer = self.buffer()?;
                let len = 0;
                self.filling = Some(Run {
                    offset,
                    len,
                    buffer,
                });
            }
            let run = self.filling.as_mut().expect("it has just been begun");
            let room = run.buffer.get_mut(run.len..).unwrap_or_default();
            let count = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(count);
            room.get_mut(..count)
                .unwrap_or_default()
                .copy_from_slice(now);
            run.len = run.len.saturating_add(count);
            let is_full = run.len == run.buffer.len();
            offset = offset.saturating_add(length(count));
            bytes = later;
            if is_full {
                self.hand_over()?;
            }
        }
        Ok(())
    }

    /// On return the device has heard of all that was taken.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        self.hand_over()?;
        while self.at_work > 0 {
            self.hear();
        }
        self.sound()
    }

    /// On return all that was taken has left the disk's own cache too.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.hand_over()?;
        self.order(Order::Sync);
        self.drain()
    }

    fn sound(&self) -> io::Result<()> {
        match &self.failed {
            Some(failed) => Err(failed.clone().into()),
            None => Ok(()),
        }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        if let Some(run) = self.filling.take() {
            self.order(Order::Write(run));
        }
        self.sound()
    }

    fn order(&mut self, order: Order) {
        let sent = self.orders.as_ref().map(|orders| orders.send(order));
        match sent {
            Some(Ok(())) => self.at_work = self.at_work.saturating_add(1),
            Some(Err(_)) | None => self.died(),
        }
    }

    fn buffer(&mut self) -> io::Result<AlignedBuffer> {
        while self.empty.is_empty() && self.at_work >= BUFFERS {
            self.hear();
        }
        self.sound()?;
        let buffer = self.empty.pop();
        Ok(buffer.unwrap_or_else(|| AlignedBuffer::new(BUFFER)))
    }

    fn hear(&mut self) {
        let Ok(done) = self.done.recv() else {
            self.died();
            return;
        };
        self.at_work = self.at_work.saturating_sub(1);
        self.empty.extend(done.buffer);
        if let Err(failed) = done.result {
            self.failed.get_or_insert(failed);
        }
    }

    fn died(&mut self) {
        self.at_work = 0;
        self.failed.get_or_insert_with(|| Failed {
            what: "the thread that writes".to_owned(),
            why: Arc::new(io::ErrorKind::BrokenPipe.into()),
        });
    }
}

/// What was not handed over is not written: nobody has synced it.
impl Drop for WriteBehind {
    fn drop(&mut self) {
        drop(self.orders.take());
        while self.done.recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            // A panic has been told, and whoever waited for a sync heard that it failed.
            drop(thread.join());
        }
    }
}

/// The thread's side.
struct Writer {
    device: Arc<Queued>,
    /// Bytes written since the last sync.
    unsynced: u64,
}

impl Writer {
    fn carry_out(&mut self, order: Order) -> Done {
        match order {
            Order::Sync => Done {
                buffer: None,
                result: self.sync(),
            },
            Order::Write(run) => Done {
                result: self.write(&run),
                buffer: Some(run.buffer),
            },
        }
    }

    fn write(&mut self, run: &Run) -> Result<(), Failed> {
        let bytes = run.buffer.get(..run.len).unwrap_or_default();
        let written = self.device.write(run.offset, bytes);
        written.map_err(|why| Failed {
            what: format!("bytes {} to {}", run.offset, run.end()),
            why: Arc::new(why),
        })?;
        self.unsynced = self.unsynced.saturating_add(length(run.len));
        if self.unsynced < SYNC_BYTES {
            return Ok(());
        }
        self.sync()
    }

    fn sync(&mut self) -> Result<(), Failed> {
        let synced = self.device.sync();
        synced.map_err(|why| Failed {
            what: "to sync what was written".to_owned(),
            why: Arc::new(why),
        })?;
        self.unsynced = 0;
        Ok(())
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("memory is smaller than 2^64 bytes")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tempfile::NamedTempFile;

    use super::*;
    use crate::host::aligned::Direct;
    use crate::host::queue::Place;

    const BLOCK: usize = 4096;
    const BLOCKS: usize = 1024;

    /// A partition of zeros. The file systems of this machine need not know `O_DIRECT`.
    fn partition() -> Option<(NamedTempFile, Arc<Queued>)> {
        let file = NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.as_file().set_len((BLOCKS * BLOCK) as u64).unwrap();
        match Direct::open_exclusively(file.path()) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => None,
            opened => Some((file, queued(opened.unwrap()))),
        }
    }

    fn queued(device: Direct) -> Arc<Queued> {
        Arc::new(Queued::new(device, Place::default()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_was_taken_is_on_the_disk_once_it_is_drained(
            writes in vec((0..BLOCKS, 1..400_usize, any::<u8>(), any::<bool>()), 0..20),
        ) {
            let Some((file, device)) = partition() else {
                return Ok(());
            };
            let mut writer = WriteBehind::start(device).unwrap();
            let mut expected = vec![0; BLOCKS * BLOCK];
            for (first, blocks, value, is_drained) in writes {
                let bytes = first * BLOCK..(first + blocks).min(BLOCKS) * BLOCK;
                expected[bytes.clone()].fill(value);
                writer.write(bytes.start as u64, &expected[bytes]).unwrap();
                if is_drained {
                    writer.drain().unwrap();
                    prop_assert!(std::fs::read(file.path()).unwrap() == expected);
                }
            }
            writer.sync().unwrap();
            prop_assert!(std::fs::read(file.path()).unwrap() == expected);
        }
    }

    #[test]
    fn what_could_not_be_written_is_told_with_its_place_by_every_later_call() {
        let Some((file, _)) = partition() else {
            return;
        };
        let read_only = queued(Direct::open_to_read(file.path()).unwrap());
        let mut writer = WriteBehind::start(read_only).unwrap();
        // It is only taken.
        writer.write(BLOCK as u64, &[1; BLOCK]).unwrap();
        let error = writer.sync().unwrap_err().to_string();
        assert!(
            error.starts_with("bytes 4096 to 8192: Bad file descriptor"),
            "{error}"
        );
        for again in [writer.write(0, &[1; BLOCK]), writer.drain(), writer.sync()] {
            assert_eq!(again.unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn a_stage_that_goes_on_hears_soon_of_what_could_not_be_written() {
        let Some((file, _)) = partition() else {
            return;
        };
        let read_only = queued(Direct::open_to_read(file.path()).unwrap());
        let mut writer = WriteBehind::start(read_only).unwrap();
        let heard = (0..BLOCKS).find(|block| {
            let offset = (block * BLOCK) as u64;
            writer.write(offset, &[1; BLOCK]).is_err()
        });
        let most = (BUFFERS + 1) * BUFFER / BLOCK;
        assert!(heard.is_some_and(|block| block <= most), "{heard:?}");
    }
}
