//! Path patterns of a declaration.

use std::fmt;

/// A pattern over absolute paths of an image: `*` stands for any text inside one path component,
/// `**` as a whole component for any number of components. A pattern matches a path, and with it
/// everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<String>);

impl Pattern {
    /// Reads a pattern; leading and trailing slashes mean nothing.
    pub fn parse(text: &str) -> Self {
        Self(components(text).map(str::to_owned).collect())
    }

    /// Says whether `path` or a folder above it matches.
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<&str> = components(path).collect();
        matches_components(&self.0, &path)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| write!(f, "/{part}"))
    }
}

impl<'de> serde::Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::parse(&text))
    }
}

impl serde::Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn components(text: &str) -> impl Iterator<Item = &str> {
    text.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
}

fn matches_components(pattern: &[String], path: &[&str]) -> bool {
    let Some((first, pattern_rest)) = pattern.split_first() else {
        return true;
    };
    if first == "**" {
        return (0..=path.len()).any(|skipped| {
            path.get(skipped..)
                .is_some_and(|path_rest| matches_components(pattern_rest, path_rest))
        });
    }
    path.split_first().is_some_and(|(name, path_rest)| {
        matches_text(first, name) && matches_components(pattern_rest, path_rest)
    })
}

/// Matches one component: the text between stars must occur in order.
fn matches_text(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|tail| {
            tail.char_indices()
                .map(|(at, _)| at)
                .chain([tail.len()])
                .any(|at| tail.get(at..).is_some_and(|tail| matches_text(rest, tail)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_lies_below_it_and_nothing_beside_it() {
        for (pattern, path, expected) in [
            ("/usr/share/doc", "/usr/share/doc", true),
            ("/usr/share/doc", "/usr/share/doc/x/copyright", true),
            ("/usr/share/doc", "/usr/share/doc-base", false),
            ("/usr/share/doc", "/usr/share", false),
            ("/usr/lib/*.a", "/usr/lib/libc.a", true),
            ("/usr/lib/*.a", "/usr/lib/libc.so", false),
            ("/usr/lib/*.a", "/usr/lib/x/libc.a", false),
            ("/usr/lib/**/*.a", "/usr/lib/x/y/libc.a", true),
            ("/usr/lib/**/*.a", "/usr/lib/libc.a", true),
            ("/a/*-b-*", "/a/x-b-y", true),
            ("/a/*-b-*", "/a/x-b", false),
            ("/a/*b", "/a/abab", true),
        ] {
            assert_eq!(
                Pattern::parse(pattern).matches(path),
                expected,
                "{pattern} over {path}"
            );
        }
    }
}
