//! What the gate asks, answered as the test wants it: systemd and the updater on
//! a real bus, containerd over real HTTP/2, a web server over real TCP.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use zbus::{DBusError, ObjectPath, OwnedObjectPath, OwnedVariant, Variant, interface};

/// A unit, as systemd has it.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub(crate) active: &'static str,
    pub(crate) sub: &'static str,
    pub(crate) invocation: u8,
}

/// What the services answer.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) units: BTreeMap<String, Unit>,
    /// The units whose jobs systemd is at, and those whose jobs wait for another.
    pub(crate) at_work: Vec<String>,
    pub(crate) queued: Vec<String>,
    /// What systemd-networkd says of its links.
    pub(crate) online_state: &'static str,
    pub(crate) booted_status: &'static str,
    pub(crate) root_hash: String,
    /// What MarkGood and MarkBad answer, first answer first; then they do it.
    pub(crate) refusals: Vec<Refusal>,
    pub(crate) grpc_status: &'static str,
    pub(crate) http_status: u16,
    /// What was asked for, in order.
    pub(crate) calls: Vec<Call>,
    /// Looked at when MarkBad is called.
    pub(crate) verdict: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    MarkGood,
    MarkBad {
        reason: String,
        check: String,
        unit: String,
        lines: Vec<String>,
        verdict_was_written: bool,
    },
    SystemdReboot,
    LastResort,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Refusal {
    Busy,
    NotInTrial,
    NothingElseBoots,
    EspFull,
}

#[derive(Debug, DBusError)]
#[zbus(prefix = "io.bistable.Error")]
pub(crate) enum UpdaterError {
    #[zbus(error)]
    ZBus(zbus::Error),
    Busy(String),
    NotInTrial(String),
    NothingElseBoots(String),
    EspFull(String),
}

pub(crate) type Shared = Arc<Mutex<Answers>>;

fn refuse(answers: &mut Answers) -> Result<(), UpdaterError> {
    if answers.refusals.is_empty() {
        return Ok(());
    }
    let why = String::from("said so by the test");
    Err(match answers.refusals.remove(0) {
        Refusal::Busy => UpdaterError::Busy(why),
        Refusal::NotInTrial => UpdaterError::NotInTrial(why),
        Refusal::NothingElseBoots => UpdaterError::NothingElseBoots(why),
        Refusal::EspFull => UpdaterError::EspFull(why),
    })
}

pub(crate) struct Updater(pub(crate) Shared);

#[interface(name = "io.bistable.Updater1.Manager")]
impl Updater {
    fn list_slots(&self) -> Vec<HashMap<String, Variant<'static>>> {
        let answers = self.0.lock().unwrap();
        let slot = |name: &str, booted: bool, status: &str, root_hash: &str| {
            HashMap::from([
                ("slot".to_owned(), Variant::from(name.to_owned())),
                ("booted".to_owned(), Variant::from(booted)),
                ("status".to_owned(), Variant::from(status.to_owned())),
                ("root_hash".to_owned(), Variant::from(root_hash.to_owned())),
            ])
        };
        vec![
            slot("A", false, "good", "00"),
            slot("B", true, answers.booted_status, &answers.root_hash),
        ]
    }

    fn mark_good(&self) -> Result<(), UpdaterError> {
        let mut answers = self.0.lock().unwrap();
        refuse(&mut answers)?;
        answers.calls.push(Call::MarkGood);
        answers.booted_status = "good";
        Ok(())
    }

    fn mark_bad(
        &self,
        reason: String,
        mut details: HashMap<String, OwnedVariant>,
    ) -> Result<(), UpdaterError> {
        let mut answers = self.0.lock().unwrap();
        refuse(&mut answers)?;
        let mut text = |key: &str| String::try_from(details.remove(key).unwrap()).unwrap();
        let (check, unit) = (text("check"), text("unit"));
        let lines = Vec::<String>::try_from(details.remove("lines").unwrap()).unwrap();
        let verdict_was_written = answers.verdict.exists();
        answers.calls.push(Call::MarkBad {
            reason,
            check,
            unit,
            lines,
            verdict_was_written,
        });
        Ok(())
    }
}

pub(crate) struct Systemd(pub(crate) Shared);

type ListedUnit = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

