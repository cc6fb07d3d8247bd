use zbus::DBusError;
use zbus::message::{Header, Message};

use crate::names::ErrorName;
use crate::plain::plain;
use crate::refusal::Failure;

/// A refusal or a failure, as the bus carries it: a name for programs and a
/// message for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct BusError(Failure);

impl BusError {
    pub(super) fn internal(message: &str) -> Self {
        Self(Failure {
            name: ErrorName::Internal,
            message: message.to_owned(),
        })
    }
}

impl From<Failure> for BusError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl From<zbus::Error> for BusError {
    fn from(error: zbus::Error) -> Self {
        Self(Failure::new(ErrorName::Internal, &error))
    }
}

impl DBusError for BusError {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        let message = plain(&self.0.message);
        Message::error(call, self.name()).build(&message.as_str())
    }

    fn name(&self) -> zbus::names::ErrorName<'_> {
        zbus::names::ErrorName::from_static_str_unchecked(self.0.name.on_bus())
    }

    fn description(&self) -> Option<&str> {
        Some(&self.0.message)
    }
}
