//! A TUF client over the very code of the daemon, so that conformance suites of
//! others can drive it. It is for tests: no node has it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use updater::authorities::Authorities;
use updater::fetch::{BuildClientError, Client, Patience, build_client};
use updater::refusal::Chain;
use updater::trust::{RefreshError, RemoteFolder, Start, Store, Trusted, refresh};
use url::Url;

/// The largest target that is downloaded: it is held in memory.
const MAX_TARGET_BYTES: u64 = 64 * 1024 * 1024;

/// A TUF client over the code of bistable-updater, for conformance suites.
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 done, 1 refused or failed.")]
struct Arguments {
    /// Where trusted metadata is kept, a file per role
    #[arg(long, value_name = "FOLDER")]
    metadata_dir: PathBuf,
    /// Where the repository has its metadata
    #[arg(long, value_name = "URL")]
    metadata_url: Option<Url>,
    /// What to download; may be given again
    #[arg(long = "target-name", value_name = "NAME")]
    target_names: Vec<String>,
    /// Where the repository has its targets
    #[arg(long, value_name = "URL")]
    target_base_url: Option<Url>,
    /// Where downloaded targets go
    #[arg(long, value_name = "FOLDER")]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trust a root
    Init { root: PathBuf },
    /// Bring the metadata up to date
    Refresh,
    /// Do that, and download targets
    Download,
}

#[derive(Debug, thiserror::Error)]
enum ClientError {
    #[error("--{0} is missing")]
    Missing(&'static str),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot start")]
    Start(#[source] io::Error),
    #[error("cannot start")]
    Client(#[from] BuildClientError),
    #[error(transparent)]
    Refresh(#[from] RefreshError),
    #[error("there is no target {0:?}")]
    NoTarget(String),
    #[error("{name:?} has {length} bytes, which is more than {MAX_TARGET_BYTES}")]
    TooLarge { name: String, length: u64 },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => {
            // Help and version come this way too, with exit code 0.
            drop(told.print());
            return ExitCode::from(u8::from(told.exit_code() != 0));
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "bistable-trust: {}", Chain(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), ClientError> {
    let store = Store::new(&arguments.metadata_dir);
    if let Command::Init { root } = &arguments.command {
        return Ok(store.begin(&read(root)?)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ClientError::Start)?;
    let patience = Patience::default();
    let client = build_client(&patience, &Authorities::default())?;
    let folder = |url: &Option<Url>, option| {
        let url = url.clone().ok_or(ClientError::Missing(option))?;
        let client: Client = client.clone();
        Ok::<_, ClientError>(RemoteFolder::new(url, client, patience.clone()))
    };
    let metadata = folder(&arguments.metadata_url, "metadata-url")?;
    let start = Start::kept(&store)?;
    runtime.block_on(async {
        let now = jiff::Timestamp::now();
        let trusted = refresh(&start, &store, &metadata, now).await?;
        if let Command::Download = arguments.command {
            let targets = folder(&arguments.target_base_url, "target-base-url")?;
            let into = arguments.target_dir.as_deref();
            let into = into.ok_or(ClientError::Missing("target-dir"))?;
            for name in &arguments.target_names {
                download(&trusted, &targets, name, into).await?;
            }
        }
        Ok(())
    })
}

/// Downloads a target, unless it is there already.
async fn download(
    trusted: &Trusted,
    targets: &RemoteFolder,
    name: &str,
    into: &Path,
) -> Result<(), ClientError> {
    let target = trusted.find(name).await?;
    let target = target.ok_or_else(|| ClientError::NoTarget(name.to_owned()))?;
    if target.length() > MAX_TARGET_BYTES {
        let (name, length) = (name.to_owned(), target.length());
        return Err(ClientError::TooLarge { name, length });
    }
    // One file for each name, whatever its slashes and dots mean elsewhere.
    let path = into.join(file_name(name));
    if fs::read(&path).is_ok_and(|there| target.is(&there)) {
        return Ok(());
    }
    let bytes = trusted.read(targets, name, &target).await?;
    fs::write(&path, bytes).map_err(|source| ClientError::Write { path, source })
}

fn file_name(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    let path = path.to_owned();
    fs::read(&path).map_err(|source| ClientError::Read { path, source })
}
