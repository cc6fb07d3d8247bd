//! The releases that the demo and the stories use, built once and shared.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

use crate::archive::Archive;
use crate::checkout::Checkout;
use crate::programs::Programs;
use crate::runner::Runner;
use crate::{emulator, host, programs};

/// A release that is built from the product's declaration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recipe {
    /// The folder below `build/images`.
    name: &'static str,
    version: &'static str,
    /// What makes it sick, if anything: an overlay in `image/declarations/`.
    overlay: Option<&'static str>,
    archive: Archive,
    also: Also,
}

impl Recipe {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }
}

/// Debian 13 as it first came, below the version of [`UPDATED`].
pub(crate) const WITHOUT_UPDATES: Recipe = Recipe {
    name: "without-updates",
    version: "1.0",
    overlay: None,
    archive: Archive::WithoutUpdates,
    also: &[],
};

/// The product's release with all updates that there are.
pub(crate) const UPDATED: Recipe = Recipe {
    name: "2",
    version: "2.0",
    overlay: None,
    archive: Archive::Whole,
    also: &[],
};

/// What the demo shows.
pub(crate) const DEMO: [Recipe; 3] = [
    Recipe {
        name: "1",
        version: "1.0",
        overlay: None,
        archive: Archive::Whole,
        also: DISKS,
    },
    UPDATED,
    Recipe {
        name: "sick-unit",
        version: "4.0",
        overlay: Some("sick-unit.toml"),
        archive: Archive::Whole,
        also: &[],
    },
];

/// What the stories need beside [`DEMO`].
pub(crate) const STORIES: [Recipe; 3] = [
    Recipe {
        name: "3",
        version: "3.0",
        overlay: None,
        archive: Archive::Whole,
        also: &[],
    },
    Recipe {
        name: "panic",
        version: "5.0",
        overlay: Some("panic.toml"),
        archive: Archive::Whole,
        also: &[],
    },
    Recipe {
        name: "hang",
        version: "6.0",
        overlay: Some("hang.toml"),
        archive: Archive::Whole,
        also: &[],
    },
];

/// The first release, its root file system encoded in other ways: for the bench of boots.
pub(crate) const ENCODINGS: [Recipe; 4] = [
    DEMO[0],
    encoded("erofs-small-clusters", "erofs-small-clusters.toml"),
    encoded("erofs-zstd", "erofs-zstd.toml"),
    encoded("erofs-none", "erofs-none.toml"),
];

const fn encoded(name: &'static str, overlay: &'static str) -> Recipe {
    Recipe {
        name,
        version: "1.0",
        overlay: Some(overlay),
        archive: Archive::Whole,
        also: A_DISK,
    }
}

/// What the builder is asked for beside the image itself.
type Also = &'static [&'static str];

/// For a release that a node starts its life with.
const A_DISK: Also = &["--disk"];

/// The same, on disks of each kind.
const DISKS: Also = &["--disk", "--sector-size", "512", "--sector-size", "4096"];

/// How many images are made at a time: composing is for one alone (the builder sees to
/// that), what follows fills a core each.
const BUILDERS: usize = 2;

