//! What callers ask for, read from what the bus brought. What is not known is refused.

use std::collections::HashMap;

use partition_layout::{RootHash, Version};
use zbus::Variant;

use crate::admit::{Ask, Force};
use crate::machine::Complaint;
use crate::plain::plain;
use crate::refusal::Refused;

/// A reason is a sentence or two; it is kept in files and shown on terminals.
const MAX_TEXT_BYTES: usize = 1024;
/// More lines than are kept are no mistake, but this many are a flood.
const MAX_LINES: usize = 1000;

/// `a{sv}`, as a caller sent it.
pub type Options<'a> = HashMap<String, Variant<'a>>;

/// Reads what is to be staged, and how.
pub fn stage_ask(version: &str, options: &Options<'_>, tries: u32) -> Result<Ask, Refused> {
    let version = match version {
        "" => None,
        version => Some(Version::parse(version).map_err(|error| bad(&error.to_string()))?),
    };
    let mut ask = Ask {
        version,
        force: Force::No,
        tries,
    };
    for (key, value) in options {
        match (key.as_str(), value) {
            ("force", Variant::Bool(true)) => ask.force = Force::ByName,
            ("force", Variant::Bool(false)) => ask.force = Force::No,
            ("tries", Variant::U32(tries)) => ask.tries = *tries,
            (key, _) => return Err(unknown(key)),
        }
    }
    Ok(ask)
}

/// Reads what is to be planned: tries mean nothing to it.
pub fn plan_ask(version: &str, options: &Options<'_>, tries: u32) -> Result<Ask, Refused> {
    match options.contains_key("tries") {
        true => Err(unknown("tries")),
        false => stage_ask(version, options, tries),
    }
}

/// Reads why a trial has failed.
pub fn complaint(reason: &str, details: &Options<'_>) -> Result<Complaint, Refused> {
    let mut complaint = Complaint {
        reason: text("reason", reason)?,
        ..Complaint::default()
    };
    for (key, value) in details {
        match (key.as_str(), value) {
            ("check", Variant::Str(check)) => complaint.check = text("check", check)?,
            ("unit", Variant::Str(unit)) => complaint.unit = text("unit", unit)?,
            ("lines", Variant::Array(lines)) if lines.len() <= MAX_LINES => {
                complaint.lines = lines
                    .iter()
                    .map(|line| {
                        let line = line.downcast_ref::<&str>();
                        line.map(plain).map_err(|_| unknown("lines"))
                    })
                    .collect::<Result<_, _>>()?;
            }
            (key, _) => return Err(unknown(key)),
        }
    }
    Ok(complaint)
}

/// Reads a root hash.
pub fn root_hash(text: &str) -> Result<RootHash, Refused> {
    RootHash::parse(text).map_err(|error| bad(&error.to_string()))
}

/// Reads a text that is kept and shown.
pub fn text(what: &str, text: &str) -> Result<String, Refused> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(bad(&format!(
            "{what} has {} bytes, more than {MAX_TEXT_BYTES}",
            text.len()
        )));
    }
    Ok(plain(text))
}

fn unknown(key: &str) -> Refused {
    bad(&format!("there is no option {key:?} of that type"))
}

fn bad(message: &str) -> Refused {
    Refused::BadArgument(message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_option_is_refused_rather_than_ignored() {
        let options = HashMap::from([("froce".to_owned(), Variant::from(true))]);
        assert!(matches!(
            stage_ask("2", &options, 3),
            Err(Refused::BadArgument(_))
        ));
        let options = HashMap::from([("force".to_owned(), Variant::from("yes"))]);
        assert!(matches!(
            stage_ask("2", &options, 3),
            Err(Refused::BadArgument(_))
        ));
    }

    #[test]
    fn options_are_read() {
        let options = HashMap::from([
            ("force".to_owned(), true.into()),
            ("tries".to_owned(), 2_u32.into()),
        ]);
        let ask = stage_ask("2", &options, 3).unwrap();
        assert_eq!((ask.force, ask.tries), (Force::ByName, 2));
        assert_eq!(stage_ask("", &HashMap::new(), 3).unwrap().version, None);
    }

    #[test]
    fn a_complaint_keeps_no_control_character() {
        let lines = Variant::from(vec!["a\u{1b}[2Jb"]);
        let complaint = complaint("x\ny", &HashMap::from([("lines".to_owned(), lines)])).unwrap();
        assert_eq!(complaint.reason, "x y");
        assert_eq!(complaint.lines, ["a [2Jb"]);
    }
}
