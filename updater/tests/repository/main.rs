//! Repositories of every kind, as a node meets them: `blobs` on bad servers,
//! `metadata` from bad publishers.

mod blobs;
mod metadata;
mod publisher;
mod web;
