//! The update daemon: wires the parts together, and nothing else.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use sd_notify::NotifyState;
use tokio::runtime::Handle as Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinError;
use updater::config::{Config, ReadConfigError, Sources};
use updater::driver::{self, Handle};
use updater::fetch::{BuildClientError, Fetcher, Patience, Throttle, build_gateway_client};
use updater::host::{FindDiskError, Paths, SystemClock, ThisNode};
use updater::metrics::{self, Metrics};
use updater::network::{NamedRepository, RemoteRepository};
use updater::observe::ObserveError;
use updater::refusal::Chain;
use updater::scrub::keeper::Keeper;
use updater::settings::{self, Settings};
use updater::trust::{self, TrustedReleases};
use updater::{backstop, dbus, gateway, journal};

/// The update daemon of a Bistable node: io.bistable.Updater1 on the system bus.
///
/// It is started by bistable-updater.service; people use the `bistable` command.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 asked to stop, 1 failed, 2 usage, 78 --check-config found a mistake.\n\
        With wrong settings the daemon runs, does nothing by itself, and says why.\n\
        SIGHUP reads the settings anew."
)]
struct Arguments {
    /// Read these settings, the later ones overriding the earlier, instead of
    /// /usr/lib/bistable/updater.toml, /etc/bistable/updater.toml, the drop-ins in
    /// updater.d beside both, and the credential bistable.updater.toml
    #[arg(long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Read the settings, say what is wrong with them, and end
    #[arg(long)]
    check_config: bool,
    /// Be the process that fetches for the daemon, on the listening unix socket that is the
    /// standard input: bistable-gateway.service
    #[arg(long, conflicts_with_all = ["config", "check_config"])]
    gateway: bool,
}

/// Why the daemon cannot do its work.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error("the settings are wrong")]
    Config(#[source] ReadConfigError),
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot reach the system bus")]
    Bus(#[source] zbus::Error),
    #[error("cannot find the disk that this node runs from")]
    Disk(#[source] FindDiskError),
    #[error("cannot read the node's state")]
    Observe(#[source] ObserveError),
    #[error("cannot talk HTTP")]
    Client(#[source] BuildClientError),
    #[error("cannot wait for signals")]
    Signal(#[source] io::Error),
    #[error("cannot listen on the standard input")]
    Listen(#[source] io::Error),
    #[error("cannot tell systemd how things stand")]
    Notify(#[source] io::Error),
    #[error("a part of the daemon has died")]
    Died(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// sysexits.h's EX_CONFIG, which systemd shows by that name.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    journal::start(match io::stderr().is_terminal() {
        true => journal::Reader::Terminal,
        false => journal::Reader::Journal,
    });
    match work(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", Chain(&error));
            match error {
                DaemonError::Config(_) => ExitCode::from(EXIT_CONFIG),
                DaemonError::Runtime(_)
                | DaemonError::Bus(_)
                | DaemonError::Disk(_)
                | DaemonError::Observe(_)
                | DaemonError::Client(_)
                | DaemonError::Signal(_)
                | DaemonError::Listen(_)
                | DaemonError::Notify(_)
                | DaemonError::Died(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn work(arguments: &Arguments) -> Result<(), DaemonError> {
    let sources = sources(arguments);
    if arguments.check_config {
        return settings::read(&sources)
            .map(drop)
            .map_err(DaemonError::Config);
    }
    // One thread for the bus, the network and all decisions; the hands have
    // another. More would only cost memory.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?;
    if arguments.gateway {
        return runtime.block_on(fetch_for_the_daemon());
    }
    runtime.block_on(serve(sources))
}

/// How long the gateway stays when nobody is connected. It is back within a moment.
const GATEWAY_STAYS: Duration = Duration::from_secs(60);

async fn fetch_for_the_daemon() -> Result<(), DaemonError> {
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let listener = UnixListener::from(socket.map_err(DaemonError::Listen)?);
    let listening = async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        gateway::serve(listener, Patience::default(), GATEWAY_STAYS).await
    };
    listening.await.map_err(DaemonError::Listen)
}

fn sources(arguments: &Arguments) -> Sources {
    if arguments.config.is_empty() {
        // systemd's way to hand a unit its credentials.
        Sources::of_node(std::env::var_os("CREDENTIALS_DIRECTORY"))
    } else {
        Sources::Files(arguments.config.clone())
    }
}

async fn serve(sources: Sources) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signal)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(DaemonError::Signal)?;
    // Over one it asks others, over the other it is asked: see `dbus::connect`.
    let bus = zbus::Connection::system().await.map_err(DaemonError::Bus)?;
    let address = zbus::Address::system().map_err(DaemonError::Bus)?;
    let paths = Paths::default();
    let read = settings::read_first(&sources);
    if let Some(mistake) = &read.mistake {
        tracing::error!(
            error = mistake,
            "the settings are wrong; nothing is done without being asked"
        );
    }
    let rules = read.rules();
    let machine_id = settings::machine_id(&paths.machine_id);
    let config = watch::Sender::new(Arc::new(read.config));
    let throttle = Throttle::new(config.borrow().bandwidth);
    let network = {
        let built = built(&paths.os_release);
        let (runtime, throttle) = (Runtime::current(), throttle.clone());
        NamedRepository::new(config.subscribe(), move |config| {
            network(config, built, throttle.clone(), runtime.clone())
        })
        .map_err(DaemonError::Client)?
    };
    let mut changes = config.subscribe();
    let node = ThisNode::find(paths.clone(), bus.clone()).map_err(DaemonError::Disk)?;
    let rests = node.rests();
    // Beside the hands, which have other things to do.
    let reader = ThisNode::find(paths, bus.clone()).map_err(DaemonError::Disk)?;

    let (handle, head) = driver::start(node, network, SystemClock, rules, machine_id)
        .await
        .map_err(DaemonError::Observe)?;
    let mut head = tokio::spawn(head.run());
    tokio::select! {
        () = handle.settled() => {}
        died = &mut head => return how_it_ended(died),
    }

    let settings = Settings::new(sources, config, handle.clone());
    let scrub = Keeper::new(reader.only_reading(), SystemClock, handle.clone());
    let metrics = Metrics::new(handle.clone(), rests).beside(scrub.progress());
    let callers = dbus::Callers::new(bus);
    let manager = dbus::Manager::new(
        handle.clone(),
        settings.clone(),
        metrics.clone(),
        scrub.bell(),
        callers.clone(),
    );
    let bus = dbus::connect(&address).await.map_err(DaemonError::Bus)?;
    bus.object_server()
        .at(dbus::MANAGER_PATH, manager)
        .await
        .map_err(DaemonError::Bus)?;
    let publisher = {
        let (bus, handle) = (bus.clone(), handle.clone());
        tokio::spawn(async move { dbus::publish(&bus, &handle, &callers).await })
    };
    bus.request_name(dbus::BUS_NAME)
        .await
        .map_err(DaemonError::Bus)?;
    sd_notify::notify(&[NotifyState::Ready]).map_err(DaemonError::Notify)?;
    let reporter = tokio::spawn(report_to_systemd(handle.clone()));
    let scrubber = {
        let config = changes.clone();
        tokio::spawn(scrub.keep(move || config.borrow().scrub.every()))
    };
    let keeper = tokio::spawn(async move { metrics.keep(Path::new(metrics::FILE)).await });
    let watcher = {
        let handle = handle.clone();
        tokio::spawn(async move {
            backstop::watch(&handle, &SystemClock, backstop::DEADLINE).await;
        })
    };

    let reloader = tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // It is logged, and stands in SettingsError.
            drop(settings.reload().await);
        }
    });
    let timekeeper = tokio::spawn(keep_time(handle.clone()));
    // For transfers under way too.
    let throttler = tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            throttle.set(changes.borrow_and_update().bandwidth);
        }
    });

    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        died = &mut head => Some(died),
        lost = publisher => return how_it_ended(lost),
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            let going = [
                NotifyState::Stopping,
                NotifyState::Status("Finishing the step at work"),
            ];
            sd_notify::notify(&going).map_err(DaemonError::Notify)?;
            watcher.abort();
            handle.go_down().await;
            head.await
        }
    };
    for helper in [reporter, keeper, scrubber, reloader, timekeeper, throttler] {
        helper.abort();
    }
    how_it_ended(ended)
}

