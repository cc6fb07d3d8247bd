//! The probe: reads one request, answers it, ends.
//!
//! `read PATH` answers `ok`, a newline and the file; `write PATH TEXT` makes
//! the file, and has it reach the disk; `remove PATH` removes it; an error is
//! answered with its text. Run with an argument it is a container's only program
//! instead: it says so, and what its root holds.
//!
//! Built static by the harness, from this file alone: std only.

use std::fs::{self, File};
use std::io::{self, BufRead, Write};

fn main() -> io::Result<()> {
    if let Some(word) = std::env::args().nth(1) {
        let mut names: Vec<String> = fs::read_dir("/")?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        let line = format!(
            "container says {word}, process {}, root {}\n",
            std::process::id(),
            names.join(" ")
        );
        return io::stdout().write_all(line.as_bytes());
    }
    let mut request = String::new();
    io::stdin().lock().read_line(&mut request)?;
    let answer = match answer(request.trim_end_matches('\n')) {
        Ok(content) => format!("ok\n{content}"),
        Err(error) => format!("{error}\n"),
    };
    // A caller that has gone away is no failure of the node's.
    drop(io::stdout().write_all(answer.as_bytes()));
    Ok(())
}

fn answer(request: &str) -> io::Result<String> {
    let mut words = request.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some("read"), Some(path), None) => fs::read_to_string(path),
        (Some("write"), Some(path), Some(text)) => {
            let mut file = File::create(path)?;
            file.write_all(text.as_bytes())?;
            match file.sync_all() {
                // A door of the kernel's leads to no disk.
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
                Ok(()) | Err(_) => Ok(String::new()),
            }
        }
        (Some("remove"), Some(path), None) => fs::remove_file(path).map(|()| String::new()),
        _ => Err(io::Error::other(format!("not a request: {request:?}"))),
    }
}
