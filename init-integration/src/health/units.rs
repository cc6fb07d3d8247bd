//! Checks of systemd's units.

use super::bus::{BusError, ListedState, Systemd, UnitState};
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

/// The gate's own unit, which is starting for as long as the gate looks. What is ordered
/// after the verdict has not begun to start.
const GATE: &str = "bistable-health-gate.service";

/// Looks whether any unit failed, or ends and is started again all the time.
pub(super) async fn look_for_failed(systemd: &Systemd) -> Look {
    match systemd.units_in(&["failed", "activating"]).await {
        Ok(units) => judge_failed(&units),
        Err(error) => Look::failed(&error),
    }
}

fn judge_failed(units: &[ListedState]) -> Look {
    let failed: Vec<&str> = names(units, |unit| unit.active == "failed");
    let ended: Vec<&str> = names(units, |unit| unit.sub.starts_with("auto-restart"));
    let Some(first) = failed.first().or(ended.first()) else {
        return Look::Well;
    };
    let told = [
        ("failed units", &failed),
        ("ended, to be started again", &ended),
    ]
    .into_iter()
    .filter(|(_, units)| !units.is_empty())
    .map(|(what, units)| format!("{what}: {}", units.join(", ")))
    .collect::<Vec<_>>();
    Look::Ill(Ailment {
        unit: Some((*first).to_owned()),
        reason: told.join("; "),
        lines: Vec::new(),
    })
}

/// Looks whether any unit is on its way: a node is not good while it is not known
/// what becomes of it.
pub(super) async fn look_for_starting(systemd: &Systemd) -> Look {
    let asked = async {
        let units = systemd.units_in(&["activating", "deactivating"]).await?;
        // A device that is waited for is in no state of its own.
        Ok::<_, BusError>((units, systemd.units_at_work().await?))
    };
    match asked.await {
        Ok((units, at_work)) => judge_starting(&units, &at_work),
        Err(error) => Look::failed(&error),
    }
}

fn judge_starting(units: &[ListedState], at_work: &[String]) -> Look {
    // systemd takes a device that is mounted and that udev has not announced for
    // one on its way, for ever.
    let starting = names(units, |unit| {
        unit.active == "activating" && !unit.unit.ends_with(".device")
    });
    let stopping = names(units, |unit| unit.active == "deactivating");
    let at_work = at_work.iter().map(String::as_str);
    let mut awaited: Vec<&str> = Vec::new();
    for unit in starting.into_iter().chain(at_work).chain(stopping) {
        if unit != GATE && !awaited.contains(&unit) {
            awaited.push(unit);
        }
    }
    match awaited.first() {
        None => Look::Well,
        Some(first) => Look::Working {
            unit: Some((*first).to_owned()),
            what: format!("still starting: {}", awaited.join(", ")),
        },
    }
}

fn names(units: &[ListedState], are: impl Fn(&ListedState) -> bool) -> Vec<&str> {
    let found = units.iter().filter(|unit| are(unit));
    found.map(|unit| unit.unit.as_str()).collect()
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

    fn listed(unit: &str, active: &str, sub: &str) -> ListedState {
        ListedState {
            unit: unit.to_owned(),
            active: active.to_owned(),
            sub: sub.to_owned(),
        }
    }

    #[test]
    fn the_first_failed_unit_is_to_blame() {
        let failed = [
            listed("a.service", "activating", "auto-restart"),
            listed("b.service", "failed", "failed"),
            listed("c.mount", "failed", "failed"),
        ];
        let Look::Ill(ailment) = judge_failed(&failed) else {
            panic!("it is ill")
        };
        assert_eq!(ailment.unit.as_deref(), Some("b.service"));
        assert_eq!(
            ailment.reason,
            "failed units: b.service, c.mount; ended, to be started again: a.service"
        );
        assert_eq!(judge_failed(&[]), Look::Well);
    }

    #[test]
    fn a_unit_between_two_attempts_is_ill_and_one_in_its_first_is_not() {
        for sub in ["auto-restart", "auto-restart-queued"] {
            let Look::Ill(ailment) = judge_failed(&[listed("web.service", "activating", sub)])
            else {
                panic!("it is ill")
            };
            assert_eq!(ailment.unit.as_deref(), Some("web.service"));
        }
        let first = [listed("web.service", "activating", "start")];
        assert_eq!(judge_failed(&first), Look::Well);
    }

    #[test]
    fn the_gate_and_devices_that_udev_does_not_know_hold_nobody_up() {
        let units = [
            listed("bistable-health-gate.service", "activating", "start"),
            listed("dev-root.device", "activating", "tentative"),
        ];
        let at_work = ["bistable-health-gate.service".to_owned()];
        assert_eq!(judge_starting(&units, &at_work), Look::Well);
    }

    #[test]
    fn what_starts_is_named_before_what_stops_and_each_once() {
        let units = [
            listed("a.service", "deactivating", "stop-post"),
            listed("web.service", "activating", "start"),
        ];
        let at_work = ["dev-sdz.device".to_owned(), "web.service".to_owned()];
        let expected = Look::Working {
            unit: Some("web.service".to_owned()),
            what: "still starting: web.service, dev-sdz.device, a.service".to_owned(),
        };
        assert_eq!(judge_starting(&units, &at_work), expected);
    }
}
