//! The checks and the policy as declared in TOML.
//!
//! A check is a file; its name is the file's without `.toml`:
//!
//! ```toml
//! kind = "unit"              # or "http", or "command"
//! unit = "containerd.service"
//! importance = "required"    # the default; or "advisory"
//! timeout = "5s"             # the default is 10s; at most 1min
//! ```
//!
//! | kind | keys | holds when |
//! |---|---|---|
//! | `unit` | `unit` | systemd says that it is active, and it was not started anew since the last look |
//! | `http` | `url`, `status` (any 2xx when absent), `unit` (to blame, optional) | a GET is answered so; redirections are not followed |
//! | `command` | `argv` (an absolute path first; no shell), `unit` (optional) | it exits with 0 |
//!
//! Files are read by hand and not by derive, since a mistake has to be named with file, line and key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::gate::{Importance, Policy};
use super::time_span;

/// How long a check may take, unless it says so itself.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The watchdog of the gate's unit is derived from it: a round of checks takes as long as the slowest.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// A declared check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    pub importance: Importance,
    pub timeout: Duration,
    pub check: Check,
}

/// What is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Unit {
        unit: String,
    },
    Http {
        url: reqwest::Url,
        status: Option<u16>,
        unit: Option<String>,
    },
    Command {
        argv: Vec<String>,
        unit: Option<String>,
    },
}

/// A mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BadDeclaration {
    pub file: PathBuf,
    /// Counted from 1; none when the mistake is the absence of something.
    pub line: Option<usize>,
    pub key: Option<String>,
    pub what: String,
}

impl fmt::Display for BadDeclaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl Declaration {
    /// Reads the check that `text`, the content of `file`, declares.
    pub fn parse(file: &Path, text: &str) -> Result<Self, BadDeclaration> {
        let mut keys = Keys::parse(file, text)?;
        let kind = keys.required("kind", Entry::text)?;
        let importance = keys.optional("importance", |entry| match entry.text()?.as_str() {
            "required" => Ok(Importance::Required),
            "advisory" => Ok(Importance::Advisory),
            other => Err(format!("is \"required\" or \"advisory\", not {other:?}")),
        })?;
        let timeout = keys.optional("timeout", |entry| match entry.time_span()? {
            timeout if timeout.is_zero() || timeout > MAX_TIMEOUT => Err(format!(
                "is more than 0 and at most {} s",
                MAX_TIMEOUT.as_secs()
            )),
            timeout => Ok(timeout),
        })?;
        let check = match kind.as_str() {
            "unit" => Check::Unit {
                unit: keys.required("unit", Entry::unit)?,
            },
            "http" => Check::Http {
                url: keys.required("url", Entry::url)?,
                status: keys.optional("status", Entry::status)?,
                unit: keys.optional("unit", Entry::unit)?,
            },
            "command" => Check::Command {
                argv: keys.required("argv", Entry::argv)?,
                unit: keys.optional("unit", Entry::unit)?,
            },
            other => {
                let what = format!("is \"unit\", \"http\" or \"command\", not {other:?}");
                return Err(keys.mistake("kind", what));
            }
        };
        keys.nothing_else()?;
        Ok(Self {
            importance: importance.unwrap_or(Importance::Required),
            timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
            check,
        })
    }
}

/// Takes the keys of a policy file over those in `policy`: `soak` and `deadline`.
pub fn parse_policy(file: &Path, text: &str, policy: Policy) -> Result<Policy, BadDeclaration> {
    let mut keys = Keys::parse(file, text)?;
    let soak = keys
        .optional("soak", Entry::time_span)?
        .unwrap_or(policy.soak);
    let deadline = keys
        .optional("deadline", Entry::time_span)?
        .unwrap_or(policy.deadline);
    if deadline <= soak {
        let what = format!(
            "is longer than the soak time of {} s, or nothing is ever good",
            soak.as_secs()
        );
        return Err(keys.mistake("deadline", what));
    }
    keys.nothing_else()?;
    Ok(Policy { soak, deadline })
}

/// The keys of a file, each taken at most once.
struct Keys<'a> {
    file: &'a Path,
    text: &'a str,
    table: DeTable<'a>,
    taken: Vec<(String, usize)>,
}

