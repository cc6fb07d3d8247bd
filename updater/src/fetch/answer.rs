use std::ops::Range;

use reqwest::header::ACCEPT_RANGES;
use reqwest::{Response, StatusCode};

use super::http::{ContentRange, Part};
use crate::ports::RangeSupport;

/// What an answer's headers promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The bytes of the blob that the body holds.
    pub(super) body: Range<u64>,
    pub(super) ranges: RangeSupport,
}

/// Why it is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The blob ends there.
    Short(u64),
    Other(String),
}

impl Answer {
    /// Holds an answer that says it brings a file against what was asked for,
    /// which is a blob of `size` bytes or a part of it.
    pub(super) fn of(response: &Response, asked: &Part, size: u64) -> Result<Self, Fault> {
        let length = response.content_length();
        if response.status() != StatusCode::PARTIAL_CONTENT {
            let accepts = response.headers().get(ACCEPT_RANGES);
            let ranges = match (asked, accepts.map(|units| units.as_bytes())) {
                // It may promise what it likes.
                (Part::From(_) | Part::Within(_), _) | (Part::Whole, Some(b"none")) => {
                    RangeSupport::No
                }
                (Part::Whole, Some(b"bytes")) => RangeSupport::Yes,
                (Part::Whole, _) => RangeSupport::Unknown,
            };
            if let Some(length) = length {
                check_size(length, size)?;
            }
            let body = 0..size;
            return Ok(Self { body, ranges });
        }
        let Some(range) = ContentRange::of(response) else {
            return Err(other("a part comes without saying which"));
        };
        if let Some(found) = range.size {
            check_size(found, size)?;
        }
        let wanted = match asked {
            Part::Whole => return Err(other("a part comes where the whole was asked for")),
            Part::From(start) => *start..size,
            Part::Within(range) => range.clone(),
        };
        let body = match range.body {
            Some(body) if body.start == wanted.start => body,
            other => {
                let from = other.map(|body| body.start.to_string());
                return Err(Fault::Other(format!(
                    "bytes from {} were asked for, those from {} come",
                    wanted.start,
                    from.as_deref().unwrap_or("nowhere"),
                )));
            }
        };
        if body.end > wanted.end {
            return Err(Fault::Other(format!(
                "bytes to {} were asked for, those to {} come",
                wanted.end, body.end
            )));
        }
        if length.is_some_and(|length| length != body.end - body.start) {
            return Err(other("the length of a part is not that of its range"));
        }
        Ok(Self {
            body,
            ranges: RangeSupport::Yes,
        })
    }
}

fn check_size(found: u64, size: u64) -> Result<(), Fault> {
    match found.cmp(&size) {
        std::cmp::Ordering::Less => Err(Fault::Short(found)),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Fault::Other(format!(
            "it has {found} bytes, the release says {size}"
        ))),
    }
}

fn other(why: &str) -> Fault {
    Fault::Other(why.to_owned())
}
