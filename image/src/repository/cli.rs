//! The commands `keys`, `publish` and `repository`.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use release::ChannelName;
use tough::schema::RoleType;

use super::{
    Directory, Expiries, Expiry, GenerateError, KeyPlan, KeySet, LoadKeysError, LockError, Outcome,
    PackKind, PackOf, PackPlan, PublishError, PublishRequest, Quorum, RefreshError, RolloutError,
    RotateError, Share, VerifyError, generate, publish, refresh, roll_out, rotate_root, verify,
};

/// A command that concerns keys or the repository.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the signing keys and the root of trust
    ///
    /// Writes one private key per file (ed25519, PKCS#8 PEM, mode 0600) and
    /// root.json, the signed root of trust that images carry. The folder must be
    /// empty or absent: keys are never overwritten.
    Keys(KeysArgs),
    /// Sign a built image and add it to a repository
    Publish(PublishArgs),
    /// Look after a repository
    #[command(subcommand)]
    Repository(RepositoryCommand),
}

/// What can be done to a repository.
#[derive(Debug, Subcommand)]
pub enum RepositoryCommand {
    /// Renew the timestamp, and what would expire before it does
    Refresh(RefreshArgs),
    /// Check a repository as a node would, and every blob and block
    ///
    /// Exits with 0 if all is sound, with 1 if a node would refuse something,
    /// and with 2 if no verdict can be given.
    Verify(VerifyArgs),
    /// Replace the root file: other keys, or the same for longer
    RotateRoot(RotateArgs),
    /// Let a share of a channel's nodes take its release by themselves
    ///
    /// As the share grows, nodes join and none leaves. With 0 no other node takes
    /// the release; nodes that have it keep it.
    Rollout(RolloutArgs),
}

/// How many keys of each role there are, and how many must sign.
#[derive(Debug, Args)]
pub struct KeysArgs {
    /// The folder for the keys
    folder: PathBuf,
    /// Keys of the root role
    #[arg(long, value_name = "N", default_value_t = 3)]
    root_keys: u8,
    /// Signatures that a root file needs
    #[arg(long, value_name = "N", default_value_t = 2)]
    root_threshold: u8,
    /// Keys of the targets role
    #[arg(long, value_name = "N", default_value_t = 1)]
    targets_keys: u8,
    /// Signatures that the list of releases needs
    #[arg(long, value_name = "N", default_value_t = 1)]
    targets_threshold: u8,
    /// Keys of the snapshot role
    #[arg(long, value_name = "N", default_value_t = 1)]
    snapshot_keys: u8,
    /// Signatures that the snapshot needs
    #[arg(long, value_name = "N", default_value_t = 1)]
    snapshot_threshold: u8,
    /// Keys of the timestamp role
    #[arg(long, value_name = "N", default_value_t = 1)]
    timestamp_keys: u8,
    /// Signatures that the timestamp needs
    #[arg(long, value_name = "N", default_value_t = 1)]
    timestamp_threshold: u8,
    /// When the root file expires: a duration such as 365d, or a moment (RFC 3339)
    #[arg(long, value_name = "WHEN", default_value = "365d")]
    root_expires: Expiry,
}

#[derive(Debug, Args)]
struct ExpiryArgs {
    /// When all that is signed now expires: a duration such as 7d, or a moment
    /// (RFC 3339) [default: a time of each role's own]
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    expires: Option<Expiry>,
    /// When the list of releases expires [default: 90d]
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    targets_expires: Option<Expiry>,
    /// When the snapshot expires [default: 30d]
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    snapshot_expires: Option<Expiry>,
    /// When the timestamp expires [default: 7d]
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    timestamp_expires: Option<Expiry>,
}

impl ExpiryArgs {
    fn expiries(&self) -> Expiries {
        let default = Expiries::default();
        let choose = |own: Option<Expiry>, default| own.or(self.expires).unwrap_or(default);
        Expiries {
            root: default.root,
            targets: choose(self.targets_expires, default.targets),
            snapshot: choose(self.snapshot_expires, default.snapshot),
            timestamp: choose(self.timestamp_expires, default.timestamp),
        }
    }
}

