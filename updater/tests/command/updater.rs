//! An updater that says what each version's name asks for.

use std::collections::HashMap;
use std::sync::mpsc;
use std::thread;

use tokio::sync::watch;
use updater::dbus::BusError;
use updater::names::ErrorName;
use updater::refusal::Failure;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath, Variant, interface};

const PATH: &str = "/io/bistable/Updater1";
const TOTAL: u64 = 1000;
/// 2026-05-02 12:00 UTC.
const NOON: u64 = 1_777_723_200_000_000;

type Dictionary = HashMap<&'static str, Variant<'static>>;

/// Serves an updater on the bus at `address`, as long as the bus lives.
pub(crate) fn serve(address: &str) {
    let address = address.to_owned();
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (die, mut dying) = watch::channel(false);
            let bus = zbus::connection::Builder::address(address.as_str())
                .serve_at(
                    PATH,
                    Manager {
                        job: None,
                        jobs: 0,
                        staged: String::new(),
                        die,
                    },
                )
                .name("io.bistable.Updater1")
                .build()
                .await
                .unwrap();
            ready.send(()).unwrap();
            dying.wait_for(|dying| *dying).await.unwrap();
            bus.close().await.unwrap();
        });
    });
    is_ready.recv().unwrap();
}

fn refused(name: ErrorName, message: &str) -> BusError {
    BusError::from(Failure {
        name,
        message: message.to_owned(),
    })
}

struct Manager {
    job: Option<u32>,
    jobs: u32,
    staged: String,
    die: watch::Sender<bool>,
}

impl Manager {
    async fn begin(
        &mut self,
        kind: &'static str,
        version: &str,
        bus: &Connection,
    ) -> ObjectPath<'static> {
        self.jobs += 1;
        let path: ObjectPath<'static> = format!("{PATH}/job/{}", self.jobs).try_into().unwrap();
        let job = Job {
            kind,
            version: version.to_owned(),
            done: 0,
            paused_by: "",
            result: "",
            error: (String::new(), String::new()),
        };
        bus.object_server().at(&path, job).await.unwrap();
        match version {
            "endless" | "stubborn" => self.job = Some(self.jobs),
            _ => {
                tokio::spawn(work(bus.clone(), path.clone(), self.die.clone()));
            }
        }
        path
    }
}

/// Brings a job to its end.
async fn work(bus: Connection, path: ObjectPath<'static>, die: watch::Sender<bool>) {
    let job = bus
        .object_server()
        .interface::<_, Job>(&path)
        .await
        .unwrap();
    let emitter = job.signal_emitter();
    let version = job.get().await.version.clone();
    for done in [100, 400, 900] {
        let mut job = job.get_mut().await;
        job.done = done;
        job.bytes_done_changed(emitter).await.unwrap();
    }
    match version.as_str() {
        "deadly" => {
            die.send_replace(true);
        }
        "corrupt" => {
            let name = ErrorName::BlobCorrupt.to_string();
            let message = "the root image is not what was signed".to_owned();
            job.get_mut()
                .await
                .end("failed", (name, message), emitter)
                .await;
        }
        _ => {
            job.get_mut().await.done = TOTAL;
            job.get_mut()
                .await
                .end("done", Default::default(), emitter)
                .await;
        }
    }
}

