//! The web server of all programs, nginx, which writes down what it sent.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::measure::wait_until;
use crate::runner::{Background, Runner};

/// A server for one run.
#[derive(Debug)]
pub(crate) struct Server<'a> {
    nginx: Background<'a>,
    address: SocketAddr,
    log: PathBuf,
}

impl<'a> Server<'a> {
    /// Serves the folder `site` on the loopback interface; `folder` is the server's own.
    pub(crate) fn start(runner: &'a Runner, folder: &Path, site: &Path) -> Result<Self> {
        // Nobody else takes it meanwhile: the kernel does not give a port out again at once.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .context("cannot get a port")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let log = folder.join("access.log");
        fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
        let settings = folder.join("nginx.conf");
        fs::write(&settings, settings_text(folder, site, address))
            .with_context(|| format!("cannot write {}", settings.display()))?;
        let mut command = host_tools::command("nginx")?;
        command.arg("-c").arg(&settings);
        command.arg("-e").arg(folder.join("error.log"));
        let nginx = runner.background(&mut command)?;
        wait_until("nginx", || TcpStream::connect(address).is_ok())?;
        Ok(Self {
            nginx,
            address,
            log,
        })
    }

    pub(crate) fn process(&self) -> u32 {
        self.nginx.process()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Ends the server, and returns how many bytes it has sent, without headers.
    pub(crate) fn stop(self) -> Result<u64> {
        // It finishes what it does, and its log.
        self.nginx.end(Signal::QUIT)?;
        let log = fs::read_to_string(&self.log)
            .with_context(|| format!("cannot read {}", self.log.display()))?;
        sent(&log).context("nginx wrote no numbers")
    }
}

fn sent(log: &str) -> Option<u64> {
    log.lines()
        .map(|line| line.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

fn settings_text(folder: &Path, site: &Path, address: SocketAddr) -> String {
    let (folder, site) = (folder.display(), site.display());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("    {what}_temp_path {folder}/{what};\n"))
        .concat();
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {folder}/nginx.pid;\nevents {{ }}\n\
         http {{\n\
         {temporary}    log_format bytes '$body_bytes_sent $status $request $http_range';\n    \
         access_log {folder}/access.log bytes;\n    sendfile on;\n    tcp_nopush on;\n    \
         keepalive_requests 1000000;\n    \
         server {{ listen {address}; root {site}; }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_the_sum_of_all_answers() {
        let log = "10 200 GET /a HTTP/1.1 -\n32 206 GET /b HTTP/1.1 bytes=0-31\n";
        assert_eq!(sent(log), Some(42));
        assert_eq!(sent(""), Some(0));
        assert_eq!(sent("- 200 GET /a HTTP/1.1 -\n"), None);
    }
}
