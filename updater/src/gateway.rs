//! The one process of the updater that touches the network.
//!
//! ```text
//! daemon: disks, no network ─▶ unix socket, HTTP/1.1 ─▶ gateway: network, no disks ─▶ servers
//! ```
//! What parses the answers of strangers (TLS, HTTP/2, redirects, proxies, names) has
//! no device, no capability and no writable folder; what writes disks has no network. The
//! gateway believes nothing and decides nothing: signatures and hashes are the daemon's,
//! so the worst that a gateway in wrong hands can do is what a server can.
//!
//! The protocol, on one listening socket, for one client:
//!
//! ```text
//! GET /             bistable-url: URL     Range and bistable-authorities: DIGEST if there are any
//!   the server's status, some of its headers, its body as it comes
//!   502             bistable-failure: passing | lasting, the reason as body
//!   428             the authorities of that digest are to be told first
//! PUT /authorities  certificates in PEM form, whose SHA-256 in hex is the digest
//!   204             known until the gateway ends; 400 with the reason if they cannot be used
//! ```
//! Start reading at [`serve`]; the other end is [`crate::fetch::build_gateway_client`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue, RANGE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use reqwest::{Body, Url};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::authorities::Authorities;
use crate::fetch::{Client, Failure, Patience, Question, build_client, chain, request};

/// Where systemd listens for it.
pub const SOCKET: &str = "/run/bistable-gateway.socket";
/// What is asked for.
pub(crate) const URL: HeaderName = HeaderName::from_static("bistable-url");
/// The digest of the authorities that vouch for the server, beside the system's.
pub(crate) const AUTHORITIES: HeaderName = HeaderName::from_static("bistable-authorities");
/// That it is the gateway who answers, and whether another time may be better.
pub(crate) const FAILURE: HeaderName = HeaderName::from_static("bistable-failure");
pub(crate) const PASSING: &str = "passing";
pub(crate) const LASTING: &str = "lasting";
pub(crate) const AUTHORITIES_PATH: &str = "/authorities";

/// Of a server's headers, those that the daemon reads.
const PASSED_ON: [HeaderName; 3] = [ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE];
/// A transfer has four, and the metadata one.
const MOST_CONNECTIONS: usize = 16;
/// What a connection may hold of a body that the daemon does not read yet.
const BUFFER: usize = 256 << 10;
/// Every authority that browsers know has 220 KB.
const MOST_AUTHORITIES: usize = 1 << 20;
/// The settings' authorities, and those of the settings before.
const MOST_CLIENTS: usize = 4;

/// Answers on `listener` until nobody has been connected for as long as `idle`: systemd
/// starts another when somebody comes.
///
/// # Errors
/// The socket is none that can be listened on.
pub async fn serve(listener: UnixListener, patience: Patience, idle: Duration) -> io::Result<()> {
    let gateway = Arc::new(Gateway {
        patience,
        clients: Mutex::default(),
    });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => {
                let (stream, _) = accepted?;
                connections.spawn(connected(Arc::clone(&gateway), stream));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = sleep(idle), if connections.is_empty() => return Ok(()),
        }
    }
}

async fn connected(gateway: Arc<Gateway>, stream: UnixStream) {
    let answer = service_fn(|request| {
        let gateway = Arc::clone(&gateway);
        async move { Ok::<_, Infallible>(gateway.answer(request).await) }
    });
    let served = http1::Builder::new()
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        // A client that has enough, or a server that broke off in the middle of a body.
        tracing::debug!(%error, "a connection has ended early");
    }
}

struct Gateway {
    patience: Patience,
    /// By the digest of their authorities.
    clients: Mutex<BTreeMap<String, Client>>,
}

