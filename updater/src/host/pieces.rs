//! The pieces of the kernel image that is being fetched, one after the other in one file.
//!
//! ```text
//! digest of the blob (32 bytes) | u64 offset | u32 length | bytes | u64 offset | u32 length | bytes | …
//! ```
//! A power cut may take the end away. What is torn there is passed over, and what is wrong the
//! digest of the whole finds: nothing here has to be durable, or right.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use release::Digest;
use rustix::fs::{Advice, fadvise, fstatvfs};

use crate::ports::Verdict;

/// How much of the file may be in the page cache at once, and is lost with the power.
const CACHED: u64 = 4 << 20;
/// Offset and length, before each piece.
const HEADER: u64 = 12;
/// No piece is longer: the ports say so.
const LONGEST: u32 = 256 * 1024;
/// `/var` is the workload's, and a record has to find room in it: with less than this nothing is
/// kept. It is twice the largest kernel image, and the file never takes more: servers that lie
/// have pieces come again and again, at each attempt.
const ROOM: u64 = 256 << 20;

/// The file of pieces.
#[derive(Debug)]
pub(super) struct PieceFile {
    path: PathBuf,
    /// How long the file may be.
    most: u64,
    open: Mutex<Option<Open>>,
}

/// The file, while pieces are added.
#[derive(Debug)]
struct Open {
    blob: Digest,
    file: File,
    len: u64,
    unsynced: u64,
}

