//! What an operator can set: where releases come from, which to follow, and
//! what the node may do by itself, and when.
//!
//! Files are read one after the other, each overriding the ones before key by
//! key; [`Sources`] says which. A node does what its settings say or nothing by
//! itself: a mistake is named by file, line and key, and never guessed around.

mod repository;
mod scrub;
mod sources;
mod value;
mod windows;

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use partition_layout::MAX_TRIES;
use release::ChannelName;
use toml::de::DeTable;

pub use self::repository::{BadRepository, Repository};
pub use self::scrub::Scrub;
pub use self::sources::{CREDENTIAL, DEFAULTS, Sources};
use self::value::{BadValue, Entry};
use crate::authorities::Authorities;
use crate::fetch::Bandwidth;
use crate::policy::{Automatic, Windows};

/// No sane file comes near this; a broken one must not fill the memory.
const MAX_BYTES: u64 = 64 * 1024;
/// Each is asked in turn when the ones before fail, and every one takes its time to.
const MAX_MIRRORS: usize = 16;

/// The settings of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where releases come from; `None` until somebody says so.
    pub repository: Option<Repository>,
    /// Where else the same files lie, asked in this order when the repository fails.
    pub mirrors: Vec<Repository>,
    /// Who may vouch for their servers, beside the system's authorities.
    pub ca_certificates: Authorities,
    /// Which of its channels the node follows.
    pub channel: ChannelName,
    /// How often a trial may be attempted, 1 to 10.
    pub tries: u32,
    /// How far the node goes by itself.
    pub automatic: Automatic,
    /// When it may stage and reboot by itself.
    pub windows: Windows,
    /// How fast it fetches at most; `None` is as fast as it can.
    pub bandwidth: Option<Bandwidth>,
    /// How often it reads the images in its slots through.
    pub scrub: Scrub,
}

/// What a node does that was told nothing: it looks after its own disk.
impl Default for Config {
    fn default() -> Self {
        Self {
            repository: None,
            mirrors: vec![],
            ca_certificates: Authorities::default(),
            channel: ChannelName::parse("stable").expect("a plain word is a channel name"),
            tries: 3,
            automatic: Automatic::Off,
            windows: Windows::default(),
            bandwidth: None,
            scrub: Scrub::Weekly,
        }
    }
}

/// A key that this version does not know. It is ignored, as a newer image,
/// from which the node came back, may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    file: PathBuf,
    line: usize,
    key: String,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: nothing is called {:?} here",
            self.file.display(),
            self.line,
            self.key
        )
    }
}

/// Why the settings cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadConfigError {
    #[error("cannot read {}", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("cannot list {}", folder.display())]
    List { folder: PathBuf, source: io::Error },
    #[error("{} is larger than {MAX_BYTES} bytes", file.display())]
    TooLarge { file: PathBuf },
    #[error("{}:{line}: {message}", file.display())]
    Syntax {
        file: PathBuf,
        line: usize,
        message: String,
    },
    #[error("{}:{line}: {key} {problem}", file.display())]
    Value {
        file: PathBuf,
        line: usize,
        key: String,
        problem: String,
    },
}

impl Config {
    /// Returns where releases come from, in the order in which it is asked.
    pub fn servers(&self) -> Vec<Repository> {
        let repository = self.repository.iter();
        repository.chain(&self.mirrors).cloned().collect()
    }

    /// Reads the settings from `files`, the later ones overriding the earlier.
    /// A file that is not there says nothing.
    ///
    /// # Errors
    /// Names file, line and key. Nothing is guessed: a node that would follow
    /// another repository than it was told to is worse than one that says so.
    pub fn read(files: &[PathBuf]) -> Result<(Self, Vec<UnknownKey>), ReadConfigError> {
        let mut config = Self::default();
        let mut unknown = Vec::new();
        for file in files {
            if let Some(text) = read_text(file)? {
                config.apply(file, &text, &mut unknown)?;
            }
        }
        Ok((config, unknown))
    }

    fn apply(
        &mut self,
        file: &Path,
        text: &str,
        unknown: &mut Vec<UnknownKey>,
    ) -> Result<(), ReadConfigError> {
        let table = DeTable::parse(text).map_err(|error| ReadConfigError::Syntax {
            file: file.to_owned(),
            line: error.span().map_or(1, |span| line_of(text, &span)),
            message: error.message().to_owned(),
        })?;
        for (key, value) in table.get_ref() {
            match self.set(&Entry::new(key, value)) {
                Ok(Known::Yes) => {}
                Ok(Known::No) => unknown.push(UnknownKey {
                    file: file.to_owned(),
                    line: line_of(text, &key.span()),
                    key: key.get_ref().to_string(),
                }),
                Err(BadValue { span, key, problem }) => {
                    return Err(ReadConfigError::Value {
                        file: file.to_owned(),
                        line: line_of(text, &span),
                        key,
                        problem,
                    });
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, entry: &Entry<'_>) -> Result<Known, BadValue> {
        match entry.key() {
            "repository" => self.repository = repository(entry)?,
            "mirrors" => {
                let mirrors = entry.list()?;
                if mirrors.len() > MAX_MIRRORS {
                    return Err(entry.bad(&format!("has more than {MAX_MIRRORS} addresses")));
                }
                self.mirrors = mirrors
                    .iter()
                    .map(|mirror| mirror.parsed(mirror_at))
                    .collect::<Result<_, _>>()?;
            }
            "ca_certificates" => self.ca_certificates = entry.parsed(Authorities::parse)?,
            "channel" => self.channel = entry.parsed(ChannelName::parse)?,
            "tries" => self.tries = entry.whole_number(1..=MAX_TRIES)?,
            "automatic" => self.automatic = entry.parsed(Automatic::parse)?,
            "window" => self.windows = windows::parse(entry)?,
            "bandwidth" => {
                self.bandwidth = match entry.text()? {
                    "" => None,
                    _ => Some(entry.parsed(Bandwidth::parse)?),
                };
            }
            "scrub" => self.scrub = entry.parsed(Scrub::parse)?,
            _ => return Ok(Known::No),
        }
        Ok(Known::Yes)
    }
}

fn repository(entry: &Entry<'_>) -> Result<Option<Repository>, BadValue> {
    match entry.text()? {
        "" => Ok(None),
        _ => entry.parsed(Repository::parse).map(Some),
    }
}

/// Says which of a list is wrong.
fn mirror_at(text: &str) -> Result<Repository, String> {
    Repository::parse(text).map_err(|error| format!("{text:?} {error}"))
}

enum Known {
    Yes,
    No,
}

fn read_text(file: &Path) -> Result<Option<String>, ReadConfigError> {
    let failed = |source| ReadConfigError::Read {
        file: file.to_owned(),
        source,
    };
    let opened = match std::fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    let read = opened
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if u64::try_from(read).is_ok_and(|read| read > MAX_BYTES) {
        return Err(ReadConfigError::TooLarge {
            file: file.to_owned(),
        });
    }
    Ok(Some(text))
}

/// Returns the number of the line, from 1, in which `span` begins.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests;
