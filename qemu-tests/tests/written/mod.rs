//! A log of writes, made as QEMU makes one.

use std::path::Path;

const SECTOR: usize = 512;

/// A log as QEMU writes it.
#[derive(Debug, Default)]
pub(crate) struct Written {
    body: Vec<u8>,
    entries: u64,
}

impl Written {
    pub(crate) fn entry(mut self, sector: u64, sectors: u64, flags: u64, data: &[u8]) -> Self {
        let mut header = [sector, sectors, flags, 0].map(u64::to_le_bytes).concat();
        header.resize(SECTOR, 0);
        self.body.extend(header);
        self.body.extend(data);
        self.entries += 1;
        self
    }

    pub(crate) fn count(&self) -> u64 {
        self.entries
    }

    pub(crate) fn write(self, sector: u64, data: &[u8]) -> Self {
        let sectors = (data.len() / SECTOR) as u64;
        self.entry(sector, sectors, 0, data)
    }

    pub(crate) fn flush(self) -> Self {
        self.entry(0, 0, 1, &[])
    }

    pub(crate) fn discard(self, sector: u64, sectors: u64) -> Self {
        self.entry(sector, sectors, 4, &[])
    }

    pub(crate) fn save(&self, path: &Path) {
        let mut bytes = [0x006a_7366_7773_6872, 1, self.entries]
            .map(u64::to_le_bytes)
            .concat();
        bytes.extend(512_u32.to_le_bytes());
        bytes.resize(SECTOR, 0);
        bytes.extend(&self.body);
        std::fs::write(path, bytes).expect("a temporary folder can be written");
    }
}
