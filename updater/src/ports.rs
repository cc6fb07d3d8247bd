//! The seams: one small trait per device that the daemon touches.
//!
//! Everything here blocks. The hands of the driver run on one thread of their
//! own, so an implementation may wait for a disk or (through the runtime's
//! handle) for the network, while the head keeps answering the bus.
//!
//! ```text
//! Slots        the spare slot's partitions and the table's labels
//! BootControl  the boot entries on the EFI system partition
//! Pace         how fast to go beside the machine's own work
//! Records      small durable files under /var/lib/bistable
//! Power        reboot
//! Clock        what time it is
//! Releases     which releases there are, proven by TUF metadata
//! Fetch        the bytes of a release's blobs
//! ```

use std::error::Error;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use partition_layout::{
    BootEntry, REMOVED_NAME, RootHash, Slot, SlotContent, Version, is_temporary_name,
};
use release::{Blob, Channel, Digest, Release};
use tokio::sync::watch;

use crate::pstore::DumpFile;
use crate::scrub::kernel::KernelBlocks;
use crate::scrub::proven::Proven;

/// A cause that another library made.
pub type Cause = Box<dyn Error + Send + Sync + 'static>;

/// A flag that asks the hands to stop what they do, or to hold still, and can
/// be waited for.
#[derive(Debug, Clone)]
pub struct Stop {
    wish: watch::Receiver<Wish>,
    turn: Arc<Turn>,
}

/// The other end of a [`Stop`]. Dropping it asks for nothing, and ends a pause.
#[derive(Debug)]
pub struct Stopper {
    wish: watch::Sender<Wish>,
    turn: Arc<Turn>,
}

/// Asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("asked to stop")]
pub struct Stopped;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Run,
    Pause,
    Stop,
}

/// Wakes the threads that wait out a pause. They may be inside a runtime, which
/// lets nobody block on one.
#[derive(Debug, Default)]
struct Turn {
    lock: Mutex<()>,
    came: Condvar,
}

impl Stopper {
    /// Returns a flag that is not set, and the end that sets it.
    pub fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(Wish::Run);
        let turn = Arc::new(Turn::default());
        let stop = Stop {
            wish: receiver,
            turn: Arc::clone(&turn),
        };
        (Self { wish: sender, turn }, stop)
    }

    /// Asks to stop, for good.
    pub fn stop(&self) {
        self.turn_to(Wish::Stop);
    }

    /// Asks to hold still until [`Stopper::resume`].
    pub fn pause(&self) {
        self.turn_to(Wish::Pause);
    }

    /// Asks to go on.
    pub fn resume(&self) {
        self.turn_to(Wish::Run);
    }

    fn turn_to(&self, next: Wish) {
        // Held, so that nobody begins to wait between the look and the call.
        let held = self
            .turn
            .lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.wish.send_if_modified(|wish| {
            let turns = *wish != Wish::Stop && *wish != next;
            if turns {
                *wish = next;
            }
            turns
        });
        drop(held);
        self.turn.came.notify_all();
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.resume();
    }
}

impl Stop {
    /// Returns whether the hands are asked to stop.
    pub fn is_set(&self) -> bool {
        *self.wish.borrow() == Wish::Stop
    }

    /// Returns whether the hands are asked to hold still.
    pub fn is_paused(&self) -> bool {
        *self.wish.borrow() == Wish::Pause
    }

