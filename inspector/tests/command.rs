//! The `bistable-layout` command, on disks with a file system made by others.

#[path = "../../partition-layout/tests/common/mod.rs"]
#[expect(dead_code, reason = "these tests change no name")]
mod common;
mod image;

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use common::{Content, Disk, Esp, Said, run};
use image::Image;
use partition_layout::{Form, Role, RootHash, SectorSize, Slot, SlotLabel, Version, relabel};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_bistable-layout");

fn bistable_layout(arguments: &[&OsStr]) -> Said {
    run(PROGRAM, arguments)
}

fn inspect(disk: &Disk) -> (Option<i32>, Value) {
    let before = std::fs::read(&disk.path).expect("the image is there");
    let said = bistable_layout(&["inspect".as_ref(), "--json".as_ref(), disk.path.as_ref()]);
    let after = std::fs::read(&disk.path).expect("the image is there");
    assert!(before == after, "inspecting writes nothing");
    let json = serde_json::from_str(&said.stdout).expect("JSON is printed");
    (said.code, json)
}

fn root_hash_a() -> RootHash {
    Image::of(b'a').root_hash
}

fn root_hash_b() -> RootHash {
    Image::of(b'b').root_hash
}

/// A disk on which release 2.0 is on trial in slot B, and 1.0~rc1 is good in slot A.
fn disk_on_trial(bits: &str, sector_size: SectorSize) -> (Disk, Esp) {
    let disk = Disk::create_holding(Form::Full, sector_size, root_hash_a());
    let version = Version::parse("2.0").expect("a good version");
    let holds = SlotLabel::Holds {
        version: &version,
        root_hash: &root_hash_b(),
    };
    relabel(&mut disk.file(), Slot::B, &holds).expect("nothing fails");
    Image::of(b'a').write(&disk, Slot::A);
    Image::of(b'b').write(&disk, Slot::B);
    let esp = Esp::format(bits);
    esp.add_entry("bistable_1.0~rc1.efi", "1.0~rc1", &root_hash_a());
    esp.add_entry("bistable_2.0+2-1.efi", "2.0", &root_hash_b());
    esp.add("loader/loader.conf", b"timeout 0\n");
    esp.install(&disk);
    (disk, esp)
}

#[test]
fn a_disk_that_has_shrunk_is_named_so() {
    let (disk, _) = disk_on_trial("32", SectorSize::B512);
    let layout = disk.layout();
    let slot_b = layout.slot(Slot::B).expect("the disk has both slots");
    let var = layout.var.as_ref().expect("the disk has /var");
    for len in [var.start + 4096, slot_b.root.start + slot_b.root.len / 2] {
        disk.file().set_len(len).expect("nothing fails");
        let (code, json) = inspect(&disk);
        assert_eq!(code, Some(3), "nothing boots: {json}");
        let told = json["faults"][0].as_str().expect("a fault");
        let end = len / SectorSize::B512.bytes() - 1;
        let expected = format!("and the disk ends with sector {end}: it has shrunk");
        assert!(told.contains(&expected), "{told}");
    }
}

