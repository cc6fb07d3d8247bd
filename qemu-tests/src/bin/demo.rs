//! The demo: a node replaces its own operating system, and undoes a bad release.
//!
//! Plays the loop in a terminal with a live timeline, on images that were
//! built before (`cargo xtask demo` does both). Ends with the node's history
//! and the figures. Ctrl-C leaves nothing running.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qemu_tests::bus::{self, Bus, StageOptions};
use qemu_tests::console::{Line, Mark};
use qemu_tests::deadline::Deadline;
use qemu_tests::fixtures::{Fixtures, Image};
use qemu_tests::journal;
use qemu_tests::machine::Machine;
use qemu_tests::memory::Memory;
use qemu_tests::node::{BOOT_SECONDS, Node, RESET_SECONDS, check_host};
use qemu_tests::probe;
use qemu_tests::publisher::Repository;
use qemu_tests::server::Server;
use qemu_tests::smbios::Handed;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What `containerd` being up looks like on the console.
const CONTAINERD: &str = "Started containerd.service";

/// How long staging, and a trial, may take.
const PATIENCE_SECONDS: u64 = 600;

const MIB: f64 = 1_048_576.0;

/// How long after a failure a signal may still arrive that was its cause: Ctrl-C
/// goes to the programs that we have started as well, which may be faster to end.
const LATE_SIGNAL: Duration = Duration::from_millis(300);

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut interrupted = listen()?;
    let result = tokio::select! {
        biased;
        exit_code = asked_to_stop(&mut interrupted) => Err(exit_code),
        result = play() => Ok(result),
    };
    // By now the play is over or dropped, which has killed the node and closed the server.
    let exit_code = match result {
        Ok(Ok(())) => return Ok(ExitCode::SUCCESS),
        Ok(Err(error)) => {
            let late = tokio::time::timeout(LATE_SIGNAL, asked_to_stop(&mut interrupted)).await;
            late.map_err(|_elapsed| error)?
        }
        Err(exit_code) => exit_code,
    };
    say(format_args!(
        "\ninterrupted; the node is gone, its logs are kept"
    ));
    Ok(ExitCode::from(exit_code))
}

/// Listens from now on for signals to stop; on a thread of its own, as the play blocks its own at times.
fn listen() -> Result<watch::Receiver<Option<u8>>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for a signal")?;
    let (sender, receiver) = watch::channel(None);
    drop(tokio::spawn(async move {
        let number = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
        };
        // What a shell calls the exit status of a process that a signal ended.
        let exit_code = u8::try_from(128 + number.as_raw_value()).unwrap_or(u8::MAX);
        sender.send_replace(Some(exit_code));
        // Whoever has the receiver must still find the value.
        sender.closed().await;
    }));
    Ok(receiver)
}

async fn asked_to_stop(interrupted: &mut watch::Receiver<Option<u8>>) -> u8 {
    match interrupted.wait_for(Option::is_some).await {
        Ok(code) => code.unwrap_or_default(),
        // The listener ends after the receiver only.
        Err(_closed) => std::future::pending().await,
    }
}

/// The screen, with a clock.
struct Timeline {
    started: Instant,
}

impl Timeline {
    fn tell(&self, what: std::fmt::Arguments<'_>) {
        say(format_args!("{}  {what}", clock(self.started.elapsed())));
    }
}

/// What is shown at the end.
#[derive(Default)]
struct Figures {
    rows: Vec<(String, String)>,
}

impl Figures {
    fn add(&mut self, what: &str, value: String) {
        self.rows.push((what.into(), value));
    }
}

/// A folder that is emptied of what is large when the demo ends.
struct Stage {
    folder: PathBuf,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What cannot be removed only costs room.
        drop(fs::remove_file(self.folder.join("disk.raw")));
        drop(fs::remove_dir_all(self.folder.join("repository")));
    }
}

