//! Ours: the daemon's head and hands, with its trust, its disk and its network, as nice as
//! its unit makes it and with the unit's environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};

use super::super::disk::Part;
use super::super::groups::{Groups, inside};
use super::super::measure::seconds;
use super::super::server::Server;
use super::super::stand::{Channel, Stand, end, log_to};
use super::Program;
use crate::checkout::Checkout;
use crate::programs;
use crate::runner::Runner;

/// `updater/examples/stage`, which is also the gateway that it fetches through, as on a node
/// both are one program; and what publishes for it.
#[derive(Debug)]
pub(crate) struct Bistable {
    stage: PathBuf,
    image_tool: PathBuf,
    control_groups: Option<PathBuf>,
    /// The groups of daemon and gateway.
    services: Option<[PathBuf; 2]>,
}

const NAME: &str = "bistable";
/// What runs it on a node, and how it stands there behind others who want the processor.
const UNIT: &str = include_str!("../../../../systemd-units/system/bistable-updater.service");

impl Bistable {
    pub(crate) fn build(
        checkout: &Checkout,
        runner: &Runner,
        programs: &programs::Programs,
    ) -> Result<Self> {
        let mut build = programs::cargo(checkout);
        // With the features of the whole workspace, so that nothing is compiled anew for it.
        build.args(["build", "--release", "--workspace", "--example", "stage"]);
        runner.run(&mut build)?;
        Ok(Self {
            stage: checkout.target().join("release/examples/stage"),
            image_tool: programs.image_tool.clone(),
            control_groups: None,
            services: None,
        })
    }

    /// Has it look for others who wait in the tree of control groups, and gives it the
    /// share of the processor that its units have.
    pub(crate) fn beside(&mut self, groups: &Groups) -> Result<()> {
        self.control_groups = Some(groups.root().to_owned());
        let weight = of_unit("CPUWeight=").next();
        let weight = weight.context("the unit has no CPUWeight=")?;
        let weight = weight.parse().context("CPUWeight= is no number")?;
        self.services = groups.services(weight)?;
        Ok(())
    }

    fn node(stand: &Stand<'_>) -> Result<PathBuf> {
        Ok(stand.folder(NAME)?.join("node"))
    }

    /// Stages, and is called all the while. Returns the milliseconds of each answer, by
    /// the call's name.
    pub(crate) fn answer(
        &self,
        stand: &Stand<'_>,
        server: &Server<'_>,
    ) -> Result<BTreeMap<String, Vec<f64>>> {
        let file = stand.folder(NAME)?.join("calls.json");
        self.stage(stand, server, Some(&file))?;
        let answers = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&answers).with_context(|| format!("in {}", file.display()))
    }

    fn stage(&self, stand: &Stand<'_>, server: &Server<'_>, calls: Option<&Path>) -> Result<f64> {
        let log = stand.folder(NAME)?.join("stage.log");
        let option = |name: &str, value: OsString| [OsString::from(name), value];
        let arguments = [
            option("--disk", stand.disk.device().into()),
            option("--node", Self::node(stand)?.into()),
            option("--booted", stand.booted.version.as_str().into()),
            option("--root-hash", stand.booted.root_hash.as_str().into()),
            option(
                "--root-of-trust",
                stand.checkout.keys().join("root.json").into(),
            ),
            option("--repository", server.url(NAME).into()),
        ];
        let socket = stand.folder(NAME)?.join("gateway.socket");
        if socket.exists() {
            fs::remove_file(&socket)
                .with_context(|| format!("cannot remove {}", socket.display()))?;
        }
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        let [daemon_group, gateway_group] = self
            .services
            .as_ref()
            .map_or([None, None], |[daemon, gateway]| {
                [Some(daemon), Some(gateway)]
            });
        let mut gateway = self.as_a_unit(gateway_group)?;
        gateway.arg("--be-the-gateway");
        log_to(&mut gateway, &stand.folder(NAME)?.join("gateway.log"))?;
        let mut stage = self.as_a_unit(daemon_group)?;
        stage.args(arguments.iter().flatten());
        stage.arg("--gateway").arg(&socket);
        if let Some(root) = &self.control_groups {
            stage.arg("--control-groups").arg(root);
        }
        if let Some(file) = calls {
            stage.arg("--calls").arg(file);
        }
        stage.env("DBUS_SYSTEM_BUS_ADDRESS", stand.bus_address());
        log_to(&mut stage, &log)?;
        let socket = OwnedFd::from(listener);
        let staged = seconds(|| {
            let gateway = stand.runner.serving(&mut gateway, socket)?;
            stand.runner.run(&mut stage)?;
            end(gateway)?;
            stand.disk.sync(&[Part::RootB, Part::VerityB])
        });
        staged.with_context(|| format!("see {}", log.display()))
    }
}

