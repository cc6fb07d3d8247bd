//! RAUC: a signed bundle, installed by its service into raw slots.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::super::disk::Part;
use super::super::measure::{seconds, wait_until};
use super::super::server::Server;
use super::super::stand::{Stand, end, log_to};
use super::{Program, Signer, link, package_version};

#[derive(Debug)]
pub(crate) struct Rauc;

const PARTS: [Part; 2] = [Part::RootB, Part::KernelB];
const ADDRESS: &str = "DBUS_SYSTEM_BUS_ADDRESS";

impl Program for Rauc {
    fn name(&self) -> &'static str {
        "rauc"
    }

    fn notes(&self) -> &'static str {
        "rauc install through its service, raw slots, `plain` bundle (squashfs, zstd): fetches the whole bundle to a file, \
         then checks, mounts and copies it; no read-back. Its `verity` bundles, and with them streaming and the adaptive \
         block-hash-index, need dm-verity and nbd in the kernel"
    }

    fn version(&self, stand: &Stand<'_>) -> Result<String> {
        package_version(stand, "rauc")
    }

    fn publish(&self, stand: &Stand<'_>) -> Result<()> {
        let folder = stand.folder(self.name())?;
        let signer = Signer::make(stand, &folder)?;
        let content = folder.join("content");
        fs::create_dir_all(&content)
            .with_context(|| format!("cannot make {}", content.display()))?;
        link(&stand.next.root(), &content.join("root.img"))?;
        link(&stand.next.uki(), &content.join("kernel.img"))?;
        let manifest = format!(
            "[update]\ncompatible=bench\nversion={}\n[bundle]\nformat=plain\n\
             [image.rootfs]\nfilename=root.img\n[image.kernel]\nfilename=kernel.img\n",
            stand.next.version
        );
        write(&content.join("manifest.raucm"), &manifest)?;
        let mut bundle = host_tools::command("rauc")?;
        bundle.arg("bundle").arg("--cert").arg(&signer.certificate);
        bundle.arg("--key").arg(&signer.key);
        bundle.arg("--mksquashfs-args=-comp zstd");
        bundle
            .arg(&content)
            .arg(stand.site(self.name())?.join("bundle.raucb"));
        stand.runner.output(&mut bundle).map(drop)
    }

    fn prepare(&self, stand: &Stand<'_>) -> Result<()> {
        let folder = stand.folder(self.name())?;
        let mounts = folder.join("mounts");
        fs::create_dir_all(&mounts).with_context(|| format!("cannot make {}", mounts.display()))?;
        write(&folder.join("system.conf"), &settings(stand, &folder))?;
        // The slots' states, which it would believe.
        write(&folder.join("status"), "")
    }

    fn install(&self, stand: &Stand<'_>, server: &Server<'_>) -> Result<f64> {
        let folder = stand.folder(self.name())?;
        let log = folder.join("service.log");
        let mut service = host_tools::command("rauc")?;
        service
            .arg("service")
            .arg(format!("--conf={}/system.conf", folder.display()))
            .arg("--override-boot-slot=A")
            .env(ADDRESS, stand.bus_address());
        log_to(&mut service, &log)?;
        let service = stand.runner.background(&mut service)?;
        wait_until("rauc's service", || is_on_the_bus(stand))?;
        let installed = seconds(|| {
            let mut install = host_tools::command("rauc")?;
            install
                .args(["install", &server.url("rauc/bundle.raucb")])
                .env(ADDRESS, stand.bus_address());
            stand.runner.output(&mut install)?;
            stand.disk.sync(&PARTS)
        });
        end(service)?;
        installed.with_context(|| format!("see {}", log.display()))
    }
}

fn settings(stand: &Stand<'_>, folder: &Path) -> String {
    let folder = folder.display();
    let slots: String = [
        ("rootfs.0", Part::RootA, "bootname=A"),
        ("kernel.0", Part::KernelA, "parent=rootfs.0"),
        ("rootfs.1", Part::RootB, "bootname=B"),
        ("kernel.1", Part::KernelB, "parent=rootfs.1"),
    ]
    .map(|(slot, part, kind)| {
        let device = stand.disk.path(part);
        format!(
            "[slot.{slot}]\ndevice={}\ntype=raw\n{kind}\n",
            device.display()
        )
    })
    .concat();
    format!(
        "[system]\ncompatible=bench\nbootloader=noop\nstatusfile={folder}/status\nmountprefix={folder}/mounts\n\
         max-bundle-download-size=8589934592\n[keyring]\npath={}\n{slots}",
        Signer::of(folder.to_string().as_ref())
            .certificate
            .display()
    )
}

fn is_on_the_bus(stand: &Stand<'_>) -> bool {
    let asked = host_tools::command("dbus-send").map(|mut ask| {
        ask.arg(format!("--bus={}", stand.bus_address()));
        ask.args(["--print-reply=literal", "--dest=org.freedesktop.DBus", "/"]);
        ask.args([
            "org.freedesktop.DBus.NameHasOwner",
            "string:de.pengutronix.rauc",
        ]);
        stand.runner.output(&mut ask)
    });
    matches!(asked, Ok(Ok(answer)) if answer.contains("true"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
