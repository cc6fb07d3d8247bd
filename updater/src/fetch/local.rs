use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use reqwest::Url;

use super::{REFUSED, Sink};
use crate::ports::{FetchError, Stop, Verdict};

/// The size of a piece, in bytes.
const PIECE: u64 = 256 * 1024;

/// Hands the bytes `range` of a file, which must have `size`, to `sink`.
pub(super) fn read(
    url: &Url,
    range: Range<u64>,
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
    file.seek(SeekFrom::Start(range.start)).map_err(failed)?;
    let mut piece = Vec::new();
    let mut left = range.end - range.start;
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
                found: range.end - left,
                expected: size,
            });
        }
        match sink(&piece) {
            Verdict::Taken => {}
            Verdict::Bad | Verdict::BadWhole => {
                return Err(FetchError::BlobCorrupt {
                    url: url.to_string(),
                    why: REFUSED.to_owned(),
                });
            }
            Verdict::Stop => return Err(FetchError::Stopped),
        }
        left -= u64::try_from(read).expect("no more than a piece was read");
    }
    Ok(())
}
