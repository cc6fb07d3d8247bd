//! How `tough` gets its files: whole, small, and with an end.

use futures_util::{StreamExt, stream};
use release::limits::MAX_TUF_TARGETS_BYTES;
use reqwest::Url;
use tokio::time::timeout;
use tough::{
    Bytes, FilesystemTransport, Transport, TransportError, TransportErrorKind, TransportStream,
    async_trait,
};

use crate::fetch::{Client, Failure, Patience, Question, chain, check_answer, request};
use crate::ports::Cause;

/// No file that `tough` asks for is larger: the largest is targets.json.
const MAX_BYTES: u64 = MAX_TUF_TARGETS_BYTES;
/// How often a file is asked for again. Blobs have more patience: they are
/// what a bad line breaks, and a check comes again by itself.
const MAX_RETRIES: u32 = 3;

/// Fetches metadata files.
#[derive(Debug, Clone)]
pub(super) struct MetadataTransport {
    client: Client,
    patience: Patience,
}

/// Why a metadata file did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum MetadataFailure {
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    #[error("{0}")]
    Unreachable(Cause),
}

impl MetadataTransport {
    pub(super) const fn new(client: Client, patience: Patience) -> Self {
        Self { client, patience }
    }

    async fn read(&self, url: &Url) -> Result<Bytes, TransportError> {
        if url.scheme() == "file" {
            return read_local(url).await;
        }
        let mut attempts = 0;
        loop {
            let failure = match self.read_once(url).await {
                Ok(bytes) => return Ok(bytes),
                Err(Once::Failed(failure)) => failure,
                Err(Once::TooLarge) => return Err(too_large(url)),
            };
            let (kind, cause) = match failure {
                Failure::Passing(cause) => {
                    let wait = self.patience.wait(attempts);
                    if let Some(wait) = wait.filter(|_| attempts < MAX_RETRIES) {
                        attempts += 1;
                        tokio::time::sleep(wait).await;
                        continue;
                    }
                    (TransportErrorKind::Other, cause)
                }
                Failure::Lasting(cause) => (TransportErrorKind::Other, cause),
                // For root files that is good news: there is no newer one.
                Failure::NotFound(cause) => (TransportErrorKind::FileNotFound, cause),
                Failure::PastEnd(_) => (
                    TransportErrorKind::Other,
                    "a part was sent that nobody asked for".into(),
                ),
            };
            let failure = MetadataFailure::Unreachable(cause);
            return Err(TransportError::new_with_cause(kind, url, failure));
        }
    }

    async fn read_once(&self, url: &Url) -> Result<Bytes, Once> {
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
            .is_some_and(|length| length > MAX_BYTES)
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
            if u64::try_from(whole.len()).is_ok_and(|len| len > MAX_BYTES) {
                return Err(Once::TooLarge);
            }
        }
        Ok(whole.into())
    }
}

enum Once {
    Failed(Failure),
    TooLarge,
}

fn too_large(url: &Url) -> TransportError {
    let failure = MetadataFailure::TooLarge(MAX_BYTES);
    TransportError::new_with_cause(TransportErrorKind::Other, url, failure)
}

async fn read_local(url: &Url) -> Result<Bytes, TransportError> {
    // `tough` knows how to take a path from a URL safely.
    let mut stream = match FilesystemTransport.fetch(url.clone()).await {
        Ok(stream) => stream,
        Err(error) => return Err(local(url, &error)),
    };
    let mut whole = Vec::new();
    while let Some(chunk) = stream.next().await {
        whole.extend_from_slice(&chunk.map_err(|error| local(url, &error))?);
        if u64::try_from(whole.len()).is_ok_and(|len| len > MAX_BYTES) {
            return Err(too_large(url));
        }
    }
    Ok(whole.into())
}

fn local(url: &Url, error: &TransportError) -> TransportError {
    let failure = MetadataFailure::Unreachable(chain(error).into());
    TransportError::new_with_cause(error.kind(), url, failure)
}

#[async_trait]
impl Transport for MetadataTransport {
    /// Never fails itself: `tough` takes a failure here, whatever it is, for
    /// "there is no newer root", and only one in the stream for what it is.
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let whole = self.read(&url).await;
        Ok(Box::pin(stream::iter([whole])))
    }
}
