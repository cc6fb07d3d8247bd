//! The command as a script meets it: exit codes, words, files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;
use verity::{HashArea, HashType};

fn run(folder: &TempDir, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bistable-verity"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the command starts")
}

#[track_caller]
fn expect(folder: &TempDir, code: i32, words: &str, arguments: &[&str]) -> Output {
    let output = run(folder, arguments);
    let all = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let all = String::from_utf8_lossy(&all).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {all}");
    assert!(all.contains(words), "{arguments:?}: {all}");
    output
}

/// A folder with 20 blocks of data in `data`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let data: Vec<u8> = (0..81_920_u32).map(|n| (n / 3).to_le_bytes()[0]).collect();
    fs::write(folder.path().join("data"), data).expect("the disk has room");
    folder
}

fn read(folder: &TempDir, name: &str) -> Vec<u8> {
    fs::read(folder.path().join(name)).expect("the file is there")
}

fn field(output: &Output, name: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.expect("the field is printed").trim().to_owned()
}

#[test]
fn what_format_makes_verify_believes_and_dump_shows() {
    let folder = folder();
    let made = expect(&folder, 0, "Root hash:", &["format", "data", "hash"]);
    let root_hash = field(&made, "Root hash:");
    let output = expect(&folder, 0, "", &["verify", "data", "hash", &root_hash]);
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    let shown = expect(
        &folder,
        0,
        "VERITY header information for hash",
        &["dump", "hash"],
    );
    for name in [
        "UUID:",
        "Hash type:",
        "Data blocks:",
        "Hash blocks:",
        "Salt:",
        "Hash device size:",
    ] {
        assert_eq!(field(&made, name), field(&shown, name), "{name}");
    }
    assert!(!String::from_utf8_lossy(&shown.stdout).contains("Root hash"));
}

#[test]
fn every_option_reaches_the_superblock() {
    let folder = folder();
    let uuid = "0db35b9b-c124-4160-a594-80b450d68bde";
    let options = [
        "format",
        "data",
        "hash",
        "--hash=sha256",
        "--format=0",
        "--data-block-size=1024",
        "--hash-block-size",
        "512",
        "--data-blocks=33",
        "--salt",
        "c0ffee",
        "--uuid",
        uuid,
        "--hash-offset=1536",
    ];
    expect(&folder, 0, uuid, &options);
    let area = HashArea::read(&read(&folder, "hash"), 1536).expect("a superblock");
    let params = area.params();
    assert_eq!(
        (params.data_block_size, params.hash_block_size),
        (1024, 512)
    );
    assert_eq!(
        (params.hash_type, params.salt.as_slice()),
        (HashType::ChromeOs, &[0xc0, 0xff, 0xee][..])
    );
    assert_eq!((area.data_blocks(), area.tree_start()), (33, 2048));
    expect(&folder, 0, uuid, &["dump", "hash", "--hash-offset=1536"]);
}

#[test]
fn a_salt_is_drawn_unless_given_and_a_dash_is_none() {
    let folder = folder();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let made = expect(&folder, 0, "", &["format", "data", "hash"]);
        let salt = field(&made, "Salt:");
        assert_eq!(salt.len(), 64);
        seen.extend([salt, field(&made, "UUID:"), field(&made, "Root hash:")]);
    }
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all, "something was drawn twice: {seen:?}");
    for options in [&["--salt=-"][..], &["--salt", "-"], &["-s", "-"]] {
        let made = expect(
            &folder,
            0,
            "",
            &[&["format", "data", "hash"], options].concat(),
        );
        assert_eq!(field(&made, "Salt:"), "-");
    }
}

#[test]
fn a_tree_without_superblock_is_checked_with_the_options_it_was_made_with() {
    let folder = folder();
    let options = ["--no-superblock", "--salt=abcd", "--hash-block-size=1024"];
    let made = expect(
        &folder,
        0,
        "",
        &[&["format", "data", "hash"][..], &options].concat(),
    );
    let root_hash = field(&made, "Root hash:");
    assert_eq!(field(&made, "UUID:"), "");
    let verify = ["verify", "data", "hash", &root_hash];
    expect(&folder, 0, "", &[&verify[..], &options].concat());
    expect(&folder, 1, "no verity signature", &verify);
    expect(
        &folder,
        1,
        "corrupted",
        &[&verify[..], &["--no-superblock", "--hash-block-size=1024"]].concat(),
    );
}