impl<'a> Keys<'a> {
    fn parse(file: &'a Path, text: &'a str) -> Result<Self, BadDeclaration> {
        let table = DeTable::parse(text).map_err(|error| BadDeclaration {
            file: file.to_owned(),
            line: error.span().map(|span| line_of(text, span.start)),
            key: None,
            what: error.message().to_owned(),
        })?;
        Ok(Self {
            file,
            text,
            table: table.into_inner(),
            taken: Vec::new(),
        })
    }

    fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(Entry<'a>) -> Result<T, String>,
    ) -> Result<Option<T>, BadDeclaration> {
        let Some((name, value)) = self.table.remove_entry(key) else {
            return Ok(None);
        };
        self.taken
            .push((key.to_owned(), line_of(self.text, name.span().start)));
        match read(Entry(value)) {
            Ok(value) => Ok(Some(value)),
            Err(what) => Err(self.mistake(key, what)),
        }
    }

    fn required<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(Entry<'a>) -> Result<T, String>,
    ) -> Result<T, BadDeclaration> {
        match self.optional(key, read)? {
            Some(value) => Ok(value),
            None => Err(self.mistake(key, "is missing")),
        }
    }

    fn nothing_else(self) -> Result<(), BadDeclaration> {
        let Some((name, _)) = self.table.iter().next() else {
            return Ok(());
        };
        Err(BadDeclaration {
            file: self.file.to_owned(),
            line: Some(line_of(self.text, name.span().start)),
            key: Some(name.get_ref().clone().into_owned()),
            what: "is no key of this".to_owned(),
        })
    }

    fn mistake(&self, key: &str, what: impl Into<String>) -> BadDeclaration {
        let line = self
            .taken
            .iter()
            .find(|(taken, _)| taken == key)
            .map(|(_, line)| *line);
        BadDeclaration {
            file: self.file.to_owned(),
            line,
            key: Some(key.to_owned()),
            what: what.into(),
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text
        .bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
}

/// The value of a key.
struct Entry<'a>(Spanned<DeValue<'a>>);

impl Entry<'_> {
    fn text(self) -> Result<String, String> {
        match self.0.into_inner() {
            DeValue::String(text) => Ok(text.into_owned()),
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => Err("is a text in quotes".to_owned()),
        }
    }

    fn time_span(self) -> Result<Duration, String> {
        time_span::parse(&self.text()?).map_err(|error| error.to_string())
    }

    fn unit(self) -> Result<String, String> {
        let unit = self.text()?;
        let (name, kind) = unit.rsplit_once('.').unwrap_or_default();
        let good = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if name.is_empty() || kind.is_empty() || !unit.chars().all(good) {
            return Err(format!("is the full name of a systemd unit, not {unit:?}"));
        }
        Ok(unit)
    }

