//! The list of targets, and the files that are new in it.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroU64;

use jiff::Timestamp;
use release::Digest;
use sha2::{Digest as _, Sha256};
use tough::TargetName;
use tough::schema::{Hashes, Target, Targets};

use super::metadata::SPEC_VERSION;
use super::store::{Store, TARGETS};
use super::trusted::Trusted;

/// The next list of targets, and the files that are new in it.
pub(crate) struct NextTargets {
    pub(crate) list: Targets,
    files: Vec<(String, Vec<u8>)>,
}

impl NextTargets {
    /// Returns the list with these targets, each a name and its content; or
    /// nothing if the list has them all already.
    pub(crate) fn of<const N: usize>(
        current: Option<&Trusted>,
        wanted: [(String, Vec<u8>); N],
    ) -> Result<Option<Self>, Box<tough::error::Error>> {
        let mut list = match current {
            Some(current) => current.targets().clone(),
            None => Targets {
                delegations: None,
                ..Targets::new(
                    SPEC_VERSION.to_owned(),
                    NonZeroU64::MIN,
                    Timestamp::UNIX_EPOCH,
                )
            },
        };
        let mut files = Vec::new();
        for (name, bytes) in wanted {
            let target = TargetName::new(&name)?;
            let described = describe(&bytes);
            let digest = Digest::new(Sha256::digest(&bytes).into());
            if list.targets.insert(target, described.clone()).as_ref() != Some(&described) {
                files.push((format!("{TARGETS}/{digest}.{name}"), bytes));
            }
        }
        Ok((!files.is_empty()).then_some(Self { list, files }))
    }

    /// Puts the new files in place; on failure, says which one.
    pub(crate) fn put(&self, store: &mut impl Store) -> Result<(), (String, io::Error)> {
        self.files.iter().try_for_each(|(name, bytes)| {
            store
                .put(name, bytes)
                .map_err(|error| (name.clone(), error))
        })
    }
}

fn describe(bytes: &[u8]) -> Target {
    Target {
        length: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        hashes: Hashes {
            sha256: Sha256::digest(bytes).to_vec().into(),
            _extra: HashMap::new(),
        },
        custom: HashMap::new(),
        _extra: HashMap::new(),
    }
}
