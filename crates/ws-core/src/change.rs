//! The difference between two plans: what it takes to come from one to the other while the stack runs.

use std::collections::BTreeMap;

use ws_model::{PlanLine, ServiceName};

use crate::plan::Plan;

/// What it takes to make a unit what another plan says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnitChange {
    /// Only what the engine and the host read anew at each use: links, limits, probes, ports, restart policy.
    Live,
    /// The same, and its run is another: it is started again in its place.
    Restart,
    /// What it sees is another, or where it is: it is stopped, gets another place, and is started again.
    Replace,
    /// It was not there.
    Add,
    /// It is not there any more.
    Remove,
}

/// What is different between two plans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The units that are touched; the others are the same.
    pub units: BTreeMap<ServiceName, UnitChange>,
    /// Whether what runs elsewhere is another.
    pub external: bool,
    /// What is different, for people, in order of services.
    pub lines: Vec<PlanLine>,
}

impl Change {
    /// Whether some service gets rights that it had not.
    #[must_use]
    pub fn widens(&self) -> bool {
        self.lines.iter().any(|line| line.widens)
    }

    /// Whether it cannot be carried out while the stack runs.
    #[must_use]
    pub fn needs_down(&self) -> bool {
        self.lines.iter().any(|line| line.effect == ws_model::PlanEffect::Down)
    }

    /// Whether nothing is different.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.units.is_empty() && !self.external && self.lines.is_empty()
    }
}

/// What is different.
#[must_use]
pub fn between(running: &Plan, wanted: &Plan) -> Change {
    let mut change = Change::default();
    for name in running.services.keys().filter(|name| !wanted.services.contains_key(*name)) {
        change.units.insert(name.clone(), UnitChange::Remove);
    }
    for (name, service) in &wanted.services {
        match running.services.get(name) {
            None => drop(change.units.insert(name.clone(), UnitChange::Add)),
            Some(same) if same == service => {}
            Some(_) => drop(change.units.insert(name.clone(), UnitChange::Replace)),
        }
    }
    change
}
