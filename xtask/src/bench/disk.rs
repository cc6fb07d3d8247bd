//! The disk that all programs write to: a node's table in a file of a real file
//! system, behind a loop device that goes past the page cache.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use partition_layout::{Architecture, DiskPlan, Form, RootHash, Sizes, Version, create};
use rustix::fs::{FallocateFlags, fallocate};

use super::material::Release;
use crate::runner::Runner;

const MIB: u64 = 1 << 20;
/// The signature partitions are empty as yet: the peers' kernels go there.
const KERNEL: u64 = 32 * MIB;

/// The partitions, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    RootA = 2,
    VerityA = 3,
    KernelA = 4,
    RootB = 5,
    VerityB = 6,
    KernelB = 7,
}

/// A disk whose slot A holds a release, and whose slot B is to get one.
#[derive(Debug)]
pub(crate) struct Disk<'a> {
    runner: &'a Runner,
    device: PathBuf,
    /// Bytes of a root partition.
    root: u64,
    verity: u64,
}

impl<'a> Disk<'a> {
    /// Makes a disk at `file` with `booted` in slot A and room for `next` in slot B.
    pub(crate) fn make(
        runner: &'a Runner,
        file: &Path,
        booted: &Release,
        next: &Release,
    ) -> Result<Self> {
        let room = |path: fn(&Release) -> PathBuf| -> Result<u64> {
            let sizes = [size(&path(booted))?, size(&path(next))?];
            Ok(sizes.into_iter().max().unwrap_or(0).next_multiple_of(MIB) + 4 * MIB)
        };
        let (root, verity) = (room(Release::root)?, room(Release::verity)?);
        let mut plan = DiskPlan::new(Architecture::of_build(), Form::Full);
        plan.sizes = Sizes {
            esp: 64 * MIB,
            root,
            verity,
            verity_sig: KERNEL,
        };
        let version = Version::parse(&booted.version).context("a release has a version")?;
        let root_hash = RootHash::parse(&booted.root_hash).context("a release has a root hash")?;
        plan.slot_a = Some((version, root_hash));
        lay_out(file, &plan)
            .with_context(|| format!("cannot make a disk of {}", file.display()))?;

        let mut attach = host_tools::command("losetup")?;
        attach
            .args(["--find", "--show", "--direct-io=on"])
            .arg(file);
        let device = runner.output(&mut attach).with_context(|| {
            format!(
                "cannot attach {}: this bench needs root, loop devices, and a file system that can be written \
                 to past the page cache",
                file.display()
            )
        })?;
        let disk = Self {
            runner,
            device: device.trim().into(),
            root,
            verity,
        };
        // The kernel of this machine may not read such tables by itself.
        let mut add = host_tools::command("partx")?;
        runner.run(add.arg("--update").arg(&disk.device))?;
        for (part, content) in [
            (Part::RootA, booted.root()),
            (Part::VerityA, booted.verity()),
            (Part::KernelA, booted.uki()),
        ] {
            disk.copy(&content, &disk.path(part), size(&content)?)?;
        }
        Ok(disk)
    }

    pub(crate) fn device(&self) -> &Path {
        &self.device
    }

    pub(crate) fn path(&self, part: Part) -> PathBuf {
        let mut path = self.device.clone().into_os_string();
        path.push(format!("p{}", part as u8));
        path.into()
    }

    /// Overwrites slot B with zeros, and forgets what the page cache holds of both.
    pub(crate) fn reset(&self) -> Result<()> {
        let zero = Path::new("/dev/zero");
        for (part, size) in [
            (Part::RootB, self.root),
            (Part::VerityB, self.verity),
            (Part::KernelB, KERNEL),
        ] {
            self.copy(zero, &self.path(part), size)?;
        }
        for part in [Part::RootA, Part::KernelA, Part::RootB, Part::KernelB] {
            let mut flush = host_tools::command("blockdev")?;
            self.runner
                .run(flush.arg("--flushbufs").arg(self.path(part)))?;
        }
        Ok(())
    }

    /// On return everything that was written to `parts` has reached the disk.
    pub(crate) fn sync(&self, parts: &[Part]) -> Result<()> {
        for part in parts {
            let path = self.path(*part);
            File::open(&path)
                .and_then(|device| device.sync_all())
                .with_context(|| format!("cannot sync {}", path.display()))?;
        }
        Ok(())
    }

    /// Holds what `part` begins with against a file.
    pub(crate) fn expect(&self, part: Part, file: &Path) -> Result<()> {
        let mut compare = host_tools::command("cmp")?;
        compare.arg(format!("--bytes={}", size(file)?));
        self.runner
            .output(compare.arg(self.path(part)).arg(file))
            .map(drop)
    }

    fn copy(&self, from: &Path, to: &Path, size: u64) -> Result<()> {
        let mut copy = host_tools::command("dd")?;
        let name = |what: &str, path: &Path| format!("{what}={}", path.display());
        copy.args([name("if", from), name("of", to), format!("count={size}")]);
        copy.args(["bs=4M", "iflag=count_bytes,fullblock"]);
        copy.args(["conv=fsync,notrunc", "status=none"]);
        self.runner.run(&mut copy)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // Not through the runner, which starts nothing once we are to stop.
        for (program, option) in [("partx", "--delete"), ("losetup", "--detach")] {
            // Nothing more can be done about a device that stays.
            if let Ok(mut command) = host_tools::command(program) {
                drop(command.arg(option).arg(&self.device).status());
            }
        }
    }
}

fn lay_out(path: &Path, plan: &DiskPlan) -> Result<()> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    // Space that the file system gives out while it is measured would be measured too.
    fallocate(
        &file,
        FallocateFlags::empty(),
        0,
        plan.smallest_disk() + MIB,
    )?;
    create(&mut file, plan)?;
    file.sync_all()?;
    Ok(())
}

pub(crate) fn size(path: &Path) -> Result<u64> {
    let metadata = path
        .metadata()
        .with_context(|| format!("cannot find {}", path.display()))?;
    Ok(metadata.len())
}