/// What to publish, where, with which keys.
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The folder with the keys of the targets, snapshot and timestamp roles
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// The folder of the repository; made if absent
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    /// The folder that `build` made
    #[arg(long, value_name = "DIR")]
    image: PathBuf,
    /// The channel that shall list the release
    #[arg(long, value_name = "NAME", default_value = "stable")]
    channel: ChannelName,
    /// The share of the channel's nodes that may take the release, in percent
    /// [default: 100 for a new release]
    #[arg(long, value_name = "PERCENT")]
    share: Option<Share>,
    /// From how many of the channel's releases before it to make patches
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=16))]
    patches: u8,
    /// How hard to compress, as zstd counts: 1 for tests, 19 to spare nodes
    #[arg(long, value_name = "LEVEL", default_value_t = 19, value_parser = clap::value_parser!(i32).range(1..=22))]
    compression: i32,
    #[command(flatten)]
    expiry: ExpiryArgs,
}

/// Which channel's release to roll out, and how far.
#[derive(Debug, Args)]
pub struct RolloutArgs {
    /// The folder with the keys of the targets, snapshot and timestamp roles
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// The folder of the repository
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    /// The channel
    #[arg(long, value_name = "NAME", default_value = "stable")]
    channel: ChannelName,
    /// The share of the channel's nodes, in percent
    #[arg(long, value_name = "PERCENT")]
    share: Share,
    #[command(flatten)]
    expiry: ExpiryArgs,
}

/// What to refresh, with which keys.
#[derive(Debug, Args)]
pub struct RefreshArgs {
    /// The folder with at least the keys of the timestamp role
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// The folder of the repository
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    #[command(flatten)]
    expiry: ExpiryArgs,
}

/// What to check, trusting what.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The folder of the repository
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    /// The root of trust that nodes have; without it, the repository's first
    /// root file is believed
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

/// What to rotate, from which keys to which.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// The folder with the keys of all roles; with the root keys, if no others take over
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// The folder with the keys that take over; without it, the same stay
    #[arg(long, value_name = "DIR")]
    new_keys: Option<PathBuf>,
    /// The folder of the repository
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    /// When the new root file expires
    #[arg(long, value_name = "WHEN", default_value = "365d")]
    root_expires: Expiry,
    #[command(flatten)]
    expiry: ExpiryArgs,
}