#[test]
fn a_sound_disk_is_described_as_documented() {
    for (bits, sector_size) in [("32", SectorSize::B512), ("16", SectorSize::B4096)] {
        let (disk, _) = disk_on_trial(bits, sector_size);
        let (code, json) = inspect(&disk);
        assert_eq!(json["faults"], json!([]));
        assert_eq!(code, Some(0));
        assert_eq!(json["format"], 1);
        assert_eq!(json["sound"], true);
        assert_eq!(json["disk"]["architecture"], "x86-64");
        assert_eq!(json["disk"]["sector_size"], sector_size.bytes());
        assert_eq!(
            json["table"],
            json!({ "in_use": "primary", "primary": "whole", "backup": "whole" })
        );
        let roles = json["partitions"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|p| &p["role"]);
        assert_eq!(
            json!(roles.collect::<Vec<_>>()),
            json!([
                "esp",
                "root-a",
                "verity-a",
                "verity-sig-a",
                "root-b",
                "verity-b",
                "verity-sig-b",
                "var"
            ])
        );
        assert_eq!(
            json["slots"],
            json!([
                { "slot": "A", "state": "holds", "version": "1.0~rc1", "root_hash": root_hash_a() },
                { "slot": "B", "state": "holds", "version": "2.0", "root_hash": root_hash_b() },
            ])
        );
        assert_eq!(
            json["boot"],
            json!({
                "entries": [
                    {
                        "file_name": "bistable_1.0~rc1.efi", "size": 200_000, "state": "good", "version": "1.0~rc1",
                        "tries_left": null, "tries_done": null, "root_hash": root_hash_a(), "slot": "A",
                    },
                    {
                        "file_name": "bistable_2.0+2-1.efi", "size": 200_000, "state": "trial", "version": "2.0",
                        "tries_left": 2, "tries_done": 1, "root_hash": root_hash_b(), "slot": "B",
                    },
                ],
                "next": "bistable_2.0+2-1.efi",
                "lost_bytes": 0,
            })
        );
        let verdict = &json["verdict"];
        assert_eq!(
            (&verdict["safe"], &verdict["boots"], &verdict["why"]),
            (&json!(true), &json!("B"), &json!([]))
        );
        let bootable = verdict["bootable"].as_array().expect("a list");
        let told: Vec<_> = bootable
            .iter()
            .map(|it| json!([it["file_name"], it["slot"], it["root_hash"], it["fault"]]))
            .collect();
        assert_eq!(
            told,
            [
                json!(["bistable_2.0+2-1.efi", "B", root_hash_b(), null]),
                json!(["bistable_1.0~rc1.efi", "A", root_hash_a(), null]),
            ]
        );
    }
}

#[test]
fn the_text_names_slots_entries_and_what_boots_next() {
    let (disk, esp) = disk_on_trial("32", SectorSize::B512);
    esp.rename("bistable_2.0+2-1.efi", "bistable_2.0+0-3.efi");
    esp.install(&disk);
    let said = bistable_layout(&["inspect".as_ref(), disk.path.as_ref()]);
    assert_eq!(said.code, Some(0), "{}", said.text());
    for line in [
        "table      primary whole, backup whole, the primary is used",
        "entry      bistable_1.0~rc1.efi: good, slot A, boots next",
        "entry      bistable_2.0+0-3.efi: bad, 0 tries left, 3 done, slot B",
        "verdict    slot A boots, and nothing that could boot is broken",
    ] {
        assert!(
            said.stdout.lines().any(|said| said == line),
            "{line:?} is not in\n{}",
            said.stdout
        );
    }
}

#[test]
fn names_that_a_torn_rename_has_left_are_told() {
    let (disk, esp) = disk_on_trial("16", SectorSize::B512);
    let tear = |from, to, content| esp.tear(from, to, content);
    tear(
        "bistable_2.0+2-1.efi",
        "bistable_2.0+1-2.efi",
        Content::Shared,
    );
    tear(
        "bistable_1.0~rc1.efi",
        "bistable_1.0~rc1+0.efi",
        Content::None,
    );
    esp.install(&disk);
    let (code, json) = inspect(&disk);
    assert_eq!(code, Some(1));
    assert_eq!(
        json["faults"],
        json!([
            "bistable_2.0+1-2.efi and bistable_2.0+2-1.efi are one file: a rename was cut short, and removing one would destroy both",
            "bistable_1.0~rc1+0.efi is empty: a rename to it was cut short",
        ])
    );
}

#[test]
fn what_is_wrong_with_boot_entries_is_told() {
    let (disk, esp) = disk_on_trial("32", SectorSize::B512);
    esp.add_entry("bistable_3.0+3.efi", "3.0", &RootHash::new([3; 32]));
    esp.add_entry("bistable_1.5.efi", "9.9", &root_hash_a());
    esp.add("EFI/Linux/bistable_0.9.efi", b"no image at all");
    esp.add(
        "EFI/Linux/bistable_2.1.efi.new",
        b"not looked at by the loader",
    );
    esp.add_entry("other-linux.efi", "1", &root_hash_a());
    esp.install(&disk);
    let (code, json) = inspect(&disk);
    assert_eq!(code, Some(3), "3.0 boots nothing");
    assert_eq!(json["sound"], false);
    assert_eq!(
        json["faults"],
        json!([
            "bistable_0.9.efi is no unified kernel image, and is not offered for booting",
            "bistable_1.5.efi boots a slot that is labelled with another version",
            "bistable_1.5.efi has version 9.9 inside, by which it is ranked",
            "bistable_3.0+3.efi boots a root hash that no slot holds",
            "\"other-linux.efi\" is not named bistable_<version>.efi",
        ])
    );
    // The version inside decides, not the name.
    assert_eq!(json["boot"]["next"], "bistable_1.5.efi");

    esp.add("loader/loader.conf", b"timeout 0\ndefault bistable_1*\n");
    esp.install(&disk);
    let (_, json) = inspect(&disk);
    assert_eq!(json["boot"]["next"], Value::Null);
    let told = json["faults"]
        .as_array()
        .expect("a list")
        .last()
        .expect("faults");
    assert_eq!(
        told,
        "what boots next is not decided by the boot entries: loader/loader.conf sets \"default\""
    );
}

