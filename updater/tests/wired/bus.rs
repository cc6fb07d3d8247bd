//! The daemon on a real bus: its own, private dbus-daemon.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use partition_layout::Slot;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use updater::cli::bus::{JobProxy, ManagerProxy};
use updater::config::Sources;
use updater::dbus::{self, Callers};
use updater::driver::{Handle, View};
use updater::metrics::Metrics;
use updater::pace::Rests;
use updater::ports::Restart;
use updater::scrub::keeper::Bell;
use updater::settings::Settings;
use zbus::fdo::{IntrospectableProxy, PropertiesProxy};
use zbus::{Connection, OwnedVariant, Variant};

use super::fake::FakeNode;
use super::gate::Daemon;
use super::introspection::Node;
use super::network::{FakeRepository, Lie, Which, image};

const XML: &str = include_str!("../../../systemd-units/dbus/io.bistable.Updater1.xml");
/// Far above what anything here takes, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct PrivateBus {
    daemon: Child,
    address: String,
}

impl PrivateBus {
    pub(crate) fn start() -> Self {
        let mut daemon = host_tools::oracle("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--print-address"])
            .stdout(Stdio::piped())
            // It says that it may not raise its limit of open files.
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon can be run");
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        Self {
            daemon,
            address: address.trim().to_owned(),
        }
    }

    /// As the daemon does: through the door.
    pub(crate) async fn serve(&self) -> Connection {
        let address = self.address.parse().unwrap();
        dbus::connect(&address).await.unwrap()
    }

    pub(crate) async fn callers(&self) -> Callers {
        Callers::new(self.connect().await)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn connect(&self) -> Connection {
        zbus::connection::Builder::address(self.address.as_str())
            .build()
            .await
            .unwrap()
    }
}

impl Drop for PrivateBus {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

/// Settings in a file of this folder, which is not there at first.
pub(crate) fn settings(handle: &Handle, folder: &Path) -> Settings {
    let sources = Sources::Files(vec![folder.join("updater.toml")]);
    Settings::new(sources, watch::Sender::new(Arc::default()), handle.clone())
}

pub(crate) struct Stand {
    pub(crate) bus: PrivateBus,
    pub(crate) node: FakeNode,
    repository: FakeRepository,
    pub(crate) daemon: Daemon,
    client: Connection,
    publisher: JoinHandle<zbus::Result<()>>,
    settings: TempDir,
}

impl Stand {
    pub(crate) async fn new() -> Self {
        let (one, two) = (image("1", 1, 300), image("2", 2, 300));
        let node = FakeNode::running(&one.1);
        let repository = FakeRepository::with(&[&one, &two]);
        Self::with(node, repository).await
    }

    async fn with(node: FakeNode, repository: FakeRepository) -> Self {
        let bus = PrivateBus::start();
        let daemon = Daemon::start(&node, &repository).await;
        let (server, callers) = (bus.serve().await, bus.callers().await);
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&daemon.handle, folder.path());
        let metrics = Metrics::new(daemon.handle.clone(), Rests::default());
        let manager = dbus::Manager::new(
            daemon.handle.clone(),
            settings,
            metrics,
            Bell::default(),
            callers.clone(),
        );
        server
            .object_server()
            .at(dbus::MANAGER_PATH, manager)
            .await
            .unwrap();
        server.request_name(dbus::BUS_NAME).await.unwrap();
        let handle = daemon.handle.clone();
        let publisher =
            tokio::spawn(async move { dbus::publish(&server, &handle, &callers).await });
        let client = bus.connect().await;
        Self {
            bus,
            node,
            repository,
            daemon,
            client,
            publisher,
            settings: folder,
        }
    }

    pub(crate) async fn manager(&self) -> ManagerProxy<'_> {
        ManagerProxy::new(&self.client).await.unwrap()
    }

    async fn properties(&self, path: &str, interface: &str) -> HashMap<String, OwnedVariant> {
        let proxy = PropertiesProxy::builder(&self.client)
            .destination(dbus::BUS_NAME)
            .path(path)
            .build()
            .await
            .unwrap();
        proxy.get_all(interface.try_into().unwrap()).await.unwrap()
    }

    pub(crate) async fn manager_properties(&self) -> HashMap<String, OwnedVariant> {
        self.properties(dbus::MANAGER_PATH, "io.bistable.Updater1.Manager")
            .await
    }

    async fn xml(&self, path: &str) -> String {
        let proxy = IntrospectableProxy::builder(&self.client)
            .destination(dbus::BUS_NAME)
            .path(path)
            .build()
            .await
            .unwrap();
        proxy.introspect().await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.daemon.stop().await;
        self.publisher.abort();
    }
}

