//! `veritysetup` and this crate make the same bytes and believe the same trees.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use partition_layout::RootHash;
use uuid::Uuid;
use verity::{HashArea, HashType, Params, Superblock, TreeError, VerifyError, format, verify};

const UUID: &str = "0db35b9b-c124-4160-a594-80b450d68bde";

/// A folder with one data and one hash file.
struct Bench {
    _folder: tempfile::TempDir,
    data: PathBuf,
    hash: PathBuf,
}

impl Bench {
    fn new(data: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let bench = Self {
            data: folder.path().join("data"),
            hash: folder.path().join("hash"),
            _folder: folder,
        };
        fs::write(&bench.data, data).expect("the disk has room");
        bench
    }

    fn veritysetup(&self, action: &str, arguments: &[String]) -> Output {
        host_tools::oracle("veritysetup")
            .arg(action)
            .args([&self.data, &self.hash])
            .args(arguments)
            .output()
            .expect("veritysetup can be run")
    }
}

fn data(len: u64) -> Vec<u8> {
    (0..len)
        .map(|n| (n.wrapping_mul(0x9e37_79b9) >> 13).to_le_bytes()[0])
        .collect()
}

fn options(area: &HashArea) -> Vec<String> {
    let params = area.params();
    let salt = match params.salt.as_slice() {
        [] => "-".to_owned(),
        salt => hex::encode(salt),
    };
    let mut options = vec![
        format!("--format={}", params.hash_type.number()),
        format!("--data-block-size={}", params.data_block_size),
        format!("--hash-block-size={}", params.hash_block_size),
        format!("--data-blocks={}", area.data_blocks()),
        format!("--salt={salt}"),
    ];
    options.push(match area.superblock() {
        Some((superblock, _)) => format!("--uuid={}", superblock.uuid()),
        None => "--no-superblock".to_owned(),
    });
    options
}

fn areas() -> Vec<HashArea> {
    let salts = [
        vec![],
        vec![0xab],
        (0..32).collect(),
        vec![7; 33],
        vec![0xff; 256],
    ];
    let sizes = [
        (512, 512),
        (512, 4096),
        (4096, 512),
        (4096, 4096),
        (1024, 65536),
        (65536, 1024),
        (65536, 65536),
    ];
    let mut areas = Vec::new();
    for (number, (data_block_size, hash_block_size)) in sizes.into_iter().enumerate() {
        let full = u64::from(hash_block_size) / 32;
        let counts = [1, 2, full, full + 1, full * full, full * full + 1];
        for (other, blocks) in counts.into_iter().enumerate() {
            if blocks * u64::from(data_block_size) > 8 << 20 {
                continue;
            }
            let params = Params {
                data_block_size,
                hash_block_size,
                salt: salts
                    .get((number + other) % salts.len())
                    .cloned()
                    .unwrap_or_default(),
                hash_type: if (number + other) % 3 == 0 {
                    HashType::ChromeOs
                } else {
                    HashType::Normal
                },
            };
            let uuid = Uuid::parse_str(UUID).expect("a UUID");
            let superblock = Superblock::new(params.clone(), blocks, uuid).expect("good");
            areas.push(HashArea::with_superblock(&superblock, 0).expect("good"));
            areas.push(HashArea::bare(params, blocks, 0).expect("good"));
        }
    }
    areas
}

fn root_hash_of(output: &Output) -> RootHash {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"));
    RootHash::parse(line.expect("a root hash is printed").trim()).expect("64 digits")
}

#[test]
fn both_write_the_same_bytes_and_believe_each_other() {
    let all = data(8 << 20);
    let bench = Bench::new(&all);
    for area in areas() {
        let covered = &all[..usize::try_from(area.data_len()).expect("small")];
        let mut ours = Vec::new();
        let root_hash = format(&covered, &area, &mut ours).expect("memory does not fail");

        drop(fs::remove_file(&bench.hash)); // there is none the first time
        let output = bench.veritysetup("format", &options(&area));
        assert!(output.status.success(), "{area:?}: {output:?}");
        assert_eq!(root_hash_of(&output), root_hash, "{area:?}");
        let mut theirs = fs::read(&bench.hash).expect("veritysetup has made it");
        if area.hash_blocks() == 0 {
            // Where there is no tree, it ends the file behind its last buffer,
            // not on a hash block as it says itself ("Hash device size").
            theirs.resize(ours.len(), 0);
        }
        assert!(theirs == ours, "{area:?}: the bytes differ");
        verify(&covered, &theirs, &area, &root_hash).expect("their tree is good");

        fs::write(&bench.hash, &ours).expect("the disk has room");
        let mut arguments = options(&area);
        arguments.push(root_hash.to_string());
        let output = bench.veritysetup("verify", &arguments);
        assert!(output.status.success(), "{area:?}: {output:?}");
    }
}

