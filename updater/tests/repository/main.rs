//! Repositories of every kind, as a node meets them: `blobs` on bad servers,
//! `metadata` from bad publishers, `tls` behind certificates.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the helpers of a test end it by panicking, as its functions may"
)]

mod blobs;
mod metadata;
mod publisher;
mod tls;
mod web;
