//! Whether a release may be staged: decided before anything is touched.

use partition_layout::{Architecture, MAX_TRIES, Version};
use release::{COMPATIBLE, Release};

use crate::node::{Node, Way};
use crate::refusal::Refused;

/// What an operator asked to be staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// `None` is the channel's release.
    pub version: Option<Version>,
    pub force: Force,
    pub tries: u32,
}

/// Whether barred and outdated releases are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    No,
    /// Only for a release that is asked for by name.
    ByName,
}

/// Refuses what no repository needs to be asked for.
pub fn check_ask(ask: &Ask) -> Result<(), Refused> {
    if ask.tries == 0 || ask.tries > MAX_TRIES {
        return Err(Refused::BadArgument(format!(
            "tries must be 1 to {MAX_TRIES}"
        )));
    }
    if ask.force == Force::ByName && ask.version.is_none() {
        return Err(Refused::BadArgument(
            "force needs a release's name".to_owned(),
        ));
    }
    Ok(())
}

/// What to do about an admitted release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// It is to be written.
    Write(Way),
    /// It stands in the spare slot already, armed.
    AlreadyStaged,
}

/// Decides whether `release` may be staged on `node`.
pub fn admit(node: &Node, release: &Release, force: Force) -> Result<Admitted, Refused> {
    let version = || release.version.clone();
    let expected = Architecture::of_build();
    if release.architecture != expected {
        let found = release.architecture;
        return Err(Refused::WrongArchitecture {
            version: version(),
            found,
            expected,
        });
    }
    if release.compatible != COMPATIBLE {
        let found = release.compatible.clone();
        return Err(Refused::Incompatible {
            version: version(),
            found,
            expected: COMPATIBLE,
        });
    }
    if release.root_hash == node.booted.root_hash {
        return Err(Refused::AlreadyBooted { version: version() });
    }
    if release.version == node.booted.version {
        return Err(Refused::VersionInUse { version: version() });
    }
    let sizes = [
        ("root image", release.blobs.root.size, node.spare.root_len),
        (
            "hash tree",
            release.blobs.verity.size,
            node.spare.verity_len,
        ),
    ];
    for (what, needed, has) in sizes {
        if needed > has {
            return Err(Refused::TooLarge {
                version: version(),
                what,
                needed,
                has,
            });
        }
    }
    match force {
        Force::ByName => {}
        Force::No => refuse_unforced(node, release)?,
    }
    let way = node.way_to(&release.version);
    if way == Way::OneShot && !node.has_variables {
        return Err(Refused::NoFirmwareVariables { version: version() });
    }
    if node
        .staged()
        .is_some_and(|(_, hash)| *hash == release.root_hash)
        && force == Force::No
    {
        return Ok(Admitted::AlreadyStaged);
    }
    Ok(Admitted::Write(way))
}

fn refuse_unforced(node: &Node, release: &Release) -> Result<(), Refused> {
    if let Some(barred) = node.barred(&release.root_hash) {
        return Err(Refused::Barred {
            version: release.version.clone(),
            root_hash: release.root_hash,
            reason: barred.reason.clone(),
        });
    }
    match &node.floor {
        Some(floor) if release.version < *floor => Err(Refused::BelowFloor {
            version: release.version.clone(),
            floor: floor.clone(),
        }),
        Some(_) | None => Ok(()),
    }
}
