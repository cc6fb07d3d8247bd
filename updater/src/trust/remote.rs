//! Where the files of a repository come from: whole, small, and with an end.

use std::fs::File;
use std::io::{self, Read};

use futures_util::StreamExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use tokio::time::timeout;

use crate::fetch::{Client, Failure, Patience, Question, chain, check_answer, request};
use crate::ports::Cause;

/// How often a file is asked for again. Blobs have more patience: they are
/// what a bad line breaks, and a check comes again by itself.
const MAX_RETRIES: u32 = 3;

/// A folder of a repository, over HTTP or on a disk.
#[derive(Debug, Clone)]
pub struct RemoteFolder {
    base: Url,
    client: Client,
    patience: Patience,
}

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchFileError {
    #[error("{url}")]
    NotFound { url: String, source: Cause },
    #[error("{url}")]
    Unreachable { url: String, source: Cause },
    #[error("{url} is larger than {most} bytes")]
    TooLarge { url: String, most: u64 },
}

impl RemoteFolder {
    /// Returns the folder at `base`; nothing is asked for yet.
    pub fn new(mut base: Url, client: Client, patience: Patience) -> Self {
        // Without the slash, a name would replace the last folder.
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        Self {
            base,
            client,
            patience,
        }
    }

    /// Reads the file that lies below the folder under these names, of which
    /// none may lead out of it.
    pub(super) async fn read(&self, names: &[&str], most: u64) -> Result<Vec<u8>, FetchFileError> {
        let path: Vec<_> = names.iter().map(|name| encode(name)).collect();
        let url = format!("{}{}", self.base, path.join("/"));
        let unreachable = |source: Cause| FetchFileError::Unreachable {
            url: url.clone(),
            source,
        };
        if self.base.scheme() == "file" {
            return self.read_local(names, &url, most);
        }
        let address = Url::parse(&url).map_err(|error| unreachable(error.into()))?;
        let mut attempts = 0;
        loop {
            let failure = match self.read_once(&address, most).await {
                Ok(bytes) => return Ok(bytes),
                Err(Once::Failed(failure)) => failure,
                Err(Once::TooLarge) => return Err(FetchFileError::TooLarge { url, most }),
            };
            return Err(match failure {
                Failure::Passing(source) => {
                    let wait = self.patience.wait(attempts);
                    if let Some(wait) = wait.filter(|_| attempts < MAX_RETRIES) {
                        attempts += 1;
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    unreachable(source)
                }
                Failure::Lasting(source) => unreachable(source),
                Failure::NotFound(source) => FetchFileError::NotFound { url, source },
                Failure::PastEnd(_) => unreachable("a part was sent that nobody asked for".into()),
            });
        }
    }

    fn read_local(&self, names: &[&str], url: &str, most: u64) -> Result<Vec<u8>, FetchFileError> {
        let read = || -> io::Result<Vec<u8>> {
            let folder = self.base.to_file_path();
            let mut path = folder.map_err(|()| io::ErrorKind::InvalidFilename)?;
            for name in names {
                if name.contains('/') {
                    return Err(io::ErrorKind::InvalidFilename.into());
                }
                path.push(name);
            }
            let mut whole = Vec::new();
            // One byte more tells a file that is too large from one that is not.
            File::open(path)?
                .take(most.saturating_add(1))
                .read_to_end(&mut whole)?;
            Ok(whole)
        };
        match read() {
            Ok(whole) if u64::try_from(whole.len()).is_ok_and(|length| length <= most) => Ok(whole),
            Ok(_) => Err(FetchFileError::TooLarge {
                url: url.to_owned(),
                most,
            }),
            Err(error) => {
                let (url, missing) = (url.to_owned(), error.kind() == io::ErrorKind::NotFound);
                let source = Cause::from(error);
                Err(match missing {
                    true => FetchFileError::NotFound { url, source },
                    false => FetchFileError::Unreachable { url, source },
                })
            }
        }
    }

    async fn read_once(&self, url: &Url, most: u64) -> Result<Vec<u8>, Once> {
        let silent = |_| {
            let why = format!(
                "the server was silent for {} s",
                self.patience.idle.as_secs()
            );
            Once::Failed(Failure::Passing(why.into()))
        };
        let limit = self.patience.connect + self.patience.idle;
        let question = Question { url, range: None };
        let response = timeout(limit, request(&self.client, &question))
            .await
            .map_err(silent)?
            .map_err(Once::Failed)?;
        check_answer(&response).map_err(Once::Failed)?;
        if response
            .content_length()
            .is_some_and(|length| length > most)
        {
            return Err(Once::TooLarge);
        }
        let mut body = response.bytes_stream();
        let mut whole = Vec::new();
        // A drip is ended by the limit of the whole refresh.
        while let Some(chunk) = timeout(self.patience.idle, body.next())
            .await
            .map_err(silent)?
        {
            let chunk =
                chunk.map_err(|error| Once::Failed(Failure::Passing(chain(&error).into())))?;
            whole.extend_from_slice(&chunk);
            if u64::try_from(whole.len()).is_ok_and(|len| len > most) {
                return Err(Once::TooLarge);
            }
        }
        Ok(whole)
    }
}

enum Once {
    Failed(Failure),
    TooLarge,
}

/// What needs no escape in any place of a URL.
const PLAIN: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Returns `name` so that it is one name wherever it is put: a slash in it is
/// none that parts folders.
pub(super) fn encode(name: &str) -> String {
    utf8_percent_encode(name, &PLAIN).to_string()
}
