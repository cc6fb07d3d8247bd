//! Every input that was ever worth keeping, and small changes of each.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fuzz::{Outcome, TARGETS, Target};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// For each target.
const CHANGED: usize = 500;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// Returns the inputs that are kept for a target, each with where it comes from.
fn inputs(target: &Target) -> Vec<(String, Vec<u8>)> {
    let seeds = (target.seeds)().into_iter().enumerate();
    let seeds = seeds.map(|(number, seed)| (format!("seed {number}"), seed));
    let folder = corpora().join(target.name);
    let listed = fs::read_dir(&folder).expect("each target has a folder in corpus/");
    let kept = listed.map(|entry| {
        let path = entry.expect("the folder can be listed").path();
        let input = fs::read(&path).expect("the input can be read");
        (path.display().to_string(), input)
    });
    seeds.chain(kept).collect()
}

/// Reads an input, and says which one if a promise is broken.
fn read(target: &Target, name: &str, input: &[u8]) -> Outcome {
    let read = std::panic::catch_unwind(|| (target.read)(input));
    read.map_err(|_| format!("{}: {name} breaks a promise: {input:?}", target.name))
        .expect("every promise is kept")
}

#[test]
fn every_kept_input_keeps_the_promises_of_its_reader() {
    for target in TARGETS {
        let mut accepted = 0;
        for (name, input) in inputs(&target) {
            let outcome = read(&target, &name, &input);
            let is_seed = name.starts_with("seed");
            assert!(
                outcome == Outcome::Accepted || !is_seed,
                "{}: {name} is what its own builder makes, and is refused",
                target.name
            );
            accepted += usize::from(outcome == Outcome::Accepted);
        }
        assert!(accepted > 0, "{}: nothing gets through", target.name);
    }
}

#[test]
fn inputs_that_are_changed_a_little_keep_them_too() {
    for target in TARGETS {
        let inputs = inputs(&target);
        let change = (
            any::<prop::sample::Index>(),
            prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            any::<Option<prop::sample::Index>>(),
        );
        let config = Config {
            cases: u32::try_from(CHANGED).expect("a small number"),
            failure_persistence: None,
            ..Config::default()
        };
        // The same changes each time: what a search finds is kept as a file.
        let seed = [7; 32];
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(config, random);
        let outcome = runner.run(&change, |(which, bytes, cut)| {
            let (name, mut input) = which.get(&inputs).clone();
            for (at, byte) in bytes {
                if !input.is_empty() {
                    let at = at.index(input.len());
                    input[at] = byte;
                }
            }
            if let Some(cut) = cut {
                input.truncate(cut.index(input.len() + 1));
            }
            read(&target, &format!("a changed {name}"), &input);
            Ok(())
        });
        outcome.unwrap_or_else(|failure| panic!("{}: {failure}", target.name));
    }
}

#[test]
fn corpora_are_those_of_targets_and_small() {
    let folders = fs::read_dir(corpora()).expect("the corpora are there");
    let folders = folders.map(|entry| {
        let name = entry.expect("it can be listed").file_name();
        name.into_string().expect("a name in ASCII")
    });
    let names = TARGETS.map(|target| target.name.to_owned());
    assert_eq!(
        folders.collect::<BTreeSet<_>>(),
        names.into_iter().collect::<BTreeSet<_>>()
    );
    for target in TARGETS {
        let bytes: usize = inputs(&target).iter().map(|(_, input)| input.len()).sum();
        assert!(bytes < 1 << 20, "{}: {bytes} bytes are kept", target.name);
    }
}
