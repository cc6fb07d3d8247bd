//! Repositories of every kind, as a node meets them: `blobs` on bad servers and
//! `parts` of them, `mirrors` beside them, `metadata` from bad publishers and
//! `attacks` by worse ones, a `client` of others' suites, `tls` behind certificates,
//! `http2` over TLS, all as an `environment` sets it, and through the `gateway`. `hostile`
//! servers meet all of it, `changes` come in mid-flight, `breaks` are tried one by one, and `bombs`
//! are weighed.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers of a test end it by panicking, as its functions may"
)]

mod attacks;
mod blobs;
mod bombs;
mod breaks;
mod changes;
mod client;
mod environment;
mod gateway;
mod hostile;
mod http2;
mod metadata;
mod mirrors;
mod parts;
mod publisher;
mod tls;
mod web;
