use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::Url;

use super::Patience;
use super::http::Client;
use super::missing::Missing;
use super::pieces::Piece;
use super::throttle::Throttle;
use crate::ports::{FetchError, RangeSupport, Stop};

/// What the connections to one server have in common.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) client: Client,
    pub(super) url: Url,
    /// The blob's.
    pub(super) size: u64,
    /// Pieces end on a multiple of this.
    pub(super) grain: u64,
    pub(super) patience: Patience,
    pub(super) stop: Stop,
    pub(super) throttle: Throttle,
    pub(super) received: Arc<AtomicU64>,
    /// What nobody has taken on.
    pub(super) queue: Mutex<Missing>,
}

/// How a connection goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Reads from the first missing byte to the last, and drops what nobody
    /// wants. A server that starts from the beginning will do.
    Through,
    /// Asks for one part after the other.
    Parts,
}

/// What a connection tells.
#[derive(Debug)]
pub(super) enum Event {
    Ranges(RangeSupport),
    Piece(Piece),
    /// The last.
    Failed(FetchError),
}

impl Line {
    pub(super) fn queue(&self) -> MutexGuard<'_, Missing> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
