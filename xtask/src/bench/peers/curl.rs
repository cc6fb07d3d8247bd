//! `curl | tee DEVICE | sha256sum`: the least that can be done about an image, and
//! the floor of the table.

use anyhow::{Result, ensure};

use super::super::disk::Part;
use super::super::measure::seconds;
use super::super::server::Server;
use super::super::stand::Stand;
use super::{Program, link, package_version};

#[derive(Debug)]
pub(crate) struct Curl;

const SCRIPT: &str = r#"curl --silent --show-error --fail "$1" | tee "$2" | sha256sum"#;
const FILES: [(&str, Part); 2] = [("root.img", Part::RootB), ("kernel.efi", Part::KernelB)];

impl Program for Curl {
    fn name(&self) -> &'static str {
        "curl"
    }

    fn notes(&self) -> &'static str {
        "curl | tee DEVICE | sha256sum of the plain files: no signature, no delta, no resume, no read-back"
    }

    fn version(&self, stand: &Stand<'_>) -> Result<String> {
        package_version(stand, "curl")
    }

    fn publish(&self, stand: &Stand<'_>) -> Result<()> {
        let site = stand.site(self.name())?;
        link(&stand.next.root(), &site.join("root.img"))?;
        link(&stand.next.uki(), &site.join("kernel.efi"))
    }

    fn install(&self, stand: &Stand<'_>, server: &Server<'_>) -> Result<f64> {
        seconds(|| {
            for (file, part) in FILES {
                let mut pipe = host_tools::command("sh")?;
                pipe.args(["-c", SCRIPT, "sh"])
                    .arg(server.url(&format!("curl/{file}")))
                    .arg(stand.disk.path(part));
                let said = stand.runner.output(&mut pipe)?;
                ensure!(said.ends_with("  -\n"), "sha256sum said {said:?}");
            }
            stand.disk.sync(&FILES.map(|(_, part)| part))
        })
    }
}
