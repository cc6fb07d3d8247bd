//! What an operator can set: where releases come from, and which to follow.
//!
//! Three files are read, each overriding the one before key by key: the image's
//! defaults, `/etc`, and a systemd credential, which reaches a node from
//! outside (a cloud's metadata, SMBIOS) without a shell on it.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use release::{Blob, ChannelName};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};
use url::Url;

use crate::authorities::Authorities;
use crate::fetch::Bandwidth;

/// The defaults of the image.
pub const DEFAULTS: &str = "/usr/lib/bistable/updater.toml";
/// The node's own settings.
pub const OVERRIDES: &str = "/etc/bistable/updater.toml";
/// The name of the systemd credential with the same keys.
pub const CREDENTIAL: &str = "bistable.updater.toml";

/// No sane file comes near this; a broken one must not fill the memory.
const MAX_BYTES: u64 = 64 * 1024;
/// A boot entry's name has room for more, but nobody wants to wait for them.
const MAX_TRIES: u32 = 10;

/// The settings of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where releases come from; `None` until somebody says so.
    pub repository: Option<Repository>,
    /// Who has the same, in the order in which they are asked when it fails.
    pub mirrors: Vec<Repository>,
    /// How much of the network fetching may take; `None` is all.
    pub bandwidth: Option<Bandwidth>,
    /// Who may vouch for their servers, beside the system's authorities.
    pub ca_certificates: Authorities,
    /// Which of its channels the node follows.
    pub channel: ChannelName,
    /// How often a trial may be attempted, 1 to 10.
    pub tries: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            repository: None,
            mirrors: Vec::new(),
            bandwidth: None,
            ca_certificates: Authorities::default(),
            channel: ChannelName::parse("stable").expect("a plain word is a channel name"),
            tries: 3,
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
            match self.set(key, value.get_ref()) {
                Ok(Known::Yes) => {}
                Ok(Known::No) => unknown.push(UnknownKey {
                    file: file.to_owned(),
                    line: line_of(text, &key.span()),
                    key: key.get_ref().to_string(),
                }),
                Err(problem) => {
                    return Err(ReadConfigError::Value {
                        file: file.to_owned(),
                        line: line_of(text, &value.span()),
                        key: key.get_ref().to_string(),
                        problem,
                    });
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &Spanned<DeString<'_>>, value: &DeValue<'_>) -> Result<Known, String> {
        match key.get_ref().as_ref() {
            "repository" => {
                let text = text(value)?;
                self.repository = match text {
                    "" => None,
                    text => Some(Repository::parse(text).map_err(|error| error.to_string())?),
                };
            }
            "mirrors" => self.mirrors = mirrors(value)?,
            "bandwidth" => {
                self.bandwidth = match text(value)? {
                    "" => None,
                    text => Some(Bandwidth::parse(text).map_err(|error| error.to_string())?),
                };
            }
            "ca_certificates" => {
                self.ca_certificates =
                    Authorities::parse(text(value)?).map_err(|error| error.to_string())?;
            }
            "channel" => {
                self.channel =
                    ChannelName::parse(text(value)?).map_err(|error| error.to_string())?;
            }
            "tries" => {
                let tries = value
                    .as_integer()
                    .and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
                self.tries = tries
                    .filter(|tries| (1..=MAX_TRIES).contains(tries))
                    .ok_or_else(|| format!("is not a whole number from 1 to {MAX_TRIES}"))?;
            }
            _ => return Ok(Known::No),
        }
        Ok(Known::Yes)
    }
}

enum Known {
    Yes,
    No,
}

fn text<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    value
        .as_str()
        .ok_or_else(|| format!("must be a string, not {}", value.type_str()))
}

fn mirrors(value: &DeValue<'_>) -> Result<Vec<Repository>, String> {
    let list = value.as_array();
    let list = list.ok_or_else(|| format!("must be a list, not {}", value.type_str()))?;
    let read = |value: &Spanned<DeValue<'_>>| {
        let text = text(value.get_ref())?;
        Repository::parse(text).map_err(|error| format!("{text:?} {error}"))
    };
    list.iter().map(read).collect()
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

