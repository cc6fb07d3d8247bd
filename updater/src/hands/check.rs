use super::{Device, Hands, Network, Order, record, releases};
use crate::checks::{Checks, Sound, Tell};
use crate::history::Happened;
use crate::machine::{Note, Report, Stopped};
use crate::ports::{Clock, Offer, Record};
use crate::records;
use crate::refusal::Failure;

impl<D: Device, N: Network, C: Clock> Hands<D, N, C> {
    /// Asks the repository what there is, and writes down how that went: first in the record, so
    /// that a disk that takes no record makes no endless list of the same failure.
    pub(super) fn refresh(&mut self, order: &Order) -> Result<Report, Stopped> {
        let checked = self.network.refresh(&order.stop).map_err(releases);
        let noted = match &checked {
            Ok(offer) => self.note_sound_check(offer, order),
            Err(Stopped::Failed(failure)) => self.note_failed_check(failure),
            Err(Stopped::Asked) => Ok(None),
        };
        let told = noted.and_then(|note| match note {
            Some(note) => self.remember(&note, order).map(|()| true),
            None => Ok(false),
        });
        // What the repository said counts all the same.
        let told = told.unwrap_or_else(|stopped| {
            if let Stopped::Failed(failure) = stopped {
                tracing::error!(error = %failure, "cannot write down how the check went");
            }
            true
        });
        let offer = Box::new(checked?);
        let node = if told { self.look() } else { None };
        Ok(Report::Refreshed { offer, node })
    }

    fn note_sound_check(&self, offer: &Offer, order: &Order) -> Result<Option<Note>, Stopped> {
        let now = self.clock.now();
        let source = order.source.as_ref();
        let sound = source.map(|source| Sound::new(now, source, offer));
        let mut checks = self.read_checks()?;
        let ended = checks.succeed(sound);
        records::write(&self.device, Record::Checks, &checks).map_err(record)?;
        Ok(ended.map(|failing| Note {
            event: Happened::CheckRecovered,
            version: None,
            root_hash: None,
            slot: None,
            message: failing.describe(),
            error: None,
        }))
    }

    fn note_failed_check(&self, failure: &Failure) -> Result<Option<Note>, Stopped> {
        let mut checks = self.read_checks()?;
        let tell = checks.fail(failure.name, self.clock.now());
        records::write(&self.device, Record::Checks, &checks).map_err(record)?;
        Ok(match tell {
            Tell::Yes => Some(Note {
                event: Happened::CheckFailed,
                version: None,
                root_hash: None,
                slot: None,
                message: failure.message.clone(),
                error: Some(failure.name),
            }),
            Tell::No => None,
        })
    }

    fn read_checks(&self) -> Result<Checks, Stopped> {
        let checks = records::read(&self.device, Record::Checks).map_err(record)?;
        Ok(checks.unwrap_or_default())
    }
}
