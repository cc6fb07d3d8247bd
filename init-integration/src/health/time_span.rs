//! Lengths of time as systemd writes them: `15s`, `5min`, `1min 30s`.

use std::time::Duration;

/// Why a text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no length of time such as \"15s\", \"500ms\", \"5min\" or \"1min 30s\"")]
pub struct BadTimeSpan {
    text: String,
}

/// Returns the length of time that `text` writes: whole numbers, each with its unit.
pub fn parse(text: &str) -> Result<Duration, BadTimeSpan> {
    let bad = || BadTimeSpan {
        text: text.to_owned(),
    };
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let number: u32 = number.parse().map_err(|_| bad())?;
        let letters = after.len()
            - after
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "min" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(bad()),
        };
        total = unit
            .checked_mul(number)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(bad)?;
        rest = after.trim_start();
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_writes_is_read() {
        for (text, millis) in [
            ("15s", 15_000),
            ("500ms", 500),
            ("5min", 300_000),
            ("1h", 3_600_000),
            ("1min 30s", 90_000),
            ("1min30s", 90_000),
            (" 0s ", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn the_rest_is_refused() {
        for text in [
            "",
            "15",
            "s",
            "-1s",
            "1.5s",
            "15 s",
            "1d",
            "99999999999s",
            "5 minutes",
            "1s,",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_upsets_the_parser(text: String) {
            drop(parse(&text));
        }
    }
}
