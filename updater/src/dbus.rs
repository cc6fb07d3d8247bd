//! The daemon on the bus: `io.bistable.Updater1`.
//!
//! Everything here translates and decides nothing. The interface is the one in
//! `systemd-units/dbus/io.bistable.Updater1.xml`, and a test holds it to that.
//! No method waits for a device: they put a request to the head, or read what
//! it has published. How many callers are heard at once is up to the [`door`].

pub mod arguments;
mod caller;
mod door;
mod error;
mod frames;
mod job_object;
mod publisher;
mod values;

use std::collections::HashMap;

use zbus::interface;
use zbus::message::Header;
use zbus::{Connection, ObjectPath, Variant};

use self::arguments::{complaint, plan_ask, stage_ask, text};
pub use self::caller::Callers;
pub use self::door::connect;
pub use self::error::BusError;
pub use self::job_object::job_path;
pub use self::publisher::publish;
use self::values::Dictionary;
use crate::driver::{Accepted, Handle, RequestError};
use crate::machine::Request;
use crate::metrics::Metrics;
use crate::node::Standing;
use crate::ports::Restart;
use crate::refusal::{Failure, Refused};
use crate::scrub::keeper::Bell;
use crate::settings::Settings;

/// The daemon's name on the bus.
pub const BUS_NAME: &str = "io.bistable.Updater1";
/// Where its manager lies.
pub const MANAGER_PATH: &str = "/io/bistable/Updater1";

/// The bus itself.
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";

/// The manager object.
#[derive(Debug)]
pub struct Manager {
    handle: Handle,
    settings: Settings,
    metrics: Metrics,
    scrub: Bell,
    callers: Callers,
}

impl Manager {
    /// Speaks for the head behind `handle`, its settings, its numbers, and who reads the
    /// images in the slots, to `callers`.
    pub const fn new(
        handle: Handle,
        settings: Settings,
        metrics: Metrics,
        scrub: Bell,
        callers: Callers,
    ) -> Self {
        Self {
            handle,
            settings,
            metrics,
            scrub,
            callers,
        }
    }

    async fn begin(
        &self,
        request: Request,
        bus: &Connection,
        header: &Header<'_>,
    ) -> Result<ObjectPath<'static>, BusError> {
        let asker = self.callers.look_up(header);
        match self.handle.request_by(asker, request).await? {
            Accepted::Job(job) => {
                // Before its path is told, it is there.
                job_object::export(bus, &self.handle, &self.callers, &job).await?;
                Ok(job_path(job.id))
            }
            Accepted::Done | Accepted::Nothing => Err(BusError::internal("no job was begun")),
        }
    }

    async fn wait(&self, request: Request, header: &Header<'_>) -> Result<(), BusError> {
        let asker = self.callers.look_up(header);
        self.handle.request_by(asker, request).await?;
        Ok(())
    }
}

#[interface(name = "io.bistable.Updater1.Manager", introspection_docs = false)]
impl Manager {
    #[zbus(out_args("job"))]
    async fn check_for_update(
        &self,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<ObjectPath<'static>, BusError> {
        self.begin(Request::Check, bus, &header).await
    }

