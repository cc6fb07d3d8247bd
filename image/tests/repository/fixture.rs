//! A small repository: its keys, and images of a few hundred KiB.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use image::manifest::{ImageManifest, Sizes, VerityShape};
use image::repository::{
    Directory, Expiries, Expiry, KeyPlan, KeySet, PackPlan, PublishError, PublishRequest,
    Published, Quorum, Report, generate, publish, verify,
};
use jiff::Timestamp;
use partition_layout::{Architecture, Version};
use release::{ChannelName, Salt};
use tempfile::TempDir;
use uuid::Uuid;
use verity::{HashArea, HashType, Params, Superblock};

pub(crate) const BLOCKS: u64 = 40;

pub(crate) fn version(text: &str) -> Version {
    Version::parse(text).expect("a version")
}

pub(crate) fn stable() -> ChannelName {
    ChannelName::parse("stable").expect("a name")
}

pub(crate) fn at(text: &str) -> Expiry {
    text.parse().expect("an expiry")
}

pub(crate) fn plan() -> KeyPlan {
    let one = Quorum {
        threshold: 1,
        keys: 1,
    };
    KeyPlan {
        root: Quorum {
            threshold: 2,
            keys: 3,
        },
        targets: one,
        snapshot: one,
        timestamp: one,
        root_expires: at("365d"),
    }
}

/// A folder with a key set and a repository, which may be empty.
pub(crate) struct Site {
    folder: TempDir,
    pub(crate) keys: KeySet,
}

impl Site {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let keys = generate(&folder.path().join("keys"), &plan(), Timestamp::now()).expect("keys");
        Self { folder, keys }
    }

    /// Returns a site that has published these versions, in this order.
    pub(crate) fn with(versions: &[&str]) -> Self {
        let site = Self::new();
        for version in versions {
            site.publish(version).expect(version);
        }
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The name has what URLs must encode.
    pub(crate) fn base(&self) -> PathBuf {
        self.path("a repository 100%")
    }

    pub(crate) fn lock(&self) -> Directory {
        Directory::create(&self.base()).expect("nobody else is here")
    }

    /// Builds an image once; its content depends on the version alone.
    pub(crate) fn image(&self, version: &str) -> PathBuf {
        let folder = self.path(&format!("image-{version}"));
        if !folder.exists() {
            build(&folder, version, version.as_bytes());
        }
        folder
    }

    pub(crate) fn publish(&self, version: &str) -> Result<Published, PublishError> {
        self.publish_image(&self.image(version), &Expiries::default())
    }

    pub(crate) fn publish_image(
        &self,
        image: &Path,
        expiries: &Expiries,
    ) -> Result<Published, PublishError> {
        let channel = stable();
        let request = self.request(image, &channel, expiries);
        publish(&mut self.lock(), &request)
    }

    /// Returns a request for what is published by default, packed quickly.
    pub(crate) fn request<'a>(
        &'a self,
        image: &'a Path,
        channel: &'a ChannelName,
        expiries: &'a Expiries,
    ) -> PublishRequest<'a> {
        PublishRequest {
            keys: &self.keys,
            image,
            channel,
            share: None,
            packs: PackPlan {
                level: 3,
                ..PackPlan::default()
            },
            expiries,
            now: Timestamp::now(),
        }
    }

    /// Checks the repository as a node that carries the site's root of trust.
    pub(crate) fn verify(&self) -> Report {
        verify(&self.base(), self.keys.root_of_trust()).expect("a verdict")
    }

    pub(crate) fn problems(&self) -> Vec<&'static str> {
        self.verify()
            .problems
            .iter()
            .map(image::repository::Problem::name)
            .collect()
    }

    /// Returns the version that nodes of the channel shall run.
    pub(crate) fn current(&self) -> Option<String> {
        self.verify()
            .channels
            .get(&stable())
            .map(ToString::to_string)
    }

    /// Returns every file of the repository with its content.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        for folder in ["blobs", "targets", "metadata"] {
            let Ok(entries) = fs::read_dir(self.base().join(folder)) else {
                continue;
            };
            for entry in entries {
                let path = entry.expect("an entry").path();
                files.insert(path.clone(), fs::read(&path).expect("a file"));
            }
        }
        files
    }

    /// Returns the one file whose path has this text in it.
    pub(crate) fn file(&self, part: &str) -> PathBuf {
        let files = self.files();
        let mut found = files
            .keys()
            .filter(|path| path.to_string_lossy().contains(part));
        let path = found.next().expect(part);
        assert_eq!(found.next(), None, "{part} is not unique");
        path.clone()
    }
}

/// Builds an image: data from a seed, its tree, and a made-up UKI.
pub(crate) fn build(folder: &Path, version: &str, seed: &[u8]) -> ImageManifest {
    build_of(folder, version, &content(seed, BLOCKS), &[])
}

/// Builds an image of this data, with this kernel in its UKI.
pub(crate) fn build_of(folder: &Path, version: &str, data: &[u8], kernel: &[u8]) -> ImageManifest {
    let blocks = data.len() as u64 / 4096;
    fs::create_dir_all(folder).expect("a folder");
    fs::write(folder.join(ImageManifest::ROOT), data).expect("the root image");
    let params = Params {
        data_block_size: 4096,
        hash_block_size: 4096,
        salt: vec![7; 32],
        hash_type: HashType::Normal,
    };
    let superblock = Superblock::new(params, blocks, Uuid::from_u128(1)).expect("a superblock");
    let area = HashArea::with_superblock(&superblock, 0).expect("an area");
    let mut file = File::create_new(folder.join(ImageManifest::VERITY)).expect("a new file");
    let root_hash = verity::format(&data.to_vec(), &area, &mut file).expect("a tree");
    let mut uki = format!("MZ {version} roothash={root_hash} gpt").into_bytes();
    uki.extend(kernel);
    fs::write(
        folder.join(ImageManifest::SBOM),
        format!("sbom of {version}"),
    )
    .expect("the SBOM");
    let manifest = ImageManifest {
        version: self::version(version),
        architecture: Architecture::X86_64,
        root_hash,
        verity: VerityShape {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: Salt::new([7; 32]).expect("a salt"),
            data_blocks: blocks,
        },
        sizes: Sizes {
            root: blocks * 4096,
            verity: area.end(),
            uki: uki.len() as u64,
        },
        kernel: "6.12.0".to_owned(),
        ostree_commit: None,
        created: Some(1_700_000_000),
        notes: None,
    };
    fs::write(folder.join(manifest.uki()), uki).expect("the UKI");
    manifest.write(folder).expect("the manifest");
    manifest
}

/// Returns blocks that no two seeds share and that nothing compresses.
pub(crate) fn content(seed: &[u8], blocks: u64) -> Vec<u8> {
    let mut state = seed.iter().fold(1_u64, |state, byte| {
        state.wrapping_mul(31).wrapping_add(u64::from(*byte))
    });
    (0..blocks * 512)
        .flat_map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_le_bytes()
        })
        .collect()
}

/// Changes a file's content in place.
pub(crate) fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("a file");
    change(&mut bytes);
    fs::write(path, bytes).expect("a file");
}