pub(crate) fn text(properties: &HashMap<String, OwnedVariant>, name: &str) -> String {
    String::try_from(properties[name].try_clone().unwrap()).unwrap()
}

fn number(properties: &HashMap<String, OwnedVariant>, name: &str) -> u64 {
    u64::try_from(&properties[name]).unwrap()
}

pub(crate) fn error_name(error: zbus::Error) -> String {
    let zbus::Error::MethodError(name, ..) = error else {
        panic!("no error of ours: {error:?}")
    };
    name.to_string()
}

const JOB: &str = "io.bistable.Updater1.Job";

#[tokio::test]
async fn the_live_interfaces_are_those_of_the_checked_in_file() {
    let stand = Stand::new().await;
    let job = stand.manager().await.check_for_update().await.unwrap();
    let written = Node::parse(XML);
    for (path, interface) in [
        (dbus::MANAGER_PATH, "io.bistable.Updater1.Manager"),
        (job.as_str(), JOB),
    ] {
        let live = Node::parse(&stand.xml(path).await);
        assert_eq!(live.interface(interface), written.interface(interface));
        assert!(!written.interface(interface).unwrap().members.is_empty());
    }
    stand.stop().await;
}

#[tokio::test]
async fn a_release_is_staged_over_the_bus_with_progress_that_only_grows() {
    let stand = Stand::new().await;
    let manager = stand.manager().await;
    let path = manager.stage("2", HashMap::new()).await.unwrap();
    let job = JobProxy::builder(&stand.client)
        .path(path.clone())
        .build()
        .await
        .unwrap();
    let mut finished = job.receive_finished().await.unwrap();
    let changes = PropertiesProxy::builder(&stand.client)
        .destination(dbus::BUS_NAME)
        .path(path.clone())
        .build()
        .await
        .unwrap();
    let mut changes = changes.receive_properties_changed().await.unwrap();
    let mut done = 0;
    if text(&stand.properties(&path, JOB).await, "Result").is_empty() {
        let told = tokio::time::timeout(LIMIT, async {
            loop {
                tokio::select! {
                    change = changes.next() => {
                        let change = change.unwrap();
                        let changed = change.args().unwrap().changed_properties;
                        if let Some(Variant::U64(now)) = changed.get("BytesDone") {
                            assert!(*now >= done);
                            done = *now;
                        }
                    }
                    told = finished.next() => break told.unwrap(),
                }
            }
        })
        .await
        .expect("the job ends");
        let told = told.args().unwrap();
        assert_eq!(
            (*told.result(), *told.error(), *told.message()),
            ("done", "", "")
        );
    }
    let properties = stand.properties(&path, JOB).await;
    assert_eq!(text(&properties, "Result"), "done");
    assert_eq!(text(&properties, "Kind"), "stage");
    assert_eq!(text(&properties, "Version"), "2");
    assert_eq!(
        number(&properties, "BytesDone"),
        number(&properties, "BytesTotal")
    );
    assert!(
        stand
            .node
            .entry_names()
            .contains(&"bistable_2+3.efi".to_owned())
    );

    let properties = stand.manager_properties().await;
    assert_eq!(text(&properties, "State"), "staged");
    assert_eq!(text(&properties, "StagedVersion"), "2");
    assert_eq!(text(&properties, "BootedVersion"), "1");
    let slots = manager.list_slots().await.unwrap();
    assert_eq!(
        (text(&slots[0], "slot"), text(&slots[0], "status")),
        ("A".into(), "good".into())
    );
    assert_eq!(
        (text(&slots[1], "slot"), text(&slots[1], "status")),
        ("B".into(), "armed".into())
    );
    assert_eq!(u32::try_from(&slots[1]["tries_left"]).unwrap(), 3);
    let history = manager.history(0).await.unwrap();
    assert_eq!(text(&history[0], "event"), "staged");
    assert_eq!(text(&history[0], "who"), "caller");
    stand.stop().await;
}

