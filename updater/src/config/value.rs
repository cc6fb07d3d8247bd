//! One value of a file of settings, and what is wrong with it.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// A value that will not do.
#[derive(Debug)]
pub(super) struct BadValue {
    /// Where it stands in the file.
    pub(super) span: Range<usize>,
    /// The key, with those around it in front.
    pub(super) key: String,
    pub(super) problem: String,
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    key: String,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Entry<'a> {
    pub(super) fn new(key: &Spanned<DeString<'_>>, value: &'a Spanned<DeValue<'a>>) -> Self {
        Self {
            key: key.get_ref().to_string(),
            value,
        }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn bad(&self, problem: &str) -> BadValue {
        BadValue {
            span: self.value.span(),
            key: self.key.clone(),
            problem: problem.to_owned(),
        }
    }

    fn not_a(&self, what: &str) -> BadValue {
        let found = self.value.get_ref().type_str();
        self.bad(&format!("must be {what}, not {found}"))
    }

    pub(super) fn text(&self) -> Result<&'a str, BadValue> {
        self.value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.not_a("a string"))
    }

    /// Returns what `parse` makes of the text.
    pub(super) fn parsed<T, E: fmt::Display>(
        &self,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, BadValue> {
        parse(self.text()?).map_err(|error| self.bad(&error.to_string()))
    }

    pub(super) fn whole_number(&self, range: RangeInclusive<u32>) -> Result<u32, BadValue> {
        let number = self.value.get_ref().as_integer();
        number
            .and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (first, last) = (range.start(), range.end());
                self.bad(&format!("is not a whole number from {first} to {last}"))
            })
    }

    /// Returns the values of a list, each under the list's key.
    pub(super) fn list(&self) -> Result<Vec<Self>, BadValue> {
        let values = self.value.get_ref().as_array();
        let values = values.ok_or_else(|| self.not_a("a list"))?;
        let entry = |value| Self {
            key: self.key.clone(),
            value,
        };
        Ok(values.iter().map(entry).collect())
    }

    /// Returns the entries of a table, each under its key behind the table's.
    pub(super) fn table(&self) -> Result<Vec<Self>, BadValue> {
        let table: Option<&'a DeTable<'a>> = self.value.get_ref().as_table();
        let table = table.ok_or_else(|| self.not_a("a table"))?;
        let entry = |(key, value): (&Spanned<DeString<'_>>, &'a Spanned<DeValue<'a>>)| Self {
            key: format!("{}.{}", self.key, key.get_ref()),
            value,
        };
        Ok(table.iter().map(entry).collect())
    }
}
