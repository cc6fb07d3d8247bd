//! The node in numbers, in the text format of Prometheus.
//!
//! They are served over D-Bus (`Metrics`) and lie in a file that node_exporter's
//! textfile collector reads, so that no program of ours has to listen on a port.

mod page;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use self::page::{Kind, Page};
use crate::driver::{Handle, View};
use crate::history::Happened;
use crate::machine::STATES;
use crate::node::SlotStatus;
use crate::pace::Rests;
use crate::scrub::keeper::Progress;

/// Where the file lies.
pub const FILE: &str = "/run/bistable/metrics.prom";
/// How often it is written at most, and at least: a scrape comes every 15 s or so.
const BEAT: Duration = Duration::from_secs(5);
const STALE: Duration = Duration::from_secs(60);

/// Where the numbers come from.
#[derive(Debug, Clone)]
pub struct Metrics {
    handle: Handle,
    rests: Rests,
    scrub: watch::Receiver<Progress>,
}

impl Metrics {
    /// Takes them from the head behind `handle`, and from the pace of its hands.
    pub fn new(handle: Handle, rests: Rests) -> Self {
        let (_, scrub) = watch::channel(Progress::default());
        Self {
            handle,
            rests,
            scrub,
        }
    }

    /// Takes those of the reading of the booted image as well.
    #[must_use]
    pub fn beside(self, scrub: watch::Receiver<Progress>) -> Self {
        Self { scrub, ..self }
    }

    /// Returns the numbers as they are now.
    pub fn text(&self) -> String {
        render(&self.handle.view(), &self.rests, &self.scrub.borrow())
    }

    /// Keeps them in a file. Ends when the head does.
    pub async fn keep(self, file: &Path) {
        let mut views = self.handle.follow();
        let mut told = false;
        loop {
            views.borrow_and_update();
            match write(file, &self.text()) {
                Ok(()) => told = false,
                Err(error) if !told => {
                    tracing::warn!(file = %file.display(), %error, "cannot write the metrics");
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(BEAT).await;
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(STALE) => {}
            }
        }
    }
}

/// A reader finds the old file or the new one, whole. It is made anew at each
/// boot, so that it need not reach a disk.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("prom.new");
    // Everybody may read it: no secret is in it, and the collector is not root.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644);
    options.open(&new)?.write_all(text.as_bytes())?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
    fs::rename(&new, file)
}

/// Shows a node. Pure.
fn render(view: &View, rests: &Rests, scrub: &Progress) -> String {
    let mut page = Page::default();
    releases(&mut page, view);
    events(&mut page, view);
    work(&mut page, view, rests);
    reading(&mut page, scrub);
    page.finish()
}

fn releases(page: &mut Page, view: &View) {
    let node = &view.node;
    let (version, hash) = (
        node.booted.version.to_string(),
        node.booted.root_hash.to_string(),
    );
    let slot = node.booted.slot.to_string();
    page.family("bistable_booted_info", Kind::Gauge, "The running release.")
        .sample(
            &[
                ("version", &version),
                ("root_hash", &hash),
                ("slot", &slot),
                ("updater", env!("CARGO_PKG_VERSION")),
            ],
            1,
        );
    let mut staged = page.family(
        "bistable_staged_info",
        Kind::Gauge,
        "The release that the next reboot tries.",
    );
    if let Some((version, hash)) = node.staged() {
        let (version, hash) = (version.to_string(), hash.to_string());
        staged.sample(&[("version", &version), ("root_hash", &hash)], 1);
    }
    let mut offered = page.family(
        "bistable_offered_info",
        Kind::Gauge,
        "The release that the channel named at the last check.",
    );
    if let Some(offer) = &view.offer {
        let version = offer.channel.release.to_string();
        offered.sample(&[("version", &version)], 1);
    }
    let mut state = page.family(
        "bistable_state",
        Kind::Gauge,
        "What the updater is at: 1 for the state that holds.",
    );
    for name in STATES {
        state.sample(&[("state", name)], u64::from(*name == view.state));
    }
    let mut spare = page.family(
        "bistable_spare_slot_status",
        Kind::Gauge,
        "What the slot that does not run holds: 1 for the status that holds.",
    );
    for status in SlotStatus::ALL {
        let holds = u64::from(status == node.spare.status);
        spare.sample(&[("status", status.as_str())], holds);
    }
    page.family(
        "bistable_barred_images",
        Kind::Gauge,
        "Images that failed on this node and are refused.",
    )
    .sample(&[], node.barred.len().try_into().unwrap_or(u64::MAX));
}