#[test]
fn a_disk_without_boot_entries_or_without_a_file_system_is_not_sound() {
    let (disk, esp) = disk_on_trial("16", SectorSize::B512);
    esp.remove("bistable_1.0~rc1.efi");
    esp.remove("bistable_2.0+2-1.efi");
    esp.install(&disk);
    let (code, json) = inspect(&disk);
    assert_eq!(
        (code, &json["faults"]),
        (Some(3), &json!(["there is no boot entry"]))
    );
    disk.write(disk.layout().esp.start, &[0; 512]);
    let (code, json) = inspect(&disk);
    assert_eq!(code, Some(3));
    assert_eq!(json["boot"], Value::Null);
    assert_eq!(
        json["faults"],
        json!(["cannot read the ESP: there is no FAT16 or FAT32 file system: it has no signature"])
    );
}

#[test]
fn a_damaged_disk_is_read_and_repaired() {
    let (disk, _) = disk_on_trial("32", SectorSize::B512);
    let sound = std::fs::read(&disk.path).expect("the image is there");
    disk.write(512 + 16, &[0xff; 4]);
    let (code, json) = inspect(&disk);
    assert_eq!(code, Some(1));
    assert_eq!(
        json["table"],
        json!({ "in_use": "backup", "primary": "damaged", "backup": "whole" })
    );
    assert_eq!(
        json["faults"],
        json!(["the primary partition table is damaged: the header's checksum is wrong"])
    );
    assert_eq!(json["slots"][1]["version"], "2.0");

    let said = bistable_layout(&["repair".as_ref(), disk.path.as_ref()]);
    assert_eq!(
        (said.code, said.text().as_str()),
        (Some(0), "restored the primary partition table\n")
    );
    assert!(std::fs::read(&disk.path).expect("the image is there") == sound);
    assert_eq!(inspect(&disk).0, Some(0));
    let said = bistable_layout(&["repair".as_ref(), disk.path.as_ref()]);
    assert_eq!(
        (said.code, said.text().as_str()),
        (Some(0), "the partition table needs no repair\n")
    );
}

#[test]
fn a_disk_that_has_grown_gets_its_backup_at_the_new_end() {
    let (disk, _) = disk_on_trial("32", SectorSize::B512);
    let file = disk.file();
    let size = file.metadata().expect("the image is there").len();
    file.set_len(size + (7 << 20)).expect("room for an image");
    assert_eq!(inspect(&disk).0, Some(1));
    let said = bistable_layout(&["repair".as_ref(), disk.path.as_ref()]);
    assert_eq!(said.code, Some(0), "{}", said.text());
    assert_eq!(inspect(&disk).0, Some(0));
    let verified = run("sgdisk", &["-v".as_ref(), disk.path.as_ref()]).text();
    assert!(verified.contains("No problems found."), "{verified}");
    assert!(
        verified.contains("Main partition table") || !verified.contains("Warning"),
        "{verified}"
    );
}

#[test]
fn a_block_device_is_inspected_and_repaired_as_an_image_is() {
    let (disk, _) = disk_on_trial("32", SectorSize::B4096);
    disk.write(4096, &[0; 8]);
    let Some(device) = disk.attach() else {
        return;
    };
    let said = bistable_layout(&["inspect".as_ref(), device.path().as_ref()]);
    assert_eq!(said.code, Some(1), "{}", said.text());
    assert!(
        said.stdout
            .contains("primary damaged, backup whole, the backup is used"),
        "{}",
        said.stdout
    );
    let said = bistable_layout(&["repair".as_ref(), device.path().as_ref()]);
    assert_eq!(said.code, Some(0), "{}", said.text());
    drop(device);
    assert_eq!(inspect(&disk).0, Some(0));
}