/// The address of a repository: a folder, over HTTP or on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository(Url);

/// Why a text is no address of a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRepository {
    #[error("is not a URL: {0}")]
    NotUrl(url::ParseError),
    #[error("is a {0} URL; http, https and file are known")]
    UnknownScheme(String),
    #[error("must name a folder on this machine, as in file:///srv/repository or /srv/repository")]
    NotLocal,
    #[error("must not hold a user name or password: they would show in every message")]
    HoldsPassword,
    #[error("must not have a part after '?' or '#': names of files are put behind it")]
    HoldsQuery,
}

impl Repository {
    /// Returns the repository at `text`: a URL, or the path of a folder.
    pub fn parse(text: &str) -> Result<Self, BadRepository> {
        let mut url = match text.starts_with('/') {
            true => Url::from_directory_path(text).map_err(|()| BadRepository::NotLocal)?,
            false => Url::parse(text).map_err(BadRepository::NotUrl)?,
        };
        match url.scheme() {
            "http" | "https" => {}
            "file" if url.to_file_path().is_ok() => {}
            "file" => return Err(BadRepository::NotLocal),
            other => return Err(BadRepository::UnknownScheme(other.to_owned())),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadRepository::HoldsPassword);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(BadRepository::HoldsQuery);
        }
        // Without the slash, joining a name would replace the last folder.
        if !url.path().ends_with('/') {
            let folder = format!("{}/", url.path());
            url.set_path(&folder);
        }
        Ok(Self(url))
    }

    /// Returns the folder of the TUF metadata.
    pub fn metadata(&self) -> Url {
        self.folder("metadata/")
    }

    /// Returns the folder of the TUF targets.
    pub fn targets(&self) -> Url {
        self.folder("targets/")
    }

    /// Returns where `blob` lies.
    pub fn blob(&self, blob: &Blob) -> Url {
        self.folder(&blob.path().to_string())
    }

    /// Returns whether the repository is reached over HTTP.
    pub fn is_remote(&self) -> bool {
        self.0.scheme() != "file"
    }

    fn folder(&self, name: &str) -> Url {
        self.0
            .join(name)
            .expect("a name without a scheme joins any base that parsed")
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<(Config, Vec<String>), String> {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..texts.len())
            .map(|number| folder.path().join(format!("{number}.toml")))
            .collect();
        for (file, text) in files.iter().zip(texts) {
            std::fs::write(file, text).unwrap();
        }
        let shorten = |text: String| text.replace(&format!("{}/", folder.path().display()), "");
        match Config::read(&files) {
            Ok((config, unknown)) => Ok((
                config,
                unknown.iter().map(|key| shorten(key.to_string())).collect(),
            )),
            Err(error) => Err(shorten(error.to_string())),
        }
    }

    #[test]
    fn a_later_file_overrides_an_earlier_one_key_by_key() {
        let (config, unknown) = read(&[
            "repository = \"http://one/\"\nchannel = \"stable\"\ntries = 3\n",
            "channel = \"canary\"",
            "repository = \"https://two/base\"",
        ])
        .unwrap();
        assert_eq!(config.repository.unwrap().to_string(), "https://two/base/");
        assert_eq!(config.channel.as_str(), "canary");
        assert_eq!(config.tries, 3);
        assert!(unknown.is_empty());
    }

    #[test]
    fn the_defaults_that_are_shipped_are_those_of_the_code() {
        let shipped =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd-units/config/updater.toml");
        let (config, unknown) = Config::read(&[shipped]).unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(unknown, []);
    }

    #[test]
    fn files_that_are_not_there_leave_the_defaults() {
        let (config, _) = Config::read(&[PathBuf::from("/nonexistent/updater.toml")]).unwrap();
        assert_eq!(config, Config::default());
    }

    #[test]
    fn a_bad_value_is_named_by_file_line_and_key() {
        for (text, expected) in [
            (
                "tries = 3\nchannel = 7\n",
                "0.toml:2: channel must be a string, not integer",
            ),
            (
                "tries = 0",
                "0.toml:1: tries is not a whole number from 1 to 10",
            ),
            (
                "tries = 11",
                "0.toml:1: tries is not a whole number from 1 to 10",
            ),
            (
                "tries = \"3\"",
                "0.toml:1: tries is not a whole number from 1 to 10",
            ),
            (
                "\n\nrepository = \"ftp://x/\"",
                "0.toml:3: repository is a ftp URL; http, https and file are known",
            ),
            (
                "ca_certificates = \"/etc/ssl/own.pem\"",
                "0.toml:1: ca_certificates holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
            ),
            (
                "\nmirrors = \"http://one/\"",
                "0.toml:2: mirrors must be a list, not string",
            ),
            (
                "mirrors = [\"/srv/one\", \"gopher://two/\"]",
                "0.toml:1: mirrors \"gopher://two/\" is a gopher URL; http, https and file are known",
            ),
            (
                "bandwidth = \"20 Mbit/s\"",
                "0.toml:1: bandwidth is no bandwidth of at least 1 KiB/s, as in \"20 MiB/s\"; \
                 known are B, KiB, MiB, GiB, kB, MB and GB",
            ),
            (
                "repository = \"http://user:secret@x/\"",
                "0.toml:1: repository must not hold a user name or password: they would show in every message",
            ),
        ] {
            assert_eq!(read(&[text]).unwrap_err(), expected);
        }
        let garbage = "ca_certificates = \"\"\"\n-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n\"\"\"";
        let unusable = read(&[garbage]).unwrap_err();
        let expected = "0.toml:1: ca_certificates holds a certificate that cannot be used: ";
        assert!(unusable.starts_with(expected), "{unusable}");
        let syntax = read(&["tries = 3\nchannel = \"sta\n"]).unwrap_err();
        assert!(syntax.starts_with("0.toml:2: "), "{syntax}");
    }

    #[test]
    fn a_key_of_a_newer_version_is_told_and_ignored() {
        let (config, unknown) = read(&["tries = 5\npeers = []\n"]).unwrap();
        assert_eq!(config.tries, 5);
        assert_eq!(unknown, ["0.toml:2: nothing is called \"peers\" here"]);
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let text = "#".repeat(70_000);
        assert_eq!(
            read(&[&text]).unwrap_err(),
            "0.toml is larger than 65536 bytes"
        );
    }

    #[test]
    fn an_empty_repository_is_none() {
        let (config, _) = read(&["repository = \"http://one/\"", "repository = \"\""]).unwrap();
        assert_eq!(config.repository, None);
    }

    #[test]
    fn mirrors_are_asked_after_the_repository_in_the_order_given() {
        let (config, unknown) = read(&[
            "mirrors = [\"http://old/\"]",
            "repository = \"https://one/\"\nmirrors = [\"http://two/base\", \"/srv/a b/\"]",
            "bandwidth = \"20 MiB/s\"",
        ])
        .unwrap();
        assert_eq!(unknown, Vec::<String>::new());
        let servers: Vec<_> = config.servers().iter().map(ToString::to_string).collect();
        let expected = ["https://one/", "http://two/base/", "file:///srv/a%20b/"];
        assert_eq!(servers, expected);
        assert_eq!(config.bandwidth, Bandwidth::parse("20 MiB/s").ok());
        let (config, _) = read(&["bandwidth = \"1 MiB/s\"", "bandwidth = \"\""]).unwrap();
        assert_eq!(config.bandwidth, None);
    }

    #[test]
    fn names_of_files_go_behind_the_whole_path_of_the_repository() {
        for base in ["http://host:8080/a/b", "http://host:8080/a/b/"] {
            let repository = Repository::parse(base).unwrap();
            assert_eq!(
                repository.metadata().as_str(),
                "http://host:8080/a/b/metadata/"
            );
            assert_eq!(
                repository.targets().as_str(),
                "http://host:8080/a/b/targets/"
            );
        }
        assert!(
            !Repository::parse("file:///srv/repository")
                .unwrap()
                .is_remote()
        );
        assert_eq!(
            Repository::parse("file://host/srv"),
            Err(BadRepository::NotLocal)
        );
        assert_eq!(
            Repository::parse("http://h/?a"),
            Err(BadRepository::HoldsQuery)
        );
    }
}
