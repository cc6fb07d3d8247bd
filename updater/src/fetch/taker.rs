use super::missing::Missing;
use crate::ports::{FetchError, Stop, Verdict};

/// What takes the bytes, and where they lie.
pub(super) type Sink<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Verdict;

/// The caller's end of a transfer: what is missing still, and who takes it.
pub(super) struct Taker<'a> {
    pub(super) missing: Missing,
    pub(super) stop: &'a Stop,
    sink: Sink<'a>,
    share: Share,
}

/// How much of what the caller wants a server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    All,
    /// Others sent what is not missing any more.
    Rest,
}

/// Why a server did not bring everything.
#[derive(Debug)]
pub(super) enum Ended {
    /// The caller wants no more.
    Stopped,
    /// What it sent is not the blob's.
    Bad,
    /// The same, of everything that came since the beginning.
    BadWhole,
    /// It sends no parts, and has to be read through.
    NoParts,
    Failed(FetchError),
}

impl<'a> Taker<'a> {
    pub(super) fn new(missing: Missing, stop: &'a Stop, sink: Sink<'a>) -> Self {
        Self {
            missing,
            stop,
            sink,
            share: Share::All,
        }
    }

    /// Turns to the next server, while `wanted` is what the caller wants in all.
    pub(super) fn begin(&mut self, wanted: &Missing) -> Share {
        self.share = match self.missing == *wanted {
            true => Share::All,
            false => Share::Rest,
        };
        self.share
    }

    /// Hands bytes over, once no pause is asked for.
    pub(super) fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Ended> {
        self.stop.checkpoint().map_err(|_| Ended::Stopped)?;
        let mut verdict = (self.sink)(offset, bytes);
        if verdict == Verdict::BadTogether && self.share == Share::Rest {
            // Whoever sent the other part may be to blame.
            verdict = Verdict::Taken;
        }
        match verdict {
            Verdict::Taken => {
                let count = u64::try_from(bytes.len()).expect("a piece is small");
                self.missing.remove(offset..offset + count);
                Ok(())
            }
            Verdict::Bad | Verdict::BadTogether => Err(Ended::Bad),
            Verdict::BadWhole => Err(Ended::BadWhole),
            Verdict::Stop => Err(Ended::Stopped),
        }
    }
}