impl Gateway {
    async fn answer(&self, asked: Request<Incoming>) -> Response<Body> {
        match (asked.method(), asked.uri().path()) {
            (&Method::GET, "/") => match self.fetch(asked.headers()).await {
                Ok(response) => passed_on(response),
                Err(refusal) => refusal.answer(),
            },
            (&Method::PUT, AUTHORITIES_PATH) => self.learn(asked.into_body()).await,
            _ => told(StatusCode::NOT_FOUND, "the gateway only fetches".to_owned()),
        }
    }

    async fn fetch(&self, headers: &HeaderMap) -> Result<reqwest::Response, Refusal> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let url = text(URL).and_then(|url| Url::parse(url).ok());
        let Some(url) = url else {
            return Err(Refusal::Failed(LASTING, "no URL was asked for".to_owned()));
        };
        let client = self.client(text(AUTHORITIES).unwrap_or_default())?;
        let question = Question {
            url: &url,
            range: text(RANGE),
        };
        request(&client, &question).await.map_err(|failure| {
            let (kind, cause) = match failure {
                Failure::Passing(cause) => (PASSING, cause),
                Failure::Lasting(cause) | Failure::NotFound(cause) => (LASTING, cause),
                Failure::PastEnd(_) => (LASTING, "the file has ended".into()),
            };
            Refusal::Failed(kind, cause.to_string())
        })
    }

    fn client(&self, digest: &str) -> Result<Client, Refusal> {
        if let Some(client) = self.clients().get(digest) {
            return Ok(client.clone());
        }
        if !digest.is_empty() {
            return Err(Refusal::UnknownAuthorities);
        }
        let client = build_client(&self.patience, &Authorities::default());
        let client = client.map_err(|error| Refusal::Failed(LASTING, chain(&error)))?;
        self.keep(digest.to_owned(), client.clone());
        Ok(client)
    }

    async fn learn(&self, body: Incoming) -> Response<Body> {
        let refuse = |why: String| told(StatusCode::BAD_REQUEST, why);
        let most = u64::try_from(MOST_AUTHORITIES).unwrap_or(u64::MAX);
        if body.size_hint().lower() > most {
            return refuse(format!("they are larger than {most} bytes"));
        }
        let body = match Limited::new(body, MOST_AUTHORITIES).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return refuse(error.to_string()),
        };
        let Ok(pem) = std::str::from_utf8(&body) else {
            return refuse("certificates in PEM form are text".to_owned());
        };
        let authorities = match Authorities::parse(pem) {
            Ok(authorities) => authorities,
            Err(error) => return refuse(error.to_string()),
        };
        match build_client(&self.patience, &authorities) {
            Ok(client) => self.keep(authorities.digest(), client),
            Err(error) => return refuse(chain(&error)),
        }
        told(StatusCode::NO_CONTENT, String::new())
    }

    fn keep(&self, digest: String, client: Client) {
        let mut clients = self.clients();
        if clients.len() >= MOST_CLIENTS {
            clients.clear();
        }
        clients.insert(digest, client);
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn passed_on(response: reqwest::Response) -> Response<Body> {
    let (parts, body) = Response::<Body>::from(response).into_parts();
    let mut answer = Response::new(body);
    *answer.status_mut() = parts.status;
    for name in PASSED_ON {
        if let Some(value) = parts.headers.get(&name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    answer
}

/// Why the gateway itself answers.
enum Refusal {
    /// Of a kind, and for a reason.
    Failed(&'static str, String),
    UnknownAuthorities,
}

impl Refusal {
    fn answer(self) -> Response<Body> {
        match self {
            Self::Failed(kind, why) => {
                let mut answer = told(StatusCode::BAD_GATEWAY, why);
                let kind = HeaderValue::from_static(kind);
                answer.headers_mut().insert(FAILURE, kind);
                answer
            }
            Self::UnknownAuthorities => told(
                StatusCode::PRECONDITION_REQUIRED,
                "these authorities are not known here".to_owned(),
            ),
        }
    }
}

fn told(status: StatusCode, why: String) -> Response<Body> {
    let mut answer = Response::new(Body::from(why));
    *answer.status_mut() = status;
    answer
}
