//! Checks of systemd's units.

use super::bus::{Systemd, UnitState};
use super::look::{Ailment, Look};

/// A unit that has to be active, and to stay so.
#[derive(Debug)]
pub(super) struct UnitWatch {
    unit: String,
    /// Its run when it was last seen active: one that died and came back
    /// between two looks did not hold in between.
    seen: Option<Vec<u8>>,
}

impl UnitWatch {
    /// Returns a watch that has not looked yet.
    pub(super) const fn new(unit: String) -> Self {
        Self { unit, seen: None }
    }

    /// Looks at the unit.
    pub(super) async fn look(&mut self, systemd: &Systemd) -> Look {
        match systemd.unit(&self.unit).await {
            Ok(state) => self.judge(state),
            Err(error) => Look::failed(&error),
        }
        .blaming(Some(&self.unit))
    }

    fn judge(&mut self, state: UnitState) -> Look {
        let UnitState {
            active,
            sub,
            invocation,
        } = state;
        // A reload keeps the run, and the unit at work.
        if active != "active" && active != "reloading" {
            return Look::ill(format!("{} is {active} ({sub}), not active", self.unit));
        }
        match self.seen.replace(invocation.clone()) {
            Some(seen) if seen != invocation => {
                Look::ill(format!("{} was started anew", self.unit))
            }
            Some(_) | None => Look::Well,
        }
    }
}

/// Looks whether any unit failed.
pub(super) async fn look_for_failed(systemd: &Systemd) -> Look {
    match systemd.failed_units().await {
        Ok(failed) => judge_failed(&failed),
        Err(error) => Look::failed(&error),
    }
}

fn judge_failed(failed: &[String]) -> Look {
    let Some(first) = failed.first() else {
        return Look::Well;
    };
    Look::Ill(Ailment {
        unit: Some(first.clone()),
        reason: format!("failed units: {}", failed.join(", ")),
        lines: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(active: &str, invocation: u8) -> UnitState {
        UnitState {
            active: active.to_owned(),
            sub: "running".to_owned(),
            invocation: vec![invocation; 16],
        }
    }

    #[test]
    fn a_unit_that_was_started_anew_between_two_looks_did_not_hold() {
        let mut watch = UnitWatch::new("web.service".to_owned());
        assert_eq!(watch.judge(state("active", 1)), Look::Well);
        assert_eq!(watch.judge(state("reloading", 1)), Look::Well);
        assert_eq!(
            watch.judge(state("active", 2)),
            Look::ill("web.service was started anew")
        );
        assert_eq!(watch.judge(state("active", 2)), Look::Well);
    }

    #[test]
    fn only_active_is_active() {
        let mut watch = UnitWatch::new("web.service".to_owned());
        for active in [
            "inactive",
            "failed",
            "activating",
            "deactivating",
            "maintenance",
        ] {
            assert_eq!(
                watch.judge(state(active, 1)),
                Look::ill(format!("web.service is {active} (running), not active"))
            );
        }
    }

    #[test]
    fn the_first_failed_unit_is_to_blame() {
        let failed = ["a.service".to_owned(), "b.mount".to_owned()];
        let Look::Ill(ailment) = judge_failed(&failed) else {
            panic!("it is ill")
        };
        assert_eq!(ailment.unit.as_deref(), Some("a.service"));
        assert_eq!(ailment.reason, "failed units: a.service, b.mount");
        assert_eq!(judge_failed(&[]), Look::Well);
    }
}
