//! `updater.toml`, and a drop-in that overrides it: two files, divided by a zero.

use std::path::PathBuf;

use updater::config::{Config, ReadConfigError, Repository};

use crate::Outcome;
use crate::files::File;

pub(crate) fn read(input: &[u8]) -> Outcome {
    let mut texts = input.splitn(2, |byte| *byte == 0);
    let texts = [texts.next(), texts.next()].map(Option::unwrap_or_default);
    let files = texts.map(File::holding);
    let paths = files.each_ref().map(|file| file.path().to_owned());
    let (config, unknown) = match Config::read(&paths) {
        Ok(read) => read,
        Err(error) => {
            hold_error(&error, &paths, texts);
            return Outcome::Refused;
        }
    };
    assert!((1..=10).contains(&config.tries));
    assert!(config.mirrors.len() <= 16);
    for server in config.servers() {
        let again = Repository::parse(&server.to_string());
        assert_eq!(again.as_ref(), Ok(&server), "an address prints itself");
        drop((server.metadata(), server.targets()));
    }
    for second in [0, 1_774_746_000, 1_795_000_000, 253_402_000_000] {
        let now = jiff::Timestamp::from_second(second).expect("a time before 9999");
        if let Some(next) = config.windows.next_opening(now) {
            assert!(next > now);
            assert!(config.windows.is_open(next), "it opens when it is said to");
        }
    }
    // What overrides all that it set before changes nothing.
    let twice = [&paths[..], &paths[..]].concat();
    let (again, told) = Config::read(&twice).expect("each was read before");
    assert_eq!(again, config);
    assert_eq!(told.len(), 2 * unknown.len());
    Outcome::Accepted
}

/// Asserts that a mistake is told with its file and a line that this has.
fn hold_error(error: &ReadConfigError, paths: &[PathBuf; 2], texts: [&[u8]; 2]) {
    let (file, line) = match error {
        ReadConfigError::Syntax { file, line, .. } => (file, *line),
        ReadConfigError::Value {
            file,
            line,
            key,
            problem,
        } => {
            assert!(!key.is_empty() && !problem.is_empty());
            (file, *line)
        }
        ReadConfigError::Read { .. }
        | ReadConfigError::List { .. }
        | ReadConfigError::TooLarge { .. } => return,
    };
    let named = paths.iter().zip(texts).find(|(path, _)| *path == file);
    let (_, text) = named.expect("one of the files is named");
    let lines = text.split(|byte| *byte == b'\n').count();
    assert!((1..=lines).contains(&line), "line {line} of {lines}");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let all = br#"
repository = "https://releases.example/base"
mirrors = ["http://one/", "/srv/two b"]
ca_certificates = ""
channel = "canary"
tries = 3
automatic = "reboot"
bandwidth = "20 MiB/s"
scrub = "monthly"
unknown = { here = 1 }

[[window]]
days = ["mon", "sat"]
from = "22:00"
to = "04:00"
time_zone = "Europe/Berlin"

[[window]]
days = ["daily"]
from = "12:00"
to = "24:00"
"#;
    let drop_in = b"window = []\nrepository = \"\"\nbandwidth = \"\"\nautomatic = 'off'\n";
    vec![
        include_bytes!("../../../systemd-units/config/updater.toml").to_vec(),
        all.to_vec(),
        [all.as_slice(), b"\0", drop_in].concat(),
    ]
}