    /// Waits out a pause, with the thread. To be asked between two pieces of
    /// work, each short beside what a person calls at once.
    ///
    /// # Errors
    /// When the hands are asked to stop, also while they wait.
    pub fn checkpoint(&self) -> Result<(), Stopped> {
        let mut held = self
            .turn
            .lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            let wish = *self.wish.borrow();
            match wish {
                Wish::Run => return Ok(()),
                Wish::Stop => return Err(Stopped),
                Wish::Pause => {
                    let came = self.turn.came.wait(held);
                    held = came.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Holds the thread for `time`, or until a pause or a stop is asked for.
    pub fn rest(&self, time: Duration) {
        let held = self
            .turn
            .lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .turn
            .came
            .wait_timeout_while(held, time, |()| *self.wish.borrow() == Wish::Run);
        drop(waited);
    }

    /// Completes when the hands are asked to stop; never, if nobody can ask
    /// any more.
    pub async fn wait(&self) {
        let asked = self
            .wish
            .clone()
            .wait_for(|wish| *wish == Wish::Stop)
            .await
            .is_ok();
        if !asked {
            std::future::pending::<()>().await;
        }
    }

    /// Completes when no pause is asked for.
    pub async fn resumed(&self) {
        // When nobody can ask any more, no pause is asked for either.
        drop(
            self.wish
                .clone()
                .wait_for(|wish| *wish != Wish::Pause)
                .await,
        );
    }
}

// ---------------------------------------------------------------- repository

/// What a repository offers, as one trusted set of metadata says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The channel that the node follows.
    pub channel: Channel,
    /// Every release in the repository, newest first.
    pub versions: Vec<Version>,
}

/// Why a repository's word cannot be had or believed.
#[derive(Debug, thiserror::Error)]
pub enum ReleasesError {
    #[error("the metadata of {repository} has expired")]
    MetadataExpired { repository: String, source: Cause },
    #[error("the metadata of {repository} cannot be trusted")]
    MetadataUntrusted { repository: String, source: Cause },
    #[error("{repository} cannot be reached")]
    RepositoryUnreachable { repository: String, source: Cause },
    /// `version` is the version, or the channel, as it was asked for.
    #[error("{repository} has no release {version}")]
    UnknownVersion { repository: String, version: String },
    /// The disk that keeps the trusted metadata, say.
    #[error("cannot {doing}")]
    Local { doing: String, source: Cause },
    #[error("asked to stop")]
    Stopped,
}

/// Which releases there are. Nothing that it returns is unsigned.
pub trait Releases: Send {
    /// Brings the trusted metadata up to date and reads the channel file.
    fn refresh(&mut self, stop: &Stop) -> Result<Offer, ReleasesError>;

    /// Returns the release file of `version`, from metadata that is refreshed first if it
    /// has expired or was never read. `None` asks for the channel's release.
    fn release(&mut self, version: Option<&Version>, stop: &Stop)
    -> Result<Release, ReleasesError>;
}

/// Why a blob's bytes did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("cannot fetch {url}")]
    RepositoryUnreachable { url: String, source: Cause },
    /// The server says that the blob ends earlier, again and again.
    #[error("{url} ends after {found} of {expected} bytes")]
    BlobTruncated {
        url: String,
        found: u64,
        expected: u64,
    },
    /// The server holds something else: a larger file, another range.
    #[error("{url} is not the blob that the release names: {why}")]
    BlobCorrupt { url: String, why: String },
    /// `stop` was set, or the sink broke off.
    #[error("asked to stop")]
    Stopped,
}

/// What the one who asked thinks of the bytes that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They are good, and done with.
    Taken,
    /// They are not the blob's: the server that sent them loses its turn for
    /// this blob, and they are fetched from the next.
    Bad,
    /// The same of them and others that were taken before, and nobody knows which. It is
    /// as bad if one server sent all that has come in this call; if not, it is nobody's
    /// fault, and they are done with.
    BadTogether,
    /// The last of the blob has come, and the digest of the whole is wrong: the
    /// server loses its turn, and the call begins anew with the next. If others had
    /// a share in it, this one begins anew first, by itself.
    BadWhole,
    /// No more is wanted.
    Stop,
}

/// Whether a server sends parts of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeSupport {
    /// Nobody has asked yet.
    Unknown,
    Yes,
    No,
}

/// The bytes of blobs, from the repository or one of its mirrors.
///
/// The calls hold each byte to nothing but its place: the digest, or the hash
/// tree, is the caller's, who says by his [`Verdict`] what it thinks. They
/// never hand over more than the declared size, ask no server twice for bytes
/// that were taken, and go on to the next mirror when one fails. The sink is
/// called on the caller's thread, and not while a pause is asked for.
///
/// Both return [`FetchError::Stopped`] soon after `stop` is set (also while the
/// server is silent), and when the sink says so.
pub trait Fetch: Send {
    /// Hands bytes `offset..blob.size` of `blob` to `sink`, in order, each
    /// once, in pieces of at most 256 KiB, and returns when all were taken.
    fn fetch(
        &mut self,
        blob: &Blob,
        offset: u64,
        stop: &Stop,
        sink: &mut dyn FnMut(&[u8]) -> Verdict,
    ) -> Result<(), FetchError>;

