use std::collections::BTreeSet;
use std::time::Duration;

use release::{Blob, Digest};
use tokio::time::Instant;

use crate::config::Repository;
use crate::ports::RangeSupport;
use crate::turns::{Fit, Turns};

/// How long a server that failed is asked after the others. About as long as a
/// stage takes: each of its calls would spend its patience on it anew.
const REST: Duration = Duration::from_secs(300);

/// The repository and its mirrors.
#[derive(Debug)]
pub(super) struct Servers {
    all: Vec<Server>,
    turns: Turns,
    /// Who sent bytes that are not this blob's.
    liars: Option<(Digest, BTreeSet<usize>)>,
}

#[derive(Debug)]
struct Server {
    repository: Repository,
    ranges: RangeSupport,
}

impl Servers {
    pub(super) fn new(repositories: impl IntoIterator<Item = Repository>) -> Self {
        let all = repositories.into_iter().map(|repository| Server {
            ranges: match repository.is_remote() {
                true => RangeSupport::Unknown,
                false => RangeSupport::Yes,
            },
            repository,
        });
        let all: Vec<_> = all.collect();
        Self {
            turns: Turns::new(all.len(), REST),
            all,
            liars: None,
        }
    }

    /// Returns who is asked for `blob`, in order: those not at all that lied.
    pub(super) fn turns(&self, blob: &Blob) -> Vec<usize> {
        let mut turns = self.turns.order(Instant::now());
        turns.retain(|server| !self.has_lied(*server, blob));
        turns
    }

    pub(super) fn repository(&self, server: usize) -> Option<&Repository> {
        self.all.get(server).map(|server| &server.repository)
    }

    /// Returns what is known of `server`; without one, of the next.
    pub(super) fn ranges(&self, server: Option<usize>) -> RangeSupport {
        let server = server.or_else(|| self.turns.order(Instant::now()).first().copied());
        let server = server.and_then(|server| self.all.get(server));
        server.map_or(RangeSupport::Unknown, |server| server.ranges)
    }

    pub(super) fn learn(&mut self, server: usize, ranges: RangeSupport) {
        if let Some(server) = self.all.get_mut(server) {
            server.ranges = ranges;
        }
    }

    /// Lets `server` rest after a failure, or calls it fit.
    pub(super) fn judge(&mut self, server: usize, fit: Fit) {
        self.turns.judge(server, fit, Instant::now());
    }

    /// Takes from `server` its turn for `blob`.
    pub(super) fn distrust(&mut self, server: usize, blob: &Blob) {
        match &mut self.liars {
            Some((digest, liars)) if *digest == blob.sha256 => {
                liars.insert(server);
            }
            _ => self.liars = Some((blob.sha256, BTreeSet::from([server]))),
        }
    }

    /// Gives everybody a new chance.
    pub(super) fn forgive(&mut self) {
        self.liars = None;
    }

    fn has_lied(&self, server: usize, blob: &Blob) -> bool {
        let liars = self.liars.as_ref();
        liars.is_some_and(|(digest, liars)| *digest == blob.sha256 && liars.contains(&server))
    }
}