fn events(page: &mut Page, view: &View) {
    let node = &view.node;
    let mut check = page.family(
        "bistable_last_check_timestamp_seconds",
        Kind::Gauge,
        "When the repository's metadata was last found sound.",
    );
    if let Some(when) = view.last_check {
        check.seconds(&[], since_1970(when));
    }
    let mut error = page.family(
        "bistable_last_error_info",
        Kind::Gauge,
        "The error of the last job, if it failed.",
    );
    if let Some(failure) = &view.last_error {
        error.sample(&[("error", failure.name.short())], 1);
    }
    let mut last = page.family(
        "bistable_last_event_timestamp_seconds",
        Kind::Gauge,
        "When something of the kind last happened, as far as the history goes back.",
    );
    for event in Happened::ALL {
        let line = node.history.iter().rev().find(|line| line.event == event);
        if let Some(line) = line {
            last.seconds(&[("event", event.as_str())], since_1970(line.when));
        }
    }
    let mut events = page.family(
        "bistable_events_total",
        Kind::Counter,
        "How often things have happened on this node, across restarts.",
    );
    for event in Happened::ALL {
        let count = node.totals.events.get(event.as_str());
        events.sample(&[("event", event.as_str())], count.copied().unwrap_or(0));
    }
    let mut rollback = page.family(
        "bistable_last_rollback_timestamp_seconds",
        Kind::Gauge,
        "When a trial of the release last failed here.",
    );
    if let Some(told) = &node.last_rollback {
        let version = told.version.to_string();
        rollback.seconds(
            &[
                ("version", &version),
                ("check", &told.check),
                ("unit", &told.unit),
            ],
            since_1970(told.when),
        );
    }
}

fn work(page: &mut Page, view: &View, rests: &Rests) {
    let mut bytes = page.family(
        "bistable_work_bytes_total",
        Kind::Counter,
        "Bytes of all stages that have ended, by source, and what was written and read back.",
    );
    for (kind, count) in view.node.totals.cost.bytes() {
        bytes.sample(&[("kind", kind)], count);
    }
    let mut phases = page.family(
        "bistable_work_seconds_total",
        Kind::Counter,
        "Time of all jobs that have ended, by phase.",
    );
    for (phase, millis) in &view.node.totals.cost.millis {
        phases.seconds(&[("phase", phase)], Duration::from_millis(*millis));
    }
    let job = view
        .jobs
        .iter()
        .find(|job| Some(job.id) == view.current_job);
    let (done, total) = job.map_or((0, 0), |job| {
        let work = job.work.borrow();
        (work.done, work.total)
    });
    let help = "Bytes of the job at work that are done; 0 without one.";
    page.family("bistable_job_done_bytes", Kind::Gauge, help)
        .sample(&[], done);
    let help = "Bytes of all the work of the job; 0 until it is known.";
    page.family("bistable_job_size_bytes", Kind::Gauge, help)
        .sample(&[], total);
    let help = "How often work has rested since others waited for the disk or for memory.";
    page.family("bistable_pace_rests_total", Kind::Counter, help)
        .sample(&[], rests.count());
    let help = "How long work has rested since others waited for the disk or for memory.";
    page.family("bistable_pace_rest_seconds_total", Kind::Counter, help)
        .seconds(&[], rests.time());
}

fn reading(page: &mut Page, scrub: &Progress) {
    let help = "Blocks of the booted image that is read in the background; 0 before the first reading of this boot.";
    page.family("bistable_scrub_size_blocks", Kind::Gauge, help)
        .sample(&[], scrub.blocks);
    let help = "Blocks of it that were read.";
    page.family("bistable_scrub_done_blocks", Kind::Gauge, help)
        .sample(&[], scrub.next);
    let help = "Blocks of it that were rotten when they were read.";
    page.family("bistable_scrub_rotten_blocks", Kind::Gauge, help)
        .sample(&[], scrub.rotten);
    let mut finished = page.family(
        "bistable_scrub_finished_timestamp_seconds",
        Kind::Gauge,
        "When the booted image was last read to its end.",
    );
    if let Some(when) = scrub.finished {
        finished.seconds(&[], since_1970(when));
    }
}

/// A clock before 1970 reads 0.
fn since_1970(when: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(when.as_millisecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests;
