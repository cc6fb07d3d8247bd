//! SWUpdate: one signed archive, streamed into raw handlers.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};

use super::super::disk::Part;
use super::super::measure::seconds;
use super::super::server::Server;
use super::super::stand::{Stand, log_to};
use super::{Program, Signer, package_version};

#[derive(Debug)]
pub(crate) struct Swupdate;

/// What lies in the archive, and where it goes.
const FILES: [(&str, Part); 2] = [("root.zst", Part::RootB), ("kernel.zst", Part::KernelB)];
/// `cpio` takes their names, in this order.
const ARCHIVE: &str = "printf 'sw-description\\nsw-description.sig\\nroot.zst\\nkernel.zst\\n' | cpio --create --format=crc --quiet";

impl Program for Swupdate {
    fn name(&self) -> &'static str {
        "swupdate"
    }

    fn notes(&self) -> &'static str {
        "swupdate -d of a signed .swu, images as zstd -19 into raw handlers, installed-directly: streams, so nothing is \
         kept in between. Its handlers for reading back and for rdiff against one known base are not used, and its zchunk \
         delta handler is not in Debian's build"
    }

    fn version(&self, stand: &Stand<'_>) -> Result<String> {
        package_version(stand, "swupdate")
    }

    fn publish(&self, stand: &Stand<'_>) -> Result<()> {
        let folder = stand.folder(self.name())?;
        let signer = Signer::make(stand, &folder)?;
        let mut images = String::new();
        let files = [stand.next.root(), stand.next.uki()];
        for (file, (name, part)) in files.iter().zip(FILES) {
            let packed = folder.join(name);
            let mut compress = host_tools::command("zstd")?;
            compress.args(["-19", "-T0", "--quiet", "--force"]);
            stand
                .runner
                .run(compress.arg(file).arg("-o").arg(&packed))?;
            images.push_str(&format!(
                "    {{ filename = \"{name}\"; device = \"{}\"; type = \"raw\"; compressed = \"zstd\"; \
                 installed-directly = true; sha256 = \"{}\"; }},\n",
                stand.disk.path(part).display(),
                sha256(stand, &packed)?
            ));
        }
        let images = images.trim_end_matches(",\n");
        let description = folder.join("sw-description");
        let text = format!(
            "software = {{\n  version = \"{}\";\n  hardware-compatibility: [ \"1.0\" ];\n  images: (\n{images}\n  );\n}}\n",
            stand.next.version
        );
        fs::write(&description, text)
            .with_context(|| format!("cannot write {}", description.display()))?;
        let mut sign = host_tools::command("openssl")?;
        sign.args(["cms", "-sign", "-binary", "-nosmimecap", "-outform", "DER"]);
        sign.arg("-in").arg(&description);
        sign.arg("-out").arg(folder.join("sw-description.sig"));
        sign.arg("-inkey").arg(&signer.key);
        sign.arg("-signer").arg(&signer.certificate);
        stand.runner.output(&mut sign)?;

        let archive = stand.site(self.name())?.join("update.swu");
        let mut pack = host_tools::command("sh")?;
        pack.args(["-c", ARCHIVE]).current_dir(&folder);
        let file = fs::File::create(&archive)
            .with_context(|| format!("cannot write {}", archive.display()))?;
        stand.runner.run(pack.stdout(Stdio::from(file)))
    }

    fn install(&self, stand: &Stand<'_>, server: &Server<'_>) -> Result<f64> {
        let folder = stand.folder(self.name())?;
        let log = folder.join("swupdate.log");
        let mut update = host_tools::command("swupdate")?;
        // There is no boot loader here that it could tell anything.
        update.args(["--no-transaction-marker", "--no-state-marker"]);
        update.args(["-H", "bench:1.0", "-l", "2"]);
        update.arg("-k").arg(Signer::of(&folder).certificate);
        update.arg("-d");
        update.arg(format!("-u {}", server.url("swupdate/update.swu")));
        log_to(&mut update, &log)?;
        let installed = seconds(|| {
            stand.runner.run(&mut update)?;
            stand.disk.sync(&FILES.map(|(_, part)| part))
        });
        installed.with_context(|| format!("see {}", log.display()))
    }
}

fn sha256(stand: &Stand<'_>, file: &Path) -> Result<String> {
    let mut sum = host_tools::command("sha256sum")?;
    let said = stand.runner.output(sum.arg(file))?;
    let sum = said.split_ascii_whitespace().next();
    Ok(sum.context("sha256sum said nothing")?.to_owned())
}
