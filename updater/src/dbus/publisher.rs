use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use zbus::fdo::Properties;
use zbus::names::InterfaceName;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, Variant};

use super::caller::Callers;
use super::values::{self, Dictionary};
use super::{MANAGER_PATH, job_object};
use crate::driver::Handle;

const INTERFACE: &str = "io.bistable.Updater1.Manager";

/// Tells the bus what changes, and keeps the objects of jobs there. Ends when
/// the head does.
pub async fn publish(bus: &Connection, handle: &Handle, callers: &Callers) -> zbus::Result<()> {
    let emitter = SignalEmitter::new(bus, MANAGER_PATH)?;
    let mut views = handle.follow();
    let mut told = values::properties(&views.borrow_and_update().clone());
    let mut exported = BTreeSet::new();
    loop {
        let view = views.borrow_and_update().clone();
        for job in &view.jobs {
            if exported.insert(job.id) {
                job_object::export(bus, handle, callers, job).await?;
            }
        }
        let gone = |id: &u64| view.jobs.iter().all(|job| job.id != *id);
        for id in exported.extract_if(.., gone) {
            job_object::withdraw(bus, id).await?;
        }
        emit_changes(&emitter, INTERFACE, &mut told, values::properties(&view)).await?;
        if views.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Sends one signal with the properties that differ from what was `told`, which
/// becomes `now`.
pub(super) async fn emit_changes(
    emitter: &SignalEmitter<'_>,
    interface: &'static str,
    told: &mut Dictionary,
    now: Dictionary,
) -> zbus::Result<()> {
    let mut changed: HashMap<&str, Variant<'_>> = HashMap::new();
    for (name, value) in &now {
        if told.get(name) != Some(value) {
            changed.insert(name, value.try_clone()?);
        }
    }
    if !changed.is_empty() {
        let interface = InterfaceName::from_static_str_unchecked(interface);
        Properties::properties_changed(emitter, interface, changed, Cow::Borrowed(&[])).await?;
    }
    *told = now;
    Ok(())
}
