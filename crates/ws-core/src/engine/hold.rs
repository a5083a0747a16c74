//! Connections to published ports wait while a run is replaced.
//!
//! Follows from the states alone, once at the end of each step: [`Effect::Hold`] when an executed run has ended or
//! begins to end and another follows, [`Effect::Release`] when that one is ready or there will be none. The two
//! alternate for each service, `Hold` first; a service with neither published ports nor listening sockets has neither.

use ws_model::RestartPolicy;

use super::service::{Health, Place, State, Then, Unit};
use super::{Effect, Engine, Outcome};

impl Engine {
    pub(super) fn hold_connections(&mut self, out: &mut Outcome) {
        for unit in self.units.iter_mut().filter(|unit| unit.publishes || unit.holding) {
            let is_there = unit.place == Place::There;
            let hold = unit.publishes && is_there && unit.is_between_runs();
            // What worked before its place is another is remembered, for the connections to the next place.
            if is_there {
                unit.worked = unit.state.live().filter(|_| unit.run.since.is_some());
            }
            let service = unit.name.clone();
            match (std::mem::replace(&mut unit.holding, hold), hold) {
                // Before anything ends.
                (false, true) => out.effects.insert(0, Effect::Hold { service }),
                (true, false) if !is_there => out.effects.insert(0, Effect::Release { service }),
                (true, false) => out.effects.push(Effect::Release { service }),
                (false, false) | (true, true) => {}
            }
        }
    }
}

impl Unit {
    /// Whether an executed run of it is over or ends, and the next one is not ready yet but will be there.
    fn is_between_runs(&self) -> bool {
        let replaced = self.worked.is_some() && self.worked != self.state.live();
        match &self.state {
            State::Ending { then: Then::Restart, .. } => self.holding || self.run.since.is_some(),
            State::Ending { then: Then::Fail, .. } => {
                let follows = match self.restart.policy {
                    RestartPolicy::No => false,
                    RestartPolicy::OnFailure | RestartPolicy::Always => {
                        self.restart.max.is_none_or(|max| self.streak < max)
                    }
                };
                (follows || self.is_overlapping()) && (self.holding || self.run.since.is_some())
            }
            State::Backoff { .. }
            | State::Waiting
            | State::Looking { .. }
            | State::Starting { .. }
            | State::Up { health: Health::Unready { .. }, .. } => self.holding || replaced,
            State::Up { health: Health::Ready { .. } | Health::Unhealthy, .. }
            | State::Ending { then: Then::Stop | Then::Exit | Then::Violate, .. }
            | State::Pending
            | State::Stopped
            | State::Exited
            | State::Failed { .. }
            | State::Blocked { .. } => false,
        }
    }
}
