//! The updater as seen from outside: proxies made from the interface.

use std::collections::HashMap;

use zbus::{OwnedObjectPath, OwnedVariant, Variant, proxy};

/// A dictionary of the bus.
pub type Dictionary = HashMap<String, OwnedVariant>;

/// `io.bistable.Updater1.Manager`.
#[proxy(
    interface = "io.bistable.Updater1.Manager",
    default_service = "io.bistable.Updater1",
    default_path = "/io/bistable/Updater1"
)]
pub trait Manager {
    async fn check_for_update(&self) -> zbus::Result<OwnedObjectPath>;
    async fn stage(
        &self,
        version: &str,
        options: HashMap<&str, Variant<'_>>,
    ) -> zbus::Result<OwnedObjectPath>;
    async fn plan(
        &self,
        version: &str,
        options: HashMap<&str, Variant<'_>>,
    ) -> zbus::Result<OwnedObjectPath>;
    async fn proceed(&self) -> zbus::Result<String>;
    async fn reload(&self) -> zbus::Result<()>;
    async fn reboot(&self) -> zbus::Result<()>;
    async fn rollback(&self, reason: &str) -> zbus::Result<OwnedObjectPath>;
    async fn mark_good(&self) -> zbus::Result<()>;
    async fn mark_bad(&self, reason: &str, details: HashMap<&str, Variant<'_>>)
    -> zbus::Result<()>;
    async fn forgive(&self, root_hash: &str) -> zbus::Result<()>;
    async fn scrub(&self) -> zbus::Result<()>;
    async fn list_slots(&self) -> zbus::Result<Vec<Dictionary>>;
    async fn list_releases(&self) -> zbus::Result<Vec<Dictionary>>;
    async fn list_barred(&self) -> zbus::Result<Vec<Dictionary>>;
    async fn metrics(&self) -> zbus::Result<String>;
    async fn history(&self, limit: u32) -> zbus::Result<Vec<Dictionary>>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn available_version(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn booted_version(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn held(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn held_message(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn current_job(&self) -> zbus::Result<OwnedObjectPath>;
}

/// `io.bistable.Updater1.Job`.
#[proxy(
    interface = "io.bistable.Updater1.Job",
    default_service = "io.bistable.Updater1"
)]
pub trait Job {
    async fn cancel(&self) -> zbus::Result<()>;
    async fn pause(&self) -> zbus::Result<()>;
    async fn resume(&self) -> zbus::Result<()>;

    #[zbus(signal)]
    fn finished(&self, result: &str, error: &str, message: &str) -> zbus::Result<()>;
}
