use std::error::Error;
use std::fmt::Write;
use std::io;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, RANGE};
use reqwest::{Response, StatusCode, Url, redirect};
use url::Host;

use super::gateway::Gateway;
use super::patience::Patience;
use crate::authorities::Authorities;
use crate::ports::Cause;

/// Enough for a CDN in front of a bucket; a loop ends here.
const MAX_REDIRECTS: usize = 5;

/// How much one connection of HTTP/2 may hold for us unread, in all its streams
/// together, and in each of them. The four of a transfer go through one; at
/// 100 ms of round trip that is 20 MiB/s.
const HTTP2_WINDOW: u32 = 2 << 20;
const HTTP2_STREAM_WINDOW: u32 = 1 << 20;
/// Kept for the next request; as many as a transfer has.
const IDLE_CONNECTIONS: usize = 4;

/// Why no connection can be made at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client")]
pub struct BuildClientError(#[from] reqwest::Error);

/// Speaks HTTP/1.1 and HTTP/2, with TLS and without: itself, or through the gateway.
#[derive(Debug, Clone)]
pub struct Client(Way);

#[derive(Debug, Clone)]
enum Way {
    Network {
        http: reqwest::Client,
        /// Why no server with TLS can be believed.
        no_tls: Option<Arc<str>>,
    },
    Gateway(Gateway),
}

/// Returns the client of a process without a network, for which the gateway at `socket`
/// asks. Whether anybody listens there is not looked at.
pub fn build_gateway_client(
    socket: &Path,
    patience: &Patience,
    authorities: &Authorities,
) -> Result<Client, BuildClientError> {
    let gateway = Gateway::new(socket, patience, authorities)?;
    Ok(Client(Way::Gateway(gateway)))
}

/// Returns the client that metadata and blobs are fetched with. TLS believes the
/// system's authorities (`/etc/ssl/certs` of the image) and `authorities`. Bodies come as they lie on the server, never
/// unpacked on the way, so that no small body can grow. Proxies are taken from
/// the environment, as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name them.
///
/// A node without any authority gets a client all the same: it may update from
/// a folder, or without TLS, since no server is believed in what it serves.
pub fn build_client(
    patience: &Patience,
    authorities: &Authorities,
) -> Result<Client, BuildClientError> {
    let common = || {
        reqwest::Client::builder()
            .user_agent(concat!("bistable/", env!("CARGO_PKG_VERSION")))
            .redirect(redirects())
            .referer(false)
            .connect_timeout(patience.connect)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http2_initial_connection_window_size(HTTP2_WINDOW)
            .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW)
    };
    let certificates = authorities.certificates()?;
    let system = common()
        .tls_certs_merge(certificates.iter().cloned())
        .build();
    let (http, no_tls) = match system {
        Ok(http) => (http, None),
        Err(error) => {
            let why = certificates.is_empty().then(|| chain(&error).into());
            (common().tls_certs_only(certificates).build()?, why)
        }
    };
    if let Some(why) = &no_tls {
        tracing::warn!(%why, "no server can be reached over https");
    }
    Ok(Client(Way::Network { http, no_tls }))
}

fn redirects() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if !matches!(attempt.url().scheme(), "http" | "https") {
            attempt.error("redirected to what is no web server")
        } else if secure && attempt.url().scheme() != "https" {
            attempt.error("redirected from https to a server without TLS")
        } else if is_near(attempt.url()) && !attempt.previous().first().is_some_and(is_near) {
            attempt.error("redirected to this machine or to its cloud's own services")
        } else {
            attempt.follow()
        }
    })
}

/// Tells whether a URL names this machine, or what only it can reach: there lie the services of
/// this machine, and those of its cloud, which say secrets to whoever asks from here. A name
/// may lead there, too: what the unit forbids, it forbids whatever leads there.
fn is_near(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => is_near_v4(address),
        Some(Host::Ipv6(address)) => match address.to_ipv4_mapped() {
            Some(address) => is_near_v4(address),
            None => {
                let is_own = address.is_loopback() || address.is_unspecified();
                is_own || address.is_unicast_link_local()
            }
        },
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        None => false,
    }
}

const fn is_near_v4(address: Ipv4Addr) -> bool {
    address.is_loopback() || address.is_unspecified() || address.is_link_local()
}

/// What is asked for of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    /// From this byte on.
    From(u64),
    /// These bytes, of which there are some.
    Within(Range<u64>),
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

impl Part {
    /// Returns the header `Range` that asks for it.
    pub(crate) fn header(&self) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::From(start) => Some(format!("bytes={start}-")),
            Self::Within(range) => {
                let last = range.end.saturating_sub(1);
                Some(format!("bytes={}-{last}", range.start))
            }
        }
    }
}

/// What is asked of a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) url: &'a Url,
    /// The header `Range`, if not all of it is wanted.
    pub(crate) range: Option<&'a str>,
}

/// Asks a server.
pub(crate) async fn request(client: &Client, question: &Question<'_>) -> Result<Response, Failure> {
    let url = question.url;
    let (http, no_tls) = match &client.0 {
        Way::Network { http, no_tls } => (http, no_tls),
        Way::Gateway(gateway) => return gateway.ask(question).await,
    };
    if let Some(why) = no_tls.as_ref().filter(|_| url.scheme() == "https") {
        let why = format!("this node knows nobody who vouches for servers: {why}");
        return Err(Failure::Lasting(why.into()));
    }
    let mut request = http.get(url.clone()).header(ACCEPT_ENCODING, "identity");
    if let Some(range) = question.range {
        request = request.header(RANGE, range);
    }
    match request.send().await {
        Ok(response) => Ok(response),
        // A loop of redirects does not end by asking again, and no certificate
        // gets better within a minute.
        Err(error) if error.is_redirect() || error.is_builder() || is_untrusted(&error) => {
            Err(Failure::Lasting(chain(&error).into()))
        }
        Err(error) => Err(Failure::Passing(chain(&error).into())),
    }
}

/// Returns whether the server's certificate, or its kind of TLS, was refused.
fn is_untrusted(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(
            rustls::Error::InvalidCertificate(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::PeerIncompatible(_),
        ) = cause.downcast_ref()
        {
            return true;
        }
        // An I/O error carries the one that it was made of, and passes it over
        // when it is asked for its source.
        let carried = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match carried {
            Some(carried) => Some(carried),
            None => cause.source(),
        };
    }
    false
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// The bytes that the body holds; `None` if it holds none.
    pub(crate) body: Option<Range<u64>>,
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
        let body = match range {
            "*" => None,
            range => {
                let (start, last) = range.split_once('-')?;
                let (start, last): (u64, u64) = (start.parse().ok()?, last.parse().ok()?);
                let end = last.checked_add(1)?;
                (start < end).then_some(Some(start..end))?
            }
        };
        let size = match size {
            "*" => None,
            size => Some(size.parse().ok()?),
        };
        Some(Self { body, size })
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
        let range = |body, size| Some(ContentRange { body, size });
        for (text, expected) in [
            ("bytes 5-9/10", range(Some(5..10), Some(10))),
            ("bytes 0-0/1", range(Some(0..1), Some(1))),
            ("bytes */10", range(None, Some(10))),
            ("bytes 5-9/*", range(Some(5..10), None)),
            ("bytes 9-5/10", None),
            ("bytes=5-9/10", None),
            ("bytes 5-9", None),
            ("bytes -/", None),
            ("bytes 99999999999999999999-/1", None),
            ("bytes 0-18446744073709551615/*", None),
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
