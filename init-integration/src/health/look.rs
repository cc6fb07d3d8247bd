//! What a check sees when it looks once.

use std::error::Error;

use crate::report::Chain;

use super::gate::{Failure, Outcome};

/// What one look showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Well,
    /// It takes longer, and nothing speaks against it so far.
    Working {
        /// The unit that is waited for, where the check knows one.
        unit: Option<String>,
        what: String,
    },
    Ill(Ailment),
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ailment {
    /// The unit to look at, where the check knows one.
    pub unit: Option<String>,
    pub reason: String,
    /// What the check has to show for it.
    pub lines: Vec<String>,
}

impl Look {
    /// Returns a look that shows something wrong.
    pub fn ill(reason: impl Into<String>) -> Self {
        Self::Ill(Ailment {
            unit: None,
            reason: reason.into(),
            lines: Vec::new(),
        })
    }

    /// Returns a look at work that is not done.
    pub fn working(what: impl Into<String>) -> Self {
        Self::Working {
            unit: None,
            what: what.into(),
        }
    }

    /// Returns a look that `error` kept from showing anything.
    pub fn failed(error: &(dyn Error + 'static)) -> Self {
        Self::ill(Chain(error).to_string())
    }

    /// Returns the same look with `unit` to blame if it shows something wrong.
    pub fn blaming(self, unit: Option<&str>) -> Self {
        match self {
            Self::Ill(ailment) => Self::Ill(Ailment {
                unit: ailment.unit.or_else(|| unit.map(str::to_owned)),
                ..ailment
            }),
            Self::Well | Self::Working { .. } => self,
        }
    }

    /// Returns what the look of the check named `check` means to the gate.
    pub fn outcome(self, check: &str) -> Outcome {
        match self {
            Self::Well => Outcome::Holds,
            Self::Working { unit, what } => Outcome::Working(Failure {
                unit,
                ..Failure::new(check, what)
            }),
            Self::Ill(Ailment {
                unit,
                reason,
                lines,
            }) => Outcome::Fails(Failure {
                check: check.to_owned(),
                unit,
                reason,
                lines,
            }),
        }
    }
}
