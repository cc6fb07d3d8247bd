//! Which releases there are, proven by The Update Framework (TUF).
//!
//! The root of trust lies in the verified image; everything else may be a lie
//! until metadata says otherwise. In layers, of which each uses the ones below:
//!
//! - [`TrustedReleases`], what the daemon asks: mirrors, each as if it were the
//!   only one, so that no set of metadata is mixed from several; a bound on the
//!   time of it all ([`Patience::metadata`]); [`memory`], whether the clock can be
//!   used to tell what expired; [`origin`], which root of trust counts;
//! - [`refresh()`], which fetches ([`remote`]), has it judged, and keeps it
//!   ([`store`]). The test client `bistable-trust` begins here;
//! - [`workflow`] and [`delegation`], the rules of the specification, and
//!   nothing else: no file, no network, no clock;
//! - [`metadata`], files and their signatures, with the help of `tough`, and
//!   [`described`], what they say of other files.
//!
//! Metadata is refreshed for every question, as the TUF client workflow wants.

mod delegation;
mod described;
mod failure;
mod memory;
mod metadata;
mod origin;
mod refresh;
mod remote;
mod store;
mod untrusted;
mod workflow;

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use partition_layout::Version;
use release::limits::{MAX_CHANNEL_BYTES, MAX_RELEASE_BYTES};
use release::{Channel, ChannelName, Release, release_target, version_of_target};
use tokio::runtime::Handle;
use tokio::time::Instant;

pub use self::described::Target;
use self::failure::Failures;
pub use self::refresh::{RefreshError, Start, Trusted, refresh};
pub use self::remote::{FetchFileError, RemoteFolder};
pub use self::store::Store;
pub use self::untrusted::Untrusted;
use crate::config::Repository;
use crate::fetch::{Client, NO_REPOSITORY, Patience, chain};
use crate::ports::{Clock, Offer, Releases, ReleasesError, Stop};
use crate::turns::{Fit, Turns};

/// Where the root of trust lies in the image.
pub const ROOT_OF_TRUST: &str = "/usr/share/bistable/root.json";
/// Where metadata that was trusted is remembered.
pub const STORE: &str = "/var/lib/bistable/tuf";
/// Is there once systemd-timesyncd has set the clock by a server.
pub const CLOCK_IS_SET: &str = "/run/systemd/timesync/synchronized";

/// How long a repository that had no word to be believed is asked after its mirrors. A
/// check, a plan and a stage in a row pay for it once; one that is repaired is heard again
/// soon.
const REST: Duration = Duration::from_secs(600);

/// Whom the node believes, and where it keeps what it learned.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where releases come from: a later one is asked when the earlier fail.
    pub repositories: Vec<Repository>,
    /// The channel that the node follows.
    pub channel: ChannelName,
    /// See [`ROOT_OF_TRUST`].
    pub root_of_trust: PathBuf,
    /// See [`STORE`].
    pub store: PathBuf,
    /// See [`CLOCK_IS_SET`].
    pub clock_is_set: PathBuf,
    /// When the image was built, if it says so: no clock is right that reads
    /// an earlier time.
    pub built: Option<Timestamp>,
}

/// The releases of one repository and its mirrors.
#[derive(Debug)]
pub struct TrustedReleases<C> {
    settings: Settings,
    turns: Turns,
    client: Client,
    patience: Patience,
    clock: C,
    runtime: Handle,
}

/// A set of metadata that was found sound.
struct Loaded {
    trusted: Trusted,
    targets: RemoteFolder,
    failures: Failures,
}

impl<C: Clock> TrustedReleases<C> {
    /// Returns the releases of the repositories in `settings`; nothing is read
    /// yet. It must be used from a thread that is none of `runtime`'s own.
    pub fn new(
        settings: Settings,
        client: Client,
        patience: Patience,
        clock: C,
        runtime: Handle,
    ) -> Self {
        Self {
            turns: Turns::new(settings.repositories.len(), REST),
            settings,
            client,
            patience,
            clock,
            runtime,
        }
    }

    /// Asks one repository after the other until one has an answer that can be
    /// believed, all of it: sets of metadata are not mixed. Ends at the limit,
    /// or when `stop` is set.
    fn ask<T>(
        &mut self,
        stop: &Stop,
        question: impl AsyncFn(Loaded) -> Result<T, ReleasesError>,
    ) -> Result<T, ReleasesError> {
        let repositories = &self.settings.repositories;
        let patience = match repositories.len() {
            0 | 1 => self.patience.clone(),
            _ => self.patience.with_another(),
        };
        let deadline = Instant::now() + self.patience.metadata;
        let mut failures = Vec::new();
        let order = self.turns.order(Instant::now());
        for (turn, server) in order.iter().copied().enumerate() {
            let Some(repository) = repositories.get(server) else {
                continue;
            };
            let limit =
                deadline.saturating_duration_since(Instant::now()) / share(turn, order.len());
            let asked = self.runtime.block_on(async {
                let work = async { question(self.load(repository, &patience).await?).await };
                tokio::select! {
                    () = stop.wait() => Err(ReleasesError::Stopped),
                    result = tokio::time::timeout(limit, work) => result.unwrap_or_else(|_| {
                        Err(ReleasesError::RepositoryUnreachable {
                            repository: repository.to_string(),
                            source: format!("its metadata did not come within {:.0} s", limit.as_secs_f64()).into(),
                        })
                    }),
                }
            });
            match asked {
                Err(
                    error @ (ReleasesError::MetadataExpired { .. }
                    | ReleasesError::MetadataUntrusted { .. }
                    | ReleasesError::RepositoryUnreachable { .. }),
                ) => {
                    if repositories.len() > 1 {
                        tracing::warn!(error = %chain(&error), "a repository has no word to be believed");
                    }
                    self.turns.judge(server, Fit::No, Instant::now());
                    failures.push(error);
                }
                // Nothing that another repository could mend.
                Err(error @ (ReleasesError::Stopped | ReleasesError::Local { .. })) => {
                    return Err(error);
                }
                answer @ (Ok(_) | Err(ReleasesError::UnknownVersion { .. })) => {
                    self.turns.judge(server, Fit::Yes, Instant::now());
                    return answer;
                }
            }
        }
        Err(
            failure::sum(failures).unwrap_or_else(|| ReleasesError::RepositoryUnreachable {
                repository: "the repository".to_owned(),
                source: NO_REPOSITORY.into(),
            }),
        )
    }

