//! The disk side of a repository: whole files, each in place at once.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use release::{Blob, BlobPath, Digest};
use sha2::{Digest as _, Sha256};

/// The folders of a repository.
pub(crate) const METADATA: &str = "metadata";
pub(crate) const TARGETS: &str = "targets";

/// Where a file is until it is whole. No target, metadata file or blob is
/// called so.
pub(crate) const UNFINISHED: &str = ".unfinished-";

/// What a publisher needs of the disk that holds the repository.
///
/// `name` is relative to the repository's base.
pub trait Store {
    /// Returns where the repository lies.
    fn base(&self) -> &Path;

    /// Puts a file in place, whole. On return it has reached the disk.
    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Puts a copy of `source` in place, whole, as `blob`. On return it has
    /// reached the disk. Fails with [`io::ErrorKind::InvalidData`] if the
    /// content is not that of the blob.
    fn put_blob(&mut self, blob: &Blob, source: &Path) -> io::Result<()>;
}

/// A repository could not be taken for changing.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another publisher is at work.
    #[error("another publisher is at work in {base} (it holds {path}); try again when it is done", path = .base.join(Directory::LOCK).display())]
    Busy { base: PathBuf },
    /// There is nothing to change.
    #[error("there is no repository in {base}: the first publish makes it")]
    NoRepository { base: PathBuf },
    /// The lock file or a folder could not be made.
    #[error("cannot prepare {path}")]
    Prepare { path: PathBuf, source: io::Error },
}

/// A repository in a folder, locked against other publishers for as long as
/// the value lives.
#[derive(Debug)]
pub struct Directory {
    base: PathBuf,
    _lock: File,
}

impl Directory {
    const LOCK: &'static str = ".lock";

    /// Takes the repository at `base` for changing, and makes it if there is none.
    pub fn create(base: &Path) -> Result<Self, LockError> {
        let metadata = base.join(METADATA);
        fs::create_dir_all(&metadata).map_err(prepare(&metadata))?;
        Self::lock(base)
    }

    /// Takes the repository at `base` for changing, and removes what an
    /// interrupted publisher left unfinished.
    pub fn lock(base: &Path) -> Result<Self, LockError> {
        if !base.join(METADATA).is_dir() {
            return Err(LockError::NoRepository { base: base.into() });
        }
        let path = base.join(Self::LOCK);
        // The kernel drops the lock with the process, so none is ever stale.
        let lock = File::create(&path).map_err(prepare(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Busy { base: base.into() }),
            Err(TryLockError::Error(error)) => return Err(prepare(&path)(error)),
        }
        for folder in [BlobPath::FOLDER, TARGETS, METADATA] {
            let path = base.join(folder);
            fs::create_dir_all(&path)
                .and_then(|()| remove_unfinished(&path))
                .map_err(prepare(&path))?;
        }
        sync_folder(base).map_err(prepare(base))?;
        Ok(Self {
            base: base.into(),
            _lock: lock,
        })
    }
}

impl Store for Directory {
    fn base(&self) -> &Path {
        &self.base
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        replace(&self.base.join(name), bytes)
    }

    fn put_blob(&mut self, blob: &Blob, source: &Path) -> io::Result<()> {
        let mut source = File::open(source)?;
        place(&self.base.join(blob.path().to_string()), |file| {
            // Within the kernel, which shares the blocks where the file system
            // can; then hashed, so that what was examined before is what is
            // published, even if the build is repeated meanwhile.
            io::copy(&mut source, file)?;
            file.rewind()?;
            let copied = hash(file)?;
            if copied != *blob {
                let text =
                    format!("the content has changed since it was read: it is now {copied:?}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            Ok(())
        })
    }
}

/// Puts a file in place, whole. On return it has reached the disk.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    place(path, |file| file.write_all(bytes))
}

/// Returns the digest and the size of a file.
pub(crate) fn hash_file(path: &Path) -> io::Result<Blob> {
    hash(&mut File::open(path)?)
}

/// How the content of a file compares with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Missing,
    /// It has that many bytes, which is not the blob's size; it was not read.
    OtherSize(u64),
    Other,
    Same,
}

/// Compares the content of a file with a blob.
pub(crate) fn compare(path: &Path, blob: &Blob) -> io::Result<Content> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::Missing),
        Err(error) => return Err(error),
    };
    let size = file.metadata()?.len();
    if size != blob.size {
        return Ok(Content::OtherSize(size));
    }
    Ok(if hash(&mut file)? == *blob {
        Content::Same
    } else {
        Content::Other
    })
}

fn place(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    let mut unfinished = std::ffi::OsString::from(UNFINISHED);
    unfinished.push(name);
    let unfinished = folder.join(unfinished);
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let written = options.open(&unfinished).and_then(|mut file| {
        fill(&mut file)?;
        file.sync_all()
    });
    if let Err(error) = written {
        // The first error is the one to tell; the next publisher removes what
        // is left.
        drop(fs::remove_file(&unfinished));
        return Err(error);
    }
    fs::rename(&unfinished, path)?;
    sync_folder(folder)
}

fn hash(file: &mut File) -> io::Result<Blob> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut size = 0_u64;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(buffer.get(..count).unwrap_or_default());
        size = size.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
    Ok(Blob {
        sha256: Digest::new(hasher.finalize().into()),
        size,
    })
}

fn prepare(path: &Path) -> impl FnOnce(io::Error) -> LockError + use<> {
    let path = path.to_owned();
    move |source| LockError::Prepare { path, source }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(UNFINISHED.as_bytes())
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
