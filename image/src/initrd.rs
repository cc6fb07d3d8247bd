//! The first root, in memory: a `newc` cpio archive with PID 1 and the kernel
//! modules that it loads.

use std::io;

use crate::modules::{Modules, NoModule};
use crate::store::{Store, StoreError};
use crate::tree::Tree;

/// The list of modules in the archive: paths in it, one per line, in load order.
const MODULE_LIST: &str = "etc/modules";
const MODULE_FOLDER: &str = "lib/modules";
const FOLDER_MODE: u32 = 0o040_755;
const FILE_MODE: u32 = 0o100_644;
const PROGRAM_MODE: u32 = 0o100_755;
const CONSOLE_MODE: u32 = 0o020_600;
/// The kernel opens this for PID 1 before anything is mounted.
const CONSOLE: (u32, u32) = (5, 1);
const TRAILER: &str = "TRAILER!!!";
/// Small matters more than fast: it is packed once and read at every boot, at the same speed.
const ZSTD_LEVEL: i32 = 19;

/// Why there is no initrd.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    #[error("cannot read the kernel's modules")]
    Store(#[from] StoreError),
    #[error("the declaration asks for too much")]
    Module(#[from] NoModule),
    #[error("{name} is too large for an initrd: {size} bytes")]
    TooLarge { name: String, size: usize },
    #[error("cannot compress the initrd")]
    Compress(#[source] io::Error),
}

/// Makes the initrd for the kernel of a tree.
///
/// # Errors
/// When the kernel lacks a module, or the tree cannot be read.
pub fn build(
    store: &Store,
    tree: &Tree,
    kernel: &str,
    init: &[u8],
    wanted: &crate::declaration::Initrd,
) -> Result<Vec<u8>, InitrdError> {
    let folder = format!("/usr/lib/modules/{kernel}");
    let text = |name: &str| {
        store
            .read(tree, &format!("{folder}/{name}"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let modules = Modules::parse(&text("modules.dep")?, &text("modules.builtin")?);
    let optional = wanted
        .optional_modules
        .iter()
        .filter(|name| modules.has(name));
    let order = modules.in_load_order(wanted.modules.iter().chain(optional).map(String::as_str))?;

    let mut archive = Cpio::default();
    for name in [
        "dev",
        "etc",
        "lib",
        MODULE_FOLDER,
        "proc",
        "sys",
        "run",
        "sysroot",
    ] {
        archive.entry(name, FOLDER_MODE, (0, 0), &[])?;
    }
    archive.entry("dev/console", CONSOLE_MODE, CONSOLE, &[])?;
    archive.entry("init", PROGRAM_MODE, (0, 0), init)?;
    let mut list = String::new();
    for path in order {
        let file = path.rsplit('/').next().unwrap_or(&path);
        let name = format!("{MODULE_FOLDER}/{file}");
        let content = store.read(tree, &format!("{folder}/{path}"))?;
        archive.entry(&name, FILE_MODE, (0, 0), &content)?;
        list.push_str(&format!("/{name}\n"));
    }
    archive.entry(MODULE_LIST, FILE_MODE, (0, 0), list.as_bytes())?;
    zstd::encode_all(archive.finish()?.as_slice(), ZSTD_LEVEL).map_err(InitrdError::Compress)
}

/// A `newc` archive, as the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst` describes it.
#[derive(Debug, Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        (major, minor): (u32, u32),
        content: &[u8],
    ) -> Result<(), InitrdError> {
        let too_large = || InitrdError::TooLarge {
            name: name.to_owned(),
            size: content.len(),
        };
        let size = u32::try_from(content.len()).map_err(|_| too_large())?;
        let name_size = u32::try_from(name.len() + 1).map_err(|_| too_large())?;
        self.entries += 1;
        let fields = [
            self.entries, // inode: any number that is this file's alone
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time
            size,
            0, // the archive's device
            0,
            major,
            minor,
            name_size,
            0, // checksum, unused
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>, InitrdError> {
        self.entry(TRAILER, 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn pad(&mut self) {
        let whole = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(whole, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::Tool;

    #[test]
    fn cpio_reads_back_what_was_written() {
        let mut archive = Cpio::default();
        archive.entry("lib", FOLDER_MODE, (0, 0), &[]).unwrap();
        archive
            .entry("lib/a.ko", FILE_MODE, (0, 0), b"abc")
            .unwrap();
        archive.entry("init", PROGRAM_MODE, (0, 0), b"x").unwrap();
        let bytes = archive.finish().unwrap();
        let listing = Tool::host("cpio")
            .args(["-itv", "--quiet"])
            .input(bytes)
            .run()
            .unwrap();
        let listing = String::from_utf8(listing).unwrap();
        let lines: Vec<(&str, &str)> = listing
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                (words[0], *words.last().unwrap())
            })
            .collect();
        assert_eq!(
            lines,
            [
                ("drwxr-xr-x", "lib"),
                ("-rw-r--r--", "lib/a.ko"),
                ("-rwxr-xr-x", "init")
            ]
        );
    }
}
