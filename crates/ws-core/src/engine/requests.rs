//! What somebody asks for.

use std::collections::BTreeSet;

use ws_model::{Cause, Condition, EventKind, Reason, ServiceName};

use super::service::{State, Then, Unit, WaitOn};
use super::{Engine, GOES_DOWN, Goal, Outcome, Tick};
use crate::plan::{ServicePlan, Wait};

/// What a request without a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nameless {
    /// Every service of the plan: what was added comes and goes with whoever added it.
    Planned,
    /// Everything.
    All,
}

impl Engine {
    /// The services with these names, in their own order; a name that the file gives to several means all of them.
    pub(super) fn chosen(&self, services: &[ServiceName], nameless: Nameless) -> Vec<usize> {
        if services.is_empty() {
            let means = |unit: &Unit| nameless == Nameless::All || !unit.added;
            return (0..self.units.len()).filter(|i| means(&self.units[*i])).collect();
        }
        let chosen: BTreeSet<usize> = services.iter().flat_map(|name| self.named(name)).collect();
        chosen.into_iter().collect()
    }

    /// The service with this name; where there is none, its replicas.
    pub(super) fn named(&self, name: &ServiceName) -> Vec<usize> {
        match self.number(name) {
            Some(i) => vec![i],
            None => {
                let is_replica = |unit: &Unit| !unit.added && unit.declared == *name;
                (0..self.units.len()).filter(|i| is_replica(&self.units[*i])).collect()
            }
        }
    }

