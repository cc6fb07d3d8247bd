//! casync: chunks by content, each fetched unless the seed has it.

use anyhow::Result;

use super::super::disk::Part;
use super::super::measure::seconds;
use super::super::server::Server;
use super::super::stand::Stand;
use super::{Program, package_version};

#[derive(Debug)]
pub(crate) struct Casync;

/// Name, what is installed, where the old one lies, and where the new one goes.
const FILES: [(&str, Part, Part); 2] = [
    ("root", Part::RootA, Part::RootB),
    ("kernel", Part::KernelA, Part::KernelB),
];

impl Program for Casync {
    fn name(&self) -> &'static str {
        "casync"
    }

    fn notes(&self) -> &'static str {
        "casync extract of a .caibx with a .castr, the booted slot as its seed, its own chunk size and compression: \
         no signature, no read-back; a request per chunk"
    }

    fn version(&self, stand: &Stand<'_>) -> Result<String> {
        package_version(stand, "casync")
    }

    fn publish(&self, stand: &Stand<'_>) -> Result<()> {
        let site = stand.site(self.name())?;
        let (root, uki) = (stand.next.root(), stand.next.uki());
        for (name, file) in [("root", root), ("kernel", uki)] {
            let mut make = host_tools::command("casync")?;
            make.arg("make")
                .arg(format!("--store={}/{name}.castr", site.display()))
                .arg(site.join(format!("{name}.caibx")))
                .arg(file);
            stand.runner.output(&mut make)?;
        }
        Ok(())
    }

    fn install(&self, stand: &Stand<'_>, server: &Server<'_>) -> Result<f64> {
        seconds(|| {
            for (name, seed, target) in FILES {
                let mut extract = host_tools::command("casync")?;
                extract
                    .arg("extract")
                    .arg(format!("--seed={}", stand.disk.path(seed).display()))
                    .arg(format!(
                        "--store={}",
                        server.url(&format!("casync/{name}.castr"))
                    ))
                    .arg(server.url(&format!("casync/{name}.caibx")))
                    .arg(stand.disk.path(target));
                stand.runner.output(&mut extract)?;
            }
            stand.disk.sync(&FILES.map(|(_, _, target)| target))
        })
    }
}
