//! The declaration of an image: one TOML file, and overlays that add to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use release::Salt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::packages::{Pin, Request, Source};
use crate::pattern::Pattern;

/// The keys of [`Additions`].
const ADDITIONS: [&str; 11] = [
    "command-line",
    "leave-out",
    "keep",
    "tree",
    "program",
    "file",
    "link",
    "directory",
    "enable",
    "presets",
    "mask",
];

/// What [`Erofs::compression`] says of files that are stored as they are.
pub const PLAIN: &str = "none";

/// What an image is made of. `image/declarations/bistable.toml` is the product's, and explains each key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Declaration {
    /// The operating system's name in `os-release`, for machines.
    pub id: String,
    /// The same for people.
    pub name: String,
    pub home_url: String,
    /// The dm-verity salt of every image of this product: blocks of two releases compare by
    /// their hashes only if both were salted alike.
    pub salt: Salt,
    #[serde(default)]
    pub source: Vec<Source>,
    #[serde(default)]
    pub pin: Vec<Pin>,
    pub packages: Vec<String>,
    pub tools: Vec<String>,
    pub initrd: Initrd,
    pub erofs: Erofs,
    #[serde(skip)]
    pub additions: Additions,
}

/// What the first root, in memory, must bring.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Initrd {
    /// Kernel modules, without those that they depend on.
    pub modules: Vec<String>,
    /// Modules that a kernel may have built in or lack.
    #[serde(default)]
    pub optional_modules: Vec<String>,
}

/// How the root file system is made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Erofs {
    /// As `mkfs.erofs -z` takes it, or [`PLAIN`].
    pub compression: String,
    /// The largest piece that is compressed as one, in bytes. Says nothing of what is plain.
    pub cluster: u32,
    /// What the commit holds and the root image does not.
    #[serde(default)]
    pub without: Vec<Pattern>,
}

/// What an overlay may say of the root file system instead.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoding {
    compression: Option<String>,
    cluster: Option<u32>,
}

impl Erofs {
    fn encode(&mut self, encoding: Encoding) {
        if let Some(compression) = encoding.compression {
            self.compression = compression;
        }
        if let Some(cluster) = encoding.cluster {
            self.cluster = cluster;
        }
    }
}

/// What both a declaration and an overlay of it may hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Additions {
    /// What follows `roothash=` on the kernel's command line; of an option that is there twice,
    /// the last counts.
    #[serde(default)]
    pub command_line: Vec<String>,
    #[serde(default)]
    pub leave_out: Vec<LeaveOut>,
    #[serde(default)]
    pub keep: Vec<Pattern>,
    #[serde(default)]
    pub tree: Vec<TreeRule>,
    #[serde(default)]
    pub program: Vec<Program>,
    #[serde(default)]
    pub file: Vec<FileRule>,
    #[serde(default)]
    pub link: Vec<LinkRule>,
    #[serde(default)]
    pub directory: Vec<DirectoryRule>,
    /// Units to enable, as their `[Install]` sections say.
    #[serde(default)]
    pub enable: Vec<String>,
    /// Preset files in the image whose `enable` lines are followed.
    #[serde(default)]
    pub presets: Vec<Pattern>,
    #[serde(default)]
    pub mask: Vec<Mask>,
}

/// Packages and files that do not come along.
#[derive(Debug, Clone, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct LeaveOut {
    /// Packages that others depend on, but of which the image needs nothing.
    #[serde(default)]
    pub packages: Vec<String>,
    #[serde(default)]
    pub paths: Vec<Pattern>,
    pub reason: String,
}

/// Files of the source tree that go into the image, as they are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeRule {
    /// A folder, relative to the declaration.
    pub from: PathBuf,
    /// Which names in it; `*` for all.
    #[serde(default = "all_names")]
    pub names: Pattern,
    /// The folder of the image that they go to.
    pub to: String,
}

/// A program that was built with the image.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    pub name: String,
    /// Where it goes, with its name.
    pub to: String,
}

/// One file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    pub path: String,
    pub content: String,
    #[serde(default = "plain_file")]
    pub mode: u32,
}

/// One symbolic link.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkRule {
    pub path: String,
    pub target: String,
}

/// One folder, empty unless something else fills it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryRule {
    pub path: String,
    #[serde(default = "plain_folder")]
    pub mode: u32,
}

/// Units that must never start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mask {
    pub units: Vec<String>,
    pub reason: String,
}

/// Why there is no declaration to build from.
#[derive(Debug, thiserror::Error)]
pub enum DeclarationError {
    #[error("cannot read the declaration {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a declaration")]
    Parse {
        path: PathBuf,
        source: toml::de::Error,
    },
}

impl Declaration {
    /// Reads a declaration, and lays the overlays over it in their order.
    ///
    /// # Errors
    /// When a file cannot be read or does not say what a declaration says.
    pub fn read(path: &Path, overlays: &[PathBuf]) -> Result<Self, DeclarationError> {
        let mut own: Table = parse(path, &read(path)?)?;
        // serde cannot flatten and refuse unknown keys at once, so the keys are split by hand.
        let additions: Table = ADDITIONS
            .iter()
            .filter_map(|key| own.remove_entry(*key))
            .collect();
        let mut declaration: Self = convert(path, own)?;
        declaration.additions = convert(path, additions)?;
        declaration.additions.anchor(path);
        for path in overlays {
            let mut overlay: Table = parse(path, &read(path)?)?;
            if let Some(Value::Table(erofs)) = overlay.remove("erofs") {
                declaration.erofs.encode(convert(path, erofs)?);
            }
            let mut additions: Additions = convert(path, overlay)?;
            additions.anchor(path);
            declaration.additions.extend(additions);
        }
        Ok(declaration)
    }