    /// Hands the bytes of `ranges` to `sink`, each with its offset in the blob,
    /// in any order, in pieces of whole blocks and at most 256 KiB, and returns
    /// when all were taken. `ranges` are sorted and disjoint, and begin and end
    /// on blocks, or at the blob's end.
    ///
    /// A server that sends no parts is read through once from the start.
    fn fetch_ranges(
        &mut self,
        blob: &Blob,
        ranges: &[Range<u64>],
        stop: &Stop,
        sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> Result<(), FetchError>;

    /// Returns what is known of the server that would be asked next.
    fn ranges(&self) -> RangeSupport;

    /// Returns how many bytes of blobs have come since the start, those that were
    /// thrown away included.
    fn received(&self) -> u64;
}

// ---------------------------------------------------------------------- disk

/// One of the partitions of a slot that the daemon fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The root image.
    Root,
    /// The superblock and the hash tree.
    Verity,
}

/// What one slot holds and can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotOnDisk {
    pub content: SlotContent,
    /// Bytes of the root partition.
    pub root_len: u64,
    /// Bytes of the verity partition.
    pub verity_len: u64,
}

/// The disk that the node runs from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskView {
    /// The slot that dm-verity stands on.
    pub booted: Slot,
    /// The release that runs, as it says of itself.
    pub booted_version: Version,
    /// The root hash that dm-verity enforces.
    pub booted_root_hash: RootHash,
    pub a: SlotOnDisk,
    /// `None` on a disk as shipped, before its first boot made slot B.
    pub b: Option<SlotOnDisk>,
}

impl DiskView {
    /// Returns what `slot` holds, if the disk has it.
    pub fn slot(&self, slot: Slot) -> Option<&SlotOnDisk> {
        match slot {
            Slot::A => Some(&self.a),
            Slot::B => self.b.as_ref(),
        }
    }
}

/// The partitions of the slots. Methods take `&self`, so that the tree can be
/// read while the image is written; an implementation refuses every write to
/// the booted slot but [`Slots::mend`].
pub trait Slots: Send + Sync {
    /// Reads the partition table and finds the booted slot.
    fn view(&self) -> io::Result<DiskView>;

    /// Writes `bytes` at `offset`. They may still be in a cache on return, but
    /// no more than a few MiB of all that was written are. So an error may be that of
    /// bytes that were handed over before; it says which, and comes again until the part is let go.
    fn write(&self, slot: Slot, part: Part, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// On return every byte written to `part` has reached the medium, and no
    /// cache of this machine holds any of it.
    fn flush(&self, slot: Slot, part: Part) -> io::Result<()>;

    /// Fills `buffer` from `offset`, from the medium and not from a cache. The booted slot
    /// is read past dm-verity: whoever asks has a hash tree of his own.
    fn read_medium(&self, slot: Slot, part: Part, offset: u64, buffer: &mut [u8])
    -> io::Result<()>;

    /// Labels the three partitions of `slot`, `None` meaning empty. On return
    /// the change has reached the disk.
    fn relabel(&self, slot: Slot, held: Option<(&Version, &RootHash)>) -> io::Result<()>;

    /// Writes one block of a slot's root image or hash tree, also of the booted one: the one exception, and
    /// only for what the root hash of the image in that slot has proved. An implementation refuses
    /// what was proved by any other. On return the block has reached the medium.
    fn mend(&self, slot: Slot, proven: &Proven) -> io::Result<()>;
}

/// Where a thread stands in the disk's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskQueue {
    /// Among the others.
    Among,
    /// Behind everybody else.
    Last,
}

/// How fast long work goes beside the machine's own.
pub trait Pace: Send + Sync {
    /// Tells that `bytes` more were read or written. Returns at once, or after a rest while others
    /// wait for the disk or for memory, which is bounded; and waits out a pause.
    ///
    /// # Errors
    /// When the work is asked to stop.
    fn step(&self, bytes: u64, stop: &Stop) -> Result<(), Stopped>;

    /// Takes a place in the disk's queue, for this thread and those that it starts from now on.
    fn stand(&self, place: DiskQueue) -> io::Result<()>;
}

