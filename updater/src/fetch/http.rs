use std::error::Error;
use std::fmt::Write;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, RANGE};
use reqwest::{Client, Response, StatusCode, Url, redirect};

use super::patience::Patience;
use crate::authorities::Authorities;
use crate::ports::Cause;

/// Enough for a CDN in front of a bucket; a loop ends here.
const MAX_REDIRECTS: usize = 5;

/// Why no connection can be made at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client")]
pub struct BuildClientError(#[from] reqwest::Error);

/// Returns the client that metadata and blobs are fetched with. TLS believes the
/// system's authorities (`/etc/ssl/certs` of the image) and `authorities`; bodies come as they lie on the server, never
/// unpacked on the way, so that no small body can grow.
pub fn build_client(
    patience: &Patience,
    authorities: &Authorities,
) -> Result<Client, BuildClientError> {
    let policy = redirect::Policy::custom(|attempt| {
        let secure = attempt
            .previous()
            .first()
            .is_some_and(|url| url.scheme() == "https");
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if secure && attempt.url().scheme() != "https" {
            attempt.error("redirected from https to a server without TLS")
        } else {
            attempt.follow()
        }
    });
    let client = Client::builder()
        .user_agent(concat!("bistable/", env!("CARGO_PKG_VERSION")))
        .redirect(policy)
        .tls_certs_merge(authorities.certificates()?)
        .referer(false)
        .connect_timeout(patience.connect)
        // Idle time and stalls are counted where bodies are read; this bounds
        // what comes before a body.
        .read_timeout(patience.idle)
        .pool_max_idle_per_host(2)
        .build()?;
    Ok(client)
}

/// What went wrong with a request.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Another time it may go well.
    Passing(Cause),
    /// It will not.
    Lasting(Cause),
    /// There is no such file (404, 410; object stores say 403).
    NotFound(Cause),
    /// The file ends before the byte that was asked for; its size, if told.
    PastEnd(Option<u64>),
}

/// Asks for `url` from byte `offset` on.
pub(crate) async fn request(client: &Client, url: &Url, offset: u64) -> Result<Response, Failure> {
    let mut request = client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
    if offset > 0 {
        request = request.header(RANGE, format!("bytes={offset}-"));
    }
    match request.send().await {
        Ok(response) => Ok(response),
        // A loop of redirects does not end by asking again.
        Err(error) if error.is_redirect() || error.is_builder() => {
            Err(Failure::Lasting(chain(&error).into()))
        }
        Err(error) => Err(Failure::Passing(chain(&error).into())),
    }
}

/// Returns whether `response` brings the file, and not an excuse.
pub(crate) fn check_answer(response: &Response) -> Result<(), Failure> {
    let status = response.status();
    let told = || Cause::from(format!("the server answers {status}"));
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => {}
        StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => {
            return Err(Failure::NotFound(told()));
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let size = ContentRange::of(response).and_then(|range| range.size);
            return Err(Failure::PastEnd(size));
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            return Err(Failure::Passing(told()));
        }
        status if status.is_server_error() => return Err(Failure::Passing(told())),
        _ => return Err(Failure::Lasting(told())),
    }
    match response.headers().get(CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => Err(Failure::Lasting(
            format!("the server packs the file ({encoding:?}), though asked not to").into(),
        )),
        _ => Ok(()),
    }
}

/// A `Content-Range` header: `bytes 5-9/10`, `bytes */10`, `bytes 5-9/*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// The first byte that the body holds; `None` if it holds none.
    pub(crate) start: Option<u64>,
    /// The size of the whole file, if the server knows it.
    pub(crate) size: Option<u64>,
}

impl ContentRange {
    pub(crate) fn of(response: &Response) -> Option<Self> {
        let header = response.headers().get(reqwest::header::CONTENT_RANGE)?;
        Self::parse(header.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (range, size) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
        let start = match range {
            "*" => None,
            range => {
                let (start, end) = range.split_once('-')?;
                let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
                (start <= end).then_some(Some(start))?
            }
        };
        let size = match size {
            "*" => None,
            size => Some(size.parse().ok()?),
        };
        Some(Self { start, size })
    }
}

/// Returns an error and its causes as one text. Libraries that repeat a cause
/// in the text of its effect are not repeated here.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            write!(text, ": {told}").expect("writing to memory cannot fail");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_ranges_are_read_as_the_standard_writes_them() {
        let range = |start, size| Some(ContentRange { start, size });
        for (text, expected) in [
            ("bytes 5-9/10", range(Some(5), Some(10))),
            ("bytes 0-0/1", range(Some(0), Some(1))),
            ("bytes */10", range(None, Some(10))),
            ("bytes 5-9/*", range(Some(5), None)),
            ("bytes 9-5/10", None),
            ("bytes=5-9/10", None),
            ("bytes 5-9", None),
            ("bytes -/", None),
            ("bytes 99999999999999999999-/1", None),
        ] {
            assert_eq!(ContentRange::parse(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_header_is_too_odd_for_the_parser(text in "(bytes )?[0-9*/ -]{0,40}|.{0,40}") {
            ContentRange::parse(&text);
        }
    }
}