#[test]
fn both_find_the_same_bad_block() {
    let area = areas()
        .into_iter()
        .find(|area| area.data_blocks() == 257)
        .expect("512/512");
    let mut bytes = data(area.data_len());
    let bench = Bench::new(&bytes);
    let mut hash = Vec::new();
    let root_hash = format(&bytes, &area, &mut hash).expect("memory does not fail");
    fs::write(&bench.hash, &hash).expect("the disk has room");
    let their_verdict = |bench: &Bench| {
        let mut arguments = options(&area);
        arguments.push(root_hash.to_string());
        let output = bench.veritysetup("verify", &arguments);
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    for at in [0, 5000, bytes.len() - 1] {
        bytes[at] ^= 1;
        fs::write(&bench.data, &bytes).expect("the disk has room");
        let verdict = verify(&bytes, &hash, &area, &root_hash);
        let Err(VerifyError::Data { offset, .. }) = verdict else {
            panic!("{at}: {verdict:?}");
        };
        let (good, words) = their_verdict(&bench);
        assert!(
            !good && words.contains(&format!("at position {offset}.")),
            "{offset}: {words}"
        );
        bytes[at] ^= 1;
    }
    fs::write(&bench.data, &bytes).expect("the disk has room");
    let start = usize::try_from(area.tree_start()).expect("small");
    for at in [start, start + 600, hash.len() - 1] {
        hash[at] ^= 1;
        fs::write(&bench.hash, &hash).expect("the disk has room");
        let verdict = verify(&bytes, &hash, &area, &root_hash);
        assert!(
            matches!(verdict, Err(VerifyError::Tree(TreeError::Corrupted { .. }))),
            "{at}: {verdict:?}"
        );
        let (good, words) = their_verdict(&bench);
        assert!(!good, "{at}: {words}");
        hash[at] ^= 1;
    }
}

#[test]
fn both_refuse_a_tree_over_nothing() {
    let bench = Bench::new(&[]);
    let output = bench.veritysetup(
        "format",
        &["--no-superblock".to_owned(), "--salt=-".to_owned()],
    );
    assert!(!output.status.success(), "{output:?}");
    let params = Params {
        data_block_size: 4096,
        hash_block_size: 4096,
        salt: Vec::new(),
        hash_type: HashType::Normal,
    };
    assert!(HashArea::bare(params, 0, 0).is_err());
}

#[test]
fn a_superblock_behind_data_on_one_device_is_found_by_both() {
    let blocks = 5;
    let covered = data(blocks * 4096);
    let bench = Bench::new(&covered);
    let params = Params {
        data_block_size: 4096,
        hash_block_size: 4096,
        salt: vec![1; 32],
        hash_type: HashType::Normal,
    };
    let uuid = Uuid::parse_str(UUID).expect("a UUID");
    let superblock = Superblock::new(params, blocks, uuid).expect("good");
    let area = HashArea::with_superblock(&superblock, blocks * 4096).expect("good");
    let mut device = covered.clone();
    let root_hash = format(&covered, &area, &mut device).expect("memory does not fail");
    assert!(device.starts_with(&covered));
    assert_eq!(
        HashArea::read(&device, blocks * 4096).expect("a superblock"),
        area
    );
    fs::write(&bench.data, &device).expect("the disk has room");
    fs::write(&bench.hash, &device).expect("the disk has room");
    let arguments = [
        root_hash.to_string(),
        format!("--hash-offset={}", blocks * 4096),
    ];
    let output = bench.veritysetup("verify", &arguments);
    assert!(output.status.success(), "{output:?}");
}