#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("disk.img");
    std::fs::write(&path, vec![0x2a; 1 << 20]).expect("a temporary folder can be written");
    for (command, code) in [("inspect", 3), ("repair", 1)] {
        let said = bistable_layout(&[command.as_ref(), path.as_ref()]);
        assert_eq!(said.code, Some(code), "{command}");
        assert!(
            said.stderr.contains("no whole GPT partition table"),
            "{}",
            said.stderr
        );
        assert_eq!(said.stdout, "");
    }
    let said = bistable_layout(&["inspect".as_ref(), "--json".as_ref(), path.as_ref()]);
    let json: Value = serde_json::from_str(&said.stdout).expect("JSON is printed");
    assert_eq!(
        (&json["format"], &json["sound"]),
        (&json!(1), &json!(false))
    );
    assert_eq!(json["faults"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        std::fs::read(&path).expect("it is there"),
        vec![0x2a; 1 << 20]
    );

    for misused in [folder.path().join("absent"), "/dev/null".into()] {
        let said = bistable_layout(&["repair".as_ref(), misused.as_ref()]);
        assert!(matches!(said.code, Some(1 | 2)), "{}", said.text());
        assert_ne!(said.stderr, "");
    }
    assert_eq!(bistable_layout(&["inspect".as_ref()]).code, Some(2));
    assert_eq!(bistable_layout(&["frobnicate".as_ref()]).code, Some(2));
    let help = bistable_layout(&["--help".as_ref()]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("Exit codes:"), "{}", help.stdout);
}

#[test]
fn versions_are_compared_with_the_exit_codes_of_systemd_analyze() {
    for (a, b, line, code) in [
        ("1.9", "1.10", "1.9 < 1.10\n", 12),
        ("1.0", "1.0~rc1", "1.0 > 1.0~rc1\n", 11),
        ("1.0", "1.00", "1.0 == 1.00\n", 0),
        ("-1", "-2", "-1 < -2\n", 12),
    ] {
        let said = bistable_layout(&["compare-versions".as_ref(), a.as_ref(), b.as_ref()]);
        assert_eq!((said.stdout.as_str(), said.code), (line, Some(code)));
        let theirs = run(
            "systemd-analyze",
            &[
                "compare-versions".as_ref(),
                "--".as_ref(),
                a.as_ref(),
                b.as_ref(),
            ],
        );
        assert_eq!(theirs.code, Some(code), "{a} {b}: {}", theirs.text());
    }
}

