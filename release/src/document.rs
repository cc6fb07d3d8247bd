use std::fmt;

use serde_json::{Map, Value};

use crate::FORMAT;

/// A channel or release file is not what it must be: which field, and what is
/// wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", Prefix(.field))]
pub struct BadDocument {
    /// The field, as a path such as `blobs.root.sha256`; empty for the whole.
    pub field: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    #[error("is no JSON: {0}")]
    NotJson(String),
    #[error("is missing")]
    Missing,
    #[error("is not {0}")]
    WrongType(&'static str),
    #[error("is empty")]
    Empty,
    #[error("is {found}, which is more than {max}")]
    TooLarge { found: u64, max: u64 },
    #[error("is {found}, but this reader knows only {known}")]
    UnknownFormat { found: u64, known: u64 },
    #[error("is {found}, but must be {expected}")]
    Mismatch { found: String, expected: String },
    #[error("holds {0} twice")]
    Twice(String),
    #[error("{0}")]
    Malformed(String),
}

impl Problem {
    pub(crate) fn too_many(found: usize, max: usize) -> Self {
        Self::TooLarge {
            found: u64::try_from(found).unwrap_or(u64::MAX),
            max: u64::try_from(max).unwrap_or(u64::MAX),
        }
    }
}

impl BadDocument {
    pub(crate) fn whole(problem: Problem) -> Self {
        Self::field("", problem)
    }

    pub(crate) fn field(field: impl Into<String>, problem: Problem) -> Self {
        Self {
            field: field.into(),
            problem,
        }
    }
}

struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str("the file "),
            field => write!(f, "{field} "),
        }
    }
}

/// Returns the JSON value in `bytes`, which must not be more than `max`.
pub(crate) fn parse(bytes: &[u8], max: u64) -> Result<Value, BadDocument> {
    let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if found > max {
        return Err(BadDocument::whole(Problem::TooLarge { found, max }));
    }
    // The text of the parser's error has a line and a column, and no content.
    serde_json::from_slice(bytes)
        .map_err(|error| BadDocument::whole(Problem::NotJson(error.to_string())))
}

/// The fields of a JSON object, and where it stands in the file.
pub(crate) struct Fields<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Returns the fields of a whole file, once its `format` is known.
    pub(crate) fn of_document(value: &'a Value) -> Result<Self, BadDocument> {
        let fields = Self::of(value, String::new())?;
        let found = fields.number("format")?;
        if found != FORMAT {
            let problem = Problem::UnknownFormat {
                found,
                known: FORMAT,
            };
            return Err(fields.bad("format", problem));
        }
        Ok(fields)
    }

    fn of(value: &'a Value, path: String) -> Result<Self, BadDocument> {
        match value.as_object() {
            Some(map) => Ok(Self { path, map }),
            None => Err(BadDocument::field(path, Problem::WrongType("an object"))),
        }
    }

    pub(crate) fn bad(&self, name: &str, problem: Problem) -> BadDocument {
        BadDocument::field(self.path_of(name), problem)
    }

    fn path_of(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        }
    }

    /// Returns a field; one that is `null` is taken for absent.
    fn optional(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn required(&self, name: &str) -> Result<&'a Value, BadDocument> {
        self.optional(name)
            .ok_or_else(|| self.bad(name, Problem::Missing))
    }

    pub(crate) fn object(&self, name: &str) -> Result<Fields<'a>, BadDocument> {
        Fields::of(self.required(name)?, self.path_of(name))
    }

    pub(crate) fn optional_object(&self, name: &str) -> Result<Option<Fields<'a>>, BadDocument> {
        self.optional(name)
            .map(|value| Fields::of(value, self.path_of(name)))
            .transpose()
    }

    pub(crate) fn number(&self, name: &str) -> Result<u64, BadDocument> {
        self.as_number(name, self.required(name)?)
    }

    pub(crate) fn optional_number(&self, name: &str) -> Result<Option<u64>, BadDocument> {
        self.optional(name)
            .map(|value| self.as_number(name, value))
            .transpose()
    }

    pub(crate) fn text(&self, name: &str) -> Result<&'a str, BadDocument> {
        self.as_text(name, self.required(name)?)
    }

    pub(crate) fn optional_text(&self, name: &str) -> Result<Option<&'a str>, BadDocument> {
        self.optional(name)
            .map(|value| self.as_text(name, value))
            .transpose()
    }

    /// Returns a text field, parsed.
    pub(crate) fn parsed<T, E: std::error::Error>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, BadDocument> {
        parse(self.text(name)?).map_err(|error| self.malformed(name, &error))
    }

    /// Returns a field that is a list of texts, each parsed; at most `max`.
    pub(crate) fn parsed_list<T, E: std::error::Error>(
        &self,
        name: &str,
        max: usize,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, BadDocument> {
        let list = self.as_list(name, self.required(name)?, max)?;
        let entries = list.iter().enumerate().map(|(index, value)| {
            let entry = format!("{name}[{index}]");
            parse(self.as_text(&entry, value)?).map_err(|error| self.malformed(&entry, &error))
        });
        entries.collect()
    }

    /// Returns the objects of a field that is a list of them, at most `max`;
    /// none if it is absent.
    pub(crate) fn optional_objects(
        &self,
        name: &str,
        max: usize,
    ) -> Result<Vec<Fields<'a>>, BadDocument> {
        let Some(value) = self.optional(name) else {
            return Ok(Vec::new());
        };
        let list = self.as_list(name, value, max)?.iter().enumerate();
        list.map(|(index, value)| Fields::of(value, self.path_of(&format!("{name}[{index}]"))))
            .collect()
    }

    fn as_list(
        &self,
        name: &str,
        value: &'a Value,
        max: usize,
    ) -> Result<&'a Vec<Value>, BadDocument> {
        let list = value.as_array();
        let list = list.ok_or_else(|| self.bad(name, Problem::WrongType("a list")))?;
        if list.len() > max {
            return Err(self.bad(name, Problem::too_many(list.len(), max)));
        }
        Ok(list)
    }

    fn as_number(&self, name: &str, value: &Value) -> Result<u64, BadDocument> {
        value
            .as_u64()
            .ok_or_else(|| self.bad(name, Problem::WrongType("a whole number from 0 up")))
    }

    fn as_text(&self, name: &str, value: &'a Value) -> Result<&'a str, BadDocument> {
        value
            .as_str()
            .ok_or_else(|| self.bad(name, Problem::WrongType("a text")))
    }

    fn malformed(&self, name: &str, error: &dyn std::error::Error) -> BadDocument {
        self.bad(name, Problem::Malformed(error.to_string()))
    }
}
