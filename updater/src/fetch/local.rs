use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;

use reqwest::Url;

use super::Sink;
use crate::ports::{FetchError, Stop};

/// The size of a piece, in bytes.
const PIECE: u64 = 256 * 1024;

/// Hands the bytes `offset..size` of a file to `sink`.
pub(super) fn read(
    url: &Url,
    offset: u64,
    size: u64,
    stop: &Stop,
    sink: Sink<'_>,
) -> Result<(), FetchError> {
    let failed = |source: io::Error| FetchError::RepositoryUnreachable {
        url: url.to_string(),
        source: source.into(),
    };
    let path = url.to_file_path().map_err(|()| {
        failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the address names no local file",
        ))
    })?;
    let mut file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?.len();
    if found > size {
        return Err(FetchError::BlobCorrupt {
            url: url.to_string(),
            why: format!("it has {found} bytes, the release says {size}"),
        });
    }
    if found < size {
        return Err(FetchError::BlobTruncated {
            url: url.to_string(),
            found,
            expected: size,
        });
    }
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut piece = Vec::new();
    let mut left = size - offset;
    while left > 0 {
        if stop.is_set() {
            return Err(FetchError::Stopped);
        }
        piece.clear();
        let read = (&mut file)
            .take(left.min(PIECE))
            .read_to_end(&mut piece)
            .map_err(failed)?;
        if read == 0 {
            // The file shrank while it was read.
            return Err(FetchError::BlobTruncated {
                url: url.to_string(),
                found: size - left,
                expected: size,
            });
        }
        if sink(&piece) == ControlFlow::Break(()) {
            return Err(FetchError::Stopped);
        }
        left -= u64::try_from(read).expect("no more than a piece was read");
    }
    Ok(())
}