/// A kernel image that is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    Nothing,
    /// It was an entry, and its removal was cut short.
    Removed,
    /// It was not made an entry yet.
    Unfinished,
}

impl Leftover {
    /// Returns what the names in the folder of boot entries tell.
    pub fn among<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let of = |name: &str| match is_temporary_name(name) {
            true if name.eq_ignore_ascii_case(REMOVED_NAME) => Some(Self::Removed),
            true => Some(Self::Unfinished),
            false => None,
        };
        names
            .into_iter()
            .filter_map(of)
            .fold(Self::Nothing, |most, it| match most {
                Self::Unfinished => most,
                Self::Nothing | Self::Removed => it,
            })
    }
}

/// The boot entries. Every change has reached the disk on return.
pub trait BootControl: Send + Sync {
    /// Lists the entries of this product, in any order. Half-written kernel
    /// images, and other systems' entries, are not among them.
    fn entries(&self) -> io::Result<Vec<BootEntry>>;

    /// Takes away the names that a rename of somebody else's, cut short, has left: the boot loader
    /// counts no start of an entry beside them. Each other change does so first.
    fn mend_names(&self) -> io::Result<()>;

    /// Removes an entry. One that is already gone is no error.
    fn remove(&self, entry: &BootEntry) -> io::Result<()>;

    /// Removes each kernel image that the boot loader would start, whatever its name, and that is of
    /// another image than `root_hash`. Fails if one cannot be read that may be.
    fn remove_others(&self, booted: &Version, root_hash: &RootHash) -> io::Result<()>;

    /// Returns what lies about that is no entry: half of a stage, or of a removal.
    fn leftover(&self) -> io::Result<Leftover>;

    /// Removes it. One that is already gone is no error.
    fn remove_temporary(&self) -> io::Result<()>;

    /// Returns how many bytes the partition has room for.
    fn room(&self) -> io::Result<u64>;

    /// Starts a kernel image under a name that no boot loader takes for an
    /// entry, in place of one that is there.
    /// Fails with [`io::ErrorKind::StorageFull`] when `size` bytes do not fit.
    fn begin_temporary(&self, size: u64) -> io::Result<()>;