type ListedJob = (
    u32,
    String,
    String,
    String,
    OwnedObjectPath,
    OwnedObjectPath,
);

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    fn list_units_by_patterns(
        &self,
        states: Vec<String>,
        _patterns: Vec<String>,
    ) -> Vec<ListedUnit> {
        let path = || OwnedObjectPath::try_from("/").unwrap();
        let answers = self.0.lock().unwrap();
        let units = answers
            .units
            .iter()
            .filter(|(_, unit)| states.iter().any(|state| state == unit.active));
        units
            .map(|(name, unit)| {
                let empty = String::new;
                (
                    name.clone(),
                    empty(),
                    empty(),
                    unit.active.to_owned(),
                    unit.sub.to_owned(),
                    empty(),
                    path(),
                    0,
                    empty(),
                    path(),
                )
            })
            .collect()
    }

    fn list_jobs(&self) -> Vec<ListedJob> {
        let path = || OwnedObjectPath::try_from("/").unwrap();
        let answers = self.0.lock().unwrap();
        let job = |unit: &String, state: &str| {
            let (kind, state) = ("start".to_owned(), state.to_owned());
            (1, unit.clone(), kind, state, path(), path())
        };
        let at_work = answers.at_work.iter().map(|unit| job(unit, "running"));
        let queued = answers.queued.iter().map(|unit| job(unit, "waiting"));
        at_work.chain(queued).collect()
    }

    async fn load_unit(
        &self,
        name: String,
        #[zbus(object_server)] server: &zbus::ObjectServer,
    ) -> zbus::fdo::Result<OwnedObjectPath> {
        let escaped: String = name
            .bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("_{byte:02x}")
                }
            })
            .collect();
        let path =
            ObjectPath::try_from(format!("/org/freedesktop/systemd1/unit/{escaped}")).unwrap();
        // Nothing is wrong when it is there already.
        drop(
            server
                .at(
                    &path,
                    UnitObject {
                        name,
                        answers: Arc::clone(&self.0),
                    },
                )
                .await,
        );
        Ok(path.into())
    }

    fn reboot(&self) {
        self.0.lock().unwrap().calls.push(Call::SystemdReboot);
    }
}

/// systemd-networkd.
pub(crate) struct Networkd(pub(crate) Shared);

#[interface(name = "org.freedesktop.network1.Manager")]
impl Networkd {
    #[zbus(property)]
    fn online_state(&self) -> String {
        self.0.lock().unwrap().online_state.to_owned()
    }
}

struct UnitObject {
    name: String,
    answers: Shared,
}

impl UnitObject {
    fn unit(&self) -> Unit {
        let absent = Unit {
            active: "inactive",
            sub: "made-up",
            invocation: 0,
        };
        self.answers
            .lock()
            .unwrap()
            .units
            .get(&self.name)
            .cloned()
            .unwrap_or(absent)
    }
}

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl UnitObject {
    #[zbus(property)]
    fn active_state(&self) -> String {
        self.unit().active.to_owned()
    }

    #[zbus(property)]
    fn sub_state(&self) -> String {
        self.unit().sub.to_owned()
    }

    #[zbus(property, name = "InvocationID")]
    fn invocation_id(&self) -> Vec<u8> {
        vec![self.unit().invocation; 16]
    }
}

/// Serves the version API of containerd on `socket`.
pub(crate) fn serve_containerd(socket: &Path, answers: Shared) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answers = Arc::clone(&answers);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut reply))) = connection.accept().await {
                    assert_eq!(
                        request.uri().path(),
                        "/containerd.services.version.v1.Version/Version"
                    );
                    let status = answers.lock().unwrap().grpc_status;
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", status.parse().unwrap());
                    let response = Response::builder()
                        .header("content-type", "application/grpc")
                        .body(())
                        .unwrap();
                    let mut body = reply.send_response(response, false).unwrap();
                    if status == "0" {
                        // A message of 7 bytes: field 1, the version.
                        body.send_data(Bytes::from_static(b"\0\0\0\0\x07\x0a\x052.1.9"), false)
                            .unwrap();
                    }
                    body.send_trailers(trailers).unwrap();
                }
            });
        }
    });
}

/// Serves one page, and returns its URL.
pub(crate) async fn serve_web(answers: Shared) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() {
                let status = answers.lock().unwrap().http_status;
                let reply =
                    format!("HTTP/1.1 {status} X\r\nlocation: /\r\ncontent-length: 0\r\n\r\n");
                // A client that has gone away has seen enough.
                drop(stream.write_all(reply.as_bytes()).await);
            }
        }
    });
    format!("http://{address}/healthz")
}
