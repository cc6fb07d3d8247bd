//! A refresh: asks a repository for what the workflow wants next, and keeps
//! what it accepts.

use std::io;
use std::num::NonZeroU64;

use jiff::Timestamp as Moment;
use release::limits::{
    MAX_TUF_ROOT_BYTES, MAX_TUF_ROOT_UPDATES, MAX_TUF_SNAPSHOT_BYTES, MAX_TUF_TARGETS_BYTES,
    MAX_TUF_TIMESTAMP_BYTES,
};
use tough::schema::Root;

use super::delegation::{Delegated, Search};
use super::described::Target;
use super::metadata::{Document, Snapshot, Targets};
use super::remote::{FetchFileError, RemoteFolder};
use super::store::{Store, file_of};
use super::untrusted::Untrusted;
use super::workflow::{
    Fate, Rooted, Roots, SNAPSHOT_FILE, TARGETS, TIMESTAMP_FILE, described_role, described_snapshot,
};

/// Why there is no metadata, or no target, to be believed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    #[error(transparent)]
    Fetch(#[from] FetchFileError),
    #[error("cannot {doing}")]
    Local { doing: String, source: io::Error },
}

/// Where a refresh begins.
#[derive(Debug)]
pub struct Start {
    /// The root that is trusted for where it comes from.
    pub(super) root: Vec<u8>,
    /// The newest root that was reached from it.
    pub(super) seen: Option<Vec<u8>>,
}

impl Start {
    /// Begins at the root that `store` keeps; there must be one.
    pub fn kept(store: &Store) -> Result<Self, RefreshError> {
        let root = store.read("root.json")?.unwrap_or_default();
        Ok(Self { root, seen: None })
    }
}

/// The metadata of a repository, all of it sound at one time.
#[derive(Debug)]
pub struct Trusted {
    state: State,
    targets: Document<Targets>,
}

/// What the snapshot says is in the repository, and where that is.
#[derive(Debug)]
struct State {
    rooted: Rooted,
    snapshot: Document<Snapshot>,
    metadata: RemoteFolder,
    store: Store,
}

/// Brings what `store` keeps up to date with the repository whose metadata is in
/// the folder `metadata`. `now` is the time at which everything is judged.
pub async fn refresh(
    start: &Start,
    store: &Store,
    metadata: &RemoteFolder,
    now: Moment,
) -> Result<Trusted, RefreshError> {
    let rooted = follow_roots(start, store, metadata).await?.settle(now)?;
    store.forget_delegated()?;

    let timestamp = store.read(TIMESTAMP_FILE)?;
    let snapshot = store.read(SNAPSHOT_FILE)?;
    for file in rooted.outdated(timestamp.as_deref(), snapshot.as_deref()) {
        store.forget(file)?;
    }

    let (file, most) = (TIMESTAMP_FILE, MAX_TUF_TIMESTAMP_BYTES);
    let offered = metadata.read(&[file], most).await?;
    let (timestamp, fate) = rooted.timestamp(&offered, store.read(file)?.as_deref())?;
    if fate == Fate::Keep {
        store.keep(file, &offered)?;
    }

    let file = SNAPSHOT_FILE;
    let kept = store.read(file)?;
    let current = kept
        .as_deref()
        .and_then(|kept| rooted.snapshot(&timestamp, kept, None).ok());
    let snapshot = match current {
        Some(snapshot) => snapshot,
        None => {
            let described = described_snapshot(&timestamp)?;
            let name = versioned(&rooted, described.version, file);
            let most = described.most(MAX_TUF_SNAPSHOT_BYTES);
            let offered = metadata.read(&[&name], most).await?;
            let snapshot = rooted.snapshot(&timestamp, &offered, kept.as_deref())?;
            store.keep(file, &offered)?;
            snapshot
        }
    };

    let state = State {
        rooted,
        snapshot,
        metadata: metadata.clone(),
        store: store.clone(),
    };
    let targets = state.targets(TARGETS, state.rooted.root()).await?;
    Ok(Trusted { state, targets })
}

