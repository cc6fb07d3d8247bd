use std::fs;
use std::path::PathBuf;

use image::repository::{Expiries, Outcome, PackKind, PackPlan, Published, publish};
use partition_layout::RootHash;
use release::pack::{PackIndex, PackShape};
use release::{ChannelName, Pack, Release};

use crate::damage::{release_file, sign};
use crate::fixture::{Site, build_of, change, content, stable, version};
use crate::publishing::chain;

/// 2 MiB that zstd can halve; `change` names the blocks that another version has differently.
fn root(change: &[u64]) -> Vec<u8> {
    let mut data = Vec::new();
    for number in 0..512_u64 {
        let seed = if change.contains(&number) {
            number + 1000
        } else {
            number
        };
        let mut noise = content(&seed.to_le_bytes(), 1);
        noise.truncate(2048);
        data.extend(&noise);
        noise.truncate(64);
        data.extend(noise.repeat(32));
    }
    data
}

fn kernel(change: u8) -> Vec<u8> {
    let mut kernel = content(b"kernel", 300);
    kernel.truncate(300 * 4096 - 1000);
    kernel.extend([change]);
    kernel
}

/// Publishes versions, each with its changed blocks, and with kernels that differ in a byte.
fn site(versions: &[(&str, &[u64])]) -> Site {
    let site = Site::new();
    for (number, (version, change)) in (0..).zip(versions) {
        let image = site.path(&format!("image-{version}"));
        build_of(&image, version, &root(change), &kernel(number));
        site.publish(version).expect(version);
    }
    site
}

const ONE: (&str, &[u64]) = ("1", &[]);
const TWO: (&str, &[u64]) = ("2", &[3, 4, 5, 300]);
const THREE: (&str, &[u64]) = ("3", &[3, 4, 5, 300, 301, 510, 511]);

fn size(pack: &Pack) -> u64 {
    pack.blob.size
}

fn blob(site: &Site, pack: &Pack) -> PathBuf {
    site.base().join(pack.blob.path().to_string())
}

#[test]
fn a_release_has_a_compressed_whole_and_patches_from_those_before_it() {
    let site = site(&[ONE, TWO, THREE]);
    let report = site.verify();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(report.sound.len(), 3);
    let [one, two, three] = ["1", "2", "3"].map(|version| release_file(&site, version));
    assert!(one.patches.is_empty() && one.uki_patches.is_empty());
    let froms: Vec<_> = three.patches.iter().map(|patch| patch.from).collect();
    assert_eq!(froms, [two.root_hash, one.root_hash]);
    let froms: Vec<_> = three.uki_patches.iter().map(|patch| patch.from).collect();
    assert_eq!(froms, [two.blobs.uki.sha256, one.blobs.uki.sha256]);

    let packed = three.blobs.packed.expect("half of it is air");
    assert!(size(&packed) < three.blobs.root.size * 3 / 5, "{packed:?}");
    // 3 blocks of 512 are new; of each, a half is noise.
    let patch = &three.patches[0].root;
    assert!(
        (3 * 2048..3 * 2048 + 600).contains(&size(patch)),
        "{patch:?}"
    );
    assert!(
        size(&three.uki_patches[0].pack) < 1000,
        "{:?}",
        three.uki_patches
    );

    let file = fs::read(blob(&site, patch)).expect("the patch");
    let shape = PackShape {
        target_blocks: 512,
        base_blocks: 512,
    };
    let head = usize::try_from(patch.index_bytes).expect("short");
    let index = PackIndex::read(&file[..head], patch, &shape).expect("a patch");
    let blocks: Vec<u64> = index
        .frames
        .iter()
        .flat_map(|frame| frame.blocks())
        .collect();
    assert_eq!(blocks, [301, 510, 511]);
}

#[test]
fn the_number_of_patches_is_the_publishers_choice() {
    let site = site(&[ONE, TWO]);
    let image = site.path("image-3");
    build_of(&image, "3", &root(THREE.1), &kernel(9));
    let (channel, expiries) = (stable(), Expiries::default());
    for (patches, expected) in [(0, 0), (1, 1), (16, 2)] {
        let mut request = site.request(&image, &channel, &expiries);
        request.packs = PackPlan { patches, level: 1 };
        let published = publish(&mut site.lock(), &request).expect("a release");
        let roots = published.packs.iter();
        let roots = roots.filter(|pack| matches!(pack.kind, PackKind::Root(_)));
        assert_eq!(roots.count(), expected, "{:?}", published.packs);
    }
    assert_eq!(site.problems(), [""; 0]);
}

