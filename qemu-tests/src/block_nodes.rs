//! A machine's disk, as QEMU is told of it: a file, and what stands above it.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::deadline::Deadline;
use crate::faults::Faults;
use crate::qmp::Qmp;

/// What the machine has as its disk.
pub(crate) const DISK: &str = "disk";
/// The file below.
const MEDIUM: &str = "medium";
/// What stands between them on a disk that fails.
const FAULTS: &str = "faults";

/// Returns the nodes of the disk in the file at `path`, from below; what is done to it is
/// logged at `log`.
pub(crate) fn of_disk(path: &Path, log: Option<&Path>) -> [Value; 2] {
    // Killing QEMU loses what the node holds in its own memory, never what
    // QEMU has handed to the host: flushing to the host's disk proves nothing here.
    // What the node discards or zeroes takes no room here: of its 8 GiB most is `/var`.
    let file = |path: &Path| json!({ "driver": "file", "filename": path, "discard": "unmap", "cache": { "no-flush": true } });
    let mut medium = file(path);
    if let Some(medium) = medium.as_object_mut() {
        medium.insert("node-name".into(), MEDIUM.into());
    }
    let disk = match log {
        None => above(MEDIUM),
        // Flushes must come as far as to the log.
        Some(log) => {
            json!({ "driver": "blklogwrites", "node-name": DISK, "file": MEDIUM, "log": file(log), "discard": "unmap" })
        }
    };
    [medium, disk]
}

fn above(below: &str) -> Value {
    json!({ "driver": "raw", "node-name": DISK, "file": below, "discard": "unmap", "cache": { "no-flush": true } })
}

/// Puts what refuses as `faults` say below the disk of a machine that runs.
pub(crate) async fn insert(qmp: &Qmp, faults: &Faults) -> Result<()> {
    execute(qmp, "blockdev-add", faults.node(FAULTS, MEDIUM)).await?;
    execute(
        qmp,
        "blockdev-reopen",
        json!({ "options": [above(FAULTS)] }),
    )
    .await
}

/// Takes it out again.
pub(crate) async fn remove(qmp: &Qmp) -> Result<()> {
    execute(
        qmp,
        "blockdev-reopen",
        json!({ "options": [above(MEDIUM)] }),
    )
    .await?;
    execute(qmp, "blockdev-del", json!({ "node-name": FAULTS })).await
}

async fn execute(qmp: &Qmp, command: &str, arguments: Value) -> Result<()> {
    qmp.execute(command, arguments, Deadline::after(30)).await?;
    Ok(())
}