    #[zbus(out_args("job"))]
    async fn stage(
        &self,
        version: &str,
        options: HashMap<String, Variant<'_>>,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<ObjectPath<'static>, BusError> {
        let tries = self.handle.view().automation.tries;
        let ask = stage_ask(version, &options, tries)?;
        self.begin(Request::Stage(ask), bus, &header).await
    }

    #[zbus(out_args("job"))]
    async fn plan(
        &self,
        version: &str,
        options: HashMap<String, Variant<'_>>,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<ObjectPath<'static>, BusError> {
        let ask = plan_ask(version, &options, self.handle.view().automation.tries)?;
        self.begin(Request::Plan(ask), bus, &header).await
    }

    #[zbus(out_args("what"))]
    async fn proceed(
        &self,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<&'static str, BusError> {
        Ok(match self.handle.proceed().await? {
            Accepted::Job(job) => {
                // Before it is told, it is there.
                job_object::export(bus, &self.handle, &self.callers, &job).await?;
                job.kind.as_str()
            }
            Accepted::Done => "reboot",
            Accepted::Nothing => "nothing",
        })
    }

    async fn reload(&self) -> Result<(), BusError> {
        Ok(self.settings.reload().await?)
    }

    async fn reboot(&self, #[zbus(header)] header: Header<'_>) -> Result<(), BusError> {
        self.wait(Request::Reboot(Restart::InOrder), &header).await
    }

    #[zbus(out_args("job"))]
    async fn rollback(
        &self,
        reason: &str,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<ObjectPath<'static>, BusError> {
        let reason = text("reason", reason)?;
        self.begin(Request::Rollback { reason }, bus, &header).await
    }

    async fn mark_good(&self, #[zbus(header)] header: Header<'_>) -> Result<(), BusError> {
        self.wait(Request::MarkGood, &header).await
    }

    async fn mark_bad(
        &self,
        reason: &str,
        details: HashMap<String, Variant<'_>>,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), BusError> {
        let marked = self
            .wait(Request::MarkBad(complaint(reason, &details)?), &header)
            .await;
        if self.handle.view().node.nothing_else_boots() {
            // Whether or not all of it could be written down.
            return Err(Refused::NothingElseBoots.into());
        }
        marked?;
        let (handle, bus) = (self.handle.clone(), bus.clone());
        tokio::spawn(async move {
            // The caller hears first that its word was heard: our reply is
            // written when this task first runs, and a bus that answers what
            // came after it has passed it on.
            let answered = bus.call_method(Some(BUS), BUS_PATH, Some(BUS), "GetId", &());
            if let Err(error) = answered.await {
                tracing::warn!(%error, "the bus does not answer");
            }
            reboot_after_verdict(&handle).await;
        });
        Ok(())
    }

    async fn forgive(
        &self,
        root_hash: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), BusError> {
        let root_hash = arguments::root_hash(root_hash)?;
        self.wait(Request::Forgive { root_hash }, &header).await
    }

    fn scrub(&self) -> Result<(), BusError> {
        if self.handle.view().node.booted.standing != Standing::Good {
            return Err(Refused::BootedSlotNotGood.into());
        }
        self.scrub.ring();
        Ok(())
    }

    #[zbus(out_args("slots"))]
    fn list_slots(&self) -> Vec<Dictionary> {
        values::slots(&self.handle.view().node)
    }

    #[zbus(out_args("releases"))]
    fn list_releases(&self) -> Vec<Dictionary> {
        values::releases(&self.handle.view())
    }

    #[zbus(out_args("barred"))]
    fn list_barred(&self) -> Vec<Dictionary> {
        values::barred(&self.handle.view().node)
    }

    #[zbus(out_args("entries"))]
    fn history(&self, limit: u32) -> Vec<Dictionary> {
        values::history(&self.handle.view().node, limit)
    }

    #[zbus(out_args("text"))]
    fn metrics(&self) -> String {
        self.metrics.text()
    }

    #[zbus(property)]
    fn state(&self) -> String {
        values::state(&self.handle.view())
    }

    #[zbus(property)]
    fn booted_slot(&self) -> String {
        values::booted_slot(&self.handle.view())
    }

    #[zbus(property)]
    fn booted_version(&self) -> String {
        values::booted_version(&self.handle.view())
    }

    #[zbus(property)]
    fn booted_root_hash(&self) -> String {
        values::booted_root_hash(&self.handle.view())
    }

    #[zbus(property)]
    fn staged_version(&self) -> String {
        values::staged_version(&self.handle.view())
    }

    #[zbus(property)]
    fn available_version(&self) -> String {
        values::available_version(&self.handle.view())
    }

    #[zbus(property)]
    fn floor(&self) -> String {
        values::floor(&self.handle.view())
    }

    #[zbus(property)]
    fn last_check(&self) -> u64 {
        values::last_check(&self.handle.view())
    }

    #[zbus(property)]
    fn last_error(&self) -> (String, String) {
        values::last_error(&self.handle.view())
    }

    #[zbus(property)]
    fn last_rollback(&self) -> Dictionary {
        values::last_rollback(&self.handle.view())
    }

    #[zbus(property)]
    fn automatic(&self) -> String {
        values::automatic(&self.handle.view())
    }

    #[zbus(property)]
    fn held(&self) -> String {
        values::held(&self.handle.view())
    }

    #[zbus(property)]
    fn held_message(&self) -> String {
        values::held_message(&self.handle.view())
    }

    #[zbus(property)]
    fn next_window(&self) -> u64 {
        values::next_window(&self.handle.view())
    }

    #[zbus(property)]
    fn settings_error(&self) -> String {
        values::settings_error(&self.handle.view())
    }

    #[zbus(property)]
    fn current_job(&self) -> ObjectPath<'static> {
        values::current_job(&self.handle.view())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn daemon_version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }
}

/// Reboots once a trial has ended badly, unless the next boot would be the same. What
/// stands in the way is told; the boot loader will not take the slot again in any case.
pub async fn reboot_after_verdict(handle: &Handle) {
    if handle.view().node.nothing_else_boots() {
        return;
    }
    match handle.request(Request::Reboot(Restart::AtOnce)).await {
        Ok(Accepted::Done | Accepted::Job(_) | Accepted::Nothing) => {}
        Err(RequestError::Refused(Refused::GoingDown)) => {}
        Err(error) => {
            tracing::error!(%error, "cannot reboot after the trial has failed");
        }
    }
}

impl From<RequestError> for BusError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(refused) => Self::from(refused),
            RequestError::Failed(failure) => Self::from(failure),
        }
    }
}

impl From<Refused> for BusError {
    fn from(refused: Refused) -> Self {
        Self::from(Failure::from(&refused))
    }
}
