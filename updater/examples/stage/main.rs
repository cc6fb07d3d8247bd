//! Stages one release on a node that is made up of a disk and a folder, and ends.
//!
//! For `cargo xtask bench`: the daemon's own head, hands, trust, network and disk, and
//! with `--calls` its face on the bus, so that staging can be measured on a machine that
//! is no node. What such a machine lacks is made of files: the kernel's command line, the
//! links from the root file system to its partitions, and the EFI system partition
//! ([`esp`]), as not every kernel knows FAT. With nothing but `--be-the-gateway` it is the
//! gateway of another one, and listens on its standard input.

mod calls;
mod esp;
mod node;

use std::error::Error;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use partition_layout::{RootHash, Version};
use tokio::runtime::Handle as Runtime;
use updater::admit::{Ask, Force};
use updater::config::{Config, Repository};
use updater::driver::{self, Accepted, Handle};
use updater::fetch::{Fetcher, Patience, build_gateway_client};
use updater::gateway;
use updater::host::SystemClock;
use updater::journal;
use updater::machine::{Outcome, Request};
use updater::network::RemoteRepository;
use updater::policy::{Rules, Source};
use updater::refusal::Chain;
use updater::settings;
use updater::trust::{self, TrustedReleases};

use crate::node::BenchNode;

/// Stages the channel's release on a disk that nothing else uses.
#[derive(Debug, Parser)]
struct Arguments {
    /// The disk, whose slot A is taken for booted
    #[arg(long)]
    disk: PathBuf,
    /// The folder of everything else that the node has; `esp` in it has the boot entries
    #[arg(long)]
    node: PathBuf,
    /// The version in slot A
    #[arg(long)]
    booted: Version,
    /// Its root hash
    #[arg(long)]
    root_hash: RootHash,
    #[arg(long)]
    root_of_trust: PathBuf,
    #[arg(long, value_parser = Repository::parse)]
    repository: Repository,
    /// Where the gateway to the network listens
    #[arg(long)]
    gateway: PathBuf,
    /// Where the tree of control groups is
    #[arg(long, default_value = "/sys/fs/cgroup")]
    control_groups: PathBuf,
    /// Speak on the bus as well, be called while staging, and write here, as JSON, how many
    /// milliseconds each answer took
    #[arg(long, value_name = "FILE")]
    calls: Option<PathBuf>,
}

/// Longer than any staging pauses.
const GATEWAY_STAYS: Duration = Duration::from_secs(60);

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    journal::start(journal::Reader::Terminal);
    // As the daemon does: one thread for all decisions, another for the hands.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let is_gateway = std::env::args().skip(1).eq(["--be-the-gateway"]);
    let done = match runtime {
        Ok(runtime) if is_gateway => runtime.block_on(be_the_gateway()),
        Ok(runtime) => runtime.block_on(stage(Arguments::parse())),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn stage(arguments: Arguments) -> Result<(), Failure> {
    let bus = zbus::Connection::system().await?;
    let config = Config {
        repository: Some(arguments.repository.clone()),
        ..Config::default()
    };
    let network = network(&arguments, &config)?;
    let node = BenchNode::new(&arguments, bus.clone())?;
    let reader = match &arguments.calls {
        Some(file) => Some((file, BenchNode::again(&arguments, bus.clone())?)),
        None => None,
    };
    let machine_id = settings::machine_id("/etc/machine-id".as_ref());
    let rules = Rules {
        automatic: config.automatic,
        windows: config.windows.clone(),
        source: Some(Source {
            repository: arguments.repository.clone(),
            channel: config.channel.clone(),
        }),
        tries: config.tries,
        mistake: None,
    };
    let (handle, head) = driver::start(node, network, SystemClock, rules, machine_id).await?;
    let head = tokio::spawn(head.run());
    handle.settled().await;
    let staged = match reader {
        Some((file, node)) => calls::answer(&bus, &handle, node, file).await,
        None => order(&handle, config.tries).await,
    };
    handle.go_down().await;
    head.await??;
    staged
}

async fn be_the_gateway() -> Result<(), Failure> {
    let socket = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixListener::from_std(socket)?;
    Ok(gateway::serve(socket, Patience::default(), GATEWAY_STAYS).await?)
}

async fn order(handle: &Handle, tries: u32) -> Result<(), Failure> {
    let ask = Ask {
        version: None,
        force: Force::No,
        tries,
    };
    let Accepted::Job(mut job) = handle.request(Request::Stage(ask)).await? else {
        return Err("no job was begun".into());
    };
    let outcome = job.outcome.wait_for(Option::is_some).await?.clone();
    match outcome {
        Some(Outcome::Done) => Ok(()),
        Some(Outcome::Failed(failure)) => Err(failure.into()),
        Some(Outcome::Cancelled) | None => Err("the job was cancelled".into()),
    }
}

fn network(
    arguments: &Arguments,
    config: &Config,
) -> Result<RemoteRepository<SystemClock>, Failure> {
    let patience = Patience::default();
    let client = build_gateway_client(&arguments.gateway, &patience, &config.ca_certificates)?;
    let settings = trust::Settings {
        repositories: config.servers(),
        channel: config.channel.clone(),
        root_of_trust: arguments.root_of_trust.clone(),
        store: arguments.node.join("state/tuf"),
        clock_is_set: trust::CLOCK_IS_SET.into(),
        built: None,
    };
    let runtime = Runtime::current();
    Ok(RemoteRepository {
        releases: TrustedReleases::new(
            settings,
            client.clone(),
            patience.clone(),
            SystemClock,
            runtime.clone(),
        ),
        fetcher: Fetcher::new(config.servers(), client, patience, runtime),
    })
}
