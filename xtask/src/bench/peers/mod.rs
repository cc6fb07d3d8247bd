//! The programs that are measured, each used as its manual says.

mod bistable;
mod casync;
mod curl;
mod rauc;
mod swupdate;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::disk::Part;
use super::server::Server;
use super::stand::Stand;
pub(crate) use bistable::Bistable;
pub(crate) use casync::Casync;
pub(crate) use curl::Curl;
pub(crate) use rauc::Rauc;
pub(crate) use swupdate::Swupdate;

/// A program that installs a release: a root image and a kernel.
pub(crate) trait Program {
    /// One word, for folders and tables.
    fn name(&self) -> &'static str;

    /// What it does, and what it does not, for those who read the table.
    fn notes(&self) -> &'static str;

    /// Returns its name with its version.
    fn version(&self, stand: &Stand<'_>) -> Result<String>;

    /// Tells what publishes for it: when that changes, it is published anew.
    fn publisher(&self, stand: &Stand<'_>) -> Result<String> {
        self.version(stand)
    }

    /// Puts what it needs on the server.
    fn publish(&self, stand: &Stand<'_>) -> Result<()>;

    /// Makes its own state that of a node which has not seen the new release.
    fn prepare(&self, _stand: &Stand<'_>) -> Result<()> {
        Ok(())
    }

    /// Installs the new release in slot B, and returns after how many seconds all of
    /// it was on the disk. Whatever it started has ended on return.
    fn install(&self, stand: &Stand<'_>, server: &Server<'_>) -> Result<f64>;

    /// Looks whether it did.
    fn check(&self, stand: &Stand<'_>) -> Result<()> {
        stand.disk.expect(Part::RootB, &stand.next.root())?;
        stand.disk.expect(Part::KernelB, &stand.next.uki())
    }
}

/// Returns all but ours and the floor.
pub(crate) fn peers() -> [Box<dyn Program>; 3] {
    [Box::new(Rauc), Box::new(Swupdate), Box::new(Casync)]
}

/// Returns what Debian calls the version of a package that is installed.
fn package_version(stand: &Stand<'_>, package: &str) -> Result<String> {
    let mut query = host_tools::command("dpkg-query")?;
    query.args(["--show", "--showformat", "${Version}", package]);
    Ok(format!("{package} {}", stand.runner.output(&mut query)?))
}

/// A key and a certificate by itself, for the programs that want their files signed.
#[derive(Debug)]
struct Signer {
    key: PathBuf,
    certificate: PathBuf,
}

impl Signer {
    fn make(stand: &Stand<'_>, folder: &Path) -> Result<Self> {
        let signer = Self::of(folder);
        let mut request = host_tools::command("openssl")?;
        request.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes"]);
        request.args(["-days", "3650", "-subj", "/CN=bench"]);
        request.arg("-keyout").arg(&signer.key);
        request.arg("-out").arg(&signer.certificate);
        stand.runner.output(&mut request)?;
        Ok(signer)
    }

    fn of(folder: &Path) -> Self {
        Self {
            key: folder.join("key.pem"),
            certificate: folder.join("certificate.pem"),
        }
    }
}

/// A file under another name, without copying it.
fn link(from: &Path, to: &Path) -> Result<()> {
    std::fs::hard_link(from, to)
        .with_context(|| format!("cannot link {} to {}", from.display(), to.display()))
}
