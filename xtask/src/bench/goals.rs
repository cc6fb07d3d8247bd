//! What the project has promised, and whether it holds.

use std::fmt;

/// Something promised, beside what was measured.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) found: f64,
    pub(crate) bound: f64,
    pub(crate) unit: &'static str,
}

impl Goal {
    /// Says no as well where nothing was measured.
    pub(crate) fn is_met(&self) -> bool {
        self.found <= self.bound
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_met() { "met" } else { "MISSED" };
        let Self {
            what,
            found,
            bound,
            unit,
        } = self;
        write!(
            f,
            "{verdict:7}{what}: {found:.2} {unit}, wanted at most {bound:.2}"
        )
    }
}

/// Fails when one of them is missed.
pub(crate) fn expect(goals: &[Goal]) -> anyhow::Result<()> {
    let missed: Vec<String> = goals
        .iter()
        .filter(|goal| !goal.is_met())
        .map(|goal| goal.what.clone())
        .collect();
    anyhow::ensure!(missed.is_empty(), "missed: {}", missed.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_at_its_bound_and_missed_without_a_figure() {
        let goal = |found| Goal {
            what: "x".into(),
            found,
            bound: 1.2,
            unit: "s",
        };
        assert!(goal(1.2).is_met() && !goal(1.21).is_met() && !goal(f64::NAN).is_met());
        let error = expect(&[goal(1.0), goal(2.0)]).expect_err("one is missed");
        assert_eq!(error.to_string(), "missed: x");
        assert!(goal(2.0).to_string().starts_with("MISSED x: 2.00 s"));
    }
}