#[test]
fn a_reader_that_goes_away_changes_nothing() {
    let (disk, _) = disk_on_trial("32", SectorSize::B512);
    let mut child = Command::new(PROGRAM)
        .args(["inspect".as_ref(), "--json".as_ref(), disk.path.as_os_str()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is built");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}

/// Flips a byte of a partition of slot B.
fn flip(disk: &Disk, role: Role, offset: u64) {
    let layout = disk.layout();
    let slot = layout.slot(Slot::B).expect("the disk has both slots");
    let at = slot.partition(role).start + offset;
    let mut byte = [0];
    disk.file()
        .read_exact_at(&mut byte, at)
        .expect("it is there");
    disk.write(at, &[byte[0] ^ 1]);
}

#[test]
fn a_slot_that_is_not_whole_by_its_root_hash_is_told_and_named_by_the_exit_code() {
    let block = 4096;
    for (role, offset, words) in [
        (Role::Root, 17 * block + 5, "data block 17"),
        (Role::Verity, 2 * block + 5, "tree level 0"),
        (Role::Verity, 1, "superblock"),
    ] {
        let (disk, esp) = disk_on_trial("32", SectorSize::B512);
        flip(&disk, role, offset);
        let (code, json) = inspect(&disk);
        assert_eq!(code, Some(3), "{words}");
        let verdict = &json["verdict"];
        assert_eq!(
            (&verdict["safe"], &verdict["boots"]),
            (&json!(false), &Value::Null)
        );
        let why = verdict["why"][0].as_str().expect("a reason");
        assert!(
            why.starts_with("bistable_2.0+2-1.efi: slot B is not whole: "),
            "{why}"
        );
        assert!(why.contains(words), "{why}");
        assert_eq!(json["faults"], verdict["why"]);
        let said = bistable_layout(&["inspect".as_ref(), disk.path.as_ref()]);
        assert!(
            said.stdout
                .contains("broken     bistable_2.0+2-1.efi: slot B"),
            "{}",
            said.text()
        );

        // Last in the order it is a trap all the same, and gone it is none.
        esp.rename("bistable_2.0+2-1.efi", "bistable_2.0+0-3.efi");
        esp.install(&disk);
        let (code, json) = inspect(&disk);
        assert_eq!((code, &json["verdict"]["boots"]), (Some(3), &json!("A")));
        esp.remove("bistable_2.0+0-3.efi");
        esp.install(&disk);
        let (code, json) = inspect(&disk);
        assert_eq!(
            (code, &json["verdict"]["boots"]),
            (Some(0), &json!("A")),
            "{json:#}"
        );
    }
}

#[test]
fn a_slot_is_found_by_its_uuids_whatever_its_label_says_as_pid_1_does() {
    let (disk, _) = disk_on_trial("16", SectorSize::B512);
    relabel(&mut disk.file(), Slot::B, &SlotLabel::Empty).expect("nothing fails");
    let (code, json) = inspect(&disk);
    assert_eq!(code, Some(3));
    let why = json["verdict"]["why"][0].as_str().expect("a reason");
    assert!(
        why.starts_with("bistable_2.0+2-1.efi: no slot has the root hash"),
        "{why}"
    );
    assert_eq!(
        json["faults"],
        json!(["bistable_2.0+2-1.efi boots a root hash that no slot holds"])
    );
}

#[test]
fn a_kernel_image_whose_clusters_are_gone_is_broken() {
    for (bits, entry_bytes) in [("16", 2), ("32", 4)] {
        let (disk, esp) = disk_on_trial(bits, SectorSize::B512);
        let first = esp.first_cluster("bistable_2.0+2-1.efi");
        let mut image = esp.bytes();
        let reserved = usize::from(u16::from_le_bytes([image[14], image[15]])) * 512;
        let second = reserved + (first + 1) * entry_bytes;
        image[second..second + entry_bytes].fill(0);
        esp.replace(&image);
        esp.install(&disk);
        let (code, json) = inspect(&disk);
        assert_eq!(code, Some(3), "{json:#}");
        let faults = json["faults"].as_array().expect("a list");
        let told = |words: &str| {
            faults
                .iter()
                .any(|fault| fault.as_str().is_some_and(|fault| fault.contains(words)))
        };
        assert!(
            told("the chain of clusters of EFI/Linux/bistable_2.0+2-1.efi is broken"),
            "{json:#}"
        );
        assert!(
            told("the copies of the file allocation table differ"),
            "{json:#}"
        );
        assert_ne!(json["boot"]["lost_bytes"], 0);
    }
}

#[test]
fn files_that_share_clusters_and_clusters_of_no_file_are_told() {
    let (disk, esp) = disk_on_trial("16", SectorSize::B512);
    esp.add("loader/one", &[1; 9000]);
    esp.add("loader/two", &[2; 9000]);
    let place = |image: &[u8], name: &[u8]| {
        let records = image
            .chunks_exact(32)
            .position(|record| record.starts_with(name));
        32 * records.expect("the name is there")
    };
    let mut image = esp.bytes();
    let (one, two) = (place(&image, b"ONE  "), place(&image, b"TWO  "));
    image.copy_within(one + 26..one + 28, two + 26);
    esp.replace(&image);
    esp.install(&disk);
    let (code, json) = inspect(&disk);
    assert_eq!(code, Some(1), "what boots is whole");
    assert_eq!(
        json["faults"],
        json!(["the ESP is damaged: loader/two and loader/one have clusters in common"])
    );
    let lost = json["boot"]["lost_bytes"].as_u64().expect("a number");
    assert!((9000..20_000).contains(&lost), "{lost}");
}