#[interface(name = "io.bistable.Updater1.Manager")]
impl Manager {
    async fn check_for_update(
        &mut self,
        #[zbus(connection)] bus: &Connection,
    ) -> ObjectPath<'static> {
        self.begin("check", "", bus).await
    }

    async fn stage(
        &mut self,
        version: &str,
        options: HashMap<String, Variant<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<ObjectPath<'static>, BusError> {
        let version = if version.is_empty() { "2" } else { version };
        if version == "options" {
            let shown = |name: &str| match options.get(name) {
                Some(Variant::Bool(value)) => value.to_string(),
                Some(Variant::U32(value)) => value.to_string(),
                _ => "-".to_owned(),
            };
            let told = format!("force={} tries={}", shown("force"), shown("tries"));
            return Err(refused(ErrorName::BadArgument, &told));
        }
        if version == "barred" {
            return Err(refused(ErrorName::Barred, "that image failed here"));
        }
        self.staged = version.to_owned();
        Ok(self.begin("stage", version, bus).await)
    }

    async fn plan(
        &mut self,
        version: &str,
        _options: HashMap<String, Variant<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> ObjectPath<'static> {
        self.begin("plan", version, bus).await
    }

    /// As a node that was told to stage what is new, and has done so.
    async fn proceed(&mut self, #[zbus(connection)] bus: &Connection) -> &'static str {
        if self.jobs == 0 {
            self.begin("check", "", bus).await;
            return "check";
        }
        "nothing"
    }

    fn reload(&self) -> Result<(), BusError> {
        Err(refused(
            ErrorName::BadSettings,
            "/etc/bistable/updater.toml:3: tries is not a number",
        ))
    }

    fn reboot(&self) {}

    async fn rollback(
        &mut self,
        reason: &str,
        #[zbus(connection)] bus: &Connection,
    ) -> ObjectPath<'static> {
        assert_eq!(reason, "it is slow");
        self.begin("rollback", "0", bus).await
    }

    fn mark_good(&self) -> Result<(), BusError> {
        Err(refused(
            ErrorName::NotInTrial,
            "the booted slot is not on trial",
        ))
    }

    fn mark_bad(&self, reason: &str, details: HashMap<String, Variant<'_>>) {
        assert_eq!(reason, "r");
        assert_eq!(details["check"], Variant::from("c"));
        assert_eq!(details["unit"], Variant::from("u"));
    }

    fn scrub(&self) -> Result<(), BusError> {
        Err(refused(
            ErrorName::BootedSlotNotGood,
            "the booted slot is not good",
        ))
    }

    fn forgive(&self, root_hash: &str) {
        assert_eq!(root_hash, "5a");
    }

    fn list_slots(&self) -> Vec<Dictionary> {
        let slot = |slot: &str, booted: bool, left: u32| {
            HashMap::from([
                ("slot", slot.to_owned().into()),
                ("booted", booted.into()),
                ("version", "1".to_owned().into()),
                ("root_hash", "5a".repeat(32).into()),
                ("status", "good".to_owned().into()),
                ("tries_left", left.into()),
                ("tries_done", 0_u32.into()),
            ])
        };
        vec![slot("A", true, 0), slot("B", false, 3)]
    }

    fn list_releases(&self) -> Vec<Dictionary> {
        vec![HashMap::from([
            ("version", "2".to_owned().into()),
            ("newest", true.into()),
        ])]
    }

    fn list_barred(&self) -> Vec<Dictionary> {
        vec![HashMap::from([
            ("root_hash", "a5".repeat(32).into()),
            ("when", NOON.into()),
        ])]
    }

    fn history(&self, limit: u32) -> Vec<Dictionary> {
        assert_eq!(limit, 20);
        vec![HashMap::from([
            ("when", NOON.into()),
            ("event", "staged".to_owned().into()),
        ])]
    }

    fn metrics(&self) -> String {
        "bistable_up 1\n".to_owned()
    }

    #[zbus(property)]
    fn state(&self) -> String {
        "idle".to_owned()
    }

    #[zbus(property)]
    fn booted_slot(&self) -> String {
        "A".to_owned()
    }

    #[zbus(property)]
    fn booted_version(&self) -> String {
        "1".to_owned()
    }

    #[zbus(property)]
    fn booted_root_hash(&self) -> String {
        "5a".repeat(32)
    }

    #[zbus(property)]
    fn staged_version(&self) -> String {
        self.staged.clone()
    }

    #[zbus(property)]
    fn available_version(&self) -> String {
        "2".to_owned()
    }

    #[zbus(property)]
    fn floor(&self) -> String {
        String::new()
    }

    #[zbus(property)]
    fn last_check(&self) -> u64 {
        NOON
    }

    #[zbus(property)]
    fn last_error(&self) -> (String, String) {
        Default::default()
    }

    #[zbus(property)]
    fn last_rollback(&self) -> Dictionary {
        HashMap::from([
            ("version", "2".to_owned().into()),
            ("check", "containerd".to_owned().into()),
            ("unit", "containerd.service".to_owned().into()),
            ("reason", "it failed".to_owned().into()),
            ("when", NOON.into()),
            ("lines", vec!["it went down".to_owned()].into()),
            ("tries", 2_u32.into()),
        ])
    }

    #[zbus(property)]
    fn automatic(&self) -> String {
        "stage".to_owned()
    }

    #[zbus(property)]
    fn held(&self) -> String {
        "only-stages".to_owned()
    }

    #[zbus(property)]
    fn held_message(&self) -> String {
        "2 waits for the reboot".to_owned()
    }

    #[zbus(property)]
    fn next_window(&self) -> u64 {
        NOON
    }

    #[zbus(property)]
    fn settings_error(&self) -> String {
        String::new()
    }

    #[zbus(property)]
    fn current_job(&self) -> ObjectPath<'static> {
        let path = self
            .job
            .map_or_else(|| "/".to_owned(), |job| format!("{PATH}/job/{job}"));
        path.try_into().unwrap()
    }

    #[zbus(property)]
    fn daemon_version(&self) -> String {
        "0".to_owned()
    }
}

