//! The search: libFuzzer, with the target that the environment names.
//!
//! `cargo xtask fuzz` starts it; its arguments are libFuzzer's own.
#![no_main]

use std::env;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use fuzz::Target;
use libfuzzer_sys::fuzz_target;

/// Names the target.
const TARGET: &str = "BISTABLE_FUZZ_TARGET";
/// A folder that the seeds are put into.
const SEEDS: &str = "BISTABLE_FUZZ_SEEDS";

static CHOSEN: OnceLock<&Target> = OnceLock::new();

fn begin() {
    let name = env::var(TARGET).expect("BISTABLE_FUZZ_TARGET names a target");
    let target = Target::named(&name).expect("there is a target of this name");
    if let Some(folder) = env::var_os(SEEDS) {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            let file = Path::new(&folder).join(format!("seed-{number}"));
            fs::write(file, seed).expect("the folder of seeds can be written");
        }
    }
    CHOSEN.get_or_init(|| target);
}

fuzz_target!(init: begin(), |input: &[u8]| {
    if let Some(target) = CHOSEN.get() {
        (target.read)(input);
    }
});