async fn play() -> Result<()> {
    check_host()?;
    let fixtures = Fixtures::find()?;
    let (one, two, sick) = (
        fixtures.image("1")?,
        fixtures.image("2")?,
        fixtures.image("sick-unit")?,
    );
    let stage = Stage {
        folder: fixtures.build().join("demo"),
    };
    if stage.folder.exists() {
        fs::remove_dir_all(&stage.folder).context("cannot clear away the last demo")?;
    }
    fs::create_dir_all(&stage.folder)
        .with_context(|| format!("cannot make {}", stage.folder.display()))?;
    let timeline = Timeline {
        started: Instant::now(),
    };
    let mut figures = Figures::default();
    figures.add("root image", mib(one.sizes.root));
    figures.add("hash tree", mib(one.sizes.verity));
    figures.add("kernel and initrd (UKI)", mib(one.sizes.uki));

    let publisher = fixtures.publisher();
    let repository = Repository::at(&stage.folder.join("repository"));
    publisher.publish(&two, &repository)?;
    let server = Server::start(repository.folder()).await?;
    timeline.tell(format_args!(
        "release {} is signed, published, and served over HTTP",
        two.version
    ));

    let program = probe::build(&stage.folder)?;
    let settings = format!("repository = \"{}\"\n", server.url_for_node());
    let handed = probe::hand_in(journal::hand_in(bus::hand_in(Handed::default())));
    let handed = handed.credential("bistable.updater.toml", &settings);
    let machine = Machine::create(&stage.folder, &one.disk()?, handed)?
        .with_two_processors()
        .with_disk(
            probe::PROBE_DISK,
            &probe::disk(&stage.folder, &program, &[])?,
        );
    let node = machine.power_on().await?;
    timeline.tell(format_args!(
        "power on: firmware, systemd-boot, release {}",
        one.version
    ));
    let up = started(&node, &timeline, Mark::START).await?;
    let boot = up.at.saturating_duration_since(node.powered_on());
    figures.add("power-on to containerd (first boot)", seconds(boot));
    let bus = node.bus().await?;
    bus.in_state("idle", Deadline::after(PATIENCE_SECONDS))
        .await?;
    tell_slots(&bus, &timeline).await?;

    let from = Instant::now();
    let sent = server.bytes_sent();
    let bus = update(&node, bus, &two, &timeline, &mut figures).await?;
    bus.in_state("idle", Deadline::after(PATIENCE_SECONDS))
        .await?;
    timeline.tell(format_args!(
        "the health gate is content: release {} is good",
        two.version
    ));
    figures.add("update, from the order to good", seconds(from.elapsed()));
    figures.add("downloaded for it", mib(server.bytes_sent() - sent));
    tell_slots(&bus, &timeline).await?;

    publisher.publish(&sick, &repository)?;
    timeline.tell(format_args!(
        "release {} is published: one of its units fails",
        sick.version
    ));
    let from = Instant::now();
    let trial = update(&node, bus, &sick, &timeline, &mut Figures::default()).await?;
    let mark = node.qmp().mark();
    drop(trial);
    node.reset(mark, BOOT_SECONDS + PATIENCE_SECONDS).await?;
    timeline.tell(format_args!(
        "the health gate gave up on release {}: the node turns back",
        sick.version
    ));
    let bus = node.bus().await?;
    let updater = bus
        .in_state("idle", Deadline::after(PATIENCE_SECONDS))
        .await?;
    ensure!(
        updater.booted_version == two.version,
        "{} is booted",
        updater.booted_version
    );
    timeline.tell(format_args!(
        "release {} runs again; nobody helped",
        two.version
    ));
    figures.add(
        "bad release, from the order to back",
        seconds(from.elapsed()),
    );
    tell_slots(&bus, &timeline).await?;
    let why = updater.last_rollback;
    say(format_args!(
        "\nWhy the node left release {}: {}",
        why.version, why.reason
    ));
    say(format_args!(
        "  check {}, unit {}, after {} tries",
        why.check, why.unit, why.tries
    ));
    for line in &why.lines {
        say(format_args!("  | {line}"));
    }
    tell_history(&bus).await?;
    say(format_args!("\nFigures, with every instruction emulated"));
    for (what, value) in &figures.rows {
        say(format_args!("  {what:<38}{value:>12}"));
    }
    drop(node.cut());
    Ok(())
}

/// Waits until containerd runs, telling what passes by.
async fn started(node: &Node, timeline: &Timeline, mark: Mark) -> Result<Line> {
    let deadline = Deadline::after(BOOT_SECONDS);
    let welcome = node
        .console()
        .wait_for(mark, "Welcome to", deadline)
        .await?;
    timeline.tell(format_args!(
        "dm-verity holds the root; systemd says: {}",
        welcome.text.trim()
    ));
    let up = node.console().wait_for(mark, CONTAINERD, deadline).await?;
    timeline.tell(format_args!("containerd is up"));
    Ok(up)
}

