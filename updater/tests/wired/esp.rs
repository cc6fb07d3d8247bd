//! An EFI system partition as FAT keeps it: names, and chains of clusters. Two names may
//! stand for one chain, and whoever removes one of them destroys both.

use std::collections::{BTreeMap, BTreeSet};

use partition_layout::entry_names::preferred;
use partition_layout::{BootEntry, TEMPORARY_NAME, is_temporary_name};
use updater::ports::Leftover;

/// The chain of a name that was written without content.
const NONE: usize = 0;

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeEsp {
    names: BTreeMap<String, usize>,
    chains: BTreeMap<usize, Chain>,
    made: usize,
}

#[derive(Debug, Clone, Default)]
struct Chain {
    written: Vec<u8>,
    /// What of it is on the medium.
    flushed: Vec<u8>,
}

impl FakeEsp {
    pub(crate) fn with(name: String, content: Vec<u8>) -> Self {
        let mut esp = Self::default();
        esp.add(&name, content);
        esp
    }

    pub(crate) fn add(&mut self, name: &str, content: Vec<u8>) {
        self.create(name);
        *self.chain(name) = Chain {
            written: content.clone(),
            flushed: content,
        };
    }

    /// Boot entries, with their content: none when somebody has freed it.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&String, Option<&[u8]>)> {
        let entries = self
            .names
            .iter()
            .filter(|(name, chain)| BootEntry::parse_file_name(name).is_ok() && **chain != NONE);
        entries.map(|(name, chain)| {
            let content = self.chains.get(chain);
            (name, content.map(|chain| chain.flushed.as_slice()))
        })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    pub(crate) fn leftover(&self) -> Leftover {
        Leftover::among(self.names.keys().map(String::as_str))
    }

    fn chain(&mut self, name: &str) -> &mut Chain {
        let chain = self.names.get(name).expect("the name is there");
        self.chains
            .get_mut(chain)
            .expect("its clusters are its own")
    }

    pub(crate) fn create(&mut self, name: &str) {
        self.made += 1;
        self.names.insert(name.to_owned(), self.made);
        self.chains.insert(self.made, Chain::default());
    }

    pub(crate) fn write_temporary(&mut self, offset: usize, bytes: &[u8]) {
        let written = &mut self.chain(TEMPORARY_NAME).written;
        written.resize(written.len().max(offset + bytes.len()), 0);
        written[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn flush_temporary(&mut self) {
        let chain = self.chain(TEMPORARY_NAME);
        chain.flushed = chain.written.clone();
    }

    /// Writes into a file that is there, and to the medium.
    pub(crate) fn put(&mut self, name: &str, offset: usize, bytes: &[u8]) {
        let chain = self.chain(name);
        chain.written[offset..offset + bytes.len()].copy_from_slice(bytes);
        chain.flushed = chain.written.clone();
    }

    pub(crate) fn read_temporary(&mut self, offset: usize, buffer: &mut [u8]) {
        let flushed = &self.chain(TEMPORARY_NAME).flushed;
        buffer.copy_from_slice(&flushed[offset..offset + buffer.len()]);
    }

    /// The name goes, and its clusters are free: also those of a name that shares them.
    pub(crate) fn unlink(&mut self, name: &str) {
        if let Some(chain) = self.names.remove(name) {
            self.chains.remove(&chain);
        }
    }

    /// What a rename does first.
    pub(crate) fn begin_rename(&mut self, from: &str, to: &str) {
        let chain = *self.names.get(from).expect("the name is there");
        self.names.insert(to.to_owned(), chain);
    }

    /// The same in a driver, which was cut off even earlier.
    pub(crate) fn begin_name(&mut self, to: &str) {
        self.names.insert(to.to_owned(), NONE);
    }

    /// What a rename does last.
    pub(crate) fn forget(&mut self, name: &str) {
        self.names.remove(name);
    }

    /// Forgets what torn renames have left.
    pub(crate) fn mend(&mut self) {
        let chains: BTreeSet<usize> = self.names.values().copied().collect();
        for chain in chains {
            let sharing = self.names.iter().filter(|(_, its)| **its == chain);
            let sharing: Vec<String> = sharing.map(|(name, _)| name.clone()).collect();
            let names: Vec<&str> = sharing.iter().map(String::as_str).collect();
            let kept = match chain {
                NONE => None,
                _ => preferred(&names),
            };
            let lost = sharing.iter().filter(|name| Some(name.as_str()) != kept);
            lost.for_each(|name| self.forget(name));
        }
    }

    /// The power is gone: what was not flushed too.
    pub(crate) fn lose_power(&mut self) {
        for chain in self.chains.values_mut() {
            chain.written = chain.flushed.clone();
        }
    }

    pub(crate) fn remove_temporaries(&mut self) {
        let names: Vec<_> = self.names.keys().cloned().collect();
        for name in names.iter().filter(|name| is_temporary_name(name)) {
            self.unlink(name);
        }
    }
}