    async fn load(
        &self,
        repository: &Repository,
        patience: &Patience,
    ) -> Result<Loaded, ReleasesError> {
        let failures = Failures::new(repository);
        let now = self.clock.now();
        memory::check_built(now, self.settings.built).map_err(|why| failures.expired(why))?;

        let root_of_trust = std::fs::read(&self.settings.root_of_trust).map_err(|error| {
            let doing = format!("read {}", self.settings.root_of_trust.display());
            ReleasesError::Local {
                doing,
                source: error.into(),
            }
        })?;
        let failed = |error| failures.of(error);
        let store = Store::new(&self.settings.store);
        let set = match self.settings.clock_is_set.exists() {
            true => memory::Set::ByServer,
            false => memory::Set::Unknown,
        };
        let known = memory::latest(&store).map_err(failed)?;
        memory::review(known, now, set).map_err(|why| failures.expired(why))?;

        let folder = |url| RemoteFolder::new(url, self.client.clone(), patience.clone());
        let start = origin::start(&store, root_of_trust).map_err(failed)?;
        let trusted = refresh(&start, &store, &folder(repository.metadata()), now)
            .await
            .map_err(failed)?;
        memory::remember(&store, now).map_err(failed)?;
        let targets = folder(repository.targets());
        Ok(Loaded {
            trusted,
            targets,
            failures,
        })
    }
}

/// Returns by what the time that is left is divided for the server whose turn it is. Who drips
/// takes no more than his share, and on a slow line that of one of many is too little: the
/// first has half, and the others what it and those before them leave.
fn share(turn: usize, servers: usize) -> u32 {
    let left = servers.saturating_sub(turn).max(1);
    let share = if turn == 0 { left.min(2) } else { left };
    u32::try_from(share).unwrap_or(u32::MAX)
}

impl Loaded {
    /// Reads a target, or `None` if the metadata names no such one.
    async fn target(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, ReleasesError> {
        let failed = |error| self.failures.of(error);
        let Some(target) = self.trusted.find(name).await.map_err(failed)? else {
            return Ok(None);
        };
        let length = target.length();
        if length > max {
            let why = format!("{name} has {length} bytes, which is more than {max}");
            return Err(self.failures.untrusted(why));
        }
        let read = self.trusted.read(&self.targets, name, &target).await;
        read.map(Some).map_err(failed)
    }

    async fn channel(&self, name: &ChannelName) -> Result<Channel, ReleasesError> {
        let target = name.target();
        let bytes = self
            .target(&target, MAX_CHANNEL_BYTES)
            .await?
            .ok_or_else(|| self.failures.unknown(format!("channel {name}")))?;
        let channel = Channel::parse(&bytes)
            .map_err(|error| self.failures.untrusted(format!("{target}: {error}")))?;
        if channel.channel != *name {
            let why = format!("{target} is the file of channel {}", channel.channel);
            return Err(self.failures.untrusted(why));
        }
        Ok(channel)
    }

    async fn release(&self, version: &Version) -> Result<Release, ReleasesError> {
        let target = release_target(version);
        let bytes = self
            .target(&target, MAX_RELEASE_BYTES)
            .await?
            .ok_or_else(|| self.failures.unknown(version.to_string()))?;
        let release = Release::parse(&bytes)
            .map_err(|error| self.failures.untrusted(format!("{target}: {error}")))?;
        // Spelled alike, not only equal: the spelling is part of file names.
        if release.version.as_str() != version.as_str() {
            let why = format!("{target} is the file of release {}", release.version);
            return Err(self.failures.untrusted(why));
        }
        Ok(release)
    }

    fn versions(&self) -> Vec<Version> {
        let mut versions: Vec<_> = self.trusted.names().filter_map(version_of_target).collect();
        versions.sort_by(|one, other| other.cmp(one));
        versions
    }
}

impl<C: Clock> Releases for TrustedReleases<C> {
    fn refresh(&mut self, stop: &Stop) -> Result<Offer, ReleasesError> {
        let followed = self.settings.channel.clone();
        self.ask(stop, async |loaded: Loaded| {
            let channel = loaded.channel(&followed).await?;
            Ok(Offer {
                channel,
                versions: loaded.versions(),
            })
        })
    }

    fn release(
        &mut self,
        version: Option<&Version>,
        stop: &Stop,
    ) -> Result<Release, ReleasesError> {
        let followed = self.settings.channel.clone();
        self.ask(stop, async |loaded: Loaded| match version {
            Some(version) => loaded.release(version).await,
            None => {
                let channel = loaded.channel(&followed).await?;
                loaded.release(&channel.release).await
            }
        })
    }
}
