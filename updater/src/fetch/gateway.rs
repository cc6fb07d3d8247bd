//! Asking through the gateway, for a process that has no network itself.

use std::path::Path;

use futures_util::StreamExt;
use reqwest::header::RANGE;
use reqwest::{Response, StatusCode};

use super::http::{BuildClientError, Failure, Question, chain};
use super::patience::Patience;
use crate::authorities::Authorities;
use crate::gateway::{AUTHORITIES, AUTHORITIES_PATH, FAILURE, LASTING, PASSING, URL};

/// Shorter than the gateway stays: it is not kept from going by connections that
/// nobody uses.
const KEPT: std::time::Duration = std::time::Duration::from_secs(10);
/// The longest reason that is read.
const LONGEST_REASON: usize = 4096;

/// The gateway, seen from the daemon.
#[derive(Debug, Clone)]
pub(super) struct Gateway {
    http: reqwest::Client,
    authorities: Authorities,
}

impl Gateway {
    pub(super) fn new(
        socket: &Path,
        patience: &Patience,
        authorities: &Authorities,
    ) -> Result<Self, BuildClientError> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .http1_only()
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(patience.connect)
            .pool_idle_timeout(KEPT)
            .build()?;
        Ok(Self {
            http,
            authorities: authorities.clone(),
        })
    }

    pub(super) async fn ask(&self, question: &Question<'_>) -> Result<Response, Failure> {
        let response = self.ask_once(question).await?;
        if response.status() != StatusCode::PRECONDITION_REQUIRED {
            return judge(response).await;
        }
        // It has begun anew, or never heard of them.
        let told = self
            .http
            .put(at(AUTHORITIES_PATH))
            .body(self.authorities.pem().to_owned());
        let answer = told.send().await.map_err(unreachable)?;
        if !answer.status().is_success() {
            let why = reason(answer).await;
            return Err(Failure::Lasting(why.into()));
        }
        judge(self.ask_once(question).await?).await
    }

    async fn ask_once(&self, question: &Question<'_>) -> Result<Response, Failure> {
        let mut request = self.http.get(at("/")).header(URL, question.url.as_str());
        if let Some(range) = question.range {
            request = request.header(RANGE, range);
        }
        if !self.authorities.is_empty() {
            request = request.header(AUTHORITIES, self.authorities.digest());
        }
        request.send().await.map_err(unreachable)
    }
}

/// The host's name means nothing: there is but one at the other end of the socket.
fn at(path: &str) -> String {
    format!("http://gateway{path}")
}

fn unreachable(error: reqwest::Error) -> Failure {
    Failure::Passing(format!("the updater's gateway to the network: {}", chain(&error)).into())
}

async fn judge(response: Response) -> Result<Response, Failure> {
    let failure = response.headers().get(FAILURE);
    match failure.and_then(|failure| failure.to_str().ok()) {
        None => Ok(response),
        Some(LASTING) => Err(Failure::Lasting(reason(response).await.into())),
        Some(PASSING | _) => Err(Failure::Passing(reason(response).await.into())),
    }
}

async fn reason(response: Response) -> String {
    let mut text = Vec::new();
    let mut body = response.bytes_stream();
    while let Some(Ok(bytes)) = body.next().await {
        text.extend_from_slice(&bytes);
        if text.len() >= LONGEST_REASON {
            break;
        }
    }
    text.truncate(LONGEST_REASON);
    String::from_utf8_lossy(&text).into_owned()
}
