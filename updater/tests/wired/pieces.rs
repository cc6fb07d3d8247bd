//! A kernel image that was half fetched when the power failed.

use release::Release;
use sha2::{Digest as _, Sha256};
use updater::machine::Outcome;
use updater::plan::PlanPart;

use super::fake::{FakeNode, Image, Trouble};
use super::gate::{Daemon, outcome, stage};
use super::network::{FakeRepository, Lie, Which, image, version};
use super::packs::publish_patches;

/// The largest piece that the repository sends.
const PIECE: u64 = 70_001;

struct Stand {
    one: (Release, Image),
    two: (Release, Image),
    node: FakeNode,
    repository: FakeRepository,
    size: u64,
}

/// Bytes that nothing makes smaller.
fn noise(seed: u8, len: usize) -> Vec<u8> {
    let each =
        (0..len.div_ceil(32)).map(|at| Sha256::digest([&[seed], &at.to_le_bytes()[..]].concat()));
    let mut bytes: Vec<u8> = each.flatten().collect();
    bytes.truncate(len);
    bytes
}

impl Stand {
    /// The kernel image of release 2 comes whole, or as a patch of that of release 1.
    fn new(which: Which) -> Self {
        let (mut one, mut two) = (image("1", 1, 20), image("2", 2, 20));
        let repository = FakeRepository::with(&[&one, &two]);
        let shared = noise(1, 100_000);
        for (of, seed) in [(&mut one, 2), (&mut two, 3)] {
            of.1.uki = [shared.clone(), noise(seed, 200_000)].concat();
            of.0.blobs.uki = repository.add(Which::Uki, of.1.uki.clone());
        }
        let mut size = two.0.blobs.uki.size;
        if which == Which::UkiPatch {
            publish_patches(&repository, &mut two, &one, 8);
            size = two.0.uki_patches[0].pack.blob.size;
        }
        repository.replace(two.0.clone());
        Self {
            node: FakeNode::running(&one.1),
            one,
            two,
            repository,
            size,
        }
    }

    fn images(&self) -> [&Image; 2] {
        [&self.one.1, &self.two.1]
    }

    /// How much of the kernel image was sent since the last time that it was asked.
    fn sent(&self) -> u64 {
        let sent = self.repository.take_sent().into_iter();
        let kernel = sent.filter(|(which, _)| [Which::Uki, Which::UkiPatch].contains(which));
        kernel.map(|(_, range)| range.end - range.start).sum()
    }

    async fn stage(&self, node: &FakeNode) -> Outcome {
        self.stage_with(node, Trouble::None).await
    }

    async fn stage_with(&self, node: &FakeNode, trouble: Trouble) -> Outcome {
        let daemon = Daemon::start(node, &self.repository).await;
        node.expect(trouble);
        let outcome = daemon.stage("2").await;
        daemon.stop().await;
        outcome
    }

    /// Stages, and has the power fail once two pieces of the kernel image are kept. Tells how
    /// much of it came.
    async fn stage_half(&self) -> u64 {
        let trace = self.node.twin();
        assert_eq!(self.stage(&trace).await, Outcome::Done);
        let kinds = trace.operation_kinds().into_iter().enumerate();
        let mut kept = kinds.filter(|(_, kind)| *kind == "keep-piece");
        let (second, _) = kept.nth(1).unwrap();
        self.sent();
        self.stage_with(&self.node, Trouble::Cut(second + 1)).await;
        assert_eq!(self.node.power_cycle(&self.images()).1, version("1"));
        self.sent()
    }

    fn holds_two(&self, node: &FakeNode) -> bool {
        node.armed_but_broken(&self.images()).is_none()
            && node.power_cycle(&self.images()).1 == version("2")
    }
}

