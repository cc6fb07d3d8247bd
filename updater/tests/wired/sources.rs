//! Where the blocks of a release come from, and that none comes twice.

use std::ops::Range;

use partition_layout::Slot;
use proptest::collection::vec;
use proptest::prelude::*;
use release::Release;
use updater::meter::{Meter, Work};
use updater::plan::{Method, Plan, PlanPart, REQUEST, WhyNot};
use updater::ports::{Part, RangeSupport, Stopper};
use updater::stage::{Bench, StageError};
use updater::tally::Tally;

use super::fake::{FakeNode, Image, Trouble};
use super::gate::{Daemon, stage};
use super::network::{FakeRepository, Lie, Which, block, image, image_of};
use super::packs::{new_blocks, pack, publish_patches, publish_whole};

const BLOCK: usize = 4096;

/// A node that runs `old`, and a repository that has `new` too.
struct Stand {
    old: (Release, Image),
    new: (Release, Image),
    node: FakeNode,
    repository: FakeRepository,
}

/// How a stage went.
#[derive(Debug)]
struct Told {
    result: Result<(), StageError>,
    work: Work,
    tally: Tally,
    sent: Vec<(Which, Range<u64>)>,
}

impl Told {
    fn sent(&self, which: Which) -> u64 {
        let sent = self.sent.iter().filter(|(it, _)| *it == which);
        sent.map(|(_, range)| range.end - range.start).sum()
    }

    fn method(&self, part: PlanPart) -> Method {
        self.work.plan.chosen(part).unwrap().method
    }

    fn why_not(&self, method: Method) -> Option<WhyNot> {
        let all = &self.work.plan.alternatives;
        let of_root = all.iter().filter(|it| it.part == PlanPart::Root);
        let mut found = of_root.filter(|it| it.method == method);
        found.next().unwrap().why_not.clone()
    }
}

impl Stand {
    fn new(old: Vec<u8>, new: Vec<u8>) -> Self {
        let (old, new) = (image_of("1", 1, old), image_of("2", 2, new));
        let node = FakeNode::running(&old.1);
        node.set_esp_room(16 << 20);
        let repository = FakeRepository::with(&[&old, &new]);
        Self {
            old,
            new,
            node,
            repository,
        }
    }

    /// A release of 300 blocks: 100 of the old one from elsewhere, 20 zero, 180 new.
    fn usual() -> Self {
        let old = (0..300).flat_map(|number| block(1, number)).collect();
        let copied = (150..250).flat_map(|number| block(1, number));
        let fresh = (0..180).flat_map(|number| block(2, number));
        let zero = vec![0; 20 * BLOCK];
        Self::new(old, copied.chain(zero).chain(fresh).collect())
    }