#[test]
fn bad_content_is_1_and_names_the_first_bad_block() {
    let folder = folder();
    let root_hash = field(
        &expect(&folder, 0, "", &["format", "data", "hash"]),
        "Root hash:",
    );
    let spoil = |name: &str, at: usize| {
        let mut bytes = read(&folder, name);
        bytes[at] ^= 1;
        fs::write(folder.path().join(name), bytes).expect("the disk has room");
    };
    let verify = ["verify", "data", "hash", &root_hash];
    spoil("data", 30_000);
    spoil("data", 60_000);
    expect(
        &folder,
        1,
        "data block 7, at byte 28672, is corrupted",
        &verify,
    );
    spoil("data", 30_000);
    spoil("data", 60_000);
    expect(&folder, 0, "", &verify);
    spoil("hash", 4096);
    expect(
        &folder,
        1,
        "block 0 of tree level 0, at byte 4096 of the hash device, is corrupted",
        &verify,
    );
    spoil("hash", 4096);
    spoil("hash", 0);
    expect(&folder, 1, "no verity signature", &verify);
    expect(&folder, 1, "no verity signature", &["dump", "hash"]);
}

#[test]
fn what_cannot_be_asked_is_2_and_makes_no_file() {
    let folder = folder();
    let long_salt = format!("--salt={}", "ab".repeat(257));
    let table: [(&str, &str); 14] = [
        ("sha256 is the only hash algorithm", "--hash=sha1"),
        ("sha256 is the only hash algorithm", "--hash=blake2b-256"),
        ("sha256 is the only hash algorithm", "-hsha512"),
        ("data block size 100", "--data-block-size=100"),
        ("data block size 131072", "--data-block-size=131072"),
        ("hash block size 256", "--hash-block-size=256"),
        ("salt has 257 bytes", &long_salt),
        ("--salt", "--salt=xyz"),
        ("only 0 and 1 are hash types", "--format=2"),
        ("--uuid", "--uuid=1234"),
        ("not a multiple of 512", "--hash-offset=100"),
        ("no data block", "--data-blocks=0"),
        ("--nonsense", "--nonsense"),
        (
            "beyond the largest file offset",
            "--data-blocks=18446744073709551615",
        ),
    ];
    for (words, option) in table {
        expect(&folder, 2, words, &["format", "data", "hash", option]);
    }
    expect(
        &folder,
        2,
        "not a multiple of 4096",
        &[
            "format",
            "data",
            "hash",
            "--no-superblock",
            "--hash-offset=512",
        ],
    );
    let uuid = "--uuid=0db35b9b-c124-4160-a594-80b450d68bde";
    expect(
        &folder,
        2,
        "cannot be used with",
        &["format", "data", "hash", "--no-superblock", uuid],
    );
    expect(&folder, 2, "Usage", &[]);
    expect(&folder, 2, "<HASH>", &["format", "data"]);
    expect(
        &folder,
        2,
        "64 hexadecimal digits",
        &["verify", "data", "hash", "abcd"],
    );
    assert!(!folder.path().join("hash").exists());
    expect(&folder, 0, "--no-superblock", &["format", "--help"]);
    expect(&folder, 0, "bistable-verity", &["--version"]);
}

#[test]
fn what_is_not_there_or_too_small_is_1_and_makes_no_file() {
    let folder = folder();
    expect(
        &folder,
        1,
        "cannot open nothing",
        &["format", "nothing", "hash"],
    );
    expect(
        &folder,
        1,
        "ends at byte 81920, the tree covers 86016 bytes",
        &["format", "data", "hash", "--data-blocks=21"],
    );
    assert!(!folder.path().join("hash").exists());
    fs::write(folder.path().join("empty"), []).expect("the disk has room");
    expect(&folder, 2, "no data block", &["format", "empty", "hash"]);
    expect(&folder, 1, "cannot open", &["format", "data", "."]);
    expect(&folder, 1, "cannot open", &["dump", "nothing"]);
}

