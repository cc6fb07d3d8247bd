//! The releases that are installed: made ones, and real ones.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::disk::size;
use crate::checkout::Checkout;
use crate::programs::Programs;
use crate::releases::{self, UPDATED, WITHOUT_UPDATES};
use crate::runner::Runner;

const BLOCK: u64 = 4096;
/// Long enough that compressors see it as one thing, short beside their windows.
const STRETCH: usize = 64 << 10;
/// The product's, so that made releases and real ones look alike.
const SALT: &str = "30cfe4ac6238a54275a3fa89404820ce887917f0d9f1db959a9a65e9903caa9a";
const UUID: &str = "ce93f9b2-4b0a-44c0-ae93-0d4fbf5e8b43";

/// A release as the image builder leaves one: `image.json` and the files that it names.
#[derive(Debug, Clone)]
pub(crate) struct Release {
    folder: PathBuf,
    pub(crate) version: String,
    pub(crate) root_hash: String,
}

impl Release {
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("image.json");
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let manifest: Value = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is no JSON", path.display()))?;
        let field = |name: &str| -> Result<String> {
            let value = manifest.get(name).and_then(Value::as_str);
            let value =
                value.with_context(|| format!("{} does not say its {name}", path.display()))?;
            Ok(value.to_owned())
        };
        Ok(Self {
            folder: folder.to_owned(),
            version: field("version")?,
            root_hash: field("root_hash")?,
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("root.img")
    }

    pub(crate) fn verity(&self) -> PathBuf {
        self.folder.join("root.verity")
    }

    pub(crate) fn uki(&self) -> PathBuf {
        self.folder.join(format!("bistable_{}.efi", self.version))
    }
}

/// What a made image is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recipe {
    pub(crate) version: &'static str,
    pub(crate) seed: u64,
    pub(crate) bytes: u64,
}

/// Makes a release, unless it is there.
///
/// Of eight stretches of 64 KiB three are noise, four are words by the frequency
/// that words have, and one is zeros. Its kernel is a few bytes that say its root hash.
pub(crate) fn make(
    checkout: &Checkout,
    runner: &Runner,
    folder: &Path,
    recipe: Recipe,
) -> Result<Release> {
    if let Ok(release) = Release::read(folder)
        && release.version == recipe.version
        && size(&release.root()).is_ok_and(|found| found == recipe.bytes)
    {
        return Ok(release);
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let root = folder.join("root.img");
    write_image(&root, recipe).with_context(|| format!("cannot write {}", root.display()))?;
    let verity = folder.join("root.verity");
    let root_hash = hash(checkout, runner, &root, &verity)?;
    let kernel = format!("MZ {} roothash={root_hash} gpt", recipe.version);
    let uki = folder.join(format!("bistable_{}.efi", recipe.version));
    fs::write(&uki, &kernel).with_context(|| format!("cannot write {}", uki.display()))?;
    let manifest = json!({
        "version": recipe.version,
        "architecture": "x86-64",
        "root_hash": root_hash,
        "verity": {
            "data_block_size": BLOCK,
            "hash_block_size": BLOCK,
            "salt": SALT,
            "data_blocks": recipe.bytes / BLOCK,
        },
        "sizes": { "root": recipe.bytes, "verity": size(&verity)?, "uki": kernel.len() },
        "kernel": "6.12.0",
    });
    // The last file: it says that the others are whole.
    let path = folder.join("image.json");
    fs::write(&path, manifest.to_string())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Release::read(folder)
}

fn hash(checkout: &Checkout, runner: &Runner, root: &Path, verity: &Path) -> Result<String> {
    if verity.exists() {
        fs::remove_file(verity).with_context(|| format!("cannot remove {}", verity.display()))?;
    }
    let mut format = std::process::Command::new(checkout.programs().join("bistable-verity"));
    format.args(["format", "--salt", SALT, "--uuid", UUID]);
    let said = runner.output(format.arg(root).arg(verity))?;
    let root_hash = said
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"));
    let root_hash = root_hash.context("bistable-verity printed no root hash")?;
    Ok(root_hash.trim().to_owned())
}

fn write_image(path: &Path, recipe: Recipe) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut noise = Noise(recipe.seed);
    let mut left = recipe.bytes;
    for number in 0_u64.. {
        let stretch = match number % 8 {
            0 | 3 | 6 => noise.bytes(),
            5 => vec![0; STRETCH],
            _ => noise.words(),
        };
        let take = usize::try_from(left).map_or(STRETCH, |left| left.min(STRETCH));
        file.write_all(stretch.get(..take).unwrap_or(&stretch))?;
        left = left.saturating_sub(STRETCH as u64);
        if left == 0 {
            break;
        }
    }
    file.flush()
}

/// xorshift64: <https://www.jstatsoft.org/article/view/v008i14>
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..STRETCH / 8)
            .flat_map(|_| self.next().to_le_bytes())
            .collect()
    }

    /// A word's number has each bit set less often than not, so that low numbers,
    /// and words with common letters, come more often.
    fn words(&mut self) -> Vec<u8> {
        let mut text = Vec::with_capacity(STRETCH + 16);
        while text.len() < STRETCH {
            let number = self.next() & self.next() & 0xffff;
            text.extend_from_slice(format!("{number:x}{:o} ", number.rotate_left(3)).as_bytes());
        }
        text.truncate(STRETCH);
        text
    }
}

/// Returns the two real releases: Debian 13 as it first came, and with its updates and
/// security suites as they are now. The product's own programs are the same in both.
pub(crate) fn security_update(
    checkout: &Checkout,
    runner: &Runner,
    programs: &Programs,
) -> Result<[Release; 2]> {
    let recipes = [WITHOUT_UPDATES, UPDATED];
    releases::prepare(checkout, runner, programs, &recipes)?;
    let [old, new] = recipes.map(|recipe| Release::read(&checkout.image(recipe.name())));
    Ok([old?, new?])
}