    /// These and all that they wait for; only for what they cannot do without, if `required`.
    pub(super) fn closure(&self, of: &[usize], required: bool) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut todo = of.to_vec();
        while let Some(i) = todo.pop() {
            if found.insert(i) {
                let waits = self.units[i].waits.iter().filter(|wait| wait.required || !required);
                todo.extend(waits.map(|wait| wait.on).filter(|on| !self.units[*on].is_leaving()));
            }
        }
        found
    }

    pub(super) fn up(&mut self, services: &[ServiceName], now: Tick, out: &mut Outcome) {
        if self.refuse_when_going_down(out) {
            out.events.push((None, EventKind::WorkspaceFailed { cause: GOES_DOWN.to_owned() }));
            return;
        }
        self.everything |= services.is_empty();
        let mut asked = self.chosen(services, Nameless::Planned);
        asked.retain(|i| !self.units[*i].is_leaving());
        let mut begun = Vec::new();
        for i in self.closure(&asked, false) {
            let by_name = !services.is_empty() && asked.contains(&i);
            let waited = self.units[i].state == State::Waiting;
            self.want(i, by_name, out);
            if !waited && self.units[i].state == State::Waiting {
                begun.push(i);
            }
        }
        // Before anything is started: what is bound to a run that is replaced is not there for those that start now.
        for i in begun {
            self.end_bound(i, now, out);
        }
        let members = self.closure(&asked, true);
        if !self.goals.iter().any(|goal| goal.members == members) {
            self.goals.push(Goal { members, since: now });
        }
    }

    pub(super) fn stop(&mut self, services: &[ServiceName], now: Tick, out: &mut Outcome) {
        self.everything &= !services.is_empty();
        for i in self.chosen(services, Nameless::All) {
            self.units[i].wanted = false;
            let cause = Cause::new(Reason::Requested, "was asked to stop");
            self.end(i, Then::Stop, cause, false, now, out);
        }
    }

    pub(super) fn kill_on_request(&mut self, services: &[ServiceName], now: Tick, out: &mut Outcome) {
        self.everything &= !services.is_empty();
        for i in self.chosen(services, Nameless::All) {
            self.units[i].wanted = false;
            let cause = Cause::new(Reason::Requested, "was killed on request");
            self.end(i, Then::Stop, cause, true, now, out);
        }
    }

    pub(super) fn restart(&mut self, services: &[ServiceName], now: Tick, out: &mut Outcome) {
        if self.refuse_when_going_down(out) {
            return;
        }
        let mut asked = self.chosen(services, Nameless::Planned);
        asked.retain(|i| !self.units[*i].is_leaving());
        if services.is_empty() {
            // What nobody ever asked for stays away, and what is completed stays completed.
            asked.retain(|i| match &self.units[*i].state {
                State::Pending => false,
                State::Exited => !self.units[*i].completes,
                State::Waiting
                | State::Looking { .. }
                | State::Starting { .. }
                | State::Up { .. }
                | State::Ending { .. }
                | State::Backoff { .. }
                | State::Stopped
                | State::Failed { .. }
                | State::Blocked { .. } => true,
            });
        }
        let mut begun = Vec::new();
        for i in self.closure(&asked, false) {
            if !asked.contains(&i) {
                let waited = self.units[i].state == State::Waiting;
                self.want(i, false, out);
                if !waited && self.units[i].state == State::Waiting {
                    begun.push(i);
                }
            }
        }
        // What is bound to one that starts ends in any case: then it has no other run beside it.
        for i in begun {
            self.end_bound(i, now, out);
        }
        let cause = Cause::new(Reason::Requested, "was asked to restart");
        for i in asked.iter().copied() {
            self.units[i].wanted = true;
            match &self.units[i].state {
                State::Waiting => {}
                State::Up { .. } if self.can_overlap(i) => self.overlap(i, cause.clone()),
                State::Looking { .. } | State::Starting { .. } | State::Up { .. } | State::Ending { .. } => {
                    self.end(i, Then::Restart, cause.clone(), false, now, out);
                }
                State::Backoff { .. } => {
                    self.units[i].streak = 0;
                    self.start_again(i, cause.clone());
                }
                State::Pending => self.begin(i),
                State::Stopped | State::Exited | State::Failed { lost: None } | State::Blocked { .. } => {
                    self.begin(i);
                    self.start_again(i, cause.clone());
                }
                State::Failed { lost: Some(_) } => {}
            }
        }
        // After those that were asked for, so that each of these has the nearer cause; and before anything is signalled
        // or started, so that the order is that of one stop.
        for i in asked {
            let unit = &self.units[i];
            if !matches!(unit.state, State::Failed { lost: Some(_) }) && unit.overlap_due.is_none() {
                self.end_bound(i, now, out);
            }
        }
    }

    pub(super) fn down(&mut self, at_once: bool, now: Tick, out: &mut Outcome) {
        self.going_down = true;
        for _ in std::mem::take(&mut self.goals) {
            out.events.push((None, EventKind::WorkspaceFailed { cause: GOES_DOWN.to_owned() }));
        }
        for i in 0..self.units.len() {
            self.units[i].wanted = false;
            self.end(i, Then::Stop, Cause::new(Reason::Shutdown, GOES_DOWN), at_once, now, out);
        }
        self.change_no_more(now);
    }

    fn refuse_when_going_down(&self, out: &mut Outcome) -> bool {
        if self.going_down {
            let text = format!("{GOES_DOWN}: nothing is started any more");
            out.events.push((None, EventKind::Notice { text }));
        }
        self.going_down
    }

    /// Wants a service up, and starts it where it is down. A task that is completed runs again only when
    /// it is named.
    pub(super) fn want(&mut self, i: usize, by_name: bool, out: &mut Outcome) {
        let unit = &mut self.units[i];
        if unit.is_leaving() {
            return;
        }
        unit.wanted = true;
        match &mut unit.state {
            State::Pending | State::Stopped | State::Failed { lost: None } | State::Blocked { .. } => {
                self.begin(i);
            }
            State::Exited => {
                // What a build made may be old by now, and to see that costs little.
                if by_name || !unit.completes || unit.is_build {
                    self.begin(i);
                }
            }
            State::Ending { then, .. } => match then {
                Then::Stop | Then::Violate => {
                    *then = Then::Restart;
                    unit.again = Some(Cause::new(Reason::Requested, "was asked for again"));
                }
                Then::Restart | Then::Fail => {}
                Then::Exit => {
                    if by_name || !unit.completes {
                        *then = Then::Restart;
                        unit.again = Some(Cause::new(Reason::Requested, "was asked for again"));
                    }
                }
            },
            State::Failed { lost: Some(_) } => {
                let text = format!("{} cannot be started: {}", unit.name, unit.cause.text);
                out.events.push((Some(unit.name.clone()), EventKind::Notice { text }));
            }
            State::Up { .. } => {
                // The new run that its plan asks for failed; now what it needs may be there.
                let outdated = unit.run.outdated.clone().filter(|_| !unit.is_overlapping());
                if let Some(cause) = outdated {
                    self.overlap(i, cause);
                }
            }
            State::Waiting | State::Looking { .. } | State::Starting { .. } | State::Backoff { .. } => {}
        }
    }

    /// From the beginning, with a fresh restart policy.
    pub(super) fn begin(&mut self, i: usize) {
        let unit = &mut self.units[i];
        unit.streak = 0;
        unit.exit = None;
        unit.again = None;
        self.wait_quietly(i);
    }

    pub(super) fn start_again(&mut self, i: usize, cause: Cause) {
        self.units[i].restarts += 1;
        self.units[i].again = Some(cause);
        self.wait_quietly(i);
    }

    // ---- services that come and go

    pub(super) fn add(&mut self, service: ServicePlan) {
        if self.numbers.contains_key(&service.name) {
            return;
        }
        let i = self.units.len();
        let mut unit = Unit::new(&service);
        unit.added = true;
        unit.generation = self.last_removed;
        self.numbers.insert(service.name.clone(), i);
        self.units.push(unit);
        self.wire(i, &service.waits);
        self.plan.services.insert(service.name.clone(), service);
    }

    /// Writes down anew what each unit waits on: plans are others. What a run was started with stays.
    pub(super) fn rewire(&mut self) {
        let had = |unit: &Unit| -> Vec<ServiceName> {
            let waits = unit.waits.iter().filter(|wait| wait.had);
            waits.map(|wait| self.units[wait.on].name.clone()).collect()
        };
        let had: Vec<Vec<ServiceName>> = self.units.iter().map(had).collect();
        let waits_of = |unit: &Unit| {
            self.plan.services.get(&unit.name).map(|plan| plan.waits.clone()).unwrap_or_default()
        };
        let waits: Vec<Vec<Wait>> = self.units.iter().map(waits_of).collect();
        for unit in &mut self.units {
            unit.waits.clear();
            unit.dependents.clear();
            unit.completes = !unit.ready_at_exec;
        }
        for (i, waits) in waits.iter().enumerate() {
            self.wire(i, waits);
        }
        for (i, had) in had.iter().enumerate() {
            for number in 0..self.units[i].waits.len() {
                let on = self.units[i].waits[number].on;
                self.units[i].waits[number].had = had.contains(&self.units[on].name);
            }
        }
        self.dirty.extend(0..self.units.len());
    }

    /// Writes down what a service waits on.
    pub(super) fn wire(&mut self, i: usize, waits: &[Wait]) {
        for wait in waits {
            let Some(on) = self.number(&wait.on) else { continue };
            self.units[on].completes |= wait.condition == Condition::Completed;
            let (condition, required, bound) = (wait.condition, wait.required, wait.restart);
            self.units[i].waits.push(WaitOn { on, condition, required, bound, had: false });
            if !self.units[on].dependents.contains(&i) {
                self.units[on].dependents.push(i);
            }
        }
    }

    pub(super) fn remove(&mut self, service: &ServiceName) {
        let Some(gone) = self.number(service) else { return };
        let unit = &self.units[gone];
        let lost = matches!(unit.state, State::Failed { lost: Some(_) });
        if !unit.added || !unit.is_settled() || lost || !unit.dependents.is_empty() {
            return;
        }
        self.forget(gone);
    }

    /// A unit that has no run is not there any more.
    pub(super) fn forget(&mut self, gone: usize) {
        let unit = &self.units[gone];
        // One who comes later under this name must not be taken for this one by late news.
        self.last_removed = self.last_removed.max(unit.generation).max(unit.highest);
        self.numbers.remove(&unit.name);
        self.plan.services.remove(&unit.name);
        self.units.remove(gone);
        // Those behind it move up by one. It is rare, and there are few.
        let moved = |i: usize| if i > gone { i - 1 } else { i };
        for number in self.numbers.values_mut() {
            *number = moved(*number);
        }
        for unit in &mut self.units {
            unit.dependents.retain(|d| *d != gone);
            unit.waits.retain(|wait| wait.on != gone);
            for dependent in &mut unit.dependents {
                *dependent = moved(*dependent);
            }
            for wait in &mut unit.waits {
                wait.on = moved(wait.on);
            }
        }
        for goal in &mut self.goals {
            goal.members = goal.members.iter().copied().filter(|i| *i != gone).map(moved).collect();
        }
        self.dirty = self.dirty.iter().copied().filter(|i| *i != gone).map(moved).collect();
    }
}