#[test]
fn what_is_neither_file_nor_device_is_1_and_makes_no_file() {
    let folder = folder();
    for data in [".", "/dev/null"] {
        expect(
            &folder,
            1,
            "neither a file nor a block device",
            &["format", data, "hash"],
        );
        expect(&folder, 1, "neither a file", &["dump", data]);
    }
    assert!(!folder.path().join("hash").exists());
}

#[test]
fn a_root_hash_can_come_and_go_by_a_file() {
    let folder = folder();
    let file = "--root-hash-file=root";
    let made = expect(&folder, 0, "Root hash:", &["format", "data", "hash", file]);
    assert_eq!(
        read(&folder, "root"),
        field(&made, "Root hash:").into_bytes()
    );
    let verify = ["verify", "data", "hash", file];
    expect(&folder, 0, "", &verify);
    fs::write(folder.path().join("root"), "11".repeat(32) + "\n").expect("the disk has room");
    expect(&folder, 1, "corrupted", &verify);
    fs::write(folder.path().join("root"), "11").expect("the disk has room");
    expect(&folder, 1, "root holds no root hash", &verify);
    let both = ["verify", "data", "hash", &"11".repeat(32), file];
    expect(&folder, 2, "cannot be used with", &both);
    expect(&folder, 2, "<ROOT_HASH>", &["verify", "data", "hash"]);
    expect(
        &folder,
        1,
        "cannot write the root hash",
        &["format", "data", "hash", "--root-hash-file=no/where"],
    );
}

#[test]
fn data_that_has_become_shorter_is_not_proved() {
    let folder = folder();
    let root_hash = field(
        &expect(&folder, 0, "", &["format", "data", "hash"]),
        "Root hash:",
    );
    let data = read(&folder, "data");
    fs::write(folder.path().join("data"), &data[..data.len() - 1]).expect("the disk has room");
    expect(
        &folder,
        1,
        "ends at byte 81919",
        &["verify", "data", "hash", &root_hash],
    );
}

#[test]
fn data_is_never_written_over() {
    let folder = folder();
    let before = read(&folder, "data");
    symlink("data", folder.path().join("link")).expect("links can be made");
    fs::hard_link(folder.path().join("data"), folder.path().join("twin"))
        .expect("links can be made");
    for hash in ["data", "./data", "link", "twin"] {
        expect(&folder, 2, "overlaps", &["format", "data", hash]);
        expect(
            &folder,
            2,
            "overlaps",
            &["format", "data", hash, "--hash-offset=77824"],
        );
    }
    assert!(read(&folder, "data") == before);
    // Behind the data there is room.
    let arguments = ["data", "data", "--hash-offset=81920"];
    let made = expect(&folder, 0, "", &[&["format"][..], &arguments].concat());
    let root_hash = field(&made, "Root hash:");
    assert!(read(&folder, "data").starts_with(&before));
    expect(
        &folder,
        0,
        "",
        &["verify", "data", "data", &root_hash, "--hash-offset=81920"],
    );
}

#[test]
fn what_the_hash_device_holds_elsewhere_stays() {
    let folder = folder();
    fs::write(folder.path().join("hash"), [0xa5; 50_000]).expect("the disk has room");
    expect(
        &folder,
        0,
        "",
        &["format", "data", "hash", "--hash-offset=8192"],
    );
    let hash = read(&folder, "hash");
    assert_eq!(hash.len(), 50_000);
    let end = 8192 + 2 * 4096;
    assert!(
        hash[..8192]
            .iter()
            .chain(&hash[end..])
            .all(|&byte| byte == 0xa5)
    );
}

#[test]
fn a_full_device_is_1() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let folder = folder();
    expect(&folder, 1, "cannot write", &["format", "data", "/dev/full"]);
}
