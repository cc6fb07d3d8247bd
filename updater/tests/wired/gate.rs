//! A driver on a fake node, as its callers use it.

use release::ChannelName;
use tokio::task::JoinHandle;
use updater::admit::{Ask, Force};
use updater::config::Repository;
use updater::driver::{self, Accepted, Handle, HandsDied, RequestError};
use updater::hands::Device;
use updater::job::Job;
use updater::machine::{Complaint, Outcome, Request};
use updater::observe::ObserveError;
use updater::policy::{Automatic, MachineId, Rules, Source, Windows};
use updater::ports::Clock;

use super::fake::{FakeClock, FakeNode};
use super::network::{FakeRepository, version};

/// A running daemon without its bus.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) handle: Handle,
    head: JoinHandle<Result<(), HandsDied>>,
}

impl Daemon {
    pub(crate) async fn try_start(
        node: &FakeNode,
        repository: &FakeRepository,
    ) -> Result<Self, ObserveError> {
        Self::with(node, repository, FakeClock, rules(Automatic::Off)).await
    }

    pub(crate) async fn with(
        node: &FakeNode,
        repository: &FakeRepository,
        clock: impl Clock,
        rules: Rules,
    ) -> Result<Self, ObserveError> {
        Self::on(node.clone(), repository, clock, rules).await
    }

    /// Starts on any node.
    pub(crate) async fn on(
        node: impl Device + 'static,
        repository: &FakeRepository,
        clock: impl Clock,
        rules: Rules,
    ) -> Result<Self, ObserveError> {
        let machine_id = MachineId::new("00000000000000000000000000000000");
        let repository = repository.clone();
        let (handle, head) = driver::start(node, repository, clock, rules, machine_id).await?;
        let head = tokio::spawn(head.run());
        handle.settled().await;
        Ok(Self { handle, head })
    }

    pub(crate) async fn start(node: &FakeNode, repository: &FakeRepository) -> Self {
        Self::try_start(node, repository).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.handle.go_down().await;
        self.head.await.unwrap().unwrap();
    }

    pub(crate) async fn begin(&self, request: Request) -> Result<Job, RequestError> {
        match self.handle.request(request).await? {
            Accepted::Job(job) => Ok(job),
            Accepted::Done | Accepted::Nothing => panic!("no job was begun"),
        }
    }

    pub(crate) async fn run(&self, request: Request) -> Outcome {
        outcome(&mut self.begin(request).await.unwrap()).await
    }

    pub(crate) async fn stage(&self, name: &str) -> Outcome {
        self.run(stage(name)).await
    }

    pub(crate) fn state(&self) -> &'static str {
        self.handle.view().state
    }
}

/// Rules of a node that goes this far by itself, at any time.
pub(crate) fn rules(automatic: Automatic) -> Rules {
    Rules {
        automatic,
        windows: Windows::default(),
        source: Some(Source {
            repository: Repository::parse("http://fake/").unwrap(),
            channel: ChannelName::parse("stable").unwrap(),
        }),
        tries: 3,
        mistake: None,
    }
}

pub(crate) async fn outcome(job: &mut Job) -> Outcome {
    job.outcome
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap()
}

pub(crate) fn stage(name: &str) -> Request {
    Request::Stage(Ask {
        version: Some(version(name)),
        force: Force::No,
        tries: 3,
    })
}

pub(crate) fn force(name: &str) -> Request {
    Request::Stage(Ask {
        version: Some(version(name)),
        force: Force::ByName,
        tries: 3,
    })
}

pub(crate) fn bad(reason: &str) -> Request {
    Request::MarkBad(Complaint {
        reason: reason.to_owned(),
        check: "containerd".to_owned(),
        unit: "containerd.service".to_owned(),
        lines: vec!["it died".to_owned()],
        panic: String::new(),
    })
}