/// Makes keys and images that are missing or made of something else than what is
/// here now.
pub(crate) fn prepare(
    checkout: &Checkout,
    runner: &Runner,
    programs: &Programs,
    recipes: &[Recipe],
) -> Result<()> {
    let Programs {
        node,
        image_tool: tool,
    } = programs;
    make_keys(checkout, runner, programs)?;
    let inputs = digest(&[
        node,
        tool,
        &checkout.keys().join("root.json"),
        &checkout.root().join("image/declarations"),
        &checkout.root().join("systemd-units"),
    ])?;
    let waiting = Mutex::new(recipes.iter());
    let next = || {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.next()
    };
    let build_in_turn = || -> Result<()> {
        while let Some(recipe) = next() {
            build(checkout, runner, programs, recipe, inputs)
                .with_context(|| format!("cannot build release {}", recipe.version))?;
        }
        Ok(())
    };
    let made = thread::scope(|scope| {
        let builders: Vec<_> = (0..BUILDERS).map(|_| scope.spawn(build_in_turn)).collect();
        builders
            .into_iter()
            .map(|builder| builder.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    // What builders that were ended by force have left; there is none otherwise.
    drop(fs::remove_dir_all(checkout.scratch()));
    made.into_iter().collect()
}

/// Makes signing keys and a root of trust, unless they are there.
pub(crate) fn make_keys(checkout: &Checkout, runner: &Runner, programs: &Programs) -> Result<()> {
    if checkout.keys().join("root.json").exists() {
        return Ok(());
    }
    let mut keys = Command::new(&programs.image_tool);
    runner.run(keys.arg("keys").arg(checkout.keys()))
}

fn build(
    checkout: &Checkout,
    runner: &Runner,
    programs: &Programs,
    recipe: &Recipe,
    inputs: u64,
) -> Result<()> {
    let out = checkout.image(recipe.name);
    let stamp = out.join("inputs");
    let wanted = format!("{inputs:016x}\n");
    if fs::read_to_string(&stamp).is_ok_and(|made_of| made_of == wanted) {
        return Ok(());
    }
    // Gone before the image is: one that was not finished must not pass for what it was.
    if let Err(error) = fs::remove_file(&stamp)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot remove {}", stamp.display()));
    }
    let declaration = recipe.archive.declaration(checkout)?;
    let mut build = Command::new(&programs.image_tool);
    build.arg("build").arg("--declaration").arg(&declaration);
    if let Some(overlay) = recipe.overlay {
        build
            .arg("--overlay")
            .arg(checkout.declaration().with_file_name(overlay));
    }
    build
        .args(["--version", recipe.version])
        .arg("--root-of-trust")
        .arg(checkout.keys().join("root.json"))
        .arg("--programs")
        .arg(&programs.node)
        .arg("--build-dir")
        .arg(checkout.build())
        .arg("--out")
        .arg(&out)
        .args(recipe.also);
    runner.run(&mut build)?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Makes every release that the demo and the stories use.
pub(crate) fn build_all(checkout: &Checkout, runner: &Runner) -> Result<()> {
    host::set_up(runner)?;
    let programs = programs::build(checkout, runner)?;
    prepare(checkout, runner, &programs, &[DEMO, STORIES].concat())
}

/// Runs the image builder with the user's own arguments.
pub(crate) fn image_tool(checkout: &Checkout, runner: &Runner, arguments: &[String]) -> Result<()> {
    host::set_up(runner)?;
    let tool = programs::build(checkout, runner)?.image_tool;
    runner.run(Command::new(tool).args(arguments))
}

/// Plays the main job in this terminal.
pub(crate) fn demo(checkout: &Checkout, runner: &Runner) -> Result<()> {
    host::set_up(runner)?;
    let programs = programs::build(checkout, runner)?;
    prepare(checkout, runner, &programs, &DEMO)?;
    let emulator = emulator::unpack(checkout, runner, &programs)?;
    runner.run(programs::cargo(checkout).args([
        "build",
        "--release",
        "--workspace",
        "--bin",
        "demo",
    ]))?;
    runner.run(
        Command::new(checkout.target().join("release/demo"))
            .env("BISTABLE_BUILD_DIR", checkout.build())
            .env(emulator::VARIABLE, emulator)
            .env("BISTABLE_IMAGE_BIN", programs.image_tool),
    )
}

/// Returns a digest of files and folders: enough to tell that something changed, not
/// to trust anything by.
fn digest(paths: &[&Path]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        feed(path, &mut hasher).with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(hasher.finish())
}

fn feed(path: &Path, hasher: &mut DefaultHasher) -> io::Result<()> {
    path.hash(hasher);
    if !path.is_dir() {
        fs::read(path)?.hash(hasher);
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    entries.sort();
    entries.iter().try_for_each(|entry| feed(entry, hasher))
}