    /// Adds `bytes` to it at `offset`; they may still be in a cache.
    fn write_temporary(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// On return the image has reached the medium, and no cache holds it.
    fn flush_temporary(&self) -> io::Result<()>;

    /// Fills `buffer` from `offset` of it, from the medium.
    fn read_temporary(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Fills `buffer` from `offset` of the kernel image of `entry`, and returns how many
    /// bytes there were: less than it has room for only at the end.
    fn read_entry(&self, entry: &BootEntry, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes `sound` over what is in its places in the kernel image of `entry`, which keeps
    /// its clusters, its length and its name. Each block has reached the medium on return, and
    /// wherever the power fails, each is as it was or as it should be. Fails when the image
    /// ends before one of them does.
    fn mend_entry(&self, entry: &BootEntry, sound: &KernelBlocks) -> io::Result<()>;

    /// Makes the temporary image the entry `entry`, by one rename.
    fn publish_temporary(&self, entry: &BootEntry) -> io::Result<()>;

    /// Renames `from` to `to`: how a counter is set, emptied and taken away.
    fn rename(&self, from: &BootEntry, to: &BootEntry) -> io::Result<()>;

    /// Returns whether the firmware keeps variables.
    fn has_variables(&self) -> bool;

    /// Asks the boot loader to take `entry` once, at the next boot.
    fn set_one_shot(&self, entry: &BootEntry) -> io::Result<()>;

    /// Takes such a wish back. One that is not there is no error.
    fn clear_one_shot(&self) -> io::Result<()>;

    /// Lets go of the partition until the next call.
    fn release(&self);
}

/// A small file of the daemon's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Record {
    /// The trial that was armed, so that its end can be told.
    Trial,
    /// The release that was good last, so that it can be told when it boots no more.
    LastGood,
    /// The last rollback and its reason.
    LastRollback,
    /// The images that failed here.
    Barred,
    /// The oldest version that the node accepts.
    Floor,
    /// What happened, a line per event.
    History,
    /// The health gate's verdict; the daemon only reads it.
    Verdict,
    /// Counts that go on from boot to boot.
    Totals,
    /// How far the booted image was read in the background.
    Reading,
    /// The same of the spare slot's.
    SpareReading,
    /// How the checks of the repository went.
    Checks,
    /// The digests that the kernel images should have.
    Kernels,
    /// The boots that have reached userspace; systemd-tmpfiles adds a line for
    /// each, and the daemon shortens it.
    Boots,
}

/// Small durable files.
pub trait Records: Send + Sync {
    /// Returns the whole file, or `None` if there is none.
    fn read(&self, record: Record) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the whole file. On return it has reached the disk; a power cut
    /// leaves the old one or the new one.
    fn replace(&self, record: Record, content: &[u8]) -> io::Result<()>;

    /// Removes the file. One that is already gone is no error.
    fn remove(&self, record: Record) -> io::Result<()>;

    /// Leaves word for the rest of this boot that the node stays in the booted slot: it
    /// is good, or all there is.
    fn mark_settled(&self) -> io::Result<()>;

    /// Returns whether such word was left.
    fn is_settled(&self) -> io::Result<bool>;

    /// Returns an id that each boot has anew.
    fn boot_id(&self) -> io::Result<String>;

    /// Returns what kernels that panicked have left behind, as far as it can be
    /// read.
    fn dumps(&self) -> Vec<DumpFile>;
}

/// What has come of a kernel image, or of a patch of one: kept piece by piece until a release is
/// armed, so that none comes twice after a cut. It lies where a file system with a journal is, as
/// nothing can be made of a file that FAT was writing when the power failed. Nobody believes it: the
/// digest of the whole image has the last word.
pub trait KeptPieces: Send + Sync {
    /// Hands the pieces that are kept of the blob with this digest to `sink`, in the order in which
    /// they came, until it says stop.
    fn replay(&self, blob: &Digest, sink: &mut dyn FnMut(u64, &[u8]) -> Verdict) -> io::Result<()>;

    /// Keeps one more; those of another blob go. It may still be in a cache on return, but no more
    /// than a few MiB of all of them are. Fails while the disk is nearly full.
    fn keep(&self, blob: &Digest, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Forgets them all. None is no error.
    fn forget_pieces(&self) -> io::Result<()>;
}

/// How the machine goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Every service is stopped first, however long it is allowed to take.
    InOrder,
    /// No service is waited for: what hangs must not keep a bad release running.
    AtOnce,
}

/// The machine's switch.
pub trait Power: Send + Sync {
    /// Asks for a reboot; returns once it was accepted.
    fn reboot(&self, restart: Restart) -> io::Result<()>;
}

/// The screen or serial line in front of which an operator may stand.
pub trait Console: Send + Sync {
    /// Shows a line. Does not wait for a slow line.
    fn say(&self, line: &str) -> io::Result<()>;
}

/// What time it is.
pub trait Clock: Clone + Send + Sync + 'static {
    /// Returns the wall clock's time. It may be far off.
    fn now(&self) -> jiff::Timestamp;

    /// Returns the time since the machine started.
    fn since_boot(&self) -> Duration;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_holds_the_hands_until_it_ends() {
        let (stopper, stop) = Stopper::new();
        stopper.pause();
        assert!(stop.is_paused());
        let hands = std::thread::spawn({
            let stop = stop.clone();
            move || stop.checkpoint()
        });
        stopper.resume();
        assert_eq!(hands.join().unwrap(), Ok(()));
        assert!(!stop.is_paused());
    }

    #[test]
    fn a_stop_ends_a_pause_and_outlasts_a_resume() {
        let (stopper, stop) = Stopper::new();
        stopper.pause();
        let hands = std::thread::spawn({
            let stop = stop.clone();
            move || stop.checkpoint()
        });
        stopper.stop();
        assert_eq!(hands.join().unwrap(), Err(Stopped));
        stopper.resume();
        stopper.pause();
        assert!(stop.is_set() && !stop.is_paused());
        assert_eq!(stop.checkpoint(), Err(Stopped));
    }

    #[test]
    fn nobody_waits_for_one_who_has_gone() {
        let (stopper, stop) = Stopper::new();
        stopper.pause();
        drop(stopper);
        assert_eq!(stop.checkpoint(), Ok(()));
    }
}