/// A command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[error("cannot use the keys")]
    Keys(#[from] LoadKeysError),
    #[error("cannot change the repository")]
    Lock(#[from] LockError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Refresh(#[from] RefreshError),
    #[error(transparent)]
    Rotate(#[from] RotateError),
    #[error(transparent)]
    Rollout(#[from] RolloutError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error("cannot read {path}")]
    Root { path: PathBuf, source: io::Error },
    #[error("cannot write the answer")]
    Answer(#[from] io::Error),
}

impl Command {
    /// Runs the command: answers on standard output, errors on standard error.
    pub fn run(self) -> ExitCode {
        let mut out = io::stdout().lock();
        let now = Timestamp::now();
        let result = match self {
            Self::Keys(args) => args.run(&mut out, now),
            Self::Publish(args) => args.run(&mut out, now),
            Self::Repository(RepositoryCommand::Refresh(args)) => args.run(&mut out, now),
            Self::Repository(RepositoryCommand::Verify(args)) => args.run(&mut out),
            Self::Repository(RepositoryCommand::RotateRoot(args)) => args.run(&mut out, now),
            Self::Repository(RepositoryCommand::Rollout(args)) => args.run(&mut out, now),
        };
        result.unwrap_or_else(|error| {
            // With standard error gone too, the exit code is all that is left.
            drop(writeln!(io::stderr(), "bistable-image: {}", chain(&error)));
            ExitCode::from(2)
        })
    }
}

impl KeysArgs {
    fn run(self, out: &mut impl Write, now: Timestamp) -> Result<ExitCode, CommandError> {
        let plan = KeyPlan {
            root: Quorum {
                threshold: self.root_threshold,
                keys: self.root_keys,
            },
            targets: Quorum {
                threshold: self.targets_threshold,
                keys: self.targets_keys,
            },
            snapshot: Quorum {
                threshold: self.snapshot_threshold,
                keys: self.snapshot_keys,
            },
            timestamp: Quorum {
                threshold: self.timestamp_threshold,
                keys: self.timestamp_keys,
            },
            root_expires: self.root_expires,
        };
        generate(&self.folder, &plan, now)?;
        let root = self.folder.join(KeySet::ROOT);
        writeln!(out, "root of trust: {}", root.display())?;
        writeln!(
            out,
            "Keep the root keys off this machine: they are not needed to publish."
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

impl PublishArgs {
    fn run(self, out: &mut impl Write, now: Timestamp) -> Result<ExitCode, CommandError> {
        let keys = KeySet::load(&self.keys)?;
        let mut store = Directory::create(&self.repository)?;
        let published = publish(
            &mut store,
            &PublishRequest {
                keys: &keys,
                image: &self.image,
                channel: &self.channel,
                share: self.share,
                packs: PackPlan {
                    patches: self.patches.into(),
                    level: self.compression,
                },
                expiries: &self.expiry.expiries(),
                now,
            },
        )?;
        let verb = match published.outcome {
            Outcome::Added => "published",
            Outcome::AlreadyThere => "already published:",
        };
        let (version, channel, current) = (&published.version, &self.channel, &published.current);
        writeln!(
            out,
            "{verb} version {version} ({} bytes of new blobs)",
            published.bytes_added
        )?;
        for PackOf { kind, bytes } in &published.packs {
            match kind {
                PackKind::Whole => writeln!(out, "compressed whole: {bytes} bytes")?,
                PackKind::Root(base) => writeln!(out, "patch from version {base}: {bytes} bytes")?,
                PackKind::Uki(base) => {
                    writeln!(out, "UKI patch from version {base}: {bytes} bytes")?
                }
            }
        }
        let share = published.share;
        writeln!(
            out,
            "channel {channel}: version {current} for {share} of the nodes"
        )?;
        print_expiry(out, &published.expires)?;
        print_due(out, &published.due)?;
        for (role, moment) in &published.expired {
            writeln!(
                out,
                "warning: {role} expired {moment}, and nothing new was signed: nodes refuse the repository until `repository refresh`"
            )?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl RolloutArgs {
    fn run(self, out: &mut impl Write, now: Timestamp) -> Result<ExitCode, CommandError> {
        let keys = KeySet::load(&self.keys)?;
        let mut store = Directory::lock(&self.repository)?;
        let (channel, share) = (&self.channel, self.share);
        let done = roll_out(
            &mut store,
            &keys,
            channel,
            share,
            &self.expiry.expiries(),
            now,
        )?;
        let (version, before) = (&done.version, done.before);
        writeln!(
            out,
            "channel {channel}: version {version} for {share} of the nodes (before: {before})"
        )?;
        print_expiry(out, &done.expires)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl RefreshArgs {
    fn run(self, out: &mut impl Write, now: Timestamp) -> Result<ExitCode, CommandError> {
        let keys = KeySet::load(&self.keys)?;
        let mut store = Directory::lock(&self.repository)?;
        let refreshed = refresh(&mut store, &keys, &self.expiry.expiries(), now)?;
        print_expiry(out, &refreshed.renewed)?;
        print_due(out, &refreshed.due)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl RotateArgs {
    fn run(self, out: &mut impl Write, now: Timestamp) -> Result<ExitCode, CommandError> {
        let old = KeySet::load(&self.keys)?;
        let new = self.new_keys.as_deref().map(KeySet::load).transpose()?;
        let new = new.as_ref().unwrap_or(&old);
        let mut store = Directory::lock(&self.repository)?;
        let expiries = Expiries {
            root: self.root_expires,
            ..self.expiry.expiries()
        };
        let number = rotate_root(&mut store, &old, new, &expiries, now)?;
        writeln!(out, "root file {number} is in force")?;
        Ok(ExitCode::SUCCESS)
    }
}

impl VerifyArgs {
    fn run(self, out: &mut impl Write) -> Result<ExitCode, CommandError> {
        let path = match &self.root {
            Some(path) => path.clone(),
            None => self.repository.join("metadata/1.root.json"),
        };
        let root = fs::read(&path).map_err(|source| CommandError::Root { path, source })?;
        let report = verify(&self.repository, &root)?;
        if self.root.is_none() {
            writeln!(
                out,
                "note: no --root given, so it is not known whose repository this is"
            )?;
        }
        for (channel, version) in &report.channels {
            writeln!(out, "channel {channel}: version {version}")?;
        }
        for version in &report.sound {
            writeln!(out, "sound: version {version}")?;
        }
        print_expiry(out, &report.expires)?;
        for problem in &report.problems {
            writeln!(out, "problem: {}: {}", problem.name(), chain(problem))?;
        }
        Ok(if report.problems.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(1)
        })
    }
}

fn print_expiry(out: &mut impl Write, expires: &[(RoleType, Timestamp)]) -> io::Result<()> {
    expires
        .iter()
        .try_for_each(|(role, moment)| writeln!(out, "{role} expires {moment}"))
}

fn print_due(out: &mut impl Write, due: &[(RoleType, Timestamp)]) -> io::Result<()> {
    due.iter().try_for_each(|(role, moment)| {
        writeln!(
            out,
            "warning: {role} expires {moment}; its keys are needed to renew it"
        )
    })
}

/// Returns an error with its causes. `tough` repeats a cause in the message
/// above it; such a cause is not said twice.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