impl PieceFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self {
            path,
            most: ROOM,
            open: Mutex::new(None),
        }
    }

    pub(super) fn replay(
        &self,
        blob: &Digest,
        sink: &mut dyn FnMut(u64, &[u8]) -> Verdict,
    ) -> io::Result<()> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let mut file = BufReader::new(file);
        if read_digest(&mut file)? != Some(*blob) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        while let Some(offset) = read_piece(&mut file, &mut bytes)? {
            if sink(offset, &bytes) == Verdict::Stop {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn keep(&self, blob: &Digest, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut open = self.lock();
        let kept = self.add(&mut open, blob, offset, bytes);
        if kept.is_err() {
            // Perhaps the disk is full, and others need the room more. The error to tell is the
            // first one.
            *open = None;
            drop(fs::remove_file(&self.path));
        }
        kept
    }

    pub(super) fn forget(&self) -> io::Result<()> {
        *self.lock() = None;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn add(
        &self,
        open: &mut Option<Open>,
        blob: &Digest,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).ok();
        let length = length.filter(|length| *length <= LONGEST);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        let same = open.take().filter(|now| now.blob == *blob);
        let now = match same {
            Some(now) => open.insert(now),
            None => open.insert(self.open(blob)?),
        };
        now.len = now.len.saturating_add(HEADER + u64::from(length));
        if now.len > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        now.file.write_all(&offset.to_le_bytes())?;
        now.file.write_all(&length.to_le_bytes())?;
        now.file.write_all(bytes)?;
        now.unsynced = now.unsynced.saturating_add(length.into());
        if now.unsynced >= CACHED {
            now.file.sync_data()?;
            fadvise(&now.file, 0, None, Advice::DontNeed)?;
            now.unsynced = 0;
        }
        Ok(())
    }

    /// Opens the file behind its last whole piece, or makes it anew.
    fn open(&self, blob: &Digest) -> io::Result<Open> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.mode(0o600).open(&self.path)?;
        let mut reader = BufReader::new(&file);
        let mut end = 0;
        if read_digest(&mut reader)? == Some(*blob) {
            let mut bytes = Vec::new();
            end = reader.stream_position()?;
            while read_piece(&mut reader, &mut bytes)?.is_some() {
                end = reader.stream_position()?;
            }
        }
        file.set_len(end)?;
        if end == 0 {
            let space = fstatvfs(&file)?;
            if space.f_bavail.saturating_mul(space.f_frsize) < ROOM {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.rewind()?;
            file.write_all(blob.as_bytes())?;
        }
        let len = file.seek(SeekFrom::End(0))?;
        Ok(Open {
            blob: *blob,
            file,
            len,
            unsynced: 0,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the digest of the blob that the pieces are of; `None` from a file that is too short.
fn read_digest(from: &mut impl Read) -> io::Result<Option<Digest>> {
    let mut bytes = [0; 32];
    Ok(read_whole(from, &mut bytes)?.then(|| Digest::new(bytes)))
}

/// Reads a piece, and returns its offset; `None` at the end of the file, torn or not.
fn read_piece(from: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<Option<u64>> {
    let (mut offset, mut length) = ([0; 8], [0; 4]);
    if !read_whole(from, &mut offset)? || !read_whole(from, &mut length)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length);
    let Some(length) = Some(length).filter(|length| *length <= LONGEST) else {
        return Ok(None);
    };
    bytes.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
    let whole = read_whole(from, bytes)?;
    Ok(whole.then(|| u64::from_le_bytes(offset)))
}

/// Fills `buffer`, and tells whether there was enough.
fn read_whole(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const ONE: Digest = Digest::new([1; 32]);
    const TWO: Digest = Digest::new([2; 32]);

    fn file() -> (TempDir, PieceFile) {
        let folder = tempfile::tempdir().unwrap();
        let pieces = PieceFile::new(folder.path().join("pieces"));
        (folder, pieces)
    }

    fn kept(pieces: &PieceFile, blob: &Digest) -> Vec<(u64, Vec<u8>)> {
        let mut kept = Vec::new();
        let mut sink = |offset, bytes: &[u8]| {
            kept.push((offset, bytes.to_vec()));
            Verdict::Taken
        };
        pieces.replay(blob, &mut sink).unwrap();
        kept
    }

    #[test]
    fn pieces_come_back_in_their_order_and_another_blobs_are_gone() {
        let (_folder, pieces) = file();
        assert_eq!(kept(&pieces, &ONE), []);
        pieces.keep(&ONE, 8, b"second").unwrap();
        pieces.keep(&ONE, 0, b"first").unwrap();
        let both = [(8, b"second".to_vec()), (0, b"first".to_vec())];
        assert_eq!(kept(&pieces, &ONE), both);
        assert_eq!(kept(&pieces, &TWO), []);
        // Another run of the daemon goes on behind them.
        let again = PieceFile::new(pieces.path.clone());
        again.keep(&ONE, 14, b"third").unwrap();
        assert_eq!(kept(&again, &ONE).len(), 3);
        again.keep(&TWO, 0, b"other").unwrap();
        assert_eq!(kept(&again, &ONE), []);
        assert_eq!(kept(&again, &TWO), [(0, b"other".to_vec())]);
        again.forget().unwrap();
        again.forget().unwrap();
        assert_eq!(kept(&again, &TWO), []);
    }

    #[test]
    fn wherever_the_file_ends_the_whole_pieces_before_count_and_more_can_be_added() {
        let (_folder, pieces) = file();
        pieces.keep(&ONE, 0, b"first").unwrap();
        pieces.keep(&ONE, 5, b"second").unwrap();
        let whole = fs::read(&pieces.path).unwrap();
        for len in 0..=whole.len() {
            fs::write(&pieces.path, &whole[..len]).unwrap();
            let torn = PieceFile::new(pieces.path.clone());
            let expected = match len {
                0..=48 => 0,
                49..=66 => 1,
                _ => 2,
            };
            assert_eq!(kept(&torn, &ONE).len(), expected, "{len} bytes");
            torn.keep(&ONE, 99, b"more").unwrap();
            let now = kept(&torn, &ONE);
            assert_eq!(now.len(), expected + 1, "{len} bytes");
            assert_eq!(now.last(), Some(&(99, b"more".to_vec())));
        }
    }

    #[test]
    fn pieces_that_come_again_and_again_fill_no_disk() {
        let (_folder, mut pieces) = file();
        pieces.most = 100;
        for _ in 0..3 {
            pieces.keep(&ONE, 0, b"twenty bytes, lied..").unwrap_or(());
        }
        // Of 32 + 3 * 32 bytes the last have no room: all of it goes, and the next begins anew.
        assert!(!pieces.path.exists());
        pieces.keep(&ONE, 0, b"anew").unwrap();
        let again = PieceFile {
            most: 60,
            ..PieceFile::new(pieces.path.clone())
        };
        let error = again.keep(&ONE, 4, b"what lay there counts").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_length_that_nobody_wrote_ends_the_file() {
        let (_folder, pieces) = file();
        let mut bytes = ONE.as_bytes().to_vec();
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(u32::MAX.to_le_bytes());
        fs::write(&pieces.path, bytes).unwrap();
        assert_eq!(kept(&pieces, &ONE), []);
    }
}