/// Stages `image` and reboots into it; returns the bus of the new boot.
async fn update(
    node: &Node,
    bus: Bus,
    image: &Image,
    timeline: &Timeline,
    figures: &mut Figures,
) -> Result<Bus> {
    let from = Instant::now();
    let job = bus.stage("", StageOptions::default()).await?;
    timeline.tell(format_args!(
        "Stage(\"\") over D-Bus: the channel names release {}",
        image.version
    ));
    let end = job
        .until(Deadline::after(PATIENCE_SECONDS), async |report| {
            bar(report.bytes_done, report.bytes_total, &report.phase);
            Ok(false)
        })
        .await?;
    clear_bar();
    ensure!(end.result == "done", "staging ended so: {end:?}");
    timeline.tell(format_args!(
        "written, read back, armed: release {} has its tries",
        end.version
    ));
    figures.add("staging", seconds(from.elapsed()));
    let memory = Memory::of_updater(node, &bus).await?;
    figures.add("daemon's peak memory (VmHWM)", mib(memory.peak));
    figures.add("page cache charged to the daemon", mib(memory.cache));
    let (events, console) = (node.qmp().mark(), node.console().mark());
    bus.reboot().await?;
    timeline.tell(format_args!("Reboot() over D-Bus"));
    node.reset(events, RESET_SECONDS).await?;
    timeline.tell(format_args!("reset: the boot loader takes the armed slot"));
    started(node, timeline, console).await?;
    let bus = node.bus().await?;
    let updater = bus.updater().await?;
    timeline.tell(format_args!(
        "slot {} runs release {}, state {}",
        updater.booted_slot, updater.booted_version, updater.state
    ));
    Ok(bus)
}

async fn tell_slots(bus: &Bus, timeline: &Timeline) -> Result<()> {
    let slots = bus.slots().await?;
    let words = slots.iter().map(|slot| {
        let booted = if slot.booted { "*" } else { "" };
        format!("{}{booted} {} {}", slot.slot, slot.status, slot.version)
    });
    timeline.tell(format_args!(
        "slots: {}",
        words.collect::<Vec<_>>().join(" | ")
    ));
    Ok(())
}

async fn tell_history(bus: &Bus) -> Result<()> {
    say(format_args!("\nThe node's history, newest first"));
    for entry in bus.history().await? {
        let text = |key: &str| {
            entry
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let when = entry
            .get("when")
            .and_then(Value::as_u64)
            .unwrap_or_default()
            / 1_000_000
            % 86_400;
        let time = format!("{:02}:{:02}:{:02}", when / 3600, when / 60 % 60, when % 60);
        let (event, version, slot, message) = (
            text("event"),
            text("version"),
            text("slot"),
            text("message"),
        );
        say(format_args!(
            "  {time}  {event:<12} {version:<8} {slot:<2} {message}"
        ));
    }
    Ok(())
}

fn bar(done: u64, total: u64, phase: &str) {
    const WIDTH: u64 = 40;
    if !std::io::stdout().is_terminal() {
        return;
    }
    let filled = (done * WIDTH).checked_div(total).unwrap_or(0).min(WIDTH);
    let percent = (done * 100).checked_div(total).unwrap_or(0);
    let cells: String = (0..WIDTH)
        .map(|cell| if cell < filled { '#' } else { '.' })
        .collect();
    put(format_args!(
        "\r       [{cells}] {percent:>3} % {phase:<20}"
    ));
}

fn clear_bar() {
    if std::io::stdout().is_terminal() {
        put(format_args!("\r{:80}\r", ""));
    }
}

fn clock(passed: Duration) -> String {
    let seconds = passed.as_secs();
    format!("{:3}:{:02}", seconds / 60, seconds % 60)
}

fn seconds(passed: Duration) -> String {
    format!("{:.1} s", passed.as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB)
}

fn say(line: std::fmt::Arguments<'_>) {
    put(format_args!("{line}\n"));
}

fn put(text: std::fmt::Arguments<'_>) {
    let mut output = std::io::stdout().lock();
    // Nobody watches when this fails.
    drop(output.write_fmt(text).and_then(|()| output.flush()));
}
