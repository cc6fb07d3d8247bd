//! A check that an HTTP endpoint answers.

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};

use super::look::Look;

/// Returns the client of all HTTP checks: it follows no redirection, so that a status can be
/// asked for, and heeds no proxy, since what is checked is this node.
pub(super) fn client() -> Result<Client, reqwest::Error> {
    Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        // A new connection each time: an old one says nothing about who listens now.
        .pool_max_idle_per_host(0)
        .user_agent(concat!("bistable-health-gate/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Looks whether `url` answers a GET with `wanted`, or with any 2xx. The body is not read.
pub(super) async fn look(client: &Client, url: &Url, wanted: Option<u16>) -> Look {
    match client.get(url.clone()).send().await {
        Ok(response) => judge(url, response.status(), wanted),
        Err(error) => Look::failed(&error),
    }
}

fn judge(url: &Url, status: StatusCode, wanted: Option<u16>) -> Look {
    match wanted {
        Some(wanted) if status.as_u16() == wanted => Look::Well,
        Some(wanted) => Look::ill(format!("{url} answers {status}, not {wanted}")),
        None if status.is_success() => Look::Well,
        None => Look::ill(format!("{url} answers {status}")),
    }
}
