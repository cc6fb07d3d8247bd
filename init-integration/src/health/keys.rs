//! The keys of a TOML file, taken one by one.
//!
//! By hand and not by derive, since a mistake has to be named with file, line and key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::time_span;

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

/// The keys of a file, each taken at most once.
pub(super) struct Keys<'a> {
    file: &'a Path,
    text: &'a str,
    table: DeTable<'a>,
    taken: Vec<(String, usize)>,
}

impl<'a> Keys<'a> {
    pub(super) fn parse(file: &'a Path, text: &'a str) -> Result<Self, BadDeclaration> {
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

    pub(super) fn optional<T>(
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

    pub(super) fn required<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(Entry<'a>) -> Result<T, String>,
    ) -> Result<T, BadDeclaration> {
        match self.optional(key, read)? {
            Some(value) => Ok(value),
            None => Err(self.mistake(key, "is missing")),
        }
    }

    pub(super) fn nothing_else(self) -> Result<(), BadDeclaration> {
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

    pub(super) fn mistake(&self, key: &str, what: impl Into<String>) -> BadDeclaration {
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
pub(super) struct Entry<'a>(Spanned<DeValue<'a>>);

impl Entry<'_> {
    pub(super) fn text(self) -> Result<String, String> {
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

    pub(super) fn time_span(self) -> Result<Duration, String> {
        time_span::parse(&self.text()?).map_err(|error| error.to_string())
    }

    pub(super) fn unit(self) -> Result<String, String> {
        let unit = self.text()?;
        let (name, kind) = unit.rsplit_once('.').unwrap_or_default();
        let good = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if name.is_empty() || kind.is_empty() || !unit.chars().all(good) {
            return Err(format!("is the full name of a systemd unit, not {unit:?}"));
        }
        Ok(unit)
    }

    pub(super) fn url(self) -> Result<reqwest::Url, String> {
        let text = self.text()?;
        let url =
            reqwest::Url::parse(&text).map_err(|error| format!("{text:?} is no URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("is an http or https URL, not {text:?}"));
        }
        Ok(url)
    }

    pub(super) fn status(self) -> Result<u16, String> {
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

    pub(super) fn argv(self) -> Result<Vec<String>, String> {
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
