use partition_layout::{Architecture, RootHash, Version};
use serde::Serialize;

use crate::FORMAT;
use crate::blob::Blob;
use crate::document::{self, BadDocument, Fields, Problem};
use crate::limits::{
    BLOCK_SIZE, MAX_HASH_AREA_BYTES, MAX_NOTES_BYTES, MAX_PATCHES, MAX_RELEASE_BYTES,
    MAX_ROOT_IMAGE_BYTES, MAX_SBOM_BYTES, MAX_UKI_BYTES,
};
use crate::pack::{self, Pack, Patch, UkiPatch};
use crate::salt::Salt;

/// The disk layout that this workspace's node has. A node refuses a release
/// that is made for another.
pub const COMPATIBLE: &str = "bistable-1";

const MAX_COMPATIBLE_BYTES: usize = 64;
const TARGET_SUFFIX: &str = ".release.json";

/// A release file: what one version of the whole operating system consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The version, which also names the slot that will hold it.
    pub version: Version,
    /// The architecture whose nodes can run it.
    pub architecture: Architecture,
    /// The disk layout it is made for; see [`COMPATIBLE`].
    pub compatible: String,
    /// The dm-verity root hash: with [`Release::verity`] it vouches for every
    /// block of the root image.
    pub root_hash: RootHash,
    /// The shape of the hash tree.
    pub verity: Verity,
    /// The files to fetch.
    pub blobs: Blobs,
    /// What makes the root image of an older one, each from another.
    pub patches: Vec<Patch>,
    /// What makes the UKI of an older one, each from another.
    pub uki_patches: Vec<UkiPatch>,
    /// When the image was made, in seconds since 1970.
    pub created: Option<u64>,
    /// What changed, for people. Only spaces, newlines and printable characters.
    pub notes: Option<String>,
}

/// The shape of a release's hash tree (sha256, hash type 1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verity {
    /// The size of a block of the root image, in bytes: 4096.
    pub data_block_size: u64,
    /// The size of a block of the tree, in bytes: 4096.
    pub hash_block_size: u64,
    /// The salt, the same for all releases of a product, so that blocks of two
    /// releases can be compared by their hashes.
    pub salt: Salt,
    /// The number of blocks of the root image.
    pub data_blocks: u64,
}

/// The blobs of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blobs {
    /// The root file system image.
    pub root: Blob,
    /// The hash area: the whole content of the verity partition, which is a
    /// superblock and the tree.
    pub verity: Blob,
    /// The unified kernel image: kernel, initrd and command line.
    pub uki: Blob,
    /// The bill of materials (SPDX JSON).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sbom: Option<Blob>,
    /// Every block of the root image once more, compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed: Option<Pack>,
}

impl Verity {
    /// Returns the size of the hash area, in bytes: a block for the superblock,
    /// and the tree.
    pub fn hash_area_bytes(&self) -> u64 {
        // A hash is 32 bytes, so a block of the tree holds this many.
        const HASHES: u64 = BLOCK_SIZE / 32;
        let mut blocks = 1_u64;
        let mut level = self.data_blocks;
        while level > 1 {
            level = level.div_ceil(HASHES);
            blocks = blocks.saturating_add(level);
        }
        blocks.saturating_mul(BLOCK_SIZE)
    }

    fn read(fields: &Fields<'_>) -> Result<Self, BadDocument> {
        Ok(Self {
            data_block_size: fields.number("data_block_size")?,
            hash_block_size: fields.number("hash_block_size")?,
            salt: fields.parsed("salt", Salt::parse)?,
            data_blocks: fields.number("data_blocks")?,
        })
    }
}

impl Blobs {
    fn read(fields: &Fields<'_>) -> Result<Self, BadDocument> {
        let sbom = fields.optional_object("sbom")?;
        let packed = fields.optional_object("packed")?;
        Ok(Self {
            root: Blob::read(&fields.object("root")?)?,
            verity: Blob::read(&fields.object("verity")?)?,
            uki: Blob::read(&fields.object("uki")?)?,
            sbom: sbom.as_ref().map(Blob::read).transpose()?,
            packed: packed.as_ref().map(Pack::read).transpose()?,
        })
    }

    /// Returns every blob that the release consists of, with the name of its
    /// role: `root`, `verity`, `uki`, `sbom`. Packs are other ways to the same
    /// content; [`Release::packs`] has them.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &Blob)> {
        let always = [
            ("root", &self.root),
            ("verity", &self.verity),
            ("uki", &self.uki),
        ];
        always
            .into_iter()
            .chain(self.sbom.iter().map(|blob| ("sbom", blob)))
    }
}

