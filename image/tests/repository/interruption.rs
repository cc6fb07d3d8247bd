//! A publisher that stops after each of its writes in turn.

use std::fs;
use std::io;
use std::path::Path;

use image::repository::{
    Directory, Expiries, PublishError, Published, Store, publish, rotate_root, verify,
};
use jiff::Timestamp;
use release::Blob;

use crate::fixture::{Site, stable, version};

/// A disk that takes a number of files and then no more.
pub(crate) struct Cut {
    directory: Directory,
    left: usize,
}

impl Cut {
    pub(crate) fn after(files: usize, directory: Directory) -> Self {
        Self {
            directory,
            left: files,
        }
    }

    fn take(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    }
}

impl Store for Cut {
    fn base(&self) -> &Path {
        self.directory.base()
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.take()?;
        self.directory.put(name, bytes)
    }

    fn put_blob(&mut self, blob: &Blob, source: &Path) -> io::Result<()> {
        self.take()?;
        self.directory.put_blob(blob, source)
    }
}

fn publish_cut(site: &Site, version: &str, files: usize) -> Result<Published, PublishError> {
    let (image, channel, expiries) = (site.image(version), stable(), Expiries::default());
    let request = site.request(&image, &channel, &expiries);
    publish(&mut Cut::after(files, site.lock()), &request)
}

#[test]
fn wherever_a_publisher_stops_a_node_finds_the_old_repository_whole() {
    for files in 0.. {
        let site = Site::with(&["1"]);
        let done = publish_cut(&site, "2", files).is_ok();
        assert_eq!(site.problems(), [""; 0], "stopped after {files} files");
        let expected = if done { "2" } else { "1" };
        assert_eq!(
            site.current().as_deref(),
            Some(expected),
            "stopped after {files} files"
        );
        let report = site.verify();
        assert_eq!(
            report.sound.len(),
            if done { 2 } else { 1 },
            "stopped after {files} files"
        );
        if done {
            // 4 blobs, release, channel, and the three of the metadata.
            assert_eq!(files, 9);
            return;
        }
        // Trying again is all that it takes.
        site.publish("2").expect("a second try");
        assert_eq!(
            site.problems(),
            [""; 0],
            "after {files} files and a second try"
        );
        assert_eq!(site.current().as_deref(), Some("2"));
    }
}

#[test]
fn wherever_the_first_publisher_stops_a_second_try_succeeds() {
    for files in 0.. {
        let site = Site::new();
        let done = publish_cut(&site, "1", files).is_ok();
        if done {
            assert_eq!(files, 10);
            return;
        }
        assert_eq!(
            site.problems(),
            ["MetadataMissing"],
            "stopped after {files} files"
        );
        site.publish("1").expect("a second try");
        assert_eq!(
            site.problems(),
            [""; 0],
            "after {files} files and a second try"
        );
    }
}

#[test]
fn no_file_that_metadata_names_is_ever_written_twice() {
    let site = Site::with(&["1"]);
    // Leaves 2.targets.json and 2.snapshot.json, which nothing names.
    publish_cut(&site, "2", 8).expect_err("cut before the timestamp");
    let before = site.files();
    site.publish("3").expect("a release");
    for (path, content) in &before {
        if !path.ends_with("timestamp.json") {
            assert!(
                fs::read(path).expect("still there") == *content,
                "{}",
                path.display()
            );
        }
    }
    assert_eq!(site.problems(), [""; 0]);
}

#[test]
fn a_repository_that_lost_its_timestamp_is_not_begun_anew() {
    let site = Site::with(&["1", "2"]);
    let timestamp = site.file("timestamp.json");
    let copy = fs::read(&timestamp).expect("the timestamp");
    fs::remove_file(&timestamp).expect("the timestamp");
    let before = site.files();
    let error = site.publish("3").expect_err("nodes have seen newer lists");
    let PublishError::LostList { versions, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(versions, &[version("1"), version("2")]);
    assert!(error.to_string().contains("(1, 2)"), "{error}");
    assert!(site.files() == before);
    fs::write(&timestamp, copy).expect("put back");
    site.publish("3").expect("a release");
    assert_eq!(site.verify().sound.len(), 3);
}

#[test]
fn what_an_interrupted_publisher_left_unfinished_is_removed() {
    let site = Site::with(&["1"]);
    let left = site.base().join("blobs/.unfinished-0123");
    fs::write(&left, "half").expect("a file");
    site.publish("2").expect("a release");
    assert!(!left.exists());
}

#[test]
fn wherever_a_rotation_stops_the_repository_holds_for_old_and_new_nodes() {
    for files in 0.. {
        let site = Site::with(&["1"]);
        let next = Site::new();
        let mut store = Cut::after(files, site.lock());
        let now = Timestamp::now();
        let rotated = rotate_root(
            &mut store,
            &site.keys,
            &next.keys,
            &Expiries::default(),
            now,
        );
        drop(store);
        assert_eq!(site.problems(), [""; 0], "stopped after {files} files");
        assert_eq!(
            site.current().as_deref(),
            Some("1"),
            "stopped after {files} files"
        );
        if rotated.is_ok() {
            let root = fs::read(next.path("keys/root.json")).expect("the new root file");
            let report = verify(&site.base(), &root).expect("a verdict");
            assert!(report.problems.is_empty(), "{:?}", report.problems);
            assert_eq!(files, 4);
            return;
        }
    }
}
