//! The file that describes a release.

use partition_layout::{Architecture, RootHash, Version};
use release::limits::{MAX_RELEASE_BYTES, MAX_ROOT_IMAGE_BYTES};
use release::{
    Blob, Blobs, COMPATIBLE, Digest, Pack, Patch, Release, Salt, UkiPatch, Verity,
    version_of_target,
};

use crate::Outcome;

pub(crate) fn read(input: &[u8]) -> Outcome {
    let Ok(release) = Release::parse(input) else {
        return Outcome::Refused;
    };
    let bytes = release
        .to_bytes()
        .expect("what was read keeps every limit, and its notes need few escapes");
    assert!(bytes.len() as u64 <= MAX_RELEASE_BYTES);
    let again = Release::parse(&bytes).expect("what was written is read");
    assert_eq!(again, release, "it survives being written");
    assert_eq!(again.to_bytes().as_ref(), Ok(&bytes), "there is one file");
    assert!(release.blobs.root.size <= MAX_ROOT_IMAGE_BYTES);
    assert!(release.blob_bytes() >= release.blobs.root.size);
    for (_, pack) in release.packs() {
        assert!(pack.index_bytes <= pack.blob.size);
    }
    let named = version_of_target(&release.target()).expect("its own name is one of a release");
    assert_eq!(named.as_str(), release.version.as_str());
    Outcome::Accepted
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let blob = |fill, size| Blob {
        sha256: Digest::new([fill; 32]),
        size,
    };
    let pack = |fill| Pack {
        blob: blob(fill, 90_000),
        index_bytes: 300,
    };
    let root_hash = |fill| RootHash::new([fill; 32]);
    let smallest = Release {
        version: Version::parse("1.0").expect("a good version"),
        architecture: Architecture::X86_64,
        compatible: COMPATIBLE.to_owned(),
        root_hash: root_hash(1),
        verity: Verity {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: Salt::parse("5a17").expect("a good salt"),
            data_blocks: 1,
        },
        blobs: Blobs {
            root: blob(2, 4096),
            verity: blob(3, 4096),
            uki: blob(4, 1000),
            sbom: None,
            packed: None,
        },
        patches: Vec::new(),
        uki_patches: Vec::new(),
        created: None,
        notes: None,
    };
    let mut whole = Release {
        version: Version::parse("2.0~rc1").expect("a good version"),
        patches: vec![Patch {
            from: root_hash(9),
            root: pack(5),
        }],
        uki_patches: vec![UkiPatch {
            from: Digest::new([8; 32]),
            pack: pack(6),
        }],
        created: Some(1_780_000_000),
        notes: Some("Fixes \"this\"\nand \\ that.".to_owned()),
        ..smallest.clone()
    };
    whole.verity.data_blocks = 300;
    whole.blobs = Blobs {
        root: blob(2, 300 * 4096),
        verity: blob(3, whole.verity.hash_area_bytes()),
        uki: blob(4, 15_000_000),
        sbom: Some(blob(7, 5000)),
        packed: Some(pack(10)),
    };
    [smallest, whole]
        .map(|release| release.to_bytes().expect("a sound release"))
        .into()
}