async fn follow_roots(
    start: &Start,
    store: &Store,
    metadata: &RemoteFolder,
) -> Result<Roots, RefreshError> {
    let mut roots = Roots::from(&start.root, start.seen.as_deref())?;
    let mut updates = 0;
    while let Some(version) = roots.next() {
        let name = format!("{version}.root.json");
        let offered = match metadata.read(&[&name], MAX_TUF_ROOT_BYTES).await {
            Ok(offered) => offered,
            // Good news: there is no newer one.
            Err(FetchFileError::NotFound { .. }) => break,
            Err(error) => return Err(error.into()),
        };
        updates += 1;
        if updates > MAX_TUF_ROOT_UPDATES {
            let most = MAX_TUF_ROOT_UPDATES;
            return Err(Untrusted::TooManyRoots { most }.into());
        }
        if roots.follow(&offered)? == Fate::Keep {
            store.keep("root.json", &offered)?;
        }
    }
    Ok(roots)
}

/// Returns what a file is called in the repository.
fn versioned(rooted: &Rooted, version: NonZeroU64, file: &str) -> String {
    match rooted.root().consistent_snapshot {
        true => format!("{version}.{file}"),
        false => file.to_owned(),
    }
}

impl State {
    /// Returns the targets of `role`, for which `authority` names the keys: the
    /// kept ones, if they are those of the snapshot.
    async fn targets(
        &self,
        role: &str,
        authority: &Root,
    ) -> Result<Document<Targets>, RefreshError> {
        let accept = |bytes: &[u8]| self.rooted.targets(&self.snapshot, role, authority, bytes);
        let described = described_role(&self.snapshot, role)?;
        let file = file_of(role);
        let kept = self.store.read(&file)?;
        if let Some(targets) = kept.and_then(|kept| accept(&kept).ok()) {
            return Ok(targets);
        }
        let name = versioned(&self.rooted, described.version, &format!("{role}.json"));
        let most = described.most(MAX_TUF_TARGETS_BYTES);
        let offered = self.metadata.read(&[&name], most).await?;
        let targets = accept(&offered)?;
        self.store.keep(&file, &offered)?;
        Ok(targets)
    }
}

impl Trusted {
    /// Returns the names of the targets of the top-level role.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.targets.content().targets.keys().map(String::as_str)
    }

    /// Returns what the metadata says of a target, if it knows any such.
    /// Delegated roles are read on the way.
    pub async fn find(&self, name: &str) -> Result<Option<Target>, RefreshError> {
        let mut search = Search::of(name);
        if let Some(target) = search.look_into(self.targets.content()) {
            return Ok(Some(target));
        }
        while let Some(Delegated { role, authority }) = search.next()? {
            let targets = self.state.targets(&role, &authority).await?;
            if let Some(target) = search.look_into(targets.content()) {
                return Ok(Some(target));
            }
        }
        Ok(None)
    }

    /// Reads a target from the folder `targets`; it is what `target` says.
    pub async fn read(
        &self,
        targets: &RemoteFolder,
        name: &str,
        target: &Target,
    ) -> Result<Vec<u8>, RefreshError> {
        let mut names: Vec<_> = name.split('/').collect();
        if names.iter().any(|name| matches!(*name, "" | "." | "..")) {
            let (name, why) = (name.to_owned(), "it leads somewhere else");
            return Err(Untrusted::BadName { name, why }.into());
        }
        let last = match (
            self.state.rooted.root().consistent_snapshot,
            target.digest(),
            names.pop(),
        ) {
            (true, Some(digest), Some(last)) => format!("{digest}.{last}"),
            (_, _, last) => last.unwrap_or_default().to_owned(),
        };
        names.push(&last);
        let bytes = targets.read(&names, target.length()).await?;
        target.check(name, &bytes)?;
        Ok(bytes)
    }
}
