use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;

use super::Patience;
use super::http::Client;
use super::missing::Missing;
use super::pieces::Piece;
use super::throttle::Throttle;
use crate::ports::{Cause, FetchError, RangeSupport, Stop};

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
    pub(super) flow: Mutex<Flow>,
}

/// What has come lately, and how long was waited for it. The time of several connections
/// adds up; what they wait for a disk, or by a cap of ours, is not the server's.
#[derive(Debug, Default)]
pub(super) struct Flow {
    waited: Duration,
    bytes: u64,
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

    /// Notes how long the server was waited for, and what came. Returns why it is too slow,
    /// if it is.
    pub(super) fn note(&self, waited: Duration, bytes: u64) -> Result<(), Cause> {
        let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
        flow.waited += waited;
        flow.bytes += bytes;
        if flow.waited < self.patience.measure {
            return Ok(());
        }
        let Flow { waited, bytes } = std::mem::take(&mut *flow);
        let least = self.patience.rate.saturating_mul(waited.as_secs());
        match bytes >= least {
            true => Ok(()),
            false => {
                let seconds = waited.as_secs();
                Err(format!("only {bytes} bytes came in {seconds} s of a connection").into())
            }
        }
    }
}