fn how_it_ended<E>(ended: Result<Result<(), E>, JoinError>) -> Result<(), DaemonError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => died_of(error),
        Err(error) => died_of(error),
    }
}

fn died_of(error: impl std::error::Error + Send + Sync + 'static) -> Result<(), DaemonError> {
    Err(DaemonError::Died(Box::new(error)))
}

fn network(
    config: &Config,
    built: Option<jiff::Timestamp>,
    throttle: Throttle,
    runtime: Runtime,
) -> Result<RemoteRepository<SystemClock>, BuildClientError> {
    let patience = Patience::default();
    let client =
        build_gateway_client(gateway::SOCKET.as_ref(), &patience, &config.ca_certificates)?;
    let settings = trust::Settings {
        repositories: config.servers(),
        channel: config.channel.clone(),
        root_of_trust: trust::ROOT_OF_TRUST.into(),
        store: trust::STORE.into(),
        clock_is_set: trust::CLOCK_IS_SET.into(),
        built,
    };
    Ok(RemoteRepository {
        releases: TrustedReleases::new(
            settings,
            client.clone(),
            patience.clone(),
            SystemClock,
            runtime.clone(),
        ),
        fetcher: Fetcher::new(config.servers(), client, patience, runtime).throttled(throttle),
    })
}

/// When the image was built, if its os-release says so.
fn built(os_release: &Path) -> Option<jiff::Timestamp> {
    let text = std::fs::read_to_string(os_release).ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("BUILD_ID="))?;
    value.trim_matches(['"', '\'']).parse().ok()
}

/// How late a window may be seen to open or close. A stage notices within one
/// piece of work in any case.
const CLOCK_BEAT: Duration = Duration::from_secs(30);

/// Lets the head look at the clock now and then: the time of day may be set, so
/// that nothing can be told of it in advance.
async fn keep_time(handle: Handle) {
    loop {
        tokio::time::sleep(CLOCK_BEAT).await;
        handle.look_at_clock().await;
    }
}

/// Keeps systemd's status line and watchdog fed, from the thread whose being
/// stuck the watchdog is there to find.
async fn report_to_systemd(handle: Handle) {
    let beat = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let mut views = handle.follow();
    loop {
        let status = status(&handle);
        let told = sd_notify::notify(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
        if let Err(error) = told {
            tracing::warn!(%error, "cannot tell systemd how things stand");
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(beat.unwrap_or(Duration::MAX)) => {}
        }
    }
}

fn status(handle: &Handle) -> String {
    let view = handle.view();
    let node = &view.node;
    let mistake = match view.automation.mistake {
        Some(_) => "; the settings are wrong",
        None => "",
    };
    format!(
        "{}; slot {} runs {} ({}){mistake}",
        view.state,
        node.booted.slot,
        node.booted.version,
        node.booted_status().as_str()
    )
}
