//! Callers who want too much. The daemon's side is a process of its own, which is weighed.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use updater::cli::bus::{JobProxy, ManagerProxy};
use updater::dbus::{self, Callers};
use updater::metrics::Metrics;
use updater::pace::Rests;
use updater::scrub::keeper::Bell;
use zbus::address::transport::{Transport, UnixSocket};
use zbus::{Address, Message};

use super::bus::{PrivateBus, error_name, settings, text};
use super::fake::FakeNode;
use super::gate::Daemon;
use super::network::{FakeRepository, image};

/// The most that the daemon may ever have held, in KiB.
const MOST: u64 = 64 << 10;
/// How long anybody else waits at most, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);
/// Tells the child apart.
const BUS: &str = "BISTABLE_TEST_BUS";

/// Serves on the bus that the parent gave, with hands that are stuck until the parent says
/// a word, until its standard input ends.
async fn serve(address: &str) {
    let (one, two) = (image("1", 1, 300), image("2", 2, 300));
    let node = FakeNode::running(&one.1);
    let daemon = Daemon::start(&node, &FakeRepository::with(&[&one, &two])).await;
    node.barrier.close();
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&daemon.handle, folder.path());
    let metrics = Metrics::new(daemon.handle.clone(), Rests::default());
    let address: Address = address.parse().unwrap();
    let asks = zbus::connection::Builder::address(address.clone());
    let callers = Callers::new(asks.build().await.unwrap());
    let (handle, bell) = (daemon.handle.clone(), Bell::default());
    let manager = dbus::Manager::new(handle.clone(), settings, metrics, bell, callers.clone());
    let bus = dbus::connect(&address).await.unwrap();
    let objects = bus.object_server();
    objects.at(dbus::MANAGER_PATH, manager).await.unwrap();
    let publisher = {
        let bus = bus.clone();
        tokio::spawn(async move { dbus::publish(&bus, &handle, &callers).await })
    };
    bus.request_name(dbus::BUS_NAME).await.unwrap();
    writeln!(std::io::stdout(), "READY").unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        std::io::stdin().read_exact(&mut [0])?;
        node.barrier.open();
        std::io::stdin().read_to_end(&mut Vec::new())
    });
    drop(ended.await.unwrap());
    daemon.stop().await;
    publisher.abort();
}

struct Served(Child);

impl Served {
    /// Runs the test `name` again as the daemon's side.
    fn start(name: &str, bus: &PrivateBus) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", name, "--nocapture"])
            .env(BUS, bus.address())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("READY")));
        Self(child)
    }

    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A caller who never reads an answer.
fn deaf(address: &str) -> UnixStream {
    let address: Address = address.parse().unwrap();
    let Transport::Unix(unix) = address.transport() else {
        panic!("{address}")
    };
    let mut stream = match unix.path() {
        UnixSocket::File(path) => UnixStream::connect(path).unwrap(),
        UnixSocket::Abstract(name) => {
            let name = SocketAddr::from_abstract_name(name.as_encoded_bytes()).unwrap();
            UnixStream::connect_addr(&name).unwrap()
        }
        UnixSocket::Dir(_) | UnixSocket::TmpDir(_) | _ => panic!("{address}"),
    };
    let user: String = rustix::process::getuid()
        .as_raw()
        .to_string()
        .bytes()
        .map(|digit| format!("{digit:02x}"))
        .collect();
    write!(stream, "\0AUTH EXTERNAL {user}\r\n").unwrap();
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).unwrap();
    assert!(answer.starts_with("OK"), "{answer}");
    stream.write_all(b"BEGIN\r\n").unwrap();
    let hello = call("org.freedesktop.DBus", "/org/freedesktop/DBus", "Hello");
    stream.write_all(&hello).unwrap();
    stream
}

fn call(to: &str, path: &str, method: &str) -> Vec<u8> {
    let call = Message::method_call(path, method);
    let interface = match to {
        dbus::BUS_NAME => "io.bistable.Updater1.Manager",
        other => other,
    };
    let call = call.destination(to).interface(interface);
    call.build(&()).unwrap().data().to_vec()
}

fn to_manager(method: &str) -> Vec<u8> {
    call(dbus::BUS_NAME, dbus::MANAGER_PATH, method)
}

