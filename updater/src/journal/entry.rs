use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};

/// What a person reads of one value, far below what a datagram takes.
const VALUE_BYTES: usize = 16 * 1024;

/// An entry of the journal, field by field.
#[derive(Debug)]
pub(super) struct Entry {
    message: String,
    /// The fields behind the message, for people.
    shown: String,
    bytes: Vec<u8>,
}

impl Entry {
    pub(super) fn new(priority: u8) -> Self {
        let mut entry = Self {
            message: String::new(),
            shown: String::new(),
            bytes: Vec::new(),
        };
        entry.put("PRIORITY", &priority.to_string());
        entry.put("SYSLOG_IDENTIFIER", "bistable-updater");
        entry
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let message = format!("{}{}", self.message, self.shown);
        self.put("MESSAGE", &message);
        self.bytes
    }

    fn add(&mut self, name: &str, value: String) {
        match name {
            "message" => self.message = value,
            "message_id" => self.put("MESSAGE_ID", &value),
            name => {
                write!(self.shown, " {name}={value}").expect("writing to memory cannot fail");
                let name = format!("BISTABLE_{}", name.to_ascii_uppercase());
                self.put(&name, &value);
            }
        }
    }

    fn put(&mut self, name: &str, value: &str) {
        let value = crate::records::cut(value, VALUE_BYTES);
        self.bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            let len = u64::try_from(value.len()).expect("memory is smaller than 2^64 bytes");
            self.bytes.push(b'\n');
            self.bytes.extend_from_slice(&len.to_le_bytes());
        } else {
            self.bytes.push(b'=');
        }
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field.name(), format!("{value:?}"));
    }
}
