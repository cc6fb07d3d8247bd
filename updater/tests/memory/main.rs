//! An image far larger than the memory is staged, under a limit that the kernel enforces:
//! the daemon's head and hands, in a process of their own, on a slot that is a file. The
//! network is made up; the gateway, which has a bounded buffer for each connection, is
//! another process on a node too.

// `cfg(test)`, though all of this is: clippy lets tests panic by it.
#[cfg(test)]
mod image;
#[cfg(test)]
mod limit;
#[cfg(test)]
mod node;
#[cfg(test)]
mod repository;

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs::{self, File};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use partition_layout::Version;
    use release::{ChannelName, Release};
    use updater::admit::{Ask, Force};
    use updater::config::Repository as Address;
    use updater::driver::{self, Accepted};
    use updater::host::SystemClock;
    use updater::machine::{Outcome, Request};
    use updater::policy::{Automatic, MachineId, Rules, Source, Windows};

    use crate::image::{BLOCK, Image, release};
    use crate::limit::{Limit, submit};
    use crate::node::{Node, Parts, file};
    use crate::repository::Repository;

    const MIB: u64 = 1 << 20;
    const LIMIT: u64 = 64 * MIB;
    /// What the process under the limit is told.
    const FOLDER: &str = "BISTABLE_MEMORY_FOLDER";
    const GROUP: &str = "BISTABLE_MEMORY_LIMIT";
    const BLOCKS: &str = "BISTABLE_MEMORY_BLOCKS";
    const KERNEL: &[u8] = &[b'k'; 100_000];

    const fn images(blocks: u64) -> [Image; 2] {
        [Image { seed: 1, blocks }, Image { seed: 2, blocks }]
    }

    fn tree(folder: &Path, name: &str) -> PathBuf {
        folder.join(format!("{name}.verity"))
    }

    fn document(folder: &Path, name: &str) -> PathBuf {
        folder.join(format!("{name}.json"))
    }

    /// Stages an image of so many bytes over one that is as large, and tells the most memory
    /// that it took.
    #[expect(
        clippy::print_stdout,
        reason = "the figure is what torture runs it for"
    )]
    fn stage_within_the_limit(bytes: u64) {
        // Not in `/tmp`, which may be memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let folder = folder.path();
        let blocks = bytes / BLOCK;
        for (name, image) in ["1", "2"].into_iter().zip(images(blocks)) {
            let release = release(name, image, &tree(folder, name), KERNEL);
            fs::write(document(folder, name), release.to_bytes().unwrap()).unwrap();
        }
        let limit = Limit::make(LIMIT);
        let mut child = Command::new(env::current_exe().unwrap());
        child
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("tests::the_process_that_stages")
            .env(FOLDER, folder)
            .env(GROUP, limit.name())
            .env(BLOCKS, blocks.to_string());
        let output = child.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "under {limit:?}: {:?}\n{said}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let resident = said.lines().find_map(|line| line.strip_prefix("resident "));
        let resident: u64 = resident.unwrap().parse().unwrap();
        println!(
            "{} MiB staged: {:.1} MB resident at most; with the page cache {:?} bytes, limit {LIMIT} ({})",
            bytes / MIB,
            resident as f64 / 1e6,
            limit.peak(),
            limit.name()
        );
        assert!(resident <= LIMIT, "{resident} bytes");
        let staged = File::open(folder.join("root")).unwrap();
        holds(&staged, images(blocks)[1]);
    }

    /// The spare slot's file has the image, as far as a spread of blocks tells.
    fn holds(file: &File, image: Image) {
        use verity::ReadAt;
        for block in (0..image.blocks).step_by(997) {
            let [mut found, mut wanted] = [[0; 4096]; 2];
            file.read_exact_at(&mut found, block * BLOCK).unwrap();
            image.read_exact_at(&mut wanted, block * BLOCK).unwrap();
            assert!(found == wanted, "block {block}");
        }
    }

    #[test]
    fn an_image_of_512_mib_is_staged_within_64_mib_of_memory() {
        stage_within_the_limit(512 * MIB);
    }

    #[test]
    #[ignore = "reads and hashes 32 GiB: `cargo xtask torture`"]
    fn an_image_of_8_gib_is_staged_within_64_mib_of_memory() {
        stage_within_the_limit(8192 * MIB);
    }

    fn parsed(folder: &Path, name: &str) -> Release {
        Release::parse(&fs::read(document(folder, name)).unwrap()).unwrap()
    }

    #[expect(clippy::print_stdout, reason = "its parent reads what it says")]
    #[tokio::test]
    #[ignore = "is started by the others, under the limit"]
    async fn the_process_that_stages() {
        let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else {
            // Somebody asked for all ignored tests.
            return;
        };
        submit(&env::var(GROUP).unwrap(), LIMIT);
        let [booted, next] = images(env::var(BLOCKS).unwrap().parse().unwrap());
        let [old, new] = ["1", "2"].map(|name| parsed(&folder, name));
        let open = |name: &str| File::open(tree(&folder, name)).unwrap();
        let node = Node::new(Parts {
            booted,
            booted_version: old.version.clone(),
            booted_root_hash: old.root_hash,
            booted_tree: open("1"),
            root: file(&folder.join("root"), next.len()),
            verity: file(&folder.join("verity"), new.blobs.verity.size),
        });
        let received = Arc::new(AtomicU64::new(0));
        let repository = Repository {
            release: new,
            image: next,
            tree: Arc::new(open("2")),
            uki: KERNEL.to_vec(),
            received: Arc::clone(&received),
        };
        let rules = Rules {
            automatic: Automatic::Off,
            windows: Windows::default(),
            source: Some(Source {
                repository: Address::parse("http://made.up/").unwrap(),
                channel: ChannelName::parse("stable").unwrap(),
            }),
            tries: 3,
            mistake: None,
        };
        let machine_id = MachineId::new("00000000000000000000000000000000");
        let started = driver::start(node.clone(), repository, SystemClock, rules, machine_id).await;
        let (handle, head) = started.unwrap();
        let head = tokio::spawn(head.run());
        handle.settled().await;
        let ask = Ask {
            version: Some(Version::parse("2").unwrap()),
            force: Force::No,
            tries: 3,
        };
        let Accepted::Job(mut job) = handle.request(Request::Stage(ask)).await.unwrap() else {
            panic!("no job was begun");
        };
        let ended = job.outcome.wait_for(Option::is_some).await.unwrap().clone();
        assert_eq!(ended, Some(Outcome::Done));
        let fetched = received.load(Ordering::Relaxed);
        assert!(fetched >= next.own_bytes(), "{fetched} bytes were fetched");
        handle.go_down().await;
        head.await.unwrap().unwrap();
        assert_eq!(node.entries(), ["bistable_1.efi", "bistable_2+3.efi"]);
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let most = most.unwrap().split_whitespace().next().unwrap();
        println!("\nresident {}", 1024 * most.parse::<u64>().unwrap());
    }
}
