//! An image as a build left it, examined before it becomes a release.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use partition_layout::RootHash;
use release::limits::{MAX_HASH_AREA_BYTES, MAX_ROOT_IMAGE_BYTES, MAX_UKI_BYTES};
use release::{BadDocument, Blob, Blobs, COMPATIBLE, Release, Salt, Verity};
use verity::{HashArea, HashType, ReadAreaError};

use crate::manifest::{ImageManifest, ManifestError};

use super::store::hash_file;

/// An image is not fit to be released.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// The manifest is missing or broken.
    #[error("the image has no sound manifest")]
    Manifest(#[from] ManifestError),
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    /// A file is not as large as the manifest says.
    #[error("{path} has {found} bytes, and the manifest says {expected}")]
    Size {
        path: PathBuf,
        found: u64,
        expected: u64,
    },
    /// A file is larger than nodes take.
    #[error("{path} has {found} bytes, and nodes take no more than {max}")]
    TooLarge { path: PathBuf, found: u64, max: u64 },
    /// The hash tree is not that of the root image.
    #[error("{path} is not the hash area of the root image")]
    Tree { path: PathBuf, source: TreeMismatch },
    /// The UKI boots something else.
    #[error("{path} does not say roothash={root_hash}: it boots another image")]
    Uki { path: PathBuf, root_hash: RootHash },
    /// Nodes would refuse the release.
    #[error("the release file would be refused")]
    Release(#[from] BadDocument),
}

/// Root image, hash area and root hash are not of one piece.
#[derive(Debug, thiserror::Error)]
pub enum TreeMismatch {
    /// A file could not be opened.
    #[error("cannot open {path}")]
    Open { path: PathBuf, source: io::Error },
    /// The hash area does not begin with a superblock.
    #[error("the hash area has no superblock")]
    Superblock(#[source] ReadAreaError),
    /// The superblock says something else than the release.
    #[error("the superblock's {field} is {found}, and the release says {expected}")]
    Shape {
        field: &'static str,
        found: String,
        expected: String,
    },
    /// A block does not match.
    #[error("root image and hash tree do not match the root hash {root_hash}")]
    Blocks {
        root_hash: RootHash,
        source: verity::VerifyError,
    },
}

/// An examined image.
#[derive(Debug)]
pub(crate) struct Examined {
    /// The release, without packs.
    pub(crate) release: Release,
    /// The root image.
    pub(crate) root: PathBuf,
    /// The UKI.
    pub(crate) uki: PathBuf,
    /// Each blob, and the file that has its content.
    pub(crate) sources: Vec<(Blob, PathBuf)>,
}

/// Reads an image, every byte of it, and returns the release it makes.
pub(crate) fn examine(image: &Path) -> Result<Examined, ExamineError> {
    let manifest = ImageManifest::read(image)?;
    let root_path = image.join(ImageManifest::ROOT);
    let verity_path = image.join(ImageManifest::VERITY);
    let uki_path = image.join(manifest.uki());
    let sbom_path = image.join(ImageManifest::SBOM);

    let root = examine_file(&root_path, manifest.sizes.root, MAX_ROOT_IMAGE_BYTES)?;
    let verity = examine_file(&verity_path, manifest.sizes.verity, MAX_HASH_AREA_BYTES)?;
    let uki = examine_file(&uki_path, manifest.sizes.uki, MAX_UKI_BYTES)?;
    let sbom = match hash_file(&sbom_path) {
        Ok(blob) => Some(blob),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => {
            return Err(ExamineError::Read {
                path: sbom_path,
                source,
            });
        }
    };
    let shape = &manifest.verity;
    let release = Release {
        version: manifest.version.clone(),
        architecture: manifest.architecture,
        compatible: COMPATIBLE.to_owned(),
        root_hash: manifest.root_hash,
        verity: Verity {
            data_block_size: shape.data_block_size.into(),
            hash_block_size: shape.hash_block_size.into(),
            salt: shape.salt.clone(),
            data_blocks: shape.data_blocks,
        },
        blobs: Blobs {
            root,
            verity,
            uki,
            sbom,
            packed: None,
        },
        patches: Vec::new(),
        uki_patches: Vec::new(),
        created: manifest.created,
        notes: manifest.notes.clone(),
    };
    // Within the limits from here on.
    drop(release.to_bytes()?);
    check_tree(&root_path, &verity_path, &release).map_err(|source| ExamineError::Tree {
        path: verity_path.clone(),
        source,
    })?;
    match uki_boots(&uki_path, &release.root_hash) {
        Ok(true) => {}
        Ok(false) => {
            return Err(ExamineError::Uki {
                path: uki_path,
                root_hash: release.root_hash,
            });
        }
        Err(source) => {
            return Err(ExamineError::Read {
                path: uki_path,
                source,
            });
        }
    }
    let mut sources = vec![
        (root, root_path.clone()),
        (verity, verity_path),
        (uki, uki_path.clone()),
    ];
    sources.extend(sbom.map(|blob| (blob, sbom_path)));
    Ok(Examined {
        release,
        root: root_path,
        uki: uki_path,
        sources,
    })
}

/// Returns the blob that a file makes. Its size is looked at first: a file may
/// say that it has more bytes than can be read in a lifetime.
fn examine_file(path: &Path, expected: u64, max: u64) -> Result<Blob, ExamineError> {
    let failed = |source| ExamineError::Read {
        path: path.into(),
        source,
    };
    let found = fs::metadata(path).map_err(failed)?.len();
    if found > max {
        return Err(ExamineError::TooLarge {
            path: path.into(),
            found,
            max,
        });
    }
    if found != expected {
        return Err(ExamineError::Size {
            path: path.into(),
            found,
            expected,
        });
    }
    hash_file(path).map_err(failed)
}

/// Checks that each block of a root image is the one that the release's root
/// hash vouches for.
pub(crate) fn check_tree(root: &Path, area: &Path, release: &Release) -> Result<(), TreeMismatch> {
    let open = |path: &Path| {
        File::open(path).map_err(|source| TreeMismatch::Open {
            path: path.into(),
            source,
        })
    };
    let (root, area_file) = (open(root)?, open(area)?);
    let area = HashArea::read(&area_file, 0).map_err(TreeMismatch::Superblock)?;
    let (params, shape) = (area.params(), &release.verity);
    let salt = Salt::new(params.salt.clone()).map(|salt| salt.to_string());
    let expect = |field, found: String, expected: String| {
        if found == expected {
            return Ok(());
        }
        Err(TreeMismatch::Shape {
            field,
            found,
            expected,
        })
    };
    let text = |number: u64| number.to_string();
    expect(
        "hash type",
        format!("{:?}", params.hash_type),
        format!("{:?}", HashType::Normal),
    )?;
    expect(
        "data block size",
        text(params.data_block_size.into()),
        text(shape.data_block_size),
    )?;
    expect(
        "hash block size",
        text(params.hash_block_size.into()),
        text(shape.hash_block_size),
    )?;
    expect(
        "salt",
        salt.unwrap_or_else(|error| error.to_string()),
        shape.salt.to_string(),
    )?;
    expect(
        "number of data blocks",
        text(area.data_blocks()),
        text(shape.data_blocks),
    )?;
    verity::verify(&root, &area_file, &area, &release.root_hash).map_err(|source| {
        TreeMismatch::Blocks {
            root_hash: release.root_hash,
            source,
        }
    })
}

/// Returns whether a UKI's command line names the root hash.
///
/// The command line is stored as plain text, so the UKI is searched for it
/// instead of taken apart. This finds images whose parts were mixed up; it is
/// no proof of what the UKI does.
pub(crate) fn uki_boots(path: &Path, root_hash: &RootHash) -> io::Result<bool> {
    if fs::metadata(path)?.len() > MAX_UKI_BYTES {
        return Ok(false);
    }
    let wanted = format!("roothash={root_hash}");
    let content = fs::read(path)?;
    Ok(content
        .windows(wanted.len())
        .any(|window| window == wanted.as_bytes()))
}