#[tokio::test]
async fn wherever_the_power_fails_no_piece_of_a_kernel_image_comes_twice_but_the_one_at_hand() {
    for which in [Which::Uki, Which::UkiPatch] {
        let stand = Stand::new(which);
        let whole = stand.node.twin();
        assert_eq!(stand.stage(&whole).await, Outcome::Done);
        let (operations, once) = (whole.operations(), stand.sent());
        assert!(once >= stand.size / 2, "it did not come as {which:?}");
        let kinds = whole.operation_kinds();
        assert!(kinds.iter().filter(|kind| **kind == "keep-piece").count() > 2);
        assert_eq!(whole.kept_bytes(), 0, "they are kept until it is armed");
        let mut resumed = 0;
        for cut in 0..operations {
            let node = stand.node.twin();
            stand.stage_with(&node, Trouble::Cut(cut)).await;
            // Without power nothing is kept or unpacked any more, but this network sends on.
            let kept = node.kept_bytes();
            let before = stand.sent().min(kept + PIECE);
            if node.power_cycle(&stand.images()).1 == version("2") {
                continue;
            }
            assert_eq!(stand.stage(&node).await, Outcome::Done, "cut after {cut}");
            let after = stand.sent();
            // The index of a patch is read to choose the way.
            assert!(
                before + after <= once + PIECE + 8192,
                "{which:?}, cut after {cut} ({:?}): {before}, then {after} of {once}",
                kinds.get(cut)
            );
            resumed += usize::from(kept >= 2 * PIECE - 8192);
            assert!(stand.holds_two(&node), "cut after {cut}");
        }
        assert!(resumed > 5, "{resumed} cuts in the middle");
    }
}

#[tokio::test]
async fn what_came_of_a_kernel_image_is_used_by_the_next_stage() {
    let stand = Stand::new(Which::Uki);
    let first = stand.stage_half().await;
    assert_eq!(first, 2 * PIECE);
    let daemon = Daemon::start(&stand.node, &stand.repository).await;
    let mut job = daemon.begin(stage("2")).await.unwrap();
    assert_eq!(outcome(&mut job).await, Outcome::Done);
    // The plan knew.
    let work = job.work.borrow().clone();
    let way = work.plan.chosen(PlanPart::Uki).unwrap();
    assert_eq!((way.there, way.fetch), (first, stand.size - first));
    assert_eq!(stand.sent(), stand.size - first);
    let line = daemon.handle.view().node.history.last().cloned().unwrap();
    assert!(line.cost.kept >= first, "{:?}", line.cost);
    daemon.stop().await;
    assert!(stand.holds_two(&stand.node));
}

#[tokio::test]
async fn pieces_that_are_wrong_cost_bytes_and_nothing_else() {
    let spoils: [fn(&mut u64, &mut Vec<u8>); 4] = [
        |_, bytes| bytes[5] ^= 1,
        |offset, _| *offset += 4096,
        |_, bytes| bytes.truncate(7),
        |offset, bytes| (*offset, *bytes) = (u64::MAX - 3, vec![0; 9000]),
    ];
    for which in [Which::Uki, Which::UkiPatch] {
        for spoil in spoils {
            let stand = Stand::new(which);
            stand.stage_half().await;
            stand.node.spoil_pieces(spoil);
            assert_eq!(stand.stage(&stand.node).await, Outcome::Done, "{which:?}");
            assert!(stand.holds_two(&stand.node), "{which:?}");
        }
    }
}

#[tokio::test]
async fn a_mirror_that_lies_about_the_rest_of_a_kernel_image_costs_no_update() {
    let stand = Stand::new(Which::Uki);
    stand.stage_half().await;
    stand.repository.lie(Lie::FlipOnce(Which::Uki, 250_000));
    // It is believed no more than what was kept: all of it comes anew, and from an honest one in the end.
    assert_eq!(stand.stage(&stand.node).await, Outcome::Done);
    assert!(stand.holds_two(&stand.node));
}

#[tokio::test]
async fn a_var_that_keeps_no_pieces_stops_no_stage() {
    for kinds in [["keep-piece"], ["replay-pieces"], ["forget-pieces"]] {
        let stand = Stand::new(Which::Uki);
        stand.stage_half().await;
        stand.node.refuse(&kinds);
        assert_eq!(stand.stage(&stand.node).await, Outcome::Done, "{kinds:?}");
        assert!(stand.holds_two(&stand.node), "{kinds:?}");
    }
}
