//! The health gate. See the documentation of the library.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use init_integration::health::bus::{Bus, BusAddress};
use init_integration::health::checks::{Checks, Places};
use init_integration::health::configuration::Configuration;
use init_integration::health::image_check::device_of;
use init_integration::health::network::NetworkMemory;
use init_integration::health::power::RebootCall;
use init_integration::health::this_boot::BootFiles;
use init_integration::health::watch::{Ended, Patience, Watch, notify};
use init_integration::report::Chain;

const HELP: &str = "\
bistable-health-gate: decides whether the booted release is good

Usage: bistable-health-gate
       bistable-health-gate --check-config [FOLDER...]
       bistable-health-gate --settle-watched
       bistable-health-gate --help | --version

Without arguments it runs as a service: it looks at the node until all required
checks have held for the soak time, and then tells the updater that the slot is
good. On a trial that has not got there at the deadline, it gives the slot up.

--check-config reads FOLDER/health.toml and FOLDER/health.d/*.toml of each FOLDER
(weakest first; default /usr/lib/bistable /etc/bistable), names every mistake with
file, line and key, and does nothing else.

--settle-watched leaves word at /run/bistable/settled if the boot loader counts the
starts of a release that is good, so that nobody takes this boot for a trial.

Exit status: 0 the slot is good, or the configuration is sound
             1 the machine ought to have restarted and did not
             2 wrong usage
             3 the configuration has mistakes
";

/// From the weakest to the strongest.
const FOLDERS: [&str; 2] = ["/usr/lib/bistable", "/etc/bistable"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => run(),
        ["--help" | "-h"] => show(HELP, ExitCode::SUCCESS),
        ["--version" | "-V"] => show(
            concat!("bistable-health-gate ", env!("CARGO_PKG_VERSION"), "\n"),
            ExitCode::SUCCESS,
        ),
        ["--settle-watched"] => settle_watched(),
        ["--check-config", folders @ ..]
            if folders.iter().all(|folder| !folder.starts_with('-')) =>
        {
            check_config(if folders.is_empty() {
                &FOLDERS
            } else {
                folders
            })
        }
        _ => {
            // If even this cannot be said, the exit status says it.
            drop(io::stderr().write_all(HELP.as_bytes()));
            ExitCode::from(2)
        }
    }
}

fn settle_watched() -> ExitCode {
    match BootFiles::of_node().settle_watched() {
        Ok(true) => show("a good release on watch\n", ExitCode::SUCCESS),
        Ok(false) => show("a trial\n", ExitCode::SUCCESS),
        Err(error) => {
            let line = format!("cannot tell a watch from a trial: {error}\n");
            // If even this cannot be said, the exit status says it.
            drop(io::stderr().write_all(line.as_bytes()));
            ExitCode::FAILURE
        }
    }
}

fn check_config(folders: &[&str]) -> ExitCode {
    let folders: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
    let configuration = Configuration::read(&folders);
    let problems: Vec<String> = configuration
        .problems()
        .map(|problem| Chain(problem).to_string())
        .collect();
    if !problems.is_empty() {
        return show(&format!("{}\n", problems.join("\n")), ExitCode::from(3));
    }
    let names: Vec<&str> = configuration.checks.keys().map(String::as_str).collect();
    let policy = configuration.policy;
    let summary = format!(
        "soak {} s, deadline {} s after the start of the kernel\nchecks: {}\n",
        policy.soak.as_secs(),
        policy.deadline.as_secs(),
        names.join(" "),
    );
    show(&summary, ExitCode::SUCCESS)
}

fn show(text: &str, status: ExitCode) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => status,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> ExitCode {
    // The journal has the time, and who says it.
    tracing_subscriber::fmt()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(watch())
}

async fn watch() -> ExitCode {
    let configuration = Configuration::read(&FOLDERS.map(PathBuf::from));
    for problem in configuration.problems() {
        tracing::error!(problem = %Chain(problem), "the configuration has a mistake");
    }
    let boot_files = BootFiles::of_node();
    if let Err(error) = boot_files.note_uncounted() {
        tracing::warn!(%error, "whoever watches this gate takes the boot for settled");
    }
    // For a trial. A good slot was read whole when it was on trial. To read it so again would have a
    // block that has rotted in some unused file restart the node at every boot: the updater
    // reads a good slot below dm-verity, and mends.
    let image = device_of(Path::new("/"), Path::new("/sys"), Path::new("/dev"));
    let network = NetworkMemory::of_node();
    let places = Places {
        containerd: "/run/containerd/containerd.sock".into(),
        image: Some(image.map_err(|error| error.to_string())),
        image_mark: "/run/bistable-health-gate/image-read".into(),
        network: network.clone(),
        root_hash: boot_files.read().root_hash,
    };
    let checks = match Checks::new(&configuration, places) {
        Ok(checks) => checks,
        Err(error) => {
            tracing::error!(error = %Chain(&error), "cannot make up the checks");
            return ExitCode::FAILURE;
        }
    };
    let deadline = configuration.policy.deadline;
    let watch = Watch {
        bus: Bus::new(BusAddress::System),
        checks,
        policy: configuration.policy,
        patience: Patience::NODE,
        boot_files,
        verdicts: "/var/lib/bistable/gate".into(),
        journalctl: "/usr/bin/journalctl".into(),
        last_resort: RebootCall,
    };
    match watch.run().await {
        Ended::Good => {
            notify(&[
                sd_notify::NotifyState::Status("the slot is good"),
                sd_notify::NotifyState::Ready,
            ]);
            let mut bus = Bus::new(BusAddress::System);
            network.keep(&mut bus, deadline).await;
            ExitCode::SUCCESS
        }
        Ended::Stranded => ExitCode::FAILURE,
    }
}