/// Runs `bistable status` and returns how long it took.
fn status(bus: &PrivateBus) -> Duration {
    let begun = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bistable"));
    command.args(["--bus", bus.address(), "status"]);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(told.contains("1 in slot A"), "{told}");
    begun.elapsed()
}

#[tokio::test]
async fn a_flood_of_calls_fills_no_memory_and_others_are_answered_and_the_job_goes_on() {
    if let Ok(address) = std::env::var(BUS) {
        return serve(&address).await;
    }
    let bus = PrivateBus::start();
    let name =
        "flood::a_flood_of_calls_fills_no_memory_and_others_are_answered_and_the_job_goes_on";
    let mut served = Served::start(name, &bus);
    let client = bus.connect().await;
    let manager = ManagerProxy::new(&client).await.unwrap();
    let path = manager.stage("2", HashMap::new()).await.unwrap();
    let job = JobProxy::builder(&client).path(path).build().await.unwrap();
    let mut finished = job.receive_finished().await.unwrap();

    let mut floods = Vec::new();
    // Some do not even ask for an answer, and some are mistaken.
    for (method, wants_answer) in [
        ("Metrics", true),
        ("ListSlots", true),
        ("Scrub", true),
        ("Nonsense", false),
        ("Metrics", false),
    ] {
        let mut caller = deaf(bus.address());
        let mut call = to_manager(method);
        // The flag NO_REPLY_EXPECTED.
        call[2] |= u8::from(!wants_answer);
        let calls = call.repeat(100);
        floods.push(thread::spawn(move || {
            for _ in 0..100 {
                caller.write_all(&calls).unwrap();
            }
            caller
        }));
    }
    // Many callers, with many wishes to the bus and to us.
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let mut caller = deaf(bus.address());
        for number in 0..50 {
            let rule = format!("type='signal',arg0='{number}'");
            let add = Message::method_call("/org/freedesktop/DBus", "AddMatch");
            let add = add.destination("org.freedesktop.DBus");
            let add = add.interface("org.freedesktop.DBus");
            let add = add.build(&rule).unwrap();
            caller.write_all(add.data()).unwrap();
        }
        caller
            .write_all(&to_manager("CheckForUpdate").repeat(20))
            .unwrap();
        crowd.push(caller);
    }
    for _ in 0..3 {
        let took = status(&bus);
        assert!(took < LIMIT, "{took:?}");
    }
    let heard: Vec<_> = floods.into_iter().map(|it| it.join().unwrap()).collect();
    let took = status(&bus);
    assert!(took < LIMIT, "{took:?}");
    served.0.stdin.as_mut().unwrap().write_all(b"!").unwrap();
    let told = tokio::time::timeout(LIMIT, finished.next()).await;
    let told = told.expect("the job ends").unwrap();
    assert_eq!(*told.args().unwrap().result(), "done");
    let history = manager.history(1).await.unwrap();
    assert_eq!(text(&history[0], "event"), "staged");
    let peak = served.peak();
    assert!(peak < MOST, "the daemon has held {peak} KiB");
    drop((heard, crowd));
}

#[tokio::test]
async fn arguments_that_are_too_long_are_refused_by_name_and_never_held() {
    if let Ok(address) = std::env::var(BUS) {
        return serve(&address).await;
    }
    let bus = PrivateBus::start();
    let name = "flood::arguments_that_are_too_long_are_refused_by_name_and_never_held";
    let served = Served::start(name, &bus);
    let client = bus.connect().await;
    let manager = ManagerProxy::new(&client).await.unwrap();
    let before = served.peak();
    for megabytes in [1, 16, 64] {
        let reason = "x".repeat(megabytes << 20);
        let error = manager.mark_bad(&reason, HashMap::new()).await.unwrap_err();
        assert_eq!(error_name(error), "io.bistable.Error.BadArgument");
    }
    let peak = served.peak();
    assert!(
        peak < before + (4 << 10),
        "{before} KiB, and then {peak} KiB"
    );
    // What is just too long for what it is, is told by whom it was said to.
    let reason = "x".repeat(2000);
    let error = manager.rollback(&reason).await.unwrap_err();
    assert!(
        error.to_string().contains("reason has 2000 bytes"),
        "{error}"
    );
    status(&bus);
}
