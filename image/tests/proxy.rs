//! The mirrors are asked through the host's proxy, whichever way the host names it.

#![expect(
    clippy::unwrap_used,
    reason = "clippy sees tests only in test functions, not in what they share"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// A proxy that lets nobody through, and tells what it was asked for.
fn proxy() -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            lines.read_line(&mut line).unwrap();
            let mut header = String::new();
            while lines.read_line(&mut header).unwrap() > 2 {
                header.clear();
            }
            // Refused for good: apt would try an error of the server's again.
            stream
                .write_all(
                    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                )
                .unwrap();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    (address, requests)
}

/// Begins a build in an empty folder, which needs the mirrors before all else.
fn build(folder: &Path) -> Command {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let declaration = crate_folder.join("declarations/bistable.toml");
    let tests = crate_folder.join("tests");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bistable-image"));
    for variable in ["http_proxy", "https_proxy", "no_proxy", "APT_CONFIG"] {
        command.env_remove(variable);
    }
    command
        .arg("build")
        .arg("--declaration")
        .arg(declaration)
        .args(["--version", "1", "--programs", "/none"])
        .arg("--root-of-trust")
        .arg(tests.join("data/root.json"))
        .arg("--build-dir")
        .arg(folder)
        .arg("--out")
        .arg(folder.join("out"));
    command
}

#[test]
fn a_proxy_of_the_environment_is_asked() {
    let (address, requests) = proxy();
    let folder = tempfile::tempdir().unwrap();
    let output = build(folder.path())
        .env("http_proxy", format!("http://{address}"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let request = requests.try_recv().unwrap();
    assert!(request.contains("http://deb.debian.org/"), "{request}");
}

#[test]
fn a_proxy_of_the_hosts_apt_is_asked() {
    let (address, requests) = proxy();
    let folder = tempfile::tempdir().unwrap();
    let host = folder.path().join("host.conf");
    fs::write(
        &host,
        format!("Acquire::http::Proxy \"http://{address}\";\n"),
    )
    .unwrap();
    let output = build(folder.path())
        .env("APT_CONFIG", &host)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let request = requests.try_recv().unwrap();
    assert!(request.contains("http://deb.debian.org/"), "{request}");
}