impl Release {
    /// Returns the release that a file describes.
    ///
    /// # Errors
    /// Names the first field that is missing, malformed or beyond a limit.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadDocument> {
        let value = document::parse(bytes, MAX_RELEASE_BYTES)?;
        let fields = Fields::of_document(&value)?;
        let patches = fields.optional_objects("patches", MAX_PATCHES)?;
        let uki_patches = fields.optional_objects("uki_patches", MAX_PATCHES)?;
        let release = Self {
            version: fields.parsed("version", Version::parse)?,
            architecture: read_architecture(&fields)?,
            compatible: fields.text("compatible")?.to_owned(),
            root_hash: fields.parsed("root_hash", RootHash::parse)?,
            verity: Verity::read(&fields.object("verity")?)?,
            blobs: Blobs::read(&fields.object("blobs")?)?,
            patches: patches.iter().map(Patch::read).collect::<Result<_, _>>()?,
            uki_patches: uki_patches
                .iter()
                .map(UkiPatch::read)
                .collect::<Result<_, _>>()?,
            created: fields.optional_number("created")?,
            notes: fields.optional_text("notes")?.map(str::to_owned),
        };
        release.check()?;
        Ok(release)
    }

    /// Returns the one file that describes the release: equal releases have
    /// equal bytes.
    ///
    /// # Errors
    /// Names the first field that [`Release::parse`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BadDocument> {
        self.check()?;
        let mut bytes = serde_json::to_vec_pretty(&Written {
            format: FORMAT,
            version: &self.version,
            architecture: &self.architecture,
            compatible: &self.compatible,
            root_hash: &self.root_hash,
            verity: &self.verity,
            blobs: &self.blobs,
            patches: &self.patches,
            uki_patches: &self.uki_patches,
            created: self.created,
            notes: self.notes.as_deref(),
        })
        .expect("no map has keys other than texts, and writing to memory cannot fail");
        bytes.push(b'\n');
        // Notes within their limit may still need many escapes.
        document::parse(&bytes, MAX_RELEASE_BYTES)?;
        Ok(bytes)
    }

    /// Returns the name of the TUF target: `<version>.release.json`.
    pub fn target(&self) -> String {
        release_target(&self.version)
    }

    /// Returns every pack with the name of its role: `packed`, `patch`,
    /// `UKI patch`.
    pub fn packs(&self) -> impl Iterator<Item = (&'static str, &Pack)> {
        let whole = self.blobs.packed.iter().map(|pack| ("packed", pack));
        let patches = self.patches.iter().map(|patch| ("patch", &patch.root));
        let ukis = self.uki_patches.iter();
        whole
            .chain(patches)
            .chain(ukis.map(|patch| ("UKI patch", &patch.pack)))
    }

    /// Returns how many bytes all blobs that the release consists of have together.
    pub fn blob_bytes(&self) -> u64 {
        // Each is bounded by its limit, so this cannot overflow.
        self.blobs.each().map(|(_, blob)| blob.size).sum()
    }

    fn check(&self) -> Result<(), BadDocument> {
        check_compatible(&self.compatible)?;
        let verity = &self.verity;
        expect_number("verity.data_block_size", verity.data_block_size, BLOCK_SIZE)?;
        expect_number("verity.hash_block_size", verity.hash_block_size, BLOCK_SIZE)?;
        let blobs = &self.blobs;
        blobs.root.check("blobs.root.size", MAX_ROOT_IMAGE_BYTES)?;
        blobs
            .verity
            .check("blobs.verity.size", MAX_HASH_AREA_BYTES)?;
        blobs.uki.check("blobs.uki.size", MAX_UKI_BYTES)?;
        if let Some(sbom) = &blobs.sbom {
            sbom.check("blobs.sbom.size", MAX_SBOM_BYTES)?;
        }
        if verity.data_blocks == 0 {
            return Err(BadDocument::field("verity.data_blocks", Problem::Empty));
        }
        let root_bytes = verity.data_blocks.saturating_mul(BLOCK_SIZE);
        expect_number("blobs.root.size", blobs.root.size, root_bytes)?;
        expect_number(
            "blobs.verity.size",
            blobs.verity.size,
            verity.hash_area_bytes(),
        )?;
        if let Some(packed) = &blobs.packed {
            packed.check("blobs.packed")?;
        }
        pack::check_patches(&self.patches)?;
        pack::check_uki_patches(&self.uki_patches)?;
        self.notes.as_deref().map_or(Ok(()), check_notes)
    }
}

/// Returns the name of the TUF target that describes `version`.
pub fn release_target(version: &Version) -> String {
    format!("{version}{TARGET_SUFFIX}")
}

/// Returns the version that a TUF target describes, if its name is that of a
/// release.
pub fn version_of_target(name: &str) -> Option<Version> {
    Version::parse(name.strip_suffix(TARGET_SUFFIX)?).ok()
}

/// The file, in the order of its fields.
#[derive(Serialize)]
struct Written<'a> {
    format: u64,
    version: &'a Version,
    architecture: &'a Architecture,
    compatible: &'a str,
    root_hash: &'a RootHash,
    verity: &'a Verity,
    blobs: &'a Blobs,
    #[serde(skip_serializing_if = "<[Patch]>::is_empty")]
    patches: &'a [Patch],
    #[serde(skip_serializing_if = "<[UkiPatch]>::is_empty")]
    uki_patches: &'a [UkiPatch],
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<&'a str>,
}

fn read_architecture(fields: &Fields<'_>) -> Result<Architecture, BadDocument> {
    let name = fields.text("architecture")?;
    serde_json::from_value(name.into()).map_err(|_| {
        let problem = format!("is {name:?}, which is no architecture this reader knows");
        fields.bad("architecture", Problem::Malformed(problem))
    })
}

fn check_compatible(text: &str) -> Result<(), BadDocument> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if text.is_empty() || text.len() > MAX_COMPATIBLE_BYTES || !text.bytes().all(plain) {
        let problem = "is not a name of up to 64 letters, digits, '-', '.' and '_'".to_owned();
        return Err(BadDocument::field(
            "compatible",
            Problem::Malformed(problem),
        ));
    }
    Ok(())
}

/// Notes are shown on terminals, which obey control characters.
fn check_notes(notes: &str) -> Result<(), BadDocument> {
    let problem = if notes.len() > MAX_NOTES_BYTES {
        format!(
            "have {} bytes, which is more than {MAX_NOTES_BYTES}",
            notes.len()
        )
    } else if notes.chars().any(|char| char.is_control() && char != '\n') {
        "have a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(BadDocument::field("notes", Problem::Malformed(problem)))
}

fn expect_number(field: &str, found: u64, expected: u64) -> Result<(), BadDocument> {
    if found == expected {
        return Ok(());
    }
    let problem = Problem::Mismatch {
        found: found.to_string(),
        expected: expected.to_string(),
    };
    Err(BadDocument::field(field, problem))
}