    fn url(self) -> Result<reqwest::Url, String> {
        let text = self.text()?;
        let url =
            reqwest::Url::parse(&text).map_err(|error| format!("{text:?} is no URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("is an http or https URL, not {text:?}"));
        }
        Ok(url)
    }

    fn status(self) -> Result<u16, String> {
        let wrong = || "is an HTTP status from 100 to 599".to_owned();
        match self.0.into_inner() {
            DeValue::Integer(number) => u16::from_str_radix(number.as_str(), number.radix())
                .ok()
                .filter(|status| (100..600).contains(status))
                .ok_or_else(wrong),
            DeValue::String(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => Err(wrong()),
        }
    }

    fn argv(self) -> Result<Vec<String>, String> {
        let wrong = || "is a list of texts, an absolute path first".to_owned();
        let DeValue::Array(items) = self.0.into_inner() else {
            return Err(wrong());
        };
        let argv: Vec<String> = items
            .into_iter()
            .map(|item| Entry(item).text())
            .collect::<Result<_, _>>()
            .map_err(|_| wrong())?;
        match argv.first() {
            Some(program) if Path::new(program).is_absolute() => Ok(argv),
            Some(_) | None => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Declaration, String> {
        Declaration::parse(Path::new("health.d/web.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_unit_is_required_and_has_ten_seconds_unless_told() {
        let unit = Check::Unit {
            unit: "containerd.service".to_owned(),
        };
        assert_eq!(
            parse("kind = \"unit\"\nunit = \"containerd.service\"\n"),
            Ok(Declaration {
                importance: Importance::Required,
                timeout: DEFAULT_TIMEOUT,
                check: unit
            })
        );
    }

    #[test]
    fn every_key_is_taken() {
        let http = parse(
            "kind = 'http'\nurl = 'http://127.0.0.1:10248/healthz'\nstatus = 204\nunit = 'kubelet.service'\nimportance = 'advisory'\ntimeout = '500ms'\n",
        )
        .unwrap();
        assert_eq!(
            (http.importance, http.timeout),
            (Importance::Advisory, Duration::from_millis(500))
        );
        let Check::Http { url, status, unit } = http.check else {
            panic!("no http check")
        };
        assert_eq!(
            (url.as_str(), status, unit.as_deref()),
            (
                "http://127.0.0.1:10248/healthz",
                Some(204),
                Some("kubelet.service")
            )
        );
        let command = parse("kind = 'command'\nargv = ['/usr/bin/true', '-x']\n").unwrap();
        let argv = vec!["/usr/bin/true".to_owned(), "-x".to_owned()];
        assert_eq!(command.check, Check::Command { argv, unit: None });
    }

    #[test]
    fn a_mistake_is_named_with_file_line_and_key() {
        for (text, said) in [
            ("", "health.d/web.toml: kind: is missing"),
            ("kind = 'unit'\n", "health.d/web.toml: unit: is missing"),
            (
                "# a\nkind = 'ping'\n",
                "health.d/web.toml:2: kind: is \"unit\", \"http\" or \"command\", not \"ping\"",
            ),
            (
                "kind = 'unit'\nunit = 'web'\n",
                "health.d/web.toml:2: unit: is the full name of a systemd unit, not \"web\"",
            ),
            (
                "kind = 'unit'\nunit = 7\n",
                "health.d/web.toml:2: unit: is a text in quotes",
            ),
            (
                "kind = 'unit'\nunit = 'a.service'\ncolour = 1\n",
                "health.d/web.toml:3: colour: is no key of this",
            ),
            (
                "kind = 'unit'\nunit = 'a.service'\nurl = 'http://x'\n",
                "health.d/web.toml:3: url: is no key of this",
            ),
            (
                "kind = 'unit'\nunit = 'a.service'\ntimeout = '2min'\n",
                "health.d/web.toml:3: timeout: is more than 0 and at most 60 s",
            ),
            (
                "kind = 'unit'\nunit = 'a.service'\nimportance = 'high'\n",
                "health.d/web.toml:3: importance: is \"required\" or \"advisory\", not \"high\"",
            ),
            (
                "kind = 'http'\nurl = 'ftp://x/'\n",
                "health.d/web.toml:2: url: is an http or https URL, not \"ftp://x/\"",
            ),
            (
                "kind = 'http'\nurl = 'http://x/'\nstatus = 99\n",
                "health.d/web.toml:3: status: is an HTTP status from 100 to 599",
            ),
            (
                "kind = 'command'\nargv = 'true'\n",
                "health.d/web.toml:2: argv: is a list of texts, an absolute path first",
            ),
            (
                "kind = 'command'\nargv = []\n",
                "health.d/web.toml:2: argv: is a list of texts, an absolute path first",
            ),
            (
                "kind = 'command'\nargv = ['true']\n",
                "health.d/web.toml:2: argv: is a list of texts, an absolute path first",
            ),
        ] {
            assert_eq!(parse(text), Err(said.to_owned()), "{text}");
        }
        let broken = parse("kind = 'unit'\nunit = \n").unwrap_err();
        assert!(broken.starts_with("health.d/web.toml:2: "), "{broken}");
    }

    #[test]
    fn a_policy_is_overridden_key_by_key() {
        let policy = Policy {
            soak: Duration::from_secs(15),
            deadline: Duration::from_secs(180),
        };
        let file = Path::new("health.toml");
        assert_eq!(parse_policy(file, "", policy), Ok(policy));
        let shorter = parse_policy(file, "deadline = '1min'", policy).unwrap();
        assert_eq!(
            shorter,
            Policy {
                deadline: Duration::from_secs(60),
                ..policy
            }
        );
        let error = parse_policy(file, "soak = '1min'\ndeadline = '30s'", policy).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("health.toml:2: deadline: is longer than the soak"),
            "{error}"
        );
        assert!(parse_policy(file, "soak = 15", policy).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_file_upsets_the_parser(text in "[a-z =\"'\\[\\]\n0-9.:/]*") {
            drop(parse(&text));
        }
    }
}
