//! The text format: https://prometheus.io/docs/instrumenting/exposition_formats/

use std::fmt::Write;
use std::time::Duration;

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only grows; its name ends in `_total`.
    Counter,
}

/// A page of numbers, family by family.
#[derive(Debug, Default)]
pub(super) struct Page(String);

/// The numbers of one name. A family without a sample leaves nothing on the page.
#[derive(Debug)]
pub(super) struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    is_begun: bool,
}

const MEMORY: &str = "writing to memory cannot fail";

impl Page {
    pub(super) const fn family(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &'static str,
    ) -> Family<'_> {
        Family {
            page: self,
            name,
            kind,
            help,
            is_begun: false,
        }
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        self.line(labels, &value.to_string());
    }

    /// Adds a time, in seconds.
    pub(super) fn seconds(&mut self, labels: &[(&str, &str)], time: Duration) {
        let value = format!("{}.{:03}", time.as_secs(), time.subsec_millis());
        self.line(labels, &value);
    }

    fn line(&mut self, labels: &[(&str, &str)], value: &str) {
        let (name, text) = (self.name, &mut self.page.0);
        if !self.is_begun {
            let kind = match self.kind {
                Kind::Gauge => "gauge",
                Kind::Counter => "counter",
            };
            writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", self.help).expect(MEMORY);
            self.is_begun = true;
        }
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
            .collect();
        match labels.as_slice() {
            [] => writeln!(text, "{name} {value}"),
            labels => writeln!(text, "{name}{{{}}} {value}", labels.join(",")),
        }
        .expect(MEMORY);
    }
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for char in value.chars() {
        match char {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            // Names of checks and units come from a file that anybody may have written, and a
            // NUL ends the bus connection on which the page is asked for.
            other if other.is_control() => text.push(' '),
            other => text.push(other),
        }
    }
    text
}
