use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Url;

use super::pieces::PIECE;
use super::taker::{Ended, Taker};
use crate::ports::FetchError;

/// Lets `taker` take what it misses of a file, which must have `size` bytes.
pub(super) fn read(
    url: &Url,
    size: u64,
    received: &AtomicU64,
    taker: &mut Taker<'_>,
) -> Result<(), Ended> {
    let mut file = open(url, size).map_err(Ended::Failed)?;
    let mut piece = Vec::new();
    let parts: Vec<Range<u64>> = taker.missing.parts().collect();
    for part in parts {
        let mut at = part.start;
        while at < part.end {
            let most = u64::try_from(PIECE).unwrap_or(u64::MAX).min(part.end - at);
            read_piece(&mut file, at, most, &mut piece)
                .map_err(|source| Ended::Failed(failed(url, source)))?;
            if u64::try_from(piece.len()).is_ok_and(|count| count < most) {
                // The file shrank while it was read.
                return Err(Ended::Failed(FetchError::BlobTruncated {
                    url: url.to_string(),
                    found: at,
                    expected: size,
                }));
            }
            received.fetch_add(most, Ordering::Relaxed);
            taker.take(at, &piece)?;
            at += most;
        }
    }
    Ok(())
}

fn open(url: &Url, size: u64) -> Result<File, FetchError> {
    let path = url.to_file_path().map_err(|()| {
        let kind = io::ErrorKind::InvalidInput;
        failed(url, io::Error::new(kind, "the address names no local file"))
    })?;
    let file = File::open(path).map_err(|source| failed(url, source))?;
    let metadata = file.metadata().map_err(|source| failed(url, source))?;
    let found = metadata.len();
    match found.cmp(&size) {
        std::cmp::Ordering::Equal => Ok(file),
        std::cmp::Ordering::Greater => Err(FetchError::BlobCorrupt {
            url: url.to_string(),
            why: format!("it has {found} bytes, the release says {size}"),
        }),
        std::cmp::Ordering::Less => Err(FetchError::BlobTruncated {
            url: url.to_string(),
            found,
            expected: size,
        }),
    }
}

fn read_piece(file: &mut File, at: u64, most: u64, piece: &mut Vec<u8>) -> io::Result<()> {
    piece.clear();
    file.seek(SeekFrom::Start(at))?;
    file.take(most).read_to_end(piece)?;
    Ok(())
}

fn failed(url: &Url, source: io::Error) -> FetchError {
    FetchError::RepositoryUnreachable {
        url: url.to_string(),
        source: source.into(),
    }
}