#[tokio::test]
async fn a_job_that_waits_for_a_silent_server_is_cancelled_and_the_bus_never_waits() {
    let stand = Stand::new().await;
    stand.repository.lie(Lie::Silence(Which::Root, 500_000));
    let manager = stand.manager().await;
    let path = manager.stage("", HashMap::new()).await.unwrap();
    let job = JobProxy::builder(&stand.client)
        .path(path.clone())
        .build()
        .await
        .unwrap();
    let mut finished = job.receive_finished().await.unwrap();
    // The hands wait for the network; the head answers.
    let properties = stand.manager_properties().await;
    assert_eq!(text(&properties, "State"), "staging");
    let busy = manager.check_for_update().await.unwrap_err();
    assert_eq!(error_name(busy), "io.bistable.Error.Busy");
    let bad = manager.mark_bad("no", HashMap::new()).await.unwrap_err();
    assert_eq!(error_name(bad), "io.bistable.Error.NotInTrial");
    manager.mark_good().await.unwrap();
    job.cancel().await.unwrap();
    let told = tokio::time::timeout(LIMIT, finished.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(*told.args().unwrap().result(), "cancelled");
    let late = job.cancel().await.unwrap_err();
    assert_eq!(error_name(late), "io.bistable.Error.NoSuchJob");
    assert_eq!(stand.node.entry_names(), ["bistable_1.efi"]);
    stand.stop().await;
}

#[tokio::test]
async fn errors_have_names_and_arguments_are_checked() {
    let stand = Stand::new().await;
    let manager = stand.manager().await;
    for (version, options) in [
        ("no such version!", HashMap::new()),
        ("2", HashMap::from([("forse", Variant::from(true))])),
        ("", HashMap::from([("force", Variant::from(true))])),
        ("2", HashMap::from([("tries", Variant::from(0_u32))])),
    ] {
        let error = manager.stage(version, options).await.unwrap_err();
        assert_eq!(error_name(error), "io.bistable.Error.BadArgument");
    }
    let error = manager.forgive("abc").await.unwrap_err();
    assert_eq!(error_name(error), "io.bistable.Error.BadArgument");
    let error = manager.rollback("because").await.unwrap_err();
    assert_eq!(error_name(error), "io.bistable.Error.NothingToRollBackTo");
    stand.stop().await;
}

#[tokio::test]
async fn a_failed_job_leaves_its_error_where_it_can_be_read() {
    let stand = Stand::new().await;
    stand.repository.lie(Lie::Flip(Which::Root, 5000));
    let manager = stand.manager().await;
    manager.stage("2", HashMap::new()).await.unwrap();
    let mut view = stand.daemon.handle.follow();
    let ended = view.wait_for(|view| view.last_error.is_some());
    tokio::time::timeout(LIMIT, ended).await.unwrap().unwrap();
    let properties = stand.manager_properties().await;
    let (name, message) =
        <(String, String)>::try_from(properties["LastError"].try_clone().unwrap()).unwrap();
    assert_eq!(name, "io.bistable.Error.BlobCorrupt");
    assert!(message.contains("block 1"), "{message}");
    assert_eq!(text(&properties, "State"), "idle");
    stand.stop().await;
}

/// The bus ends the connection of whoever sends a NUL in a text.
#[tokio::test]
async fn a_strangers_words_do_not_cost_the_daemon_its_bus() {
    let stand = Stand::new().await;
    stand.repository.lie(Lie::MetadataGarbled);
    let manager = stand.manager().await;
    manager.check_for_update().await.unwrap();
    let mut view = stand.daemon.handle.follow();
    let ended = view.wait_for(|view| view.last_error.is_some());
    tokio::time::timeout(LIMIT, ended).await.unwrap().unwrap();
    let properties = stand.manager_properties().await;
    let (name, message) =
        <(String, String)>::try_from(properties["LastError"].try_clone().unwrap()).unwrap();
    assert_eq!(name, "io.bistable.Error.MetadataUntrusted");
    assert!(message.contains("`ed  25519`"), "{message:?}");
    manager.list_slots().await.expect("it is still there");
    stand.stop().await;
}

#[tokio::test]
async fn a_check_tells_what_the_channel_offers() {
    let stand = Stand::new().await;
    let manager = stand.manager().await;
    manager.check_for_update().await.unwrap();
    let mut view = stand.daemon.handle.follow();
    let checked = view.wait_for(|view| view.last_check.is_some());
    tokio::time::timeout(LIMIT, checked).await.unwrap().unwrap();
    let properties = stand.manager_properties().await;
    assert_eq!(text(&properties, "AvailableVersion"), "2");
    assert_ne!(number(&properties, "LastCheck"), 0);
    let releases = manager.list_releases().await.unwrap();
    assert_eq!(
        (text(&releases[0], "version"), text(&releases[1], "version")),
        ("2".into(), "1".into())
    );
    assert_eq!(bool::try_from(&releases[0]["newest"]), Ok(true));
    stand.stop().await;
}

#[tokio::test]
async fn marking_bad_replies_and_then_reboots() {
    let (one, two) = (image("1", 1, 300), image("2", 2, 300));
    let node = FakeNode::running(&one.1);
    let repository = FakeRepository::with(&[&one, &two]);
    let daemon = Daemon::start(&node, &repository).await;
    daemon.stage("2").await;
    daemon.stop().await;
    node.power_cycle(&[&one.1, &two.1]);
    let stand = Stand::with(node, repository).await;
    assert_eq!(text(&stand.manager_properties().await, "State"), "trial");
    let lines = Variant::from(vec!["one", "two"]);
    let details = HashMap::from([("check", Variant::from("gate")), ("lines", lines)]);
    stand
        .manager()
        .await
        .mark_bad("sick", details)
        .await
        .unwrap();
    let mut view = stand.daemon.handle.follow();
    let rebooting = view.wait_for(|view| view.state == "rebooting");
    tokio::time::timeout(LIMIT, rebooting)
        .await
        .unwrap()
        .unwrap();
    let properties = stand.manager_properties().await;
    let told: HashMap<String, OwnedVariant> = properties["LastRollback"]
        .try_clone()
        .unwrap()
        .try_into()
        .unwrap();
    assert_eq!(
        (text(&told, "check"), text(&told, "reason")),
        ("gate".into(), "sick".into())
    );
    // Once it has stopped, its hands have done what they were told.
    let node = stand.node.clone();
    stand.stop().await;
    assert_eq!(node.reboots(), [Restart::AtOnce]);
}

#[tokio::test]
async fn an_operators_reboot_is_in_good_order_and_needs_no_staged_release() {
    let stand = Stand::new().await;
    stand.manager().await.reboot().await.unwrap();
    assert_eq!(
        text(&stand.manager_properties().await, "State"),
        "rebooting"
    );
    assert_eq!(stand.node.reboots(), [Restart::InOrder]);
    // A second word changes nothing.
    stand.manager().await.reboot().await.unwrap();
    let busy = stand.manager().await.check_for_update().await.unwrap_err();
    assert_eq!(error_name(busy), "io.bistable.Error.Busy");
    assert_eq!(stand.node.reboots(), [Restart::InOrder]);
    stand.stop().await;
}

#[tokio::test]
async fn only_the_last_jobs_stay_on_the_bus() {
    let stand = Stand::new().await;
    let manager = stand.manager().await;
    let mut paths = Vec::new();
    for _ in 0..10 {
        let path = manager.check_for_update().await.unwrap();
        let mut view = stand.daemon.handle.follow();
        let ended = view.wait_for(|view| view.current_job.is_none());
        tokio::time::timeout(LIMIT, ended).await.unwrap().unwrap();
        paths.push(path);
    }
    let of = async |path: &str| {
        let proxy = PropertiesProxy::builder(&stand.client)
            .destination(dbus::BUS_NAME)
            .path(path.to_owned())
            .build()
            .await
            .unwrap();
        proxy.get_all(JOB.try_into().unwrap()).await
    };
    // Objects go when the publisher gets to it.
    let gone = tokio::time::timeout(LIMIT, async {
        while of(paths[0].as_str()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    gone.await.expect("the first job's object goes");
    assert!(of(paths[9].as_str()).await.is_ok());
    assert!(of(paths[2].as_str()).await.is_ok());
    stand.stop().await;
}

/// Answers within a time in which nothing that waits for the hands is answered.
pub(crate) async fn answered<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, call).await.expect("an answer")
}

#[tokio::test]
async fn every_call_is_answered_while_the_hands_are_stuck_in_a_write() {
    let stand = Stand::new().await;
    stand.node.barrier.close();
    let manager = stand.manager().await;
    let path = manager.stage("2", HashMap::new()).await.unwrap();
    stand.node.barrier.holds().await;

    let properties = answered(stand.manager_properties()).await;
    assert_eq!(text(&properties, "State"), "staging");
    assert_eq!(text(&properties, "Held"), "off");
    answered(stand.properties(&path, JOB)).await;
    answered(stand.xml(&path)).await;
    answered(manager.list_slots()).await.unwrap();
    answered(manager.list_releases()).await.unwrap();
    answered(manager.list_barred()).await.unwrap();
    answered(manager.history(0)).await.unwrap();
    let metrics = answered(manager.metrics()).await.unwrap();
    assert!(
        metrics.contains("bistable_state{state=\"staging\"} 1\n"),
        "{metrics}"
    );
    answered(manager.mark_good()).await.unwrap();
    assert_eq!(answered(manager.proceed()).await.unwrap(), "nothing");
    answered(manager.reload()).await.unwrap();
    for refused in [
        answered(manager.check_for_update()).await.map(drop),
        answered(manager.stage("2", HashMap::new())).await.map(drop),
        answered(manager.rollback("no")).await.map(drop),
        answered(manager.reboot()).await,
        answered(manager.forgive(&"5a".repeat(32))).await,
    ] {
        let name = error_name(refused.unwrap_err());
        assert_eq!(name, "io.bistable.Error.Busy");
    }
    let job = JobProxy::builder(&stand.client)
        .path(path.clone())
        .build()
        .await
        .unwrap();
    answered(job.pause()).await.unwrap();
    let properties = answered(stand.properties(&path, JOB)).await;
    assert_eq!(bool::try_from(&properties["Paused"]), Ok(true));
    assert_eq!(text(&properties, "PausedBy"), "caller");
    answered(job.resume()).await.unwrap();
    let properties = answered(stand.properties(&path, JOB)).await;
    assert_eq!(bool::try_from(&properties["Paused"]), Ok(false));
    let mut finished = job.receive_finished().await.unwrap();
    answered(job.cancel()).await.unwrap();

    stand.node.barrier.open();
    let told = answered(finished.next()).await.unwrap();
    assert_eq!(*told.args().unwrap().result(), "cancelled");
    assert_eq!(stand.node.entry_names(), ["bistable_1.efi"]);
    let history = answered(manager.history(1)).await.unwrap();
    assert_eq!(text(&history[0], "event"), "stage-cancelled");
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(
        text(&history[0], "message"),
        format!("cancelled by user {user}")
    );
    stand.stop().await;
}

#[tokio::test]
async fn a_client_that_vanishes_harms_nothing() {
    let stand = Stand::new().await;
    stand.node.barrier.close();
    let client = stand.bus.connect().await;
    let manager = ManagerProxy::new(&client).await.unwrap();
    let path = manager.stage("2", HashMap::new()).await.unwrap();
    stand.node.barrier.holds().await;
    // One call is answered to nobody.
    let job = JobProxy::builder(&client).path(path.clone()).build();
    let job = job.await.unwrap();
    job.inner().call_noreply("Pause", &()).await.unwrap();
    client.close().await.unwrap();

    let mut view = stand.daemon.handle.follow();
    let paused = |view: &Arc<View>| {
        let mut jobs = view.jobs.iter();
        jobs.any(|job| job.work.borrow().holder.is_some())
    };
    answered(view.wait_for(paused)).await.unwrap();
    let job = JobProxy::builder(&stand.client).path(path).build();
    job.await.unwrap().resume().await.unwrap();
    stand.node.barrier.open();
    answered(view.wait_for(|view| view.state == "staged"))
        .await
        .unwrap();
    stand.stop().await;
}

#[tokio::test]
async fn wrong_settings_are_refused_by_line_and_key_and_the_old_ones_stay() {
    let stand = Stand::new().await;
    let manager = stand.manager().await;
    let file = stand.settings.path().join("updater.toml");
    let own = "repository = \"http://fake/\"\nautomatic = \"stage\"\n";
    std::fs::write(&file, own).unwrap();
    manager.reload().await.unwrap();
    let automatic = async || {
        let properties = stand.manager_properties().await;
        (
            text(&properties, "Automatic"),
            text(&properties, "SettingsError"),
        )
    };
    assert_eq!(automatic().await, ("stage".to_owned(), String::new()));

    std::fs::write(&file, "automatic = \"off\"\ntries = 99\n").unwrap();
    let error = manager.reload().await.unwrap_err();
    let zbus::Error::MethodError(name, Some(message), _) = error else {
        panic!("{error:?}")
    };
    assert_eq!(name.as_str(), "io.bistable.Error.BadSettings");
    let named = format!("{}:2: tries is not a whole number", file.display());
    assert!(message.contains(&named), "{message}");
    let (still, told) = automatic().await;
    assert_eq!(still, "stage");
    assert!(told.contains(&named), "{told}");

    std::fs::write(&file, "automatic = \"off\"\n").unwrap();
    manager.reload().await.unwrap();
    assert_eq!(automatic().await, ("off".to_owned(), String::new()));
    stand.stop().await;
}

#[tokio::test]
async fn proceeding_tells_what_was_begun_or_why_nothing() {
    let stand = Stand::new().await;
    let manager = stand.manager().await;
    assert_eq!(manager.proceed().await.unwrap(), "nothing");
    let file = stand.settings.path().join("updater.toml");
    let window = "[[window]]\ndays = [\"mon\"]\nfrom = \"22:00\"\nto = \"23:00\"\n";
    let own = format!("repository = \"http://fake/\"\nautomatic = \"stage\"\n{window}");
    std::fs::write(&file, own).unwrap();
    manager.reload().await.unwrap();
    assert_eq!(manager.proceed().await.unwrap(), "check");
    let mut view = stand.daemon.handle.follow();
    let checked = view.wait_for(|view| view.last_check.is_some() && view.current_job.is_none());
    answered(checked).await.unwrap();
    // The fake clock stands on a Friday, 2027-01-15 08:00 UTC.
    assert_eq!(manager.proceed().await.unwrap(), "nothing");
    let properties = stand.manager_properties().await;
    assert_eq!(text(&properties, "Held"), "window-closed");
    assert!(text(&properties, "HeldMessage").contains("2027-01-18 22:00 UTC"));
    assert_eq!(number(&properties, "NextWindow"), 1_800_309_600_000_000);
    stand.stop().await;
}

#[tokio::test]
async fn a_plan_shows_the_ways_that_a_stage_then_takes_and_changes_nothing() {
    let stand = Stand::new().await;
    let manager = stand.manager().await;
    let (slots, spare) = ([Slot::A, Slot::B], stand.node.entry_names());
    let before = slots.map(|slot| stand.node.slot_bytes(slot));
    let plan = async |path: &str| {
        let mut view = stand.daemon.handle.follow();
        answered(view.wait_for(|view| view.current_job.is_none()))
            .await
            .unwrap();
        let properties = stand.properties(path, JOB).await;
        assert_eq!(text(&properties, "Result"), "done");
        let fetch = number(&properties, "PlanFetch");
        let ways = properties["Plan"].try_clone().unwrap();
        (
            fetch,
            Vec::<HashMap<String, OwnedVariant>>::try_from(ways).unwrap(),
        )
    };
    let chosen = |ways: &[HashMap<String, OwnedVariant>], part: &str| {
        let of_part = ways.iter().filter(|way| text(way, "part") == part);
        let mut chosen = of_part.filter(|way| bool::try_from(&way["chosen"]) == Ok(true));
        chosen.next().map(|way| text(way, "method"))
    };
    let path = manager.plan("2", HashMap::new()).await.unwrap();
    let (fetch, ways) = plan(&path).await;
    assert_eq!(text(&stand.properties(&path, JOB).await, "Kind"), "plan");
    assert!(fetch >= 300 * 4096, "{fetch}");
    assert!(chosen(&ways, "root").is_some() && chosen(&ways, "uki").is_some());
    let dearer = ways
        .iter()
        .find(|way| text(way, "why_not") == "not-published");
    assert_eq!(text(dearer.unwrap(), "part"), "root");
    assert_eq!(slots.map(|slot| stand.node.slot_bytes(slot)), before);
    assert_eq!(stand.node.entry_names(), spare);
    assert_eq!(text(&stand.manager_properties().await, "State"), "idle");

    let path = manager.stage("2", HashMap::new()).await.unwrap();
    let (_, taken) = plan(&path).await;
    for part in ["root", "uki"] {
        assert_eq!(chosen(&taken, part), chosen(&ways, part), "{part}");
    }
    stand.stop().await;
}

#[tokio::test]
async fn what_could_not_be_staged_cannot_be_planned() {
    let stand = Stand::new().await;
    let manager = stand.manager().await;
    let tries = HashMap::from([("tries", Variant::from(2_u32))]);
    let error = manager.plan("2", tries).await.unwrap_err();
    assert_eq!(error_name(error), "io.bistable.Error.BadArgument");
    let path = manager.plan("1", HashMap::new()).await.unwrap();
    let mut view = stand.daemon.handle.follow();
    answered(view.wait_for(|view| view.current_job.is_none()))
        .await
        .unwrap();
    let properties = stand.properties(&path, JOB).await;
    let error = properties["Error"].try_clone().unwrap();
    let (name, _) = <(String, String)>::try_from(error).unwrap();
    assert_eq!(name, "io.bistable.Error.AlreadyBooted");
    stand.stop().await;
}
