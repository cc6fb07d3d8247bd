//! The place where programs are measured: a disk, a web server, a bus, and two
//! releases, one booted and one to be installed. It is the same for all of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::disk::Disk;
use super::material::Release;
use super::measure::{Bystanders, Cost, Watch, wait_until};
use super::peers::Program;
use super::server::Server;
use crate::checkout::Checkout;
use crate::runner::{Background, Runner};

/// What our repository's channel has listed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Nothing that nodes run: there is nobody to make patches for.
    New,
    /// The booted release, so that there are patches from it.
    OfTheBooted,
}

/// Everything that a program finds when it is measured.
#[derive(Debug)]
pub(crate) struct Stand<'a> {
    pub(crate) runner: &'a Runner,
    pub(crate) checkout: &'a Checkout,
    folder: PathBuf,
    pub(crate) disk: Disk<'a>,
    pub(crate) booted: Release,
    pub(crate) next: Release,
    pub(crate) channel: Channel,
    bus: Background<'a>,
}

impl<'a> Stand<'a> {
    /// Sets up in `folder`, which keeps what was published from one bench to the next.
    pub(crate) fn set_up(
        checkout: &'a Checkout,
        runner: &'a Runner,
        folder: &Path,
        [booted, next]: [Release; 2],
        channel: Channel,
    ) -> Result<Self> {
        fs::create_dir_all(folder.join("site"))
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let disk = Disk::make(runner, &folder.join("disk"), &booted, &next)?;
        Ok(Self {
            runner,
            checkout,
            folder: folder.to_owned(),
            disk,
            booted,
            next,
            channel,
            bus: start_bus(runner, folder)?,
        })
    }

    /// Returns a folder of a program's own.
    pub(crate) fn folder(&self, program: &str) -> Result<PathBuf> {
        made(self.folder.join("programs").join(program))
    }

    /// Returns the folder that the server serves as `program`.
    pub(crate) fn site(&self, program: &str) -> Result<PathBuf> {
        made(self.folder.join("site").join(program))
    }

    /// Returns what programs that look for the system bus shall find.
    pub(crate) fn bus_address(&self) -> String {
        bus_address(&self.folder)
    }

    /// Has `program` publish the new release, unless it has published just that.
    pub(crate) fn publish(&self, program: &dyn Program) -> Result<()> {
        let of = [&self.booted, &self.next].map(|release| release.root_hash.as_str());
        let wanted = format!(
            "{} {} by {}\n",
            of.join(" "),
            self.disk.device().display(),
            program.publisher(self)?
        );
        let stamp = self.folder(program.name())?.join("published");
        if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(());
        }
        for folder in [self.folder(program.name())?, self.site(program.name())?] {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        program
            .publish(self)
            .with_context(|| format!("cannot publish for {}", program.name()))?;
        self.folder(program.name())?;
        fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
    }

    /// Has `program` install the new release on a slot full of zeros, and looks
    /// whether it did.
    pub(crate) fn measure(&self, program: &dyn Program) -> Result<Cost> {
        let server = self.serve(program)?;
        let bystanders = Bystanders::from([server.process(), self.bus.process()]);
        let watch = Watch::start(bystanders)?;
        let wall = program.install(self, &server);
        let (processor, memory) = watch.stop()?;
        let cost = Cost {
            wall: wall.with_context(|| format!("{} does not install", program.name()))?,
            processor,
            memory,
            fetched: server.stop()?,
        };
        program
            .check(self)
            .with_context(|| format!("{} installed something else", program.name()))?;
        Ok(cost)
    }

    /// Makes the disk ready for `program`, and starts a server for it.
    pub(crate) fn serve(&self, program: &dyn Program) -> Result<Server<'a>> {
        self.disk.reset()?;
        program.prepare(self)?;
        Server::start(
            self.runner,
            &self.folder.join("nginx"),
            &self.folder.join("site"),
        )
    }
}

fn made(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn bus_address(folder: &Path) -> String {
    format!("unix:path={}", folder.join("bus.socket").display())
}

/// A system bus of our own, on which everybody may do everything.
fn start_bus<'a>(runner: &'a Runner, folder: &Path) -> Result<Background<'a>> {
    let settings = folder.join("bus.conf");
    let address = bus_address(folder);
    let text = format!(
        "<busconfig><type>system</type><listen>{address}</listen><auth>EXTERNAL</auth>\
         <policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/>\
         <allow send_destination=\"*\"/><allow receive_sender=\"*\"/></policy></busconfig>\n"
    );
    fs::write(&settings, text).with_context(|| format!("cannot write {}", settings.display()))?;
    let socket = folder.join("bus.socket");
    if socket.exists() {
        fs::remove_file(&socket).with_context(|| format!("cannot remove {}", socket.display()))?;
    }
    let mut bus = host_tools::command("dbus-daemon")?;
    let mut option = std::ffi::OsString::from("--config-file=");
    option.push(&settings);
    log_to(&mut bus, &folder.join("bus.log"))?;
    let bus = runner.background(bus.arg("--nofork").arg(option))?;
    wait_until("the bus", || socket.exists())?;
    Ok(bus)
}

/// Has a command write what it says to a file.
pub(crate) fn log_to(command: &mut Command, path: &Path) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    let log = File::create(path).with_context(context)?;
    command.stderr(log.try_clone().with_context(context)?);
    command.stdout(log);
    Ok(())
}

/// Ends a daemon that a program of the table has started.
pub(crate) fn end(daemon: Background<'_>) -> Result<()> {
    daemon.end(Signal::TERM)
}