#[test]
fn packs_are_the_same_however_often_they_are_made() {
    let (one, two) = (site(&[ONE, TWO]), site(&[ONE, TWO]));
    let release = |site: &Site| release_file(site, "2").to_bytes().expect("a file");
    assert!(release(&one) == release(&two));
    let before = one.files();
    let published = one.publish("2").expect("the same");
    assert_eq!(
        (published.outcome, published.bytes_added),
        (Outcome::AlreadyThere, 0)
    );
    assert!(one.files() == before);
}

#[test]
fn a_lost_or_damaged_pack_is_made_again_by_publishing_again() {
    let site = site(&[ONE, TWO]);
    let before = site.files();
    let release = release_file(&site, "2");
    assert_eq!(release.packs().count(), 3);
    for (kind, pack) in release.packs() {
        fs::remove_file(blob(&site, pack)).expect(kind);
        assert_eq!(site.problems(), ["BlobMissing"], "{kind}");
        assert_eq!(site.publish("2").expect("again").bytes_added, size(pack));
        change(&blob(&site, pack), |bytes| bytes[20] ^= 1);
        assert_eq!(site.problems(), ["BlobCorrupt"], "{kind}");
        assert_eq!(site.publish("2").expect("again").bytes_added, size(pack));
        assert!(site.files() == before);
    }
}

#[test]
fn a_release_that_goes_to_another_channel_gets_patches_from_what_that_had() {
    let site = site(&[ONE, TWO]);
    let beta = ChannelName::parse("beta").expect("a name");
    let expiries = Expiries::default();
    let image = site.path("image-3");
    build_of(&image, "3", &root(THREE.1), &kernel(9));
    let to = |channel: &ChannelName| {
        let published = publish(&mut site.lock(), &site.request(&image, channel, &expiries));
        let Published { packs, outcome, .. } = published.expect("a release");
        assert_eq!(outcome, Outcome::Added);
        packs.len()
    };
    assert_eq!(to(&beta), 1);
    assert_eq!(to(&stable()), 5);
    assert_eq!(site.problems(), [""; 0]);
    assert_eq!(site.current().as_deref(), Some("3"));
}

#[test]
fn a_release_whose_base_is_damaged_is_published_without_that_patch() {
    let site = site(&[ONE, TWO]);
    let release = release_file(&site, "1");
    change(
        &site.base().join(release.blobs.root.path().to_string()),
        |bytes| bytes[9] ^= 1,
    );
    let image = site.path("image-3");
    build_of(&image, "3", &root(THREE.1), &kernel(9));
    let published = site.publish("3").expect("a release");
    let kinds: Vec<_> = published.packs.into_iter().map(|pack| pack.kind).collect();
    let expected = [
        PackKind::Whole,
        PackKind::Root(version("2")),
        PackKind::Uki(version("2")),
        PackKind::Uki(version("1")),
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn a_duly_signed_pack_is_refused_when_it_makes_something_else() {
    let site = site(&[ONE, TWO, THREE]);
    let [one, two, three] = ["1", "2", "3"].map(|version| release_file(&site, version));
    let file = |release: &Release| release.to_bytes().expect("a file");
    let problems_of = |release: &Release| {
        sign(
            &site,
            &[
                ("1.release.json", file(&one)),
                ("2.release.json", file(&two)),
                ("3.release.json", file(release)),
            ],
        );
        let report = site.verify();
        let problems = report.problems.iter();
        let text = |problem| (image::repository::Problem::name(problem), chain(problem));
        problems.map(text).collect::<Vec<_>>()
    };
    assert_eq!(problems_of(&three), []);
    type Change<'a> = &'a dyn Fn(&mut Release);
    let table: [(&[&str], Change); 5] = [
        (
            &["holds other blocks than the image has there"],
            &|release| {
                release.blobs.packed = two.blobs.packed;
            },
        ),
        (&["it is no sound pack"], &|release| {
            release.blobs.packed = Some(three.patches[0].root);
        }),
        // It holds too little; and where it leans on a block that only its own base has, nonsense.
        (
            &["its base does too", "holds other blocks", "is broken"],
            &|release| release.patches[1].root = three.patches[0].root,
        ),
        (
            &["no release of the repository is what it is a patch from"],
            &|release| release.patches[0].from = RootHash::new([9; 32]),
        ),
        (&["it does not start as a pack does"], &|release| {
            let blob = three.blobs.uki;
            release.blobs.packed = Some(Pack {
                blob,
                index_bytes: 100,
            });
        }),
    ];
    for (expected, change) in table {
        let mut release = three.clone();
        change(&mut release);
        let problems = problems_of(&release);
        let [("PackBroken", problem)] = &problems[..] else {
            panic!("{expected:?}: {problems:?}");
        };
        assert!(expected.iter().any(|it| problem.contains(it)), "{problem}");
    }
}