    fn with_bench<T>(
        &self,
        work: impl FnOnce(&mut Bench<'_, FakeNode, FakeRepository>) -> T,
    ) -> (T, Work, Tally) {
        let (meter, seen) = Meter::new();
        meter.expect_release(&self.new.0);
        let (_stopper, stop) = Stopper::new();
        let result = work(&mut Bench {
            device: &self.node,
            network: &mut self.repository.clone(),
            meter: &meter,
            stop: &stop,
        });
        let work = seen.borrow().clone();
        (result, work, meter.tally())
    }

    fn stage(&self) -> Told {
        self.repository.take_sent();
        let release = &self.new.0;
        let (result, work, tally) = self.with_bench(|bench| {
            bench.write_tree(Slot::B, release)?;
            bench.write_root(Slot::B, release)?;
            bench.read_back(Slot::B, release)?;
            bench.write_kernel(release)
        });
        Told {
            result,
            work,
            tally,
            sent: self.repository.take_sent(),
        }
    }

    fn preview(&self) -> Plan {
        let release = &self.new.0;
        let (plan, ..) = self.with_bench(|bench| bench.preview(Slot::B, release));
        plan.unwrap()
    }

    fn is_whole(&self) -> bool {
        let (_, root, verity) = self.node.slot_bytes(Slot::B);
        root.starts_with(&self.new.1.root) && verity.starts_with(&self.new.1.verity)
    }

    /// Bytes of the root image that have to come: in nobody's slot, nor zero,
    /// and what lies between them for less than a request.
    fn missing(&self) -> u64 {
        let (_, spare, _) = self.node.slot_bytes(Slot::B);
        let new = &self.new.1.root;
        let there = |number: usize| {
            let place = number * BLOCK..(number + 1) * BLOCK;
            new[place.clone()] == spare[place]
        };
        let missing = new_blocks(new, &self.old.1.root).into_iter();
        let mut joined: Vec<Range<u64>> = Vec::new();
        for number in missing.filter(|number| !there(*number)) {
            let range = (number * BLOCK) as u64..((number + 1) * BLOCK) as u64;
            match joined.last_mut() {
                Some(last) if range.start - last.end <= REQUEST => last.end = range.end,
                _ => joined.push(range),
            }
        }
        joined.iter().map(|range| range.end - range.start).sum()
    }
}

/// A stretch of an image.
#[derive(Debug, Clone)]
enum Stretch {
    Old(usize, usize),
    Zero(usize),
    Fresh(usize),
}

fn stretches() -> impl Strategy<Value = Vec<Stretch>> {
    let stretch = prop_oneof![
        (0_usize..300, 1_usize..60).prop_map(|(from, blocks)| Stretch::Old(from, blocks)),
        (1_usize..30).prop_map(Stretch::Zero),
        (1_usize..60).prop_map(Stretch::Fresh),
    ];
    vec(stretch, 1..10)
}

fn build(stretches: &[Stretch], old: &[u8]) -> Vec<u8> {
    let mut image = Vec::new();
    for stretch in stretches {
        match stretch {
            Stretch::Old(from, blocks) => {
                let blocks = old.chunks(BLOCK).skip(*from).take(*blocks);
                image.extend(blocks.flatten());
            }
            Stretch::Zero(blocks) => image.resize(image.len() + blocks * BLOCK, 0),
            Stretch::Fresh(blocks) => {
                let at = image.len() / BLOCK;
                image.extend((at..at + blocks).flat_map(|number| block(3, number)));
            }
        }
    }
    if image.is_empty() {
        image = block(3, 0);
    }
    image
}

#[derive(Debug, Clone, Copy)]
struct Published {
    whole: bool,
    patches: bool,
    each: usize,
}

fn published() -> impl Strategy<Value = Published> {
    (any::<bool>(), any::<bool>(), 1_usize..40).prop_map(|(whole, patches, each)| Published {
        whole,
        patches,
        each,
    })
}

fn supports() -> impl Strategy<Value = RangeSupport> {
    prop_oneof![
        Just(RangeSupport::Yes),
        Just(RangeSupport::No),
        Just(RangeSupport::Unknown),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn from_any_image_to_any_other_the_spare_gets_its_bytes_at_the_planned_price(
        old in stretches(),
        new in stretches(),
        published in published(),
        support in supports(),
        there in vec(0_usize..500, 0..40),
        leaves_there in vec(0_usize..5, 0..3),
        rotten in proptest::option::of(0_usize..300),
    ) {
        let old = build(&old, &[]);
        let new = build(&new, &old);
        let mut stand = Stand::new(old, new);
        if published.whole {
            publish_whole(&stand.repository, &mut stand.new, published.each);
        }
        if published.patches {
            publish_patches(&stand.repository, &mut stand.new, &stand.old, published.each);
        }
        stand.repository.serve_ranges(support);
        let (root, verity) = (stand.new.1.root.clone(), stand.new.1.verity.clone());
        stand.node.alter(Slot::B, Part::Root, |spare| {
            for block in &there {
                let place = block * BLOCK..(block + 1) * BLOCK;
                if let Some(right) = root.get(place.clone()) {
                    spare[place].copy_from_slice(right);
                }
            }
        });
        stand.node.alter(Slot::B, Part::Verity, |spare| {
            for block in &leaves_there {
                let place = block * BLOCK..(block + 1) * BLOCK;
                if let Some(right) = verity.get(place.clone()) {
                    spare[place].copy_from_slice(right);
                }
            }
        });
        let rotten = rotten.filter(|block| *block < stand.old.1.root.len() / BLOCK);
        if let Some(block) = rotten {
            stand.node.alter(Slot::A, Part::Root, |booted| booted[block * BLOCK + 7] ^= 1);
        }
        let booted = stand.node.slot_bytes(Slot::A);
        let preview = stand.preview();
        let told = stand.stage();
        prop_assert!(told.result.is_ok(), "{:?}", told.result);
        prop_assert!(stand.is_whole());
        prop_assert_eq!(stand.node.slot_bytes(Slot::A), booted);
        let Told { work, tally, sent, .. } = &told;
        let received: u64 = sent.iter().map(|(_, range)| range.end - range.start).sum();
        prop_assert_eq!(tally.fetched, received);
        let sizes = &stand.new.0.blobs;
        let all = sizes.root.size + sizes.verity.size + sizes.uki.size;
        prop_assert_eq!(tally.kept + tally.written, all);
        if rotten.is_none() {
            prop_assert_eq!(work.plan.fetch(), received, "{:#?} {:?}", work.plan, sent);
            prop_assert_eq!(&preview, &work.plan);
        }
        // A second time nothing but the kernel image comes.
        let again = stand.stage();
        prop_assert!(again.result.is_ok());
        prop_assert_eq!(again.sent(Which::Root) + again.sent(Which::Verity), 0);
        prop_assert_eq!(again.method(PlanPart::Root), Method::Local);
    }
}

#[test]
fn of_a_release_only_what_the_booted_slot_does_not_hold_is_fetched() {
    let stand = Stand::usual();
    let told = stand.stage();
    told.result.as_ref().unwrap();
    assert!(stand.is_whole());
    assert_eq!(told.sent(Which::Root), 180 * BLOCK as u64);
    let Tally { copied, zero, .. } = told.tally;
    assert_eq!((copied, zero), (100 * BLOCK as u64, 20 * BLOCK as u64));
    assert_eq!(told.method(PlanPart::Root), Method::Ranges);
}

#[test]
fn the_tree_is_fetched_by_parts_where_parts_are_known() {
    // The second and third leaf hash block are the old ones, one place further.
    let old = (0..384).flat_map(|number| block(1, number)).collect();
    let fresh = (0..256).flat_map(|number| block(2, number));
    let copied = (0..256).flat_map(|number| block(1, number));
    let stand = Stand::new(old, fresh.chain(copied).collect());
    let told = stand.stage();
    told.result.as_ref().unwrap();
    assert!(stand.is_whole());
    // Superblock, the one upper block, and two leaf hash blocks of four.
    assert_eq!(told.sent(Which::Verity), 4 * BLOCK as u64);
}

#[test]
fn a_block_of_the_booted_slot_that_has_rotten_is_fetched() {
    let stand = Stand::usual();
    for block in [150, 200, 249] {
        stand.node.alter(Slot::A, Part::Root, |booted| {
            booted[block * BLOCK + 100] ^= 4;
        });
    }
    let told = stand.stage();
    told.result.as_ref().unwrap();
    assert!(stand.is_whole());
    assert_eq!(told.tally.copied, 97 * BLOCK as u64);
    assert_eq!(told.sent(Which::Root), 183 * BLOCK as u64);
}

#[test]
fn a_booted_tree_that_has_rotten_costs_bytes_and_nothing_else() {
    for place in [0, 4096, 12_288 + 5] {
        let stand = Stand::usual();
        stand
            .node
            .alter(Slot::A, Part::Verity, |tree| tree[place] ^= 4);
        let told = stand.stage();
        told.result.as_ref().unwrap();
        assert!(stand.is_whole(), "byte {place}");
        assert!(told.sent(Which::Root) > 180 * BLOCK as u64, "byte {place}");
    }
}

#[test]
fn wherever_the_power_fails_nothing_right_is_fetched_twice() {
    let stand = Stand::usual();
    let whole = stand.node.twin();
    whole.expect(Trouble::None);
    let reference = Stand {
        node: whole,
        ..Stand::usual()
    };
    reference.stage().result.unwrap();
    let operations = reference.node.operations();
    assert!(operations > 20, "only {operations} operations");
    let mut came = 0;
    for cut in 0..operations {
        for trouble in [Trouble::Cut(cut), Trouble::CutAndReordered(cut)] {
            let stand = Stand {
                node: stand.node.twin(),
                ..Stand::usual()
            };
            stand.node.expect(trouble);
            drop(stand.stage().result);
            stand.node.power_cycle(&[&stand.old.1]);
            let missing = stand.missing();
            came = came.max(stand.new.0.blobs.root.size - missing);
            let told = stand.stage();
            told.result.as_ref().unwrap();
            assert!(stand.is_whole(), "{trouble:?}");
            assert_eq!(told.sent(Which::Root), missing, "{trouble:?}");
        }
    }
    // There were cuts after which nothing was missing.
    assert_eq!(came, stand.new.0.blobs.root.size);
}

#[test]
fn a_connection_that_breaks_again_and_again_brings_every_byte_once() {
    let stand = Stand::new(block(1, 0), (0..300).flat_map(|it| block(2, it)).collect());
    let mut sent = 0;
    for end in (0..1_228_800).step_by(100_000) {
        stand.repository.lie(Lie::Truncate(Which::Root, end));
        let told = stand.stage();
        assert!(told.result.is_err());
        sent += told.sent(Which::Root);
    }
    stand.repository.lie(Lie::None);
    let told = stand.stage();
    told.result.as_ref().unwrap();
    assert!(stand.is_whole());
    assert_eq!(sent + told.sent(Which::Root), stand.new.0.blobs.root.size);
}

#[test]
fn compressed_frames_are_taken_where_they_are_cheaper() {
    let mut stand = Stand::usual();
    publish_whole(&stand.repository, &mut stand.new, 32);
    publish_patches(&stand.repository, &mut stand.new, &stand.old, 32);
    let told = stand.stage();
    told.result.as_ref().unwrap();
    assert!(stand.is_whole());
    // Blocks of repeated bytes compress as well without a base.
    let chosen = told.method(PlanPart::Root);
    assert!(
        [Method::Packed, Method::Patch].contains(&chosen),
        "{chosen:?}"
    );
    assert_eq!(told.sent(Which::Root), 0);
    // One against a release that is not booted is none.
    stand.new.0.patches[0].from = stand.new.0.root_hash;
    let stand = Stand {
        node: FakeNode::running(&stand.old.1),
        ..stand
    };
    assert_eq!(
        stand.stage().why_not(Method::Patch),
        Some(WhyNot::NotPublished)
    );
}

#[test]
fn a_pack_that_lies_is_left_for_another_way() {
    let mut stand = Stand::usual();
    publish_whole(&stand.repository, &mut stand.new, 64);
    let size = usize::try_from(stand.new.0.blobs.packed.unwrap().blob.size).unwrap();
    // Its magic, the length of its index, the index, a frame.
    for place in [0, 12, 17, size - 3] {
        let stand = Stand {
            node: stand.node.twin(),
            old: stand.old.clone(),
            new: stand.new.clone(),
            repository: stand.repository.clone(),
        };
        stand.repository.lie(Lie::Flip(Which::Packed, place));
        let told = stand.stage();
        told.result.as_ref().unwrap();
        assert!(stand.is_whole(), "byte {place}");
        let why = told.why_not(Method::Packed);
        assert!(matches!(why, Some(WhyNot::Unusable(_))), "{place}: {why:?}");
        assert!(told.sent(Which::Root) > 0);
    }
}

#[test]
fn a_mirror_that_lies_costs_no_update() {
    for (which, place) in [
        (Which::Verity, 20),
        (Which::Verity, 5000),
        (Which::Verity, 9000),
        (Which::Root, 700_000),
        (Which::Uki, 10),
        (Which::Packed, 5),
    ] {
        let mut stand = Stand::usual();
        if which == Which::Packed {
            publish_whole(&stand.repository, &mut stand.new, 64);
        }
        stand.repository.lie(Lie::FlipOnce(which, place));
        let told = stand.stage();
        told.result.as_ref().unwrap();
        assert!(stand.is_whole(), "{which:?} {place}");
    }
}

#[test]
fn a_patch_of_what_has_rotten_is_made_up_for() {
    let old: Vec<u8> = (0..300).flat_map(|number| block(1, number)).collect();
    // Each block is an old one but for its first bytes: nothing without the base.
    let mut new = old.clone();
    for block in new.chunks_mut(BLOCK) {
        block[0] ^= 0xff;
    }
    let mut stand = Stand::new(old, new);
    publish_patches(&stand.repository, &mut stand.new, &stand.old, 32);
    let sound = Stand {
        node: stand.node.twin(),
        old: stand.old.clone(),
        new: stand.new.clone(),
        repository: stand.repository.clone(),
    };
    let told = sound.stage();
    told.result.as_ref().unwrap();
    assert_eq!(told.method(PlanPart::Root), Method::Patch);
    assert_eq!(told.sent(Which::Root), 0);
    stand
        .node
        .alter(Slot::A, Part::Root, |booted| booted.fill(0x77));
    let told = stand.stage();
    told.result.as_ref().unwrap();
    assert!(stand.is_whole());
    assert!(told.sent(Which::Root) > 0);
}

#[test]
fn a_kernel_image_that_is_booted_is_not_fetched_and_a_bad_patch_of_one_is() {
    // The same kernel image in both releases.
    let mut stand = Stand::usual();
    stand.new.1.uki = stand.old.1.uki.clone();
    stand.new.0.blobs.uki = stand.old.0.blobs.uki;
    let told = stand.stage();
    told.result.as_ref().unwrap();
    assert_eq!(told.method(PlanPart::Uki), Method::Local);
    assert_eq!(told.sent(Which::Uki), 0);

    // A patch whose frame says something else than the digest of the whole.
    let mut stand = Stand::usual();
    let mut large = stand.new.1.uki.repeat(20);
    stand.new.0.blobs.uki = stand.repository.add(Which::Uki, large.clone());
    large[70] ^= 1;
    let blocks: Vec<usize> = (0..large.len().div_ceil(BLOCK)).collect();
    let (pack, bytes) = pack(&large, &blocks, &stand.old.1.uki, 8);
    stand.repository.add(Which::UkiPatch, bytes);
    let from = stand.old.0.blobs.uki.sha256;
    stand
        .new
        .0
        .uki_patches
        .push(release::UkiPatch { from, pack });
    let told = stand.stage();
    told.result.as_ref().unwrap();
    assert_eq!(told.method(PlanPart::Uki), Method::Patch);
    assert!(told.sent(Which::UkiPatch) > 0);
    assert_eq!(told.sent(Which::Uki), stand.new.0.blobs.uki.size);
}

#[test]
fn a_preview_writes_nothing() {
    let stand = Stand::usual();
    let before = (
        stand.node.slot_bytes(Slot::A),
        stand.node.slot_bytes(Slot::B),
    );
    stand.node.expect(Trouble::None);
    let plan = stand.preview();
    assert_eq!(
        plan.chosen(PlanPart::Root).unwrap().fetch,
        180 * BLOCK as u64
    );
    let kinds = stand.node.operation_kinds();
    let reads = [
        "view",
        "entries",
        "read-medium",
        "read-entry",
        "replay-pieces",
    ];
    assert!(kinds.iter().all(|kind| reads.contains(kind)), "{kinds:?}");
    assert_eq!(
        (
            stand.node.slot_bytes(Slot::A),
            stand.node.slot_bytes(Slot::B)
        ),
        before
    );
}

#[tokio::test]
async fn a_job_shows_the_ways_of_its_parts() {
    let (one, two) = (image("1", 1, 300), image("2", 2, 300));
    let node = FakeNode::running(&one.1);
    let repository = FakeRepository::with(&[&one, &two]);
    let daemon = Daemon::start(&node, &repository).await;
    let mut job = daemon.begin(stage("2")).await.unwrap();
    super::gate::outcome(&mut job).await;
    let plan = job.work.borrow().plan.clone();
    for part in [PlanPart::Tree, PlanPart::Root, PlanPart::Uki] {
        assert!(plan.chosen(part).is_some(), "{part:?}");
    }
    assert_eq!(plan.fetch(), two.0.blob_bytes());
    daemon.stop().await;
}