struct Job {
    kind: &'static str,
    version: String,
    done: u64,
    paused_by: &'static str,
    result: &'static str,
    error: (String, String),
}

impl Job {
    async fn end(
        &mut self,
        result: &'static str,
        error: (String, String),
        emitter: &SignalEmitter<'_>,
    ) {
        (self.result, self.error) = (result, error);
        self.result_changed(emitter).await.unwrap();
        let (name, message) = &self.error;
        Self::finished(emitter, result, name, message)
            .await
            .unwrap();
    }
}

#[interface(name = "io.bistable.Updater1.Job")]
impl Job {
    async fn cancel(&mut self, #[zbus(signal_emitter)] emitter: SignalEmitter<'_>) {
        if self.version != "stubborn" {
            self.end("cancelled", Default::default(), &emitter).await;
        }
    }

    #[zbus(property)]
    fn kind(&self) -> String {
        self.kind.to_owned()
    }

    #[zbus(property)]
    fn version(&self) -> String {
        self.version.clone()
    }

    #[zbus(property)]
    fn phase(&self) -> String {
        "root".to_owned()
    }

    #[zbus(property)]
    fn bytes_done(&self) -> u64 {
        self.done
    }

    #[zbus(property)]
    fn bytes_total(&self) -> u64 {
        TOTAL
    }

    async fn pause(&mut self, #[zbus(signal_emitter)] emitter: SignalEmitter<'_>) {
        self.paused_by = "caller";
        self.paused_by_changed(&emitter).await.unwrap();
    }

    async fn resume(&mut self, #[zbus(signal_emitter)] emitter: SignalEmitter<'_>) {
        self.paused_by = "";
        self.paused_by_changed(&emitter).await.unwrap();
    }

    #[zbus(property)]
    fn plan(&self) -> Vec<Dictionary> {
        vec![HashMap::from([
            ("part", "root".to_owned().into()),
            ("method", "patch".to_owned().into()),
            ("fetch_bytes", 12_000_000_u64.into()),
            ("requests", 7_u64.into()),
            ("chosen", true.into()),
        ])]
    }

    #[zbus(property)]
    fn plan_fetch(&self) -> u64 {
        12_000_000
    }

    #[zbus(property)]
    fn paused(&self) -> bool {
        !self.paused_by.is_empty()
    }

    #[zbus(property)]
    fn paused_by(&self) -> String {
        self.paused_by.to_owned()
    }

    #[zbus(property)]
    fn result(&self) -> String {
        self.result.to_owned()
    }

    #[zbus(property)]
    fn error(&self) -> (String, String) {
        self.error.clone()
    }

    #[zbus(signal)]
    async fn finished(
        emitter: &SignalEmitter<'_>,
        result: &str,
        error: &str,
        message: &str,
    ) -> zbus::Result<()>;
}
