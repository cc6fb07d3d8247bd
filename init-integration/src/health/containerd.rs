//! A check that containerd serves its API.
//!
//! A socket that accepts proves nothing: systemd would do that for a containerd that
//! hangs. So its version service is called, the cheapest that goes through all of it.
//! gRPC is HTTP/2, of which one call needs little; the message asked is empty, and
//! of the answer only its being there counts, so that no protobuf is parsed.

use std::io;
use std::path::Path;

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, Request, StatusCode};
use tokio::net::UnixStream;

use super::look::Look;

const VERSION: &str = "http://containerd/containerd.services.version.v1.Version/Version";

/// A gRPC message: not compressed, no bytes.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// More than any version takes, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("cannot connect")]
    Connect { source: io::Error },
    #[error("cannot make up the call")]
    Request { source: http::Error },
    #[error("does not speak HTTP/2 as it should")]
    Http { source: h2::Error },
    #[error("answers with HTTP status {0}")]
    Status(StatusCode),
    #[error("answers with gRPC status {status} {message:?}")]
    Grpc { status: String, message: String },
    #[error("answers without an answer")]
    Empty,
    #[error("answers more than {ANSWER_MAX} bytes")]
    TooLong,
}

/// Looks whether the containerd on `socket` answers a call.
pub(super) async fn look(socket: &Path) -> Look {
    match call(socket).await {
        Ok(()) => Look::Well,
        Err(error) => {
            let why = crate::report::Chain(&error).to_string();
            Look::ill(format!("the API on {} {why}", socket.display()))
        }
    }
    .blaming(Some("containerd.service"))
}

async fn call(socket: &Path) -> Result<(), CallError> {
    let http = |source| CallError::Http { source };
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| CallError::Connect { source })?;
    let (client, connection) = h2::client::handshake(stream).await.map_err(http)?;
    // The connection has to be driven while the call is made, and ends with it.
    tokio::select! {
        outcome = exchange(client) => outcome,
        outcome = connection => {
            outcome.map_err(http)?;
            Err(CallError::Empty)
        }
    }
}

async fn exchange(client: h2::client::SendRequest<Bytes>) -> Result<(), CallError> {
    let http = |source| CallError::Http { source };
    let request = Request::post(VERSION)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|source| CallError::Request { source })?;
    let mut client = client.ready().await.map_err(http)?;
    let (response, mut message) = client.send_request(request, false).map_err(http)?;
    message
        .send_data(Bytes::from_static(EMPTY_MESSAGE), true)
        .map_err(http)?;
    let response = response.await.map_err(http)?;
    if response.status() != StatusCode::OK {
        return Err(CallError::Status(response.status()));
    }
    // A refusal may come in the headers, without a body.
    check_status(response.headers())?;
    let mut body = response.into_body();
    let length = read_through(&mut body).await?;
    let trailers = body.trailers().await.map_err(http)?;
    check_status(&trailers.unwrap_or_default())?;
    if length <= EMPTY_MESSAGE.len() {
        return Err(CallError::Empty);
    }
    Ok(())
}

/// Reads the body to its end and returns its length in bytes.
async fn read_through(body: &mut RecvStream) -> Result<usize, CallError> {
    let mut length = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|source| CallError::Http { source })?;
        length += chunk.len();
        if length > ANSWER_MAX {
            return Err(CallError::TooLong);
        }
        body.flow_control()
            .release_capacity(chunk.len())
            .map_err(|source| CallError::Http { source })?;
    }
    Ok(length)
}

fn check_status(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match text("grpc-status") {
        Some(status) if status != "0" => Err(CallError::Grpc {
            status,
            message: text("grpc-message").unwrap_or_default(),
        }),
        Some(_) | None => Ok(()),
    }
}