    /// The request for the packages of the root tree.
    pub fn root_request(&self) -> Request<'_> {
        self.request(&self.pin, &self.packages)
    }

    /// The request for the packages that the build itself uses.
    pub fn tools_request(&self) -> Request<'_> {
        self.unpinned_request(&self.tools)
    }

    /// The request for packages that no pin of the root file system concerns.
    pub fn unpinned_request<'a>(&'a self, packages: &'a [String]) -> Request<'a> {
        self.request(&[], packages)
    }

    fn request<'a>(&'a self, pins: &'a [Pin], packages: &'a [String]) -> Request<'a> {
        Request {
            architecture: "amd64",
            // What nothing is pinned to can offer nothing: its index need not be read.
            sources: self
                .source
                .iter()
                .filter(|source| {
                    !source.only_pinned || pins.iter().any(|pin| source.suites.contains(&pin.suite))
                })
                .collect(),
            pins,
            packages,
        }
    }
}

impl Additions {
    /// Takes relative paths as relative to the file that they stand in.
    fn anchor(&mut self, file: &Path) {
        let folder = file.parent().unwrap_or(Path::new("."));
        for rule in &mut self.tree {
            rule.from = folder.join(&rule.from);
        }
    }

    fn extend(&mut self, other: Self) {
        let Self {
            command_line,
            leave_out,
            keep,
            tree,
            program,
            file,
            link,
            directory,
            enable,
            presets,
            mask,
        } = other;
        self.command_line.extend(command_line);
        self.leave_out.extend(leave_out);
        self.keep.extend(keep);
        self.tree.extend(tree);
        self.program.extend(program);
        self.file.extend(file);
        self.link.extend(link);
        self.directory.extend(directory);
        self.enable.extend(enable);
        self.presets.extend(presets);
        self.mask.extend(mask);
    }
}

fn read(path: &Path) -> Result<String, DeclarationError> {
    fs::read_to_string(path).map_err(|source| DeclarationError::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, DeclarationError> {
    toml::from_str(text).map_err(|source| DeclarationError::Parse {
        path: path.to_owned(),
        source,
    })
}

fn convert<T: DeserializeOwned>(path: &Path, table: Table) -> Result<T, DeclarationError> {
    table.try_into().map_err(|source| DeclarationError::Parse {
        path: path.to_owned(),
        source,
    })
}

fn all_names() -> Pattern {
    Pattern::parse("*")
}

const fn plain_file() -> u32 {
    0o644
}

const fn plain_folder() -> u32 {
    0o755
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRODUCT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/declarations/bistable.toml");

    #[test]
    fn the_product_and_every_overlay_of_it_can_be_read() {
        let folder = Path::new(PRODUCT).parent().unwrap();
        let mut overlays = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path != Path::new(PRODUCT) {
                overlays.push(path);
            }
        }
        assert!(!overlays.is_empty());
        for overlay in overlays {
            Declaration::read(Path::new(PRODUCT), &[overlay]).unwrap();
        }
    }

    #[test]
    fn the_watchdog_in_software_is_loaded_after_every_other_module() {
        // The first watchdog that is registered is the one that is used.
        let declaration = Declaration::read(Path::new(PRODUCT), &[]).unwrap();
        let optional = &declaration.initrd.optional_modules;
        assert_eq!(optional.last().map(String::as_str), Some("softdog"));
        let watchdogs = ["i6300esb", "wdat_wdt", "iTCO_wdt"];
        let all = [declaration.initrd.modules.as_slice(), optional.as_slice()].concat();
        assert!(
            watchdogs
                .iter()
                .all(|name| all.contains(&(*name).to_owned()))
        );
    }

    #[test]
    fn an_overlay_may_encode_the_root_in_another_way_and_says_nothing_else_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let overlay = folder.path().join("overlay.toml");
        fs::write(&overlay, "[erofs]\ncompression = \"none\"\n").unwrap();
        let read = || Declaration::read(Path::new(PRODUCT), std::slice::from_ref(&overlay));
        let plain = Declaration::read(Path::new(PRODUCT), &[]).unwrap().erofs;
        let other = read().unwrap().erofs;
        assert_eq!(other.compression, PLAIN);
        assert_eq!(
            (other.cluster, other.without.len()),
            (plain.cluster, plain.without.len())
        );
        fs::write(&overlay, "[erofs]\nwithout = []\n").unwrap();
        assert!(read().unwrap_err().to_string().contains("overlay.toml"));
    }

    #[test]
    fn an_overlay_adds_and_a_key_that_nobody_knows_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let overlay = folder.path().join("overlay.toml");
        fs::write(
            &overlay,
            "command-line = [\"x=1\"]\n[[tree]]\nfrom = \"a\"\nto = \"/b\"\n",
        )
        .unwrap();
        let plain = Declaration::read(Path::new(PRODUCT), &[])
            .unwrap()
            .additions;
        let with = Declaration::read(Path::new(PRODUCT), std::slice::from_ref(&overlay))
            .unwrap()
            .additions;
        assert_eq!(with.command_line.len(), plain.command_line.len() + 1);
        assert_eq!(with.tree.last().unwrap().from, folder.path().join("a"));
        assert_eq!(with.file.len(), plain.file.len());

        fs::write(&overlay, "sauce = 1\n").unwrap();
        let error =
            Declaration::read(Path::new(PRODUCT), std::slice::from_ref(&overlay)).unwrap_err();
        assert!(error.to_string().contains("overlay.toml"), "{error}");
        let text = fs::read_to_string(PRODUCT).unwrap();
        fs::write(&overlay, format!("sauce = 1\n{text}")).unwrap();
        assert!(matches!(
            Declaration::read(&overlay, &[]),
            Err(DeclarationError::Parse { .. })
        ));
    }
}