impl Bistable {
    fn as_a_unit(&self, group: Option<&PathBuf>) -> Result<Command> {
        let mut command = host_tools::command("nice")?;
        command
            .args(["-n", of_unit("Nice=").next().unwrap_or("0")])
            .arg(&self.stage)
            .envs(of_unit("Environment=").filter_map(|line| line.split_once('=')));
        match group {
            Some(group) => inside(group, &command),
            None => Ok(command),
        }
    }
}

/// Returns the values of a key in the daemon's unit; the gateway's has the same.
fn of_unit(key: &'static str) -> impl Iterator<Item = &'static str> {
    UNIT.lines().filter_map(move |line| line.strip_prefix(key))
}

impl Program for Bistable {
    fn name(&self) -> &'static str {
        NAME
    }

    fn notes(&self) -> &'static str {
        "the daemon's head, hands and gateway on a node whose disk is the loop device and whose ESP is a folder: metadata checked, \
         spare disarmed, every block checked against the hash tree (which is fetched as well) before it is written, \
         synced, read back whole from the medium, armed"
    }

    fn version(&self, _stand: &Stand<'_>) -> Result<String> {
        Ok(format!("{NAME} {}", env!("CARGO_PKG_VERSION")))
    }

    fn publisher(&self, _stand: &Stand<'_>) -> Result<String> {
        // What it makes depends on the program, which has the same version for long.
        let metadata = self.image_tool.metadata();
        let metadata =
            metadata.with_context(|| format!("cannot find {}", self.image_tool.display()))?;
        let made = metadata
            .modified()
            .context("cannot tell when it was made")?;
        let made = made.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(format!("{} of {}", metadata.len(), made.as_nanos()))
    }

    fn publish(&self, stand: &Stand<'_>) -> Result<()> {
        let repository = stand.site(NAME)?;
        let releases = match stand.channel {
            Channel::New => vec![&stand.next],
            Channel::OfTheBooted => vec![&stand.booted, &stand.next],
        };
        for release in releases {
            let mut publish = Command::new(&self.image_tool);
            publish.arg("publish");
            publish.arg("--keys").arg(stand.checkout.keys());
            publish.arg("--repository").arg(&repository);
            publish.arg("--image").arg(release.folder());
            stand.runner.output(&mut publish)?;
        }
        Ok(())
    }

    fn prepare(&self, stand: &Stand<'_>) -> Result<()> {
        // What was published may have been years ago for its metadata.
        let mut refresh = Command::new(&self.image_tool);
        refresh.args(["repository", "refresh"]);
        refresh.arg("--keys").arg(stand.checkout.keys());
        refresh.arg("--repository").arg(stand.site(NAME)?);
        stand.runner.output(&mut refresh)?;
        let node = Self::node(stand)?;
        if node.exists() {
            fs::remove_dir_all(&node)
                .with_context(|| format!("cannot remove {}", node.display()))?;
        }
        let esp = node.join("esp");
        fs::create_dir_all(&esp).with_context(|| format!("cannot make {}", esp.display()))?;
        let kernel = esp.join(format!("bistable_{}.efi", stand.booted.version));
        fs::copy(stand.booted.uki(), &kernel)
            .with_context(|| format!("cannot write {}", kernel.display()))?;
        Ok(())
    }

    fn install(&self, stand: &Stand<'_>, server: &Server<'_>) -> Result<f64> {
        self.stage(stand, server, None)
    }

    fn check(&self, stand: &Stand<'_>) -> Result<()> {
        stand.disk.expect(Part::RootB, &stand.next.root())?;
        stand.disk.expect(Part::VerityB, &stand.next.verity())?;
        let entry = format!("esp/bistable_{}+3.efi", stand.next.version);
        let mut compare = host_tools::command("cmp")?;
        compare
            .arg(Self::node(stand)?.join(entry))
            .arg(stand.next.uki());
        stand.runner.output(&mut compare).map(drop)
    }
}
